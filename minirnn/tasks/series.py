"""Numeric sequences: a class or a number for a sequence or for each of its steps, or how anomalous they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.config import option
from minirnn.data.sequences import pad
from minirnn.data.series import Kind, Layout, Preprocessor, Sequences, fit_scaler, parse_sequences, read_sequences
from minirnn.data.tables import check_columns, parse_number
from minirnn.data.vocabulary import Labels
from minirnn.errors import DataError, OptionError
from minirnn.metrics import mae, rmse, roc_auc
from minirnn.models import ManyToMany, ManyToOne
from minirnn.models.body import CellLike, Lengths, Model, Rates, TensorLike
from minirnn.nn import functional as F
from minirnn.nn.module import Parameter
from minirnn.tasks import base, fine_tuning
from minirnn.tasks.base import ExampleTask, Line, Prediction
from minirnn.tasks.fine_tuning import Indexed
from minirnn.tasks.outputs import class_facts, class_metrics, joined, outputs_of, run, with_id
from minirnn.training import TrainingConfig

EVAL_BATCH_SIZE = 128
MAX_EVAL_EXAMPLES = 10_000  # of a larger validation set, evenly spaced ones are evaluated while training
NOISES: dict[Kind, float] = {"class": 0.5, "number": 0.1, "anomaly": 0.1}
WINDOW = 32  # steps that an autoencoder reads at once, by default
NORMAL = frozenset(("0", "0.0", "false", "no", "normal"))
"""Labels, in lower case, of what is no anomaly."""


@dataclass(frozen=True, kw_only=True)
class SeriesConfig(base.BidirectionalConfig):
    """Options of :class:`SeriesModel`."""

    id: str | None = option(
        None, "Column that names a sequence, whose rows are together; without it a file is one.", group="Data"
    )
    label: str | None = option(None, "Column with the labels; by default the last one.", group="Data")
    inputs: tuple[str, ...] | None = option(
        None, "Columns to read, separated by commas; by default all others.", group="Data"
    )
    target: Literal["auto", "class", "number"] = option(
        "auto", "What labels are; auto: numbers if all of them are numbers and one has a fraction.", group="Data"
    )
    every_step: bool = option(False, "There is a label for every row, not one for a sequence.", group="Data")
    anomalies: bool = option(
        False, "Learn what is normal, by an autoencoder; labels (0, normal, false, no: normal) are for eval.",
        group="Data",
    )  # fmt: skip
    quantile: float = option(0.99, "With --anomalies, fraction of the validation errors below the threshold.", 0, 1)
    code_size: int = option(8, "With --anomalies, numbers that a window is encoded in.", 1, base.MAX_UNITS)
    seq_length: int | None = option(
        None, f"Steps in a window; by default {WINDOW} with --anomalies; with --every-step a sequence is not cut.", 1
    )
    pooling: Literal["last", "mean", "max", "attention"] = option("max", "How outputs of all steps become one.")
    noise: float | None = option(
        None, "Standard deviation of noise on the scaled inputs in training; 0.5 for classes, else 0.1.", 0,
        group="Training",
    )  # fmt: skip
    hidden_size: int = 64
    dropout: float | None = 0.3
    batch_size: int = 16


class Autoencoder(Model):
    """An autoencoder of sequences: one vector is computed from all steps, and the steps from this vector alone.

    ``code = ManyToOne(x)``, and ``y = ManyToMany`` of a sequence in which every step is the code (Malhotra et al. 2016,
    "LSTM-based encoder-decoder for multi-sensor anomaly detection", in a decoder without feedback).

    Args:
        input_size, output_size: numbers in a step, and those of them that are reconstructed.
        hidden_size, num_layers, cell, bidirectional, dropout, rates: of encoder and decoder.
        code_size: numbers in the code.

    Attributes:
        threshold: [1] squared errors above it are anomalies; set by :meth:`SeriesModel.evaluate`, not trained.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        cell: CellLike = "lstm",
        bidirectional: bool = True,
        dropout: float = 0.0,
        code_size: int = 8,
        dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:
        options: dict[str, Any] = {"cell": cell, "bidirectional": bidirectional, "dropout": dropout, "dtype": dtype}
        options |= rates
        self.encoder = ManyToOne(input_size, hidden_size, code_size, num_layers, **options)
        self.decoder = ManyToMany(code_size, hidden_size, output_size, num_layers, **options)
        self.threshold = Parameter(np.zeros(1, dtype), requires_grad=False)

    def forward(self, x: TensorLike, lengths: Lengths = None) -> Tensor:
        """Return the reconstruction [T, N, output_size] of steps x [T, N, I]."""
        code = self.encoder(x, lengths)
        steps = np.ones((len(ops.as_tensor(x)), 1, 1), code.dtype)
        y: Tensor = self.decoder(code.unsqueeze(0) * steps, lengths)[0]
        return y


