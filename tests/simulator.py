"""Numba's simulator of a card, made fit for a whole suite: faster, and without a fault of its own."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numba.cuda.simulator import kernelapi

_lock = threading.Lock()
_original = kernelapi.FakeCUDAShared.array


def _shared_array(self: Any, shape: Any, dtype: Any) -> Any:
    """As Numba has it, but never an array for each of two threads that ask for one at the same moment."""
    if shape == 0:  # of the size given at the start
        return _original(self, shape, dtype)
    caller = sys._getframe(1)
    place = caller.f_code.co_filename, caller.f_lineno
    with _lock:
        if place not in self._allocations:
            kind = kernelapi.numpy_support.as_dtype(dtype) if isinstance(dtype, kernelapi.types.Type) else dtype
            self._allocations[place] = np.empty(shape, kind)
        return self._allocations[place]


def prepare() -> None:
    """Threads of a block take turns often, for all but one wait at every barrier."""
    sys.setswitchinterval(1e-5)
    kernelapi.FakeCUDAShared.array = _shared_array
