"""Launching kernels on :class:`~minirnn.kernels.cuda.array.DeviceArray`, faster than Numba's own call does.

Numba asks every array for its type and layout at every launch, which takes longer than most kernels run; a DeviceArray
knows them. So the compiled kernel of each combination of argument types is looked up here, and launched by cuda.core.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.errors import DeviceError
from minirnn.kernels.cuda.array import DeviceArray
from minirnn.kernels.cuda.jit import SIMULATOR, THREADS, Kernel

try:
    from cuda.core import LaunchConfig, Stream
    from cuda.core import launch as _launch_compiled
except ImportError:  # an older version of the library by which numba-cuda launches kernels
    LaunchConfig = None

_MAX_BLOCKS = 2 if SIMULATOR else 4096


@functools.lru_cache(4096)
def _configuration(blocks: int | tuple[int, ...], threads: int, shared_bytes: int, cooperative: bool) -> Any:
    return LaunchConfig(grid=blocks, block=threads, shmem_size=shared_bytes, is_cooperative=cooperative)


class _Compiled(threading.local):
    """Compiled kernels of each CPU thread, since the driver's context must have been made current to it.

    Attributes:
        kernels: by kernel and argument types: stream, the driver's kernel, whether the launch is cooperative.
    """

    def __init__(self) -> None:
        self.kernels: dict[tuple[Any, ...], tuple[Any, Any, bool] | None] = {}


_compiled = _Compiled()


def compiled(kernel: Kernel, args: Sequence[Any]) -> Any:
    """Numba's compiled kernel for arguments of these types."""
    return kernel.compile(tuple(kernel.typeof_pyval(_numba_argument(arg)) for arg in args))


def _compile(kernel: Kernel, args: Sequence[Any], values: list[Any]) -> tuple[Any, Any, bool] | None:
    """An entry of :class:`_Compiled`; None with a version of numba-cuda that has other internals or parameters."""
    if SIMULATOR or LaunchConfig is None:
        return None
    found = compiled(kernel, args)
    try:
        function = found._codelibrary.get_cufunc().kernel
        parameters = [parameter.size for parameter in function.arguments_info]
    except (AttributeError, NotImplementedError):  # the latter from drivers before 12.4
        return None
    sizes = [1 if isinstance(value, bool) else getattr(value, "itemsize", 8) for value in values]
    return (Stream.from_handle(0), function, found.cooperative) if parameters == sizes else None


def _numba_argument(arg: Any) -> Any:
    """The argument for Numba's own call, which would copy an array of the host to the GPU and back."""
    if isinstance(arg, DeviceArray):
        return arg.raw
    if isinstance(arg, tuple):
        return tuple(map(_numba_argument, arg))
    if isinstance(arg, (np.ndarray, np.flatiter)):
        raise DeviceError(
            "expected arrays on one device, got one on 'cuda' and one on the host; move them to one with .to(...)"
        )
    return arg


def _flatten(args: Sequence[Any], kinds: list[Any], values: list[Any]) -> None:
    """Append the types of the arguments to ``kinds``, and to ``values`` the parameters of the compiled kernel."""
    for arg in args:
        kind = type(arg)
        if kind is DeviceArray:
            kinds += arg.dtype, len(arg.shape)
            values += arg.fields
        elif kind is tuple:
            kinds.append(len(arg))
            if arg and type(arg[0]) is int:
                values += arg
            else:
                _flatten(arg, kinds, values)
        else:
            kinds.append(kind)
            values.append(arg)


def launch_grid(
    kernel: Kernel, blocks: int | tuple[int, ...], threads: int, shared_bytes: int, args: Sequence[Any]
) -> None:
    """Launch ``kernel[blocks, threads, 0, shared_bytes](*args)``.

    Args:
        args: numbers, booleans, :class:`DeviceArray`, tuples of integers, and tuples of arguments that begin with
            something else.
    """
    kinds: list[Any] = [kernel]
    values: list[Any] = []
    _flatten(args, kinds, values)
    key, kernels = tuple(kinds), _compiled.kernels
    if key not in kernels:
        kernels[key] = _compile(kernel, args, values)
    found = kernels[key]
    if found is None:
        kernel[blocks, threads, 0, shared_bytes](*map(_numba_argument, args))
    else:
        stream, function, cooperative = found
        _launch_compiled(stream, _configuration(blocks, threads, shared_bytes, cooperative), function, *values)


def launch(kernel: Kernel, count: int, *args: Any) -> None:
    """Launch a kernel with a grid-stride loop, ``range(cuda.grid(1), count, cuda.gridsize(1))``; ``count`` > 0."""
    launch_grid(kernel, min(-(-count // THREADS), _MAX_BLOCKS), THREADS, 0, args)


def launch_blocks(kernel: Kernel, blocks: int | tuple[int, ...], *args: Any) -> None:
    """Launch a grid of so many blocks of :data:`THREADS` threads."""
    launch_grid(kernel, blocks, THREADS, 0, args)
