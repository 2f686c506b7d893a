"""``numba.njit`` as this project uses it: no GIL, NumPy's error model, compiled code cached on disk.

Jitted functions have no type annotations: Numba infers the types from the arguments of a call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

from minirnn.kernels.cache import KernelCache

DISABLED: bool = bool(config.DISABLE_JIT)
"""True under ``NUMBA_DISABLE_JIT=1``: kernels run as plain Python, for coverage and debuggers."""


class _Helper(CPUDispatcher):
    """A function that kernels are linked with; a call from Python runs it as plain Python."""

    def __call__(self, *args: Any) -> Any:
        return self.py_func(*args)

    def add_overload(self, result: Any) -> None:
        result.library._ensure_finalized()
        result = result._replace(entry_point=object())  # Numba knows compiled functions by it; there is no machine code
        self.targetctx.insert_user_function(result.entry_point, result.fndesc, [result.library])
        self.overloads[tuple(result.signature.args)] = result


class _HelperLibrary(JITCodeLibrary):
    """Optimised code in LLVM's form, of which no machine code is made before a kernel is linked with it."""

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _HelperCompiler(Compiler):
    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing_context, target_context, _HelperLibrary(target_context.codegen(), "helper"), *rest)
        self.state.flags.no_compile = True


def jit(
    function: Callable | None = None, *, reassociate: bool = False, inline: bool = False, from_python: bool = True
) -> Any:
    """Compile ``function`` at its first call, once for each combination of argument types.

    Args:
        reassociate: let the compiler reorder sums, so that reductions vectorise. NaN and infinity are kept.
        inline: for helpers, which become a part of the kernels that call them and need no cache entry; called from
            Python they run as plain Python.
        from_python: False where only other kernels can call it: code that takes Python's arguments is left out.
    """
    if function is None:
        return functools.partial(jit, reassociate=reassociate, inline=inline, from_python=from_python)
    if DISABLED:
        return function if inline else _ignore_fp_errors(function)
    options = {
        "nopython": True,
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "nsz"} | ({"reassoc"} if reassociate else set()),
        "forceinline": inline,
        "no_cpython_wrapper": inline or not from_python,
        "no_cfunc_wrapper": True,
    }
    if inline:
        return _Helper(function, targetoptions=options, pipeline_class=_HelperCompiler)
    dispatcher = CPUDispatcher(function, targetoptions=options)
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
