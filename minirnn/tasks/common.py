"""What the tasks share: independent examples in batches, a fixed random split, and the face of a trained model."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from minirnn import cells, checkpoint, random
from minirnn.autograd.tensor import Tensor
from minirnn.data.embeddings import pretrained_rows
from minirnn.data.sequences import Buckets
from minirnn.data.vocabulary import Vocabulary
from minirnn.errors import CheckpointError, DataError, MinirnnError, OptionError
from minirnn.nn import init
from minirnn.nn.module import Module, Parameter

M = TypeVar("M", bound=Module)


@dataclass(frozen=True)
class Line:
    """A line of input, and where it stood: ``reviews.tsv:17``."""

    text: str
    where: str


@dataclass(frozen=True)
class Prediction:
    """One result: as a line of text for people, and as a JSON object for programs."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)


class Trained(ABC):
    """What a checkpoint of one task holds: a trained model with all that belongs to it.

    Attributes:
        task: the task's name.
        kind: what a person calls it.
        model: the network; ``to("cuda")`` of it is where all is computed.
    """

    task: ClassVar[str]
    kind: ClassVar[str]
    model: Any

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From a checkpoint.

        Raises:
            CheckpointError: the file is missing, damaged, or of another task.
        """
        arrays, config = checkpoint.load(path)
        if config.get("task") != cls.task:
            raise CheckpointError(f"{path} holds a {config.get('task')!r} model; expected {cls.kind}")
        try:
            return cls._from_parts(config, checkpoint.part(arrays, "model."))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MinirnnError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None

    @abstractmethod
    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """``loss`` and the task's own metrics on data like that of its training."""

    @classmethod
    @abstractmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """Made of a description, which may be anything, and the model's arrays."""


class Predictor(Trained):
    """A trained model that has an answer to every line.

    Attributes:
        options: the names of what :meth:`predict` takes beside the lines.
        whole: the lines make one input (a table, a piece) rather than one each.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    whole: ClassVar[bool] = False

    @abstractmethod
    def predict(self, *args: Any, **options: Any) -> list[Prediction]:
        """``predict(lines, ...)``: a result for every :class:`Line`, or for all of them together where ``whole``."""


class ExampleTask(ABC):
    """The part of a :class:`~minirnn.training.Task` whose examples are independent: nothing is carried.

    Every epoch has an order of its own, which follows from the seed and the epoch's number.

    Args:
        lengths: of the training examples [E], or several arrays of them; batches hold examples of like lengths.
        batch_size: examples in a batch, at most.
        seed: of the order.
    """

    def __init__(self, lengths: Any, batch_size: int, seed: int) -> None:
        self._buckets, self._seed = Buckets(lengths, batch_size), seed
        self._order: list[np.ndarray] = []
        self.batches = len(self._buckets)

    def start_epoch(self, epoch: int) -> None:
        self._order = self._buckets.order(np.random.default_rng([self._seed, epoch]))

    def loss(self, number: int, progress: float) -> tuple[Tensor, int]:
        return self.batch_loss(self._order[number], progress)

    @abstractmethod
    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        """The mean loss of some training examples, and of how many symbols it is the mean."""

    def carried(self) -> dict[str, np.ndarray]:
        return {}

    def carry(self, arrays: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - nothing is carried, nothing taken up
        pass


def check_fraction(val_fraction: float) -> None:
    """Raise :class:`OptionError` where a share of the data kept for validation is none."""
    if not 0 < val_fraction < 1:
        raise OptionError(f"val_fraction must be between 0 and 1, got {val_fraction}")


def random_split(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples to train on and to validate with, in rising order; always the same for one seed.

    Raises:
        OptionError: the fraction is not between 0 and 1.
        DataError: there are fewer than two examples.
    """
    check_fraction(fraction)
    if count < 2:
        raise DataError(f"expected at least 2 examples, to train on some and validate with others, got {count}")
    kept = min(count - 1, max(1, round(count * fraction)))
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[kept:]), np.sort(order[:kept])


def fingerprint(*parts: Iterable[str] | np.ndarray) -> str:
    """SHA-256 of the training data, by which a resumed run knows it again."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(str((part.shape, part.dtype)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            for text in part:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


def read_vectors(vocabulary: Vocabulary, path: str | Path | None, freeze: bool) -> tuple[np.ndarray | None, int]:
    """First vectors [V, E] of a vocabulary from a file, and how many of its words the file has; None, 0 without a file.

    Raises:
        OptionError: vectors that come from no file are to be frozen.
        DataError: the file cannot be used, see :func:`~minirnn.data.embeddings.pretrained_rows`.
    """
    if path is not None:
        return pretrained_rows(vocabulary, path, random.generator())
    if freeze:
        raise OptionError("only vectors that come from a file can be frozen; give one by embeddings")
    return None, 0


def begin_with(table: Parameter, rows: np.ndarray | None, freeze: bool, spread: float) -> None:
    """Set an embedding's first values: ``rows``, frozen or not; where None, its own N(0, 1) times ``spread``."""
    if rows is None:
        table.data *= spread
    else:
        table.data[...], table.requires_grad = rows, not freeze


def rebuild(make: Callable[..., M], config: Any, arrays: Mapping[str, np.ndarray]) -> M:
    """The model ``make(**config)`` with the values ``arrays``, in evaluation mode.

    An untrusted file can ask for any size: nothing is allocated, and no loop runs, for more than the file holds.

    Raises:
        CheckpointError: description and arrays do not fit.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"its model is described by {config!r}")
    numbers, in_layer = sum(array.size for array in arrays.values()), 1
    if "cell" in config:
        cell = cells.get(config["cell"])
        in_layer += len(cell.vectors) + cell.equations.products
    for name, value in config.items():
        most = len(arrays) // in_layer if name == "num_layers" else numbers
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not -1 <= value <= most:
            raise CheckpointError(f"the description's {name} {value} does not fit a file of {numbers} numbers")
    with init.empty_weights():
        model = make(**config)
    model.load_state_dict(arrays, assign=True)
    return model.eval()


def chunks(lines: Iterable[Line], size: int) -> Iterable[list[Line]]:
    """Some lines at a time."""
    iterator = iter(lines)
    return iter(lambda: list(itertools.islice(iterator, size)), [])
