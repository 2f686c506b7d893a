"""``DeviceArray``, an array in a GPU's memory: its views, its transfers to the host, its operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar, Union

import numpy as np
from numpy.typing import ArrayLike

from minirnn.errors import DeviceError
from minirnn.kernels.contract import Axes, DType
from minirnn.kernels.cuda import memory
from minirnn.kernels.cuda.jit import SIMULATOR, cuda

Operand: TypeAlias = Union["DeviceArray", ArrayLike]

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""What the operators and methods of arrays call, by NumPy's names: elementwise functions, indexing, reductions.

They are registered by the modules that define them, which need the class.
"""

_F = TypeVar("_F", bound=Callable[..., Any])


def register(function: _F) -> _F:
    """Have arrays' operators and methods call this function where they need one of its name."""
    FUNCTIONS[function.__name__] = function
    return function


def _operator(name: str, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    def method(self: DeviceArray, other: Operand) -> DeviceArray:
        if in_place:
            return FUNCTIONS[name](self, other, out=self)
        return FUNCTIONS[name](other, self) if reflected else FUNCTIONS[name](self, other)

    return method


def _refuse(what: str, instead: str) -> Callable[..., NoReturn]:
    def method(self: DeviceArray, *args: Any, **kwargs: Any) -> NoReturn:
        raise DeviceError(f"{what} an array on 'cuda' would copy it to the host; use {instead}")

    return method


class DeviceArray:
    """An array in the GPU's memory, always C-contiguous: what ``Tensor.data`` is on this device.

    It has the attributes of :class:`numpy.ndarray` that tensors use. Reshaping, and slices and numbers along the first
    dimension, give views; everything else gives a copy. What would copy values to the host implicitly raises:
    ``np.asarray``, ``if``, iteration. Only :meth:`numpy` and what is made of it wait for the GPU.

    Attributes:
        block: the owner of its memory, None for an array without elements.
        offset: of its first element in the block, in bytes.
    """

    __slots__ = ("_fields", "_raw", "block", "dtype", "offset", "shape", "size")

    def __init__(self, block: memory.Block | None, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.block, self.offset, self.shape, self.dtype = block, offset, shape, dtype
        self.size = math.prod(shape)
        self._raw: Any = None
        self._fields: list[int] = []

    @property
    def raw(self) -> Any:
        """The array as Numba's. That does not own the memory: keep this array as long as it is used."""
        if self._raw is None:
            if not self.size or self.block is None:
                self._raw = cuda.device_array(self.shape, self.dtype)
            elif SIMULATOR:
                part = self.block.memory[self.offset : self.offset + self.nbytes]
                self._raw = part.view(self.dtype).reshape(self.shape)
            else:  # what Numba's own slices and views come to
                numbas, strides = self.block.memory, tuple(self.fields[5 + self.ndim :])
                data = numbas.gpu_data.view(self.offset, self.offset + self.nbytes)
                self._raw = type(numbas)(self.shape, strides, self.dtype, gpu_data=data)
        return self._raw

    @property
    def fields(self) -> list[int]:
        """The array as the parameters of a compiled kernel: Numba's array structure."""
        if not self._fields:
            strides, step = [], self.dtype.itemsize
            for extent in reversed(self.shape):
                strides.append(step)
                step *= extent
            address = self.block.address + self.offset if self.size and self.block is not None else 0
            self._fields = [0, 0, self.size, self.dtype.itemsize, address, *self.shape, *reversed(strides)]
        return self._fields

    def view(self, first: int, shape: tuple[int, ...]) -> DeviceArray:
        """The elements from index ``first`` on, counted in the flat array, in another shape."""
        return DeviceArray(self.block, self.offset + first * self.dtype.itemsize, shape, self.dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def flat(self) -> DeviceArray:
        """A view with one dimension."""
        return self if len(self.shape) == 1 else self.view(0, (self.size,))

    @property
    def T(self) -> DeviceArray:  # noqa: N802 - NumPy's name
        return self.transpose()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.raw.__cuda_array_interface__

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without dimensions")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    # ---------------------------------------------------------------------------------------- to the host

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; waits for the GPU."""
        return self.raw.copy_to_host() if self.size else np.empty(self.shape, self.dtype)

    def change_on_host(self, change: Callable[[np.ndarray], object]) -> None:
        """Let ``change`` modify the values in page-locked memory of the host; waits for the GPU."""
        if self.size:
            host = memory.page_locked(self.nbytes).view(self.dtype)
            self.flat.raw.copy_to_host(host)
            change(host)
            self.flat.raw.copy_to_device(host)

    def item(self) -> Any:
        """The only element as a Python number; waits for the GPU."""
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array_ufunc__(self, ufunc: np.ufunc, *args: Any, **kwargs: Any) -> NoReturn:
        raise DeviceError(
            f"{ufunc.__name__}: expected arrays on one device, got one on 'cuda' and one on the host; move them to one "
            "device with .to(...)"
        )

    __array__ = _refuse("NumPy's use of", ".numpy() or .to('cpu')")
    __bool__ = _refuse("a condition on", ".item()")
    __iter__ = _refuse("iteration over", ".numpy()")

    # ------------------------------------------------------------------------- views, copies, reductions

    def reshape(self, *shape: Any) -> DeviceArray:
        """A view in another shape; one extent may be -1."""
        target = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        known = math.prod(n for n in target if n != -1)
        if -1 in target and known:
            target = tuple(self.size // known if n == -1 else int(n) for n in target)
        if math.prod(target) != self.size or min(target, default=0) < 0:
            raise ValueError(f"cannot reshape {self.shape} to {target}")
        return self if target == self.shape else self.view(0, target)

    def astype(self, dtype: DType, copy: bool = True) -> DeviceArray:
        """The values in another type; the array itself where it has that type and ``copy`` is False."""
        return FUNCTIONS["astype"](self, np.dtype(dtype), copy)

    def copy(self) -> DeviceArray:
        return self.astype(self.dtype)

    def transpose(self, *axes: Any) -> DeviceArray:
        """A copy with the dimensions in another order, or all reversed."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return FUNCTIONS["transpose"](self, tuple(order) if order else tuple(reversed(range(self.ndim))))

    def swapaxes(self, first: int, second: int) -> DeviceArray:
        order = list(range(self.ndim))
        order[first], order[second] = order[second], order[first]
        return self.transpose(order)

    def __getitem__(self, key: Any) -> DeviceArray:
        return FUNCTIONS["getitem"](self, key)

    def __setitem__(self, key: Any, value: Operand) -> None:
        FUNCTIONS["setitem"](self, key, value)

    def sum(self, axis: Axes = None, keepdims: bool = False, dtype: DType | None = None) -> DeviceArray:
        return FUNCTIONS["sum"](self, axis, keepdims, dtype)

    def max(self, axis: Axes = None, keepdims: bool = False) -> DeviceArray:
        return FUNCTIONS["max"](self, axis, keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> DeviceArray:
        return FUNCTIONS["min"](self, axis, keepdims)

    def any(self) -> bool:
        """Whether any element is true; waits for the GPU."""
        return FUNCTIONS["any"](self)

    def __neg__(self) -> DeviceArray:
        return FUNCTIONS["negative"](self)

    __add__ = __radd__ = _operator("add")
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", reflected=True)
    __mul__ = __rmul__ = _operator("multiply")
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", reflected=True)
    __iadd__, __imul__ = _operator("add", in_place=True), _operator("multiply", in_place=True)
    __and__ = _operator("multiply")  # of booleans: conditions
    __eq__, __ne__ = _operator("equal"), _operator("not_equal")
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")
    __hash__ = object.__hash__


def empty(shape: Sequence[int], dtype: DType) -> DeviceArray:
    shape, dtype = tuple(shape), np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    return DeviceArray(memory.allocate(nbytes) if nbytes else None, 0, shape, dtype)
