"""Products by NVIDIA's cuBLAS, where that library is installed: the few of its functions that are needed, by ctypes.

Its matrices lie by columns. One that lies by rows is, read so, its own transpose; hence C = A B, all by rows, is asked
for as C^T = B^T A^T (cuBLAS library, documentation, sections 1.1 and 2.7.1).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

from minirnn.errors import DeviceError
from minirnn.kernels.cuda.device import DeviceArray
from minirnn.kernels.cuda.jit import SIMULATOR

_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
_ARGUMENTS = {
    "gemm": [_POINTER, *5 * [_INT], *2 * [_POINTER], _INT, _POINTER, _INT, *2 * [_POINTER], _INT],
    "gemmStridedBatched": [
        _POINTER, *5 * [_INT], *2 * [_POINTER], _INT, ctypes.c_longlong, _POINTER, _INT, ctypes.c_longlong,
        *2 * [_POINTER], _INT, ctypes.c_longlong, _INT,
    ],
}  # fmt: skip
_NUMBERS = {4: ("S", ctypes.c_float), 8: ("D", ctypes.c_double)}

_turn = threading.Lock()  # a handle is one thread's at a time


@functools.cache
def _library() -> Any:
    """The library, or None; looked for by the package that numba-cuda finds its own libraries with."""
    if SIMULATOR:
        return None
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:  # numba-cuda with another way to its libraries
        return None
    try:
        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except DynamicLibNotFoundError:
        return None


def available() -> bool:
    """Whether the library is installed."""
    return _library() is not None


@functools.cache
def _handle() -> Any:
    """cuBLAS's state. It starts work on the default stream, where all kernels of this package are."""
    handle = _POINTER()
    _check(_library().cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
    return handle


@functools.cache
def _function(name: str, itemsize: int) -> Any:
    full = f"cublas{_NUMBERS[itemsize][0]}{name}"
    function = getattr(_library(), full if "Batched" in name else f"{full}_v2")
    function.argtypes = _ARGUMENTS[name]
    return function


def _check(status: int, what: str) -> None:
    if status:
        raise DeviceError(
            f"device 'cuda': {what} failed with status {status}; cuBLAS (extra cublas12 or cublas13) must be of the "
            "CUDA version of numba-cuda (cuda12 or cuda13). Uninstalled, it gives way to minirnn's own kernel"
        )


def multiply(
    out: DeviceArray, a: DeviceArray, b: DeviceArray, transpose_a: bool = False, transpose_b: bool = False,
    add: bool = False, column: int = 0,
) -> None:  # fmt: skip
    """out = A B, or out + A B with ``add``; shapes as :func:`minirnn.kernels.cuda.matrix.product` has them.

    All three may have a leading dimension of the same extent, over products of their own. No extent may be 0. With
    ``transpose_a`` the columns of ``a`` from ``column`` on are taken.
    """
    rows, columns = out.shape[-2:]
    depth = a.shape[-2] if transpose_a else a.shape[-1]
    number = _NUMBERS[out.itemsize][1]
    one, kept = number(1), number(1 if add else 0)
    first, second = _address(b), _address(a) + column * a.itemsize  # the other way round, as above
    width_b, width_a = b.shape[-1], a.shape[-1]
    shape = _handle(), int(transpose_b), int(transpose_a), columns, rows, depth, ctypes.byref(one)
    with _turn:
        if out.ndim == 2:
            status = _function("gemm", out.itemsize)(
                *shape, first, width_b, second, width_a, ctypes.byref(kept), _address(out), columns
            )
        else:
            count = out.shape[0]
            status = _function("gemmStridedBatched", out.itemsize)(
                *shape, first, width_b, b.size // count, second, width_a, a.size // count, ctypes.byref(kept),
                _address(out), columns, rows * columns, count,
            )  # fmt: skip
    _check(status, "a product by cuBLAS")


def _address(x: DeviceArray) -> int:
    return x.raw.ctypes.data if SIMULATOR else x.__cuda_array_interface__["data"][0]
