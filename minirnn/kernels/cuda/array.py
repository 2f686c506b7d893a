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

from minirnn.errors import DeviceError, ShapeError
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
    launch_blocks,
)
from minirnn.kernels.cuda.matrix import product, stacked_product
from minirnn.kernels.cuda.rows import put_rows, take_rows

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
def _at(i: Any, shape: Any, strides: Any) -> Any:
    """Where element i, counted in rows over ``shape``, lies by ``strides`` = (offset, ...)."""
    at = strides[0]
    for d in range(len(shape) - 1, 0, -1):
        at += i % shape[d] * strides[d + 1]
        i //= shape[d]
    return at + i * strides[1]


@kernel
def _copy(out: Any, x: Any, count: int, shape: Any, to: Any, source: Any) -> None:
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
        return DeviceArray(x.block, x.flat.raw[first : first + plan.size].reshape(plan.shape))
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
    kinds = (int, np.integer, slice, type(None), type(Ellipsis))
    return builtins.all(isinstance(p, kinds) and not isinstance(p, bool) for p in parts)


def _part(x: DeviceArray, key: Any) -> np.ndarray:
    """The plan of x[key] for a basic key; a plan even of a single element, which NumPy would give as a number."""
    parts = key if isinstance(key, tuple) else (key,)
    return _plan(x.shape)[parts if Ellipsis in parts else (*parts, Ellipsis)]


def _positions(shape: tuple[int, ...], key: Any) -> np.ndarray:
    """Which elements, counted in rows, masks and integer arrays name. The host works it out; a key of this device
    is waited for."""
    parts = key if isinstance(key, tuple) else (key,)
    host = tuple(p.numpy() if isinstance(p, DeviceArray) else p for p in parts)
    return np.arange(math.prod(shape)).reshape(shape)[host]


def _is_rows(key: Any) -> bool:
    """Whether a key is one list of rows, which need no map of single elements."""
    return isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu"


def _row_numbers(x: DeviceArray, key: np.ndarray) -> np.ndarray:
    if key.size and not -len(x) <= key.min() <= key.max() < len(x):
        raise IndexError(f"index {key.min()} or {key.max()} is out of bounds for axis 0 with size {len(x)}")
    return key % len(x) if key.size else key


def getitem(x: DeviceArray, key: Any) -> DeviceArray:
    """x[key] with NumPy's rules; a view where the key names neighbouring elements, else a copy."""
    if _is_basic(key):
        return _made(x, _part(x, key))
    if _is_rows(key):
        return take_rows(x, _row_numbers(x, key))
    at = _positions(x.shape, key)
    return take_along_axis(x.reshape(x.size), at.reshape(-1), 0).reshape(at.shape)


def setitem(x: DeviceArray, key: Any, value: Any) -> None:
    """x[key] = value with NumPy's rules; where a key names an element twice, either value may stay."""
    source = _operand(value, x.dtype)
    if _is_basic(key):
        to = _part(x, key)
        _copied(x, to, source, np.broadcast_to(_plan(source.shape), to.shape))
        return
    if _is_rows(key):
        put_rows(x, _row_numbers(x, key), broadcast_to(source, (key.size, *x.shape[1:])))
        return
    at = _positions(x.shape, key)
    if at.size:
        spread = _made(source, np.broadcast_to(_plan(source.shape), at.shape))
        launch(_put, at.size, x.flat, asarray(at.reshape(-1)), spread.flat)


@kernel
def _put(out: Any, at: Any, values: Any) -> None:
    for i in range(cuda.grid(1), at.size, cuda.gridsize(1)):
        out[at[i]] = values[i]


# ------------------------------------------------------------------------------------------------- arithmetic


@functools.lru_cache(512)
def _constant(data: bytes, kind: str) -> DeviceArray:
    return full((), np.frombuffer(data, kind)[0], np.dtype(kind))


