"""Initial values of parameters, drawn from :mod:`minirnn.random`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import DType, as_dtype
from minirnn.errors import DTypeError
from minirnn.nn.module import Parameter

_empty: ContextVar[bool] = ContextVar("empty_weights", default=False)


@contextmanager
def empty_weights() -> Iterator[None]:
    """Context manager: parameters made inside have a shape but no values and take no memory.

    For values that are loaded next: whatever sizes an untrusted file asks for, nothing is allocated before the check.
    """
    token = _empty.set(True)
    try:
        yield
    finally:
        _empty.reset(token)


def _parameter(shape: tuple[int, ...], dtype: DType, values: Callable[[], np.ndarray]) -> Parameter:
    dtype = as_dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise DTypeError(f"weights: expected float32 or float64, got {dtype}")
    if _empty.get():  # one number, seen at every index
        return Parameter(np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, (0,) * len(shape)))
    return Parameter(np.asarray(values(), dtype))


def uniform(shape: tuple[int, ...], bound: float, dtype: DType) -> Parameter:
    """A parameter drawn from U(-bound, bound)."""
    return _parameter(shape, dtype, lambda: random.generator().uniform(-bound, bound, shape))


def normal(shape: tuple[int, ...], std: float, dtype: DType) -> Parameter:
    """A parameter drawn from N(0, std^2)."""
    return _parameter(shape, dtype, lambda: random.generator().standard_normal(shape) * std)


def constant(shape: tuple[int, ...], value: float, dtype: DType) -> Parameter:
    """A parameter filled with one value."""
    return _parameter(shape, dtype, lambda: np.full(shape, value))
