"""What every operation does to what it is given: make tensors of it, match types, shapes and dimensions."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor, as_array, record
from minirnn.errors import DTypeError, ShapeError

Dims = int | Sequence[int] | None


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
        array = as_array("constant", value)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"expected a tensor or numbers, got {type(value).__name__}")
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
            raise DTypeError(f"constants of {array.dtype} are not supported; convert them to float32 or float64")
        if array.dtype.kind == "f" and not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if like is None or like.dtype.kind != "f" else like.dtype)
    return Tensor(kernels.on(device).asarray(array), device=device)


def promote(tensors: Sequence[Any]) -> list[Tensor]:
    """All as tensors; where some are floating-point, integers take their type, as in PyTorch (not in NumPy)."""
    like = next((t for t in tensors if isinstance(t, Tensor)), None)
    xs = [as_tensor(t, like) for t in tensors]
    kinds = {x.dtype.kind for x in xs}
    if "f" in kinds and len(kinds) > 1:
        expected = np.result_type(*(x.dtype for x in xs if x.dtype.kind == "f"))
        xs = [cast(x, expected) if x.dtype.kind in "iu" else x for x in xs]
    return xs


def real(a: Any) -> Tensor:
    """``a`` as a tensor of a floating-point type, float32 where it has none."""
    x = as_tensor(a)
    return x if x.dtype.kind == "f" else cast(x, np.dtype(np.float32))


def as_rows(K: Any, array: Any) -> Any:
    """[..., W] as contiguous [S, W]; the extents may be 0, so -1 will not do."""
    return K.contiguous(array).reshape(math.prod(array.shape[:-1]), array.shape[-1])


def pair(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor, Any]:
    """Both operands as tensors that broadcast, and their kernels."""
    x, y = promote((a, b))
    if x.shape == y.shape:
        return x, y, kernels.on(x.device)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise ShapeError(
            f"{name}: shapes {list(x.shape)} and {list(y.shape)} do not broadcast; every dimension, counted from "
            "the last, must be equal or 1"
        ) from None
    return x, y, kernels.on(x.device)


def unbroadcast(g: Any, like: Tensor) -> Any:
    """Sum ``g`` over the dimensions in which ``like`` was broadcast, and give it the type of ``like``."""
    shape = like.shape
    if g.shape != shape:
        extra = g.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(
            d + extra for d, size in enumerate(shape) if size == 1 and g.shape[d + extra] != 1
        )
        g = g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)
    return g if g.dtype == like.dtype else g.astype(like.dtype)


def normalize_dim(name: str, dim: int, ndim: int) -> int:
    if not isinstance(dim, (int, np.integer)) or not -ndim <= dim < builtins.max(ndim, 1):
        raise ShapeError(f"{name}: dimension {dim!r} is out of range for a tensor of {ndim} dimensions")
    return int(dim) % ndim if ndim else 0


def normalize_dims(name: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(ndim))
    expected = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    result = tuple(normalize_dim(name, d, ndim) for d in expected) if ndim else ()
    if len(set(result)) != len(result):
        raise ShapeError(f"{name}: dimension given twice in {expected}")
    return result


def flat_ints(values: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(1, 2)`` and ``f((1, 2))`` mean the same.

    Raises:
        ShapeError: not all of them are integers.
    """
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = tuple(values[0])
    try:
        return tuple(operator.index(v) for v in values)
    except TypeError:
        raise ShapeError(f"expected integers for a shape or dimensions, got {list(values)}") from None


def check_floating(name: str, x: Tensor) -> None:
    if x.dtype.kind != "f":
        raise DTypeError(f"{name}: expected a floating-point tensor, got {x.dtype}; convert it with .to('float32')")


def cast(a: Any, dtype: np.dtype) -> Tensor:
    """The same values in another type; integers and booleans are cut off from the tape."""
    x = as_tensor(a)
    if x.dtype == dtype:
        return x
    if dtype.kind != "f":
        return Tensor(x.data.astype(dtype), device=x.device)
    return record("cast", (x,), x.data.astype(dtype), lambda g: (g.astype(x.dtype),))


def move(a: Any, device: str) -> Tensor:
    """The same values on another device."""
    x = as_tensor(a)
    if x.device == device:
        return x
    here, there = kernels.on(x.device), kernels.on(device)

    def gradients(g: Any) -> tuple[Any]:
        return (here.asarray(there.to_numpy(g)),)

    return record("to", (x,), there.asarray(here.to_numpy(x.data)), gradients, device)


def ignore_fp_errors(function: Any, *args: Any) -> Any:
    """IEEE arithmetic without NumPy's warnings: infinities and NaN speak for themselves."""
    with np.errstate(all="ignore"):
        return function(*args)
