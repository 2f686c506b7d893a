"""The primitive operations. Each is declared once: what it computes, and the gradients of its inputs.

``K`` is always the kernels of the inputs' device, ``g`` the gradient of the result. Inputs may be tensors,
numbers, lists or NumPy arrays; what is not a tensor is a constant.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minirnn import kernels, random
from minirnn.autograd.tensor import Tensor, record, record_many
from minirnn.errors import DTypeError, IndexRangeError, OptionError, ShapeError

Dims = int | Sequence[int] | None


class Extreme(NamedTuple):
    """What ``max`` and ``min`` along one dimension return."""

    values: Tensor
    indices: Tensor


# ------------------------------------------------------------------------------------------------- helpers


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """``value`` as a tensor; constants take the device of ``like``, and its type where they are numbers."""
    if isinstance(value, Tensor):
        return value
    device = "cpu" if like is None else like.device
    if isinstance(value, (bool, int, float)) and like is not None:
        kind = like.dtype
        if kind.kind != "f" and isinstance(value, float):
            kind = np.dtype(np.float32)
        elif kind.kind == "b":
            kind = np.dtype(type(value))
        array = np.array(value, kind)
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"wanted a tensor or numbers, got {type(value).__name__}")
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
            raise DTypeError(f"constants of {array.dtype} are not supported; convert them to float32 or float64")
        if array.dtype.kind == "f" and not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if like is None or like.dtype.kind != "f" else like.dtype)
    return Tensor(kernels.on(device).asarray(array), device=device)


def _alike(tensors: Sequence[Any]) -> list[Tensor]:
    """All as tensors; where some are floating-point, integers take their type, as in PyTorch (not in NumPy)."""
    like = next((t for t in tensors if isinstance(t, Tensor)), None)
    xs = [as_tensor(t, like) for t in tensors]
    kinds = {x.dtype.kind for x in xs}
    if "f" in kinds and len(kinds) > 1:
        wanted = np.result_type(*(x.dtype for x in xs if x.dtype.kind == "f"))
        xs = [cast(x, wanted) if x.dtype.kind in "iu" else x for x in xs]
    return xs


def _real(a: Any) -> Tensor:
    """``a`` as a tensor of a floating-point type, float32 where it has none."""
    x = as_tensor(a)
    return x if x.dtype.kind == "f" else cast(x, np.dtype(np.float32))


def _as_rows(array: Any) -> Any:
    """[..., W] as contiguous [S, W]; the extents may be 0, so -1 will not do."""
    return np.ascontiguousarray(array).reshape(math.prod(array.shape[:-1]), array.shape[-1])


def _pair(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor, Any]:
    """Both operands as tensors that broadcast, and their kernels."""
    x, y = _alike((a, b))
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise ShapeError(
            f"{name}: shapes {list(x.shape)} and {list(y.shape)} do not broadcast; every dimension, counted from "
            "the last, must be equal or 1"
        ) from None
    return x, y, kernels.on(x.device)


def _fold(g: Any, like: Tensor) -> Any:
    """Sum ``g`` over the dimensions in which ``like`` was broadcast, and give it the type of ``like``."""
    shape = like.shape
    if g.shape != shape:
        extra = g.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(
            d + extra for d, size in enumerate(shape) if size == 1 and g.shape[d + extra] != 1
        )
        g = g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)
    return g if g.dtype == like.dtype else g.astype(like.dtype)


def _dim(name: str, dim: int, ndim: int) -> int:
    if not isinstance(dim, (int, np.integer)) or not -ndim <= dim < builtins.max(ndim, 1):
        raise ShapeError(f"{name}: dimension {dim!r} is out of range for a tensor of {ndim} dimensions")
    return int(dim) % ndim if ndim else 0


def _dims(name: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(ndim))
    wanted = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    result = tuple(_dim(name, d, ndim) for d in wanted) if ndim else ()
    if len(set(result)) != len(result):
        raise ShapeError(f"{name}: dimension given twice in {wanted}")
    return result


def _flat(values: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(1, 2)`` and ``f((1, 2))`` mean the same."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = tuple(values[0])
    return tuple(int(v) for v in values)


def _floating(name: str, x: Tensor) -> None:
    if x.dtype.kind != "f":
        raise DTypeError(f"{name}: wanted a floating-point tensor, got {x.dtype}; convert it with .to('float32')")


# ---------------------------------------------------------------------------------------------- arithmetic


def add(a: Any, b: Any) -> Tensor:
    """a + b."""
    x, y, K = _pair("add", a, b)
    return record("add", (x, y), K.add(x.data, y.data), lambda g: (_fold(g, x), _fold(g, y)))


def subtract(a: Any, b: Any) -> Tensor:
    """a - b."""
    x, y, K = _pair("subtract", a, b)
    return record("subtract", (x, y), K.subtract(x.data, y.data), lambda g: (_fold(g, x), _fold(-g, y)))


def multiply(a: Any, b: Any) -> Tensor:
    """a b, element by element."""
    x, y, K = _pair("multiply", a, b)

    def gradients(g: Any) -> tuple[Any, Any]:
        dx = _fold(K.multiply(g, y.data), x) if x.requires_grad else None
        return dx, _fold(K.multiply(g, x.data), y) if y.requires_grad else None

    return record("multiply", (x, y), K.multiply(x.data, y.data), gradients)


def _quietly(function: Any, *args: Any) -> Any:
    """IEEE arithmetic without NumPy's warnings: infinities and NaN speak for themselves."""
    with np.errstate(all="ignore"):
        return function(*args)


