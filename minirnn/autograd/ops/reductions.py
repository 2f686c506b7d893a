"""Sums, means and extremes over dimensions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minirnn import kernels
from minirnn.autograd.ops.operands import Dims, as_tensor, check_floating, normalize_dim, normalize_dims
from minirnn.autograd.tensor import Tensor, record
from minirnn.errors import ShapeError


class Extreme(NamedTuple):
    """What ``max`` and ``min`` along one dimension return."""

    values: Tensor
    indices: Tensor


def sum(a: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Sum over ``dim`` (one, several or all dimensions)."""
    x = as_tensor(a)
    dims = normalize_dims("sum", dim, x.ndim)
    shape = x.shape
    K = kernels.on(x.device)

    def gradients(g: Any) -> tuple[Any]:
        kept = tuple(1 if d in dims else size for d, size in enumerate(shape))
        return (K.broadcast_to(g.reshape(kept), shape),)

    return record("sum", (x,), x.data.sum(axis=dims, keepdims=keepdim), gradients)


def mean(a: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Arithmetic mean over ``dim``."""
    x = as_tensor(a)
    check_floating("mean", x)
    count = math.prod(x.shape[d] for d in normalize_dims("mean", dim, x.ndim))
    return sum(x, dim, keepdim) / float(count) if count else sum(x, dim, keepdim) * math.nan


def _not_empty(name: str, x: Tensor, dim: int | None) -> None:
    if x.numel() == 0 and (dim is None or x.shape[dim] == 0):
        raise ShapeError(f"{name}: a tensor of shape {list(x.shape)} has no elements to choose from")


def _extreme(name: str, a: Any, dim: int | None, keepdim: bool) -> Tensor | Extreme:
    x = as_tensor(a)
    d = None if dim is None else normalize_dim(name, dim, x.ndim)
    _not_empty(name, x, d)
    K = kernels.on(x.device)
    if d is None:
        best = K.asarray(getattr(x.data, name)())

        def shared(g: Any) -> tuple[Any]:  # equal extremes share the gradient, as in PyTorch; so does every NaN
            at = K.maximum(K.equal(x.data, best), K.not_equal(x.data, x.data))
            return (at * (g / at.sum()).astype(x.dtype),)

        return record(name, (x,), best, shared)
    index = getattr(K, f"arg{name}")(x.data, axis=d, keepdims=True)
    values = K.take_along_axis(x.data, index, axis=d)

    def gradients(g: Any) -> tuple[Any]:
        dx = K.zeros_like(x.data)
        K.put_along_axis(dx, index, g.reshape(index.shape), d)
        return (dx,)

    shape = index.shape if keepdim else index.shape[:d] + index.shape[d + 1 :]
    result = record(name, (x,), values.reshape(shape), gradients)
    return Extreme(result, Tensor(index.reshape(shape), device=x.device))


def max(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The largest element; along ``dim`` a pair (values, indices)."""
    return _extreme("max", a, dim, keepdim)


def min(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest element; along ``dim`` a pair (values, indices)."""
    return _extreme("min", a, dim, keepdim)


def argmax(a: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest element is; of all of them, in flattened order, without ``dim``."""
    return _where_extreme("argmax", a, dim, keepdim)


def argmin(a: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest element is; of all of them, in flattened order, without ``dim``."""
    return _where_extreme("argmin", a, dim, keepdim)


def _where_extreme(name: str, a: Any, dim: int | None, keepdim: bool) -> Tensor:
    x = as_tensor(a)
    d = None if dim is None else normalize_dim(name, dim, x.ndim)
    _not_empty(name, x, d)
    K = kernels.on(x.device)
    return Tensor(K.asarray(getattr(K, name)(x.data, axis=d, keepdims=keepdim)), device=x.device)
