"""Forecasting: the next values of a series, as a learned correction of the best plain forecast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.data.tables import Scaler, Table, naive_forecasts, parse_table, read_table, season_of, windows
from minirnn.errors import DataError, OptionError
from minirnn.metrics import mae, rmse
from minirnn.models.body import CellLike, Rates
from minirnn.models import ManyToOne
from minirnn.nn import functional as F
from minirnn.tasks.common import ExampleTask, Line, Prediction, Predictor, check_fraction, fingerprint, rebuild

NAME = "forecaster"

BASES = ("last", "season", "trend")

_AT_ONCE = 1024  # windows that go through the model together where nothing is learnt
_MOST_EVALUATED = 1 << 14  # rows; of a longer validation set the beginning is evaluated in training
_CLEARLY_BETTER = 0.5  # of the square of an error or a variation
_STRETCH, _STRETCHES = 12, 4  # rows over which a spread is measured, how often: at least
_MOST_LOG = 700.0  # e^709 is the largest double

# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, eq=False)
class Series:
    """Columns of a table, rows in the order of time.

    Attributes:
        table: where they stand.
        names: C, the column to forecast first.
        values: [R, C].
        validate: how many of the table's rows are left out here because they validate.
    """

    table: Table
    names: tuple[str, ...]
    values: np.ndarray = field(repr=False)
    validate: int = 0

    @classmethod
    def of(cls, table: Table, column: str | None = None, inputs: Sequence[str] = ()) -> Self:
        """Take columns out of a table.

        Args:
            column: the one to forecast; the last one with numbers where None.
            inputs: others to look at.

        Raises:
            DataError: there is no such column, or a cell of it is no finite number; says where.
            OptionError: a column is named twice.
        """
        names = (table.last_number() if column is None else column, *inputs)
        for name in names:
            if names.count(name) > 1:
                raise OptionError(f"column {name!r} is named twice; the column to forecast is an input anyhow")
        return cls(table, names, table.columns(names))

    @classmethod
    def read(cls, source: str, column: str | None = None, inputs: Sequence[str] = ()) -> Self:
        """As :meth:`of`, from a CSV file with a header; ``-`` is standard input."""
        return cls.of(read_table(source), column, inputs)

    def __len__(self) -> int:
        return len(self.values)

    def check_rows(self, expected: int, purpose: str) -> None:
        """Make sure that there are enough.

        Raises:
            DataError: there are fewer rows than ``expected``.
        """
        if len(self) < expected:
            message = f"{self.table.name}: expected at least {expected} rows, {purpose}, got {len(self)}"
            if self.validate:
                message += f": of the table's {len(self.table)} rows {self.validate} validate, {len(self)} are left"
            raise DataError(message)


def _transformed(series: Series, log: bool) -> np.ndarray:
    """x [R, C]: the values, or the logarithm of the first column beside the others.

    Raises:
        DataError: there is no logarithm of a value; says where it stands.
    """
    if not log:
        return series.values
    column = series.values[:, :1]
    if column.min() <= 0:
        row = int(np.argmax(column[:, 0] <= 0))
        raise DataError(
            f"{series.table.where(row)}: column {series.names[0]!r}: expected a number above 0, for the model takes "
            f"logarithms (unless trained with --no-log), got {column[row, 0]:g}"
        )
    return np.concatenate([np.log(column), series.values[:, 1:]], axis=1)


def base_forecasts(values: np.ndarray, first: int, horizon: int, base: str, season: int) -> np.ndarray:
    """Plain forecasts [N, h] of one column [R], from row ``first`` on, each from the rows before it.

    With m rows in a season, the forecast of x[t+k] from the rows up to t is ::

        last      x[t]
        season    x[t + k - c m],  c = ceil(k / m)
        trend     x[t + k - c m] + c (x[t] - x[t - m])

    The last one lets every season change as much as the latest rows have since a season ago: an ARIMA
    (0,1,0)(0,1,0)_m without noise (Box & Jenkins 1976, chapter 9). See
    :func:`~minirnn.data.tables.naive_forecasts` for the others.
    """
    found = naive_forecasts(values, first, horizon, 1 if base == "last" else season)
    if base == "trend":
        rows = np.arange(first - 1, first - 1 + len(found))
        cycles = -(-np.arange(1, horizon + 1) // season)
        found = found + cycles * (values[rows] - values[rows - season])[:, None]
    return found


def _choose_base(values: np.ndarray, horizon: int, season: int) -> str:
    """The base with the smallest error on the training set; "last" unless another one at least halves its square.

    A season in the base brings the noise of older values with it, so it must be clear that it pays.
    """
    first = season + 1
    if len(values) - first - horizon + 1 < season:
        return "last"
    expected = windows(values[first - 1 :, None], 1, horizon)[1]
    errors = {base: rmse(base_forecasts(values, first, horizon, base, season), expected) for base in BASES}
    best = min(errors, key=lambda base: errors[base])
    return best if errors[best] <= math.sqrt(_CLEARLY_BETTER) * errors["last"] else "last"  # a square may overflow


def _grows_with_level(values: np.ndarray, season: int) -> bool:
    """Whether logarithms make the spread of a positive series more even (Guerrero 1993, with powers 0 and 1 only).

    With mean u and standard deviation s of stretches of whole seasons, s / u must vary clearly less than s, each
    measured by its own standard deviation over its mean.
    """
    size = season * -(-_STRETCH // season)
    stretches = values[: len(values) // size * size].reshape(-1, size)
    if len(stretches) < _STRETCHES or values.min() <= 0:
        return False
    spread = stretches.std(1)
    relative = spread / stretches.mean(1)
    return bool((relative.std() * spread.mean()) ** 2 < _CLEARLY_BETTER * (spread.std() * relative.mean()) ** 2)


@dataclass(frozen=True, eq=False)
class View:
    """How a series is shown to the model, and what the model's outputs mean; fitted on training rows only.

    With z the columns scaled to mean 0 and deviation 1 (after the logarithm, where it is taken), a window of L rows is
    shown as z[t] - z[L] of the column to forecast, beside tanh(z[t] / 2) of every column: the level, which cannot
    leave the range that was learnt however far the series has grown. The model's output o_k means ::

        x[t+k] = base[t+k] + spread_k o_k

    Attributes:
        names: columns, the one to forecast first.
        seq_length: L rows in a window. horizon: h steps to forecast at once.
        season: rows, 1 where there is none. base: one of :data:`BASES`. log: x is the logarithm of the column.
        scaler: of the columns.
        spread: [h] root mean squared errors of the base on the training rows.
    """

    names: tuple[str, ...]
    seq_length: int
    horizon: int
    season: int
    base: str
    log: bool
    scaler: Scaler
    spread: np.ndarray

    @classmethod
    def fit(
        cls, train: Series, seq_length: int, horizon: int, season: int | None = None, base: str | None = None,
        log: bool | None = None,
    ) -> Self:  # fmt: skip
        """To training rows; what is None is chosen by them.

        Raises:
            DataError: there are too few rows, or a value of which there is no logarithm.
        """
        for name, value in (("seq_length", seq_length), ("horizon", horizon), ("season", season)):
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")
        if base not in (None, *BASES):
            raise OptionError(f"base must be one of {', '.join(BASES)}, got {base!r}")
        purpose = f"to train on ({seq_length} to look at, {horizon} to forecast)"
        train.check_rows(seq_length + horizon, purpose)
        column = train.values[:, 0]
        if season is None:
            season = season_of(column)
        train.check_rows(season + 1 + horizon, f"to train on (a season of {season} before {horizon} to forecast)")
        if log is None:
            log = _grows_with_level(column, season)
        x = _transformed(train, log)
        if base is None:
            base = _choose_base(x[:, 0], horizon, season)
        scaler = Scaler.fit(x)
        view = cls(train.names, seq_length, horizon, season, base, log, scaler, np.ones(horizon))
        train.check_rows(view.needs + horizon, f"to train on ({view.needs} to look at, {horizon} to forecast)")
        examples = view.examples(train, view.needs)
        errors = np.sqrt(np.mean((examples.expected - examples.base) ** 2, axis=0))
        spread = np.where(errors > 1e-9 * scaler.std[0], errors, scaler.std[0])  # a base without errors, but rounding
        return replace(view, spread=spread)

    @property
    def needs(self) -> int:
        """Rows before the first that can be forecast."""
        return max(self.seq_length, {"last": 1, "season": self.season, "trend": self.season + 1}[self.base])

    def examples(self, series: Series, first: int) -> Examples:
        """All windows whose forecasts begin at row ``first`` or later."""
        x = _transformed(series, self.log)
        z, _ = windows(self.scaler.apply(x[first - self.seq_length :]), self.seq_length, self.horizon)
        _, expected = windows(x[first - self.seq_length :], self.seq_length, self.horizon)
        return Examples(z, base_forecasts(x[:, 0], first, self.horizon, self.base, self.season), expected, self.spread)

    def values(self, x: np.ndarray) -> np.ndarray:
        """Forecasts in the column's own units."""
        return np.exp(np.minimum(x, _MOST_LOG)) if self.log else x

    def to_config(self) -> dict[str, Any]:
        return {
            "column": self.names[0], "inputs": list(self.names[1:]), "seq_length": self.seq_length,
            "horizon": self.horizon, "season": self.season, "base": self.base, "log": self.log,
            "scaler": self.scaler.to_config(), "spread": self.spread.tolist(),
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """What ``to_config`` described.

        Raises:
            DataError: it does not describe one.
        """
        scaler, spread = Scaler.from_config(config["scaler"]), np.array(config["spread"], np.float64)
        names = (config["column"], *config["inputs"])
        lengths = [config[name] for name in ("seq_length", "horizon", "season")]
        if not all(isinstance(length, int) and length > 0 for length in lengths) or config["base"] not in BASES:
            raise DataError(f"a view wants lengths above 0 and a base of {', '.join(BASES)}")
        if len(scaler.mean) != len(names) or spread.shape != (lengths[1],) or not (spread > 0).all():
            raise DataError(f"a view of {len(names)} columns, {lengths[1]} steps ahead, wants as many scales")
        return cls(names, lengths[0], lengths[1], lengths[2], config["base"], bool(config["log"]), scaler, spread)


@dataclass(frozen=True, eq=False)
class Examples:
    """N windows of a series with what comes after them.

    Attributes:
        z: [L, N, C] scaled columns.
        base, expected: [N, h] the plain forecasts, and what came true.
        spread: [h] see :class:`View`.
    """

    z: np.ndarray
    base: np.ndarray
    expected: np.ndarray
    spread: np.ndarray

    def __len__(self) -> int:
        return len(self.base)

    def inputs(self, numbers: np.ndarray | slice) -> np.ndarray:
        """What the model sees of some windows, [L, n, 1 + C]."""
        z = self.z[:, numbers]
        return np.concatenate([z[:, :, :1] - z[-1:, :, :1], np.tanh(z / 2)], axis=2)

    def targets(self, numbers: np.ndarray | slice) -> np.ndarray:
        """The outputs that would make forecasts come true, [n, h]."""
        return (self.expected[numbers] - self.base[numbers]) / self.spread

    def forecasts(self, model: ManyToOne) -> np.ndarray:
        """x as the model forecasts it, [N, h]."""
        dtype = model.head.weight.dtype
        with model.evaluating():
            outputs = [
                model(self.inputs(slice(start, start + _AT_ONCE)).astype(dtype)).numpy()
                for start in range(0, len(self), _AT_ONCE)
            ]
        return self.base + self.spread * np.concatenate(outputs).astype(np.float64)


def evaluate(model: ManyToOne, view: View, series: Series, first: int) -> dict[str, float]:
    """How well the rows from ``first`` on are forecast, each window made of what truly came before.

    Returns:
        ``loss``, the mean squared error in units of ``view.spread``; ``rmse`` and ``mae`` in units of the column; and
        both of what needs no learning, on the same targets: ``base_rmse`` of the base, ``persistence_`` of repeating
        the last value, ``seasonal_naive_`` of repeating the last season.
    """
    examples = view.examples(series, first)
    x = examples.forecasts(model)
    column = series.values[:, 0]
    expected = windows(column[first - 1 :, None], 1, view.horizon)[1]
    found = view.values(x)
    metrics = {
        "loss": float(np.mean(((x - examples.expected) / view.spread) ** 2)),
        "rmse": rmse(found, expected), "mae": mae(found, expected), "base_rmse": rmse(view.values(examples.base), expected),
    }  # fmt: skip
    for name, period in (("persistence", 1), ("seasonal_naive", view.season)):
        naive = naive_forecasts(column, first, view.horizon, period)
        metrics |= {f"{name}_rmse": rmse(naive, expected), f"{name}_mae": mae(naive, expected)}
    return metrics


# ------------------------------------------------------------------------------------------------------- task


class ForecasterTask(ExampleTask):
    """A forecaster and the series it is trained on: teacher-forced windows, the last rows validate.

    The model begins as the base itself (its head is zero) and learns to correct it. What is minimised is the mean
    squared error in units of the base's own, plus ``penalty / N`` times the sum of all squared weights but biases, for
    N training windows: the most probable weights under a normal prior (MacKay 1992, "A practical Bayesian framework
    for backpropagation networks"). So a long series may teach much, and a short one departs from its base only as far
    as it gives reason to, however long it is trained.

    Args:
        series: all rows; the last ``val_fraction`` of them validates and is used for nothing else.
        seq_length, horizon: rows in a window, steps to forecast at once.
        season, base, log: see :class:`View`; None lets the training rows choose.
        hidden_size, num_layers, cell, bidirectional, dropout, rates: see :class:`minirnn.models.ManyToOne`.
        batch_size: windows.
        penalty: on the weights; 0 for none.
        seed: of the weights, dropout and order; :func:`minirnn.manual_seed` is called with it.

    Attributes:
        view: how the model sees the series.
        train_rows: how many rows are trained on.

    Raises:
        DataError: there are too few rows, or a value that has no logarithm where it is taken.
    """

    def __init__(
        self, series: Series, seq_length: int = 24, horizon: int = 1, season: int | None = None,
        base: str | None = None, log: bool | None = None, *, hidden_size: int = 32, num_layers: int = 1,
        cell: CellLike = "lstm", bidirectional: bool = False, dropout: float = 0.0, batch_size: int = 32,
        penalty: float = 5.0, val_fraction: float = 0.2, seed: int = 0, **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        check_fraction(val_fraction)
        if not 0 <= penalty < float("inf"):
            raise OptionError(f"penalty must be at least 0, got {penalty}")
        self.train_rows = max(0, len(series) - max(horizon, round(len(series) * val_fraction)))
        validate = len(series) - self.train_rows
        train = Series(series.table, series.names, series.values[: self.train_rows], validate)
        self.view = View.fit(train, seq_length, horizon, season, base, log)
        self._examples = self.view.examples(train, self.view.needs)
        shown = self.train_rows + max(_MOST_EVALUATED, horizon)
        self._evaluated = Series(series.table, series.names, series.values[:shown])
        super().__init__(np.full(len(self._examples), seq_length), batch_size, seed)
        random.manual_seed(seed)
        self.model = ManyToOne(
            1 + len(series.names), hidden_size, horizon, num_layers, cell, bidirectional, dropout=dropout, **rates
        )
        for parameter in self.model.head.parameters():
            parameter.data[...] = 0
        self._weights = [p for p in self.model.parameters() if p.ndim > 1]
        self._pull = penalty / len(self._examples)
        self._data = {
            "sha256": fingerprint(series.values), "rows": len(series), "train_rows": self.train_rows,
            "batch_size": batch_size, "penalty": penalty, "val_fraction": val_fraction, "seed": seed,
        }  # fmt: skip

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        dtype = self.model.head.weight.dtype
        targets = self._examples.targets(examples).astype(dtype)
        loss = F.mse_loss(self.model(self._examples.inputs(examples).astype(dtype)), targets)
        if self._pull:
            for weights in self._weights:
                loss = loss + (weights * weights).sum() * self._pull
        return loss, targets.size

    def evaluate(self) -> dict[str, float]:
        metrics = evaluate(self.model, self.view, self._evaluated, self.train_rows)
        return {"val_loss": metrics["loss"], "rmse": metrics["rmse"], "mae": metrics["mae"]}

    def config(self) -> dict[str, Any]:
        return {"task": NAME, "data": self._data, "model": self.model.config, "series": self.view.to_config()}

    def forecaster(self) -> Forecaster:
        """The model under training, at work."""
        return Forecaster(self.model, self.view, self._data)


class Forecaster(Predictor):
    """A trained forecaster with its view of a series: tables in, forecasts out.

    >>> forecaster = Forecaster.load("checkpoints/airline-passengers/best.safetensors")  # doctest: +SKIP
    >>> forecaster.evaluate(["airline-passengers.csv"])["rmse"]  # doctest: +SKIP
    """

    task: ClassVar[str] = NAME
    kind: ClassVar[str] = "a forecaster"
    whole: ClassVar[bool] = True

    def __init__(self, model: ManyToOne, view: View, data: dict[str, Any]) -> None:
        self.model, self.view, self._data = model, view, data

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        data = {name: config["data"][name] for name in ("sha256", "rows", "train_rows")}
        view = View.from_config(config["series"])
        model = rebuild(ManyToOne, config["model"], arrays)
        return cls(model, view, data)

    def predict(self, lines: Sequence[Line]) -> list[Prediction]:
        """Forecasts of the ``horizon`` values after a table's last row, from its header on: one prediction for all.

        Raises:
            DataError: the lines are no table with the model's columns, or too short a one.
        """
        where = lines[0].where if lines else "standard input"
        name = where.rpartition(":")[0] or where
        series = self._series(parse_table(name, "\n".join(line.text for line in lines)))
        rows, horizon = len(series), self.view.horizon
        series.check_rows(self.view.needs, "to forecast from")
        unknown = np.repeat(series.values[-1:], horizon, axis=0)  # rows in the place of those to come, seen by nothing
        longer = Series(series.table, series.names, np.concatenate([series.values, unknown]))
        steps = self.view.values(self.view.examples(longer, rows).forecasts(self.model))[0].tolist()
        text = "\n".join(f"{number}\t{value:.6g}" for number, value in enumerate(steps, 1))
        return [Prediction(text, {"column": self.view.names[0], "horizon": steps})]

    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """See :func:`evaluate`; with ``scored_rows``, how many rows were forecast, and ``first_row``, counted from 1.

        In a table that begins with the rows the model was made with, only what comes after them is scored; in exactly
        that table the part that validated. In any other, all rows that have a window and a season before them.

        Raises:
            DataError: the source is no table with the model's columns, or too few rows of it could be scored.
        """
        if len(sources) != 1:
            raise OptionError(f"a forecaster reads one table at a time, got {len(sources)}")
        series = self._series(read_table(sources[0]))
        rows = self._data["rows"]
        first = max(self.view.needs, self.view.season)
        if len(series) >= rows and fingerprint(series.values[:rows]) == self._data["sha256"]:
            first = rows if len(series) > rows else self._data["train_rows"]
        purpose = f"{first} before those to score and {self.view.horizon} to forecast"
        series.check_rows(first + self.view.horizon, purpose)
        metrics = evaluate(self.model, self.view, series, first)
        return metrics | {"scored_rows": len(series) - first, "first_row": first + 1}

    def _series(self, table: Table) -> Series:
        return Series.of(table, self.view.names[0], self.view.names[1:])