def divide(a: Any, b: Any) -> Tensor:
    """a / b."""
    x, y, K = _pair("divide", a, b)
    quotient = _quietly(K.divide, x.data, y.data)
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        quotient = quotient.astype(np.float32)

    def gradients(g: Any) -> tuple[Any, Any]:
        dx = _quietly(K.divide, g, y.data)
        return _fold(dx, x), _fold(-dx * quotient, y) if y.requires_grad else None

    return record("divide", (x, y), quotient, gradients)


def power(a: Any, b: Any) -> Tensor:
    """a to the power b; d/da = b a^(b-1), d/db = a^b log a (0 where a = 0)."""
    x, y, K = _pair("power", a, b)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu" and (y.data < 0).any():
        raise OptionError("power: an integer to a negative power is not an integer; convert it with .to('float32')")
    result = _quietly(K.power, x.data, y.data)

    def gradients(g: Any) -> tuple[Any, Any]:
        dx = dy = None
        if x.requires_grad:
            slope = K.where(y.data == 0, 0, y.data * _quietly(K.power, x.data, y.data - 1))
            dx = _fold(g * slope, x)
        if y.requires_grad:
            log_x = _quietly(K.log, K.where(x.data == 0, 1, x.data))
            dy = _fold(g * result * log_x, y)
        return dx, dy

    return record("power", (x, y), result, gradients)


def negative(a: Any) -> Tensor:
    """-a."""
    x = as_tensor(a)
    return record("negative", (x,), kernels.on(x.device).negative(x.data), lambda g: (-g,))


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product with NumPy's rules: vectors, matrices, and stacks of matrices that broadcast."""
    x, y = _alike((a, b))
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
            dx = _fold(K.matmul(g, right.swapaxes(-1, -2)), Tensor(left)).reshape(x.shape)
        if y.requires_grad and right.ndim == 2 and left.ndim > 2:  # one product over all leading dimensions
            dy = K.matmul(_as_rows(left).T, _as_rows(g)).reshape(y.shape)
        elif y.requires_grad:
            dy = _fold(K.matmul(left.swapaxes(-1, -2), g), Tensor(right)).reshape(y.shape)
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
        raise ShapeError(f"linear: wanted a weight [O, I], got {list(weight.shape)}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: wanted input [..., {weight.shape[1]}], got {list(x.shape)}")
    if x.dtype != weight.dtype:
        raise DTypeError(f"linear: the input is {x.dtype}, the weight {weight.dtype}; convert one with .to(...)")
    K = kernels.on(weight.device)
    rows = _as_rows(x.data)
    w = weight.data
    b = None if bias is None else bias.data
    out = K.product(rows, w, b, transpose_b=True)

    def gradients(g: Any) -> tuple[Any, Any, Any]:
        g = _as_rows(g)
        dx = K.product(g, w).reshape(x.shape) if x.requires_grad else None
        dw = K.product(g, rows, transpose_a=True) if weight.requires_grad else None
        return dx, dw, K.column_sums(g) if bias is not None and bias.requires_grad else None

    return record("linear", (x, weight, bias), out.reshape(*x.shape[:-1], w.shape[0]), gradients)


# --------------------------------------------------------------------------------------- functions of each


def exp(a: Any) -> Tensor:
    """e^a."""
    x = _real(a)
    y = _quietly(kernels.on(x.device).exp, x.data)
    return record("exp", (x,), y, lambda g: (g * y,))


