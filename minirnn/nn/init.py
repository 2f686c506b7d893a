"""First values of weights, drawn from :mod:`minirnn.random`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import DType, as_dtype
from minirnn.errors import DTypeError
from minirnn.nn.module import Parameter


def floating(dtype: DType) -> np.dtype:
    """``dtype`` as a floating type for weights.

    Raises:
        DTypeError: it is not float32 or float64.
    """
    result = as_dtype(dtype)
    if result not in (np.float32, np.float64):
        raise DTypeError(f"weights are float32 or float64, got {result}")
    return result


class _Mode(threading.local):
    without_values = False


_mode = _Mode()


@contextmanager
def without_values() -> Iterator[None]:
    """Inside, parameters get shapes only and take no memory: for models whose values are loaded at once.

    Whatever sizes a description from a stranger asks for, nothing is allocated before they are compared with the file.
    """
    before, _mode.without_values = _mode.without_values, True
    try:
        yield
    finally:
        _mode.without_values = before


def _filled(shape: tuple[int, ...], dtype: DType, draw: Callable[[], Any]) -> Parameter:
    kind = floating(dtype)
    if _mode.without_values:  # one number, seen everywhere
        return Parameter(np.lib.stride_tricks.as_strided(np.zeros(1, kind), shape, (0,) * len(shape)))
    return Parameter(np.asarray(draw(), kind))


def uniform(shape: tuple[int, ...], bound: float, dtype: DType) -> Parameter:
    """U(-bound, bound)."""
    return _filled(shape, dtype, lambda: random.generator().uniform(-bound, bound, shape))


def normal(shape: tuple[int, ...], std: float, dtype: DType) -> Parameter:
    """N(0, std^2)."""
    return _filled(shape, dtype, lambda: random.generator().standard_normal(shape) * std)


def constant(shape: tuple[int, ...], value: float, dtype: DType) -> Parameter:
    """One value everywhere."""
    return _filled(shape, dtype, lambda: np.full(shape, value))
