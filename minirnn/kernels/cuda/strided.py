"""Views and copies with NumPy's rules for slices, transposition and broadcasting.

NumPy itself works these out, on a *layout*: a NumPy array of the GPU array's shape whose strides count elements and
whose memory is never read. A contiguous layout becomes a view; for another one a kernel makes a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minirnn.errors import DeviceError, ShapeError
from minirnn.kernels.cuda.array import DeviceArray, empty, register
from minirnn.kernels.cuda.jit import Array, cuda, device_function, kernel
from minirnn.kernels.cuda.launch import launch

_RANKS = (1, 4, 8)
"""Shapes are padded to one of these numbers of dimensions, so that few variants of a kernel are compiled."""

_ORIGIN = np.empty(1, np.uint8)
_ORIGIN_ADDRESS = _ORIGIN.__array_interface__["data"][0]


@functools.lru_cache(4096)
def layout_of(shape: tuple[int, ...]) -> np.ndarray:
    """The layout of a whole array of this shape."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return as_strided(_ORIGIN, shape, strides)


def _offset(layout: np.ndarray) -> int:
    return layout.__array_interface__["data"][0] - _ORIGIN_ADDRESS


def coalesce(layouts: Sequence[np.ndarray]) -> tuple[tuple[int, ...], ...]:
    """The layouts' common shape, and each one's (offset, *strides), for :func:`element_index`.

    Dimensions are merged where all layouts allow it, and padded to one of few ranks.
    """
    shape: list[int] = []
    strides: list[list[int]] = []
    for d, extent in enumerate(layouts[0].shape):
        if extent == 1:
            continue
        steps = [layout.strides[d] for layout in layouts]
        if shape and all(outer == step * extent for outer, step in zip(strides[-1], steps, strict=True)):
            shape[-1], strides[-1] = shape[-1] * extent, steps
        else:
            shape.append(extent)
            strides.append(steps)
    rank = next((r for r in _RANKS if r >= len(shape)), None)
    if rank is None:
        raise ShapeError(f"device 'cuda': expected at most {_RANKS[-1]} dimensions, got {list(layouts[0].shape)}")
    padding = rank - len(shape)
    padded = (1,) * padding + tuple(shape)
    return padded, *((_offset(x), *(0,) * padding, *(s[i] for s in strides)) for i, x in enumerate(layouts))


@device_function
def element_index(i: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Where element i, in row-major order over ``shape``, lies by ``strides`` = (offset, ...)."""
    at = strides[0]
    for d in range(len(shape) - 1, 0, -1):
        at += i % shape[d] * strides[d + 1]
        i //= shape[d]
    return at + i * strides[1]


@kernel
def _copy(out: Array, x: Array, count: int, shape: tuple, out_strides: tuple, x_strides: tuple) -> None:
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        out[element_index(i, shape, out_strides)] = x[element_index(i, shape, x_strides)]


def copy_layout(out: DeviceArray, out_layout: np.ndarray, x: DeviceArray, x_layout: np.ndarray) -> None:
    """out[out_layout] = x[x_layout]; the layouts have one shape."""
    if out_layout.size:
        launch(_copy, out_layout.size, out.flat, x.flat, out_layout.size, *coalesce((out_layout, x_layout)))


def copy_into(out: DeviceArray, x: DeviceArray) -> None:
    """The elements of x to those of ``out``, of which there are as many."""
    if x.size:
        launch(_copy, x.size, out.flat, x.flat, x.size, (x.size,), (0, 1), (0, 1))


def apply_layout(x: DeviceArray, layout: np.ndarray) -> DeviceArray:
    """x[layout]: a view where the layout is contiguous, else a copy."""
    if not layout.size:
        return empty(layout.shape, x.dtype)
    if layout.flags.c_contiguous:
        return x.view(_offset(layout), layout.shape)
    out = empty(layout.shape, x.dtype)
    copy_layout(out, layout_of(layout.shape), x, layout)
    return out


@register
def astype(x: DeviceArray, dtype: np.dtype, copy: bool) -> DeviceArray:
    if x.dtype == dtype and not copy:
        return x
    out = empty(x.shape, dtype)
    copy_into(out, x)
    return out


@register
def transpose(x: DeviceArray, axes: tuple[int, ...]) -> DeviceArray:
    return apply_layout(x, layout_of(x.shape).transpose(axes))


def contiguous(x: DeviceArray) -> DeviceArray:
    """x itself, as every array of this device is contiguous.

    Raises:
        DeviceError: x is an array of the host.
    """
    if not isinstance(x, DeviceArray):
        raise DeviceError("expected an array on 'cuda', got one on the host; move it there with .to('cuda')")
    return x


def broadcast_to(x: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    return apply_layout(x, np.broadcast_to(layout_of(x.shape), shape))


def flip(x: DeviceArray, axis: tuple[int, ...]) -> DeviceArray:
    return apply_layout(x, np.flip(layout_of(x.shape), axis))


def split(x: DeviceArray, indices: Sequence[int], axis: int) -> list[DeviceArray]:
    return [apply_layout(x, piece) for piece in np.split(layout_of(x.shape), indices, axis)]


def unstack(x: DeviceArray, axis: int) -> list[DeviceArray]:
    layout = np.moveaxis(layout_of(x.shape), axis, 0)
    return [apply_layout(x, layout[k, ...]) for k in range(len(layout))]


def concatenate(xs: Sequence[DeviceArray], axis: int) -> DeviceArray:
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    out = empty(shape, np.result_type(*(x.dtype for x in xs)))
    ends = np.cumsum([x.shape[axis] for x in xs])[:-1]
    for x, piece in zip(xs, np.split(layout_of(out.shape), ends, axis), strict=True):
        copy_layout(out, piece, x, layout_of(x.shape))
    return out


def stack(xs: Sequence[DeviceArray], axis: int) -> DeviceArray:
    shape = (*xs[0].shape[:axis], 1, *xs[0].shape[axis:])
    return concatenate([x.reshape(shape) for x in xs], axis)
