"""The fused softmax cross-entropy and its gradient against the formula in float64, and for infinities and NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.kernels import cpu
from minirnn.kernels.jit import DISABLED

CLASSES = [1, 2, 3, 63, 64, 65, 100, 128, 129, 300]


def naive(
    logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None, smoothing: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and gradients by definition: -sum_j q_j w_j log p_j, q the smoothed target."""
    x = logits.astype(np.float64)
    rows, classes = x.shape
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    q = np.full(x.shape, smoothing / classes)
    q[np.arange(rows), targets] += 1 - smoothing
    q *= 1.0 if weight is None else weight.astype(np.float64)
    q[targets < 0] = 0
    return -(q * np.log(p)).sum(1) * scale, (p * q.sum(1, keepdims=True) - q) * scale


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_match_the_formula(
    dtype: np.dtype, classes: int, smoothing: float, weighted: bool
) -> None:
    rng = np.random.default_rng(classes)
    logits = (3 * rng.standard_normal((9, classes))).astype(dtype)
    targets = rng.integers(0, classes, 9)
    targets[[2, 8]] = -1
    weight = rng.random(classes).astype(dtype) if weighted else None
    losses, grad = cpu.cross_entropy(logits, targets, weight, smoothing, 0.25, True)
    tolerance = 3e-6 if dtype == np.float32 else 1e-13
    expected, expected_grad = naive(logits, targets, weight, smoothing, 0.25)
    np.testing.assert_allclose(losses, expected, rtol=tolerance, atol=2 * tolerance)
    np.testing.assert_allclose(grad, expected_grad, rtol=tolerance, atol=tolerance)
    assert losses[2] == losses[8] == 0
    assert not grad[[2, 8]].any()
    alone, none = cpu.cross_entropy(logits, targets, weight, smoothing, 0.25, False)
    assert none is None
    np.testing.assert_array_equal(alone, losses)


@given(rows=st.integers(0, 6), classes=st.integers(1, 80 if DISABLED else 300), seed=st.integers(0, 999))
def test_any_number_of_rows_and_classes(dtype: np.dtype, rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes)).astype(dtype)
    targets = rng.integers(-1, classes, rows)
    losses, grad = cpu.cross_entropy(logits, targets, None, 0.0, 1.0, True)
    expected, expected_grad = naive(logits, targets, None, 0.0, 1.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 63, 64, 65, 200])
def test_big_logits_do_not_overflow(dtype: np.dtype, classes: int) -> None:
    """Wherever in the row the largest one is."""
    big = np.finfo(dtype).max / 4
    for at in range(0, classes, 7):
        logits = np.full((1, classes), -big, dtype)
        logits[0, at] = big
        losses, grad = cpu.cross_entropy(logits, np.array([at]), None, 0.0, 1.0, True)
        assert losses[0] == 0
        assert not grad.any()
        if classes > 1:
            losses, grad = cpu.cross_entropy(logits, np.array([(at + 1) % classes]), None, 0.0, 1.0, True)
            assert losses[0] == pytest.approx(2 * big)
            assert (grad[0, at], grad[0, (at + 1) % classes]) == (1, -1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shift", [1e4, -1e4, 3e5, 1e30])
def test_losses_are_exact_for_logits_far_from_zero(dtype: np.dtype, shift: float, smoothing: float) -> None:
    """The largest logit must not be added to the logarithm of a small sum."""
    logits = (np.arange(130) % 7 + dtype.type(shift)).reshape(2, 65).astype(dtype)
    losses, _ = cpu.cross_entropy(logits, np.array([3, 5]), None, smoothing, 1.0, False)
    expected, _ = naive(logits, np.array([3, 5]), None, smoothing, 1.0)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


@pytest.mark.parametrize("classes", [1, 5, 64, 70, 130])
def test_nan_gives_nan_in_its_row_only(dtype: np.dtype, classes: int) -> None:
    for at in range(classes):
        logits = np.zeros((3, classes), dtype)
        logits[1, at] = np.nan
        losses, grad = cpu.cross_entropy(logits, np.zeros(3, np.int64), None, 0.0, 1.0, True)
        assert np.isnan(losses).tolist() == [False, True, False], at
        assert np.isnan(grad).any(1).tolist() == [False, True, False], at


@pytest.mark.needs_torch
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [4, 70])
def test_infinite_logits_match_pytorch(torch: Any, dtype: np.dtype, smoothing: float, classes: int) -> None:
    logits = np.zeros((6, classes), dtype)
    logits[0, 1] = -np.inf  # not the target
    logits[1, 0] = -np.inf  # the target
    logits[2] = -np.inf
    logits[3, 1] = logits[4, 0] = np.inf
    logits[5, 2:] = -np.inf
    targets = np.zeros(6, np.int64)
    with np.errstate(all="ignore"):
        losses, grad = cpu.cross_entropy(logits, targets, None, smoothing, 1.0, True)
    t = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(t, torch.tensor(targets), reduction="none", label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-6)
    if not smoothing:
        expected.sum().backward()
        np.testing.assert_allclose(grad, t.grad.numpy(), rtol=1e-6, atol=1e-7)
