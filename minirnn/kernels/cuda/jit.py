"""``numba.cuda`` as this package uses it, the only file that imports it: kernels, kept on disk, and their functions."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minirnn.errors import DeviceError
from minirnn.kernels.cache import KernelCache

try:
    from numba import cuda
except (ImportError, AttributeError) as error:  # its parts, or Numba's, do not fit one another
    raise DeviceError(f"device 'cuda': numba-cuda cannot be loaded ({error}); install minirnn[cuda12] again") from None

SIMULATOR: bool = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
"""True under ``NUMBA_ENABLE_CUDASIM=1``: kernels run as plain Python, one thread of the host for each of the GPU's."""

THREADS: int = 4 if SIMULATOR else 256
"""Threads of a block, a power of two; what a simulated thread costs is why it has few."""


def _check_available() -> None:
    if SIMULATOR or cuda.is_available():
        return
    if importlib.util.find_spec("numba_cuda") is None:
        raise DeviceError(
            "device 'cuda' needs numba-cuda: pip install 'minirnn[cuda12]', or [cuda13] for a driver of CUDA 13"
        )
    raise DeviceError(
        "device 'cuda': no GPU, or no driver for it, was found; see that nvidia-smi lists one, and that the extra "
        "installed, cuda12 or cuda13, is not newer than the CUDA version it shows"
    )


_check_available()

if not SIMULATOR:  # Numba warns at every start of a grid that does not fill the GPU, as those of small arrays cannot
    cuda.dispatcher.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


def device_name() -> str:
    """The current GPU's, as its maker calls it."""
    if SIMULATOR:
        return "simulated"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def _storage() -> Any:
    """How a kernel is stored; None where Numba has that in another place: every process compiles for itself then."""
    numbas: Any = getattr(getattr(cuda, "dispatcher", None), "CUDACacheImpl", None)
    if SIMULATOR or numbas is None:
        return None

    class Storage(numbas):
        def rebuild(self, target_context: Any, payload: Any) -> Any:
            """What was stored goes to the GPU now, under the compiler's lock: Numba fails where two do so at once."""
            found = super().rebuild(target_context, payload)
            found.bind()
            return found

    return Storage


_STORED = _storage()


@functools.cache
def _compiler() -> str:
    try:
        return importlib.metadata.version("numba-cuda")
    except importlib.metadata.PackageNotFoundError:
        return "of Numba"


def kernel(function: Callable, max_registers: int | None = None) -> Any:
    """``cuda.jit``: compiled at the first start with each combination of argument types, and kept on disk.

    Args:
        max_registers: of a thread; what does not fit goes to memory.
    """
    if SIMULATOR:
        return cuda.jit(_without_warnings(function))
    started = cuda.jit(function, max_registers=max_registers)
    if _STORED is not None:
        started._cache = KernelCache(function, _STORED, _compiler())
    return started


def device_function(function: Callable) -> Any:
    """A function called from kernels."""
    return cuda.jit(device=True)(function)


def _without_warnings(function: Callable) -> Callable:
    """A GPU divides by zero in silence; as plain Python, on NumPy's numbers, a kernel shall too."""
    errstate = np.errstate

    def quiet(*args: Any) -> None:
        with errstate(all="ignore"):
            function(*args)

    # the simulator puts its ``cuda`` among the globals of what it runs: they must be the kernel's own
    return FunctionType(quiet.__code__, function.__globals__, function.__name__, None, quiet.__closure__)


log, log1p, sqrt = (np.log, np.log1p, np.sqrt) if SIMULATOR else (math.log, math.log1p, math.sqrt)
"""Functions of kernels' numbers: a GPU's give NaN where Python's raise, which is why the simulator has NumPy's."""


@device_function
def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers; NaN where either is."""
    return a if a > b or a != a else b


@device_function
def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers; NaN where either is."""
    return a if a < b or a != a else b


@intrinsic
def _copy_quad(typing_context: Any, to: Any, to_at: Any, source: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        quad = ir.VectorType(context.get_data_type(to.dtype), 4).as_pointer()

        def pointer(kind: Any, array: Any, place: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [place]), quad)

        value = builder.load(pointer(source, args[2], args[3]), align=16)
        builder.store(value, pointer(to, args[0], args[1]), align=16)

    return types.void(to, types.int64, source, types.int64), generate


def _copy_quad_plainly(to: Any, to_at: int, source: Any, at: int) -> None:
    to.reshape(-1)[to_at : to_at + 4] = source.reshape(-1)[at : at + 4]


copy_quad = _copy_quad_plainly if SIMULATOR else device_function(lambda to, i, source, k: _copy_quad(to, i, source, k))
"""(to, i, source, k): four elements from number k on, which begin at a multiple of 16 bytes, to number i and on."""
