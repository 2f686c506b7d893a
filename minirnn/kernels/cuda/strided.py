"""Where elements lie: views and copies of a GPU's arrays, with NumPy's rules.

NumPy itself works out what a slice, a transposition or a broadcast means: on a *plan*, an array with the shape of
the one on the GPU whose strides count elements and whose memory nobody reads. What the plan says becomes a view
where it is contiguous, and a copy by one strided kernel where it is not.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minirnn.errors import ShapeError
from minirnn.kernels.cuda.device import DeviceArray, empty, launch
from minirnn.kernels.cuda.jit import cuda, device_function, kernel

_RANKS = (1, 4, 8)
"""Shapes are padded to one of these many dimensions, so that few variants of a kernel are compiled."""

_PLAN = np.empty(1, np.uint8)
_ORIGIN = _PLAN.__array_interface__["data"][0]


@functools.lru_cache(4096)
def plan_of(shape: tuple[int, ...]) -> np.ndarray:
    """The plan of a whole array of this shape."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return as_strided(_PLAN, shape, strides)


def _offset(plan: np.ndarray) -> int:
    return plan.__array_interface__["data"][0] - _ORIGIN


def collapsed(plans: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """A padded shape, and for each plan (offset, *strides); neighbouring dimensions that lie alike become one."""
    shape: list[int] = []
    strides: list[list[int]] = []
    for d, extent in enumerate(plans[0].shape):
        if extent == 1:
            continue
        steps = [plan.strides[d] for plan in plans]
        if shape and all(b == s * extent for b, s in zip(strides[-1], steps, strict=True)):
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
def place(i: Any, shape: Any, strides: Any) -> Any:
    """Where element i, counted in rows over ``shape``, lies by ``strides`` = (offset, ...)."""
    at = strides[0]
    for d in range(len(shape) - 1, 0, -1):
        at += i % shape[d] * strides[d + 1]
        i //= shape[d]
    return at + i * strides[1]


@kernel
def _copy(out: Any, x: Any, count: int, shape: Any, to: Any, source: Any) -> None:
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        out[place(i, shape, to)] = x[place(i, shape, source)]


def copied(out: DeviceArray, to: np.ndarray, x: DeviceArray, source: np.ndarray) -> None:
    """The elements of x that ``source`` names, to where ``to`` says; both of one shape."""
    if to.size:
        launch(_copy, to.size, out.flat, x.flat, to.size, *collapsed((to, source)))


def overwrite(out: DeviceArray, x: DeviceArray) -> None:
    """The elements of x, to those of ``out``, of which there are as many."""
    if x.size:
        launch(_copy, x.size, out.flat, x.flat, x.size, (x.size,), (0, 1), (0, 1))


def made(x: DeviceArray, plan: np.ndarray) -> DeviceArray:
    """x as ``plan`` has it: a view where it is contiguous, else a copy."""
    if not plan.size:
        return empty(plan.shape, x.dtype)
    if plan.flags.c_contiguous:
        return x.view(_offset(plan), plan.shape)
    out = empty(plan.shape, x.dtype)
    copied(out, plan_of(plan.shape), x, plan)
    return out
