"""Sums, extremes and their places on the GPU, along any dimensions, in an order that depends on the shape alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn.kernels.cuda import array
from minirnn.kernels.cuda.device import DeviceArray, empty, full, launch, launch_blocks
from minirnn.kernels.cuda.jit import THREADS, cuda, device_function, kernel, larger, smaller
from minirnn.kernels.cuda.strided import collapsed, place, plan_of

_CHUNK = 1 << 14
"""Elements a block adds up; more are taken in two rounds."""

_LINE = 32
"""As many elements, or fewer, are added up by one thread."""


def _reduction(combine: Callable) -> tuple[Any, Any]:
    """Kernels that combine elements: a thread for each result, and a block for each result and chunk."""

    @kernel
    def by_threads(out: Any, x: Any, start: Any, kept: Any, by_kept: Any, extent: int, shape: Any, by: Any) -> None:
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            first = place(i, kept, by_kept)
            total = start
            for k in range(extent):
                total = combine(total, x[first + place(k, shape, by)])
            out[i] = total

    @kernel
    def by_blocks(
        out: Any, x: Any, start: Any, kept: Any, by_kept: Any, extent: int, shape: Any, by: Any, chunk: int
    ) -> None:
        totals = cuda.shared.array(THREADS, out.dtype)
        thread = cuda.threadIdx.x
        chunks = (extent + chunk - 1) // chunk
        first = place(cuda.blockIdx.x // chunks, kept, by_kept)
        begin = cuda.blockIdx.x % chunks * chunk
        end = begin + chunk if begin + chunk < extent else extent
        total = start
        for k in range(begin + thread, end, THREADS):
            total = combine(total, x[first + place(k, shape, by)])
        totals[thread] = total
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                totals[thread] = combine(totals[thread], totals[thread + half])
            half //= 2
        if thread == 0:
            out[cuda.blockIdx.x] = totals[0]

    return by_threads, by_blocks


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(int(d) % ndim for d in ((axis,) if isinstance(axis, (int, np.integer)) else axis))


def _lines(x: DeviceArray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Plans of x's first elements along ``axes``, and of one line's elements."""
    plan = plan_of(x.shape)
    rest = tuple(d for d in range(x.ndim) if d not in axes)
    ordered = plan.transpose((*rest, *axes))
    first: Any = (0,) * len(axes)
    alone: Any = (0,) * len(rest)
    return ordered[(..., *first)], ordered[(*alone, ...)]


def _reduce(
    kernels: tuple[Any, Any], x: DeviceArray, axis: Any, keepdims: bool, start: Any, dtype: np.dtype
) -> DeviceArray:
    axes = _axes(axis, x.ndim)
    shape = tuple(n for d, n in enumerate(x.shape) if d not in axes)
    result = tuple(1 if d in axes else n for d, n in enumerate(x.shape)) if keepdims else shape
    count, extent = math.prod(shape), math.prod(x.shape[d] for d in axes)
    if not x.size:
        return full(result, start, dtype)
    kept, line = _lines(x, axes)
    given = (dtype.type(start), *collapsed((kept,)), extent, *collapsed((line,)))
    by_threads, by_blocks = kernels
    if extent <= _LINE:
        out = empty(result, dtype)
        launch(by_threads, count, out.flat, x.flat, *given)
        return out
    chunks = -(-extent // _CHUNK)
    out = empty((count, chunks), dtype)
    launch_blocks(by_blocks, count * chunks, out.flat, x.flat, *given, _CHUNK)
    return out.reshape(result) if chunks == 1 else _reduce(kernels, out, 1, False, start, dtype).reshape(result)


_SUM = _reduction(device_function(lambda a, b: a + b))
_MAX, _MIN = _reduction(larger), _reduction(smaller)


def sum(x: DeviceArray, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> DeviceArray:
    """Sums along ``axis``, in an order that depends on the shape alone."""
    if dtype is None:
        dtype = x.dtype if x.dtype.kind == "f" else np.uint64 if x.dtype.kind == "u" else np.int64
    return _reduce(_SUM, x, axis, keepdims, 0, np.dtype(dtype))


def _bounds(dtype: np.dtype) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return -math.inf, math.inf
    return (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def max(x: DeviceArray, axis: Any = None, keepdims: bool = False) -> DeviceArray:
    """Largest elements along ``axis``; NaN where one is."""
    return _reduce(_MAX, x, axis, keepdims, _bounds(x.dtype)[0], x.dtype)


def min(x: DeviceArray, axis: Any = None, keepdims: bool = False) -> DeviceArray:
    """Smallest elements along ``axis``; NaN where one is."""
    return _reduce(_MIN, x, axis, keepdims, _bounds(x.dtype)[1], x.dtype)


def any(x: DeviceArray) -> bool:
    """Whether any element is true; waits for the GPU."""
    return bool(max(array.not_equal(x, 0)).item())


def has_nan(x: DeviceArray) -> bool:
    """Whether any element is not a number; waits for the GPU."""
    return x.dtype.kind == "f" and any(array.not_equal(x, x))


def _arg_reduction(beats: Callable) -> Any:
    """The place of the first element that no other beats: a block for each line."""

    @kernel
    def start(out: Any, x: Any, kept: Any, by_kept: Any, extent: int, shape: Any, by: Any) -> None:
        places = cuda.shared.array(THREADS, out.dtype)
        values = cuda.shared.array(THREADS, x.dtype)
        thread = cuda.threadIdx.x
        first = place(cuda.blockIdx.x, kept, by_kept)
        best = thread if thread < extent else 0
        value = x[first + place(best, shape, by)]
        for k in range(thread + THREADS, extent, THREADS):
            other = x[first + place(k, shape, by)]
            if beats(other, value):
                best, value = k, other
        places[thread] = best
        values[thread] = value
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                mine, other = values[thread], values[thread + half]
                earlier = places[thread + half] < places[thread]
                if beats(other, mine) or (earlier and not beats(mine, other)):
                    places[thread] = places[thread + half]
                    values[thread] = other
            half //= 2
        if thread == 0:
            out[cuda.blockIdx.x] = places[0]

    def apply(x: DeviceArray, axis: int | None = None, keepdims: bool = False) -> DeviceArray:
        axes = _axes(axis, x.ndim)
        shape = tuple(n for d, n in enumerate(x.shape) if d not in axes)
        out = empty(tuple(1 if d in axes else n for d, n in enumerate(x.shape)) if keepdims else shape, np.int64)
        if out.size:
            kept, line = _lines(x, axes)
            launch_blocks(start, out.size, out.flat, x.flat, *collapsed((kept,)), line.size, *collapsed((line,)))
        return out

    return apply


argmax = _arg_reduction(device_function(lambda a, b: a > b or (a != a and b == b)))
argmin = _arg_reduction(device_function(lambda a, b: a < b or (a != a and b == b)))


def log_softmax(x: DeviceArray, axis: int) -> DeviceArray:
    """x - log(sum(exp(x))) along ``axis``; a row of -inf alone gives NaN, as it must."""
    shifted = x - max(x, axis, keepdims=True)
    return shifted - array.log(sum(array.exp(shifted), axis, keepdims=True))


def softmax(x: DeviceArray, axis: int) -> DeviceArray:
    """exp(x) / sum(exp(x)) along ``axis``."""
    e = array.exp(x - max(x, axis, keepdims=True))
    return e / sum(e, axis, keepdims=True)
