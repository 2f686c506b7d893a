"""FLOOR 5: the training loop, for any task. ``Trainer.fit()`` is a generator; nothing here prints.

A task says what an epoch's batches are, what the loss of one is, and how well the model does; see :class:`Task`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minirnn import checkpoint, optim, random
from minirnn.autograd.tensor import Tensor
from minirnn.errors import CheckpointError, DivergedError, OptionError
from minirnn.nn.module import Module
from minirnn.runs import BEST, LAST, RunFolder

OPTIMIZERS = {
    "adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad,
}  # fmt: skip

_MOST_SKIPPED = 20  # steps in a row without a usable loss and gradient before training goes back
_MOST_ROLLBACKS = 3  # each to the last saved state, with half the learning rate; then training gives up
_EXPLODED = 100.0, 10.0  # a loss above so many times its running mean, and above so much, is not stepped on
_MEMORY = 0.98  # of that running mean
_SAVE_SECONDS = 60  # at most so much training time is lost to a crash


class Task(Protocol):
    """What :class:`Trainer` trains."""

    @property
    def model(self) -> Module:
        """What is trained."""
        ...

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        ...

    def start_epoch(self, epoch: int) -> None:
        """Forget what was carried from batch to batch; order the batches of this epoch."""
        ...

    def loss(self, number: int, progress: float) -> tuple[Tensor, int]:
        """The mean loss of batch ``number``, and how many symbols it was the mean of.

        Args:
            progress: the share of the budget that is spent, for what changes in the course of the training.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """``val_loss`` and the task's own metrics; leaves the model in the mode it found."""
        ...

    def config(self) -> dict[str, Any]:
        """What makes the task's model and vocabulary again, for the checkpoint."""
        ...

    def carried(self) -> dict[str, np.ndarray]:
        """What is carried from batch to batch."""
        ...

    def carry(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what :meth:`carried` gave; nothing at all where it is empty."""
        ...


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        steps, epochs, minutes: the budget; exactly one is given.
        lr: the highest learning rate.
        warmup: the share of the budget over which the learning rate rises from 0.
        final_lr: the learning rate at the end, as a share of ``lr``.
        optimizer: one of :data:`OPTIMIZERS`.
        betas, weight_decay: of Adam and AdamW; ``weight_decay`` of all.
        clip: the largest gradient norm; 0 for no clipping.
        evaluations: how often to evaluate over the whole budget, evenly spread; the last time at the end.
        log_every: steps between two lines of the metrics file.
        save_every: steps between two saved states, beside those at evaluations and once a minute; None for these alone.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    lr: float = 4e-3
    warmup: float = 0.02
    final_lr: float = 0.01
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    evaluations: int = 20
    log_every: int = 10
    save_every: int | None = None

    def __post_init__(self) -> None:
        budgets = {"steps": self.steps, "epochs": self.epochs, "minutes": self.minutes}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1:
            raise OptionError(f"expected one budget of steps, epochs or minutes, got {', '.join(given) or 'none'}")
        for name, value in given.items():
            if not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{name} must be above 0 and finite, got {value}")
        if self.optimizer not in OPTIMIZERS:
            raise OptionError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise OptionError(f"lr must be above 0, got {self.lr}")
        if not self.clip >= 0:  # infinity too is no clipping
            raise OptionError(f"clip must be at least 0, got {self.clip}")
        for name in ("weight_decay", "warmup", "final_lr"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.evaluations < 1 or self.log_every < 1 or (self.save_every is not None and self.save_every < 1):
            raise OptionError("evaluations, log_every and save_every must be at least 1")

    def optimizer_settings(self) -> dict[str, Any]:
        """What the optimiser is told."""
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        return settings | ({"betas": self.betas} if self.optimizer in ("adam", "adamw") else {})

    def make_optimizer(self, model: Module) -> optim.Optimizer:
        """The optimiser over the model's trainable parameters."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return OPTIMIZERS[self.optimizer](trainable, **self.optimizer_settings())

    def progress(self, step: int, epoch: float, seconds: float) -> float:
        """The share of the budget that is spent, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.epochs is not None:
            return min(1.0, epoch / self.epochs)
        return min(1.0, seconds / (60 * (self.minutes or math.inf)))

    def learning_rate(self, progress: float) -> float:
        """lr p / warmup while it rises, then a half cosine down to final_lr (Loshchilov & Hutter 2017)."""
        if progress < self.warmup:
            return self.lr * max(progress / self.warmup, 1e-2)
        fall = (progress - self.warmup) / max(1e-12, 1 - self.warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * fall)))


@dataclass
class Step:
    """What one step did.

    Attributes:
        step: steps so far. tokens: symbols so far. seconds: training time so far.
        train_loss: mean loss of the steps since the last logged one, NaN where none of them had a finite loss.
        lr: learning rate. grad_norm: before clipping. skipped: steps in a row that changed nothing, this one included.
        progress: share of the budget spent. epoch: passes over the data so far.
        logged: this step made a line in the metrics file.
        metrics: what an evaluation after this step found, or None. best: it was the best so far.
        notices: what a person should know that happened in this step: a disk that fails, a roll-back.
    """

    step: int
    tokens: int
    seconds: float
    epoch: float
    train_loss: float
    lr: float
    grad_norm: float
    progress: float
    skipped: int = 0
    logged: bool = False
    metrics: dict[str, float] | None = None
    best: bool = False
    notices: list[str] = field(default_factory=list)

    def line(self) -> dict[str, Any]:
        """The step as an object of the metrics file; what is not finite is null."""
        names = ("step", "tokens", "seconds", "epoch", "train_loss", "lr", "grad_norm")
        values = {name: getattr(self, name) for name in names} | (self.metrics or {})
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


@dataclass
class Position:
    """Where training stands; all of it is in the checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    batch: int = 0
    skipped: int = 0
    rollbacks: int = 0
    typical_loss: float = math.nan
    best_loss: float = math.inf
    loss_sum: float = 0.0
    loss_count: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains a task, keeps its best and its last state in ``out``.

    Args:
        task: what to train.
        options: how.
        out: folder for ``best.safetensors``, ``last.safetensors`` and ``metrics.jsonl``; None keeps nothing.
        resume: go on from ``out``'s last state, or where that is damaged from the one before it.
        notes: JSON-able facts kept in the checkpoints as they are.

    Attributes:
        notices: what a person should know before the first step.

    Raises:
        CheckpointError: there is nothing to resume, or it does not fit the task.
    """

    def __init__(
        self, task: Task, options: Options, out: Path | None = None, resume: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.task, self.options, self.out, self.notes = task, options, out, dict(notes or {})
        self.optimizer = options.make_optimizer(task.model)
        self.position = Position()
        self.notices: list[str] = []
        self.stopping = False
        self._files = None if out is None else RunFolder(out, self.notices)
        self._fresh_epoch = True
        self._saved_at = time.perf_counter()
        if resume:
            self._resume()
        elif self._files is not None:
            self._files.clear_metrics()

    @property
    def progress(self) -> float:
        """The share of the budget that is spent."""
        at = self.position
        return self.options.progress(at.step, at.epoch + at.batch / self.task.batches, at.seconds)

    def stop(self) -> None:
        """End after the step under way; :meth:`fit` then saves and returns."""
        self.stopping = True

    # ------------------------------------------------------------------------------------------- the loop

    def fit(self) -> Iterator[Step]:
        """Train to the end of the budget, one :class:`Step` a step.

        A step whose loss or gradient is not finite, or whose loss has exploded, changes nothing. After
        many of them in a row training goes back to the last saved state and on with half the learning rate, at most
        three times.

        Raises:
            DivergedError: that did not help, or there is no saved state.
            SaveError: the run's end could not be saved.
        """
        task, options, at = self.task, self.options, self.position
        began = time.perf_counter() - at.seconds
        task.model.train()
        progress = self.progress
        if at.step == 0 and progress < 1:
            self.save()  # the state to go back to; and a folder that cannot be written to is known at once
        while progress < 1 and not self.stopping:
            if self._fresh_epoch:
                task.start_epoch(at.epoch)
                self._fresh_epoch = False
            lr = options.learning_rate(progress) * 0.5**at.rollbacks
            tokens, grad_norm = self._train_batch(at.batch, lr, progress)
            at.step, at.tokens, at.batch = at.step + 1, at.tokens + tokens, at.batch + 1
            if at.batch == task.batches:
                at.epoch, at.batch, self._fresh_epoch = at.epoch + 1, 0, True
            gone_back = at.skipped >= _MOST_SKIPPED
            if gone_back:
                self._roll_back()
            at.seconds = time.perf_counter() - began
            epoch = at.epoch + at.batch / task.batches
            before, progress = progress, self.progress
            loss = at.loss_sum / at.loss_count if at.loss_count else math.nan
            step = Step(at.step, at.tokens, at.seconds, epoch, loss, lr, grad_norm, progress, at.skipped)
            if not gone_back and (
                progress >= 1 or int(progress * options.evaluations) > int(before * options.evaluations)
            ):
                self._evaluate(step)
                at.seconds = time.perf_counter() - began
            step.logged = not gone_back and (step.metrics is not None or at.step % options.log_every == 0)
            if step.logged:
                at.loss_sum, at.loss_count = 0.0, 0
                if self._files is not None:
                    self._files.append(step.line())
            asked_for = options.save_every is not None and at.step % options.save_every == 0
            due = step.metrics is not None or asked_for or time.perf_counter() - self._saved_at > _SAVE_SECONDS
            if due and at.skipped == 0:  # a state amid unusable steps is none to go back to
                self.save()
            step.notices, self.notices[:] = list(self.notices), []
            yield step
        if self.stopping:
            self.save()
        if self._files is not None:
            self._files.close()

    def _train_batch(self, number: int, lr: float, progress: float) -> tuple[int, float]:
        at = self.position
        self.optimizer.zero_grad()
        loss, tokens = self.task.loss(number, progress)
        loss.backward()
        value = loss.item()
        limit = self.options.clip or math.inf
        grad_norm = float(optim.clip_grad_norm_(self.task.model.parameters(), limit))
        times, least = _EXPLODED
        exploded = value > least and value > times * at.typical_loss  # not before the first loss: NaN compares as false
        if exploded or not (math.isfinite(value) and math.isfinite(grad_norm)):
            at.skipped += 1
            self.task.carry({})  # a state that is not finite would spoil every batch to come
            return tokens, grad_norm
        at.skipped = 0
        at.typical_loss = value if math.isnan(at.typical_loss) else _MEMORY * at.typical_loss + (1 - _MEMORY) * value
        at.loss_sum, at.loss_count = at.loss_sum + value, at.loss_count + 1
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return tokens, grad_norm

    def _roll_back(self) -> None:
        """To the last saved state, but for the time that has passed, and on with half the learning rate."""
        at = self.position
        rollbacks, seconds, steps = at.rollbacks + 1, at.seconds, at.skipped
        if self._files is None or rollbacks > _MOST_ROLLBACKS:
            tried = f", and going back to a saved state {_MOST_ROLLBACKS} times did not help" if self._files else ""
            raise DivergedError(
                f"the loss was not finite, or exploded, for {steps} steps in a row{tried}; "
                f"use a smaller lr (it was {self.options.lr:g})"
            )
        self._restore(*self._files.load())
        at.rollbacks, at.seconds = rollbacks, seconds
        self.notices.append(
            f"no usable loss for {steps} steps: back to step {at.step}, learning rate {0.5**rollbacks:g} of what it was"
        )

    def _evaluate(self, step: Step) -> None:
        at = self.position
        step.metrics = self.task.evaluate()
        at.metrics = step.metrics
        step.best = step.metrics["val_loss"] < at.best_loss
        if step.best:
            at.best_loss = step.metrics["val_loss"]
            if self._files is not None:
                self._files.save(BEST, self._model_arrays(), self._config())

    # -------------------------------------------------------------------------------------------- saving

    def _model_arrays(self) -> dict[str, np.ndarray]:
        return {f"model.{name}": array for name, array in self.task.model.state_dict().items()}

    def _config(self) -> dict[str, Any]:
        at = {name: None if value != value or value == math.inf else value
              for name, value in asdict(self.position).items()}  # fmt: skip
        return {**self.task.config(), "options": asdict(self.options), "position": at, "notes": self.notes}

    def save(self) -> None:
        """Write ``last.safetensors``: everything needed to go on from here."""
        if self._files is None:
            return
        arrays = self._model_arrays()
        arrays |= {f"carried.{name}": array for name, array in self.task.carried().items()}
        state = _without_arrays(self.optimizer.state_dict(), "optimizer", arrays)
        config = self._config() | {"optimizer": state, "random": random.generator().bit_generator.state}
        config["fresh_epoch"] = self._fresh_epoch
        self._files.save(LAST, arrays, config)
        self._saved_at = time.perf_counter()

    def _resume(self) -> None:
        if self._files is None:
            raise CheckpointError("nothing to resume: the run keeps no files")
        arrays, config = self._files.load()
        if "optimizer" not in config:
            raise CheckpointError(f"{self.out} holds no optimiser state: it cannot be resumed")
        ours, theirs = _flat(json.loads(json.dumps(self.task.config()))), _flat(config)
        ours["options.optimizer"] = self.options.optimizer
        ours = {name: value for name, value in ours.items() if value or name in theirs}  # options newer than the run
        for name, value in ours.items():
            if value != theirs.get(name) and name.endswith("sha256"):
                option = name.rpartition(".")[2].removesuffix("sha256").rstrip("_")
                what = f"file of --{option}" if option else "data"
                raise CheckpointError(f"cannot resume {self.out}: the {what} is not what the run began with")
            if value != theirs.get(name):
                raise CheckpointError(
                    f"cannot resume {self.out}: {name.rpartition('.')[2]} was {_short(theirs.get(name))}, "
                    f"now it is {_short(value)}"
                )
        self._restore(arrays, config)

    def _restore(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
        """Take up a saved state; ``position`` stays the same object."""
        self.task.model.load_state_dict(checkpoint.part(arrays, "model."))
        self.optimizer.load_state_dict(_with_arrays(config["optimizer"], arrays))
        settings = self.options.optimizer_settings()  # the person's, now
        for group in self.optimizer.param_groups:
            group.update(settings)
        self.task.start_epoch(config["position"]["epoch"])
        self.task.carry(checkpoint.part(arrays, "carried."))
        random.generator().bit_generator.state = config["random"]
        saved = {name: value for name, value in config["position"].items() if value is not None}
        vars(self.position).update(asdict(Position(**saved)))
        self._fresh_epoch = config["fresh_epoch"]
        if self._files is not None:
            self._files.trim_metrics(self.position.step)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names; a cell stays whole."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        nested = isinstance(item, Mapping) and name != "cell"
        flat |= _flat(item, f"{prefix}{name}.") if nested else {prefix + name: item}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _without_arrays(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A JSON-able copy of ``value``; its arrays go to ``arrays``, a reference takes their place."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _without_arrays(item, f"{name}.{key}", arrays)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, f"{name}.{number}", arrays) for number, item in enumerate(value)]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The opposite of :func:`_without_arrays`."""
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            return arrays[value["array"]]
        return {key: _with_arrays(item, arrays) for key, item in value["items"]}
    return value