def _operand(value: Any, dtype: np.dtype) -> DeviceArray:
    """``value`` as an array of ``dtype``; a number as one that is made once and only read."""
    if isinstance(value, DeviceArray):
        return value.astype(dtype, copy=False)
    host = np.asarray(value, dtype)
    return asarray(host) if host.ndim else _constant(host.tobytes(), dtype.str)


@functools.lru_cache(512)
def _loop(name: str, *kinds: Any) -> tuple[np.dtype, ...]:
    """The types NumPy computes an operation in: of its inputs, and of its result."""
    return getattr(np, name).resolve_dtypes((*kinds, None))


def _kind(value: Any) -> Any:
    """A value's type as NumPy's rules of promotion see it: that of a Python number is weak."""
    if type(value) in (int, float):  # not NumPy's float64, which is a float too
        return type(value)
    return value.dtype if isinstance(value, DeviceArray) else np.asarray(value).dtype


def _lined_up(shape: tuple[int, ...], *xs: DeviceArray) -> tuple[Any, ...]:
    """What :func:`_collapsed` gives for arrays that broadcast to ``shape``."""
    size = math.prod(shape)
    if builtins.all(x.size in (1, size) for x in xs):
        return (size,), *((0, int(x.size == size)) for x in xs)
    return _collapsed([np.broadcast_to(_plan(x.shape), shape) for x in xs])


def _unary(function: Callable) -> Callable:
    """``function`` of each element."""

    @kernel
    def start(out: Any, x: Any) -> None:
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = function(x[i])

    def apply(x: DeviceArray) -> DeviceArray:
        out = empty(x.shape, x.dtype)
        if x.size:
            launch(start, x.size, out.flat, x.flat)
        return out

    return apply


def _binary(name: str, function: Callable) -> Callable:
    """``function`` of the elements of two arrays that broadcast, in the types NumPy computes ``name`` in."""

    @kernel
    def start(out: Any, a: Any, b: Any, shape: Any, by_a: Any, by_b: Any) -> None:
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = function(a[_at(i, shape, by_a)], b[_at(i, shape, by_b)])

    def apply(a: Any, b: Any, out: DeviceArray | None = None) -> DeviceArray:
        first, second, dtype = _loop(name, _kind(a), _kind(b))
        x, y = _operand(a, first), _operand(b, second)
        shape = x.shape if x.shape == y.shape else np.broadcast_shapes(x.shape, y.shape)
        if out is None:
            out = empty(shape, dtype)
        elif out.shape != shape:
            raise ValueError(f"{name}: a result of shape {shape} does not fit {out.shape}")
        if out.size:
            launch(start, out.size, out.flat, x.flat, y.flat, *_lined_up(shape, x, y))
        return out

    return apply


def _larger(a: Any, b: Any) -> Any:
    """The larger of two numbers; NaN where either is."""
    return a if a > b or a != a else b


def _smaller(a: Any, b: Any) -> Any:
    return a if a < b or a != a else b


@device_function
def _softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return pointwise.relu(x) + device.log1p(pointwise.exp(x if x < 0 else -x))


_larger, _smaller = device_function(_larger), device_function(_smaller)

add = _binary("add", device_function(lambda a, b: a + b))
subtract = _binary("subtract", device_function(lambda a, b: a - b))
multiply = _binary("multiply", device_function(lambda a, b: a * b))
divide = _binary("divide", device_function(lambda a, b: a / b))
power = _binary("power", device_function(lambda a, b: a**b))
maximum = _binary("maximum", _larger)
minimum = _binary("minimum", _smaller)
equal = _binary("equal", device_function(lambda a, b: a == b))
not_equal = _binary("not_equal", device_function(lambda a, b: a != b))
less = _binary("less", device_function(lambda a, b: a < b))
less_equal = _binary("less_equal", device_function(lambda a, b: a <= b))
greater = _binary("greater", device_function(lambda a, b: a > b))
greater_equal = _binary("greater_equal", device_function(lambda a, b: a >= b))

