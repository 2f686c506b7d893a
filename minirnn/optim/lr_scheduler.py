"""Learning-rate schedules with PyTorch's names, defaults and formulas.

A schedule is made after its optimiser and stepped after it, once per epoch or once per update. It changes the groups'
``lr`` step by step, so several schedules on one optimiser multiply. In the equations ``lr`` is the optimiser's own
learning rate and ``t`` counts the calls of ``step``. :class:`WarmupCosine` is told the progress of the run instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minirnn.errors import OptionError
from minirnn.optim.optimizer import Optimizer
from minirnn.validation import check_choice, check_int


class LRScheduler:
    """Base of all schedules of the ``lr`` of an optimizer's groups; a subclass defines :meth:`get_lr`.

    Attributes:
        base_lrs: the groups' learning rates before any schedule. last_epoch: how often :meth:`step` was called.

    Raises:
        OptionError: ``optimizer`` is not an optimiser, or an option is out of its range.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"{type(self).__name__}: expected an Optimizer, got a {type(optimizer).__name__}")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._last_lr = self._current()

    def get_lr(self) -> list[float]:
        """The learning rate of each group at ``last_epoch``, from the one before."""
        raise NotImplementedError

    def step(self) -> None:
        """Set the next learning rates."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def _current(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = list(rates)

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group as last set."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule, in plain numbers and strings."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; sets the optimiser's learning rates too, so either may be loaded first."""
        vars(self).update(state_dict)
        self._set(self._last_lr)


class StepLR(LRScheduler):
    """lr_t = lr gamma^floor(t / step_size).

    Args:
        optimizer, step_size, gamma: whose groups' ``lr`` is set; steps from one change to the next; factor of each.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        self.step_size, self.gamma = check_int("StepLR: step_size", step_size), gamma

    def get_lr(self) -> list[float]:
        factor = self.gamma if self.last_epoch % self.step_size == 0 else 1.0
        return [lr * factor for lr in self._current()]


class ExponentialLR(LRScheduler):
    """lr_t = lr gamma^t: the ``lr`` of the groups of ``optimizer``, times ``gamma`` in each step."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer)
        self.gamma = gamma

    def get_lr(self) -> list[float]:
        return [lr * self.gamma for lr in self._current()]


class CosineAnnealingLR(LRScheduler):
    """lr_t = eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2 (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        optimizer, eta_min: whose groups' ``lr`` is set; the minimum.
        T_max: steps to the minimum; after them the learning rate rises again, as the cosine does.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        self.T_max, self.eta_min = check_int("CosineAnnealingLR: T_max", T_max), eta_min

    def get_lr(self) -> list[float]:
        t, half, rates = self.last_epoch, self.T_max, self._current()
        if (t - 1 - half) % (2 * half) == 0:  # the previous rate was eta_min, where the ratio below divides by zero
            rise = (1 - math.cos(math.pi / half)) / 2
            return [lr + (base - self.eta_min) * rise for lr, base in zip(rates, self.base_lrs, strict=True)]
        ratio = (1 + math.cos(math.pi * t / half)) / (1 + math.cos(math.pi * (t - 1) / half))
        return [self.eta_min + (lr - self.eta_min) * ratio for lr in rates]


class ReduceLROnPlateau(LRScheduler):
    """Multiply the learning rate by ``factor`` when a metric has not improved for more than ``patience`` steps.

    Args:
        optimizer, factor: whose groups' ``lr`` is set; below 1.
        mode: "min" if a smaller metric is better, or "max".
        patience, cooldown: steps without improvement that change nothing; steps after a reduction that do not count.
        threshold, threshold_mode: what counts as an improvement: with "rel", in mode "min" a metric below
            best (1 - threshold), in mode "max" above best (1 + threshold); with "abs" below best - threshold, above
            best + threshold.
        min_lr, eps: lower limit of the learning rate, a number or one for each group; a smaller change is not made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(optimizer)
        groups = len(optimizer.param_groups)
        self.min_lrs = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * groups
        if len(self.min_lrs) != groups:
            raise OptionError(f"ReduceLROnPlateau: min_lr: expected a number or {groups} numbers, got {min_lr}")
        if not factor < 1:
            raise OptionError(f"ReduceLROnPlateau: factor: expected a number below 1, got {factor}")
        self.mode = check_choice("ReduceLROnPlateau: mode", mode, ("min", "max"))
        self.threshold_mode = check_choice("ReduceLROnPlateau: threshold_mode", threshold_mode, ("rel", "abs"))
        self.threshold, self.factor, self.patience, self.cooldown, self.eps = threshold, factor, patience, cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0

    def _is_better(self, metric: float) -> bool:
        margin = self.threshold if self.mode == "max" else -self.threshold
        bound = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return metric > bound if self.mode == "max" else metric < bound

    def get_lr(self) -> list[float]:
        reduced = [max(lr * self.factor, least) for lr, least in zip(self._current(), self.min_lrs, strict=True)]
        return [new if lr - new > self.eps else lr for lr, new in zip(self._current(), reduced, strict=True)]

    def step(self, metrics: float) -> None:  # type: ignore[override]  # as in PyTorch
        """Take note of ``metrics`` (anything ``float()`` takes) and reduce the learning rates if it is time to."""
        metric = float(metrics)
        self.last_epoch += 1
        self.num_bad_epochs += 1
        if self._is_better(metric):
            self.best, self.num_bad_epochs = metric, 0
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        rates = self._current()
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            rates = self.get_lr()
        self._set(rates)


