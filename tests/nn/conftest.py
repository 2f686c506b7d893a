"""Fixtures of the tests of layers: comparison within a tolerance, and a fixed seed for initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minirnn import random

TOLERANCE = {"float32": 2e-5, "float64": 1e-10}
SMALLEST = {"float32": 1e-2, "float64": 1e-20}
"""The smallest divisor of a relative error: values that cancel to less have too few digits in float32."""


def relative_error(ours: Any, theirs: Any, dtype: str) -> float:
    """max |a - b| / max |b|; infinite unless NaNs and infinities are at the same places."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    infinite = np.isinf(a) | np.isinf(b)
    if not np.array_equal(a[infinite], b[infinite]):
        return np.inf
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(np.abs(b[finite]).max(), SMALLEST[dtype]))


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """``assert_close(ours, theirs, dtype, what)`` within the tolerance of the dtype, relative to the largest value."""

    def check(ours: Any, theirs: Any, dtype: str, what: str = "value") -> None:
        a, b = np.asarray(ours), np.asarray(theirs)
        assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
        error = relative_error(a, b, dtype)
        assert error <= TOLERANCE[dtype], f"{what}: relative error {error:.3g}\nours {a}\nexpected {b}"

    return check


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    """Every test draws its weights and masks from the same seed."""
    random.manual_seed(20240)
    yield
    random.manual_seed(0)
