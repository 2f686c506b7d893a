"""Arithmetic, products, and functions of each element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn import kernels, random
from minirnn.autograd.ops.operands import (
    as_rows,
    as_tensor,
    cast,
    check_floating,
    ignore_fp_errors,
    normalize_dim,
    pair,
    promote,
    real,
    unbroadcast,
)
from minirnn.autograd.tensor import Tensor, record, same_device
from minirnn.errors import DTypeError, OptionError, ShapeError


def add(a: Any, b: Any) -> Tensor:
    """a + b."""
    x, y, K = pair("add", a, b)
    return record("add", (x, y), K.add(x.data, y.data), lambda g: (unbroadcast(g, x), unbroadcast(g, y)))


def subtract(a: Any, b: Any) -> Tensor:
    """a - b."""
    x, y, K = pair("subtract", a, b)
    return record("subtract", (x, y), K.subtract(x.data, y.data), lambda g: (unbroadcast(g, x), unbroadcast(-g, y)))


def multiply(a: Any, b: Any) -> Tensor:
    """a b, element by element."""
    x, y, K = pair("multiply", a, b)

    def gradients(g: Any) -> tuple[Any, Any]:
        dx = unbroadcast(K.multiply(g, y.data), x) if x.requires_grad else None
        return dx, unbroadcast(K.multiply(g, x.data), y) if y.requires_grad else None

    return record("multiply", (x, y), K.multiply(x.data, y.data), gradients)


def divide(a: Any, b: Any) -> Tensor:
    """a / b."""
    x, y, K = pair("divide", a, b)
    quotient = ignore_fp_errors(K.divide, x.data, y.data)
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        quotient = quotient.astype(np.float32)

    def gradients(g: Any) -> tuple[Any, Any]:
        dx = ignore_fp_errors(K.divide, g, y.data)
        return unbroadcast(dx, x), unbroadcast(-dx * quotient, y) if y.requires_grad else None

    return record("divide", (x, y), quotient, gradients)


def power(a: Any, b: Any) -> Tensor:
    """a to the power b; d/da = b a^(b-1), d/db = a^b log a (0 where a = 0)."""
    x, y, K = pair("power", a, b)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu" and (y.data < 0).any():
        raise OptionError("power: an integer to a negative power is not an integer; convert it with .to('float32')")
    result = ignore_fp_errors(K.power, x.data, y.data)

    def gradients(g: Any) -> tuple[Any, Any]:
        dx = dy = None
        if x.requires_grad:
            slope = K.where(y.data == 0, 0, y.data * ignore_fp_errors(K.power, x.data, y.data - 1))
            dx = unbroadcast(g * slope, x)
        if y.requires_grad:
            log_x = ignore_fp_errors(K.log, K.where(x.data == 0, 1, x.data))
            dy = unbroadcast(g * result * log_x, y)
        return dx, dy

    return record("power", (x, y), result, gradients)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b, element by element; NaN where either is. Where they are equal, a gets the gradient."""
    return _extremum("minimum", a, b)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b, element by element; NaN where either is. Where they are equal, a gets the gradient."""
    return _extremum("maximum", a, b)


def _extremum(name: str, a: Any, b: Any) -> Tensor:
    x, y, K = pair(name, a, b)

    def gradients(g: Any) -> tuple[Any, Any]:
        second = K.less(y.data, x.data) if name == "minimum" else K.less(x.data, y.data)
        return unbroadcast(K.where(second, 0, g), x), unbroadcast(K.where(second, g, 0), y)

    return record(name, (x, y), getattr(K, name)(x.data, y.data), gradients)


def negative(a: Any) -> Tensor:
    """-a."""
    x = as_tensor(a)
    return record("negative", (x,), kernels.on(x.device).negative(x.data), lambda g: (-g,))


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product with NumPy's rules: vectors, matrices, and stacks of matrices that broadcast."""
    x, y = promote((a, b))
    fits = x.ndim > 0 and y.ndim > 0 and x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0]
    if fits:
        try:
            np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        except ValueError:
            fits = False
    if not fits:
        raise ShapeError(
            f"matmul: cannot multiply {list(x.shape)} by {list(y.shape)}; the last dimension of the first must equal "
            "the last but one of the second, and leading ones must broadcast"
        )
    K = kernels.on(x.device)

    def gradients(g: Any) -> tuple[Any, Any]:
        left = x.data if x.ndim > 1 else x.data[None, :]
        right = y.data if y.ndim > 1 else y.data[:, None]
        g = g[..., None, :] if x.ndim == 1 and y.ndim > 1 else g
        g = g[..., None] if y.ndim == 1 and x.ndim > 1 else g
        g = g.reshape(1, 1) if x.ndim == y.ndim == 1 else g
        dx = dy = None
        if x.requires_grad:
            dx = unbroadcast(K.matmul(g, right.swapaxes(-1, -2)), Tensor(left)).reshape(x.shape)
        if y.requires_grad and right.ndim == 2 and left.ndim > 2:  # one product over all leading dimensions
            dy = K.matmul(as_rows(K, left).T, as_rows(K, g)).reshape(y.shape)
        elif y.requires_grad:
            dy = unbroadcast(K.matmul(left.swapaxes(-1, -2), g), Tensor(right)).reshape(y.shape)
        return dx, dy

    return record("matmul", (x, y), K.matmul(x.data, y.data), gradients)


def linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """y = x W^T + b over the last dimension: x [..., I], W [O, I], b [O], y [..., O].

    Raises:
        ShapeError: the last dimension of x is not I.
    """
    weight = as_tensor(weight)
    x, bias = as_tensor(x, weight), None if bias is None else as_tensor(bias, weight)
    if weight.ndim != 2:
        raise ShapeError(f"linear: expected a weight [O, I], got {list(weight.shape)}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: expected input [..., {weight.shape[1]}], got {list(x.shape)}")
    if x.dtype != weight.dtype:
        raise DTypeError(f"linear: the input is {x.dtype}, the weight {weight.dtype}; convert one with .to(...)")
    K = kernels.on(weight.device)
    same_device("linear", x, weight, bias)
    rows = as_rows(K, x.data)
    w = weight.data
    b = None if bias is None else bias.data
    out = K.gemm(rows, w, b, transpose_b=True)

    def gradients(g: Any) -> tuple[Any, Any, Any]:
        g = as_rows(K, g)
        dx = K.gemm(g, w).reshape(x.shape) if x.requires_grad else None
        dw = K.gemm(g, rows, transpose_a=True) if weight.requires_grad else None
        return dx, dw, K.column_sums(g) if bias is not None and bias.requires_grad else None

    return record("linear", (x, weight, bias), out.reshape(*x.shape[:-1], w.shape[0]), gradients)


def exp(a: Any) -> Tensor:
    """e^a."""
    x = real(a)
    y = ignore_fp_errors(kernels.on(x.device).exp, x.data)
    return record("exp", (x,), y, lambda g: (g * y,))


def log(a: Any) -> Tensor:
    """Natural logarithm."""
    x = real(a)
    K = kernels.on(x.device)
    return record("log", (x,), ignore_fp_errors(K.log, x.data), lambda g: (ignore_fp_errors(K.divide, g, x.data),))


def log1p(a: Any) -> Tensor:
    """log(1 + a), accurate for small a too."""
    x = real(a)
    K = kernels.on(x.device)
    return record(
        "log1p", (x,), ignore_fp_errors(K.log1p, x.data), lambda g: (ignore_fp_errors(K.divide, g, 1 + x.data),)
    )


def sqrt(a: Any) -> Tensor:
    """Square root."""
    x = real(a)
    K = kernels.on(x.device)
    y = ignore_fp_errors(K.sqrt, x.data)
    return record("sqrt", (x,), y, lambda g: (ignore_fp_errors(K.divide, g, 2 * y),))


def tanh(a: Any) -> Tensor:
    """Hyperbolic tangent; d/da = 1 - y^2."""
    x = real(a)
    y = kernels.on(x.device).tanh(x.data)
    return record("tanh", (x,), y, lambda g: (g * (1 - y * y),))


def sigmoid(a: Any) -> Tensor:
    """1 / (1 + e^-a); d/da = y (1 - y)."""
    x = real(a)
    y = kernels.on(x.device).sigmoid(x.data)
    return record("sigmoid", (x,), y, lambda g: (g * y * (1 - y),))


def softplus(a: Any) -> Tensor:
    """log(1 + e^a), without overflow; d/da = sigmoid(a)."""
    x = real(a)
    K = kernels.on(x.device)
    return record("softplus", (x,), K.softplus(x.data), lambda g: (g * K.sigmoid(x.data),))


def erf(a: Any) -> Tensor:
    """Error function; d/da = 2 / sqrt(pi) e^(-a^2)."""
    x = real(a)
    K = kernels.on(x.device)
    slope = 2 / math.sqrt(math.pi)
    return record(
        "erf", (x,), K.erf(x.data), lambda g: (g * slope * ignore_fp_errors(lambda: K.exp(-x.data * x.data)),)
    )


