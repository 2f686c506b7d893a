"""Gradient clipping against live PyTorch and by hand, flat and not."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minirnn as mr
from minirnn import kernels
from minirnn.errors import GradientError, OptionError
from minirnn.optim import SGD, clip_grad_norm_, clip_grad_value_, clipping
from minirnn.optim.flat import gradient_arrays

SHAPES = [(3, 5), (7,), (), (4, 1, 3), (33, 700)]


def with_gradients(flat: bool, dtype: str = "float64", device: str = "cpu") -> list[mr.Tensor]:
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


@pytest.fixture(params=[True, False], ids=["flat", "loose"])
def flat(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, math.inf, "inf"])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e9])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
def test_norm_and_clipped_gradients_are_those_of_pytorch(
    flat: bool, norm_type: float, max_norm: float, dtype: str, tolerance: float, device: str
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    params = with_gradients(flat, dtype, device)
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy())) for p in params]
    for p, q in zip(params, theirs, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type).item()
    assert clip_grad_norm_(iter(params), max_norm, norm_type) == pytest.approx(expected, rel=tolerance)
    for p, q in zip(params, theirs, strict=True):
        if p.grad is None:
            assert q.grad is None
        else:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=tolerance)
            assert p.grad.dtype == dtype


def test_by_hand(flat: bool) -> None:
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


def test_a_parameter_alone_and_none_at_all() -> None:
    p = mr.tensor([0.0, 0.0], requires_grad=True)
    assert clip_grad_norm_([p], 1.0) == 0.0
    assert clip_grad_norm_([], 1.0, math.inf) == 0.0
    clip_grad_value_([p], 1.0)
    p.add_grad(np.array([0.0, 2.0], np.float32))
    assert clip_grad_norm_(p, 1.0) == 2.0
    clip_grad_value_(p, 0.25)
    assert p.grad is not None
    assert p.grad.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", [2.0, 3.0, math.inf])
def test_what_is_not_finite_is_treated_as_in_pytorch(flat: bool, bad: float, norm_type: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    params = with_gradients(flat)
    params[3].grad.data[1, 0, 2] = bad
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy())) for p in params]
    for p, q in zip(params, theirs, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
    before = [None if p.grad is None else p.grad.numpy().copy() for p in params]
    with pytest.raises(GradientError, match="expected a finite one"):
        clip_grad_norm_(params, 1.0, norm_type, error_if_nonfinite=True)
    for p, value in zip(params, before, strict=True):
        assert p.grad is None or np.array_equal(p.grad.numpy(), value, equal_nan=True)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0, norm_type).item()
    np.testing.assert_equal(clip_grad_norm_(params, 1.0, norm_type), expected)
    for p, q in zip(params, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_equal(np.abs(p.grad.numpy()), np.abs(q.grad.numpy()))  # zeros may differ in sign


def test_value_clipping_is_that_of_pytorch(flat: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    params = with_gradients(flat)
    params[0].grad.data[0, :3] = [math.nan, math.inf, -math.inf]
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy())) for p in params]
    for p, q in zip(params, theirs, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    clip_grad_value_(params, 0.3)
    for p, q in zip(params, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_flat_gradients_come_in_one_piece_and_strangers_by_themselves() -> None:
    params = [mr.tensor(np.zeros(8), requires_grad=True, dtype="float64") for _ in range(4)]
    optimizers = [SGD(params[:3]), SGD(params[3:])]  # their layouts live as long as they do
    for number, p in enumerate(params):
        p.add_grad(np.full(8, number + 1.0))

    def pieces(chosen: list[mr.Tensor]) -> list[list[float]]:
        return [array[::8].tolist() for array, _ in gradient_arrays(chosen)]

    assert pieces(params) == [[1.0, 2.0, 3.0], [4.0]]
    assert pieces(params[1:]) == [[2.0, 3.0], [4.0]]
    assert pieces([params[0], params[2], params[1]]) == [[1.0], [3.0], [2.0]]
    params[1].grad = mr.tensor(np.full(8, 9.0), dtype="float64")
    assert pieces(params) == [[1.0], [9.0], [3.0], [4.0]]
    params[1].grad = None  # its slot still holds the old gradient, which must not count
    assert pieces(params) == [[1.0], [3.0], [4.0]]
    assert clip_grad_norm_(params, 1e9) == pytest.approx(math.sqrt(8 * (1 + 9 + 16)), rel=1e-12)
    assert len(optimizers) == 2


def test_flat_gradients_are_clipped_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = clipping._power_sum

    def counted(gradient: np.ndarray, device: str, norm_type: float) -> float:
        sizes.append(gradient.size)
        return original(gradient, device, norm_type)

    monkeypatch.setattr(clipping, "_power_sum", counted)
    params = [mr.tensor(np.zeros(16), requires_grad=True) for _ in range(5)]
    optimizer = SGD(params)
    for p in params:
        p.add_grad(np.ones(16, np.float32))
    assert clip_grad_norm_(params, 1.0) == pytest.approx(math.sqrt(80), rel=1e-6)
    assert sizes == [80]
    optimizer.step()


@pytest.mark.parametrize("options", [{"max_norm": -1.0}, {"max_norm": math.nan}, {"max_norm": 1, "norm_type": 0}])
def test_wrong_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=r"clip_grad_norm_: .* must be"):
        clip_grad_norm_([], **options)
    with pytest.raises(OptionError, match=r"clip_value must be at least 0, got -1\.0"):
        clip_grad_value_([], -1)