def log(a: Any) -> Tensor:
    """Natural logarithm."""
    x = _real(a)
    return record("log", (x,), _quietly(kernels.on(x.device).log, x.data), lambda g: (_quietly(np.divide, g, x.data),))


def sqrt(a: Any) -> Tensor:
    """Square root."""
    x = _real(a)
    y = _quietly(kernels.on(x.device).sqrt, x.data)
    return record("sqrt", (x,), y, lambda g: (_quietly(np.divide, g, 2 * y),))


def tanh(a: Any) -> Tensor:
    """Hyperbolic tangent; d/da = 1 - y^2."""
    x = _real(a)
    y = kernels.on(x.device).tanh(x.data)
    return record("tanh", (x,), y, lambda g: (g * (1 - y * y),))


def sigmoid(a: Any) -> Tensor:
    """1 / (1 + e^-a); d/da = y (1 - y)."""
    x = _real(a)
    y = kernels.on(x.device).sigmoid(x.data)
    return record("sigmoid", (x,), y, lambda g: (g * y * (1 - y),))


def softplus(a: Any) -> Tensor:
    """log(1 + e^a), without overflow; d/da = sigmoid(a)."""
    x = _real(a)
    K = kernels.on(x.device)
    return record("softplus", (x,), K.softplus(x.data), lambda g: (g * K.sigmoid(x.data),))


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
    _floating("softmax", x)
    d = _dim("softmax", dim, x.ndim)
    y = _quietly(kernels.on(x.device).softmax, x.data, d)
    return record("softmax", (x,), y, lambda g: (y * (g - (g * y).sum(axis=d, keepdims=True)),))


def log_softmax(a: Any, dim: int = -1) -> Tensor:
    """a - log(sum(e^a)) along ``dim``."""
    x = as_tensor(a)
    _floating("log_softmax", x)
    d = _dim("log_softmax", dim, x.ndim)
    K = kernels.on(x.device)
    y = _quietly(K.log_softmax, x.data, d)
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
    _floating("dropout", x)
    K, seed = kernels.on(x.device), random.draw_seed()
    y = K.dropout(np.asarray(x.data, order="C"), p, seed)
    return record("dropout", (x,), y, lambda g: (K.dropout(np.asarray(g, order="C"), p, seed),))


def cast(a: Any, dtype: np.dtype) -> Tensor:
    """The same values in another type; integers and booleans are cut off from the tape."""
    x = as_tensor(a)
    if x.dtype == dtype:
        return x
    if dtype.kind != "f":
        return Tensor(x.data.astype(dtype), device=x.device)
    return record("cast", (x,), x.data.astype(dtype), lambda g: (g.astype(x.dtype),))


def clone(a: Any) -> Tensor:
    """A copy."""
    x = as_tensor(a)
    return record("clone", (x,), x.data.copy(), lambda g: (g,))


def compare(name: str, a: Any, b: Any) -> Tensor:
    """A boolean mask; ``name`` is one of equal, not_equal, less, less_equal, greater, greater_equal."""
    x, y, K = _pair(name, a, b)
    return Tensor(getattr(K, name)(x.data, y.data), device=x.device)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, else b; all three broadcast."""
    x, y, K = _pair("where", a, b)
    mask = as_tensor(condition, x).data.astype(bool)
    try:
        result = K.where(mask, x.data, y.data)
    except ValueError:
        raise ShapeError(
            f"where: the condition {list(mask.shape)} does not broadcast with {list(x.shape)} and {list(y.shape)}"
        ) from None
    return record("where", (x, y), result, lambda g: (_fold(K.where(mask, g, 0), x), _fold(K.where(mask, 0, g), y)))


def masked_fill(a: Any, mask: Any, value: float) -> Tensor:
    """a, but ``value`` where the mask is true."""
    x = as_tensor(a)
    return where(mask, x.dtype.type(value), x)


# ---------------------------------------------------------------------------------------------- reductions


def sum(a: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Sum over ``dim`` (one, several or all dimensions)."""
    x = as_tensor(a)
    dims = _dims("sum", dim, x.ndim)
    shape = x.shape

    def gradients(g: Any) -> tuple[Any]:
        kept = tuple(1 if d in dims else size for d, size in enumerate(shape))
        return (np.broadcast_to(g.reshape(kept), shape),)

    return record("sum", (x,), np.asarray(x.data.sum(axis=dims, keepdims=keepdim)), gradients)


