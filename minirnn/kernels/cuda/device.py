"""Arrays in a GPU's memory: :class:`DeviceArray`, the memory behind it, and how kernels are started on them.

Everything runs in the order of one stream, so memory given back by an array's last view may be handed out at once:
whatever still reads it was started before whatever writes it. Nothing here waits for the GPU but
:meth:`DeviceArray.numpy` and what is made of it.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import defaultdict
from typing import Any, NoReturn

import numpy as np

from minirnn.errors import DeviceError, DTypeError
from minirnn.kernels.cuda.jit import SIMULATOR, THREADS, cuda, kernel
from minirnn.kernels.memory import size_class

try:
    from cuda.core import LaunchConfig, Stream
    from cuda.core import launch as _launch_compiled
except ImportError:  # an older version of what numba-cuda itself starts kernels with
    LaunchConfig = None

_MOST_BLOCKS = 2 if SIMULATOR else 4096

# -------------------------------------------------------------------------------------------------- starting


@functools.lru_cache(4096)
def _configuration(blocks: Any, threads: int, shared_bytes: int, cooperative: bool) -> Any:
    return LaunchConfig(grid=blocks, block=threads, shmem_size=shared_bytes, is_cooperative=cooperative)


class _Compiled(threading.local):
    """Of each thread, for the driver must have been made known to it.

    Attributes:
        kernels: by kernel and types of arguments: stream, the driver's kernel, whether its grid waits for itself.
    """

    def __init__(self) -> None:
        self.kernels: dict[tuple[Any, ...], Any] = {}


_compiled = _Compiled()


def compiled(started: Any, args: tuple[Any, ...]) -> Any:
    """The kernel as Numba has it for arguments of these types, compiled where it was not."""
    return started.compile(tuple(started.typeof_pyval(_argument(arg)) for arg in args))


def _compile(started: Any, args: tuple[Any, ...]) -> Any:
    """What :class:`_Compiled` holds, or None with a version of numba-cuda that has it elsewhere or calls otherwise."""
    if SIMULATOR or LaunchConfig is None:
        return None
    found = compiled(started, args)
    try:
        function = found._codelibrary.get_cufunc().kernel
        parameters = [parameter.size for parameter in function.arguments_info]
    except (AttributeError, NotImplementedError):  # the latter from drivers before 12.4
        return None
    return (Stream.from_handle(0), function, found.cooperative) if parameters == _sizes(args) else None


def _sizes(args: tuple[Any, ...]) -> list[int]:
    """Bytes of the parameters that :func:`start` gives a kernel."""
    sizes: list[int] = []
    for arg in args:
        if isinstance(arg, DeviceArray):
            sizes += [8] * len(arg.fields)
        elif isinstance(arg, tuple):
            sizes += [8] * len(arg)
        else:
            sizes.append(1 if isinstance(arg, bool) else getattr(arg, "itemsize", 8))
    return sizes


def _argument(arg: Any) -> Any:
    """What Numba takes for it. It would bring an array of the host to the GPU and back, and not its ``flat``."""
    if isinstance(arg, DeviceArray):
        return arg.raw
    if isinstance(arg, (np.ndarray, np.flatiter)):
        raise DeviceError("arrays of 'cuda' and of the host; move them to one device with .to(...)")
    return arg


def start(started: Any, blocks: int | tuple[int, ...], threads: int, shared_bytes: int, args: tuple[Any, ...]) -> None:
    """Start a kernel.

    Numba's own call would take longer than most kernels run: it asks every array for its type and layout, which a
    :class:`DeviceArray` knows.
    """
    kinds: list[Any] = [started]
    values: list[Any] = []
    for arg in args:
        kind = type(arg)
        if kind is DeviceArray:
            kinds += arg.dtype, len(arg.shape)
            values += arg.fields
        elif kind is tuple:
            kinds.append(len(arg))
            values += arg
        else:
            kinds.append(kind)
            values.append(arg)
    key, kernels = tuple(kinds), _compiled.kernels
    if key not in kernels:
        kernels[key] = _compile(started, args)
    known = kernels[key]
    if known is None:
        started[blocks, threads, 0, shared_bytes](*map(_argument, args))
    else:
        stream, function, cooperative = known
        _launch_compiled(stream, _configuration(blocks, threads, shared_bytes, cooperative), function, *values)


def launch(started: Any, count: int, *args: Any) -> None:
    """Start a kernel over ``count`` > 0 elements, which it walks as ``range(cuda.grid(1), count, cuda.gridsize(1))``.

    Args:
        args: numbers, tuples of integers and :class:`DeviceArray`.
    """
    start(started, min(-(-count // THREADS), _MOST_BLOCKS), THREADS, 0, args)


def launch_blocks(started: Any, blocks: int | tuple[int, ...], *args: Any) -> None:
    """Start a grid of blocks of :data:`THREADS` threads; ``args`` as in :func:`launch`."""
    start(started, blocks, THREADS, 0, args)


# ---------------------------------------------------------------------------------------------------- memory

_free: defaultdict[int, list[Any]] = defaultdict(list)
_used: dict[int, Any] = {}
"""Memory of blocks, which would be given back to the driver, and then be on the free list, if it became garbage with
its block: Python's collector runs the finalizers of weak references, Numba's, before any ``__del__``."""


def _address(memory: Any) -> int:
    return 0 if SIMULATOR else memory.device_ctypes_pointer.value or 0


class _Block:
    """Owner of one piece of device memory, which goes back to the free list with it."""

    __slots__ = ("address", "memory")

    def __init__(self, memory: Any) -> None:
        self.memory = memory  # one-dimensional, of bytes
        _used[id(memory)] = memory
        self.address = _address(memory)

    def __del__(self, free: defaultdict[int, list[Any]] = _free, used: dict[int, Any] = _used) -> None:
        memory = used.pop(id(self.memory))
        free[memory.size].append(memory)  # atomic; may run on any thread, and when the module is gone


class _Borrowed:
    """Another library's memory, kept alive."""

    __slots__ = ("address", "memory", "owner")

    def __init__(self, memory: Any, owner: Any) -> None:
        self.memory, self.owner, self.address = memory, owner, _address(memory)


