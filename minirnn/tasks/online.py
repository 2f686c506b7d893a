"""Learning from a stream: every example is predicted, the prediction scored, and only then learned from.

The mean of these losses is the *prequential* loss (Dawid 1984): each is that of a prediction which knew only the past.
It is shown with a fading factor a, sum_i a^(n-i) loss_i / sum_i a^(n-i), so that it follows a stream that changes
(Gama, Sebastião & Rodrigues 2013, "On evaluating stream learning algorithms", section 3.3).
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from minirnn import checkpoint, optim, random
from minirnn.autograd.tensor import Tensor
from minirnn.config import Config, option
from minirnn.data.sequences import pad
from minirnn.data.tables import read_batches
from minirnn.errors import CheckpointError, OptionError
from minirnn.nn import functional as F
from minirnn.nn.state import State
from minirnn.runs import RunFolder
from minirnn.tasks.base import Line, Task
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.classifier import Classifier
from minirnn.tasks.forecaster import Forecaster
from minirnn.tasks.outputs import joined

ONLINE = "online.safetensors"
"""The checkpoint of a model that goes on learning, in the folder of its run."""
logger = logging.getLogger("minirnn")
_MAX_STEPS = 256  # symbols of a line that gradients flow through at once

ExampleT = TypeVar("ExampleT")


@dataclass(frozen=True, kw_only=True)
class LearnConfig(Config):
    """How to learn from a stream."""

    group = "Learning"
    lr: float = option(1e-3, "Learning rate; with 0 the model predicts and is scored, but does not learn.", 0)
    clip: float = option(1.0, "Maximum norm of the gradient; 0 for no clipping.", 0, math.inf)
    replay: int = option(7, "Earlier examples in each update, beside the new one.", 0)
    memory: int = option(1000, "Examples that are kept to be repeated: the latest.", 1)
    fading: float = option(0.99, "Fading factor of the mean loss; the smaller, the sooner it forgets.", 0, 0.9999999)
    save_every: float = option(60.0, "Seconds between two saves.", 0, math.inf)


@dataclass(frozen=True)
class Outcome:
    """What became of one line.

    Attributes:
        prediction: what the model said before it saw the answer: a label, the next values; None where there is none.
        loss: how wrong it was, as ``eval`` measures it; None where the line has no answer to compare with.
        mean_loss: of all lines so far, fading.
        facts: for a JSON object: ``loss`` and ``mean_loss`` and what the task knows besides.
    """

    prediction: str | None
    loss: float | None
    mean_loss: float | None
    facts: dict[str, Any]


_Seen = tuple[str | None, float | None, dict[str, Any], list[ExampleT]]
"""Prediction and loss, None where there is none, further facts, and examples to learn from."""


class Learner(ABC, Generic[ExampleT]):
    """Learns from one line after the other, in constant memory.

    An update is a step of AdamW on the new example and ``replay`` others, drawn among the latest ones: without them a
    model forgets what it has not seen for a while (McCloskey & Cohen 1989; experience replay: Lin 1992).

    Args:
        task: the trained task, whose model is changed.
    """

    def __init__(self, task: Task[Any, Any], config: LearnConfig) -> None:
        self.task, self.config, self.count = task, config, 0
        trainable = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        self.optimizer = optim.AdamW(trainable, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self._memory: deque[ExampleT] = deque(maxlen=config.memory)
        self._loss_sum = self._loss_weight = 0.0

    @property
    def mean_loss(self) -> float | None:
        """The fading mean of all losses so far."""
        return self._loss_sum / self._loss_weight if self._loss_weight else None

    def run(self, lines: Iterable[Line | str]) -> Iterator[Outcome]:
        """Predict what each line says, score the prediction, and learn from the line, as they come.

        Raises:
            DataError: a line cannot be read as one of the training data; says where.
        """
        numbered = (Line(one, f"line {n}") if isinstance(one, str) else one for n, one in enumerate(lines, 1))
        for prediction, loss, facts, examples in self._examine(numbered):
            if loss is not None and not math.isfinite(loss):
                loss = None
            if loss is not None:
                fading, self.count = self.config.fading, self.count + 1
                self._loss_sum, self._loss_weight = fading * self._loss_sum + loss, fading * self._loss_weight + 1
            for example in examples if self.config.lr > 0 else ():
                self._learn(example)
            facts = {"loss": loss, "mean_loss": self.mean_loss, **facts}
            yield Outcome(prediction, loss, self.mean_loss, facts)

    def _learn(self, example: ExampleT) -> None:
        """One update; it is left out where the loss or the gradient is not finite."""
        count = min(self.config.replay, len(self._memory))
        drawn = random.generator().choice(len(self._memory), count, replace=False) if count else ()
        batch = [example, *(self._memory[number] for number in drawn)]
        self._memory.append(example)
        model = self.task.model
        model.train()
        self.optimizer.zero_grad()
        loss = self._loss(batch)
        loss.backward()
        norm = optim.clip_grad_norm_(model.parameters(), self.config.clip or math.inf)
        if math.isfinite(loss.item()) and math.isfinite(float(norm)):
            self.optimizer.step()
        model.eval()

    @abstractmethod
    def _examine(self, lines: Iterator[Line]) -> Iterator[_Seen[ExampleT]]:
        """Yield what is known of each line before anything is learned from it."""

    @abstractmethod
    def _loss(self, examples: list[ExampleT]) -> Tensor:
        """Return the mean loss of some examples."""

    def save(self, folder: Path) -> None:
        """Write :data:`ONLINE` to a folder: a checkpoint for every command, and for :meth:`resume`.

        The examples kept for repetition are not part of it.

        Raises:
            SaveError: it cannot be written.
        """
        arrays = {f"model.{name}": array for name, array in self.task.model.state_dict().items()}
        optimizer = checkpoint.separate_arrays(self.optimizer.state_dict(), "optimizer", arrays)
        learned = {"count": self.count, "loss_sum": self._loss_sum, "loss_weight": self._loss_weight}
        files = RunFolder(folder)
        files.save(ONLINE, arrays, self.task.config() | {"optimizer": optimizer, "learned": learned})
        files.close()

    def resume(self, path: Path) -> None:
        """Go on as :meth:`save` left it; the model itself is that of the task.

        Raises:
            CheckpointError: the file is not of a model that learns from a stream, or damaged.
        """
        arrays, config = checkpoint.load(path)
        learned = config.get("learned")
        if not isinstance(learned, Mapping):
            raise CheckpointError(f"{path} is not a checkpoint of minirnn learn")
        self.optimizer.load_state_dict(checkpoint.restore_arrays(config["optimizer"], arrays))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr
        self.count = int(learned["count"])
        self._loss_sum, self._loss_weight = float(learned["loss_sum"]), float(learned["loss_weight"])


@singledispatch
def learner(task: Any, config: LearnConfig | None = None) -> Learner[Any]:
    """Return what learns from a stream of lines like those of the training data.

    A character model learns to predict a text line by line; a classifier reads a text, a tab and its label, and only
    predicts where there is no label, or one it does not know; a forecaster reads the header of a table, then its rows.

    Raises:
        OptionError: models of this task do not learn from a stream.
    """
    raise OptionError(f"learn: expected a character model, a classifier or a forecaster, got {task.description}")


# ----------------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True)
class _Text:
    """Symbols [T, 1] that follow each other, what follows each of them [T, 1], and the state before the first."""

    tokens: np.ndarray
    targets: np.ndarray
    state: State


class _TextLearner(Learner[_Text]):
    """The state is carried from line to line; of repeated lines it is the one they had when they were new."""

    task: TextGenerator

    def __init__(self, task: TextGenerator, config: LearnConfig) -> None:
        super().__init__(task, config)
        self._last = int(task.start()[-1])
        self._state: State = None

    def _examine(self, lines: Iterator[Line]) -> Iterator[_Seen[_Text]]:
        for line in lines:
            tokens = self.task.symbols.encode(line.text + "\n").astype(np.int64)
            if tokens.size == 0:
                continue
            inputs, examples, total = np.concatenate([[self._last], tokens[:-1]]), [], 0.0
            self._last = int(tokens[-1])
            with self.task.model.evaluating():
                for start in range(0, tokens.size, _MAX_STEPS):
                    part = slice(start, start + _MAX_STEPS)
                    examples.append(_Text(inputs[part, None], tokens[part, None], self._state))
                    loss, self._state = self._nll(examples[-1], "sum")
                    total += loss.item()
            yield None, total / tokens.size, {"symbols": tokens.size}, examples

    def _nll(self, example: _Text, reduction: F.Reduction) -> tuple[Tensor, State]:
        return self.task.model.loss(example.tokens, example.targets, example.state, reduction=reduction)

    def _loss(self, examples: list[_Text]) -> Tensor:
        losses = [self._nll(example, "mean")[0] for example in examples]
        return sum(losses[1:], losses[0]) / len(losses)


class _ClassLearner(Learner[tuple[np.ndarray, int]]):
    """An example is the tokens [T] of a text, and the number of its label."""

    task: Classifier

    def _examine(self, lines: Iterator[Line]) -> Iterator[_Seen[tuple[np.ndarray, int]]]:
        for line in lines:
            text, label = map(str.strip, line.text.rpartition("\t")[::2]) if "\t" in line.text else (line.text, "")
            [prediction] = self.task.predict_lines([Line(text, line.where)])
            facts, probabilities = prediction.facts, prediction.facts.get("probabilities")
            known = label in self.task.labels.names
            if label and not known:
                names = ", ".join(self.task.labels.names)
                logger.warning("%s: expected a label of %s, got %r; not learned from", line.where, names, label)
            if not known or probabilities is None:
                yield prediction.text, None, facts, []
                continue
            example = self.task.encode(text), int(self.task.labels.encode([label])[0])
            loss = -math.log(max(probabilities[label], sys.float_info.min))
            yield prediction.text, loss, {**facts, "true_label": label}, [example]

    def _loss(self, examples: list[tuple[np.ndarray, int]]) -> Tensor:
        tokens, lengths = pad([tokens for tokens, _ in examples])
        return F.cross_entropy(self.task.model(tokens, lengths), np.array([number for _, number in examples]))


class _SeriesLearner(Learner[tuple[np.ndarray, np.ndarray]]):
    """An example is a window [L, 1, 1 + C] and the outputs [1, h] that would have forecast what followed.

    A row is compared with what was forecast for it, h rows before to one row before.
    """

    task: Forecaster

    def _examine(self, lines: Iterator[Line]) -> Iterator[_Seen[tuple[np.ndarray, np.ndarray]]]:
        made, issued = self.task.preprocessor, deque[np.ndarray]()
        first, x = made.first_row, np.empty((0, len(made.names)))
        beginning = next(lines, Line("", "standard input"))
        texts = ([line.text] for line in itertools.chain([beginning], lines))
        for table in read_batches(joined([beginning])[0], texts):
            x = np.concatenate([x, self.task.transformed(table)])[-(first + made.horizon) :]
            examples: list[tuple[np.ndarray, np.ndarray]] = []
            loss, facts = None, dict[str, Any]()
            if len(issued) == made.horizon:
                past, forecast = made.cut(x, first), issued.popleft()
                loss = float(np.mean(((forecast - past.expected[0]) / made.spread) ** 2))
                facts = {"value": float(made.values(x[-1:, 0])[0])}
                examples = [(past.inputs(slice(None)), past.targets(slice(None)))]
            if len(x) < first:
                continue
            issued.append(self.task.forecasts(made.next_windows(x[-first:]))[0])
            values = made.values(issued[-1]).tolist()
            facts |= {"column": made.names[0], "horizon": values}
            yield "\t".join(f"{value:.6g}" for value in values), loss, facts, examples

    def _loss(self, examples: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        dtype = self.task.model.head.weight.dtype
        inputs, targets = (
            np.concatenate(part, axis).astype(dtype)
            for axis, part in ((1, [e[0] for e in examples]), (0, [e[1] for e in examples]))
        )
        return F.mse_loss(self.task.model(inputs), targets)


@learner.register
def _(task: TextGenerator, config: LearnConfig | None = None) -> _TextLearner:
    return _TextLearner(task, config or LearnConfig())


@learner.register
def _(task: Classifier, config: LearnConfig | None = None) -> _ClassLearner:
    return _ClassLearner(task, config or LearnConfig())


@learner.register
def _(task: Forecaster, config: LearnConfig | None = None) -> _SeriesLearner:
    if task.preprocessor.quantiles or task.reads_whole:
        expected = "expected a forecaster of the mean of one series, from the past alone"
        raise OptionError(f"learn: {expected}; got one with quantiles, future or id")
    return _SeriesLearner(task, config or LearnConfig())
