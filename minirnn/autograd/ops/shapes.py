"""Shape, order, selection, joining and splitting: the elements stay as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minirnn import kernels
from minirnn.autograd import tape
from minirnn.autograd.ops.operands import as_tensor, int_tuple, normalize_dim, normalize_dims, promote, unbroadcast
from minirnn.autograd.ops.rows import as_index, check_range
from minirnn.autograd.tape import record, record_many, same_device
from minirnn.errors import IndexRangeError, ShapeError
from minirnn.kernels.contract import Array
from minirnn.validation import check_int

if TYPE_CHECKING:
    from minirnn.autograd.ops.operands import Dims, Ints, TensorLike
    from minirnn.autograd.tensor import Tensor

__all__ = ["cat", "chunk", "concatenate", "flip", "gather", "permute", "reshape", "split", "squeeze", "stack"]
__all__ += ["t", "transpose", "unsqueeze"]


def reshape(input: TensorLike, *shape: Ints) -> Tensor:
    """The same elements in another shape; one extent may be -1, which is found from the others."""
    x = as_tensor(input)
    expected = int_tuple(shape)
    try:
        y = x.data.reshape(expected)
    except ValueError:
        raise ShapeError(f"reshape: {list(x.shape)} has {x.numel()} elements, {list(expected)} does not") from None
    return record("reshape", (x,), y, lambda g: (g.reshape(x.shape),))


def permute(input: TensorLike, *dims: Ints) -> Tensor:
    """Dimensions in another order: dimension k of the result is dimension ``dims[k]`` of ``input``."""
    x = as_tensor(input)
    order = normalize_dims("permute", int_tuple(dims), x.ndim)
    if len(order) != x.ndim:
        raise ShapeError(f"permute: expected an order of {x.ndim} dimensions, got {list(order)}")
    inverse = tuple(int(d) for d in np.argsort(order))
    return record("permute", (x,), x.data.transpose(order), lambda g: (g.transpose(inverse),))


def transpose(input: TensorLike, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped."""
    x = as_tensor(input)
    d0, d1 = normalize_dim("transpose", dim0, x.ndim), normalize_dim("transpose", dim1, x.ndim)
    return record("transpose", (x,), x.data.swapaxes(d0, d1), lambda g: (g.swapaxes(d0, d1),))


def t(input: TensorLike) -> Tensor:
    """The transpose of a matrix; a tensor of fewer dimensions as it is."""
    x = as_tensor(input)
    if x.ndim > 2:
        raise ShapeError(f"t: expected a tensor of at most 2 dimensions, got {list(x.shape)}; use transpose or permute")
    return x if x.ndim < 2 else transpose(x, 0, 1)


def flatten(input: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from ``start_dim`` to ``end_dim``, both included, as one."""
    x = as_tensor(input)
    if not x.shape:
        return reshape(x, (1,))
    first, last = normalize_dim("flatten", start_dim, x.ndim), normalize_dim("flatten", end_dim, x.ndim)
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in {x.ndim} dimensions")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def squeeze(input: TensorLike, dim: Dims = None) -> Tensor:
    """Without the dimensions of extent 1; only without those in ``dim`` where it is given."""
    x = as_tensor(input)
    if isinstance(dim, (int, np.integer)):
        dims: tuple[int, ...] = (normalize_dim("squeeze", dim, x.ndim),)
    else:
        dims = normalize_dims("squeeze", dim, x.ndim)
    shape = tuple(size for d, size in enumerate(x.shape) if size != 1 or d not in dims)
    return x if shape == x.shape and dim is not None else reshape(x, shape)


def unsqueeze(input: TensorLike, dim: int) -> Tensor:
    """With a dimension of extent 1 inserted at ``dim``."""
    x = as_tensor(input)
    d = normalize_dim("unsqueeze", dim, x.ndim + 1)
    return reshape(x, (*x.shape[:d], 1, *x.shape[d:]))


def _index_part(part: Any) -> Any:
    """One part of a key as the array indexes by it; an empty list has no type of its own."""
    if isinstance(part, list):
        return np.asarray(part) if np.size(part) else np.asarray(part, np.int64)
    return part.data if isinstance(part, tape.tensor_class) else part


def index(input: TensorLike, key: Any) -> Tensor:
    """x[key] with NumPy's rules: integers, slices, None, ``...``, boolean masks and integer arrays."""
    x = as_tensor(input)
    plain = tuple(map(_index_part, key if isinstance(key, tuple) else (key,)))
    try:
        y = x.data[plain]
    except IndexError as error:
        raise IndexRangeError(f"index: {error}; the tensor has shape {list(x.shape)}") from None
    basic = all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in plain)
    K = kernels.on(x.device)

    def gradients(g: Array) -> tuple[Array]:
        dx = K.zeros_like(x.data)
        if basic:  # a view of distinct elements
            dx[plain] = g
        else:
            K.add_at(dx, plain, g)
        return (dx,)

    return record("index", (x,), y, gradients)


