"""The base class of tasks, the options they share, and helpers for splitting, labelling and loading."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from minirnn import cells, checkpoint, distributed, random
from minirnn.autograd.tensor import Tensor
from minirnn.config import Config as BaseConfig
from minirnn.config import option
from minirnn.data.embeddings import pretrained_rows
from minirnn.data.lines import Locations
from minirnn.data.sequences import Buckets
from minirnn.data.vocabulary import Labels, Vocabulary
from minirnn.errors import CheckpointError, DataError, MinirnnError, OptionError
from minirnn.models.body import CellLike, Rates
from minirnn.nn import init
from minirnn.nn.module import Module, Parameter
from minirnn.tasks import fine_tuning
from minirnn.training import Task as TrainableTask
from minirnn.training import TrainingConfig

logger = logging.getLogger("minirnn")

MAX_UNITS = 1_000_000  # far more than any memory holds
_MAX_SHOWN = 10  # labels in a message

# --------------------------------------------------------------------------------------------- shared options


@dataclass(frozen=True, kw_only=True)
class TaskConfig(BaseConfig):
    """Options of every task."""

    cell: CellLike = option(  # noqa: RUF009 - a field, as the others
        "lstm", f"Recurrent cell: {', '.join(cells.names())}; or one of your own.", metavar="NAME|FILE.py:NAME"
    )
    hidden_size: int = option(128, "Units in a layer.", 1, MAX_UNITS, flags=("--hidden", "--hidden-size"))
    num_layers: int = option(1, "Recurrent layers.", 1, 1000, flags=("--layers", "--num-layers"))
    dropout: float | None = option(0.0, "Fraction of the outputs of each layer dropped in training.", 0, 0.95)
    zoneout: float = option(0.0, "Probability that a unit keeps its previous state in training.", 0, 0.99)
    recurrent_dropout: float = option(0.0, "Fraction of the state dropped before the next step in training.", 0, 0.99)
    weight_drop: float | None = option(0.0, "Fraction of the recurrent weights dropped in training.", 0, 0.99)
    batch_size: int = option(32, "Sequences in a batch.", 1, group="Training")
    val_fraction: float = option(0.1, "Fraction of the data for the validation set.", 0.001, 0.9, group="Training")
    seed: int = option(1337, "Random seed: the same seed gives the same run.", 0, group="Training")
    freeze: tuple[str, ...] = option(
        (),
        "Parts of the model that are not trained, separated by commas: embedding, rnn, head, ...",
        metavar="PARTS",
        group="Training",
    )

    def __post_init__(self) -> None:
        given: Any = self.freeze
        if isinstance(given, (bool, str)):  # True and False: of runs of 0.2, which could freeze word vectors only
            object.__setattr__(self, "freeze", ("embedding",) * given if isinstance(given, bool) else (given,))
        super().__post_init__()
        parts = tuple(part.strip() for entry in self.freeze for part in entry.split(","))
        object.__setattr__(self, "freeze", parts)

    def recurrent(self) -> dict[str, Any]:
        """Return the arguments that every model takes for its recurrent layers."""
        names = ("cell", "hidden_size", "num_layers", "bidirectional", "dropout", *Rates.__annotations__)
        return self.subset(*(name for name in names if name in self.options()))


@dataclass(frozen=True, kw_only=True)
class BidirectionalConfig(TaskConfig):
    """Options of tasks whose whole input is known when the first output is computed."""

    bidirectional: bool = option(True, "Read in both directions, or only one.", flags=("--bidirectional/--one-way",))


@dataclass(frozen=True, kw_only=True)
class WindowConfig(TaskConfig):
    """Options of tasks that read a sequence in windows."""

    seq_length: int = option(64, "Time steps that gradients flow through.", 1, group="Training")


@dataclass(frozen=True, kw_only=True)
class EmbeddingsConfig(TaskConfig):
    """Options of tasks that read words."""

    embeddings: str | None = option(None, "File of word vectors, as GloVe or word2vec text.", is_data=True)


# ---------------------------------------------------------------------------------------------------- the task


@dataclass(frozen=True)
class Line:
    """A line of input, and where it was read: ``reviews.tsv:17``."""

    text: str
    where: str = ""


@dataclass(frozen=True)
class Prediction:
    """One result: a line of text for people, and a JSON object for programs."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def check_text(name: str, value: Any) -> str:
    """Return an input that is a string; a :class:`DataError` where it is none."""
    if not isinstance(value, str):
        raise DataError(f"{name}: expected a string, or a list of strings, got {type(value).__name__}")
    return str(value)  # of NumPy's strings too


