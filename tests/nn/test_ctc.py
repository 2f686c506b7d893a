"""The CTC loss against live PyTorch, all alignments of small inputs, finite differences and a case by hand.

In float32 too the oracle is PyTorch in float64, on the same numbers: its gradients in float32 are off by up to 1e-3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.autograd.tensor import Tensor, tensor

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
Check = Callable[..., None]


def case(seed: int) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray, dict[str, Any]]:
    """Logits, targets, lengths and options drawn from a seed: all edges occur, alone and together."""
    rng = np.random.default_rng(seed)
    steps, batch, classes, longest = (int(rng.integers(low, high)) for low, high in ((1, 24), (1, 6), (2, 9), (0, 9)))
    blank = int(rng.integers(classes)) if seed % 3 == 0 else 0
    others = np.delete(np.arange(classes), blank)
    kinds = rng.choice(others, min(len(others), int(rng.integers(1, 9))), replace=False)  # few kinds: many repetitions
    sizes = rng.integers(0, longest + 1, batch)
    lengths = rng.integers(0, steps + 1, batch) if seed % 4 else np.full(batch, steps)
    targets = rng.choice(kinds, (batch, longest + int(rng.integers(3))))
    if seed % 5 == 0:  # one after the other
        targets = np.concatenate([row[:size] for row, size in zip(targets, sizes, strict=True)])
    elif targets.size:
        targets[np.arange(targets.shape[1]) >= sizes[:, None]] = -7  # padding is not read
    logits = rng.choice([0.3, 1, 5]) * rng.standard_normal((steps, batch, classes))
    reduction = ["mean", "sum", "none"][seed % 3 if seed % 7 else 2]
    return logits, targets, lengths, sizes, {"blank": blank, "reduction": reduction, "zero_infinity": bool(seed % 2)}


@pytest.mark.needs_torch
@dtypes
@pytest.mark.parametrize("block", range(8))
def test_random_configurations_equal_pytorch(block: int, dtype: str, torch: Any, assert_close: Check) -> None:
    """400 of them; gradients of the logits, and of the log-probabilities themselves, normalized or not."""
    for seed in range(50 * block, 50 * block + 50):
        logits, targets, lengths, sizes, options = case(seed)
        logits = logits.astype(dtype)
        padded = np.where(targets < 0, 0, targets)
        given = [torch.tensor(values) for values in (padded, lengths, sizes)]
        for through in (True, False):
            x = tensor(logits, requires_grad=True, dtype=dtype)
            x_t = torch.tensor(logits.astype(np.float64), requires_grad=True)
            loss = F.ctc_loss(x.log_softmax(2) if through else x, targets, lengths, sizes, **options)
            loss_t = torch.nn.functional.ctc_loss(x_t.log_softmax(2) if through else x_t, *given, **options)
            above = np.random.default_rng(seed).uniform(0.5, 2, loss.shape)
            loss.backward(above.astype(dtype))
            loss_t.backward(torch.tensor(above.astype(dtype).astype(np.float64)))
            what = f"seed {seed}: {logits.shape} {targets} {lengths} {sizes} {options}"
            assert x.grad is not None
            assert_close(loss.numpy(), loss_t.detach().numpy(), dtype, what)
            assert_close(x.grad.numpy(), x_t.grad.numpy(), dtype, what)


@pytest.mark.needs_torch
@dtypes
def test_long_sequences_keep_their_precision(dtype: str, torch: Any, assert_close: Check) -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.standard_normal((400, 2, 12)).astype(dtype), rng.integers(1, 12, (2, 60))
    x = tensor(logits, requires_grad=True, dtype=dtype)
    x_t = torch.tensor(logits.astype(np.float64), requires_grad=True)
    loss = F.ctc_loss(x.log_softmax(2), targets, [400, 390], [60, 55])
    sizes = torch.tensor([400, 390]), torch.tensor([60, 55])
    loss_t = torch.nn.functional.ctc_loss(x_t.log_softmax(2), torch.tensor(targets), *sizes)
    loss.backward()
    loss_t.backward()
    assert x.grad is not None
    assert_close(loss.numpy(), loss_t.item(), dtype)
    assert_close(x.grad.numpy(), x_t.grad.numpy(), dtype)


def labels_of(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


@dtypes
@pytest.mark.parametrize("blank", [0, 2])
def test_loss_sums_over_all_alignments(blank: int, dtype: str, assert_close: Check) -> None:
    """For every target of up to five labels, posteriors by definition among them."""
    steps, classes = 5, 3
    log_probs = (
        tensor(np.random.default_rng(blank).standard_normal((steps, classes)), dtype=dtype).log_softmax(1).numpy()
    )
    paths = np.array(list(itertools.product(range(classes), repeat=steps)))
    probabilities = np.exp(log_probs.astype(np.float64)[np.arange(steps), paths].sum(1))
    found = [labels_of(tuple(path), blank) for path in paths.tolist()]
    others = [label for label in range(classes) if label != blank]
    for target in itertools.chain.from_iterable(itertools.product(others, repeat=size) for size in range(6)):
        those = np.array([one == target for one in found])
        x = tensor(log_probs, requires_grad=True, dtype=dtype)
        loss = F.ctc_loss(x, target, steps, len(target), blank, "sum")
        loss.backward()
        assert x.grad is not None
        if not those.any():  # repeated labels leave no room
            assert loss.item() == math.inf
            assert np.isnan(x.grad.numpy()).all()
            continue
        total = probabilities[those].sum()
        posterior = [np.bincount(paths[those, t], probabilities[those], classes) / total for t in range(steps)]
        assert_close(loss.numpy(), -np.log(total), dtype)
        assert_close(x.grad.numpy(), np.exp(log_probs.astype(np.float64)) - posterior, dtype)


def test_case_by_hand() -> None:
    """Two steps, one label: paths "a a", "a -", "- a" of 0.42, 0.18 and 0.28."""
    x = tensor([[0.4, 0.6], [0.3, 0.7]], dtype="float64").log().detach().requires_grad_()
    loss = F.ctc_loss(x, [1], 2, 1)
    loss.backward()
    assert x.grad is not None
    assert loss.item() == pytest.approx(-math.log(0.88))
    expected = [[0.4 - 0.28 / 0.88, 0.6 - 0.6 / 0.88], [0.3 - 0.18 / 0.88, 0.7 - 0.7 / 0.88]]
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_match_finite_differences(reduction: Any) -> None:
    x = tensor(np.random.default_rng(2).standard_normal((6, 3, 4)), requires_grad=True, dtype="float64")
    loss = mr.nn.CTCLoss(blank=3, reduction=reduction)
    assert mr.gradcheck(lambda x: loss(x.log_softmax(2), [[1, 1, 0], [2, 0, 1], [0, 0, 0]], [6, 4, 2], [3, 2, 0]), x)


def test_module_calls_the_function_with_its_options() -> None:
    x = tensor(np.random.default_rng(2).standard_normal((3, 2, 4))).log_softmax(2)
    inputs: dict[str, Any] = {"targets": [[1, 1], [2, 0]], "input_lengths": [2, 3], "target_lengths": [2, 2]}
    options: dict[str, Any] = {"blank": 3, "reduction": "none", "zero_infinity": True}
    loss = mr.nn.CTCLoss(**options)(x, **inputs)
    assert loss.tolist() == F.ctc_loss(x, **inputs, **options).tolist()
    assert loss[0].item() == 0 < loss[1].item()
    assert (mr.nn.CTCLoss.__doc__ or "").startswith("``loss(log_probs, targets, input_lengths, target_lengths)``")


@dtypes
def test_views_and_one_sequence_give_the_same_as_a_batch(dtype: str) -> None:
    values = np.random.default_rng(3).standard_normal((2, 4, 7, 2))
    views = tensor(values, requires_grad=True, dtype=dtype)
    targets = np.array([[2, 9, 1, 9], [3, 9, 9, 9]])[:, ::2]

    def results(x: Tensor, *given: Any) -> list[np.ndarray]:
        loss = F.ctc_loss(x, *given, reduction="sum")
        views.grad = None
        loss.backward()
        assert views.grad is not None
        return [loss.numpy(), views.grad.numpy()[:, :, :, 1]]

    strided = results(views[:, :, :, 1].permute(2, 0, 1).log_softmax(2), targets, [7, 0], [2, 0])
    alone = results(views[0, :, :, 1].t().log_softmax(1), [2, 1], [7], [2])
    for one, two in zip(strided, alone, strict=True):
        np.testing.assert_array_equal(one, two)


@dtypes
def test_nan_stays_in_its_sequence(dtype: str) -> None:
    logits = np.zeros((4, 2, 3))
    logits[2, 0, 1] = np.nan
    x = tensor(logits, requires_grad=True, dtype=dtype)
    loss = F.ctc_loss(x, [[1], [1]], [4, 4], [1, 1], reduction="none")
    loss.sum().backward()
    assert x.grad is not None
    assert np.isnan(loss.numpy()).tolist() == [True, False]
    assert np.isnan(x.grad.numpy()).any((0, 2)).tolist() == [True, False]


@dtypes
def test_impossible_classes_have_no_gradient(dtype: str, assert_close: Check) -> None:
    """PyTorch gives NaN; so close to zero as float32 can go, it is zero."""
    logits = np.random.default_rng(4).standard_normal((5, 1, 4))
    logits[1, 0, 3] = logits[2, 0, 0] = -np.inf
    near = np.where(np.isinf(logits), -200.0, logits)
    grads = []
    for values in (logits, near):
        x = tensor(values, requires_grad=True, dtype=dtype)
        F.ctc_loss(x.log_softmax(2), [[1, 2]], [5], [2]).backward()
        assert x.grad is not None
        grads.append(x.grad.numpy())
    assert_close(grads[0], grads[1], dtype)
