"""Learning-rate schedules with PyTorch's names, defaults and formulas.

A schedule is made after its optimiser and stepped after it, once an epoch or once an update. It works on the
groups' ``lr`` step by step, so several schedules on one optimiser multiply. In the equations ``lr`` is the
optimiser's own rate and ``t`` counts the calls of ``step``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minirnn.errors import OptionError
from minirnn.optim.optimizers import Optimizer

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LinearWarmup",
    "ReduceLROnPlateau",
    "StepLR",
    "WarmupCosine",
]


class LRScheduler:
    """Base of all schedules.

    Raises:
        OptionError: ``optimizer`` is none, or an option is out of its range.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"{type(self).__name__}: expected an Optimizer, got a {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _require(self, holds: bool, option: str, expected: str, got: object) -> None:
        if not holds:
            raise OptionError(f"{type(self).__name__}: {option} must be {expected}, got {got!r}")

    def get_lr(self) -> list[float]:
        """The groups' rates at ``last_epoch``, from those before."""
        raise NotImplementedError

    def step(self) -> None:
        """Go to the next rate."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def _set(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = list(rates)

    def get_last_lr(self) -> list[float]:
        """The groups' rates as last set."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, in plain numbers and strings."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the optimiser's rates are set too, so the order of loading is free."""
        vars(self).update(state_dict)
        self._set(self._last_lr)


class StepLR(LRScheduler):
    """lr_t = lr gamma^floor(t / step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        self._require(step_size >= 1, "step_size", "at least 1", step_size)
        self.step_size, self.gamma = step_size, gamma

    def get_lr(self) -> list[float]:
        factor = self.gamma if self.last_epoch % self.step_size == 0 else 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class ExponentialLR(LRScheduler):
    """lr_t = lr gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer)
        self.gamma = gamma

    def get_lr(self) -> list[float]:
        return [group["lr"] * self.gamma for group in self.optimizer.param_groups]


class CosineAnnealingLR(LRScheduler):
    """lr_t = eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2 (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Beyond ``T_max`` the rate rises again, as the cosine does.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        self._require(T_max >= 1, "T_max", "at least 1", T_max)
        self.T_max, self.eta_min = T_max, eta_min

    def get_lr(self) -> list[float]:
        t, half = self.last_epoch, self.T_max
        groups = self.optimizer.param_groups
        if (t - 1 - half) % (2 * half) == 0:  # the rate before was eta_min, from which no ratio leads back
            rise = (1 - math.cos(math.pi / half)) / 2
            return [
                group["lr"] + (base - self.eta_min) * rise for group, base in zip(groups, self.base_lrs, strict=True)
            ]
        ratio = (1 + math.cos(math.pi * t / half)) / (1 + math.cos(math.pi * (t - 1) / half))
        return [self.eta_min + (group["lr"] - self.eta_min) * ratio for group in groups]


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by ``factor`` when a metric has not improved for more than ``patience`` steps.

    In mode ``"min"`` a metric is an improvement below best (1 - threshold), or with ``threshold_mode="abs"``
    below best - threshold; in mode ``"max"`` above best (1 + threshold), best + threshold. After a reduction
    ``cooldown`` steps go uncounted. The rate does not fall under ``min_lr`` (a number, or one for each group), and
    changes of no more than ``eps`` are left out.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        super().__init__(optimizer)
        self._require(mode in ("min", "max"), "mode", "'min' or 'max'", mode)
        self._require(threshold_mode in ("rel", "abs"), "threshold_mode", "'rel' or 'abs'", threshold_mode)
        self._require(factor < 1, "factor", "below 1", factor)
        groups = len(optimizer.param_groups)
        self.min_lrs = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * groups
        self._require(len(self.min_lrs) == groups, "min_lr", f"a number or a list of {groups}", min_lr)
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0

    def _is_better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        margin = sign * self.threshold
        bound = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return metric > bound if self.mode == "max" else metric < bound

    def get_lr(self) -> list[float]:
        rates = []
        for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            before, after = group["lr"], max(group["lr"] * self.factor, least)
            rates.append(after if before - after > self.eps else before)
        return rates

    def step(self, metrics: float) -> None:  # type: ignore[override]  # as in PyTorch, this one needs to be told
        """Take note of ``metrics`` (anything ``float()`` takes) and reduce the rate where it is time to."""
        metric = float(metrics)
        self.last_epoch += 1
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            self._set(self.get_lr())
        else:
            self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class LinearWarmup(LRScheduler):
    """Raise the rate linearly over ``warmup_steps``, then hand over to the schedule ``after``.

    ::

        lr_t = lr (t + 1) / warmup_steps          for t < warmup_steps
        lr_t = after_(t - warmup_steps)           from then on; without ``after``, lr

    ``after`` is made first, on the same optimiser, and only this schedule is stepped: ``after`` does not count
    until the warm-up is over. What ``step`` is given goes to ``after.step`` (:class:`ReduceLROnPlateau` wants a
    metric).

    >>> import minirnn as mr
    >>> optimizer = mr.optim.SGD([mr.tensor([0.0], requires_grad=True)], lr=1.0)
    >>> schedule = LinearWarmup(optimizer, 4, after=ExponentialLR(optimizer, 0.5))
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(6):
    ...     schedule.step()
    ...     rates = rates + schedule.get_last_lr()
    >>> rates
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, after: LRScheduler | None = None) -> None:
        super().__init__(optimizer)
        self._require(warmup_steps >= 0, "warmup_steps", "at least 0", warmup_steps)
        self._require(after is None or after.optimizer is optimizer, "after", "a schedule of the same optimizer", after)
        self.warmup_steps, self.after = warmup_steps, after
        if warmup_steps:
            self._set(self.get_lr())

    def get_lr(self) -> list[float]:
        share = min(1.0, (self.last_epoch + 1) / self.warmup_steps)
        return [base * share for base in self.base_lrs]

    def step(self, *metrics: float) -> None:
        """Go to the next rate; ``metrics`` are for ``after``."""
        if self.last_epoch < self.warmup_steps:
            super().step()
            return
        self.last_epoch += 1
        if self.after is not None:
            self.after.step(*metrics)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        after = None if self.after is None else self.after.state_dict()
        return {**super().state_dict(), "after": after}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._require(
            (self.after is None) == (state_dict["after"] is None), "after", "there in both or neither", self.after
        )
        if self.after is not None:
            self.after.load_state_dict(state_dict["after"])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "after"})


class WarmupCosine:
    """Linear warm-up, then half a cosine, over the progress of a training run (Loshchilov & Hutter 2017).

    ::

        lr(p) = max_lr max(p / warmup, 0.01)                                            for p < warmup
        lr(p) = max_lr (final_lr + (1 - final_lr) (1 + cos(pi q)) / 2)                  from then on
        q     = (p - warmup) / (1 - warmup)

    The progress p goes from 0 to 1 and may count steps, epochs or minutes. There is no state to save: the learning
    rate depends on p alone.

    Args:
        optimizer: whose groups' ``lr`` is set.
        max_lr: the learning rate at the end of the warm-up.
        warmup: fraction of the run over which the learning rate rises.
        final_lr: the learning rate at the end, as a fraction of ``max_lr``.

    >>> import minirnn as mr
    >>> optimizer = mr.optim.SGD([mr.tensor([0.0], requires_grad=True)])
    >>> schedule = WarmupCosine(optimizer, max_lr=0.5, warmup=0.2, final_lr=0.1)
    >>> [round(schedule.lr_at(p), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.005, 0.25, 0.5, 0.275, 0.05]
    """

    def __init__(self, optimizer: Optimizer, max_lr: float, warmup: float = 0.02, final_lr: float = 0.01) -> None:
        self.optimizer, self.max_lr, self.warmup, self.final_lr = optimizer, max_lr, warmup, final_lr

    def lr_at(self, progress: float) -> float:
        """The learning rate at ``progress``, from 0 to 1."""
        if progress < self.warmup:
            return self.max_lr * max(progress / self.warmup, 1e-2)
        fall = (progress - self.warmup) / max(1e-12, 1 - self.warmup)
        return self.max_lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * fall)))

    def set_progress(self, progress: float, factor: float = 1.0) -> None:
        """Set the learning rate of every parameter group to ``lr_at(progress) * factor``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(progress) * factor
