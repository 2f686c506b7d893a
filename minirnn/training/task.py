"""What a trainer asks of a task, and what it knows of each step and of the whole run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from minirnn.autograd.tensor import Tensor
from minirnn.nn.module import Module


class Task(Protocol):
    """What :class:`Trainer` trains.

    Attributes:
        best_metric, best_mode: the metric of :meth:`evaluate` by which the best state is chosen, and whether the lowest
            ("min") or the highest ("max") is the best.
    """

    best_metric: str = "val_loss"
    best_mode: Literal["min", "max"] = "min"

    @property
    def model(self) -> Module:
        """The model to train."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        ...

    def expect_passes(self, passes: float) -> str:
        """Take note of how often the data will be read, and return in words what follows: rates of dropout, say.

        Called once for a budget, when it is known: before the first step, or where the budget is in minutes after 4 %.
        """
        ...

    def adopt(self, saved: Mapping[str, Any]) -> None:
        """Take what :meth:`expect_passes` had decided from what :meth:`config` was when a run was saved."""
        ...

    def start_epoch(self, epoch: int) -> None:
        """Reset the state carried between batches, and order the batches of this epoch."""
        ...

    def loss(self, batch_index: int, progress: float) -> tuple[Tensor, int]:
        """Return the mean loss of a batch, and the number of symbols it is the mean of.

        Where there are several processes, of the sequences :func:`minirnn.distributed.shard` gives this one.

        Args:
            progress: fraction of the budget used so far, for schedules such as that of teacher forcing.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Return ``val_loss`` and the task's own metrics on the validation set."""
        ...

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the model and its vocabulary; JSON-able, stored in checkpoints."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the state carried from batch to batch, of all processes."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Restore what :meth:`state_dict` returned; an empty mapping resets it."""
        ...


@dataclass
class Step:
    """What one step did.

    Attributes:
        step, tokens, seconds, epoch: steps, symbols, training time and passes over the data so far.
        train_loss: mean loss of the steps since the last logged one; NaN where none of them had a finite loss.
        lr: learning rate. grad_norm: norm of the gradient before clipping; with ``average_every`` the mean of those of
            all processes.
        progress, previous_progress: fraction of the budget used after and before this step.
        skipped: steps in a row that were skipped, this one included. rolled_back: training went back to a saved state.
        logged: this step wrote a line of metrics. metrics: results of an evaluation after this step.
        best: it is the best state so far, by the task's ``best_metric``: usually the lowest validation loss.
    """

    step: int
    tokens: int
    seconds: float
    epoch: float
    train_loss: float
    lr: float
    grad_norm: float
    progress: float
    previous_progress: float = 0.0
    skipped: int = 0
    rolled_back: bool = False
    logged: bool = False
    metrics: dict[str, float] | None = None
    best: bool = False

    def line(self) -> dict[str, Any]:
        """Return the step as an object of metrics.jsonl; numbers that are not finite are None."""
        names = ("step", "tokens", "seconds", "epoch", "train_loss", "lr", "grad_norm")
        values = {name: getattr(self, name) for name in names} | (self.metrics or {})
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass
class Position:
    """Where training stands; stored in every checkpoint.

    ``metrics`` are those of the last evaluation; ``best`` has the metric that chose the best state, and its value;
    ``evaluation_seconds`` is the part of ``seconds`` that evaluations took; ``passes`` is how often the data
    is read in all.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    batch: int = 0
    skipped: int = 0
    rollbacks: int = 0
    typical_loss: float = math.nan
    passes: float | None = None
    evaluations_since_best: int = 0
    evaluation_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
