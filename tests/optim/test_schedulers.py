"""Learning-rate schedules: trajectories against PyTorch and by hand, and continuing from a saved state."""

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
    WarmupCosine,
)

STEPS = 60
METRICS = np.concatenate([np.linspace(3, 1, 10), np.full(30, 1.0), [0.5], np.full(STEPS, 0.6)])[:STEPS].tolist()


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
        ("ReduceLROnPlateau", {"patience": 3}),
        ("ReduceLROnPlateau", {"factor": 0.5, "patience": 0, "min_lr": 0.01}),
        ("ReduceLROnPlateau", {"factor": 0.5, "patience": 2, "cooldown": 4, "min_lr": [0.01, 0.1]}),
        ("ReduceLROnPlateau", {"mode": "max", "patience": 1, "threshold": 0.3}),
        ("ReduceLROnPlateau", {"mode": "max", "patience": 1, "threshold": 0.3, "threshold_mode": "abs"}),
        ("ReduceLROnPlateau", {"factor": 0.9, "patience": 1, "threshold": 0.25, "threshold_mode": "abs", "eps": 0.05}),
    ],
)
def test_trajectories_match_pytorch(torch: Any, name: str, options: dict[str, Any]) -> None:
    theirs, ours = torch_optimizer(torch), make_optimizer()
    metrics = METRICS if name == "ReduceLROnPlateau" else None
    expected = trajectory(getattr(torch.optim.lr_scheduler, name)(theirs, **options), theirs, metrics=metrics)
    assert len(np.unique(expected[:, 0])) > 1
    got = trajectory(getattr(mr.optim.lr_scheduler, name)(ours, **options), ours, metrics=metrics)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("warmup", [1, 5])
def test_warmup_matches_pytorchs_linear_then_the_next_schedule(torch: Any, warmup: int) -> None:
    schedulers = torch.optim.lr_scheduler
    theirs, ours = torch_optimizer(torch), make_optimizer()
    linear = schedulers.LinearLR(theirs, start_factor=1 / warmup, total_iters=warmup - 1)
    cosine = schedulers.CosineAnnealingLR(theirs, 20)
    expected = trajectory(schedulers.SequentialLR(theirs, [linear, cosine], [warmup]), theirs)
    got = trajectory(LinearWarmup(ours, warmup, CosineAnnealingLR(ours, 20)), ours)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda o: StepLR(o, 2, 0.5), [1, 1, 0.5, 0.5, 0.25, 0.25]),
        (lambda o: ExponentialLR(o, 0.5), [1, 0.5, 0.25, 0.125]),
        (lambda o: CosineAnnealingLR(o, 2, eta_min=0.5), [1, 0.75, 0.5, 0.75, 1]),
        (lambda o: LinearWarmup(o, 4), [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (lambda o: LinearWarmup(o, 2, StepLR(o, 1, 0.5)), [0.5, 1, 1, 0.5, 0.25]),
        (lambda o: LinearWarmup(o, 0, ExponentialLR(o, 0.5)), [1, 0.5, 0.25]),
    ],
)
def test_schedules_by_hand(make: Callable[[SGD], LRScheduler], expected: list[float]) -> None:
    optimizer = SGD([mr.tensor([0.0], requires_grad=True)], lr=1.0)
    rates = trajectory(make(optimizer), optimizer, len(expected) - 1)[:, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("warmup", "patience", "metrics", "expected"),
    [
        (None, 1, [2, 1, 1, 1, 0.5, 0.6], [1, 1, 1, 1, 0.5, 0.5, 0.5]),
        (2, 0, [9, 9, 5, 7, 4], [0.5, 1, 1, 1, 0.5, 0.5]),  # metrics during the warm-up do not count
    ],
)
def test_plateaus_by_hand(warmup: int | None, patience: int, metrics: list[float], expected: list[float]) -> None:
    optimizer = SGD([mr.tensor([0.0], requires_grad=True)], lr=1.0)
    schedule: LRScheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)
    schedule = schedule if warmup is None else LinearWarmup(optimizer, warmup, schedule)
    assert trajectory(schedule, optimizer, len(metrics), metrics)[:, 0].tolist() == expected


def test_schedules_multiply_and_the_optimiser_uses_their_rate() -> None:
    p = mr.tensor([0.0], requires_grad=True, dtype="float64")
    optimizer = SGD([p], lr=1.0)
    schedules = [LinearWarmup(optimizer, 2, ExponentialLR(optimizer, 0.25)), StepLR(optimizer, 4, 0.5)]
    for _ in range(5):
        p.grad = mr.tensor([1.0], dtype="float64")
        optimizer.step()
        for schedule in schedules:
            schedule.step()
    assert p.item() == -(0.5 + 1 + 1 + 0.25 + 0.25 * 0.25 * 0.5)


def test_warmup_cosine_by_hand() -> None:
    """0.8 p / 0.25, at least 1 %; then from 0.8 along half a cosine to a tenth of it; by steps or any other measure."""
    optimizer = make_optimizer()
    schedule = WarmupCosine(optimizer, 0.8, warmup=0.25, final_lr=0.1)
    expected = [0.008, 0.008, 0.4, 0.8, 0.8 * (0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2), 0.44, 0.08]
    for progress, lr in zip((0.0, 0.001, 0.125, 0.25, 0.4375, 0.625, 1.0), expected, strict=True):
        schedule.set_progress(progress)
        assert [group["lr"] for group in optimizer.param_groups] == [schedule.lr_at(progress)] * 2
        assert schedule.lr_at(progress) == pytest.approx(lr, rel=1e-12)
        schedule.set_progress(progress, factor=0.5)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * schedule.lr_at(progress)] * 2
    assert WarmupCosine(optimizer, 0.5, warmup=0.0).lr_at(0.0) == 0.5
    assert WarmupCosine(optimizer, 0.5, warmup=1.0, final_lr=0.1).lr_at(1.0) == 0.5


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
        (lambda o: StepLR(o, 0), "step_size: expected an int of at least 1, got 0"),
        (lambda o: CosineAnnealingLR(o, 0), "T_max: expected an int of at least 1"),
        (lambda o: ReduceLROnPlateau(o, "least"), "mode: expected one of min, max, got 'least'"),
        (lambda o: ReduceLROnPlateau(o, threshold_mode="x"), "threshold_mode: expected one of rel, abs"),
        (lambda o: ReduceLROnPlateau(o, factor=1.0), "factor: expected a number below 1, got 1.0"),
        (lambda o: ReduceLROnPlateau(o, min_lr=[0.0]), r"min_lr: expected a number or 2 numbers, got \[0.0\]"),
        (lambda o: LinearWarmup(o, -1), "warmup_steps: expected an int of at least 0"),
        (lambda o: LinearWarmup(o, 3, StepLR(make_optimizer(), 1)), "after: expected a schedule of the same optimizer"),
        (
            lambda o: LinearWarmup(o, 3).load_state_dict(LinearWarmup(o, 3, StepLR(o, 1)).state_dict()),
            "after: expected one in the schedule and in its state, or in neither",
        ),
    ],
)
def test_mistakes_are_named(make: Callable[[SGD], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make(make_optimizer())
