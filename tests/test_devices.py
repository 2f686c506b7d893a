"""Every operation on a card against the CPU: values, and the gradients that follow from a random upstream gradient.

Without a card these run where Numba simulates one (NUMBA_ENABLE_CUDASIM=1), and are skipped elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from autograd.test_ops_gradients import CASES

import minirnn as mr
from minirnn.autograd import Tensor, ops

TOLERANCE = {"float32": 3e-5, "float64": 1e-12}


def outcome(fn: Any, inputs: tuple[np.ndarray, ...], dtype: np.dtype, device: str) -> tuple[list[Any], list[Any]]:
    """Values, and gradients, as NumPy arrays."""
    mr.manual_seed(5)
    leaves = [mr.tensor(values, True, dtype, device) for values in inputs]
    result = fn(*leaves)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    rng = np.random.default_rng(3)
    assert all(y.device == device for y in outputs)
    ops.stack([(y * rng.standard_normal(y.shape).astype(dtype)).sum() for y in outputs]).sum().backward()
    for x in leaves:
        assert x.grad is None or (x.grad.device, x.grad.dtype, x.grad.shape) == (device, dtype, x.shape)
    return [y.numpy() for y in outputs], [None if x.grad is None else x.grad.numpy() for x in leaves]


@pytest.mark.parametrize("name", sorted({c.name for c in CASES} - {"cast"}))
def test_operations_do_as_on_the_cpu(name: str, dtype: np.dtype, card: str) -> None:
    tolerance = TOLERANCE[str(dtype)]
    for number, (_, fn, inputs) in enumerate(c for c in CASES if c.name == name):
        try:
            wanted, got = (outcome(fn, inputs, dtype, device) for device in ("cpu", card))
            for ours, theirs in zip([*got[0], *got[1]], [*wanted[0], *wanted[1]], strict=True):
                if theirs is None:
                    assert ours is None
                    continue
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
        except Exception as error:
            error.add_note(f"{name}, case {number}: inputs {[v.shape for v in inputs]}")
            raise
