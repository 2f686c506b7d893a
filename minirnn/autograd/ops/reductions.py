"""Sums, means, variances, norms, extremes and softmax over dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

import numpy as np

from minirnn import kernels
from minirnn.autograd import tape
from minirnn.autograd.ops.elementwise import abs
from minirnn.autograd.ops.operands import Dims, TensorLike, as_tensor, check_floating, normalize_dim, normalize_dims
from minirnn.autograd.tape import record
from minirnn.errors import ShapeError
from minirnn.kernels.contract import Array
from minirnn.validation import check_float

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor

__all__ = ["argmax", "argmin", "cumsum", "log_softmax", "max", "mean", "min", "norm", "softmax", "std", "sum", "var"]


class ValuesAndIndices(NamedTuple):
    """What ``max`` and ``min`` along one dimension return."""

    values: Tensor
    indices: Tensor


def sum(input: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Sum over one, several or (None) all dimensions; with ``keepdim`` they stay, with an extent of 1."""
    x = as_tensor(input)
    dims, shape, K = normalize_dims("sum", dim, x.ndim), x.shape, kernels.on(x.device)

    def gradients(g: Array) -> tuple[Array]:
        kept = tuple(1 if d in dims else size for d, size in enumerate(shape))
        return (K.broadcast_to(g.reshape(kept), shape),)

    return record("sum", (x,), x.data.sum(axis=dims, keepdims=keepdim), gradients)


