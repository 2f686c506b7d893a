"""Tensor: an array that remembers how it was computed; and the functions that make new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self

import numpy as np

from minirnn import kernels, random
from minirnn.autograd import ops, tape
from minirnn.autograd.ops.operands import KINDS, DType, Ints, TensorLike, as_array, as_dtype, int_tuple
from minirnn.errors import DTypeError, GradientError, OptionError, ShapeError
from minirnn.kernels import recording
from minirnn.kernels.contract import Array

Operator = Callable[["Tensor", TensorLike], "Tensor"]


def _reflected(operation: Callable[[TensorLike, TensorLike], Tensor]) -> Operator:
    return lambda self, other: operation(other, self)


def _comparison(name: str) -> Operator:
    return lambda self, other: ops.compare(name, self, other)


class Tensor:
    """An n-dimensional array on a device, with an optional place on the tape.

    Made by :func:`minirnn.tensor` and by operations; the constructor takes a device array as it is.

    Attributes:
        data, device: the array, a NumPy array on the CPU; "cpu" or "cuda".
        requires_grad: whether :meth:`backward` computes a gradient of it.
        grad: the gradient of a leaf, added up over calls of ``backward``; None before the first.
        node, output_nr: the operation that computed it, None for a leaf; which output of it this is.
        grad_slot: where an optimiser wants the gradient to be stored.
    """

    __slots__ = ("data", "device", "requires_grad", "grad", "node", "output_nr", "grad_slot", "_made", "__weakref__")
    _made: Array  # what grad_out returned, until the gradient is there
    __array_ufunc__ = None  # NumPy arrays leave mixed arithmetic to Tensor

    def __init__(self, data: Array, requires_grad: bool = False, device: str = "cpu") -> None:
        self.data = data
        self.device = device
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.node: tape.Node | None = None
        self.output_nr = 0
        self.grad_slot: Array | None = None

    def backward(self, grad: TensorLike | None = None) -> None:
        """Add the gradient of this tensor to the ``grad`` of every leaf it was computed from.

        Args:
            grad: gradient of the final result with respect to this tensor, of its shape; 1 for a single number.

        Raises:
            GradientError: nothing requires a gradient, the graph has been used already, or ``grad`` does not fit.
        """
        if not self.requires_grad:
            raise GradientError("backward: nothing this tensor was computed from has requires_grad=True")
        K, shape = kernels.on(self.device), list(self.shape)
        if grad is None:
            if self.data.size != 1:
                raise GradientError(
                    f"backward: a tensor of shape {shape} has no gradient of its own; reduce it to one number first "
                    "(sum, mean), or pass grad"
                )
            gradient = K.asarray(1, self.dtype).reshape(self.shape)
        else:
            gradient = K.asarray(grad.data if isinstance(grad, Tensor) else grad, self.dtype)
            if gradient.shape != self.shape:
                raise GradientError(f"backward: the tensor has shape {shape}, its gradient {list(gradient.shape)}")
        tape.backward([(self, gradient)])

    def grad_out(self) -> Array | None:
        """Where an operation may compute a leaf's whole gradient, which then need not be copied; None for nowhere."""
        if self.node is not None or not self.requires_grad or self.grad is not None:
            return None
        slot: Any = self.grad_slot
        if slot is not None:
            fits = (slot.shape, slot.dtype) == (self.shape, self.dtype)
            return (recording.reserved(slot) if recording.is_on() else slot) if fits else None
        if recording.is_on():
            return None
        self._made = kernels.on(self.device).empty(self.shape, self.dtype)
        return self._made

    def add_grad(self, gradient: Array) -> None:
        """Add to ``grad`` (used by the tape)."""
        if recording.is_on():
            if (now := recording.current()) is not None:
                now.refuse("a gradient added within")
            gradient = recording.plain(gradient)
        if self.grad is not None:
            self.grad.data += gradient
        elif self.grad_slot is not None:
            if gradient is not self.grad_slot:
                self.grad_slot[...] = gradient
            self.grad = Tensor(self.grad_slot, device=self.device)
        elif gradient is getattr(self, "_made", None):
            self.grad = Tensor(gradient, device=self.device)
            del self._made
        else:
            own = kernels.on(self.device).asarray(gradient).astype(self.dtype, copy=True)
            self.grad = Tensor(own, device=self.device)

    def detach(self) -> Tensor:
        """The same values, not connected to the graph."""
        return Tensor(self.data, device=self.device)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` of a leaf in place."""
        if self.node is not None:
            raise GradientError("requires_grad_: only of leaves; this tensor was computed (use detach() first)")
        _check_differentiable(self.dtype, requires_grad)
        self.requires_grad = requires_grad
        return self

    def to(self, target: DType) -> Tensor:
        """Another dtype (``"float64"``; integers and booleans detach) or device (``"cuda"``), recorded on the tape."""
        if isinstance(target, str) and target in kernels.DEVICES:
            return ops.move(self, target)
        return ops.cast(self, as_dtype(target))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def T(self) -> Tensor:  # noqa: N802 - PyTorch's name
        """All dimensions in reverse order."""
        return ops.permute(self, *reversed(range(self.ndim)))

    def numel(self) -> int:
        """The number of elements."""
        return self.data.size

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; on the CPU it shares the tensor's memory."""
        return kernels.on(self.device).to_numpy(self.data)

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self.data.size != 1:
            raise ShapeError(f"item: expected a tensor of one element, got shape {list(self.shape)}")
        return self.numpy().item()

    def tolist(self) -> Any:
        """The values as nested lists."""
        return self.numpy().tolist()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.data.__cuda_array_interface__  # type: ignore[attr-defined] # AttributeError on the CPU, as it should

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len() of a tensor without dimensions")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError(f"an index must be an integer, got a tensor of {self.dtype}")
        return int(self.item())

    def __repr__(self) -> str:
        body = np.array2string(self.numpy(), separator=", ", prefix="tensor(")
        notes = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        notes += "" if self.device == "cpu" else f", device={self.device!r}"
        if self.node is not None:
            notes += f", made by {self.node.name}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({body}{notes})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A leaf with a copy of the values, without the gradient."""
        if self.node is not None:
            raise GradientError("deepcopy: only of leaves; this tensor was computed (use detach() or clone())")
        copied = type(self)(self.data.copy(), self.requires_grad, self.device)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> NoReturn:
        raise TypeError("tensors are not pickled; save numpy() or a checkpoint")

    __add__ = __radd__ = ops.add
    __sub__ = ops.subtract
    __mul__ = __rmul__ = ops.multiply
    __truediv__ = ops.divide
    __pow__ = ops.power
    __matmul__ = ops.matmul
    __neg__ = ops.negative
    __abs__ = ops.abs
    __getitem__ = ops.index
    __hash__ = object.__hash__

    __rsub__, __rtruediv__ = _reflected(ops.subtract), _reflected(ops.divide)
    __rpow__, __rmatmul__ = _reflected(ops.power), _reflected(ops.matmul)
    __lt__, __le__ = _comparison("less"), _comparison("less_equal")
    __gt__, __ge__ = _comparison("greater"), _comparison("greater_equal")

    def __eq__(self, other: Any) -> Any:  # no tensor equals None, as in PyTorch
        return False if other is None else ops.compare("equal", self, other)

    def __ne__(self, other: Any) -> Any:
        return True if other is None else ops.compare("not_equal", self, other)

    def where(self, condition: TensorLike, other: TensorLike) -> Tensor:
        """This tensor where the condition holds, else ``other``."""
        return ops.where(condition, self, other)

    abs, clone, erf, exp, log, log1p = ops.abs, ops.clone, ops.erf, ops.exp, ops.log, ops.log1p
    relu, sigmoid, sqrt, tanh = ops.relu, ops.sigmoid, ops.sqrt, ops.tanh
    pow, matmul, t = ops.power, ops.matmul, ops.t
    clip = clamp = ops.clip
    masked_fill, dropout = ops.masked_fill, ops.dropout
    sum, mean, max, min, argmax, argmin = ops.sum, ops.mean, ops.max, ops.min, ops.argmax, ops.argmin
    var, std, norm, cumsum = ops.var, ops.std, ops.norm, ops.cumsum
    softmax, log_softmax = ops.softmax, ops.log_softmax
    reshape = view = ops.reshape
    flatten, transpose, permute, flip = ops.flatten, ops.transpose, ops.permute, ops.flip
    squeeze, unsqueeze, split, chunk, gather = ops.squeeze, ops.unsqueeze, ops.split, ops.chunk, ops.gather


tape.tensor_class = Tensor


def _check_differentiable(dtype: np.dtype, requires_grad: bool) -> None:
    if requires_grad and dtype.kind != "f":
        raise DTypeError(f"only floating-point tensors have gradients, got {dtype}")


def _default_dtype(given: np.dtype) -> np.dtype:
    return np.dtype({"f": np.float32, "b": np.bool_}.get(given.kind, np.int64))


def tensor(data: TensorLike, requires_grad: bool = False, dtype: DType | None = None, device: str = "cpu") -> Tensor:
    """A leaf tensor with a copy of ``data``.

    Args:
        data: a number, nested lists, a NumPy array, a tensor, or anything ``np.asarray`` takes; on a GPU also what has
            ``__cuda_array_interface__``.
        requires_grad: whether ``backward`` is to compute its gradient.
        dtype, device: by default float32 for floating-point data, int64 for integers, and bool; "cpu" or "cuda".

    Raises:
        DTypeError, ShapeError: the data is not numeric; lists are ragged.
        OptionError, DeviceError: an integer is out of range for the type; the device cannot be used here.

    >>> import minirnn as mr
    >>> mr.tensor([[1, 2.5]])
    tensor([[1. , 2.5]])
    """
    if hasattr(data, "__cuda_array_interface__") and device != "cpu":  # copied on the GPU
        own = kernels.on(device).asarray(data)
        own = own.astype(_default_dtype(own.dtype) if dtype is None else as_dtype(dtype), copy=True)
        _check_differentiable(own.dtype, requires_grad)
        return Tensor(own, requires_grad, device)
    source = as_array("tensor", data.numpy() if isinstance(data, Tensor) else data)
    if source.dtype.kind not in KINDS:
        raise DTypeError(f"tensor: expected numbers, got {source.dtype} from {type(data).__name__}")
    array = np.array(source, _default_dtype(source.dtype) if dtype is None else as_dtype(dtype), order="C", copy=True)
    if source.dtype.kind in "iu" and array.dtype.kind in "iu" and not np.can_cast(source.dtype, array.dtype):
        wrapped = array != source  # NumPy takes them modulo 2^bits, silently
        if wrapped.any():
            raise OptionError(f"tensor: {source[wrapped][0]} is out of range for {array.dtype}")
    _check_differentiable(array.dtype, requires_grad)
    return Tensor(kernels.on(device).asarray(array), requires_grad, device)


def _shape(values: tuple[Ints, ...]) -> tuple[int, ...]:
    shape = int_tuple(values)
    if min(shape, default=0) < 0:
        raise ShapeError(f"expected a shape of numbers of at least 0, got {list(shape)}")
    return shape


def zeros(*shape: Ints, dtype: DType = "float32", requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """A tensor of zeros; the shape as numbers, ``zeros(2, 3)``, or as one tuple, as for :func:`ones`, :func:`randn`."""
    return tensor(np.zeros(_shape(shape)), requires_grad, dtype, device)


def ones(*shape: Ints, dtype: DType = "float32", requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """A tensor of ones."""
    return tensor(np.ones(_shape(shape)), requires_grad, dtype, device)


def randn(*shape: Ints, dtype: DType = "float32", requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """A tensor drawn from the standard normal distribution, by :mod:`minirnn.random`."""
    return tensor(random.generator().standard_normal(_shape(shape)), requires_grad, dtype, device)
