"""Elementwise functions on the GPU, with NumPy's rules for broadcasting and result types."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable

import numpy as np

from minirnn.kernels import pointwise
from minirnn.kernels.cuda import jit
from minirnn.kernels.cuda.array import FUNCTIONS, DeviceArray, Operand, empty
from minirnn.kernels.cuda.creation import asarray, full
from minirnn.kernels.cuda.jit import Array, cuda, device_function, kernel
from minirnn.kernels.cuda.launch import launch
from minirnn.kernels.cuda.strided import coalesce, element_index, layout_of


@functools.lru_cache(512)
def _constant(data: bytes, dtype: str) -> DeviceArray:
    return full((), np.frombuffer(data, dtype)[0], np.dtype(dtype))


def to_operand(value: Operand, dtype: np.dtype) -> DeviceArray:
    """``value`` as an array of ``dtype``; a number as an array that is made once, and only read."""
    if isinstance(value, DeviceArray):
        return value.astype(dtype, copy=False)
    host = np.asarray(value, dtype)
    return asarray(host) if host.ndim else _constant(host.tobytes(), dtype.str)


@functools.lru_cache(512)
def _resolve_dtypes(name: str, *kinds: np.dtype | type) -> tuple[np.dtype, ...]:
    """The types NumPy computes an operation in: of its inputs, and of its result."""
    return getattr(np, name).resolve_dtypes((*kinds, None))


def _promotion_kind(value: Operand) -> np.dtype | type:
    """A value's type by NumPy's rules of promotion: that of a Python number is weak."""
    if type(value) in (int, float):  # not NumPy's float64, which is a float too
        return type(value)
    return value.dtype if isinstance(value, DeviceArray) else np.asarray(value).dtype


def _broadcast(shape: tuple[int, ...], *xs: DeviceArray) -> tuple[tuple[int, ...], ...]:
    """What :func:`coalesce` gives for arrays that broadcast to ``shape``."""
    size = math.prod(shape)
    if builtins.all(x.size in (1, size) for x in xs):
        return (size,), *((0, int(x.size == size)) for x in xs)
    return coalesce([np.broadcast_to(layout_of(x.shape), shape) for x in xs])


def _unary(function: Callable) -> Callable[[DeviceArray], DeviceArray]:
    @kernel
    def unary(out: Array, x: Array) -> None:
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = function(x[i])

    def apply(x: DeviceArray) -> DeviceArray:
        out = empty(x.shape, x.dtype)
        if x.size:
            launch(unary, x.size, out.flat, x.flat)
        return out

    return apply


def _binary(name: str, function: Callable) -> Callable[..., DeviceArray]:
    """``function`` of the elements of two arrays that broadcast, in the types NumPy computes ``name`` in."""

    @kernel
    def binary(out: Array, a: Array, b: Array, shape: tuple, a_strides: tuple, b_strides: tuple) -> None:
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = function(a[element_index(i, shape, a_strides)], b[element_index(i, shape, b_strides)])

    def apply(a: Operand, b: Operand, out: DeviceArray | None = None) -> DeviceArray:
        first, second, dtype = _resolve_dtypes(name, _promotion_kind(a), _promotion_kind(b))
        x, y = to_operand(a, first), to_operand(b, second)
        shape = x.shape if x.shape == y.shape else np.broadcast_shapes(x.shape, y.shape)
        if out is None:
            out = empty(shape, dtype)
        elif out.shape != shape:
            raise ValueError(f"{name}: expected an output of shape {shape}, got {out.shape}")
        if out.size:
            launch(binary, out.size, out.flat, x.flat, y.flat, *_broadcast(shape, x, y))
        return out

    FUNCTIONS[name] = apply
    return apply


add = _binary("add", jit.add)
subtract = _binary("subtract", device_function(lambda a, b: a - b))
multiply = _binary("multiply", device_function(lambda a, b: a * b))
divide = _binary("divide", device_function(lambda a, b: a / b))
power = _binary("power", device_function(lambda a, b: a**b))
maximum = _binary("maximum", jit.larger)
minimum = _binary("minimum", jit.smaller)
equal = _binary("equal", device_function(lambda a, b: a == b))
not_equal = _binary("not_equal", device_function(lambda a, b: a != b))
less = _binary("less", device_function(lambda a, b: a < b))
less_equal = _binary("less_equal", device_function(lambda a, b: a <= b))
greater = _binary("greater", device_function(lambda a, b: a > b))
greater_equal = _binary("greater_equal", device_function(lambda a, b: a >= b))

abs = _unary(device_function(lambda x: -x if x < 0 else x))
negative = FUNCTIONS["negative"] = _unary(device_function(lambda x: -x))
sign = _unary(device_function(lambda x: 1 if x > 0 else -1 if x < 0 else x))  # 0 and NaN as they are
exp = _unary(pointwise.exp)
log = _unary(jit.log)
log1p = _unary(jit.log1p)
sqrt = _unary(jit.sqrt)
tanh = _unary(pointwise.tanh)
sigmoid = _unary(pointwise.sigmoid)
softplus = _unary(pointwise.softplus)
erf = _unary(math.erf)


def scaled(x: DeviceArray, factor: DeviceArray) -> DeviceArray:
    """Multiplies whatever the factor is: to look at it would be to wait for the GPU."""
    return multiply(x, factor)


def clip(x: DeviceArray, low: float | None = None, high: float | None = None) -> DeviceArray:
    above = x if low is None else maximum(x, low)
    return above if high is None else minimum(above, high)


@kernel
def _where(out: Array, arrays: tuple, shape: tuple, strides: tuple) -> None:
    (mask, a, b), (mask_strides, a_strides, b_strides) = arrays, strides
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        if mask[element_index(i, shape, mask_strides)]:
            out[i] = a[element_index(i, shape, a_strides)]
        else:
            out[i] = b[element_index(i, shape, b_strides)]


def where(condition: DeviceArray, a: Operand, b: Operand) -> DeviceArray:
    dtype = _resolve_dtypes("maximum", _promotion_kind(a), _promotion_kind(b))[-1]
    x, y = to_operand(a, dtype), to_operand(b, dtype)
    out = empty(np.broadcast_shapes(condition.shape, x.shape, y.shape), dtype)
    if out.size:
        shape, *strides = _broadcast(out.shape, condition, x, y)
        launch(_where, out.size, out.flat, (condition.flat, x.flat, y.flat), shape, tuple(strides))
    return out
