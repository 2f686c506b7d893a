"""Arithmetic and functions of each element, with one table of derivatives.

Everywhere ``input`` and ``other`` are tensors, or constants: numbers, lists, NumPy arrays. Two of them broadcast, and
types are promoted as in PyTorch: a number or a list takes the tensor's type, but a float64 array makes the result of a
float32 tensor float64. Modules differ: they cast arrays to the type of their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from minirnn import kernels, random
from minirnn.autograd import tape
from minirnn.autograd.ops.operands import (
    as_floating,
    as_operand,
    as_tensor,
    broadcast_pair,
    check_floating,
    unbroadcast,
)
from minirnn.autograd.tape import record
from minirnn.errors import OptionError, ShapeError
from minirnn.kernels.contract import Array, Kernels
from minirnn.validation import check_float

if TYPE_CHECKING:
    from minirnn.autograd.ops.operands import TensorLike
    from minirnn.autograd.tensor import Tensor

__all__ = ["abs", "clip", "dropout", "erf", "exp", "log", "log1p", "masked_fill", "maximum", "minimum", "relu"]
__all__ += ["sigmoid", "softplus", "sqrt", "tanh", "where"]


Unary: TypeAlias = "Callable[[TensorLike], Tensor]"
Binary: TypeAlias = "Callable[[TensorLike, TensorLike], Tensor]"
UnaryDerivative = Callable[[Kernels, Array, Array], Array]
BinaryDerivative = Callable[[Kernels, Array, Array, Array], Array]


def _unary(name: str, doc: str, saved: Literal["x", "y"], derivative: UnaryDerivative, quiet: bool = False) -> Unary:
    """A function of one floating-point tensor: the kernel of this name, and the gradient from g and what is saved.

    ``quiet`` functions may overflow or divide by zero: infinities and NaN come without NumPy's warnings.
    """

    def function(input: TensorLike) -> Tensor:
        x, K = as_floating(input)
        y = getattr(K, name)(x.data)
        save = x.data if saved == "x" else y
        return record(name, (x,), y, lambda g: (derivative(K, g, save),))

    function.__name__, function.__qualname__, function.__doc__ = name, name, doc
    return np.errstate(all="ignore")(function) if quiet else function


def _record_binary(
    name: str, x: Tensor, y: Tensor, data: Array, dx: Callable[[Array], Array], dy: Callable[[Array], Array]
) -> Tensor:
    """Record ``data``; dx and dy map the gradient of it to those of x and y, before broadcast dimensions are summed."""

    def gradients(g: Array) -> tuple[Array | None, Array | None]:
        return (unbroadcast(dx(g), x) if x.requires_grad else None, unbroadcast(dy(g), y) if y.requires_grad else None)

    return record(name, (x, y), data, gradients)


def _binary(name: str, doc: str, dx: BinaryDerivative, dy: BinaryDerivative) -> Binary:
    """A function of two tensors: the kernel of this name, and both gradients from g, x and y."""

    def function(input: TensorLike, other: TensorLike) -> Tensor:
        x, y, K = broadcast_pair(name, input, other)
        data, a, b = getattr(K, name)(x.data, y.data), x.data, y.data
        return _record_binary(name, x, y, data, lambda g: dx(K, g, a, b), lambda g: dy(K, g, a, b))

    function.__name__, function.__qualname__, function.__doc__ = name, name, doc
    return function


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)

exp = _unary("exp", "e^x.", "y", lambda K, g, y: g * y, quiet=True)
log = _unary("log", "Natural logarithm; dy/dx = 1 / x.", "x", lambda K, g, x: K.divide(g, x), quiet=True)
log1p = _unary("log1p", "log(1 + x), accurate for small x too.", "x", lambda K, g, x: K.divide(g, 1 + x), quiet=True)
sqrt = _unary("sqrt", "Square root; dy/dx = 1 / (2 y).", "y", lambda K, g, y: K.divide(g, 2 * y), quiet=True)
tanh = _unary("tanh", "Hyperbolic tangent; dy/dx = 1 - y^2.", "y", lambda K, g, y: g * (1 - y * y))
sigmoid = _unary("sigmoid", "1 / (1 + e^-x); dy/dx = y (1 - y).", "y", lambda K, g, y: g * y * (1 - y))
softplus = _unary("softplus", "log(1 + e^x), without overflow.", "x", lambda K, g, x: g * K.sigmoid(x))
erf = _unary(
    "erf", "Error function; dy/dx = 2 / sqrt(pi) e^(-x^2).", "x", lambda K, g, x: g * _TWO_OVER_SQRT_PI * K.exp(-x * x)
)

add = _binary("add", "x + y.", lambda K, g, x, y: g, lambda K, g, x, y: g)
subtract = _binary("subtract", "x - y.", lambda K, g, x, y: g, lambda K, g, x, y: -g)
multiply = _binary("multiply", "x y.", lambda K, g, x, y: K.multiply(g, y), lambda K, g, x, y: K.multiply(g, x))
minimum = _binary(
    "minimum",
    "The smaller of x and y; NaN where either is. Where they are equal, ``input`` gets the gradient.",
    lambda K, g, x, y: K.where(K.less(y, x), 0, g),
    lambda K, g, x, y: K.where(K.less(y, x), g, 0),
)
maximum = _binary(
    "maximum",
    "The larger of x and y; NaN where either is. Where they are equal, ``input`` gets the gradient.",
    lambda K, g, x, y: K.where(K.less(x, y), 0, g),
    lambda K, g, x, y: K.where(K.less(x, y), g, 0),
)


@np.errstate(all="ignore")
def divide(input: TensorLike, other: TensorLike) -> Tensor:
    """x / y; float32 for two integers."""
    x, y, K = broadcast_pair("divide", input, other)
    data = K.divide(x.data, y.data)
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        data = data.astype(np.float32)
    return _record_binary("divide", x, y, data, lambda g: K.divide(g, y.data), lambda g: -K.divide(g, y.data) * data)


@np.errstate(all="ignore")
def power(input: TensorLike, exponent: TensorLike) -> Tensor:
    """x^y; d/dx = y x^(y-1), d/dy = x^y log x (0 where x = 0)."""
    x, y, K = broadcast_pair("power", input, exponent)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu" and (y.data < 0).any():
        raise OptionError("power: an integer to a negative power is not an integer; convert it with .to('float32')")
    data = K.power(x.data, y.data)

    def dx(g: Array) -> Array:
        return g * K.where(y.data == 0, 0, y.data * K.power(x.data, y.data - 1))

    return _record_binary("power", x, y, data, dx, lambda g: g * data * K.log(K.where(x.data == 0, 1, x.data)))


def where(condition: TensorLike, input: TensorLike, other: TensorLike) -> Tensor:
    """x where the condition holds, else y; all three broadcast."""
    x, y, K = broadcast_pair("where", input, other)
    mask = as_operand(condition, x).data.astype(bool)
    try:
        data = K.where(mask, x.data, y.data)
    except ValueError:
        shapes = f"{list(x.shape)} and {list(y.shape)}"
        raise ShapeError(f"where: the condition {list(mask.shape)} does not broadcast with {shapes}") from None
    return _record_binary("where", x, y, data, lambda g: K.where(mask, g, 0), lambda g: K.where(mask, 0, g))


def masked_fill(input: TensorLike, mask: TensorLike, value: float) -> Tensor:
    """x, but ``value`` where the mask is true."""
    x = as_tensor(input)
    return where(mask, x.dtype.type(value), x)


def compare(name: str, input: TensorLike, other: TensorLike) -> Tensor:
    """A boolean mask; ``name`` is one of equal, not_equal, less, less_equal, greater, greater_equal."""
    x, y, K = broadcast_pair(name, input, other)
    return tape.new_tensor(getattr(K, name)(x.data, y.data), tape.same_device(name, x, y))


def negative(input: TensorLike) -> Tensor:
    """-x."""
    x = as_tensor(input)
    return record("negative", (x,), kernels.on(x.device).negative(x.data), lambda g: (-g,))


def clone(input: TensorLike) -> Tensor:
    """A copy."""
    x = as_tensor(input)
    return record("clone", (x,), x.data.copy(), lambda g: (g,))


def relu(input: TensorLike) -> Tensor:
    """max(x, 0); the gradient at 0 is 0."""
    x = as_tensor(input)
    y = kernels.on(x.device).maximum(x.data, x.dtype.type(0))
    return record("relu", (x,), y, lambda g: (g * (y > 0),))


def abs(input: TensorLike) -> Tensor:
    """|x|; the gradient at 0 is 0."""
    x = as_tensor(input)
    K = kernels.on(x.device)
    return record("abs", (x,), K.abs(x.data), lambda g: (g * K.sign(x.data),))


def clip(input: TensorLike, min: float | None = None, max: float | None = None) -> Tensor:
    """x, but at least ``min`` and at most ``max``; the gradient is 0 where x is outside."""
    x = as_tensor(input)
    if min is None and max is None:
        raise OptionError("clip: give min, max or both")
    bounds = [None if bound is None else np.asarray(bound) for bound in (min, max)]
    if any(bound is not None and bound.dtype.kind == "f" for bound in bounds):
        x, _ = as_floating(x)
    if x.dtype.kind == "f":  # the bounds are constants: they take the type of x
        bounds = [None if bound is None else bound.astype(x.dtype) for bound in bounds]
        y = kernels.on(x.device).clip(x.data, *bounds)
    else:
        y = kernels.on(x.device).clip(x.data, min, max)
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    return record("clip", (x,), y, lambda g: (g * ((x.data >= low) & (x.data <= high)),))


def dropout(input: TensorLike, p: float = 0.5, training: bool = True, row_numbers: np.ndarray | None = None) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p) (Srivastava et al. 2014).

    p is from 0 to 1, in steps of 1/65536; unless ``training``, ``input`` is returned as it is. The mask is a function
    of one seed from :mod:`minirnn.random`, computed again in the backward pass instead of being kept.

    Args:
        row_numbers: [S] int64, where ``input`` has S rows of numbers: row s gets row ``row_numbers[s]`` of the mask of
            a larger array, as that of a batch of which this is a shard.
    """
    x = as_tensor(input)
    check_float("dropout: p", p, 0, 1)
    if not training or p == 0:
        return x
    check_floating("dropout", x)
    K, seed = kernels.on(x.device), random.draw_seed()
    y = K.dropout(K.contiguous(x.data), p, seed, row_numbers)
    return record("dropout", (x,), y, lambda g: (K.dropout(K.contiguous(g), p, seed, row_numbers),))