def mean(input: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Arithmetic mean over one, several or (None) all dimensions; NaN over no elements."""
    x = as_tensor(input)
    check_floating("mean", x)
    count = math.prod(x.shape[d] for d in normalize_dims("mean", dim, x.ndim))
    return sum(x, dim, keepdim) / float(count) if count else sum(x, dim, keepdim) * math.nan


def var(input: TensorLike, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> Tensor:
    """Variance, sum((x - mean)^2) / (n - correction), over one, several or (None) all dimensions.

    Computed in two passes, so that a large mean costs no precision. NaN or infinite where n is at most ``correction``.
    """
    x = as_tensor(input)
    check_floating("var", x)
    dims = normalize_dims("var", dim, x.ndim)
    count = math.prod(x.shape[d] for d in dims)
    centred = x - mean(x.detach(), dims, keepdim=True)  # through the mean flows no gradient: the deviations sum to 0
    divisor = count - check_float("var: correction", correction)
    return sum(centred * centred, dims, keepdim) / (divisor if divisor > 0 else 0.0)


def std(input: TensorLike, dim: Dims = None, *, correction: float = 1, keepdim: bool = False) -> Tensor:
    """Standard deviation, the square root of :func:`var`; its gradient where it is 0 is 0."""
    return _root("std", var(input, dim, correction=correction, keepdim=keepdim))


@np.errstate(all="ignore")
def _root(name: str, x: Tensor) -> Tensor:
    """The square root, with the subgradient 0 at 0."""
    K = kernels.on(x.device)
    y = K.sqrt(x.data)
    return record(name, (x,), y, lambda g: (K.where(K.equal(y, 0), 0, K.divide(g, 2 * y)),))


@np.errstate(all="ignore")
def norm(input: TensorLike, p: float = 2, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """sum(abs(x)^p)^(1/p) over one, several or (None) all dimensions; for p = inf the largest abs(x).

    p is above 0. The gradient of a norm of 0 is 0; elements that are equally the largest share that of p = inf.
    """
    x = as_tensor(input)
    check_floating("norm", x)
    p, dims = check_float("norm: p", p, exclude_minimum=True), normalize_dims("norm", dim, x.ndim)
    if p == 1:
        return sum(abs(x), dims, keepdim)
    if p == 2:
        return _root("norm", sum(x * x, dims, keepdim))
    largest, shape = p == math.inf, tuple(1 if d in dims else extent for d, extent in enumerate(x.shape))
    if largest and 0 in (x.shape[d] for d in dims):
        raise ShapeError(f"norm: a tensor of shape {list(x.shape)} has no elements, of which p = inf takes the largest")
    K = kernels.on(x.device)
    size = K.abs(x.data)
    y = size.max(axis=dims) if largest else K.power(K.power(size, p).sum(axis=dims), 1 / p)
    y = K.asarray(y).reshape(shape)

    def gradients(g: Array) -> tuple[Array]:
        g = g.reshape(shape)
        if largest:
            ties = K.equal(size, y)
            return (K.sign(x.data) * ties * (g / ties.sum(axis=dims, keepdims=True)).astype(x.dtype),)
        ratio = size / K.where(K.equal(y, 0), 1, y)
        return (K.sign(x.data) * K.where(K.equal(ratio, 0), 0, K.power(ratio, p - 1)) * g,)

    kept = shape if keepdim else tuple(extent for d, extent in enumerate(shape) if d not in dims)
    return record("norm", (x,), y.reshape(kept), gradients)


@np.errstate(over="ignore")
def cumsum(input: TensorLike, dim: int) -> Tensor:
    """Running sum along ``dim``: y_i = x_0 + ... + x_i; int64 for integers and booleans."""
    x = as_tensor(input)
    d, K = normalize_dim("cumsum", dim, x.ndim), kernels.on(x.device)
    line = x.shape or (1,)

    def gradients(g: Array) -> tuple[Array]:
        return (K.flip(K.cumsum(K.flip(g.reshape(line), (d,)), d), (d,)).reshape(x.shape),)

    return record("cumsum", (x,), K.cumsum(x.data.reshape(line), d).reshape(x.shape), gradients)


def _dim_of_extreme(name: str, x: Tensor, dim: int | None) -> int | None:
    """The dimension counted from the first; there must be elements to choose from."""
    d = None if dim is None else normalize_dim(name, dim, x.ndim)
    if x.numel() == 0 and (d is None or x.shape[d] == 0):
        raise ShapeError(f"{name}: a tensor of shape {list(x.shape)} has no elements to choose from")
    return d


def _extreme(name: str, input: TensorLike, dim: int | None, keepdim: bool) -> Tensor | ValuesAndIndices:
    x = as_tensor(input)
    d = _dim_of_extreme(name, x, dim)
    K = kernels.on(x.device)
    if d is None:
        best = K.asarray(getattr(x.data, name)())

        def shared(g: Array) -> tuple[Array]:  # equal extremes share the gradient, as in PyTorch; so does every NaN
            at = K.maximum(K.equal(x.data, best), K.not_equal(x.data, x.data))
            return (at * (g / at.sum()).astype(x.dtype),)

        return record(name, (x,), best, shared)
    index = getattr(K, f"arg{name}")(x.data, axis=d, keepdims=True)
    values = K.take_along_axis(x.data, index, axis=d)

    def gradients(g: Array) -> tuple[Array]:
        dx = K.zeros_like(x.data)
        K.put_along_axis(dx, index, g.reshape(index.shape), d)
        return (dx,)

    shape = index.shape if keepdim else index.shape[:d] + index.shape[d + 1 :]
    result = record(name, (x,), values.reshape(shape), gradients)
    return ValuesAndIndices(result, tape.new_tensor(index.reshape(shape), x.device))


@overload
def max(input: TensorLike, dim: None = None, keepdim: bool = False) -> Tensor: ...
@overload
def max(input: TensorLike, dim: int, keepdim: bool = False) -> ValuesAndIndices: ...
def max(input: TensorLike, dim: int | None = None, keepdim: bool = False) -> Tensor | ValuesAndIndices:
    """The largest element; along ``dim`` a pair (values, indices)."""
    return _extreme("max", input, dim, keepdim)


@overload
def min(input: TensorLike, dim: None = None, keepdim: bool = False) -> Tensor: ...
@overload
def min(input: TensorLike, dim: int, keepdim: bool = False) -> ValuesAndIndices: ...
def min(input: TensorLike, dim: int | None = None, keepdim: bool = False) -> Tensor | ValuesAndIndices:
    """The smallest element; along ``dim`` a pair (values, indices)."""
    return _extreme("min", input, dim, keepdim)


def _arg_extreme(name: Literal["argmax", "argmin"], input: TensorLike, dim: int | None, keepdim: bool) -> Tensor:
    x = as_tensor(input)
    d = _dim_of_extreme(name, x, dim)
    K = kernels.on(x.device)
    return tape.new_tensor(K.asarray(getattr(K, name)(x.data, axis=d, keepdims=keepdim)), x.device)


def argmax(input: TensorLike, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Indices of the largest elements along ``dim``; without it one index into the flattened tensor."""
    return _arg_extreme("argmax", input, dim, keepdim)


def argmin(input: TensorLike, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Indices of the smallest elements along ``dim``; without it one index into the flattened tensor."""
    return _arg_extreme("argmin", input, dim, keepdim)


@np.errstate(all="ignore")
def softmax(input: TensorLike, dim: int = -1) -> Tensor:
    """e^x / sum(e^x) along ``dim``."""
    x = as_tensor(input)
    check_floating("softmax", x)
    d = normalize_dim("softmax", dim, x.ndim)
    y = kernels.on(x.device).softmax(x.data, d)
    return record("softmax", (x,), y, lambda g: (y * (g - (g * y).sum(axis=d, keepdims=True)),))


@np.errstate(all="ignore")
def log_softmax(input: TensorLike, dim: int = -1) -> Tensor:
    """x - log(sum(e^x)) along ``dim``."""
    x = as_tensor(input)
    check_floating("log_softmax", x)
    d, K = normalize_dim("log_softmax", dim, x.ndim), kernels.on(x.device)
    y = K.log_softmax(x.data, d)
    return record("log_softmax", (x,), y, lambda g: (g - K.exp(y) * g.sum(axis=d, keepdims=True),))
