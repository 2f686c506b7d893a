"""Matrix products by NVIDIA's cuBLAS, where it is installed; called by ctypes.

cuBLAS takes matrices in column-major order, and so sees a row-major matrix as its transpose: C = A B in row-major order
is computed as C^T = B^T A^T (cuBLAS documentation, sections 1.1 and 2.7.1).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

from minirnn.errors import DeviceError
from minirnn.kernels.cuda.array import DeviceArray
from minirnn.kernels.cuda.jit import SIMULATOR

_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_SIZES = [_POINTER, *5 * [_INT], _POINTER]  # handle, transb, transa, n, m, k, alpha
ARGUMENTS = {
    "gemm": [*_SIZES, *2 * [_POINTER, _INT], _POINTER, _POINTER, _INT],
    "gemmStridedBatched": [*_SIZES, *2 * [_POINTER, _INT, _LONG], _POINTER, _POINTER, _INT, _LONG, _INT],
}
"""Parameter types of the functions used, by their name without type and version."""

_NUMBERS = {4: ("S", ctypes.c_float), 8: ("D", ctypes.c_double)}

_lock = threading.Lock()  # a handle must not be used by two threads at a time


@functools.cache
def _library() -> Any:
    """The library, or None; looked up by the package that numba-cuda finds its own libraries with."""
    if SIMULATOR:
        return None
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:  # a version of numba-cuda without that package
        return None
    try:
        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except DynamicLibNotFoundError:
        return None


def available() -> bool:
    """Whether cuBLAS is installed."""
    return _library() is not None


@functools.cache
def _handle() -> Any:
    """cuBLAS's state. It launches on the default stream, as all kernels of this package."""
    handle = _POINTER()
    _check(_library().cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
    return handle


@functools.cache
def _function(name: str, itemsize: int) -> Any:
    full = f"cublas{_NUMBERS[itemsize][0]}{name}"
    function = getattr(_library(), full if "Batched" in name else f"{full}_v2")
    function.argtypes = ARGUMENTS[name]
    return function


def _check(status: int, what: str) -> None:
    if status:
        raise DeviceError(
            f"device 'cuda': {what} failed with status {status}; cuBLAS (extra cublas12 or cublas13) must be for the "
            "CUDA version of numba-cuda (cuda12 or cuda13). Without cuBLAS, minirnn uses a kernel of its own"
        )


def gemm(
    out: DeviceArray,
    a: DeviceArray,
    b: DeviceArray,
    transpose_a: bool = False,
    transpose_b: bool = False,
    add: bool = False,
    column: int = 0,
) -> None:
    """out = A B, or out + A B with ``add``; shapes as those of :meth:`minirnn.kernels.contract.Backend.gemm`.

    All three arrays may have a leading batch dimension. No extent may be 0. With ``transpose_a`` the columns of ``a``
    from ``column`` on are used.
    """
    rows, columns = out.shape[-2:]
    depth = a.shape[-2] if transpose_a else a.shape[-1]
    number = _NUMBERS[out.itemsize][1]
    alpha, beta = number(1), number(1 if add else 0)
    first, second = _address(b), _address(a) + column * a.itemsize  # transposed, as above
    sizes = _handle(), int(transpose_b), int(transpose_a), columns, rows, depth, ctypes.byref(alpha)
    operands: list[Any]
    if out.ndim == 2:
        name, operands = "gemm", [first, b.shape[-1], second, a.shape[-1]]
        result = [ctypes.byref(beta), _address(out), columns]
    else:
        name, count = "gemmStridedBatched", out.shape[0]
        operands = [first, b.shape[-1], b.size // count, second, a.shape[-1], a.size // count]
        result = [ctypes.byref(beta), _address(out), columns, rows * columns, count]
    with _lock:
        status = _function(name, out.itemsize)(*sizes, *operands, *result)
    _check(status, "a matrix product by cuBLAS")


def _address(x: DeviceArray) -> int:
    return x.raw.ctypes.data if SIMULATOR else x.__cuda_array_interface__["data"][0]