DataT = TypeVar("DataT")
ConfigT = TypeVar("ConfigT", bound=TaskConfig)
ModelT = TypeVar("ModelT", bound=Module)


class Task(TrainableTask, ABC, Generic[DataT, ConfigT]):
    """Everything about one kind of problem: its options, data, model, loss, metrics and predictions.

    A task is made by :meth:`build`, to be trained by :class:`minirnn.training.Trainer`, or by :meth:`load` from a
    checkpoint, to be used.

    Attributes:
        name: of the task; its command is ``train-<name>``.
        description: what a model of this task is called, with an article.
        help: what its command does. sources_help: what data it reads. single_source: whether it reads exactly one file.
        unit: what is counted in training.
        example: a command that uses the trained model, where ``{}`` stands for the checkpoint.
        Config, PredictConfig: classes of the options of training and of prediction.
        training: defaults of the options of the training loop.
        predicts_whole_input: all lines of the input are one example, rather than one each.
        file_suffixes: ends of the names of files without lines, which :meth:`predict_files` reads; "" is that of all.
        model: the network. summary: the training data in words.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    help: ClassVar[str]
    sources_help: ClassVar[str]
    single_source: ClassVar[bool] = False
    unit: str
    example: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    PredictConfig: ClassVar[type[BaseConfig]] = BaseConfig
    training: ClassVar[TrainingConfig]
    predicts_whole_input: ClassVar[bool] = False
    file_suffixes: ClassVar[tuple[str, ...]] = ()
    model: Any = None
    num_batches: int = 0
    summary: str = ""
    _data: dict[str, Any]

    @classmethod
    @abstractmethod
    def read(cls, sources: Sequence[str], config: ConfigT) -> DataT:
        """Read training data from files; ``-`` is standard input.

        Raises:
            DataError: a file cannot be read, or does not hold such data; says where.
        """

    @classmethod
    def build(cls, data: DataT, config: ConfigT, init_from: Self | None = None) -> Self:
        """Make the vocabulary, the validation set and the model to train.

        Calls :func:`minirnn.manual_seed`; split, weights, dropout and the order of batches follow from the seed.

        Args:
            data, config: what :meth:`read` returned, and the options.
            init_from: a trained task to fine-tune: the model begins with its weights, and ``config`` has its
                :meth:`architecture`. All tokens that it knows stay, whether the data has them or not, so that nothing
                is forgotten; new ones are added, with weights drawn as for a new model. For labels see
                :func:`~minirnn.tasks.fine_tuning.merge_labels`.

        Raises:
            DataError: there is too little data, or it does not fit the options.
            OptionError: the model has no part that is to be frozen, or all of it is.
            CheckpointError: the weights of ``init_from`` do not fit.
        """
        if init_from is not None:
            config = config.replace(**init_from.architecture())
        task = cls._build(data, config, init_from)
        if init_from is not None:
            known = [indexed.vocabulary for indexed in init_from.indexed().values()]
            fine_tuning.transfer(task.model, init_from.model, zip(task.indexed().values(), known, strict=True))
        fine_tuning.freeze(task.model, config.freeze)
        return task

    @classmethod
    @abstractmethod
    def _build(cls, data: DataT, config: ConfigT, init_from: Self | None) -> Self:
        """As :meth:`build`, with vocabularies that include those of ``init_from``, but an untrained model."""

    def architecture(self) -> dict[str, Any]:
        """Return the options that the trained model decides: they stay the same in fine-tuning."""
        rates = {"dropout", *Rates.__annotations__}
        model = self.model.config
        return {name: model[name] for name in self.Config.options() if name in model and name not in rates}

    def indexed(self) -> dict[str, fine_tuning.Indexed]:
        """Return the vocabularies, by what their entries are called, and the parts of the model they index."""
        return {}

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a trained model from a checkpoint.

        Raises:
            CheckpointError: the file is missing, damaged, or of another task.
        """
        arrays, description = checkpoint.load(path)
        name = description.get("task", description.get("class"))
        if name != cls.name:
            raise CheckpointError(f"{path} holds a {name!r} model; expected {cls.description}")
        try:
            task = cls.from_config(description, checkpoint.part(arrays, "model."))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MinirnnError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None
        task._data = description.get("data") or {}
        return task

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """Make a task of what :meth:`config` described, and of the arrays of its model; both may be untrusted."""

    def config(self) -> dict[str, Any]:
        """Return what rebuilds this task, and what identifies its training data; JSON-able."""
        return {"task": self.name, "data": self._data, "model": self.model.config, **self.vocabulary_config()}

    @abstractmethod
    def vocabulary_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs besides the configuration of the model."""

    def expect_passes(self, passes: float) -> str:
        """Take note of how often training reads the data: see :meth:`minirnn.training.Task.expect_passes`."""
        return ""

    def adopt(self, saved: Mapping[str, Any]) -> None:
        """Take what training had decided from the :meth:`config` of a run that is resumed."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the state carried from batch to batch: none where examples are independent."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Restore what :meth:`state_dict` returned."""

    def sample_output(self) -> str | None:
        """Return some output of the model, to be shown in the course of training."""
        return None

    @abstractmethod
    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """Return ``loss`` and the task's metrics on files like those of the training.

        Raises:
            DataError: a file cannot be read, or does not fit the model.
        """

    def predict(self, input: Any = None, **options: Any) -> Any:
        """Return the prediction for one input as a dict of plain values, those that ``minirnn predict --json`` prints.

        Args:
            input: a text; a list, tuple or array of texts is several inputs and gives a list of dicts. What else a
                task takes is said by its :meth:`predict_inputs` and :meth:`is_list_of_inputs`.
            options: the fields of ``PredictConfig``.

        Raises:
            OptionError: there is no such option, or its value is out of range.
            DataError: the input is of another type, or cannot be predicted from; says which of a list it is.
            ShapeError: an array has another shape than the model reads.

        >>> model.predict("a fine film")  # doctest: +SKIP
        {'text': 'a fine film', 'label': 'pos', 'probability': 0.9, 'probabilities': {'neg': 0.1, 'pos': 0.9}}
        """
        if options and not self.PredictConfig.options():
            raise OptionError(f"predict: {self.description} has no options, got {', '.join(map(repr, options))}")
        config = self.PredictConfig.from_dict(options)
        if not self.is_list_of_inputs(input):
            return self.predict_inputs({"input": input}, config)[0].facts
        return [one.facts for one in self.predict_inputs({f"input[{n}]": one for n, one in enumerate(input)}, config)]

    def is_list_of_inputs(self, input: Any) -> bool:
        """Whether what :meth:`predict` is given is a list of inputs, rather than one."""
        return isinstance(input, (list, tuple)) or getattr(input, "ndim", 0) > 0

    def predict_inputs(self, inputs: Mapping[str, Any], options: Any) -> list[Prediction]:
        """Return one prediction for each input of :meth:`predict`; the keys are their names in errors."""
        return self.predict_lines([Line(check_text(name, text), name) for name, text in inputs.items()], options)

    def predict_lines(self, lines: Sequence[Line], options: Any = None) -> list[Prediction]:
        """Return one prediction for each line, or where ``predicts_whole_input`` for all of them together.

        Args:
            options: an instance of ``PredictConfig``; its defaults where None.
        """
        raise OptionError(f"{self.description} does not predict lines; use predict or sample")

    def predict_batches(self, batches: Iterable[Sequence[Line]], options: Any = None) -> Iterator[list[Prediction]]:
        """Return the predictions for lines that arrive in batches, as those of a pipe, each batch as it arrives."""
        for batch in batches:
            yield self.predict_lines(batch, options)

    def predict_files(self, paths: Sequence[str], options: Any = None) -> list[Prediction]:
        """Return the predictions for files whose names have one of ``file_suffixes``."""
        raise OptionError(f"{self.description} does not read files without lines: {', '.join(paths)}")

    def initial_state(self) -> Any:
        """Return the state before the first input of :meth:`step`."""
        raise self._no_steps()

    def step(self, input: Any, state: Any) -> tuple[Any, Any]:
        """Read one input of a stream, and return the output so far and the new state; ``state`` is not changed.

        Raises:
            OptionError: the task, or a model of two directions, needs all of its input before the first output.
            DataError: the input cannot be read.
        """
        raise self._no_steps()

    def _no_steps(self) -> OptionError:
        return OptionError(f"step: {self.description} needs all of its input before the first output; use predict")


class ExampleTask(Task[DataT, ConfigT]):
    """A task of independent examples, batched by length; the order of an epoch follows from seed and epoch."""

    def set_examples(self, lengths: np.ndarray | Sequence[int] | tuple[np.ndarray, ...], config: ConfigT) -> None:
        """Set the lengths [E] of the training examples, or several of them for each example."""
        self._buckets, self._seed = Buckets(lengths, config.batch_size), config.seed
        self._order: list[np.ndarray] = []
        self.num_batches = len(self._buckets)

    def start_epoch(self, epoch: int) -> None:
        self._order = self._buckets.order(np.random.default_rng([self._seed, epoch]))

    def loss(self, batch_index: int, progress: float) -> tuple[Tensor, int]:
        examples = self._order[batch_index]
        shard = distributed.shard(len(examples))
        with random.drawing_for(shard):
            loss, count = self.batch_loss(examples if shard is None else examples[shard.columns], progress)
        return loss, 0 if distributed.is_extra(len(examples)) else count

    @abstractmethod
    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        """Return the mean loss of training examples [N], and the number of symbols it is the mean of."""


# ----------------------------------------------------------------------------------------- splits and labels


def random_split(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training and of the validation set, both sorted.

    Raises:
        DataError: there are fewer than two examples.
    """
    if count < 2:
        raise DataError(f"expected at least 2 examples, to train on some and validate with others, got {count}")
    kept = min(count - 1, max(1, round(count * fraction)))
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[kept:]), np.sort(order[:kept])