def borrowed(raw: Any, owner: Any) -> DeviceArray:
    """Another library's C-contiguous array, whose memory is shared and kept alive."""
    block = _Borrowed(raw.reshape(raw.size).view(np.uint8), owner) if raw.size else None
    return DeviceArray(block, 0, tuple(raw.shape), raw.dtype)


def _allocate(nbytes: int) -> _Block:
    size = size_class(nbytes, 512)
    try:
        return _Block(_free[size].pop())
    except IndexError:
        pass
    try:
        return _Block(cuda.device_array(size, np.uint8))
    except Exception as error:  # the class of a driver's error moved between versions of numba-cuda
        if "OUT_OF_MEMORY" not in str(error):
            raise
    release()
    try:
        return _Block(cuda.device_array(size, np.uint8))
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error):
            raise
        raise DeviceError(
            f"device 'cuda': no room for {nbytes / 2**20:,.0f} MB; lower the batch size, the sequence length or the "
            "hidden size, or end what else uses the GPU"
        ) from None


def cached_bytes() -> int:
    """Bytes that wait on the free list."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))


def release() -> None:
    """Give all waiting memory back to the driver."""
    _free.clear()


# ---------------------------------------------------------------------------------------------------- arrays


class DeviceArray:
    """What ``Tensor.data`` is on this device: an array in the GPU's memory, always C-contiguous.

    It has the names of :class:`numpy.ndarray` that the floors above use. Reshaping, and slices and numbers along
    the first dimension, give views; everything else a copy. Whatever would bring values to the host unasked,
    ``np.asarray``, ``if``, iteration, raises.

    Attributes:
        block: the memory's owner, None without elements.
        offset: the first element's byte in it.
    """

    __slots__ = ("_fields", "_raw", "block", "dtype", "offset", "shape", "size")

    def __init__(self, block: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.block, self.offset, self.shape, self.dtype = block, offset, shape, dtype
        self.size = math.prod(shape)
        self._raw: Any = None
        self._fields: list[int] = []

    @property
    def raw(self) -> Any:
        """The array as Numba has it. It does not own the memory: hold on to this array as long as it is used."""
        if self._raw is None:
            if not self.size:
                self._raw = cuda.device_array(self.shape, self.dtype)
            elif SIMULATOR:
                part = self.block.memory[self.offset : self.offset + self.nbytes]
                self._raw = part.view(self.dtype).reshape(self.shape)
            else:  # what slices and views of Numba's arrays come to in the end
                memory, strides = self.block.memory, tuple(self.fields[5 + self.ndim :])
                data = memory.gpu_data.view(self.offset, self.offset + self.nbytes)
                self._raw = type(memory)(self.shape, strides, self.dtype, gpu_data=data)
        return self._raw

    @property
    def fields(self) -> list[int]:
        """The array as a compiled kernel has it."""
        if not self._fields:
            strides, step = [], self.dtype.itemsize
            for extent in reversed(self.shape):
                strides.append(step)
                step *= extent
            address = self.block.address + self.offset if self.size else 0
            self._fields = [0, 0, self.size, self.dtype.itemsize, address, *self.shape, *reversed(strides)]
        return self._fields

    def view(self, first: int, shape: tuple[int, ...]) -> DeviceArray:
        """The elements from number ``first`` on, in another shape."""
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
        """The values on the host; waits for the GPU."""
        return self.raw.copy_to_host() if self.size else np.empty(self.shape, self.dtype)

    def item(self) -> Any:
        """The only element as a Python number; waits for the GPU."""
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise DeviceError("this array is on 'cuda'; NumPy takes arrays of the host: say .numpy(), or .to('cpu')")

    def __array_ufunc__(self, ufunc: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise DeviceError(f"{ufunc.__name__}: arrays of 'cuda' and of the host; move them to one device with .to(...)")

    def __bool__(self) -> NoReturn:
        raise DeviceError("this array is on 'cuda': a condition would wait for the GPU; say .item()")

    def __iter__(self) -> NoReturn:
        raise DeviceError("this array is on 'cuda': iteration would wait for the GPU at each element; say .numpy()")

    # ---------------------------------------------------------------------------------------------- views

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same memory in another shape; one extent may be -1."""
        expected = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        known = math.prod(n for n in expected if n != -1)
        if -1 in expected and known:
            expected = tuple(self.size // known if n == -1 else int(n) for n in expected)
        if math.prod(expected) != self.size or min(expected, default=0) < 0:
            raise ValueError(f"cannot reshape {self.shape} to {expected}")
        return self if expected == self.shape else self.view(0, expected)

    # ------------------------------------------------------------------------------------------ operators

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        """The values in another type; the array itself where it has that type and no copy is asked for."""
        return array.astype(self, np.dtype(dtype), copy)

    def copy(self) -> DeviceArray:
        return array.astype(self, self.dtype, True)

    def transpose(self, *axes: Any) -> DeviceArray:
        """The dimensions in another order, or all reversed: a copy."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return array.transpose(self, tuple(order) if order else tuple(reversed(range(self.ndim))))

    @property
    def T(self) -> DeviceArray:  # noqa: N802 - NumPy's name
        return self.transpose()

    def swapaxes(self, first: int, second: int) -> DeviceArray:
        order = list(range(self.ndim))
        order[first], order[second] = order[second], order[first]
        return self.transpose(order)

    def __getitem__(self, key: Any) -> DeviceArray:
        return array.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        array.setitem(self, key, value)

    def sum(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> DeviceArray:
        return reductions.sum(self, axis, keepdims, dtype)

    def any(self) -> bool:
        """Whether any element is true; waits for the GPU."""
        return reductions.any(self)

    def max(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions.max(self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions.min(self, axis, keepdims)

    def __add__(self, other: Any) -> DeviceArray:
        return array.add(self, other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> DeviceArray:
        return array.add(self, other, out=self)

    def __sub__(self, other: Any) -> DeviceArray:
        return array.subtract(self, other)

    def __rsub__(self, other: Any) -> DeviceArray:
        return array.subtract(other, self)

    def __mul__(self, other: Any) -> DeviceArray:
        return array.multiply(self, other)

    __rmul__ = __mul__

    def __imul__(self, other: Any) -> DeviceArray:
        return array.multiply(self, other, out=self)

    def __truediv__(self, other: Any) -> DeviceArray:
        return array.divide(self, other)

    def __rtruediv__(self, other: Any) -> DeviceArray:
        return array.divide(other, self)

    def __neg__(self) -> DeviceArray:
        return array.negative(self)

    def __and__(self, other: Any) -> DeviceArray:
        return array.multiply(self, other)  # of booleans, which is what conditions are

    def __eq__(self, other: Any) -> Any:
        return array.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return array.not_equal(self, other)

    def __lt__(self, other: Any) -> DeviceArray:
        return array.less(self, other)

    def __le__(self, other: Any) -> DeviceArray:
        return array.less_equal(self, other)

    def __gt__(self, other: Any) -> DeviceArray:
        return array.greater(self, other)

    def __ge__(self, other: Any) -> DeviceArray:
        return array.greater_equal(self, other)

    __hash__ = object.__hash__


def empty(shape: tuple[int, ...], dtype: np.dtype | type) -> DeviceArray:
    """An uninitialised array, 512-byte aligned."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    return DeviceArray(_allocate(nbytes) if nbytes else None, 0, shape, dtype)


@kernel
def _fill(out: Any, value: Any) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = value


def full(shape: tuple[int, ...], value: Any, dtype: np.dtype | type) -> DeviceArray:
    """An array of one number, which no transfer but a kernel's argument brings to the GPU."""
    out = empty(shape, dtype)
    if out.size:
        launch(_fill, out.size, out.flat, out.dtype.type(value))
    return out


def zeros(shape: tuple[int, ...], dtype: np.dtype | type) -> DeviceArray:
    """Like :func:`empty`, filled with zeros."""
    return full(shape, 0, dtype)


def asarray(values: Any, dtype: Any = None) -> DeviceArray:
    """Values of the host, or an array of this device from any library, as this device's array.

    What has ``__cuda_array_interface__`` and is C-contiguous shares its memory; values of the host are copied.

    Raises:
        DTypeError: the elements are no floats of 4 or 8 bytes, integers or booleans.
    """
    if isinstance(values, DeviceArray):
        return values if dtype is None else values.astype(dtype, copy=False)
    if hasattr(values, "__cuda_array_interface__") or getattr(values, "__cuda_ndarray__", False):
        found = array.from_raw(values if SIMULATOR else cuda.as_cuda_array(values), values)
        return found if dtype is None else found.astype(dtype, copy=False)
    host = np.asarray(values, dtype, order="C")
    check_type(host.dtype)
    if host.size == 1:
        return full(host.shape, host.item(), host.dtype)
    out = empty(host.shape, host.dtype)
    if host.size:
        out.flat.raw.copy_to_device(host.reshape(-1))  # Numba stumbles over the strides of extents of 1
    return out


def check_type(dtype: np.dtype) -> None:
    """Raise :class:`DTypeError` for element types that kernels do not have."""
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
        raise DTypeError(f"device 'cuda': expected float32, float64, an integer type or bool, got {dtype}")


def to_numpy(x: DeviceArray) -> np.ndarray:
    """This device's array on the host; waits for the GPU."""
    return x.numpy()


from minirnn.kernels.cuda import array, reductions  # noqa: E402 - arithmetic needs arrays, their operators need arithmetic
