"""The same elements in another shape, order or selection."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.ops.operands import (
    Dims,
    as_tensor,
    flat_ints,
    normalize_dim,
    normalize_dims,
    promote,
    unbroadcast,
)
from minirnn.autograd.ops.rows import as_index, check_range
from minirnn.autograd.tensor import Tensor, record, record_many, same_device
from minirnn.errors import IndexRangeError, OptionError, ShapeError


def reshape(a: Any, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape; one extent may be -1."""
    x = as_tensor(a)
    expected = flat_ints(shape)
    try:
        y = x.data.reshape(expected)
    except ValueError:
        raise ShapeError(f"reshape: {list(x.shape)} has {x.numel()} elements, {list(expected)} does not") from None
    return record("reshape", (x,), y, lambda g: (g.reshape(x.shape),))


def permute(a: Any, *dims: int | Sequence[int]) -> Tensor:
    """Dimensions in another order."""
    x = as_tensor(a)
    order = normalize_dims("permute", flat_ints(dims), x.ndim)
    if len(order) != x.ndim:
        raise ShapeError(f"permute: expected an order of {x.ndim} dimensions, got {list(order)}")
    back = tuple(int(d) for d in np.argsort(order))
    return record("permute", (x,), x.data.transpose(order), lambda g: (g.transpose(back),))


def transpose(a: Any, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped."""
    x = as_tensor(a)
    d0, d1 = normalize_dim("transpose", dim0, x.ndim), normalize_dim("transpose", dim1, x.ndim)
    return record("transpose", (x,), x.data.swapaxes(d0, d1), lambda g: (g.swapaxes(d0, d1),))


def flatten(a: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from ``start_dim`` to ``end_dim``, both included, as one."""
    x = as_tensor(a)
    if not x.shape:
        return reshape(x, (1,))
    first, last = normalize_dim("flatten", start_dim, x.ndim), normalize_dim("flatten", end_dim, x.ndim)
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in {x.ndim} dimensions")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def squeeze(a: Any, dim: Dims = None) -> Tensor:
    """Without dimensions of extent 1; of those in ``dim`` alone where given."""
    x = as_tensor(a)
    dims = (
        (normalize_dim("squeeze", dim, x.ndim),)
        if isinstance(dim, (int, np.integer))
        else normalize_dims("squeeze", dim, x.ndim)
    )
    shape = tuple(size for d, size in enumerate(x.shape) if size != 1 or d not in dims)
    return x if shape == x.shape and dim is not None else reshape(x, shape)


def unsqueeze(a: Any, dim: int) -> Tensor:
    """With a dimension of extent 1 put in at ``dim``."""
    x = as_tensor(a)
    d = normalize_dim("unsqueeze", dim, x.ndim + 1)
    return reshape(x, (*x.shape[:d], 1, *x.shape[d:]))


def _as_array(values: list[Any]) -> np.ndarray:
    """A list as an index: an empty one has no type of its own."""
    array = np.asarray(values)
    return array if array.size else array.astype(np.int64)


def index(a: Any, key: Any) -> Tensor:
    """a[key] with NumPy's rules: numbers, slices, None, ``...``, boolean masks and integer arrays."""
    x = as_tensor(a)
    parts = key if isinstance(key, tuple) else (key,)
    plain = tuple(p.data if isinstance(p, Tensor) else _as_array(p) if isinstance(p, list) else p for p in parts)
    try:
        y = x.data[plain]
    except IndexError as error:
        raise IndexRangeError(f"index: {error}; the tensor has shape {list(x.shape)}") from None
    basic = all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in plain)
    K = kernels.on(x.device)

    def gradients(g: Any) -> tuple[Any]:
        dx = K.zeros_like(x.data)
        if basic:  # a view of distinct elements
            dx[plain] = g
        else:
            K.add_at(dx, plain, g)
        return (dx,)

    return record("index", (x,), y, gradients)