def split_by_label(
    labels: Sequence[Collection[str]], fraction: float, seed: int, example: str, where: Sequence[str] | Locations
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`random_split`; examples with a label that occurs in no training example move to the training set.

    Args:
        labels: of each example. example, where: what one is called, and where each was read, for errors.

    Raises:
        DataError: there are fewer than two examples, or none is left to validate with.
    """
    train, held = random_split(len(labels), fraction, seed)
    known = {label for index in train for label in labels[index]}
    unknown = np.array([not known.issuperset(labels[index]) for index in held])
    if unknown.all():
        raise DataError(
            f"{where[0]}: no {example} is left to validate with, for their labels occur nowhere else; expected more "
            f"{example}s than {len(labels)}"
        )
    return np.union1d(train, held[unknown]), held[~unknown]


def encode_labels(labels: Labels, names: Sequence[str], where: Callable[[int], str]) -> tuple[np.ndarray, list[str]]:
    """Return the numbers of labels to measure with, where some may be unseen: training never saw them.

    An unseen label has a number of its own above those of ``labels``. No model predicts it, so it is an error and a
    class whose F1 is 0; one warning is logged that says which there are, and how often.

    Args:
        where: gives the place of a label, for messages.

    Returns:
        ``(numbers, names)``: the numbers [N], and what each number means: the names of ``labels``, and the unseen ones.

    Raises:
        DataError: every label is unseen; says where the first is.
    """
    unseen = Counter(names)
    for name in labels.names:
        del unseen[name]
    meanings = [*labels.names, *unseen]
    numbers = {name: number for number, name in enumerate(meanings)}
    if unseen:
        first = where(next(index for index, name in enumerate(names) if name in unseen))
        if unseen.total() == len(names):
            known = ", ".join(labels.names[:_MAX_SHOWN]) + ", ..." * (len(labels) > _MAX_SHOWN)
            raise DataError(
                f"{first}: label {names[0]!r:.80} is none of the {len(labels)} known: {known}; expected some that are"
            )
        most = ", ".join(f"{name!r:.80} ({count:,})" for name, count in unseen.most_common(_MAX_SHOWN))
        logger.warning(
            "%s: training never saw %s of the %s labels, which count as errors: %s%s",
            first, f"{unseen.total():,}", f"{len(names):,}", most, ", ..." * (len(unseen) > _MAX_SHOWN),
        )  # fmt: skip
    return np.fromiter((numbers[name] for name in names), np.int64, len(names)), meanings


def mask_unseen(classes: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers of :func:`encode_labels` as targets of a loss that leaves unseen labels out."""
    return np.where(classes < count, classes, -100)  # the ignore_index of losses


def softmax(logits: np.ndarray) -> list[float]:
    """Return the probabilities of logits [C], in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max())
    return list(map(float, e / e.sum()))


def evenly_spaced(count: int, maximum: int) -> slice:
    """Return a slice of at most ``maximum`` evenly spaced indices below ``count``."""
    return slice(None, None, -(-count // maximum))


def fingerprint(*parts: Iterable[str] | np.ndarray | None) -> str | None:
    """Return the SHA-256 of training data, by which a resumed run recognises it; None where it is None."""
    if len(parts) == 1 and parts[0] is None:
        return None
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(str((part.shape, part.dtype)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            for text in part or ():
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


# ------------------------------------------------------------------------------------- embeddings and models


def read_vectors(vocabulary: Vocabulary, config: EmbeddingsConfig) -> tuple[np.ndarray | None, int]:
    """Return pretrained vectors [V, E] of a vocabulary, and how many of its words have one; None, 0 without a file.

    Raises:
        DataError: the file cannot be used, see :func:`~minirnn.data.embeddings.pretrained_rows`.
    """
    if config.embeddings is None:
        return None, 0
    return pretrained_rows(vocabulary, config.embeddings, random.generator())


def init_embedding(table: Parameter, rows: np.ndarray | None, std: float) -> None:
    """Set an embedding to pretrained ``rows``, or where None scale its own N(0, 1) values by ``std``."""
    table.data[...] = table.data * std if rows is None else rows


def rebuild(model: Callable[..., ModelT], arguments: Any, arrays: Mapping[str, np.ndarray]) -> ModelT:
    """Return ``model(**arguments)`` with the values ``arrays``, in evaluation mode.

    An untrusted file may ask for any size: nothing is allocated, and no loop runs, for more than the file holds.

    Raises:
        CheckpointError: arguments and arrays do not fit.
    """
    if not isinstance(arguments, dict):
        raise CheckpointError(f"its model is described by {arguments!r}")
    numbers, per_layer = sum(array.size for array in arrays.values()), 1
    if "cell" in arguments:
        cell = cells.get(arguments["cell"])
        per_layer += len(cell.vectors) + cell.equations.products
    for name, value in arguments.items():
        maximum = len(arrays) // per_layer if name == "num_layers" else numbers
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not -1 <= value <= maximum:
            raise CheckpointError(f"the description's {name} {value} does not fit a file of {numbers} numbers")
    with init.empty_weights():
        made = model(**arguments)
    made.load_state_dict(arrays, assign=True)
    return made.eval()
