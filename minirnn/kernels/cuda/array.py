"""Elementwise arithmetic, indexing and shapes on the GPU, with NumPy's rules for shapes and types."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn.errors import DeviceError, ShapeError
from minirnn.kernels import pointwise
from minirnn.kernels.cuda import device, jit
from minirnn.kernels.cuda.device import DeviceArray, asarray, empty, full, launch
from minirnn.kernels.cuda.jit import cuda, device_function, kernel, larger, smaller
from minirnn.kernels.cuda.matrix import gemm, stacked_product
from minirnn.kernels.cuda.rows import scatter_rows, take_rows
from minirnn.kernels.cuda.strided import collapsed, copied, made, overwrite, place, plan_of


def from_raw(raw: Any, owner: Any) -> DeviceArray:
    """Another library's array, whose memory it shares and keeps alive.

    Raises:
        DTypeError: its elements are of a type kernels do not have.
        ShapeError: it is not C-contiguous.
    """
    device.check_type(raw.dtype)
    if not raw.is_c_contiguous():
        raise ShapeError(
            f"device 'cuda': expected a C-contiguous array, got {list(raw.shape)} with gaps; copy it first"
        )
    return device.borrowed(raw, owner)


def astype(x: DeviceArray, dtype: np.dtype, copy: bool) -> DeviceArray:
    """The values in another type."""
    if x.dtype == dtype and not copy:
        return x
    out = empty(x.shape, dtype)
    overwrite(out, x)
    return out


def transpose(x: DeviceArray, order: tuple[int, ...]) -> DeviceArray:
    """The dimensions in another order."""
    return made(x, plan_of(x.shape).transpose(order))


# --------------------------------------------------------------------------------------------------- indexing


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    kinds = (int, np.integer, slice, type(None), type(Ellipsis))
    return builtins.all(isinstance(p, kinds) and not isinstance(p, bool) for p in parts)


def _part(x: DeviceArray, key: Any) -> np.ndarray:
    """The plan of x[key] for a basic key; a plan even of a single element, which NumPy would give as a number."""
    parts = key if isinstance(key, tuple) else (key,)
    return plan_of(x.shape)[parts if Ellipsis in parts else (*parts, Ellipsis)]


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
        return made(x, _part(x, key))
    if _is_rows(key):
        return take_rows(x, _row_numbers(x, key))
    at = _positions(x.shape, key)
    return take_along_axis(x.reshape(x.size), at.reshape(-1), 0).reshape(at.shape)


def setitem(x: DeviceArray, key: Any, value: Any) -> None:
    """x[key] = value with NumPy's rules; where a key names an element twice, either value may stay."""
    source = _operand(value, x.dtype)
    if key is Ellipsis and source.shape == x.shape:
        overwrite(x, source)
        return
    if _is_basic(key):
        to = _part(x, key)
        copied(x, to, source, np.broadcast_to(plan_of(source.shape), to.shape))
        return
    if _is_rows(key):
        scatter_rows(x, _row_numbers(x, key), broadcast_to(source, (key.size, *x.shape[1:])))
        return
    at = _positions(x.shape, key)
    if at.size:
        spread = made(source, np.broadcast_to(plan_of(source.shape), at.shape))
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
    """What :func:`collapsed` gives for arrays that broadcast to ``shape``."""
    size = math.prod(shape)
    if builtins.all(x.size in (1, size) for x in xs):
        return (size,), *((0, int(x.size == size)) for x in xs)
    return collapsed([np.broadcast_to(plan_of(x.shape), shape) for x in xs])


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
            out[i] = function(a[place(i, shape, by_a)], b[place(i, shape, by_b)])

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


add = _binary("add", device_function(lambda a, b: a + b))
subtract = _binary("subtract", device_function(lambda a, b: a - b))
multiply = _binary("multiply", device_function(lambda a, b: a * b))
divide = _binary("divide", device_function(lambda a, b: a / b))
power = _binary("power", device_function(lambda a, b: a**b))
maximum = _binary("maximum", larger)
minimum = _binary("minimum", smaller)
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
log = _unary(jit.log)
log1p = _unary(jit.log1p)
sqrt = _unary(jit.sqrt)
tanh = _unary(pointwise.tanh)
sigmoid = _unary(pointwise.sigmoid)
softplus = _unary(pointwise.softplus)
erf = _unary(math.erf)


def clip(x: DeviceArray, low: Any = None, high: Any = None) -> DeviceArray:
    """x, but at least ``low`` and at most ``high``; NaN stays."""
    above = x if low is None else maximum(x, low)
    return above if high is None else minimum(above, high)


@kernel
def _choose(out: Any, mask: Any, a: Any, b: Any, shape: Any, by_mask: Any, by_a: Any, by_b: Any) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        if mask[place(i, shape, by_mask)]:
            out[i] = a[place(i, shape, by_a)]
        else:
            out[i] = b[place(i, shape, by_b)]


def where(mask: DeviceArray, a: Any, b: Any) -> DeviceArray:
    """a where the mask holds, else b; all three broadcast."""
    dtype = _loop("maximum", _kind(a), _kind(b))[-1]
    x, y = _operand(a, dtype), _operand(b, dtype)
    out = empty(np.broadcast_shapes(mask.shape, x.shape, y.shape), dtype)
    if out.size:
        launch(_choose, out.size, out.flat, mask.flat, x.flat, y.flat, *_lined_up(out.shape, mask, x, y))
    return out


