"""Reductions along any dimensions. Sums are made in an order that depends on the shape alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn.kernels.contract import Axes, DType
from minirnn.kernels.cuda import elementwise, jit
from minirnn.kernels.cuda.array import DeviceArray, empty, register
from minirnn.kernels.cuda.creation import full
from minirnn.kernels.cuda.jit import THREADS, Array, Kernel, Number, cuda, device_function, kernel, make_block_reduce
from minirnn.kernels.cuda.launch import launch, launch_blocks
from minirnn.kernels.cuda.strided import coalesce, element_index, layout_of

_CHUNK = 1 << 14
"""Elements that a block reduces; more are reduced in two rounds."""

_THREAD_EXTENT = 32
"""At most so many elements are reduced by one thread."""


def _make_reduction(combine: Kernel) -> tuple[Kernel, Kernel]:
    """Kernels with a thread for each result, and with a block for each result and chunk."""
    block_reduce = make_block_reduce(combine)

    @kernel
    def by_threads(out: Array, x: Array, initial: Number, kept: tuple, extent: int, reduced: tuple) -> None:
        (kept_shape, kept_strides), (shape, strides) = kept, reduced
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            first = element_index(i, kept_shape, kept_strides)
            total = initial
            for k in range(extent):
                total = combine(total, x[first + element_index(k, shape, strides)])
            out[i] = total

    @kernel
    def by_blocks(out: Array, x: Array, initial: Number, kept: tuple, extent: int, reduced: tuple, chunk: int) -> None:
        (kept_shape, kept_strides), (shape, strides) = kept, reduced
        shared = cuda.shared.array(THREADS, out.dtype)
        chunks = (extent + chunk - 1) // chunk
        first = element_index(cuda.blockIdx.x // chunks, kept_shape, kept_strides)
        begin = cuda.blockIdx.x % chunks * chunk
        end = begin + chunk if begin + chunk < extent else extent
        total = initial
        for k in range(begin + cuda.threadIdx.x, end, THREADS):
            total = combine(total, x[first + element_index(k, shape, strides)])
        total = block_reduce(total, shared)
        if cuda.threadIdx.x == 0:
            out[cuda.blockIdx.x] = total

    return by_threads, by_blocks


def _axes(axis: Axes, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(int(d) % ndim for d in ((axis,) if isinstance(axis, (int, np.integer)) else axis))


def _split_layout(x: DeviceArray, axes: tuple[int, ...]) -> tuple[tuple, int, tuple]:
    """Coalesced layouts of x's first elements along ``axes`` and of those of one result, and the latter's number."""
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    ordered = layout_of(x.shape).transpose((*kept, *axes))
    zeros: tuple[Any, ...] = (0,) * x.ndim
    firsts, reduced = ordered[(..., *zeros[: len(axes)])], ordered[(*zeros[: len(kept)], ...)]
    return coalesce((firsts,)), reduced.size, coalesce((reduced,))


def _result_shape(x: DeviceArray, axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    return tuple(1 if d in axes else n for d, n in enumerate(x.shape) if keepdims or d not in axes)


def _reduce(
    kernels: tuple[Kernel, Kernel], x: DeviceArray, axis: Axes, keepdims: bool, initial: float, dtype: np.dtype
) -> DeviceArray:
    axes = _axes(axis, x.ndim)
    result = _result_shape(x, axes, keepdims)
    if not x.size:
        return full(result, initial, dtype)
    count, (kept, extent, reduced) = math.prod(result), _split_layout(x, axes)
    by_threads, by_blocks = kernels
    if extent <= _THREAD_EXTENT:
        out = empty(result, dtype)
        launch(by_threads, count, out.flat, x.flat, dtype.type(initial), kept, extent, reduced)
        return out
    chunks = -(-extent // _CHUNK)
    out = empty((count, chunks), dtype)
    launch_blocks(by_blocks, out.size, out.flat, x.flat, dtype.type(initial), kept, extent, reduced, _CHUNK)
    return out.reshape(result) if chunks == 1 else _reduce(kernels, out, 1, False, initial, dtype).reshape(result)


_SUM, _MAX, _MIN = map(_make_reduction, (jit.add, jit.larger, jit.smaller))


@register
def sum(x: DeviceArray, axis: Axes = None, keepdims: bool = False, dtype: DType | None = None) -> DeviceArray:
    return _reduce(_SUM, x, axis, keepdims, 0, _sum_dtype(x.dtype) if dtype is None else np.dtype(dtype))


def _sum_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "f" else np.dtype(np.uint64 if dtype.kind == "u" else np.int64)


def _bounds(dtype: np.dtype) -> tuple[float, float]:
    if dtype.kind == "f":
        return -math.inf, math.inf
    return (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


@register
def max(x: DeviceArray, axis: Axes = None, keepdims: bool = False) -> DeviceArray:
    """NaN where an element is NaN."""
    return _reduce(_MAX, x, axis, keepdims, _bounds(x.dtype)[0], x.dtype)


@register
def min(x: DeviceArray, axis: Axes = None, keepdims: bool = False) -> DeviceArray:
    """NaN where an element is NaN."""
    return _reduce(_MIN, x, axis, keepdims, _bounds(x.dtype)[1], x.dtype)


@register
def any(x: DeviceArray) -> bool:
    return bool(max(elementwise.not_equal(x, 0)).item())


def has_nan(x: DeviceArray) -> bool:
    """Waits for the GPU."""
    return x.dtype.kind == "f" and any(elementwise.not_equal(x, x))


def _make_arg_reduction(beats: Kernel) -> Callable[..., DeviceArray]:
    """The index of the first element that no other beats: a block for each result."""

    @kernel
    def arg_reduce(out: Array, x: Array, kept: tuple, extent: int, reduced: tuple) -> None:
        (kept_shape, kept_strides), (shape, strides) = kept, reduced
        indices = cuda.shared.array(THREADS, out.dtype)
        values = cuda.shared.array(THREADS, x.dtype)
        thread = cuda.threadIdx.x
        first = element_index(cuda.blockIdx.x, kept_shape, kept_strides)
        best = thread if thread < extent else 0
        value = x[first + element_index(best, shape, strides)]
        for k in range(thread + THREADS, extent, THREADS):
            other = x[first + element_index(k, shape, strides)]
            if beats(other, value):
                best, value = k, other
        indices[thread] = best
        values[thread] = value
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                mine, other = values[thread], values[thread + half]
                earlier = indices[thread + half] < indices[thread]
                if beats(other, mine) or (earlier and not beats(mine, other)):
                    indices[thread] = indices[thread + half]
                    values[thread] = other
            half //= 2
        if thread == 0:
            out[cuda.blockIdx.x] = indices[0]

    def apply(x: DeviceArray, axis: int | None = None, keepdims: bool = False) -> DeviceArray:
        axes = _axes(axis, x.ndim)
        out = empty(_result_shape(x, axes, keepdims), np.int64)
        if out.size:
            launch_blocks(arg_reduce, out.size, out.flat, x.flat, *_split_layout(x, axes))
        return out

    return apply


argmax = _make_arg_reduction(device_function(lambda a, b: a > b or (a != a and b == b)))
argmin = _make_arg_reduction(device_function(lambda a, b: a < b or (a != a and b == b)))


@kernel
def _cumsum(out: Array, x: Array, zero: Number, extent: int, stride: int) -> None:
    """A block for each line, which is taken in pieces; prefix sums of a piece by Hillis and Steele (1986)."""
    shared = cuda.shared.array(THREADS, out.dtype)
    thread, line = cuda.threadIdx.x, cuda.blockIdx.x
    first = line // stride * extent * stride + line % stride
    before = zero
    for begin in range(0, extent, THREADS):
        k = begin + thread
        total = x[first + k * stride] if k < extent else zero
        shared[thread] = total
        reach = 1
        while reach < THREADS:
            cuda.syncthreads()
            other = shared[thread - reach] if thread >= reach else zero
            cuda.syncthreads()
            total += other
            shared[thread] = total
            reach *= 2
        cuda.syncthreads()
        if k < extent:
            out[first + k * stride] = before + total
        before += shared[THREADS - 1]
        cuda.syncthreads()  # before shared is written again


def cumsum(x: DeviceArray, axis: int) -> DeviceArray:
    x = x.astype(_sum_dtype(x.dtype), copy=False)
    out, extent = empty(x.shape, x.dtype), x.shape[axis]
    if x.size:
        stride = math.prod(x.shape[axis + 1 :])
        launch_blocks(_cumsum, x.size // extent, out.flat, x.flat, x.dtype.type(0), extent, stride)
    return out


def log_softmax(x: DeviceArray, axis: int) -> DeviceArray:
    shifted = x - max(x, axis, keepdims=True)
    return shifted - elementwise.log(sum(elementwise.exp(shifted), axis, keepdims=True))


def softmax(x: DeviceArray, axis: int) -> DeviceArray:
    e = elementwise.exp(x - max(x, axis, keepdims=True))
    return e / sum(e, axis, keepdims=True)