def mean(a: Any, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Arithmetic mean over ``dim``."""
    x = as_tensor(a)
    _floating("mean", x)
    count = math.prod(x.shape[d] for d in _dims("mean", dim, x.ndim))
    return sum(x, dim, keepdim) / float(count) if count else sum(x, dim, keepdim) * math.nan


def _not_empty(name: str, x: Tensor, dim: int | None) -> None:
    if x.numel() == 0 and (dim is None or x.shape[dim] == 0):
        raise ShapeError(f"{name}: a tensor of shape {list(x.shape)} has no elements to choose from")


def _extreme(name: str, a: Any, dim: int | None, keepdim: bool) -> Tensor | Extreme:
    x = as_tensor(a)
    d = None if dim is None else _dim(name, dim, x.ndim)
    _not_empty(name, x, d)
    K = kernels.on(x.device)
    if d is None:
        best = np.asarray(getattr(x.data, name)())

        def shared(g: Any) -> tuple[Any]:  # equal extremes share the gradient, as in PyTorch
            at = x.data == best if best == best else x.data != x.data
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
    d = None if dim is None else _dim(name, dim, x.ndim)
    _not_empty(name, x, d)
    found = getattr(kernels.on(x.device), name)(x.data, axis=d, keepdims=keepdim)
    return Tensor(np.asarray(found), device=x.device)


# -------------------------------------------------------------------------------------------------- shapes


def reshape(a: Any, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape; one extent may be -1."""
    x = as_tensor(a)
    wanted = _flat(shape)
    try:
        y = x.data.reshape(wanted)
    except ValueError:
        raise ShapeError(f"reshape: {list(x.shape)} has {x.numel()} elements, {list(wanted)} does not") from None
    return record("reshape", (x,), y, lambda g: (g.reshape(x.shape),))


def permute(a: Any, *dims: int | Sequence[int]) -> Tensor:
    """Dimensions in another order."""
    x = as_tensor(a)
    order = _dims("permute", _flat(dims), x.ndim)
    if len(order) != x.ndim:
        raise ShapeError(f"permute: wanted an order of {x.ndim} dimensions, got {list(order)}")
    back = tuple(int(d) for d in np.argsort(order))
    return record("permute", (x,), x.data.transpose(order), lambda g: (g.transpose(back),))


def transpose(a: Any, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped."""
    x = as_tensor(a)
    d0, d1 = _dim("transpose", dim0, x.ndim), _dim("transpose", dim1, x.ndim)
    return record("transpose", (x,), x.data.swapaxes(d0, d1), lambda g: (g.swapaxes(d0, d1),))


def flatten(a: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from ``start_dim`` to ``end_dim``, both included, as one."""
    x = as_tensor(a)
    if not x.shape:
        return reshape(x, (1,))
    first, last = _dim("flatten", start_dim, x.ndim), _dim("flatten", end_dim, x.ndim)
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in {x.ndim} dimensions")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def squeeze(a: Any, dim: Dims = None) -> Tensor:
    """Without dimensions of extent 1; of those in ``dim`` alone where given."""
    x = as_tensor(a)
    dims = (_dim("squeeze", dim, x.ndim),) if isinstance(dim, (int, np.integer)) else _dims("squeeze", dim, x.ndim)
    shape = tuple(size for d, size in enumerate(x.shape) if size != 1 or d not in dims)
    return x if shape == x.shape and dim is not None else reshape(x, shape)


def unsqueeze(a: Any, dim: int) -> Tensor:
    """With a dimension of extent 1 put in at ``dim``."""
    x = as_tensor(a)
    d = _dim("unsqueeze", dim, x.ndim + 1)
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
        y = np.asarray(x.data[plain])
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
    xs = _alike(tensors)
    if not xs:
        raise ShapeError("concatenate: wanted at least one tensor")
    d = _dim("concatenate", dim, xs[0].ndim)
    rests = {(*t.shape[:d], -1, *t.shape[d + 1 :]) if t.ndim == xs[0].ndim else None for t in xs}
    if xs[0].ndim == 0 or len(rests) != 1:
        shapes = ", ".join(str(list(t.shape)) for t in xs)
        raise ShapeError(f"concatenate: shapes {shapes} differ in more than dimension {d}")
    borders = np.cumsum([t.shape[d] for t in xs])[:-1]
    data = kernels.on(xs[0].device).concatenate([t.data for t in xs], axis=d)
    return record("concatenate", xs, data, lambda g: tuple(map(_fold, np.split(g, borders, axis=d), xs)))


cat = concatenate


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension."""
    xs = _alike(tensors)
    if len({t.shape for t in xs}) != 1:
        raise ShapeError(f"stack: wanted tensors of one shape, got {[list(t.shape) for t in xs]}")
    d = _dim("stack", dim, xs[0].ndim + 1)
    data = kernels.on(xs[0].device).stack([t.data for t in xs], axis=d)
    return record("stack", xs, data, lambda g: tuple(map(_fold, np.moveaxis(g, d, 0), xs)))


def _extent(name: str, x: Tensor, dim: int) -> tuple[int, int]:
    if not x.shape:
        raise ShapeError(f"{name}: wanted a tensor of at least one dimension, got a single number")
    d = _dim(name, dim, x.ndim)
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

    parts = np.split(x.data, borders, axis=d)
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
    axes = _dims("flip", _flat(dims), x.ndim)
    return record("flip", (x,), np.flip(x.data, axes), lambda g: (np.flip(g, axes),))


def gather(a: Any, dim: int, index: Any) -> Tensor:
    """out[i][j] = a[index[i][j]][j] for ``dim`` 0, and so on; ``index`` has as many dimensions as a."""
    x, at = as_tensor(a), as_tensor(index)
    d, _ = _extent("gather", x, dim)
    if at.dtype.kind not in "iu":
        raise DTypeError(f"gather: the index must be integer, got {at.dtype}")
    if at.ndim != x.ndim or any(at.shape[k] > x.shape[k] for k in range(x.ndim) if k != d):
        raise ShapeError(f"gather: an index of shape {list(at.shape)} does not fit a tensor of {list(x.shape)}")
    check_range("gather", at.data, x.shape[d])
    K = kernels.on(x.device)
    window = x.data[tuple(slice(None) if k == d else slice(size) for k, size in enumerate(at.shape))]

    def gradients(g: Any) -> tuple[Any]:
        dx = K.zeros_like(x.data)
        K.put_along_axis(dx, at.data, g, d)
        return (dx,)

    return record("gather", (x,), K.take_along_axis(window, at.data, axis=d), gradients)


# ----------------------------------------------------------------------------------------------- row tables


def check_range(name: str, index: Any, count: int) -> None:
    """Raise :class:`IndexRangeError` where an index is below 0 or not below ``count``."""
    if index.size and (index.min() < 0 or index.max() >= count):
        bad = index[(index < 0) | (index >= count)].flat[0]
        raise IndexRangeError(f"{name}: index {bad} is out of range; the table has {count} rows, 0 to {count - 1}")


def as_index(name: str, values: Any) -> np.ndarray:
    """Integers as a contiguous int64 array."""
    array = values.data if isinstance(values, Tensor) else np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: wanted integers, got {array.dtype}")
    return np.asarray(array, dtype=np.int64, order="C")


def embedding(table: Tensor, tokens: Any, padding_idx: int | None = None) -> Tensor:
    """Rows of a table: table [V, E], tokens any shape [...] to [..., E].

    Args:
        padding_idx: a row that gets no gradient.

    Raises:
        IndexRangeError: a token is not from 0 to V - 1.
    """
    index = as_index("embedding", tokens)
    check_range("embedding", index, table.shape[0])
    K = kernels.on(table.device)
    rows = index.reshape(-1)
    count, width = table.shape

    def gradients(g: Any) -> tuple[Any]:
        d_table = K.add_rows_at(_as_rows(g), rows, count)
        if padding_idx is not None:
            d_table[padding_idx] = 0
        return (d_table,)

    data = K.take_rows(table.data, rows).reshape(*index.shape, width)
    return record("embedding", (table,), data, gradients)


def take_rows(x: Tensor, rows: np.ndarray) -> Tensor:
    """x[rows] for distinct rows, [R, H] to [S, H]."""
    K = kernels.on(x.device)
    return record("take_rows", (x,), K.take_rows(x.data, rows), lambda g: (_scattered(K, g, rows, x.shape[0]),))


def put_rows(x: Tensor, rows: np.ndarray, count: int) -> Tensor:
    """[count, H], zero but for out[rows] = x, [S, H] with distinct rows."""
    K = kernels.on(x.device)
    return record("put_rows", (x,), _scattered(K, x.data, rows, count), lambda g: (K.take_rows(g, rows),))


def _scattered(K: Any, values: Any, rows: np.ndarray, count: int) -> Any:
    out = K.zeros((count, *values.shape[1:]), values.dtype)
    out[rows] = values
    return out
