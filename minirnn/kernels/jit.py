"""``numba.njit`` as this project uses it: no GIL, NumPy's error model, compiled code cached on disk.

Jitted functions have no type annotations: Numba infers the types from the arguments of a call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import config

from minirnn.kernels.cache import KernelCache

DISABLED: bool = bool(config.DISABLE_JIT)
"""True under ``NUMBA_DISABLE_JIT=1``: kernels run as plain Python, for coverage and debuggers."""


def jit(
    function: Callable | None = None, *, reassociate: bool = False, inline: bool = False, from_python: bool = True
) -> Any:
    """Compile ``function`` at its first call, once for each combination of argument types.

    Args:
        reassociate: let the compiler reorder sums, so that reductions vectorise. NaN and infinity are kept.
        inline: for helpers that only other kernels call; they need no cache entry.
        from_python: False where only other kernels can call it: code that takes Python's arguments is left out.
    """
    if function is None:
        return functools.partial(jit, reassociate=reassociate, inline=inline, from_python=from_python)
    if DISABLED:
        return function if inline else _ignore_fp_errors(function)
    fastmath = {"contract", "nsz"} | ({"reassoc"} if reassociate else set())
    dispatcher = numba.njit(
        nogil=True,
        error_model="numpy",
        fastmath=fastmath,
        forceinline=inline,
        no_cpython_wrapper=not from_python,
        no_cfunc_wrapper=True,
    )(function)
    if not inline:
        dispatcher._cache = KernelCache(dispatcher.py_func)
    return dispatcher


def _ignore_fp_errors(kernel: Callable) -> Callable:
    """``kernel`` without NumPy's warnings: compiled code divides by zero silently, and so must plain Python."""

    @functools.wraps(kernel)
    def silent(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return kernel(*args)

    return silent


@jit(inline=True)
def chunk_of(count, thread_id, num_threads):  # type: ignore[no-untyped-def]
    """The part of ``range(count)`` that belongs to one of several threads, as its first and end."""
    return thread_id * count // num_threads, (thread_id + 1) * count // num_threads
