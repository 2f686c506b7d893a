"""The loop over steps, its hooks, and how a run is resumed."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minirnn import checkpoint, distributed, kernels, optim, random
from minirnn.errors import CheckpointError, DivergedError
from minirnn.kernels.precision import check_precision, matmul_precision
from minirnn.optim.flat import gradient_arrays
from minirnn.optim.lr_scheduler import WarmupCosine
from minirnn.runs import BEST, LAST, RunFolder
from minirnn.training.config import BUDGETS, TrainingConfig
from minirnn.training.task import Position, Step, Task

logger = logging.getLogger("minirnn")

MAX_SKIPPED_STEPS = 20
"""Steps in a row without a usable loss and gradient before training rolls back."""
MAX_ROLLBACKS = 3
SAVE_SECONDS = 60
"""At most this much training time is lost in a crash."""
_EXPLOSION_FACTOR, _EXPLOSION_MINIMUM = 100.0, 10.0  # a loss above both (times the running mean) is skipped
_EVALUATION_SHARE = 0.05  # of a budget in minutes, the most that evaluations but the last should take
_EARLY, _EARLY_STEPS = 0.04, 5  # the part of a budget in minutes, and the steps, after which the speed is known
_MEAN_DECAY = 0.98  # of the running mean of the loss
_TASK_STATE = "carried."  # prefix of the arrays of Task.state_dict() in a checkpoint

Hook = Callable[["Trainer", Step], None]


def _clock() -> float:
    """Seconds, without those in which kernels were compiled."""
    from minirnn.kernels.cache import compile_seconds  # loads Numba

    return time.perf_counter() - compile_seconds()


class Trainer:
    """Trains a task and saves its best and its last state.

    Started by ``mpirun`` in several processes, it computes each batch with all of them, see
    :mod:`minirnn.distributed`. Rank 0 evaluates and writes the files; hooks are called in every process.

    Args:
        task: what to train.
        config: how to train it.
        out: folder for ``best.safetensors``, ``last.safetensors`` and ``metrics.jsonl``; None saves nothing.
        resume: continue from the last state in ``out``, or where it is damaged from the one before it.
        notes: JSON-able facts that are stored in the checkpoints.

    Attributes:
        hooks: called in turn after every step with the trainer and the :class:`Step`.

    Raises:
        CheckpointError: there is nothing to resume, or it does not fit the task.
        OptionError: the device has no products of ``config.precision``.
    """

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        out: Path | None = None,
        resume: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.task, self.config, self.out, self.notes = task, config, out, dict(notes or {})
        check_precision(config.precision, next(task.model.parameters()).device)
        self.optimizer = config.make_optimizer(task.model)
        self.schedule = WarmupCosine(self.optimizer, config.lr, config.warmup, config.final_lr)
        self.position = Position()
        self.hooks: list[Hook] = [evaluate, write_metrics, save_state]
        self.stopping = False
        self.files = None if out is None or distributed.rank() > 0 else RunFolder(out)
        self._started, self.saved_at = _clock(), 0.0
        self._new_epoch, self._all_stopping = True, False
        self._is_local = config.average_every is not None and distributed.size() > 1
        self._own_tokens = self._all_tokens = 0  # since the last average of the models
        self._timed_from: tuple[int, float, float] | None = None  # step, seconds, epoch from which speed is measured
        self._synchronize()
        if resume:
            self._resume()
        elif self.files is not None:
            self.files.clear_metrics()
        if self.position.passes is None and config.minutes is None:
            self._expect_passes(config.epochs or (config.steps or 0) / task.num_batches)

    @property
    def progress(self) -> float:
        """The fraction of the budget used so far."""
        return self.config.progress(self.position.step, self._epoch, self.position.seconds)

    @property
    def finished(self) -> bool:
        """Whether the budget is used up, or there was no new best state for ``patience`` evaluations."""
        patience = self.config.patience or math.inf
        return self.progress >= 1 or self.position.evaluations_since_best >= patience

    @property
    def _epoch(self) -> float:
        return self.position.epoch + self.position.batch / self.task.num_batches

    @property
    def averaged(self) -> bool:
        """Whether all processes have the same model: always, but between two averages of ``average_every``."""
        return self._all_tokens == 0

    def average(self) -> None:
        """Give all processes the mean of their models and optimizer states, where these differ.

        A process has the weight of its tokens since the last average. All processes must call it.
        """
        if self.averaged:
            return
        for array, device in self.optimizer.flat_arrays():
            kernels.on(device).scale(array, self._own_tokens / self._all_tokens)
            distributed.all_reduce(array)
        self._own_tokens = self._all_tokens = 0

    def stop(self) -> None:
        """End after the current step; :meth:`fit` then saves and returns.

        Of several processes any may call it. All end together, after the current step or the next.
        """
        self.stopping = True

    def update_seconds(self) -> None:
        """Set the training time of ``position``, without compiling, in all processes to that of rank 0."""
        self.position.seconds = float(distributed.broadcast(np.array([_clock() - self._started]))[0])

    def _synchronize(self) -> None:
        """Give all processes the weights and the state of the random generator of rank 0."""
        state = distributed.broadcast_json(random.generator().bit_generator.state)
        random.generator().bit_generator.state = state
        if distributed.size() > 1:
            self.task.model.load_state_dict(distributed.broadcast_arrays(self.task.model.state_dict()))

    def _expect_passes(self, passes: float) -> str:
        self.position.passes = passes
        return self.task.expect_passes(passes)

    def _estimate_passes(self) -> None:
        """Find out how often the data is read within the minutes, from the speed so far.

        The first step is not counted: it loads kernels.
        """
        step, seconds, epoch = self.position.step, self.position.seconds, self._epoch
        self._timed_from = first_step, first_seconds, first_epoch = self._timed_from or (step, seconds, epoch)
        if self.progress < _EARLY or step < first_step + _EARLY_STEPS:
            return
        left = max(0.0, 60 * (self.config.minutes or 0.0) - seconds)
        passes = epoch + left * (epoch - first_epoch) / max(1e-9, seconds - first_seconds)
        if follows := self._expect_passes(passes):
            logger.info("about %s passes over the data: %s", in_figures(passes), follows)

    # -------------------------------------------------------------------------------------------- the loop

    def fit(self) -> Iterator[Step]:
        """Train to the end of the budget and yield every :class:`Step`.

        Steps whose loss or gradient is not finite, or whose loss explodes, are skipped. After 20 skipped steps in a row
        training rolls back to the last saved state and continues with half the learning rate, at most three times.

        Raises:
            DivergedError: rolling back did not help, or there is no saved state.
            SaveError: the end of the run could not be saved.
        """
        position = self.position
        self._started = _clock() - position.seconds
        self.task.model.train()
        if position.step == 0 and not self.finished:
            self.save()  # the first state to roll back to; and an unwritable folder is known at once
        alone, stopped = distributed.size() == 1, False
        self._all_stopping = distributed.largest(self.stopping) > 0
        while not (self.finished or (stopped := self.stopping if alone else self._all_stopping)):
            progress = self.progress
            self.schedule.set_progress(progress, factor=0.5**position.rollbacks)
            lr = self.optimizer.param_groups[0]["lr"]
            grad_norm = self._train_batch(progress)
            rolled_back = position.skipped >= MAX_SKIPPED_STEPS
            if rolled_back:
                self._roll_back()
            if alone:
                self.update_seconds()
            if position.passes is None:
                self._estimate_passes()
            step = Step(
                position.step, position.tokens, position.seconds, self._epoch, self._mean_loss(), lr, grad_norm,
                self.progress, progress, position.skipped, rolled_back,
            )  # fmt: skip
            for hook in self.hooks:
                hook(self, step)
            yield step
        if stopped:
            self.save()
        if self.files is not None:
            self.files.close()

    def _train_batch(self, progress: float) -> float:
        """One step: forward pass, backward pass, clipping, update; returns the norm of the gradient."""
        position, task = self.position, self.task
        if self._new_epoch:
            task.start_epoch(position.epoch)
        loss, tokens, grad_norm = self.compute_gradients(progress)
        if self._is_usable(loss, grad_norm):
            self.optimizer.step()
            if self._is_local:
                self._own_tokens, self._all_tokens = self._own_tokens + self._tokens, self._all_tokens + tokens
        position.step, position.tokens, position.batch = position.step + 1, position.tokens + tokens, position.batch + 1
        if position.step % (self.config.average_every or 1) == 0:
            self.average()
        self._new_epoch = position.batch == task.num_batches
        if self._new_epoch:
            position.epoch, position.batch = position.epoch + 1, 0
        return grad_norm

    def compute_gradients(self, progress: float) -> tuple[float, int, float]:
        """Return the loss of the next batch, its number of symbols, and the norm of the gradient before clipping.

        With several processes the gradient is that of all, or with ``average_every`` of this one's own sequences.
        """
        self.optimizer.zero_grad()
        summed = distributed.size() > 1 and not self._is_local
        with matmul_precision(self.config.precision):
            loss, self._tokens = self.task.loss(self.position.batch, progress)
            if summed:
                value, tokens, _ = self._share(loss.item(), self._tokens)
                (loss * (self._tokens / max(1, tokens))).backward()
                for gradient, _ in gradient_arrays(self.task.model.parameters()):
                    distributed.all_reduce(gradient)
            else:
                loss.backward()
                value, tokens = loss.item(), self._tokens
        norm = optim.clip_grad_norm_(self.task.model.parameters(), self.config.clip or math.inf)
        return self._share(value, tokens, norm) if self._is_local else (value, tokens, norm)

    def _share(self, loss: float, tokens: int, grad_norm: float = 0.0) -> tuple[float, int, float]:
        """Return the loss of all processes, their number of symbols and the mean norm, from those of this one.

        The same all-reduce tells them the time of rank 0, and whether one of them is to stop.
        """
        seconds = _clock() - self._started if distributed.rank() == 0 else 0.0
        own = np.array([loss * tokens if tokens else 0.0, tokens, grad_norm, self.stopping, seconds])
        total, count, norms, stopping, self.position.seconds = distributed.all_reduce(own).tolist()
        self._all_stopping = stopping > 0
        return total / max(1.0, count), int(count), norms / distributed.size()

    def _is_usable(self, loss: float, grad_norm: float) -> bool:
        """Whether to take this step; keeps the running mean of the loss, and counts skipped steps."""
        position = self.position
        exploded = loss > _EXPLOSION_MINIMUM and loss > _EXPLOSION_FACTOR * position.typical_loss  # False while NaN
        if exploded or not (math.isfinite(loss) and math.isfinite(grad_norm)):
            position.skipped += 1
            self.task.load_state_dict({})  # a carried state that is not finite would spoil every batch to come
            return False
        first, decay = math.isnan(position.typical_loss), _MEAN_DECAY
        position.typical_loss = loss if first else decay * position.typical_loss + (1 - decay) * loss
        position.skipped, position.loss_sum, position.loss_count = 0, position.loss_sum + loss, position.loss_count + 1
        return True

    def _mean_loss(self) -> float:
        return self.position.loss_sum / self.position.loss_count if self.position.loss_count else math.nan

    def _roll_back(self) -> None:
        """Restore the last saved state, except for the time spent, and halve the learning rate."""
        position = self.position
        rollbacks, skipped = position.rollbacks + 1, position.skipped
        if self.out is None or rollbacks > MAX_ROLLBACKS:
            tried = f", and rolling back to a saved state {MAX_ROLLBACKS} times did not help" if self.out else ""
            raise DivergedError(
                f"the loss was not finite, or exploded, for {skipped} steps in a row{tried}; "
                f"use a smaller lr (it was {self.config.lr:g})"
            )
        kept = {name: getattr(position, name) for name in ("seconds", "evaluation_seconds", "passes")}
        self._restore(*self._load())
        vars(position).update(kept | {"rollbacks": rollbacks})
        self._timed_from = None
        logger.warning(
            "no usable loss for %d steps: rolled back to step %d, with %g times the learning rate",
            skipped, position.step, 0.5**rollbacks,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------- checkpoints

    def model_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and description of a checkpoint that can be used, but not resumed."""
        arrays = {f"model.{name}": array for name, array in self.task.model.state_dict().items()}
        position = {name: None if value != value or value == math.inf else value
                    for name, value in asdict(self.position).items()}  # fmt: skip
        config = self.task.config() | {"options": self.config.to_dict(), "position": position, "notes": self.notes}
        return arrays, config | {"frozen": self._frozen()}

    def _frozen(self) -> list[str] | None:
        """The names of the parameters that are not trained."""
        return [name for name, p in self.task.model.named_parameters() if not p.requires_grad] or None

    def save(self) -> None:
        """Write ``last.safetensors``, which holds everything needed to resume from here; all processes must call it."""
        self.saved_at = self.position.seconds
        self.average()
        carried = self.task.state_dict()
        if self.files is None:
            return
        arrays, config = self.model_state()
        arrays |= {f"{_TASK_STATE}{name}": array for name, array in carried.items()}
        config["optimizer"] = checkpoint.separate_arrays(self.optimizer.state_dict(), "optimizer", arrays)
        config |= {"random": random.generator().bit_generator.state, "fresh_epoch": self._new_epoch}
        self.files.save(LAST, arrays, config)

    def _load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The last saved state, which rank 0 reads."""
        arrays, config = ({}, {}) if self.files is None else self.files.load()
        return distributed.broadcast_arrays(arrays), distributed.broadcast_json(config)

    def _resume(self) -> None:
        if self.out is None:
            raise CheckpointError("nothing to resume: no output folder was given")
        arrays, config = self._load()
        if "optimizer" not in config:
            raise CheckpointError(f"{self.out} holds no optimizer state: it cannot be resumed")
        self.task.adopt(config)
        frozen = {"frozen": self._frozen()}
        current = self.task.config() | {"options": {"optimizer": self.config.optimizer}} | frozen
        saved = frozen | config  # 0.2 did not save what was frozen
        _check_unchanged(_flatten(json.loads(json.dumps(current))), _flatten(saved), self.out)
        self._restore(arrays, config)
        if any(config["options"].get(name) != getattr(self.config, name) for name in BUDGETS):
            self.position.passes = None  # another budget

    def _restore(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
        """Load a saved state; ``position`` stays the same object, and the optimizer keeps its present settings."""
        self.task.model.load_state_dict(checkpoint.part(arrays, "model."))
        self.optimizer.load_state_dict(checkpoint.restore_arrays(config["optimizer"], arrays))
        for group in self.optimizer.param_groups:
            group.update(self.config.optimizer_settings())
        self.task.start_epoch(config["position"]["epoch"])
        self.task.load_state_dict(checkpoint.part(arrays, _TASK_STATE))
        random.generator().bit_generator.state = config["random"]
        saved = {name: value for name, value in config["position"].items() if value is not None}
        if "best_loss" in saved:  # of 0.2
            saved["best"] = {"val_loss": saved.pop("best_loss")}
        vars(self.position).update(asdict(Position(**saved)))
        self._new_epoch, self.saved_at = config["fresh_epoch"], self.position.seconds
        self._own_tokens = self._all_tokens = 0
        if self.files is not None:
            self.files.trim_metrics(self.position.step)


# ------------------------------------------------------------------------------------------------ hooks


def in_figures(count: float) -> str:
    """A number of passes or the like as text: 0.0123, 1.23, 12.3, 1,234."""
    return f"{count:.3g}" if count < 100 else f"{count:,.0f}"


def metric_in_words(name: str) -> str:
    """What a metric is called in messages: ``val_loss`` in words, others by their names."""
    return "validation loss" if name == "val_loss" else name


def evaluate(trainer: Trainer, step: Step) -> None:
    """Evaluate the model when it is due, at the end of the budget in any case."""
    count, position = trainer.config.evaluations, trainer.position
    due = int(step.progress * count) > int(step.previous_progress * count)
    if trainer.config.minutes is not None:
        due = due and position.evaluation_seconds <= _EVALUATION_SHARE * position.seconds
    if (due or step.progress >= 1) and step.metrics is None and not step.rolled_back:
        evaluate_now(trainer, step)


def evaluate_now(trainer: Trainer, step: Step) -> None:
    """Evaluate the model, and save it if it is the best one so far."""
    position = trainer.position
    trainer.average()
    trainer.update_seconds()
    before = position.seconds
    metrics = trainer.task.evaluate() if distributed.rank() == 0 else None
    step.metrics = position.metrics = distributed.broadcast_json(metrics)
    trainer.update_seconds()
    position.evaluation_seconds += position.seconds - before
    name, lowest = trainer.task.best_metric, trainer.task.best_mode == "min"
    value, best = step.metrics[name], position.best.get(name, math.inf if lowest else -math.inf)
    step.best = value < best if lowest else value > best
    position.evaluations_since_best = 0 if step.best else position.evaluations_since_best + 1
    if step.best:
        position.best = {name: value}
        if trainer.files is not None:
            trainer.files.save(BEST, *trainer.model_state())
    if position.evaluations_since_best == trainer.config.patience:
        logger.info("stopped early: no better %s in %d evaluations", metric_in_words(name), trainer.config.patience)


def write_metrics(trainer: Trainer, step: Step) -> None:
    """Write a line of metrics after every evaluation and every ``log_every`` steps."""
    position = trainer.position
    if step.rolled_back or not (step.metrics is not None or position.step % trainer.config.log_every == 0):
        return
    step.logged = True
    position.loss_sum, position.loss_count = 0.0, 0
    if trainer.files is not None:
        trainer.files.append(step.line())


def save_state(trainer: Trainer, step: Step) -> None:
    """Save after every evaluation, every ``save_every`` steps and once a minute, but not between skipped steps.

    With ``average_every`` the minute ends with the next average: when the models are averaged must not depend on time.
    """
    every, position = trainer.config.save_every, trainer.position
    asked_for = every is not None and position.step % every == 0
    minute_over = position.seconds - trainer.saved_at > SAVE_SECONDS and trainer.averaged
    due = step.metrics is not None or asked_for or minute_over
    if due and position.skipped == 0:
        trainer.save()


# ------------------------------------------------------------------------------------------------ resuming


def _check_unchanged(current: Mapping[str, Any], saved: Mapping[str, Any], out: Path | None) -> None:
    """Refuse to resume a run with another model or other data; options that the run did not know may have defaults."""
    for name, value in current.items():
        if value == saved.get(name) or not (value or name in saved):
            continue
        last = name.rpartition(".")[2]
        if last.endswith("sha256"):
            file = last.removesuffix("sha256").rstrip("_")
            what = f"{file} file" if file else "data"
            raise CheckpointError(f"cannot resume {out}: the {what} is not the one the run started with")
        raise CheckpointError(f"cannot resume {out}: {last} was {_short(saved.get(name))}, now it is {_short(value)}")


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names; the description of a cell stays in one piece."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        nested = isinstance(item, Mapping) and name != "cell"
        flat |= _flatten(item, f"{prefix}{name}.") if nested else {prefix + name: item}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
