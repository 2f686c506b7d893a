"""FLOOR 1: arrays in, arrays out, never a Tensor.

``on(device)`` gives the kernels of a device: a module whose names are the contract (``minirnn.kernels.cpu``
lists them). Every array given to a kernel is of that device, C-contiguous unless its docstring says
otherwise, float32 or float64, indices int64; nothing is checked here, the floor above does that. A kernel
never computes a number in an order that depends on the number of threads.

On a device arrays are of a type of its own, with NumPy's names for what the floors above use; indices may lie on the
host. Only ``to_numpy``, ``has_nan``, ``square_sum`` and what is named after a Python type wait for it.

Loading a device's kernels is put off to its first use, and compiling each kernel to its first call, so that
``import minirnn`` costs next to nothing.
"""

import functools
import importlib
from typing import Any

from minirnn.errors import DeviceError
from minirnn.kernels.threads import get_num_threads, set_num_threads

__all__ = ["DEVICES", "get_num_threads", "on", "set_num_threads", "unavailable_reason"]

DEVICES = ("cpu", "cuda")


def unavailable_reason(device: str) -> str:
    """Why a device cannot be used here; nothing where it can."""
    try:
        on(device)
    except DeviceError as error:
        return str(error)
    return ""


@functools.cache
def on(device: str) -> Any:
    """The kernels of ``device``.

    Raises:
        DeviceError: the device is not one of :data:`DEVICES`, or it is not there.
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is unknown; this version has {', '.join(DEVICES)}")
    return importlib.import_module(f"minirnn.kernels.{device}")
