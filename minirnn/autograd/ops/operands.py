"""What every operation does to its arguments: make tensors of them, match types, shapes and dimensions."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from minirnn import kernels
from minirnn.autograd import tape
from minirnn.autograd.tape import record
from minirnn.errors import DTypeError, ShapeError
from minirnn.kernels.contract import Array, Kernels
from minirnn.kernels.recording import Traced

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from minirnn.autograd.tensor import Tensor

DType: TypeAlias = str | type | np.dtype
"""``"float32"``, ``"float64"``, an integer type or ``"bool"``, by name or as NumPy has them."""
TensorLike: TypeAlias = "Tensor | ArrayLike"
"""A tensor, a number, nested lists or a NumPy array; what is not a tensor is a constant."""
Ints: TypeAlias = int | Sequence[int]
Dims: TypeAlias = Ints | None
"""One dimension, several, or all of them; negative ones count from the last."""

KINDS = "fiub"


def as_dtype(dtype: DType) -> np.dtype:
    """The NumPy dtype of this name; a :class:`DTypeError` unless it is float32, float64, an integer type or bool."""
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"dtype {dtype!r} is unknown; say 'float32', 'float64', 'int64' or 'bool'") from None
    if result.kind not in KINDS or (result.kind == "f" and result.itemsize not in (4, 8)):
        raise DTypeError(f"dtype {result} is not supported; use float32 or float64, an integer type or bool")
    return result


def as_array(name: str, data: ArrayLike) -> np.ndarray:
    """``np.asarray(data)``; ragged lists are a :class:`ShapeError`."""
    try:
        return data if isinstance(data, Traced) else np.asarray(data)
    except ValueError:
        raise ShapeError(f"{name}: the lists are ragged; expected lists of one length inside each other") from None


def as_tensor(value: TensorLike, like: Tensor | None = None) -> Tensor:
    """``value`` as a tensor: itself, or a constant on the device of ``like`` and, where that has one, of its
    floating-point type. So modules take arrays and lists, ``like`` being a parameter."""
    if isinstance(value, tape.tensor_class):
        return value
    if like is None or like.dtype.kind != "f":
        return as_operand(value, like)
    array = _numbers(value).astype(like.dtype, copy=False)
    return tape.new_tensor(kernels.on(like.device).asarray(array), like.device)


def _numbers(value: ArrayLike) -> np.ndarray:
    array = as_array("constant", value)
    if array.dtype.kind not in KINDS:
        raise DTypeError(f"expected a tensor or numbers, got {type(value).__name__}")
    return array


def as_operand(value: TensorLike, like: Tensor | None) -> Tensor:
    """``value`` as an operand beside the tensor ``like``: numbers and lists take its type, arrays keep their own."""
    if isinstance(value, tape.tensor_class):
        return value
    device = "cpu" if like is None else like.device
    if isinstance(value, (bool, int, float)) and like is not None:
        dtype = like.dtype
        if dtype.kind != "f" and isinstance(value, float):
            dtype = np.dtype(np.float32)
        elif dtype.kind == "b":
            dtype = np.dtype(type(value))
        array = np.array(value, dtype)
    else:
        array = _numbers(value)
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
            raise DTypeError(f"constants of {array.dtype} are not supported; convert them to float32 or float64")
        if array.dtype.kind == "f" and not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if like is None or like.dtype.kind != "f" else like.dtype)
    return tape.new_tensor(kernels.on(device).asarray(array), device)


def as_floating(value: TensorLike) -> tuple[Tensor, Kernels]:
    """``value`` as a tensor of a floating-point type, float32 where it has none, and the kernels of its device."""
    x = as_tensor(value)
    return x if x.dtype.kind == "f" else cast(x, np.dtype(np.float32)), kernels.on(x.device)


def check_floating(name: str, x: Tensor) -> None:
    """Raise :class:`DTypeError` unless ``x`` is floating-point."""
    if x.dtype.kind != "f":
        raise DTypeError(f"{name}: expected a floating-point tensor, got {x.dtype}; convert it with .to('float32')")


def promote(tensors: Sequence[TensorLike]) -> list[Tensor]:
    """All as tensors; where some are floating-point, integers take their type, as in PyTorch (not in NumPy).

    float32 beside float64 stays what it is here; operations make float64 of the two, whichever is a NumPy array.
    """
    like = next((t for t in tensors if isinstance(t, tape.tensor_class)), None)
    xs = [as_operand(t, like) for t in tensors]
    kinds = {x.dtype.kind for x in xs}
    if "f" in kinds and len(kinds) > 1:
        dtype = np.result_type(*(x.dtype for x in xs if x.dtype.kind == "f"))
        xs = [cast(x, dtype) if x.dtype.kind in "iu" else x for x in xs]
    return xs


def broadcast_pair(name: str, input: TensorLike, other: TensorLike) -> tuple[Tensor, Tensor, Kernels]:
    """Both operands as tensors whose shapes broadcast, and their kernels."""
    x, y = promote((input, other))
    if x.shape != y.shape:
        try:
            np.broadcast_shapes(x.shape, y.shape)
        except ValueError:
            raise ShapeError(
                f"{name}: shapes {list(x.shape)} and {list(y.shape)} do not broadcast; every dimension, counted from "
                "the last, must be equal or 1"
            ) from None
    return x, y, kernels.on(x.device)


def unbroadcast(g: Array, like: Tensor | Array) -> Array:
    """Sum ``g`` over the dimensions in which ``like`` was broadcast, and convert it to the type of ``like``."""
    shape = like.shape
    if g.shape != shape:
        extra = g.ndim - len(shape)
        axes = (*range(extra), *(d + extra for d, size in enumerate(shape) if size == 1 and g.shape[d + extra] != 1))
        g = g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)
    return g if g.dtype == like.dtype else g.astype(like.dtype)


def as_rows(K: Kernels, array: Array) -> Array:
    """[..., W] as contiguous [S, W]; extents may be 0, so -1 will not do."""
    return K.contiguous(array).reshape(math.prod(array.shape[:-1]), array.shape[-1])


def normalize_dim(name: str, dim: int, ndim: int) -> int:
    """``dim`` counted from the first dimension; a :class:`ShapeError` where a tensor of ``ndim`` does not have it."""
    if not isinstance(dim, (int, np.integer)) or not -ndim <= dim < max(ndim, 1):
        raise ShapeError(f"{name}: dimension {dim!r} is out of range for a tensor of {ndim} dimensions")
    return int(dim) % ndim if ndim else 0


def normalize_dims(name: str, dim: Dims, ndim: int) -> tuple[int, ...]:
    """All dimensions of ``dim`` counted from the first; a :class:`ShapeError` where one is given twice."""
    if dim is None:
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    result = tuple(normalize_dim(name, d, ndim) for d in dims) if ndim else ()
    if len(set(result)) != len(result):
        raise ShapeError(f"{name}: dimension given twice in {dims}")
    return result


def int_tuple(values: Sequence[Ints]) -> tuple[int, ...]:
    """The arguments of ``f(1, 2)`` or ``f((1, 2))`` as a tuple; a :class:`ShapeError` unless they are integers."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = values[0]
    try:
        return tuple([operator.index(v) for v in values])  # type: ignore[arg-type] # what else it holds is the error
    except TypeError:
        raise ShapeError(f"expected integers for a shape or dimensions, got {list(values)}") from None


def cast(input: TensorLike, dtype: np.dtype) -> Tensor:
    """The same values in another type; no gradient flows through integers and booleans."""
    x = as_tensor(input)
    if x.dtype == dtype:
        return x
    if dtype.kind != "f":
        return tape.new_tensor(x.data.astype(dtype), x.device)
    return record("cast", (x,), x.data.astype(dtype), lambda g: (g.astype(x.dtype),))


def move(input: TensorLike, device: str) -> Tensor:
    """The same values on another device."""
    x = as_tensor(input)
    if x.device == device:
        return x
    here, there = kernels.on(x.device), kernels.on(device)
    data = there.asarray(here.to_numpy(x.data))
    return record("to", (x,), data, lambda g: (here.asarray(there.to_numpy(g)),), device)
