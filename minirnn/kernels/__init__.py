"""FLOOR 1: arrays in, arrays out, never a Tensor.

``on(device)`` gives the kernels of a device: a module whose names are the contract (``minirnn.kernels.cpu``
lists them). Every array given to a kernel is of that device, C-contiguous unless its docstring says
otherwise, float32 or float64, indices int64; nothing is checked here, the floor above does that. A kernel
never computes a number in an order that depends on the number of threads.

Loading a device's kernels is put off to its first use, and compiling each kernel to its first call, so that
``import minirnn`` costs next to nothing.
"""

import functools
import importlib
from typing import Any

from minirnn.errors import DeviceError
from minirnn.kernels.threads import get_num_threads, set_num_threads

__all__ = ["DEVICES", "get_num_threads", "on", "set_num_threads"]

DEVICES = ("cpu", "cuda")


@functools.cache
def on(device: str) -> Any:
    """The kernels of ``device``.

    Raises:
        DeviceError: the device is not one of :data:`DEVICES`.
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is unknown; this version has {', '.join(DEVICES)}")
    return importlib.import_module(f"minirnn.kernels.{device}")
