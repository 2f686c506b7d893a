"""Gradient clipping against PyTorch and by hand; gradients in a flat layout and in separate arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import kernels
from minirnn.errors import GradientError, OptionError
from minirnn.optim import SGD, clip_grad_norm_, clip_grad_value_, clipping
from minirnn.optim.flat import gradient_arrays

SHAPES = [(3, 5), (7,), (), (4, 1, 3), (33, 700)]


def make_params(flat: bool, dtype: str = "float64", device: str = "cpu") -> list[mr.Tensor]:
    """Parameters with a gradient each, except the second."""
    rng = np.random.default_rng(1)
    shapes = SHAPES if device == "cpu" else SHAPES[:-1]  # a simulated GPU is slow
    params = [mr.tensor(np.zeros(shape), True, dtype, device) for shape in shapes]
    if flat:
        SGD(params)
    for number, p in enumerate(params):
        gradient = rng.normal(size=p.shape).astype(dtype)
        if number != 1:
            p.add_grad(kernels.on(device).asarray(gradient))
    return params


def torch_params(torch: Any, params: list[mr.Tensor]) -> list[Any]:
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy())) for p in params]
    for p, q in zip(params, theirs, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
    return theirs


def gradients(params: list[Any]) -> list[np.ndarray | None]:
    return [None if p.grad is None else p.grad.numpy().copy() for p in params]


@pytest.fixture(params=[True, False], ids=["flat", "separate"])
def flat(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, math.inf, "inf"])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e9])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
def test_norm_and_clipped_gradients_match_pytorch(
    torch: Any, flat: bool, norm_type: Any, max_norm: float, dtype: str, tolerance: float, device: str
) -> None:
    params = make_params(flat, dtype, device)
    theirs = torch_params(torch, params)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type).item()
    assert clip_grad_norm_(iter(params), max_norm, norm_type) == pytest.approx(expected, rel=tolerance)
    for ours, other in zip(gradients(params), gradients(theirs), strict=True):
        assert (ours is None) == (other is None)
        if ours is not None and other is not None:
            np.testing.assert_allclose(ours, other, rtol=tolerance)
            assert ours.dtype == dtype


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", [2.0, 3.0, math.inf])
def test_gradients_that_are_not_finite_match_pytorch(torch: Any, flat: bool, bad: float, norm_type: float) -> None:
    params = make_params(flat)
    params[3].grad.data[1, 0, 2] = bad
    theirs, before = torch_params(torch, params), gradients(params)
    with pytest.raises(GradientError, match="expected a finite one"):
        clip_grad_norm_(params, 1.0, norm_type, error_if_nonfinite=True)
    np.testing.assert_equal(gradients(params), before)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0, norm_type).item()
    np.testing.assert_equal(clip_grad_norm_(params, 1.0, norm_type), expected)
    for ours, other in zip(gradients(params), gradients(theirs), strict=True):
        if ours is not None and other is not None:
            np.testing.assert_equal(np.abs(ours), np.abs(other))  # zeros may differ in sign


def test_value_clipping_matches_pytorch(torch: Any, flat: bool) -> None:
    params = make_params(flat)
    params[0].grad.data[0, :3] = [math.nan, math.inf, -math.inf]
    theirs = torch_params(torch, params)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    clip_grad_value_(params, 0.3)
    np.testing.assert_equal(gradients(params), gradients(theirs))


def test_clipping_by_hand(flat: bool) -> None:
    params = [mr.tensor([0.0], requires_grad=True, dtype="float64") for _ in range(3)]
    optimizer = SGD(params, lr=1.0) if flat else None
    params[0].add_grad(np.array([3.0]))
    params[2].add_grad(np.array([-4.0]))
    assert clip_grad_norm_(params, 1.0) == 5.0
    np.testing.assert_allclose([params[0].grad.item(), params[2].grad.item()], [0.6, -0.8], rtol=1e-6)
    assert clip_grad_norm_(params, 2.0) == pytest.approx(1.0, rel=1e-6)  # below the limit nothing changes
    np.testing.assert_allclose([params[0].grad.item(), params[2].grad.item()], [0.6, -0.8], rtol=1e-6)
    clip_grad_value_(params, 0.7)
    np.testing.assert_allclose([params[0].grad.item(), params[2].grad.item()], [0.6, -0.7], rtol=1e-6)
    if optimizer:
        optimizer.step()
        np.testing.assert_allclose([p.item() for p in params], [-0.6, 0.0, 0.7], rtol=1e-6)


def test_one_parameter_no_gradient_and_no_parameter() -> None:
    p = mr.tensor([0.0, 0.0], requires_grad=True)
    assert clip_grad_norm_([p], 1.0) == 0.0
    assert clip_grad_norm_([], 1.0, math.inf) == 0.0
    clip_grad_value_([p], 1.0)
    p.add_grad(np.array([0.0, 2.0], np.float32))
    assert clip_grad_norm_(p, 1.0) == 2.0
    clip_grad_value_(p, 0.25)
    assert p.grad is not None
    assert p.grad.tolist() == [0.0, 0.25]


def test_the_norm_of_finite_gradients_whose_squares_overflow_is_infinite() -> None:
    """The sum of each block is finite, and that of both is not."""
    p = mr.tensor(np.zeros(1 << 15), requires_grad=True, dtype="float64")
    gradient = np.zeros(1 << 15)
    gradient[[0, -1]] = 1.2e154
    p.add_grad(gradient)
    assert clip_grad_norm_(p, 1.0) == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_no_trace(bad: float) -> None:
    """Parameters of 7 numbers have padding between them in a flat layout."""
    params = [mr.tensor(np.zeros(7), requires_grad=True) for _ in range(3)]
    optimizer = SGD(params)
    for value, norm in ((bad, bad), (2.0, math.sqrt(3 * 7 * 4))):
        optimizer.zero_grad()
        for p in params:
            p.add_grad(np.full(7, value, np.float32))
        np.testing.assert_allclose(clip_grad_norm_(params, math.inf), norm, rtol=1e-6)


def test_gradients_of_neighbours_in_a_layout_come_as_one_array(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [mr.tensor(np.zeros(8), requires_grad=True, dtype="float64") for _ in range(4)]
    optimizers = [SGD(params[:3]), SGD(params[3:])]  # their layouts live as long as they do
    for number, p in enumerate(params):
        p.add_grad(np.full(8, number + 1.0))

    def pieces(chosen: list[mr.Tensor]) -> list[list[float]]:
        return [array[::8].tolist() for array, _ in gradient_arrays(chosen)]

    assert pieces(params) == [[1.0, 2.0, 3.0], [4.0]]
    assert pieces(params[1:]) == [[2.0, 3.0], [4.0]]
    assert pieces([params[0], params[2], params[1]]) == [[1.0], [3.0], [2.0]]
    sizes, power_sum = [], clipping._power_sum
    monkeypatch.setattr(clipping, "_power_sum", lambda g, *rest: sizes.append(g.size) or power_sum(g, *rest))
    assert clip_grad_norm_(params, 1e9) == pytest.approx(math.sqrt(8 * (1 + 4 + 9 + 16)), rel=1e-12)
    assert sizes == [24, 8]  # one kernel call for each piece
    params[1].grad = mr.tensor(np.full(8, 9.0), dtype="float64")
    assert pieces(params) == [[1.0], [9.0], [3.0], [4.0]]
    params[1].grad = None  # its slot still holds the old gradient, which must not count
    assert pieces(params) == [[1.0], [3.0], [4.0]]
    assert clip_grad_norm_(params, 1e9) == pytest.approx(math.sqrt(8 * (1 + 9 + 16)), rel=1e-12)
    assert len(optimizers) == 2


@pytest.mark.parametrize("options", [{"max_norm": -1.0}, {"max_norm": math.nan}, {"max_norm": 1, "norm_type": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=r"clip_grad_norm_: \w+: expected a number (of at least|above) 0, got"):
        clip_grad_norm_([], **options)
    with pytest.raises(OptionError, match=r"clip_value: expected a number of at least 0, got -1"):
        clip_grad_value_([], -1)