def relu(a: Any) -> Tensor:
    """max(a, 0)."""
    x = as_tensor(a)
    y = kernels.on(x.device).maximum(x.data, x.dtype.type(0))
    return record("relu", (x,), y, lambda g: (g * (y > 0),))


def abs(a: Any) -> Tensor:
    """|a|; the gradient at 0 is 0."""
    x = as_tensor(a)
    K = kernels.on(x.device)
    return record("abs", (x,), K.abs(x.data), lambda g: (g * K.sign(x.data),))


def clip(a: Any, min: float | None = None, max: float | None = None) -> Tensor:
    """a, but at least ``min`` and at most ``max``; the gradient is 0 where it was outside."""
    x = as_tensor(a)
    if min is None and max is None:
        raise OptionError("clip: give min, max or both")
    bounds: list[Any] = [None if bound is None else np.asarray(bound) for bound in (min, max)]
    if x.dtype.kind != "f" and any(bound is not None and bound.dtype.kind == "f" for bound in bounds):
        x = cast(x, np.dtype(np.float32))
    if x.dtype.kind == "f":  # the bounds are constants: they take the type of a
        bounds = [None if bound is None else bound.astype(x.dtype) for bound in bounds]
        y = kernels.on(x.device).clip(x.data, *bounds)
    else:
        y = kernels.on(x.device).clip(x.data, min, max)
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    return record("clip", (x,), y, lambda g: (g * ((x.data >= low) & (x.data <= high)),))


def softmax(a: Any, dim: int = -1) -> Tensor:
    """e^a / sum(e^a) along ``dim``."""
    x = as_tensor(a)
    check_floating("softmax", x)
    d = normalize_dim("softmax", dim, x.ndim)
    y = ignore_fp_errors(kernels.on(x.device).softmax, x.data, d)
    return record("softmax", (x,), y, lambda g: (y * (g - (g * y).sum(axis=d, keepdims=True)),))


def log_softmax(a: Any, dim: int = -1) -> Tensor:
    """a - log(sum(e^a)) along ``dim``."""
    x = as_tensor(a)
    check_floating("log_softmax", x)
    d = normalize_dim("log_softmax", dim, x.ndim)
    K = kernels.on(x.device)
    y = ignore_fp_errors(K.log_softmax, x.data, d)
    return record("log_softmax", (x,), y, lambda g: (g - K.exp(y) * g.sum(axis=d, keepdims=True),))


def dropout(a: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p (in steps of 1/65536) and scale the rest by 1 / (1 - p).

    The mask is a function of one seed drawn from :mod:`minirnn.random`; it is made again on the way back, not
    kept (Srivastava et al. 2014).
    """
    x = as_tensor(a)
    if not 0 <= p <= 1:
        raise OptionError(f"dropout: p must be from 0 to 1, got {p}")
    if not training or p == 0:
        return x
    check_floating("dropout", x)
    K, seed = kernels.on(x.device), random.draw_seed()
    y = K.dropout(K.contiguous(x.data), p, seed)
    return record("dropout", (x,), y, lambda g: (K.dropout(K.contiguous(g), p, seed),))


def clone(a: Any) -> Tensor:
    """A copy."""
    x = as_tensor(a)
    return record("clone", (x,), x.data.copy(), lambda g: (g,))


def compare(name: str, a: Any, b: Any) -> Tensor:
    """A boolean mask; ``name`` is one of equal, not_equal, less, less_equal, greater, greater_equal."""
    x, y, K = pair(name, a, b)
    same_device(name, x, y)
    return Tensor(getattr(K, name)(x.data, y.data), device=x.device)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, else b; all three broadcast."""
    x, y, K = pair("where", a, b)
    mask = as_tensor(condition, x).data.astype(bool)
    try:
        result = K.where(mask, x.data, y.data)
    except ValueError:
        raise ShapeError(
            f"where: the condition {list(mask.shape)} does not broadcast with {list(x.shape)} and {list(y.shape)}"
        ) from None
    return record(
        "where", (x, y), result, lambda g: (unbroadcast(K.where(mask, g, 0), x), unbroadcast(K.where(mask, 0, g), y))
    )


def masked_fill(a: Any, mask: Any, value: float) -> Tensor:
    """a, but ``value`` where the mask is true."""
    x = as_tensor(a)
    return where(mask, x.dtype.type(value), x)