abs = _unary(device_function(lambda x: -x if x < 0 else x))
negative = _unary(device_function(lambda x: -x))
sign = _unary(device_function(lambda x: 1 if x > 0 else -1 if x < 0 else x))  # 0 and NaN as they are
exp = _unary(pointwise.exp)
log = _unary(device.log)
log1p = _unary(device.log1p)
sqrt = _unary(device.sqrt)
tanh = _unary(pointwise.tanh)
sigmoid = _unary(pointwise.sigmoid)
softplus = _unary(_softplus)


def clip(x: DeviceArray, low: Any = None, high: Any = None) -> DeviceArray:
    """x, but at least ``low`` and at most ``high``; NaN stays."""
    above = x if low is None else maximum(x, low)
    return above if high is None else minimum(above, high)


@kernel
def _choose(out: Any, mask: Any, a: Any, b: Any, shape: Any, by_mask: Any, by_a: Any, by_b: Any) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        if mask[_at(i, shape, by_mask)]:
            out[i] = a[_at(i, shape, by_a)]
        else:
            out[i] = b[_at(i, shape, by_b)]


def where(mask: DeviceArray, a: Any, b: Any) -> DeviceArray:
    """a where the mask holds, else b; all three broadcast."""
    dtype = _loop("maximum", _kind(a), _kind(b))[-1]
    x, y = _operand(a, dtype), _operand(b, dtype)
    out = empty(np.broadcast_shapes(mask.shape, x.shape, y.shape), dtype)
    if out.size:
        launch(_choose, out.size, out.flat, mask.flat, x.flat, y.flat, *_lined_up(out.shape, mask, x, y))
    return out


def scaled(x: DeviceArray, factor: DeviceArray) -> DeviceArray:
    """x times one number, whatever it is: to look would be to wait for the card."""
    return multiply(x, factor)


def zeros_like(x: DeviceArray) -> DeviceArray:
    """Zeros of the shape and type of x."""
    return full(x.shape, 0, x.dtype)


def ones_like(x: DeviceArray) -> DeviceArray:
    """Ones of the shape and type of x."""
    return full(x.shape, 1, x.dtype)


# ------------------------------------------------------------------------------------------------- reductions

_CHUNK = 1 << 14
"""Elements a block adds up; more are taken in two rounds."""

_LINE = 32
"""As many elements, or fewer, are added up by one thread."""