class SeriesModel(ExampleTask[Sequences, SeriesConfig]):
    """Numeric sequences to a class, a number, or an anomaly score; of a whole sequence, or of every step.

    With ``anomalies`` the model is an :class:`Autoencoder` of windows: the error of a step is the mean squared
    difference between its scaled values and their reconstruction, the score of a sequence the mean error of its steps.
    A step is an anomaly if its error is above ``threshold``, the ``quantile`` of the errors in the validation set.

    Args:
        model, preprocessor: the network, and what turns sequences into its inputs. labels: the classes.
    """

    name = "series"
    description = "a series model"
    help = (
        "Train on numeric sequences (sensors, speech features, frame vectors): a class or a number for each sequence, "
        "or for each step, or anomalies."
    )
    sources_help = "CSV files with a header and a row per step, .ts files of the UEA archive, or .npz files of NumPy."
    unit = "steps"
    example = "minirnn predict {} DATA.csv"
    file_suffixes = (".npz",)
    Config = SeriesConfig
    training = TrainingConfig(minutes=1, lr=2e-3)
    predicts_whole_input = True
    model: ManyToOne | ManyToMany | Autoencoder
    _train: tuple[list[np.ndarray], list[np.ndarray]]
    _validation: Sequences
    _config: SeriesConfig

    def __init__(
        self, model: ManyToOne | ManyToMany | Autoencoder, preprocessor: Preprocessor, labels: Labels | None
    ) -> None:
        self.model, self.preprocessor, self.labels = model, preprocessor, labels

    @classmethod
    def read(cls, sources: Sequence[str], config: SeriesConfig) -> Sequences:
        layout = Layout(config.id, config.label, config.inputs, not config.anomalies, config.every_step)
        return read_sequences(sources, layout)

    @classmethod
    def _build(cls, data: Sequences, config: SeriesConfig, init_from: Self | None) -> Self:
        known = None if init_from is None else init_from.preprocessor
        if known is not None:
            fine_tuning.check_columns("inputs", known.names, data.names)
        kind, seq_length = _kind(data, config), config.seq_length
        if kind == "anomaly":
            data, seq_length = replace(data, labels=None), seq_length or WINDOW
        elif seq_length is not None and not config.every_step:
            raise OptionError("seq_length: a label is for a whole sequence; expected anomalies or every_step as well")
        whole = data
        if seq_length is not None and len(data) == 1:  # its windows are split; of several sequences, whole ones are
            data = data.cut(seq_length)
        train, held = (data.take(numbers) for numbers in _split(data, kind, config))
        if seq_length is not None:
            train, held = train.cut(seq_length), held.cut(seq_length)
        rows = np.concatenate(train.values)
        layout = data.names, config.id, data.label, kind, config.every_step, seq_length
        if known is None:
            scalers = fit_scaler(rows), fit_scaler(train.numbers() if kind == "number" else np.zeros((0, 1)))
            made = Preprocessor(*layout, bool(np.isnan(rows).any()), *scalers)
        else:  # weights mean something in the scales they were trained with
            made = Preprocessor(*layout, known.missing, known.scaler, known.target_scaler)
        labels = Labels.of(name for part in train.labels or () for name in part) if kind == "class" else None
        if init_from is not None and init_from.labels is not None and labels is not None:
            labels = fine_tuning.merge_labels(init_from.labels, labels)
        random.manual_seed(config.seed)
        model, sizes = _network(made, labels)
        own = {ManyToOne: ("pooling",), Autoencoder: ("code_size",)}.get(model, ())
        if config.noise is None:
            config = config.replace(noise=NOISES[kind])
        task = cls(model(**sizes, **config.recurrent(), **config.subset(*own)), made, labels)
        task.set_examples([len(values) for values in train.values], config)
        task._train, task._config = (task.inputs(train), task.targets(train)), config
        task._validation = held.take(np.arange(len(held))[base.evenly_spaced(len(held), MAX_EVAL_EXAMPLES)])
        facts = config.subset("noise", "quantile", "code_size", "batch_size", "val_fraction", "seed")
        flat = None if whole.labels is None else [label for part in whole.labels for label in part]
        lengths, every = np.array([len(values) for values in whole.values]), np.concatenate(whole.values)
        task._data = {"sha256": base.fingerprint(every, lengths, flat), **facts}
        absent = float(np.isnan(every).mean())
        what = {"class": f"{len(labels or ())} classes", "number": "numbers as labels"}.get(kind, "to find anomalies")
        task.summary = (
            f"{len(whole):,} sequences of {len(data.names)} columns, {lengths.min():,} to {lengths.max():,} steps"
            f"{f', {absent:.1%} of the values missing' if absent else ''}; {what}"
            f"{' for every step' if config.every_step and kind != 'anomaly' else ''}"
        )
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        made = Preprocessor.from_config(config["preprocessor"])
        labels = Labels.from_config(config["labels"]) if made.kind == "class" else None
        model, sizes = _network(made, labels)
        return cls(base.rebuild(model, config["model"] | sizes, arrays), made, labels)

    def architecture(self) -> dict[str, Any]:
        made = self.preprocessor
        kinds: dict[str, Any] = {"every_step": made.every_step, "anomalies": made.kind == "anomaly"}
        kinds |= {"seq_length": made.seq_length} if made.kind == "anomaly" else {"target": made.kind}
        return super().architecture() | kinds

    def indexed(self) -> dict[str, Indexed]:
        return {} if self.labels is None else {"labels": Indexed(self.labels, ("head",))}

    def vocabulary_config(self) -> dict[str, Any]:
        labels = {} if self.labels is None else {"labels": self.labels.to_config()}
        return {"preprocessor": self.preprocessor.to_config(), **labels}

    # ------------------------------------------------------------------------------------------- training

    def inputs(self, data: Sequences) -> list[np.ndarray]:
        """Return the model's inputs of sequences."""
        return [self.preprocessor.scaled(values) for values in data.values]

    def targets(self, data: Sequences) -> list[np.ndarray]:
        """Return the target of each sequence: [1], or [T] for every step; for an autoencoder [T, C], NaN if missing."""
        made = self.preprocessor
        if made.kind == "anomaly":
            return [made.scaler.apply(values) for values in data.values]
        assert data.labels is not None
        if self.labels is not None:
            return [self.labels.encode(part) for part in data.labels]
        ends = np.cumsum([len(part) for part in data.labels])
        return np.split(made.target_scaler.apply(data.numbers())[:, 0], ends[:-1])

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        x, lengths = pad([self._train[0][n] for n in examples])
        targets = [self._train[1][n] for n in examples]
        if self._config.noise:
            values = x[:, :, : len(self.preprocessor.names)]
            for n, rng in enumerate(random.generators(len(examples))):
                values[:, n] += rng.normal(0, self._config.noise, values[:, n].shape).astype(x.dtype)
        y = run(self.model, x, lengths)
        target = np.concatenate(targets)
        if y.ndim == 3:  # of every step, [T, N, O]: those that are there, sequence by sequence
            steps = [np.arange(length) * len(lengths) + n for n, length in enumerate(lengths)]
            y = ops.take_rows(y.reshape(-1, y.shape[2]), np.concatenate(steps))
        if self.preprocessor.kind == "class":
            return F.cross_entropy(y, target), len(target)
        there = ~np.isnan(target)
        difference = (y.reshape(*target.shape) - np.where(there, target, 0)) * there
        return (difference * difference).sum() / max(1, there.sum()), int(there.sum())

    def evaluate(self) -> dict[str, float]:
        if isinstance(self.model, Autoencoder):
            errors = np.concatenate(self.errors(self._validation.values))
            self.model.threshold.data[...] = np.quantile(errors, self._config.quantile)
        metrics = self.metrics(self._validation)
        return {"val_loss": metrics.pop("loss"), **metrics}

    # ------------------------------------------------------------------------------------------------ use

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs [1, O], or of every step [T, O], of each of the model's inputs, float64."""
        return [y.astype(np.float64) for y in outputs_of(self.model, inputs, EVAL_BATCH_SIZE)]

    def errors(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the reconstruction error [T] of every step of each sequence [T, C]; 0 where no value is there."""
        made = self.preprocessor
        scaled = [made.scaled(values) for values in sequences]
        windows = [(n, s) for n, x in enumerate(scaled) for s in made.starts(len(x))]
        size = made.seq_length
        found = [np.empty(values.shape) for values in sequences]
        outputs = self.outputs([scaled[n][s:][:size] for n, s in windows])
        for (n, s), y in zip(windows, outputs, strict=True):
            found[n][s : s + len(y)] = y
        squares = [(y - made.scaler.apply(values)) ** 2 for y, values in zip(found, sequences, strict=True)]
        return [np.nansum(one, 1) / np.maximum(1, (~np.isnan(one)).sum(1)) for one in squares]

    def metrics(self, data: Sequences) -> dict[str, float]:
        """Return ``loss`` and metrics of sequences.

        ``loss``, ``accuracy`` and ``macro_f1`` of classes; ``loss`` (in units of the labels' variance), ``rmse`` and
        ``mae`` of numbers. Of anomalies ``loss``, the mean error of a step, ``anomalies``, the fraction of steps above
        the threshold, and with labels ``auc``, :func:`~minirnn.metrics.roc_auc` of the scores of sequences, or with
        ``every_step`` of the errors of steps.
        """
        made = self.preprocessor
        if made.kind == "anomaly":
            return self._anomaly_metrics(data)
        if data.labels is None:
            raise DataError(f"{data.where[0]}: expected labels to measure with, got none")
        y = np.concatenate(self.outputs(self.inputs(data)))
        if self.labels is None:
            expected = data.numbers()
            found = made.target_scaler.undo(y)
            loss = float(np.mean((y - made.target_scaler.apply(expected)) ** 2))
            return {"loss": loss, "rmse": rmse(found, expected), "mae": mae(found, expected)}
        names = [name for part in data.labels for name in part]
        where = [place for place, part in zip(data.where, data.labels, strict=True) for _ in part]
        classes, _ = base.encode_labels(self.labels, names, where.__getitem__)
        return class_metrics(y, classes, len(self.labels))

    def _anomaly_metrics(self, data: Sequences) -> dict[str, float]:
        assert isinstance(self.model, Autoencoder)
        errors = self.errors(data.values)
        every = np.concatenate(errors)
        found = {"loss": float(every.mean()), "anomalies": float((every > self.model.threshold.item()).mean())}
        if data.labels is None:
            return found
        scores = every if self.preprocessor.every_step else [one.mean() for one in errors]
        return found | {"auc": roc_auc(scores, [n.lower() not in NORMAL for part in data.labels for n in part])}

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, on files like those of the training; of anomalies, labels are read if it named them."""
        made = self.preprocessor
        labelled = made.kind != "anomaly" or made.label is not None
        return self.metrics(self._checked(read_sequences(sources, made.layout(labelled))))

    def predict_lines(self, lines: Sequence[Line], options: None = None) -> list[Prediction]:
        """Return one prediction for each sequence of a file whose lines these are; labels are not read."""
        name, text = joined(lines)
        data = parse_sequences(name, text.encode("utf-8", "surrogatepass"), self.preprocessor.layout(False))
        return self._of_file(data)

    def predict_batches(self, batches: Iterable[Sequence[Line]], options: None = None) -> Iterator[list[Prediction]]:
        """As :meth:`predict_lines`, once all batches have arrived: only then is the last sequence known to be whole."""
        yield self.predict_lines([line for batch in batches for line in batch])

    def predict_files(self, paths: Sequence[str], options: None = None) -> list[Prediction]:
        """As :meth:`predict_lines`, of files of any format."""
        return self._of_file(read_sequences(paths, self.preprocessor.layout(False)))

    def _checked(self, data: Sequences) -> Sequences:
        """The sequences, if they have as many columns as the model reads; a :class:`DataError` if not."""
        names = self.preprocessor.names
        if len(data.names) != len(names):
            raise DataError(
                f"{data.where[0]}: expected {len(names)} columns ({', '.join(names)}), got {len(data.names)}"
            )
        return data

    def _of_file(self, data: Sequences) -> list[Prediction]:
        return list(map(with_id, data.ids, self._predictions(self._checked(data).values)))

    def is_list_of_inputs(self, input: Any) -> bool:
        """Whether it is a list of arrays, or an array [N, T, C]; a list of numbers, or of rows, is one input."""
        if isinstance(input, (list, tuple)):
            return not input or isinstance(input[0], np.ndarray)
        return getattr(input, "ndim", 0) > 2

    def predict_inputs(self, inputs: Mapping[str, Any], options: Any) -> list[Prediction]:
        """Return the prediction for each sequence, an array or list of numbers [T, C], NaN where a value is missing.

        [T] will do where there is one column. The dicts have the keys ``label``, ``probability`` and ``probabilities``
        of classes, with ``every_step`` ``labels`` and ``probabilities`` of these; ``value`` or ``values``; of anomalies
        ``score``, ``threshold``, ``errors`` [T] and ``anomalies``, the steps, counted from 0, above the threshold.
        """
        arrays = []
        for name, one in inputs.items():
            if isinstance(one, str):
                raise DataError(f"{name}: expected an array of numbers, got a text; predict_files reads files")
            arrays.append(check_columns(name, one, self.preprocessor.names, missing=None))
            if not len(arrays[-1]):
                raise DataError(f"{name}: expected at least one step, got none")
        return self._predictions(arrays)

    def _predictions(self, sequences: Sequence[np.ndarray]) -> list[Prediction]:
        if isinstance(self.model, Autoencoder):
            return [self._anomalies(one, self.model.threshold.item()) for one in self.errors(sequences)]
        outputs = self.outputs([self.preprocessor.scaled(values) for values in sequences])
        return [self._values(y) if self.labels is None else self._classes(y, self.labels.names) for y in outputs]

    def _anomalies(self, errors: np.ndarray, threshold: float) -> Prediction:
        above = np.flatnonzero(errors > threshold).tolist()
        score = float(errors.mean())
        facts = {"score": score, "threshold": threshold, "errors": errors.tolist(), "anomalies": above}
        return Prediction(f"{score:.6g}\t{','.join(map(str, above))}", facts)

    def _values(self, y: np.ndarray) -> Prediction:
        values = self.preprocessor.target_scaler.undo(y)[:, 0].tolist()
        facts = {"values": values} if self.preprocessor.every_step else {"value": values[0]}
        return Prediction("\n".join(f"{value:.6g}" for value in values), facts)

    def _classes(self, y: np.ndarray, names: Sequence[str]) -> Prediction:
        rows = [class_facts(names, row) for row in y]
        labels, best = ([row[key] for row in rows] for key in ("label", "probability"))
        facts = {"labels": labels, "probabilities": best} if self.preprocessor.every_step else rows[0]
        return Prediction("\n".join(labels), facts)


def _kind(data: Sequences, config: SeriesConfig) -> Kind:
    """What the labels are, by their look where ``target`` is "auto".

    Raises:
        DataError: there are none.
    """
    if config.anomalies:
        return "anomaly"
    if data.labels is None:
        raise DataError(f"{data.where[0]}: expected labels, got none; without labels a model can learn anomalies only")
    if config.target != "auto":
        return config.target
    numbers = [parse_number(label) for part in data.labels for label in part]
    return "number" if np.isfinite(numbers).all() and any(number % 1 for number in numbers) else "class"


def _network(made: Preprocessor, labels: Labels | None) -> tuple[type[Any], dict[str, int]]:
    """The class of the model, and its sizes that follow from the data."""
    outputs = {"class": len(labels or ()), "number": 1, "anomaly": len(made.names)}[made.kind]
    model = ManyToMany if made.every_step else ManyToOne
    return Autoencoder if made.kind == "anomaly" else model, {"input_size": made.input_size, "output_size": outputs}


def _split(data: Sequences, kind: Kind, config: SeriesConfig) -> tuple[np.ndarray, np.ndarray]:
    """The training and the validation set, of whole sequences or windows."""
    if len(data) < 2:
        one = "to train and to validate with, got 1; is the column that names a sequence (id) not given?"
        raise DataError(f"{data.where[0]}: expected at least 2 sequences, {one}")
    if kind != "class" or data.labels is None:
        return base.random_split(len(data), config.val_fraction, config.seed)
    labels = [{*part} for part in data.labels]
    if len(set().union(*labels)) == 1:
        raise DataError(f"{data.where[0]}: every label is {data.labels[0][0]!r}; expected two or more")
    return base.split_by_label(labels, config.val_fraction, config.seed, "sequence", data.where)