class LinearWarmup(LRScheduler):
    """Raise the learning rate linearly over ``warmup_steps``, then follow the schedule ``after``.

    ::

        lr_t = lr (t + 1) / warmup_steps          for t < warmup_steps
        lr_t = after_(t - warmup_steps)           from then on; without ``after``, lr

    Args:
        optimizer, warmup_steps: whose groups' ``lr`` is set; at least 0.
        after: a schedule of the same optimiser, made before this one. Only this one is stepped; ``after`` does not
            count until the warm-up is over.

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
        if after is not None and after.optimizer is not optimizer:
            raise OptionError(f"LinearWarmup: after: expected a schedule of the same optimizer, got {after!r}")
        self.warmup_steps, self.after = check_int("LinearWarmup: warmup_steps", warmup_steps, 0), after
        if warmup_steps:
            self._set(self.get_lr())

    def get_lr(self) -> list[float]:
        fraction = min(1.0, (self.last_epoch + 1) / self.warmup_steps)
        return [base * fraction for base in self.base_lrs]

    def step(self, *metrics: float) -> None:
        """Set the next learning rates; ``metrics`` is passed on to ``after.step``."""
        if self.last_epoch < self.warmup_steps:
            super().step()
            return
        self.last_epoch += 1
        if self.after is not None:
            self.after.step(*metrics)
        self._last_lr = self._current()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"after": None if self.after is None else self.after.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        state = dict(state_dict)
        after = state.pop("after")
        if (self.after is None) != (after is None):
            raise OptionError("LinearWarmup: after: expected one in the schedule and in its state, or in neither")
        if self.after is not None:
            self.after.load_state_dict(after)
        super().load_state_dict(state)


class WarmupCosine:
    """Linear warm-up, then half a cosine, over the progress of a training run (Loshchilov & Hutter 2017).

    ::

        lr(p) = max_lr max(p / warmup, 0.01)                                  for p < warmup
        lr(p) = max_lr (final_lr + (1 - final_lr) (1 + cos(pi q)) / 2)        from then on
        q     = (p - warmup) / (1 - warmup)

    The progress p goes from 0 to 1 and may count steps, epochs or minutes; nothing else needs to be saved.

    Args:
        optimizer, max_lr: whose groups' ``lr`` is set; the learning rate at the end of the warm-up.
        warmup, final_lr: fraction of the run over which the rate rises; the last rate as a fraction of ``max_lr``.

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
