"""Arithmetic and functions of each element.

Everywhere ``input`` and ``other`` are tensors, or constants: numbers, lists, NumPy arrays. Two of them broadcast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from minirnn import kernels, random
from minirnn.autograd import tape
from minirnn.autograd.ops.operands import (
    as_floating,
    as_tensor,
    broadcast_pair,
    cast,
    check_floating,
    ignore_fp_errors,
    unbroadcast,
)
from minirnn.autograd.tape import record
from minirnn.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from minirnn.autograd.ops.operands import TensorLike
    from minirnn.autograd.tensor import Tensor
    from minirnn.kernels.contract import Array

__all__ = [
    "abs", "clip", "dropout", "erf", "exp", "log", "log1p", "masked_fill", "maximum", "minimum", "relu", "sigmoid",
    "softplus", "sqrt", "tanh", "where",
]  # fmt: skip

# ------------------------------------------------------------------------------------------- two operands


def _record_binary(
    name: str, x: Tensor, y: Tensor, data: Array, x_gradient: Callable[[Array], Array], y_gradient: Callable[[Array], Array]
) -> Tensor:
    """Record ``data``, given the gradients of x and y before they are summed over the dimensions that were broadcast."""

    def gradients(g: Array) -> tuple[Array | None, Array | None]:
        return (
            unbroadcast(x_gradient(g), x) if x.requires_grad else None,
            unbroadcast(y_gradient(g), y) if y.requires_grad else None,
        )

    return record(name, (x, y), data, gradients)


def add(input: TensorLike, other: TensorLike) -> Tensor:
    """x + y."""
    x, y, K = broadcast_pair("add", input, other)
    return _record_binary("add", x, y, K.add(x.data, y.data), lambda g: g, lambda g: g)


def subtract(input: TensorLike, other: TensorLike) -> Tensor:
    """x - y."""
    x, y, K = broadcast_pair("subtract", input, other)
    return _record_binary("subtract", x, y, K.subtract(x.data, y.data), lambda g: g, lambda g: -g)


def multiply(input: TensorLike, other: TensorLike) -> Tensor:
    """x y."""
    x, y, K = broadcast_pair("multiply", input, other)
    data = K.multiply(x.data, y.data)
    return _record_binary("multiply", x, y, data, lambda g: K.multiply(g, y.data), lambda g: K.multiply(g, x.data))


def divide(input: TensorLike, other: TensorLike) -> Tensor:
    """x / y; float32 for two integers."""
    x, y, K = broadcast_pair("divide", input, other)
    data = ignore_fp_errors(K.divide, x.data, y.data)
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        data = data.astype(np.float32)
    return _record_binary(
        "divide", x, y, data, lambda g: K.divide(g, y.data), lambda g: -K.divide(g, y.data) * data
    )


def power(input: TensorLike, exponent: TensorLike) -> Tensor:
    """x^y; d/dx = y x^(y-1), d/dy = x^y log x (0 where x = 0).

    Raises:
        OptionError: an integer to a negative power.
    """
    x, y, K = broadcast_pair("power", input, exponent)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu" and (y.data < 0).any():
        raise OptionError("power: an integer to a negative power is not an integer; convert it with .to('float32')")
    data = ignore_fp_errors(K.power, x.data, y.data)
    return _record_binary(
        "power", x, y, data,
        lambda g: g * K.where(y.data == 0, 0, y.data * K.power(x.data, y.data - 1)),
        lambda g: g * data * K.log(K.where(x.data == 0, 1, x.data)),
    )


def minimum(input: TensorLike, other: TensorLike) -> Tensor:
    """The smaller of x and y; NaN where either is. Where they are equal, ``input`` gets the gradient."""
    x, y, K = broadcast_pair("minimum", input, other)
    return _record_binary(
        "minimum", x, y, K.minimum(x.data, y.data),
        lambda g: K.where(K.less(y.data, x.data), 0, g), lambda g: K.where(K.less(y.data, x.data), g, 0),
    )


def maximum(input: TensorLike, other: TensorLike) -> Tensor:
    """The larger of x and y; NaN where either is. Where they are equal, ``input`` gets the gradient."""
    x, y, K = broadcast_pair("maximum", input, other)
    return _record_binary(
        "maximum", x, y, K.maximum(x.data, y.data),
        lambda g: K.where(K.less(x.data, y.data), 0, g), lambda g: K.where(K.less(x.data, y.data), g, 0),
    )


def where(condition: TensorLike, input: TensorLike, other: TensorLike) -> Tensor:
    """x where the condition holds, else y; all three broadcast.

    Raises:
        ShapeError: they do not.
    """
    x, y, K = broadcast_pair("where", input, other)
    mask = as_tensor(condition, x).data.astype(bool)
    try:
        data = K.where(mask, x.data, y.data)
    except ValueError:
        raise ShapeError(
            f"where: the condition {list(mask.shape)} does not broadcast with {list(x.shape)} and {list(y.shape)}"
        ) from None
    return _record_binary("where", x, y, data, lambda g: K.where(mask, g, 0), lambda g: K.where(mask, 0, g))


def masked_fill(input: TensorLike, mask: TensorLike, value: float) -> Tensor:
    """x, but ``value`` where the mask is true."""
    x = as_tensor(input)
    return where(mask, x.dtype.type(value), x)


def compare(name: str, input: TensorLike, other: TensorLike) -> Tensor:
    """A boolean mask; ``name`` is one of equal, not_equal, less, less_equal, greater, greater_equal."""
    x, y, K = broadcast_pair(name, input, other)
    device = tape.same_device(name, x, y)
    return tape.new_tensor(getattr(K, name)(x.data, y.data), device)


# -------------------------------------------------------------------------------------------- one operand


def negative(input: TensorLike) -> Tensor:
    """-x."""
    x = as_tensor(input)
    return record("negative", (x,), kernels.on(x.device).negative(x.data), lambda g: (-g,))


def clone(input: TensorLike) -> Tensor:
    """A copy."""
    x = as_tensor(input)
    return record("clone", (x,), x.data.copy(), lambda g: (g,))


def exp(input: TensorLike) -> Tensor:
    """e^x."""
    x, K = as_floating(input)
    y = ignore_fp_errors(K.exp, x.data)
    return record("exp", (x,), y, lambda g: (g * y,))


def log(input: TensorLike) -> Tensor:
    """Natural logarithm."""
    x, K = as_floating(input)
    return record("log", (x,), ignore_fp_errors(K.log, x.data), lambda g: (K.divide(g, x.data),))


def log1p(input: TensorLike) -> Tensor:
    """log(1 + x), accurate for small x too."""
    x, K = as_floating(input)
    return record("log1p", (x,), ignore_fp_errors(K.log1p, x.data), lambda g: (K.divide(g, 1 + x.data),))


def sqrt(input: TensorLike) -> Tensor:
    """Square root; dy/dx = 1 / (2 y)."""
    x, K = as_floating(input)
    y = ignore_fp_errors(K.sqrt, x.data)
    return record("sqrt", (x,), y, lambda g: (K.divide(g, 2 * y),))


def tanh(input: TensorLike) -> Tensor:
    """Hyperbolic tangent; dy/dx = 1 - y^2."""
    x, K = as_floating(input)
    y = K.tanh(x.data)
    return record("tanh", (x,), y, lambda g: (g * (1 - y * y),))


def sigmoid(input: TensorLike) -> Tensor:
    """1 / (1 + e^-x); dy/dx = y (1 - y)."""
    x, K = as_floating(input)
    y = K.sigmoid(x.data)
    return record("sigmoid", (x,), y, lambda g: (g * y * (1 - y),))


def softplus(input: TensorLike) -> Tensor:
    """log(1 + e^x), without overflow; dy/dx = sigmoid(x)."""
    x, K = as_floating(input)
    return record("softplus", (x,), K.softplus(x.data), lambda g: (g * K.sigmoid(x.data),))


def erf(input: TensorLike) -> Tensor:
    """Error function; dy/dx = 2 / sqrt(pi) e^(-x^2)."""
    x, K = as_floating(input)
    return record("erf", (x,), K.erf(x.data), lambda g: (g * (2 / math.sqrt(math.pi)) * K.exp(-x.data * x.data),))


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
    """x, but at least ``min`` and at most ``max``; the gradient is 0 where x is outside.

    Raises:
        OptionError: neither is given.
    """
    x = as_tensor(input)
    if min is None and max is None:
        raise OptionError("clip: give min, max or both")
    bounds = [None if bound is None else np.asarray(bound) for bound in (min, max)]
    if x.dtype.kind != "f" and any(bound is not None and bound.dtype.kind == "f" for bound in bounds):
        x = cast(x, np.dtype(np.float32))
    if x.dtype.kind == "f":  # the bounds are constants: they take the type of x
        bounds = [None if bound is None else bound.astype(x.dtype) for bound in bounds]
        y = kernels.on(x.device).clip(x.data, *bounds)
    else:
        y = kernels.on(x.device).clip(x.data, min, max)
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    return record("clip", (x,), y, lambda g: (g * ((x.data >= low) & (x.data <= high)),))


def dropout(input: TensorLike, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p) (Srivastava et al. 2014).

    The mask is a function of one seed from :mod:`minirnn.random`, computed again in the backward pass instead of
    being kept.

    Args:
        p: from 0 to 1, in steps of 1/65536.
        training: otherwise ``input`` is returned as it is.

    Raises:
        OptionError: p is out of range.
        DTypeError: ``input`` is not floating-point.
    """
    x = as_tensor(input)
    if not 0 <= p <= 1:
        raise OptionError(f"dropout: p must be from 0 to 1, got {p}")
    if not training or p == 0:
        return x
    check_floating("dropout", x)
    K, seed = kernels.on(x.device), random.draw_seed()
    y = K.dropout(K.contiguous(x.data), p, seed)
    return record("dropout", (x,), y, lambda g: (K.dropout(K.contiguous(g), p, seed),))
