"""Initial values of parameters, drawn from :mod:`minirnn.random`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import DType, as_dtype
from minirnn.errors import DTypeError
from minirnn.nn.module import Parameter


class _Mode(threading.local):
    empty = False


_mode = _Mode()


@contextmanager
def empty_weights() -> Iterator[None]:
    """Context manager: parameters made inside have a shape but no values and take no memory.

    For values that are loaded next: whatever sizes an untrusted file asks for, nothing is allocated before the check.
    """
    before, _mode.empty = _mode.empty, True
    try:
        yield
    finally:
        _mode.empty = before


def _parameter(shape: tuple[int, ...], dtype: DType, values: Callable[[], np.ndarray]) -> Parameter:
    dtype = as_dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise DTypeError(f"weights: expected float32 or float64, got {dtype}")
    if _mode.empty:  # one number, seen at every index
        return Parameter(np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, (0,) * len(shape)))
    return Parameter(np.asarray(values(), dtype))


def uniform(shape: tuple[int, ...], bound: float, dtype: DType) -> Parameter:
    """Return a parameter drawn from U(-bound, bound), float32 or float64."""
    return _parameter(shape, dtype, lambda: random.generator().uniform(-bound, bound, shape))


def normal(shape: tuple[int, ...], std: float, dtype: DType) -> Parameter:
    """Return a parameter drawn from N(0, std^2), float32 or float64."""
    return _parameter(shape, dtype, lambda: random.generator().standard_normal(shape) * std)


def constant(shape: tuple[int, ...], value: float, dtype: DType) -> Parameter:
    """Return a parameter filled with one value, float32 or float64."""
    return _parameter(shape, dtype, lambda: np.full(shape, value))