def scaled(x: DeviceArray, factor: DeviceArray) -> DeviceArray:
    """x times one number, whatever it is: to look would be to wait for the GPU."""
    return multiply(x, factor)


def zeros_like(x: DeviceArray) -> DeviceArray:
    """Zeros of the shape and type of x."""
    return full(x.shape, 0, x.dtype)


def ones_like(x: DeviceArray) -> DeviceArray:
    """Ones of the shape and type of x."""
    return full(x.shape, 1, x.dtype)


# -------------------------------------------------------------------------------------- shapes, by copies


def contiguous(x: DeviceArray) -> DeviceArray:
    """x itself, as every array of this device is.

    Raises:
        DeviceError: x is an array of the host.
    """
    if not isinstance(x, DeviceArray):
        raise DeviceError("expected an array of 'cuda', got one of the host; move it there with .to('cuda')")
    return x


def broadcast_to(x: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """x with its elements repeated over dimensions of extent 1."""
    return made(x, np.broadcast_to(plan_of(x.shape), shape))


def flip(x: DeviceArray, axes: tuple[int, ...]) -> DeviceArray:
    """The order of elements reversed along ``axes``."""
    return made(x, np.flip(plan_of(x.shape), axes))


def split(x: DeviceArray, borders: Any, axis: int) -> list[DeviceArray]:
    """The pieces between ``borders`` along ``axis``."""
    return [made(x, piece) for piece in np.split(plan_of(x.shape), borders, axis)]


def unstack(x: DeviceArray, axis: int) -> list[DeviceArray]:
    """The pieces of extent 1 along ``axis``, without it."""
    plan = np.moveaxis(plan_of(x.shape), axis, 0)
    return [made(x, plan[k, ...]) for k in range(len(plan))]


def concatenate(xs: Sequence[DeviceArray], axis: int) -> DeviceArray:
    """Arrays one after the other along ``axis``."""
    shape = list(xs[0].shape)
    shape[axis] = builtins.sum(x.shape[axis] for x in xs)
    out = empty(tuple(shape), np.result_type(*(x.dtype for x in xs)))
    borders = np.cumsum([x.shape[axis] for x in xs])[:-1]
    for x, piece in zip(xs, np.split(plan_of(out.shape), borders, axis), strict=True):
        copied(out, piece, x, plan_of(x.shape))
    return out


def stack(xs: Sequence[DeviceArray], axis: int) -> DeviceArray:
    """Arrays of one shape side by side along a new dimension."""
    shape = (*xs[0].shape[:axis], 1, *xs[0].shape[axis:])
    return concatenate([x.reshape(shape) for x in xs], axis)


# ------------------------------------------------------------------------------------- gathering, scattering


@kernel
def _take(out: Any, x: Any, index: Any, shape: Any, by_x: Any, step: int) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[place(i, shape, by_x) + index[i] * step]


def take_along_axis(x: DeviceArray, index: Any, axis: int) -> DeviceArray:
    """x at ``index`` [as many dimensions] along ``axis``; the others of x may be longer than those of the index."""
    at = asarray(index, np.int64)
    out = empty(at.shape, x.dtype)
    if out.size:
        plan, step = _line_starts(x.shape, at.shape, axis)
        launch(_take, out.size, out.flat, x.flat, at.flat, *collapsed((plan,)), step)
    return out


def _line_starts(shape: tuple[int, ...], expected: tuple[int, ...], axis: int) -> tuple[np.ndarray, int]:
    """For each element of ``expected`` where its line along ``axis`` begins in ``shape``, and a line's step."""
    plan = plan_of(shape)
    window = plan[tuple(slice(1) if d == axis else slice(n) for d, n in enumerate(expected))]
    return np.broadcast_to(window, expected), plan.strides[axis]


@kernel
def _put_lines(out: Any, index: Any, values: Any, lines: int, shape: Any, to: Any, source: Any, extent: int,
               step: int, walk: int) -> None:  # fmt: skip
    """One thread adds up one line, in its order: no two threads meet."""
    for i in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first, at = place(i, shape, to), place(i, shape, source)
        for k in range(extent):
            out[first + index[at + k * walk] * step] += values[at + k * walk]


def put_along_axis(out: DeviceArray, index: Any, values: DeviceArray, axis: int) -> None:
    """out += values at ``index`` along ``axis``, every repeated index counted."""
    at = asarray(index, np.int64)
    if not at.size:
        return
    starts, step = _line_starts(out.shape, at.shape, axis)
    lines = tuple(slice(1) if d == axis else slice(None) for d in range(at.ndim))
    source = plan_of(at.shape)
    to, source_lines = starts[lines], source[lines]
    launch(
        _put_lines, to.size, out.flat, at.flat, values.flat, to.size, *collapsed((to, source_lines)),
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
        out = gemm(left.reshape(math.prod(outer) * rows, depth), right)
    else:
        outer = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        stacked = (
            broadcast_to(m, (*outer, *m.shape[-2:])).reshape(math.prod(outer), *m.shape[-2:]) for m in (left, right)
        )
        out = stacked_product(*stacked)
    return out.reshape(*outer, *(rows,) * (a.ndim > 1), *(columns,) * (b.ndim > 1))