def _reduction(combine: Callable) -> tuple[Any, Any]:
    """Kernels that combine elements: a thread for each result, and a block for each result and chunk."""

    @kernel
    def by_threads(out: Any, x: Any, start: Any, kept: Any, by_kept: Any, extent: int, shape: Any, by: Any) -> None:
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            first = _at(i, kept, by_kept)
            total = start
            for k in range(extent):
                total = combine(total, x[first + _at(k, shape, by)])
            out[i] = total

    @kernel
    def by_blocks(
        out: Any, x: Any, start: Any, kept: Any, by_kept: Any, extent: int, shape: Any, by: Any, chunk: int
    ) -> None:
        totals = cuda.shared.array(THREADS, out.dtype)
        thread = cuda.threadIdx.x
        chunks = (extent + chunk - 1) // chunk
        first = _at(cuda.blockIdx.x // chunks, kept, by_kept)
        begin = cuda.blockIdx.x % chunks * chunk
        end = begin + chunk if begin + chunk < extent else extent
        total = start
        for k in range(begin + thread, end, THREADS):
            total = combine(total, x[first + _at(k, shape, by)])
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
    plan = _plan(x.shape)
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
    given = (dtype.type(start), *_collapsed((kept,)), extent, *_collapsed((line,)))
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
_MAX, _MIN = _reduction(_larger), _reduction(_smaller)


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
    """Whether any element is true; waits for the card."""
    return bool(max(not_equal(x, 0)).item())


def has_nan(x: DeviceArray) -> bool:
    """Whether any element is not a number; waits for the card."""
    return x.dtype.kind == "f" and any(not_equal(x, x))


def _arg_reduction(beats: Callable) -> Any:
    """The place of the first element that no other beats: a block for each line."""

    @kernel
    def start(out: Any, x: Any, kept: Any, by_kept: Any, extent: int, shape: Any, by: Any) -> None:
        places = cuda.shared.array(THREADS, out.dtype)
        values = cuda.shared.array(THREADS, x.dtype)
        thread = cuda.threadIdx.x
        first = _at(cuda.blockIdx.x, kept, by_kept)
        place = thread if thread < extent else 0
        value = x[first + _at(place, shape, by)]
        for k in range(thread + THREADS, extent, THREADS):
            other = x[first + _at(k, shape, by)]
            if beats(other, value):
                place, value = k, other
        places[thread] = place
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
            launch_blocks(start, out.size, out.flat, x.flat, *_collapsed((kept,)), line.size, *_collapsed((line,)))
        return out

    return apply


argmax = _arg_reduction(device_function(lambda a, b: a > b or (a != a and b == b)))
argmin = _arg_reduction(device_function(lambda a, b: a < b or (a != a and b == b)))


def log_softmax(x: DeviceArray, axis: int) -> DeviceArray:
    """x - log(sum(exp(x))) along ``axis``; a row of -inf alone gives NaN, as it must."""
    shifted = x - max(x, axis, keepdims=True)
    return shifted - log(sum(exp(shifted), axis, keepdims=True))


def softmax(x: DeviceArray, axis: int) -> DeviceArray:
    """exp(x) / sum(exp(x)) along ``axis``."""
    e = exp(x - max(x, axis, keepdims=True))
    return e / sum(e, axis, keepdims=True)


# -------------------------------------------------------------------------------------- shapes, by copies


def contiguous(x: DeviceArray) -> DeviceArray:
    """x itself, as every array of this device is.

    Raises:
        DeviceError: x is an array of the host.
    """
    if not isinstance(x, DeviceArray):
        raise DeviceError("wanted an array of 'cuda', got one of the host; move it there with .to('cuda')")
    return x


def broadcast_to(x: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """x with its elements repeated over dimensions of extent 1."""
    return _made(x, np.broadcast_to(_plan(x.shape), shape))


def flip(x: DeviceArray, axes: tuple[int, ...]) -> DeviceArray:
    """The order of elements reversed along ``axes``."""
    return _made(x, np.flip(_plan(x.shape), axes))


def split(x: DeviceArray, borders: Any, axis: int) -> list[DeviceArray]:
    """The pieces between ``borders`` along ``axis``."""
    return [_made(x, piece) for piece in np.split(_plan(x.shape), borders, axis)]


def unstack(x: DeviceArray, axis: int) -> list[DeviceArray]:
    """The pieces of extent 1 along ``axis``, without it."""
    plan = np.moveaxis(_plan(x.shape), axis, 0)
    return [_made(x, plan[k, ...]) for k in range(len(plan))]


def concatenate(xs: Sequence[DeviceArray], axis: int) -> DeviceArray:
    """Arrays one after the other along ``axis``."""
    shape = list(xs[0].shape)
    shape[axis] = builtins.sum(x.shape[axis] for x in xs)
    out = empty(tuple(shape), np.result_type(*(x.dtype for x in xs)))
    borders = np.cumsum([x.shape[axis] for x in xs])[:-1]
    for x, piece in zip(xs, np.split(_plan(out.shape), borders, axis), strict=True):
        _copied(out, piece, x, _plan(x.shape))
    return out


def stack(xs: Sequence[DeviceArray], axis: int) -> DeviceArray:
    """Arrays of one shape side by side along a new dimension."""
    shape = (*xs[0].shape[:axis], 1, *xs[0].shape[axis:])
    return concatenate([x.reshape(shape) for x in xs], axis)


# ------------------------------------------------------------------------------------- gathering, scattering


@kernel
def _take(out: Any, x: Any, index: Any, shape: Any, by_x: Any, step: int) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[_at(i, shape, by_x) + index[i] * step]


def take_along_axis(x: DeviceArray, index: Any, axis: int) -> DeviceArray:
    """x at ``index`` [as many dimensions] along ``axis``; the others of x may be longer than those of the index."""
    at = asarray(index, np.int64)
    out = empty(at.shape, x.dtype)
    if out.size:
        plan, step = _line_starts(x.shape, at.shape, axis)
        launch(_take, out.size, out.flat, x.flat, at.flat, *_collapsed((plan,)), step)
    return out


def _line_starts(shape: tuple[int, ...], wanted: tuple[int, ...], axis: int) -> tuple[np.ndarray, int]:
    """For each element of ``wanted`` where its line along ``axis`` begins in ``shape``, and a line's step."""
    plan = _plan(shape)
    window = plan[tuple(slice(1) if d == axis else slice(n) for d, n in enumerate(wanted))]
    return np.broadcast_to(window, wanted), plan.strides[axis]


@kernel
def _put_lines(out: Any, index: Any, values: Any, lines: int, shape: Any, to: Any, source: Any, extent: int,
               step: int, walk: int) -> None:  # fmt: skip
    """One thread adds up one line, in its order: no two threads meet."""
    for i in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first, at = _at(i, shape, to), _at(i, shape, source)
        for k in range(extent):
            out[first + index[at + k * walk] * step] += values[at + k * walk]


def put_along_axis(out: DeviceArray, index: Any, values: DeviceArray, axis: int) -> None:
    """out += values at ``index`` along ``axis``, every repeated index counted."""
    at = asarray(index, np.int64)
    if not at.size:
        return
    starts, step = _line_starts(out.shape, at.shape, axis)
    lines = tuple(slice(1) if d == axis else slice(None) for d in range(at.ndim))
    source = _plan(at.shape)
    to, source_lines = starts[lines], source[lines]
    launch(
        _put_lines, to.size, out.flat, at.flat, values.flat, to.size, *_collapsed((to, source_lines)),
        at.shape[axis], step, source.strides[axis],
    )  # fmt: skip


@kernel
def _add_runs(out: Any, at: Any, order: Any, borders: Any, values: Any) -> None:
    """Values order[borders[i]] to order[borders[i + 1] - 1] all go to at[i]."""
    for i in range(cuda.grid(1), at.size, cuda.gridsize(1)):
        total = out[at[i]]
        for k in range(borders[i], borders[i + 1]):
            total += values[order[k]]
        out[at[i]] = total


def add_at(out: DeviceArray, key: Any, values: DeviceArray) -> None:
    """out[key] += values, every repeated index counted, in their order."""
    at = _positions(out.shape, key).reshape(-1)
    if at.size:
        order = np.argsort(at, kind="stable")
        places, first = np.unique(at[order], return_index=True)
        borders = np.append(first, at.size)
        launch(_add_runs, places.size, out.flat, asarray(places), asarray(order), asarray(borders), values.flat)


def matmul(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    """a @ b with NumPy's rules for shapes."""
    dtype = np.result_type(a.dtype, b.dtype)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    left = a if a.ndim > 1 else a.reshape(1, a.size)
    right = b if b.ndim > 1 else b.reshape(b.size, 1)
    rows, depth, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    if right.ndim == 2:  # one product over all leading dimensions
        outer = left.shape[:-2]
        out = product(left.reshape(math.prod(outer) * rows, depth), right)
    else:
        outer = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        stacked = (
            broadcast_to(m, (*outer, *m.shape[-2:])).reshape(math.prod(outer), *m.shape[-2:]) for m in (left, right)
        )
        out = stacked_product(*stacked)
    return out.reshape(*outer, *(rows,) * (a.ndim > 1), *(columns,) * (b.ndim > 1))
