"""First values of weights, drawn from :mod:`minirnn.random`."""

from __future__ import annotations

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


def uniform(shape: tuple[int, ...], bound: float, dtype: DType) -> Parameter:
    """U(-bound, bound)."""
    return Parameter(random.generator().uniform(-bound, bound, shape).astype(floating(dtype)))


def normal(shape: tuple[int, ...], std: float, dtype: DType) -> Parameter:
    """N(0, std^2)."""
    return Parameter((random.generator().standard_normal(shape) * std).astype(floating(dtype)))


def constant(shape: tuple[int, ...], value: float, dtype: DType) -> Parameter:
    """One value everywhere."""
    return Parameter(np.full(shape, value, floating(dtype)))
