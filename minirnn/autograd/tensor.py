"""Tensor: an array that remembers how it was computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Self

import numpy as np

from minirnn import kernels
from minirnn.autograd import tape
from minirnn.errors import DeviceError, DTypeError, GradientError, OptionError, ShapeError

DType = str | type | np.dtype
"""``"float32"``, ``"float64"``, an integer type or ``"bool"``, by name or as NumPy has them."""

_KINDS = "fiub"


class Tensor:
    """An n-dimensional array on a device, with an optional place on the tape.

    Made by :func:`minirnn.tensor` and by operations; the constructor takes a device array as it is.
    """

    __slots__ = ("data", "device", "requires_grad", "grad", "node", "output", "grad_slot", "__weakref__")
    __array_ufunc__ = None  # NumPy arrays leave mixed arithmetic to Tensor

    data: Any

    def __init__(self, data: Any, requires_grad: bool = False, device: str = "cpu") -> None:
        self.data = data
        self.device = device
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.node: tape.Node | None = None
        self.output = 0
        self.grad_slot: Any = None  # where an optimiser's flat buffer wants the gradient to lie

    # ------------------------------------------------------------------------------------------ what it is

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
    def T(self) -> Tensor:  # noqa: N802 - the field's name
        """All dimensions in reverse order."""
        return ops.permute(self, *reversed(range(self.ndim)))

    def numel(self) -> int:
        """The number of elements."""
        return self.data.size

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len() of a tensor without dimensions")
        return self.shape[0]

    def __repr__(self) -> str:
        body = np.array2string(self.numpy(), separator=", ", prefix="tensor(")
        notes = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        notes += "" if self.device == "cpu" else f", device={self.device!r}"
        if self.node is not None:
            notes += f", made by {self.node.name}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({body}{notes})"

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; on the CPU it shares the tensor's memory."""
        return kernels.on(self.device).to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.data.__cuda_array_interface__  # NumPy's arrays have none: an AttributeError, as it should be

    def item(self) -> Any:
        """The only element, as a Python number."""
        if self.data.size != 1:
            raise ShapeError(f"item: expected a tensor of one element, got shape {list(self.shape)}")
        return self.numpy().item()

    def tolist(self) -> Any:
        """The values as nested lists."""
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError(f"an index must be an integer, got a tensor of {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    # ------------------------------------------------------------------------------------------ the graph

    def backward(self, grad: Any = None) -> None:
        """Add the gradient of this tensor to the ``grad`` of every leaf it was computed from.

        Args:
            grad: gradient of the final result with respect to this tensor; 1 for a single number.

        Raises:
            GradientError: nothing to walk, a graph walked before, or a ``grad`` that does not fit.
        """
        if not self.requires_grad:
            raise GradientError("backward: nothing this tensor was computed from has requires_grad=True")
        if grad is None:
            if self.data.size != 1:
                raise GradientError(
                    f"backward: a tensor of shape {list(self.shape)} has no gradient of its own; reduce it to one "
                    "number first (sum, mean), or pass grad"
                )
            gradient = kernels.on(self.device).ones_like(self.data)
        else:
            source = grad.data if isinstance(grad, Tensor) else grad
            gradient = kernels.on(self.device).asarray(source, self.dtype)
            if gradient.shape != self.shape:
                raise GradientError(
                    f"backward: the tensor has shape {list(self.shape)}, its gradient {list(gradient.shape)}"
                )
        tape.backward([(self, gradient)])

    def add_grad(self, gradient: Any) -> None:
        """Add to ``grad`` (used by the tape)."""
        if self.grad is not None:
            self.grad.data += gradient
        elif self.grad_slot is not None:
            self.grad_slot[...] = gradient
            self.grad = Tensor(self.grad_slot, device=self.device)
        else:
            own = kernels.on(self.device).asarray(gradient).astype(self.dtype, copy=True)
            self.grad = Tensor(own, device=self.device)

    def detach(self) -> Tensor:
        """The same values without a place on the tape."""
        return Tensor(self.data, device=self.device)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` of a leaf in place."""
        if self.node is not None:
            raise GradientError("requires_grad_: only of leaves; this tensor was computed (use detach() first)")
        check_differentiable(self.dtype, requires_grad)
        self.requires_grad = requires_grad
        return self

    def clone(self) -> Tensor:
        """A copy, recorded on the tape."""
        return ops.clone(self)

    def to(self, target: DType) -> Tensor:
        """Another element type (``"float64"``) or device (``"cuda"``), recorded on the tape.

        Integers and booleans have no gradient: converting to them detaches.
        """
        if isinstance(target, str) and target in kernels.DEVICES:
            return ops.move(self, target)
        return ops.cast(self, as_dtype(target))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A leaf of its own with the same values, without the gradient and its place in an optimiser."""
        if self.node is not None:
            raise GradientError("deepcopy: only of leaves; this tensor was computed (use detach() or clone())")
        copied = type(self)(self.data.copy(), self.requires_grad, self.device)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> NoReturn:
        raise TypeError("tensors are not pickled; save numpy() or a checkpoint")

    # ---------------------------------------------------------------------------------------- operators

    def __add__(self, other: Any) -> Tensor:
        return ops.add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Tensor:
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return ops.multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Tensor:
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return ops.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.power(other, self)

    def __neg__(self) -> Tensor:
        return ops.negative(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __getitem__(self, index: Any) -> Tensor:
        return ops.index(self, index)

    def __eq__(self, other: object) -> Any:  # None is no number: equal to no tensor, as in PyTorch
        return False if other is None else ops.compare("equal", self, other)

    def __ne__(self, other: object) -> Any:
        return True if other is None else ops.compare("not_equal", self, other)

    def __lt__(self, other: Any) -> Tensor:
        return ops.compare("less", self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.compare("less_equal", self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.compare("greater", self, other)

    def __ge__(self, other: Any) -> Tensor:
        return ops.compare("greater_equal", self, other)

    __hash__ = object.__hash__

    # ------------------------------------------------------------------------------- operations as methods

    def exp(self) -> Tensor:
        return ops.exp(self)

    def log(self) -> Tensor:
        return ops.log(self)

    def log1p(self) -> Tensor:
        return ops.log1p(self)

    def sqrt(self) -> Tensor:
        return ops.sqrt(self)

    def tanh(self) -> Tensor:
        return ops.tanh(self)

    def sigmoid(self) -> Tensor:
        return ops.sigmoid(self)

    def erf(self) -> Tensor:
        return ops.erf(self)

    def relu(self) -> Tensor:
        return ops.relu(self)

    def abs(self) -> Tensor:
        return ops.abs(self)

    def pow(self, exponent: Any) -> Tensor:
        return ops.power(self, exponent)

    def matmul(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def clip(self, min: float | None = None, max: float | None = None) -> Tensor:
        return ops.clip(self, min, max)

    clamp = clip

    def softmax(self, dim: int = -1) -> Tensor:
        return ops.softmax(self, dim)

    def log_softmax(self, dim: int = -1) -> Tensor:
        return ops.log_softmax(self, dim)

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        return ops.sum(self, dim, keepdim)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        return ops.mean(self, dim, keepdim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        return ops.max(self, dim, keepdim)

    def min(self, dim: int | None = None, keepdim: bool = False) -> Any:
        return ops.min(self, dim, keepdim)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return ops.argmax(self, dim, keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return ops.argmin(self, dim, keepdim)

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        return ops.reshape(self, *shape)

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        return ops.flatten(self, start_dim, end_dim)

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        return ops.transpose(self, dim0, dim1)

    def permute(self, *dims: int | Sequence[int]) -> Tensor:
        return ops.permute(self, *dims)

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Tensor:
        return ops.squeeze(self, dim)

    def unsqueeze(self, dim: int) -> Tensor:
        return ops.unsqueeze(self, dim)

    def flip(self, *dims: int | Sequence[int]) -> Tensor:
        return ops.flip(self, *dims)

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        return ops.split(self, split_size, dim)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        return ops.chunk(self, chunks, dim)

    def gather(self, dim: int, index: Any) -> Tensor:
        return ops.gather(self, dim, index)

    def where(self, condition: Any, other: Any) -> Tensor:
        return ops.where(condition, self, other)

    def masked_fill(self, mask: Any, value: float) -> Tensor:
        return ops.masked_fill(self, mask, value)

    def dropout(self, p: float = 0.5, training: bool = True) -> Tensor:
        return ops.dropout(self, p, training)


def as_dtype(dtype: DType) -> np.dtype:
    """The NumPy dtype meant by ``dtype``.

    Raises:
        DTypeError: it is no float, integer or boolean type, or no type at all.
    """
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"dtype {dtype!r} is unknown; say 'float32', 'float64', 'int64' or 'bool'") from None
    if result.kind not in _KINDS or (result.kind == "f" and result.itemsize not in (4, 8)):
        raise DTypeError(f"dtype {result} is not supported; use float32 or float64, an integer type or bool")
    return result


def check_differentiable(dtype: np.dtype, requires_grad: bool) -> None:
    """Raise :class:`DTypeError` where a gradient is asked of integers."""
    if requires_grad and dtype.kind != "f":
        raise DTypeError(f"only floating-point tensors have gradients, got {dtype}")


def as_array(name: str, data: Any) -> np.ndarray:
    """``np.asarray``, for what anyone may have given.

    Raises:
        ShapeError: lists are ragged.
    """
    try:
        return np.asarray(data)
    except ValueError:
        raise ShapeError(f"{name}: the lists are ragged; expected lists of one length inside each other") from None


def _usual(found: np.dtype) -> np.dtype:
    return np.dtype({"f": np.float32, "b": np.bool_}.get(found.kind, np.int64))


def tensor(data: Any, requires_grad: bool = False, dtype: DType | None = None, device: str = "cpu") -> Tensor:
    """A leaf tensor with a copy of ``data``.

    Args:
        data: a number, nested lists, a NumPy array, a tensor, or anything ``np.asarray`` takes; on a GPU also
            what has ``__cuda_array_interface__``.
        dtype: float32 for floating-point data unless told otherwise; integers and booleans keep their kind.

    Raises:
        DTypeError: the data is not numeric.
        ShapeError: lists are ragged.
        OptionError: an integer type is asked for, or int64 taken, that does not hold the integers of the data.

    >>> import minirnn as mr
    >>> mr.tensor([[1, 2.5]])
    tensor([[1. , 2.5]])
    """
    if hasattr(data, "__cuda_array_interface__") and device != "cpu":  # never by way of the host
        own = kernels.on(device).asarray(data)
        own = own.astype(_usual(own.dtype) if dtype is None else as_dtype(dtype), copy=True)
        check_differentiable(own.dtype, requires_grad)
        return Tensor(own, requires_grad, device)
    source = as_array("tensor", data.numpy() if isinstance(data, Tensor) else data)
    if source.dtype.kind not in _KINDS:
        raise DTypeError(f"tensor: expected numbers, got {source.dtype} from {type(data).__name__}")
    array = np.array(source, dtype=_usual(source.dtype) if dtype is None else as_dtype(dtype), order="C", copy=True)
    if source.dtype.kind in "iu" and array.dtype.kind in "iu" and not np.can_cast(source.dtype, array.dtype):
        wrapped = array != source  # NumPy takes them modulo 2^bits, silently
        if wrapped.any():
            raise OptionError(f"tensor: {source[wrapped][0]} is out of range for {array.dtype}")
    check_differentiable(array.dtype, requires_grad)
    return Tensor(kernels.on(device).asarray(array), requires_grad, device)


def record(
    name: str, inputs: Sequence[Tensor | None], data: Any, gradients: tape.Gradients, device: str | None = None
) -> Tensor:
    """A tensor around ``data``, on the tape where an input needs a gradient.

    Args:
        name: the operation's name, for messages.
        inputs: what it was computed from; None for an absent one.
        gradients: takes the gradient of ``data``, returns one array or None for each input.
        device: where ``data`` is, if not where the inputs are.
    """
    return record_many(name, inputs, (data,), gradients, device)[0]


def same_device(name: str, *inputs: Tensor | None) -> str:
    """The device all inputs are on.

    Raises:
        DeviceError: there are several.
    """
    device = ""
    for t in inputs:
        if t is not None and t.device != device:
            if device:
                raise DeviceError(f"{name}: inputs on {device} and {t.device}; move them to one device with .to(...)")
            device = t.device
    return device


def record_many(
    name: str, inputs: Sequence[Tensor | None], data: Sequence[Any], gradients: tape.Gradients,
    device: str | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Like :func:`record` for an operation with several outputs; a gradient may then be None."""
    device = same_device(name, *inputs) if device is None else device
    tape.check_forward(name, data, inputs, device)
    edges = tape.edges_of(inputs)
    # NumPy gives a scalar where all dimensions are gone
    arrays = [kernels.on(device).asarray(array) if isinstance(array, np.generic) else array for array in data]
    outputs = tuple([Tensor(array, False, device) for array in arrays])
    if edges is not None:
        node = tape.Node(name, device, edges, gradients, len(outputs))
        for number, output in enumerate(outputs):
            output.requires_grad, output.node, output.output = True, node, number
    return outputs


from minirnn.autograd import ops  # noqa: E402 - operations need Tensor, Tensor's methods need operations