def gather(input: TensorLike, dim: int, index: TensorLike) -> Tensor:
    """y[i][j] = x[index[i][j]][j] for ``dim`` 0, y[i][j] = x[i][index[i][j]] for 1, and so on.

    ``index`` has integers and as many dimensions as ``input``; no extent but that of ``dim`` may be larger.
    """
    x, at = as_tensor(input), as_index("gather index", index)
    d, _ = _extent("gather", x, dim)
    if at.ndim != x.ndim or any(at.shape[k] > x.shape[k] for k in range(x.ndim) if k != d):
        raise ShapeError(f"gather: an index of shape {list(at.shape)} does not fit a tensor of {list(x.shape)}")
    check_range("gather", at, x.shape[d])
    K = kernels.on(x.device)
    window = x.data[tuple(slice(None) if k == d else slice(size) for k, size in enumerate(at.shape))]

    def gradients(g: Array) -> tuple[Array]:
        dx = K.zeros_like(x.data)
        K.put_along_axis(dx, at, g, d)
        return (dx,)

    return record("gather", (x,), K.take_along_axis(window, at, axis=d), gradients)


def flip(input: TensorLike, *dims: Ints) -> Tensor:
    """The order of elements reversed along ``dims``."""
    x = as_tensor(input)
    axes, K = normalize_dims("flip", int_tuple(dims), x.ndim), kernels.on(x.device)
    return record("flip", (x,), K.flip(x.data, axes), lambda g: (K.flip(g, axes),))


def concatenate(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Tensors one after the other along ``dim``."""
    xs = promote(tensors)
    if not xs:
        raise ShapeError("concatenate: expected at least one tensor")
    d = normalize_dim("concatenate", dim, xs[0].ndim)
    others = {(*t.shape[:d], -1, *t.shape[d + 1 :]) if t.ndim == xs[0].ndim else None for t in xs}
    if xs[0].ndim == 0 or len(others) != 1:
        shapes = ", ".join(str(list(t.shape)) for t in xs)
        raise ShapeError(f"concatenate: shapes {shapes} differ in more than dimension {d}")
    borders = np.cumsum([t.shape[d] for t in xs])[:-1]
    K = kernels.on(same_device("concatenate", *xs))
    data = K.concatenate([t.data for t in xs], axis=d)
    return record("concatenate", xs, data, lambda g: tuple(map(unbroadcast, K.split(g, borders, axis=d), xs)))


cat = concatenate


def stack(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    xs = promote(tensors)
    if len({t.shape for t in xs}) != 1:
        raise ShapeError(f"stack: expected tensors of one shape, got {[list(t.shape) for t in xs]}")
    d = normalize_dim("stack", dim, xs[0].ndim + 1)
    K = kernels.on(same_device("stack", *xs))
    data = K.stack([t.data for t in xs], axis=d)
    return record("stack", xs, data, lambda g: tuple(map(unbroadcast, K.unstack(g, d), xs)))


def _extent(name: str, x: Tensor, dim: int) -> tuple[int, int]:
    """The dimension counted from the first, and its extent."""
    if not x.shape:
        raise ShapeError(f"{name}: expected a tensor of at least one dimension, got a single number")
    d = normalize_dim(name, dim, x.ndim)
    return d, x.shape[d]


def split(input: TensorLike, split_size: Ints, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of ``split_size`` elements (the last may be smaller), or of the sizes given, along ``dim``."""
    x = as_tensor(input)
    d, extent = _extent("split", x, dim)
    if isinstance(split_size, (int, np.integer)):
        size = check_int("split: split_size", split_size)
        sizes = [min(size, extent - at) for at in range(0, extent, size)] or [0]
    else:
        sizes = [int(s) for s in split_size]
        if sum(sizes) != extent or min(sizes, default=0) < 0:
            raise ShapeError(f"split: sizes {sizes} do not add up to {extent}, the extent of dimension {d}")
    K = kernels.on(x.device)
    parts = K.split(x.data, np.cumsum(sizes, dtype=np.int64)[:-1], axis=d)

    def gradients(*gs: Array | None) -> tuple[Array]:
        pieces = [K.zeros(p.shape, x.dtype) if g is None else g for g, p in zip(gs, parts, strict=True)]
        return (K.concatenate(pieces, axis=d),)

    return record_many("split", (x,), parts, gradients)


def chunk(input: TensorLike, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` pieces of equal size along ``dim``; the last may be smaller."""
    x = as_tensor(input)
    _, extent = _extent("chunk", x, dim)
    return split(x, max(1, -(-extent // check_int("chunk: chunks", chunks))), dim)
