"""Creating arrays on the GPU: filled, copied from the host, or sharing another library's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.errors import DTypeError, ShapeError
from minirnn.kernels.contract import DType
from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.jit import SIMULATOR, Array, Number, cuda, kernel
from minirnn.kernels.cuda.launch import launch
from minirnn.kernels.cuda.memory import Block


@kernel
def _fill(out: Array, value: Number) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = value


def full(shape: Sequence[int], value: complex, dtype: DType) -> DeviceArray:
    """An array of one number, which gets to the GPU as an argument of a kernel."""
    out = empty(shape, dtype)
    if out.size:
        launch(_fill, out.size, out.flat, out.dtype.type(value))
    return out


def zeros(shape: Sequence[int], dtype: DType) -> DeviceArray:
    return full(shape, 0, dtype)


def zeros_like(x: DeviceArray) -> DeviceArray:
    return full(x.shape, 0, x.dtype)


def ones_like(x: DeviceArray) -> DeviceArray:
    return full(x.shape, 1, x.dtype)


def check_dtype(dtype: np.dtype) -> None:
    """Raise :class:`DTypeError` for element types that kernels do not have."""
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
        raise DTypeError(f"device 'cuda': expected float32, float64, an integer type or bool, got {dtype}")


def _share(raw: Any, owner: object) -> DeviceArray:
    """Another library's array: its memory is shared, and kept alive."""
    check_dtype(raw.dtype)
    if not raw.is_c_contiguous():
        raise ShapeError(
            f"device 'cuda': expected a C-contiguous array, got {list(raw.shape)} with gaps; copy it first"
        )
    block = Block(raw.reshape(raw.size).view(np.uint8), owner) if raw.size else None
    return DeviceArray(block, 0, tuple(raw.shape), raw.dtype)


def asarray(values: object, dtype: DType | None = None) -> DeviceArray:
    """Values of the host are copied; an array with ``__cuda_array_interface__`` that is C-contiguous shares its memory.

    Raises:
        DTypeError: the elements are not floats of 4 or 8 bytes, integers or booleans.
        ShapeError: another library's array is not C-contiguous.
    """
    if not isinstance(values, DeviceArray) and (
        hasattr(values, "__cuda_array_interface__") or getattr(values, "__cuda_ndarray__", False)
    ):
        values = _share(values if SIMULATOR else cuda.as_cuda_array(values), values)
    if isinstance(values, DeviceArray):
        return values if dtype is None else values.astype(dtype, copy=False)
    host = np.asarray(values, dtype, order="C")
    check_dtype(host.dtype)
    if host.size == 1:
        return full(host.shape, host.item(), host.dtype)
    out = empty(host.shape, host.dtype)
    if host.size:
        out.flat.raw.copy_to_device(host.reshape(-1))  # flat: Numba fails at the strides of extents of 1
    return out


def to_numpy(x: DeviceArray) -> np.ndarray:
    """Waits for the GPU."""
    return x.numpy()
