"""Kernels: arrays in, arrays out, never a Tensor.

:func:`on` returns the backend of a device, which offers the functions of :class:`minirnn.kernels.contract.Backend`. A
backend is loaded when it is first asked for, and each kernel compiled at its first call, so ``import minirnn`` is fast.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, cast

from minirnn.errors import DeviceError
from minirnn.kernels.precision import matmul_precision
from minirnn.kernels.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    import numpy as np

    from minirnn.kernels import cpu, cuda
    from minirnn.kernels.contract import Backend, Kernels
    from minirnn.kernels.cuda.array import DeviceArray

    _cpu: Backend[np.ndarray] = cpu  # mypy checks the modules against the contract
    _cuda: Backend[DeviceArray] = cuda

__all__ = ["DEVICES", "get_num_threads", "matmul_precision", "on", "set_num_threads", "unavailable_reason"]

DEVICES = ("cpu", "cuda")


def unavailable_reason(device: str) -> str:
    """Why a device cannot be used; empty if it can."""
    try:
        on(device)
    except DeviceError as error:
        return str(error)
    return ""


@functools.cache
def on(device: str) -> Kernels:
    """The kernels of ``device``, ``"cpu"`` or ``"cuda"``.

    Raises:
        DeviceError: the device is unknown or not available.
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is unknown; expected one of {', '.join(DEVICES)}")
    return cast("Kernels", importlib.import_module(f"minirnn.kernels.{device}"))
