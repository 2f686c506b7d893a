"""Learning-rate schedules: trajectories against live PyTorch and by hand, and resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import OptionError
from minirnn.optim import SGD
from minirnn.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearWarmup,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
)

STEPS = 60
METRICS = np.concatenate([np.linspace(3, 1, 10), np.full(30, 1.0), [0.5], np.full(STEPS, 0.6)])[:STEPS].tolist()
PLATEAUS: list[dict[str, Any]] = [
    {"patience": 3},
    {"factor": 0.5, "patience": 0, "min_lr": 0.01},
    {"factor": 0.5, "patience": 2, "cooldown": 4, "min_lr": [0.01, 0.1]},
    {"mode": "max", "patience": 1, "threshold": 0.3},
    {"mode": "max", "patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
    {"factor": 0.9, "patience": 1, "threshold": 0.25, "threshold_mode": "abs", "eps": 0.05},
]


def make_optimizer() -> SGD:
    a, b = (mr.tensor([0.0], requires_grad=True) for _ in range(2))
    return SGD([{"params": a, "lr": 0.8}, {"params": b}], lr=0.3)


def torch_optimizer(torch: Any) -> Any:
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.SGD([{"params": a, "lr": 0.8}, {"params": b}], lr=0.3)


def trajectory(scheduler: Any, optimizer: Any, steps: int = STEPS, metrics: list[float] | None = None) -> np.ndarray:
    rates = [[group["lr"] for group in optimizer.param_groups]]
    for t in range(steps):
        optimizer.step()
        scheduler.step(*([] if metrics is None else [metrics[t]]))
        rates.append([group["lr"] for group in optimizer.param_groups])
        assert rates[-1] == scheduler.get_last_lr()
    return np.array(rates)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 7}),
        ("StepLR", {"step_size": 1, "gamma": 0.9}),
        ("ExponentialLR", {"gamma": 0.93}),
        ("CosineAnnealingLR", {"T_max": 25}),
        ("CosineAnnealingLR", {"T_max": 60, "eta_min": 0.05}),
        ("CosineAnnealingLR", {"T_max": 1}),
    ],
)
def test_trajectories_are_those_of_pytorch(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    theirs, ours = torch_optimizer(torch), make_optimizer()
    expected = trajectory(getattr(torch.optim.lr_scheduler, name)(theirs, **options), theirs)
    got = trajectory(getattr(mr.optim.lr_scheduler, name)(ours, **options), ours)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("options", PLATEAUS)
def test_plateaus_are_those_of_pytorch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    theirs, ours = torch_optimizer(torch), make_optimizer()
    expected = trajectory(torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options), theirs, metrics=METRICS)
    got = trajectory(ReduceLROnPlateau(ours, **options), ours, metrics=METRICS)
    assert len(np.unique(expected[:, 0])) > 1
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("warmup", [1, 5])
def test_warmup_is_pytorchs_linear_then_the_next(warmup: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    schedulers = torch.optim.lr_scheduler
    theirs, ours = torch_optimizer(torch), make_optimizer()
    linear = schedulers.LinearLR(theirs, start_factor=1 / warmup, total_iters=warmup - 1)
    cosine = schedulers.CosineAnnealingLR(theirs, 20)
    expected = trajectory(schedulers.SequentialLR(theirs, [linear, cosine], [warmup]), theirs)
    got = trajectory(LinearWarmup(ours, warmup, CosineAnnealingLR(ours, 20)), ours)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


def one_rate(make: Callable[[SGD], LRScheduler], steps: int, metrics: list[float] | None = None) -> list[float]:
    optimizer = SGD([mr.tensor([0.0], requires_grad=True)], lr=1.0)
    return trajectory(make(optimizer), optimizer, steps, metrics)[:, 0].tolist()


def test_by_hand() -> None:
    assert one_rate(lambda o: StepLR(o, 2, 0.5), 5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert one_rate(lambda o: ExponentialLR(o, 0.5), 3) == [1, 0.5, 0.25, 0.125]
    np.testing.assert_allclose(
        one_rate(lambda o: CosineAnnealingLR(o, 2, eta_min=0.5), 4), [1, 0.75, 0.5, 0.75, 1], rtol=1e-12
    )
    metrics = [2.0, 1.0, 1.0, 1.0, 0.5, 0.6]
    assert one_rate(lambda o: ReduceLROnPlateau(o, factor=0.5, patience=1), 6, metrics) == [1, 1, 1, 1, 0.5, 0.5, 0.5]
    assert one_rate(lambda o: LinearWarmup(o, 4), 6) == [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert one_rate(lambda o: LinearWarmup(o, 2, StepLR(o, 1, 0.5)), 4) == [0.5, 1, 1, 0.5, 0.25]
    assert one_rate(lambda o: LinearWarmup(o, 0, ExponentialLR(o, 0.5)), 2) == [1, 0.5, 0.25]


def test_warmup_hands_metrics_on_and_does_not_count_those_before() -> None:
    rates = one_rate(lambda o: LinearWarmup(o, 2, ReduceLROnPlateau(o, factor=0.5, patience=0)), 5, [9, 9, 5, 7, 4])
    assert rates == [0.5, 1, 1, 1, 0.5, 0.5]


def test_schedules_multiply() -> None:
    optimizer = SGD([mr.tensor([0.0], requires_grad=True)], lr=1.0)
    schedules = [ExponentialLR(optimizer, 0.5), StepLR(optimizer, 2, 0.25)]
    for _ in range(2):
        for schedule in schedules:
            schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.0625


def test_the_rate_is_what_the_optimiser_uses() -> None:
    p = mr.tensor([0.0], requires_grad=True, dtype="float64")
    optimizer = SGD([p], lr=1.0)
    scheduler = LinearWarmup(optimizer, 2, ExponentialLR(optimizer, 0.25))
    for _ in range(4):
        p.grad = mr.tensor([1.0], dtype="float64")
        optimizer.step()
        scheduler.step()
    assert p.item() == -(0.5 + 1 + 1 + 0.25)


MAKERS: list[Callable[[SGD], LRScheduler]] = [
    lambda o: StepLR(o, 7),
    lambda o: ExponentialLR(o, 0.93),
    lambda o: CosineAnnealingLR(o, 25),
    lambda o: LinearWarmup(o, 30, CosineAnnealingLR(o, 25)),
    lambda o: LinearWarmup(o, 4, StepLR(o, 3)),
    lambda o: ReduceLROnPlateau(o, patience=2, cooldown=3),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_state_dict_continues_bit_for_bit(make: Callable[[SGD], LRScheduler], optimizer_first: bool) -> None:
    straight, halted, resumed = make_optimizer(), make_optimizer(), make_optimizer()
    schedule, before = make(straight), make(halted)
    metrics = METRICS if isinstance(schedule, ReduceLROnPlateau) else None
    expected = trajectory(schedule, straight, STEPS, metrics)
    trajectory(before, halted, 20, metrics)
    state = json.loads(json.dumps(before.state_dict()))  # plain numbers and strings
    if optimizer_first:
        resumed.load_state_dict(halted.state_dict())
    after = make(resumed)
    after.load_state_dict(state)
    if not optimizer_first:
        resumed.load_state_dict(halted.state_dict())
    got = trajectory(after, resumed, STEPS - 20, None if metrics is None else metrics[20:])
    np.testing.assert_array_equal(got, expected[20:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepLR(3, 1), "StepLR: expected an Optimizer, got a int"),  # type: ignore[arg-type]
        (lambda o: StepLR(o, 0), "step_size must be at least 1, got 0"),
        (lambda o: CosineAnnealingLR(o, 0), "T_max must be at least 1"),
        (lambda o: ReduceLROnPlateau(o, "least"), "mode must be 'min' or 'max', got 'least'"),
        (lambda o: ReduceLROnPlateau(o, threshold_mode="x"), "threshold_mode must be"),
        (lambda o: ReduceLROnPlateau(o, factor=1.0), "factor must be below 1"),
        (lambda o: ReduceLROnPlateau(o, min_lr=[0.0]), "min_lr must be a number or a list of 2"),
        (lambda o: LinearWarmup(o, -1), "warmup_steps must be at least 0"),
        (lambda o: LinearWarmup(o, 3, StepLR(make_optimizer(), 1)), "after must be a schedule of the same optimizer"),
        (
            lambda o: LinearWarmup(o, 3).load_state_dict(LinearWarmup(o, 3, StepLR(o, 1)).state_dict()),
            "after must be there in both or neither",
        ),
    ],
)
def test_wrong_options(make: Callable[[SGD], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make(make_optimizer())
