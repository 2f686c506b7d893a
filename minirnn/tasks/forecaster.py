"""Forecasting: the next values of series, as a learned correction of a simple baseline forecast."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from minirnn import random
from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.config import option
from minirnn.data.forecasting import Base, Series, base_forecasts, long_enough, parse_quantiles, select_series
from minirnn.data.sources import normalize_newlines
from minirnn.data.tables import Table, check_columns, parse_table, read_batches, read_table
from minirnn.data.windows import Examples, Preprocessor
from minirnn.errors import DataError, OptionError
from minirnn.metrics import mae, pinball_loss, rmse
from minirnn.models import ManyToOne
from minirnn.nn import functional as F
from minirnn.nn.module import Parameter
from minirnn.tasks import fine_tuning
from minirnn.tasks.base import BidirectionalConfig, ExampleTask, Line, Prediction, WindowConfig, fingerprint, rebuild
from minirnn.tasks.outputs import joined, with_id
from minirnn.training import TrainingConfig

EVAL_BATCH_SIZE = 1024
MAX_EVAL_ROWS = 1 << 14  # of a longer validation set the beginning of each series is evaluated while training
NAIVE: dict[str, Base] = {"persistence": "last", "seasonal_naive": "season"}
SHOWN = ("rmse", "mae", "pinball", "coverage")  # of the metrics, while training
_PURPOSE = ", to forecast from"


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig(WindowConfig, BidirectionalConfig):
    """Options of :class:`Forecaster`."""

    column: str | None = option(None, "Column to forecast; by default the last one with numbers.", group="Data")
    inputs: tuple[str, ...] | None = option(None, "Further columns to look at, separated by commas.", group="Data")
    future: tuple[str, ...] | None = option(
        None, "Columns known in advance, such as prices or holidays, separated by commas.", group="Data"
    )
    id: str | None = option(
        None, "Column that names a series, whose rows are together; without it a file is one.", group="Data"
    )
    horizon: int = option(1, "Steps to forecast at once.", 1, group="Data")
    season: int | None = option(None, "Rows in a season, 1 for none; estimated by default.", 1, group="Data")
    base: Base | None = option(  # noqa: RUF009 - a field, as the others
        None,
        "Baseline that the network corrects: the last value, that of a season ago, or that plus the change since then; "
        "by default the best one on the training set.",
    )
    quantiles: str | None = option(
        None, "Forecast quantiles, separated by commas, rather than the mean: 0.1,0.5,0.9.", group="Data"
    )
    log: bool | None = option(None, "Take logarithms; by default where the spread grows.", flags=("--log/--no-log",))
    penalty: float = option(5.0, "Pull of the weights towards 0; counts less in long series.", 0, group="Training")
    bidirectional: bool = False
    hidden_size: int = 32
    seq_length: int = 24
    val_fraction: float = 0.2


class Forecaster(ExampleTask[list[Series], ForecasterConfig]):
    """A forecaster of one or many series, trained on windows of them; the last rows of each are the validation set.

    With ``quantiles`` it forecasts these rather than the mean, by the pinball loss of
    :func:`~minirnn.metrics.pinball_loss` in the place of the squared error.

    The model begins as the baseline itself (its head is zero) and learns to correct it. What is minimised is the mean
    squared error in units of the baseline's own, plus ``penalty / N`` times the sum of all squared weights but biases,
    for N training windows: the most probable weights under a normal prior (MacKay 1992, "A practical Bayesian
    framework for backpropagation networks"). So a long series may teach much, and a short one departs from its
    baseline only as far as it gives reason to, however long it is trained.

    Args:
        preprocessor: turns series into inputs, and outputs into forecasts.
        data: ``sha256`` of the values of the training table, its ``rows``, and how many of them are ``train_rows``; of
            many ``series`` also these three by id.

    >>> forecaster = Forecaster.load("checkpoints/airline-passengers/best.safetensors")  # doctest: +SKIP
    >>> forecaster.predict([112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118])  # doctest: +SKIP
    >>> forecaster.measure(["airline-passengers.csv"])["rmse"]  # doctest: +SKIP
    """

    name = "forecaster"
    description = "a forecaster"
    help = (
        "Train a forecaster on a table. The last rows of a series are the validation set. To test it, train on the "
        "beginning of a file and give the whole file to eval, which scores the rows that follow."
    )
    sources_help = "A CSV file with a header, rows in the order of time; - is standard input."
    unit = "values"
    example = "minirnn predict {} DATA.csv"
    Config = ForecasterConfig
    training = TrainingConfig(minutes=1, lr=4e-3)
    single_source = True
    predicts_whole_input = True
    model: ManyToOne
    _examples: Examples
    _validation: list[Series]
    _weights: list[Parameter]
    _penalty: float

    def __init__(self, model: ManyToOne, preprocessor: Preprocessor, data: dict[str, Any]) -> None:
        self.model, self.preprocessor, self._data = model, preprocessor, data

    @classmethod
    def read(cls, sources: Sequence[str], config: ForecasterConfig) -> list[Series]:
        table = read_table(_only(sources))
        return select_series(table, config.column, config.inputs or (), config.future or (), config.id)

    @classmethod
    def _build(cls, data: list[Series], config: ForecasterConfig, init_from: Self | None) -> Self:
        names, future = data[0].names, data[0].future
        if init_from is not None:
            fine_tuning.check_columns("inputs", init_from.preprocessor.names, names)
            fine_tuning.check_columns("future", init_from.preprocessor.future, future)
        counts = [max(config.horizon, round(len(one) * config.val_fraction)) for one in data]
        data = [one.split(max(0, len(one) - count)) for one, count in zip(data, counts, strict=True)]
        options = config.subset("seq_length", "horizon", "season", "base", "log", "id")
        preprocessor, data = Preprocessor.fit(data, quantiles=parse_quantiles(config.quantiles), **options)
        examples = preprocessor.examples(one.past.split(preprocessor.first_row) for one in data)
        random.manual_seed(config.seed)
        model = ManyToOne(
            1 + len(names) + len(future) * config.horizon,
            output_size=config.horizon * max(1, len(preprocessor.quantiles)),
            **config.recurrent(),
        )
        for parameter in model.head.parameters():
            parameter.data[...] = 0
        facts = _facts(*data) | config.subset("batch_size", "penalty", "val_fraction", "seed")
        if config.id is not None:
            facts |= {"series": {one.id: _facts(one) for one in data}}
        task = cls(model, preprocessor, facts)
        task._examples = examples
        task.set_examples(np.full(len(examples), config.seq_length), config)
        most = max(MAX_EVAL_ROWS // len(data), config.horizon)
        task._validation = [one.split(one.first, most) for one in data]
        task._weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        task._penalty = config.penalty / len(examples)
        many = "" if config.id is None else f"{len(data):,} series, "
        log = " as logarithm" if preprocessor.log else ""
        task.summary = (
            f"{many}{facts['rows']:,} rows, {facts['train_rows']:,} to train on; column {names[0]!r}{log}, season "
            f"{preprocessor.season:,}, base {preprocessor.base}"
        )
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        data = {name: config["data"][name] for name in ("sha256", "rows", "train_rows")}
        return cls(rebuild(ManyToOne, config["model"], arrays), Preprocessor.from_config(config["series"]), data)

    def architecture(self) -> dict[str, Any]:
        made = self.preprocessor
        quantiles = ",".join(map(str, made.quantiles)) or None
        return super().architecture() | {"horizon": made.horizon, "base": made.base, "quantiles": quantiles}

    def vocabulary_config(self) -> dict[str, Any]:
        return {"series": self.preprocessor.to_config()}

    # ------------------------------------------------------------------------------------------- training

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        targets = self._examples.targets(examples)
        y = self.model(self._examples.inputs(examples))
        if quantiles := self.preprocessor.quantiles:
            e = -(y.reshape(*targets.shape, len(quantiles)) - targets[:, :, None])
            loss = ops.maximum(e * quantiles, e * (np.array(quantiles) - 1)).mean()
        else:
            loss = F.mse_loss(y, targets)
        if self._penalty:
            for weights in self._weights:
                loss = loss + (weights * weights).sum() * self._penalty
        return loss, targets.size

    def evaluate(self) -> dict[str, float]:
        metrics = self.metrics(self._validation)
        return {"val_loss": metrics["loss"], **{name: metrics[name] for name in SHOWN if name in metrics}}

    # ------------------------------------------------------------------------------------------------ use

    def forecasts(self, examples: Examples) -> np.ndarray:
        """Return x [N, h] as the model forecasts it, or [N, h, Q], see :meth:`Examples.forecasts`."""
        parts = [slice(start, start + EVAL_BATCH_SIZE) for start in range(0, len(examples), EVAL_BATCH_SIZE)]
        with self.model.evaluating():
            outputs = [self.model(examples.inputs(part)).numpy() for part in parts]
        return examples.forecasts(np.concatenate(outputs))

    def metrics(self, series: Sequence[Series]) -> dict[str, float]:
        """Return how well the rows to forecast are forecast, each window made of the true values before.

        Returns:
            ``loss``, the mean squared error in units of the spread; ``rmse`` and ``mae`` in units of the column; and
            both of forecasts that need no learning: ``base_`` of the baseline, ``persistence_`` of repeating the last
            value, ``seasonal_naive_`` of repeating the last season. Of quantiles, ``loss`` is the pinball loss in units
            of the spread, ``pinball`` that in units of the column, and ``coverage`` the fraction of values from the
            lowest to the highest quantile; ``rmse`` and ``mae`` are those of the middle one. Each is over all forecasts
            of all series.
        """
        made, examples = self.preprocessor, self.preprocessor.examples(series)
        x = self.forecasts(examples)
        expected = np.concatenate([one.targets(made.horizon) for one in series])
        found, more = made.values(x), dict[str, float]()
        if made.quantiles:
            scaled = (x - examples.expected[:, :, None]) / examples.spread[:, :, None]
            loss = pinball_loss(scaled, np.zeros_like(expected), made.quantiles)
            inside = (found[:, :, 0] <= expected) & (expected <= found[:, :, -1])
            more = {"pinball": pinball_loss(found, expected, made.quantiles), "coverage": float(inside.mean())}
            found = made.middle(found)
        else:
            loss = float(np.mean(((x - examples.expected) / examples.spread) ** 2))
        metrics = {
            "loss": loss,
            **more,
            "rmse": rmse(found, expected),
            "mae": mae(found, expected),
            "base_rmse": rmse(made.values(examples.base), expected),
        }
        for name, base in NAIVE.items():
            naive = np.concatenate([self._naive(one, base) for one in series])
            metrics |= {f"{name}_rmse": rmse(naive, expected), f"{name}_mae": mae(naive, expected)}
        return metrics

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, with ``scored_rows``, how many rows were forecast, and ``first_row``, counted from 1.

        In a table that begins with the rows the model was made with, only the rows after them are scored; in exactly
        that table the validation set. In any other table, all rows that have a window and a season before them. Of many
        series this holds for each; in place of ``first_row`` there is ``series``, how many were scored.
        """
        series = self._scored(sources)
        which = {"first_row": series[0].first + 1} if self.preprocessor.id is None else {"series": len(series)}
        return self.metrics(series) | {"scored_rows": sum(one.num_later for one in series)} | which

    def compare(self, sources: Sequence[str]) -> tuple[np.ndarray, int, dict[str, np.ndarray]]:
        """Return the true column [R], the first row that :meth:`measure` scores, and forecasts of the rows from it on.

        Those are ``forecast``, the model's, and the naive ones, ``persistence`` and, where there is a season,
        ``seasonal_naive``: one value for each row, in stretches of ``horizon`` rows, each forecast from the true rows
        before the stretch. Rows after the last whole stretch have none. Of quantiles, ``forecast`` is the middle one.

        Raises:
            DataError: there is more than one series.
        """
        made, (series, *others) = self.preprocessor, self._scored(sources)
        if others:
            raise DataError(f"{series.name}: expected one series to draw, got {1 + len(others)}")
        found = {"forecast": made.middle(made.values(self.forecasts(made.examples([series]))))}
        found |= {name: self._naive(series, base) for name, base in NAIVE.items() if base == "last" or made.season > 1}
        rows = {name: values[:: made.horizon].reshape(-1) for name, values in found.items()}
        return series.values[:, 0], series.first, rows

    def _naive(self, series: Series, base: Base) -> np.ndarray:
        made = self.preprocessor
        return base_forecasts(series.values[:, 0], series.first, made.horizon, base, made.season)

    def _scored(self, sources: Sequence[str]) -> list[Series]:
        """The series of a table, split before the first row to score."""
        series, horizon = self.preprocessor.select(read_table(_only(sources))), self.preprocessor.horizon
        firsts = {one.id: self._first(one) for one in series}
        minimums = [firsts[one.id] + horizon for one in series]
        return [one.split(firsts[one.id]) for one in long_enough(series, minimums, f" to score {horizon} of them")]

    def _first(self, series: Series) -> int:
        """The first row to score."""
        known = self._data if series.id is None else self._data.get("series", {}).get(series.id)
        if known and fingerprint(series.values[: known["rows"]]) == known["sha256"]:
            return known["rows"] if len(series) > known["rows"] else known["train_rows"]
        return max(self.preprocessor.first_row, self.preprocessor.season)

    def predict_lines(self, lines: Sequence[Line], options: None = None) -> list[Prediction]:
        """Return the ``horizon`` values after the last row of a table, whose lines these are; of each of its series.

        A series that is too short has none, with a warning.

        Raises:
            DataError: the lines are no table with the model's columns, or too short a one; the last ``horizon`` rows
                are not those to forecast, where the model reads columns known in advance.
        """
        return self._predictions(self._parsed(*joined(lines)))

    def predict_files(self, paths: Sequence[str], options: None = None) -> list[Prediction]:
        """As :meth:`predict_lines`, of the tables in files."""
        made = self.preprocessor
        return [one for path in paths for one in self._predictions(made.select(read_table(path), made.num_known))]

    def predict_batches(self, batches: Iterable[Sequence[Line]], options: None = None) -> Iterator[list[Prediction]]:
        """Return the forecast after each row of a table whose lines arrive in batches, once there are enough rows.

        Each is that of :meth:`predict_lines` for the table up to this row, but a row is one line, and so is the text of
        a forecast: its values with tabs between them. The time it takes does not grow with the rows read before. A
        model of many series, or of columns known in advance, reads all lines before it forecasts.
        """
        made = self.preprocessor
        if self.reads_whole:
            yield self.predict_lines([line for batch in batches for line in batch])
            return
        first, x, enough = next(batches := iter(batches), []), np.empty((0, len(made.names))), False
        texts = ([line.text for line in batch] for batch in itertools.chain([first], batches))
        for table in read_batches(name := joined(first)[0], texts):
            x = np.concatenate([x, self.transformed(table)])
            if len(x) >= made.first_row:
                found = made.values(self.forecasts(made.next_windows(x)))
                yield [self._prediction(steps, "\t".join(f"{value:.6g}" for value in steps.flat)) for steps in found]
                x, enough = x[len(x) - made.first_row + 1 :], True
        if not enough:
            long_enough([Series(name, made.names, x, str)], [made.first_row], _PURPOSE)

    def is_list_of_inputs(self, input: Any) -> bool:
        """Whether it is a list of arrays and texts; a list of numbers, or of rows of numbers, is one series."""
        return bool(isinstance(input, (list, tuple)) and input) and all(
            isinstance(one, (str, np.ndarray)) for one in input
        )

    def predict_inputs(self, inputs: Mapping[str, Any], options: Any) -> list[Prediction]:
        """Return the forecast after each series.

        A series is the text of a CSV table with a header, or an array or list: [R, C], rows in the order of time, with
        the columns in the order of ``preprocessor.names``; [R] where the model reads one column only. Where it reads
        columns known in advance, ``horizon`` rows more say these, with empty cells (NaN) in the column to forecast.
        """
        made, found = self.preprocessor, list[Prediction]()
        for name, one in inputs.items():
            if isinstance(one, str):
                series = self._parsed(name, normalize_newlines(one))
            else:
                values = check_columns(name, one, made.names, made.num_known)
                series = [Series(name, made.names, values, f"{name}[{{}}]".format, made.future)]
            if len(series) > 1:
                raise DataError(
                    f"{name}: expected one series, got {len(series)}; predict_files forecasts each of a file"
                )
            found += self._predictions(series)
        return found

    def _parsed(self, name: str, text: str) -> list[Series]:
        return self.preprocessor.select(parse_table(name, text), self.preprocessor.num_known)

    def _predictions(self, series: Sequence[Series]) -> list[Prediction]:
        made, parts = self.preprocessor, list[Examples]()
        series = [one.split(max(0, len(one) - made.num_known)) for one in series]
        for one in series:
            rows = one.values[one.first :]
            for row in np.flatnonzero(~np.isnan(rows[:, 0]) | np.isnan(made.known(rows)).any(1)):
                expected = f"the last {made.horizon} rows are to be forecast: expected {', '.join(made.future)}"
                raise DataError(f"{one.where(one.first + int(row))}: {expected}, and nothing as {made.names[0]}")
        series = long_enough(series, [made.first_row] * len(series), _PURPOSE)
        for one in series:
            x = one.past.transformed(made.log)
            future = made.known(one.values[one.first :]) if made.future else None
            parts.append(made.of(x).next_windows(x[-made.first_row :], future))
        found = []
        for one, steps in zip(series, made.values(self.forecasts(Examples.join(parts))), strict=True):
            lines = ["\t".join(f"{value:.6g}" for value in row.flat) for row in steps]
            prediction = self._prediction(steps, "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1)))
            found.append(prediction if one.id is None else with_id(one.id, prediction))
        return found

    def _prediction(self, steps: np.ndarray, text: str) -> Prediction:
        made = self.preprocessor
        quantiles = dict(zip(map(str, made.quantiles), steps.T.tolist(), strict=False))
        more = {"quantiles": quantiles} if quantiles else {}
        return Prediction(text, {"column": made.names[0], "horizon": made.middle(steps).tolist(), **more})

    @property
    def reads_whole(self) -> bool:
        """Whether the model reads columns known in advance or many series: whole tables, rather than row after row."""
        return bool(self.preprocessor.future) or self.preprocessor.id is not None

    def transformed(self, table: Table) -> np.ndarray:
        """Return the model's columns of a table with one series, rows x [R, C] as :meth:`Series.transformed`."""
        return self.preprocessor.select(table)[0].transformed(self.preprocessor.log)

    def initial_state(self) -> np.ndarray:
        made = self.preprocessor
        if self.reads_whole:
            read = f"columns known in advance: {', '.join(made.future)}" if made.future else "many series"
            raise OptionError(f"step: expected a model of one row after another; use predict, for it reads {read}")
        return np.empty((0, len(made.names)))

    def step(self, input: ArrayLike, state: np.ndarray) -> tuple[list[float] | None, np.ndarray]:
        """Read the next row, and return the ``horizon`` values after it, None until there are enough rows before.

        The state holds the last rows: the inputs of a window are relative to its last row, so all are read again.

        Args:
            input: the values of the columns, the one to forecast first; or one number, where there is one column.

        Raises:
            DataError: the row has not these columns, or a value that is not finite or has no logarithm.
        """
        made = self.preprocessor
        row = np.array(input, np.float64).reshape(-1)
        if row.shape != state.shape[1:] or not np.isfinite(row).all() or (made.log and row[0] <= 0):
            above = f", {made.names[0]} above 0 as the model takes logarithms" if made.log else ""
            names = ", ".join(made.names)
            raise DataError(f"step: expected a row of finite numbers ({names}{above}), got {row.tolist()}")
        if made.log:
            row[0] = np.log(row[0])
        rows = np.concatenate([state, row[None]])[-made.first_row :]
        if len(rows) < made.first_row:
            return None, rows
        return made.middle(made.values(self.forecasts(made.next_windows(rows)))[0]).tolist(), rows


def _facts(*series: Series) -> dict[str, Any]:
    """What identifies the training data, and how many rows there are."""
    ids = [one.id for one in series if one.id is not None]
    hashed = fingerprint(*(one.values for one in series), *([ids] if len(ids) > 1 else []))
    return {"sha256": hashed, "rows": sum(map(len, series)), "train_rows": sum(one.first for one in series)}


def _only(sources: Sequence[str]) -> str:
    if len(sources) != 1:
        raise OptionError(f"a forecaster reads one table at a time, got {len(sources)}")
    return sources[0]
