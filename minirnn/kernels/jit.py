"""``numba.njit`` as this project uses it: no GIL, NumPy's error model, compiled code kept on disk."""

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


def jit(function: Callable | None = None, *, reassociate: bool = False, inline: bool = False) -> Any:
    """Compile ``function`` at its first call, once per argument types.

    Args:
        reassociate: let sums be reordered, so that reductions vectorise. NaN and infinity are kept.
        inline: a scalar or helper that is only called from other kernels; it needs no cache entry.
    """
    if function is None:
        return functools.partial(jit, reassociate=reassociate, inline=inline)
    if DISABLED:
        return function if inline else _without_warnings(function)
    fastmath = {"contract", "nsz"} | ({"reassoc"} if reassociate else set())
    dispatcher = numba.njit(nogil=True, error_model="numpy", fastmath=fastmath, forceinline=inline)(function)
    if not inline:
        dispatcher._cache = KernelCache(dispatcher.py_func)
    return dispatcher


def _without_warnings(kernel: Callable) -> Callable:
    """Compiled code divides by zero in silence; as plain Python, on NumPy's numbers, it shall too."""

    @functools.wraps(kernel)
    def quiet(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return kernel(*args)

    return quiet