def concatenate(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Tensors one after the other along ``dim``; all other extents must agree."""
    xs = promote(tensors)
    if not xs:
        raise ShapeError("concatenate: expected at least one tensor")
    d = normalize_dim("concatenate", dim, xs[0].ndim)
    rests = {(*t.shape[:d], -1, *t.shape[d + 1 :]) if t.ndim == xs[0].ndim else None for t in xs}
    if xs[0].ndim == 0 or len(rests) != 1:
        shapes = ", ".join(str(list(t.shape)) for t in xs)
        raise ShapeError(f"concatenate: shapes {shapes} differ in more than dimension {d}")
    borders = np.cumsum([t.shape[d] for t in xs])[:-1]
    same_device("concatenate", *xs)
    K = kernels.on(xs[0].device)
    data = K.concatenate([t.data for t in xs], axis=d)
    return record("concatenate", xs, data, lambda g: tuple(map(unbroadcast, K.split(g, borders, axis=d), xs)))


cat = concatenate


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension."""
    xs = promote(tensors)
    if len({t.shape for t in xs}) != 1:
        raise ShapeError(f"stack: expected tensors of one shape, got {[list(t.shape) for t in xs]}")
    d = normalize_dim("stack", dim, xs[0].ndim + 1)
    same_device("stack", *xs)
    K = kernels.on(xs[0].device)
    data = K.stack([t.data for t in xs], axis=d)
    return record("stack", xs, data, lambda g: tuple(map(unbroadcast, K.unstack(g, d), xs)))


def _extent(name: str, x: Tensor, dim: int) -> tuple[int, int]:
    if not x.shape:
        raise ShapeError(f"{name}: expected a tensor of at least one dimension, got a single number")
    d = normalize_dim(name, dim, x.ndim)
    return d, x.shape[d]


def split(a: Any, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of ``split_size`` (the last may be smaller), or of the sizes given, along ``dim``."""
    x = as_tensor(a)
    d, extent = _extent("split", x, dim)
    if isinstance(split_size, (int, np.integer)):
        if split_size < 1:
            raise OptionError(f"split: the size must be at least 1, got {split_size}")
        sizes = [builtins.min(int(split_size), extent - at) for at in range(0, extent, int(split_size))] or [0]
    else:
        sizes = [int(s) for s in split_size]
        if builtins.sum(sizes) != extent or builtins.min(sizes, default=0) < 0:
            raise ShapeError(f"split: sizes {sizes} do not add up to {extent}, the extent of dimension {d}")
    borders = np.cumsum(sizes, dtype=np.int64)[:-1]
    K = kernels.on(x.device)

    def gradients(*gs: Any) -> tuple[Any]:
        pieces = [K.zeros(p.shape, x.dtype) if g is None else g for g, p in zip(gs, parts, strict=True)]
        return (K.concatenate(pieces, axis=d),)

    parts = K.split(x.data, borders, axis=d)
    return record_many("split", (x,), parts, gradients)


def chunk(a: Any, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` pieces of equal size along ``dim``; the last may be smaller."""
    x = as_tensor(a)
    if chunks < 1:
        raise OptionError(f"chunk: the number of pieces must be at least 1, got {chunks}")
    _, extent = _extent("chunk", x, dim)
    return split(x, builtins.max(1, -(-extent // chunks)), dim)


def flip(a: Any, *dims: int | Sequence[int]) -> Tensor:
    """The order of elements reversed along ``dims``."""
    x = as_tensor(a)
    axes = normalize_dims("flip", flat_ints(dims), x.ndim)
    K = kernels.on(x.device)
    return record("flip", (x,), K.flip(x.data, axes), lambda g: (K.flip(g, axes),))


def gather(a: Any, dim: int, index: Any) -> Tensor:
    """out[i][j] = a[index[i][j]][j] for ``dim`` 0, and so on; ``index`` has as many dimensions as a."""
    x, at = as_tensor(a), as_index("gather index", index)
    d, _ = _extent("gather", x, dim)
    if at.ndim != x.ndim or any(at.shape[k] > x.shape[k] for k in range(x.ndim) if k != d):
        raise ShapeError(f"gather: an index of shape {list(at.shape)} does not fit a tensor of {list(x.shape)}")
    check_range("gather", at, x.shape[d])
    K = kernels.on(x.device)
    window = x.data[tuple(slice(None) if k == d else slice(size) for k, size in enumerate(at.shape))]

    def gradients(g: Any) -> tuple[Any]:
        dx = K.zeros_like(x.data)
        K.put_along_axis(dx, at, g, d)
        return (dx,)

    return record("gather", (x,), K.take_along_axis(window, at, axis=d), gradients)
