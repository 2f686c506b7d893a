"""Elementwise arithmetic, reductions and shapes on the card, with NumPy's rules for shapes and types.

NumPy itself works out what a slice, a transposition or a broadcast means: on a *plan*, an array with the shape of
the one on the card whose strides count elements and whose memory nobody reads. What the plan says becomes a view
where it is contiguous, and a copy by one strided kernel where it is not.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minirnn.errors import ShapeError
from minirnn.kernels import pointwise
from minirnn.kernels.cuda import device
from minirnn.kernels.cuda.device import (
    THREADS,
    DeviceArray,
    asarray,
    cuda,
    device_function,
    empty,
    full,
    kernel,
    launch,
    to_numpy,
    zeros,
)

__all__ = ["asarray", "empty", "full", "to_numpy", "zeros"]

# ------------------------------------------------------------------------------------------------------ plans

_RANKS = (1, 4, 8)
"""Shapes are padded to one of these many dimensions, so that few variants of a kernel are compiled."""

_PLAN = np.empty(1, np.uint8)
_ORIGIN = _PLAN.__array_interface__["data"][0]


def _plan(shape: tuple[int, ...]) -> np.ndarray:
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return as_strided(_PLAN, shape, strides)


def _offset(plan: np.ndarray) -> int:
    return plan.__array_interface__["data"][0] - _ORIGIN


def _collapsed(plans: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """A padded shape, and for each plan (offset, *strides); neighbouring dimensions that lie alike become one."""
    shape: list[int] = []
    strides: list[list[int]] = []
    for d, extent in enumerate(plans[0].shape):
        if extent == 1:
            continue
        steps = [plan.strides[d] for plan in plans]
        if shape and builtins.all(b == s * extent for b, s in zip(strides[-1], steps, strict=True)):
            shape[-1], strides[-1] = shape[-1] * extent, steps
        else:
            shape.append(extent)
            strides.append(steps)
    rank = next((r for r in _RANKS if r >= len(shape)), None)
    if rank is None:
        raise ShapeError(f"device 'cuda': no more than {_RANKS[-1]} dimensions, got {list(plans[0].shape)}")
    missing = rank - len(shape)
    padded = (1,) * missing + tuple(shape)
    return padded, *((_offset(p), *(0,) * missing, *(s[i] for s in strides)) for i, p in enumerate(plans))


@device_function
def _at(i, shape, strides):
    """Where element i, counted in rows over ``shape``, lies by ``strides`` = (offset, ...)."""
    at = strides[0]
    for d in range(len(shape) - 1, 0, -1):
        at += i % shape[d] * strides[d + 1]
        i //= shape[d]
    return at + i * strides[1]


@kernel
def _copy(out, x, count, shape, to, source):
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        out[_at(i, shape, to)] = x[_at(i, shape, source)]


def _copied(out: DeviceArray, to: np.ndarray, x: DeviceArray, source: np.ndarray) -> None:
    """The elements of x that ``source`` names, to where ``to`` says; both of one shape."""
    if to.size:
        launch(_copy, to.size, out.flat, x.flat, to.size, *_collapsed((to, source)))


def _made(x: DeviceArray, plan: np.ndarray) -> DeviceArray:
    """x as ``plan`` has it: a view where it is contiguous, else a copy."""
    if not plan.size:
        return empty(plan.shape, x.dtype)
    if plan.flags.c_contiguous:
        first = _offset(plan)
        return DeviceArray(x.block, x.flat[first : first + plan.size].reshape(plan.shape))
    out = empty(plan.shape, x.dtype)
    _copied(out, _plan(plan.shape), x, plan)
    return out


def from_raw(raw: Any, owner: Any) -> DeviceArray:
    """Another library's array, whose memory it shares and keeps alive.

    Raises:
        DTypeError: its elements are of a type kernels do not have.
        ShapeError: it is not C-contiguous.
    """
    device.check_type(raw.dtype)
    if not raw.is_c_contiguous():
        raise ShapeError(f"device 'cuda': wanted a C-contiguous array, got {list(raw.shape)} with gaps; copy it first")
    return DeviceArray(owner, raw)


def astype(x: DeviceArray, dtype: np.dtype, copy: bool) -> DeviceArray:
    """The values in another type."""
    if x.dtype == dtype and not copy:
        return x
    out = empty(x.shape, dtype)
    _copied(out, _plan((x.size,)), x, _plan((x.size,)))
    return out


def transpose(x: DeviceArray, order: tuple[int, ...]) -> DeviceArray:
    """The dimensions in another order."""
    return _made(x, _plan(x.shape).transpose(order))


# --------------------------------------------------------------------------------------------------- indexing


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return builtins.all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in parts)


def _positions(shape: tuple[int, ...], key: Any) -> np.ndarray:
    """Which elements, counted in rows, masks and integer arrays name. The host works it out; a key of this device
    is waited for."""
    parts = key if isinstance(key, tuple) else (key,)
    host = tuple(p.numpy() if isinstance(p, DeviceArray) else p for p in parts)
    return np.arange(math.prod(shape)).reshape(shape)[host]


def getitem(x: DeviceArray, key: Any) -> DeviceArray:
    """x[key] with NumPy's rules; a view where the key names neighbouring elements, else a copy."""
    if _is_basic(key):
        return _made(x, _plan(x.shape)[key])
    at = _positions(x.shape, key)
    return take_along_axis(x.reshape(-1), at.reshape(-1), 0).reshape(at.shape)


def setitem(x: DeviceArray, key: Any, value: Any) -> None:
    """x[key] = value with NumPy's rules; where a key names an element twice, either value may stay."""
    source = _operand(value, x.dtype)
    if _is_basic(key):
        to = _plan(x.shape)[key]
        _copied(x, to, source, np.broadcast_to(_plan(source.shape), to.shape))
        return
    at = _positions(x.shape, key)
    if at.size:
        spread = _made(source, np.broadcast_to(_plan(source.shape), at.shape))
        launch(_put, at.size, x.flat, asarray(at.reshape(-1)).raw, spread.flat)


@kernel
def _put(out, at, values):
    for i in range(cuda.grid(1), at.size, cuda.gridsize(1)):
        out[at[i]] = values[i]


# ------------------------------------------------------------------------------------------------- arithmetic


@functools.lru_cache(512)
def _constant_of(data: bytes, kind: str) -> DeviceArray:
    return full((), np.frombuffer(data, kind)[0], np.dtype(kind))


def _operand(value: Any, dtype: np.dtype) -> DeviceArray:
    """``value`` as an array of ``dtype``; a Python number as one that is made once and only read."""
    if isinstance(value, (bool, int, float)):
        return _constant_of(np.array(value, dtype).tobytes(), dtype.str)
    return asarray(value).astype(dtype, copy=False)
