"""Forecasting: the next values of a series, as a learned correction of a simple baseline forecast."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from minirnn import random
from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.config import option
from minirnn.data.sources import normalize_newlines
from minirnn.data.tables import (
    Scaler,
    Table,
    check_columns,
    naive_forecasts,
    parse_number,
    parse_table,
    read_batches,
    read_table,
    seasonal_period,
    windows,
)
from minirnn.errors import DataError, OptionError
from minirnn.metrics import mae, pinball_loss, rmse
from minirnn.models import ManyToOne
from minirnn.nn import functional as F
from minirnn.nn.module import Parameter
from minirnn.tasks.base import BidirectionalConfig, ExampleTask, Line, Prediction, WindowConfig, fingerprint, rebuild
from minirnn.training import TrainingConfig

Base = Literal["last", "season", "trend"]

EVAL_BATCH_SIZE = 1024
MAX_EVAL_ROWS = 1 << 14  # of a longer validation set the beginning is evaluated while training
_CLEARLY_BETTER = 0.5  # factor of a squared error or variation
_STRETCH_ROWS, _MIN_STRETCHES = 12, 4  # for measuring how a spread changes
_MAX_LOG = 700.0  # e^709 is the largest double


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig(WindowConfig, BidirectionalConfig):
    """Options of :class:`Forecaster`."""

    column: str | None = option(None, "Column to forecast; by default the last one with numbers.", group="Data")
    inputs: tuple[str, ...] | None = option(None, "Further columns to look at, separated by commas.", group="Data")
    future: tuple[str, ...] | None = option(
        None, "Columns known in advance, such as prices or holidays, separated by commas.", group="Data"
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


def parse_quantiles(text: str | None) -> tuple[float, ...]:
    """Return the numbers of a list with commas; none where it is None.

    Raises:
        OptionError: they are not numbers between 0 and 1 in increasing order.
    """
    if text is None:
        return ()
    found = tuple(parse_number(part) for part in text.split(","))
    if not all(low < high for low, high in pairwise((0, *found, 1))):  # NaN is not below anything
        raise OptionError(f"quantiles: expected increasing numbers between 0 and 1, with commas, got {text!r}")
    return found


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, eq=False)
class Series:
    """Columns of a table, rows in the order of time.

    Attributes:
        table: what they were read from.
        names: of the C columns, the one to forecast first. values: [R, C].
        num_validation: rows of the table that are left out here because they are the validation set.
        num_future: how many of the columns, the last ones, are known in advance.
    """

    table: Table
    names: tuple[str, ...]
    values: np.ndarray = field(repr=False)
    num_validation: int = 0
    num_future: int = 0

    @classmethod
    def of(
        cls,
        table: Table,
        column: str | None = None,
        inputs: Sequence[str] = (),
        future: Sequence[str] = (),
        empty: int = 0,
    ) -> Self:
        """Select columns of a table.

        Args:
            column: the one to forecast; the last one that holds numbers where None.
            inputs, future: others, and others that are known in advance; names that contain commas, but are not
                columns, are several.
            empty: so many rows at the end may have empty cells, which are NaN.

        Raises:
            DataError: there is no such column, or a cell of it is not a finite number; says where.
            OptionError: a column is named twice.
        """
        others = [
            [part.strip() for name in given for part in ([name] if name in table.header else name.split(","))]
            for given in (inputs, future)
        ]
        names = (table.last_number() if column is None else column, *others[0], *others[1])
        for name in names:
            if names.count(name) > 1:
                raise OptionError(f"column {name!r} is named twice; the column to forecast is always an input")
        return cls(table, names, table.columns(names, empty), num_future=len(others[1]))

    @classmethod
    def read(
        cls, source: str, column: str | None = None, inputs: Sequence[str] = (), future: Sequence[str] = ()
    ) -> Self:
        """As :meth:`of`, from a CSV file with a header; ``-`` is standard input."""
        return cls.of(read_table(source), column, inputs, future)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, count: int, num_validation: int = 0) -> Series:
        """Return the first ``count`` rows."""
        return replace(self, values=self.values[:count], num_validation=num_validation)

    def check_rows(self, minimum: int, purpose: str) -> None:
        """Raise a :class:`DataError` where there are fewer than ``minimum`` rows."""
        if len(self) < minimum:
            message = f"{self.table.name}: expected at least {minimum} rows, {purpose}, got {len(self)}"
            if self.num_validation:
                message += (
                    f": of the table's {len(self.table)} rows {self.num_validation} validate, {len(self)} are left"
                )
            raise DataError(message)

    def transformed(self, log: bool) -> np.ndarray:
        """Return the values x [R, C], with ``log`` the first column as logarithm.

        Raises:
            DataError: a value has no logarithm; says where.
        """
        return _logarithm(self.values, self.names[0], self.table.where) if log else self.values


def _logarithm(values: np.ndarray, name: str, where: Callable[[int], str]) -> np.ndarray:
    """Values [R, C] with the logarithm of the first column, which is called ``name``; ``where`` gives a row's place."""
    column = values[:, :1]
    if column.min(initial=1) <= 0:
        row = int(np.argmax(column[:, 0] <= 0))
        raise DataError(
            f"{where(row)}: column {name!r}: expected a number above 0, since the model takes logarithms (unless it is "
            f"trained with log=False), got {column[row, 0]:g}"
        )
    return np.concatenate([np.log(column), values[:, 1:]], axis=1)


def base_forecasts(values: np.ndarray, first: int, horizon: int, base: str, season: int) -> np.ndarray:
    """Return baseline forecasts [N, h] of one column [R], from row ``first`` on, each from the rows before it.

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


def _choose_base(values: np.ndarray, horizon: int, season: int) -> Base:
    """The baseline with the smallest error on the training set; "last" unless another at least halves its square.

    A season in the baseline brings the noise of older values with it, so it must clearly pay.
    """
    first = season + 1
    if len(values) - first - horizon + 1 < season:
        return "last"
    expected = windows(values[first - 1 :, None], 1, horizon)[1]
    errors = {base: rmse(base_forecasts(values, first, horizon, base, season), expected) for base in get_args(Base)}
    best = min(errors, key=lambda base: errors[base])
    return best if errors[best] <= math.sqrt(_CLEARLY_BETTER) * errors["last"] else "last"  # a square may overflow


def _grows_with_level(values: np.ndarray, season: int) -> bool:
    """Whether logarithms make the spread of a positive series more even (Guerrero 1993, with powers 0 and 1 only).

    With mean u and standard deviation s of stretches of whole seasons, s / u must vary clearly less than s, each
    measured by its own standard deviation over its mean.
    """
    size = season * -(-_STRETCH_ROWS // season)
    stretches = values[: len(values) // size * size].reshape(-1, size)
    if len(stretches) < _MIN_STRETCHES or values.min() <= 0:
        return False
    spread = stretches.std(1)
    relative = spread / stretches.mean(1)
    return bool((relative.std() * spread.mean()) ** 2 < _CLEARLY_BETTER * (spread.std() * relative.mean()) ** 2)


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Turns a series into inputs of the model, and outputs of the model into forecasts; fitted on training rows only.

    With z the columns scaled to mean 0 and standard deviation 1 (after the logarithm, where it is taken), the inputs
    of a window of L rows are z[t] - z[L] of the column to forecast, and tanh(z[t] / 2) of every column: the level,
    which stays in the range seen in training however far the series grows; and, the same for all rows of the window,
    tanh(z / 2) of the columns known in advance in the h rows after it. The output o_k of the model means ::

        x[t+k] = base[t+k] + spread_k o_k

    A model of Q quantiles has an output for each, [h Q].

    Attributes:
        names: of the columns, the one to forecast first.
        seq_length: L rows in a window. horizon: h steps to forecast at once.
        season: in rows, 1 where there is none. base: see :func:`base_forecasts`. log: x is the logarithm of the column.
        scaler: of the columns.
        spread: [h] root mean squared errors of the baseline on the training rows.
        quantiles: Q increasing numbers between 0 and 1, or none.
        num_future: how many of the columns, the last ones, are known in advance.
    """

    names: tuple[str, ...]
    seq_length: int
    horizon: int
    season: int
    base: Base
    log: bool
    scaler: Scaler
    spread: np.ndarray
    quantiles: tuple[float, ...] = ()
    num_future: int = 0

    @classmethod
    def fit(cls, train: Series, config: ForecasterConfig) -> Self:
        """Fit to training rows; season, base and log are chosen by them where they are None.

        Raises:
            DataError: there are too few rows, or a value has no logarithm.
        """
        seq_length, horizon, season, log = config.seq_length, config.horizon, config.season, config.log
        train.check_rows(seq_length + horizon, f"to train on ({seq_length} to look at, {horizon} to forecast)")
        column = train.values[:, 0]
        if season is None:
            season = seasonal_period(column)
        train.check_rows(season + 1 + horizon, f"to train on (a season of {season} before {horizon} to forecast)")
        if log is None:
            log = _grows_with_level(column, season)
        x = train.transformed(log)
        base = config.base or _choose_base(x[:, 0], horizon, season)
        scaler = Scaler.fit(x)
        quantiles = parse_quantiles(config.quantiles)
        made = cls(
            train.names, seq_length, horizon, season, base, log, scaler, np.ones(horizon), quantiles, train.num_future
        )
        first = made.first_row
        train.check_rows(first + horizon, f"to train on ({first} to look at, {horizon} to forecast)")
        examples = made.examples(train, first)
        errors = np.sqrt(np.mean((examples.expected - examples.base) ** 2, axis=0))
        spread = np.where(errors > 1e-9 * scaler.std[0], errors, scaler.std[0])  # a baseline without errors
        return replace(made, spread=spread)

    @property
    def future(self) -> tuple[str, ...]:
        """The names of the columns known in advance."""
        return self.names[len(self.names) - self.num_future :]

    @property
    def first_row(self) -> int:
        """The first row that can be forecast: so many must come before it."""
        return max(self.seq_length, {"last": 1, "season": self.season, "trend": self.season + 1}[self.base])

    def examples(self, series: Series, first: int) -> Examples:
        """Return all windows whose forecasts begin at row ``first`` or later."""
        return self.cut(series.transformed(self.log), first)

    def cut(self, x: np.ndarray, first: int) -> Examples:
        """As :meth:`examples`, of rows x [R, C] as :meth:`Series.transformed` returns them."""
        z, _ = windows(self.scaler.apply(x[first - self.seq_length :]), self.seq_length, self.horizon)
        _, expected = windows(x[first - self.seq_length :], self.seq_length, self.horizon)
        base = base_forecasts(x[:, 0], first, self.horizon, self.base, self.season)
        columns = slice(len(self.names) - self.num_future, None)
        future = sliding_window_view(self.scaler.apply(x[first:])[:, columns], self.horizon, axis=0)
        return Examples(z, base, expected, self.spread, future.reshape(len(base), self.num_future * self.horizon))

    def forecasts(self, x: np.ndarray, model: ManyToOne, future: np.ndarray | None = None) -> np.ndarray:
        """Return forecasts [R - first_row + 1, h] in the column's own units, one after each row but the first ones.

        Those of quantiles are [R - first_row + 1, h, Q].

        Args:
            x: [R, C] at least :attr:`first_row` rows, see :meth:`Series.transformed`.
            future: [h, F] the columns known in advance in the rows after them, of a model that reads some.
        """
        unknown = np.repeat(x[-1:], self.horizon, axis=0)  # in place of the rows to come; nothing else is read
        if future is not None:
            unknown[:, len(self.names) - self.num_future :] = future
        return self.values(self.cut(np.concatenate([x, unknown]), self.first_row).forecasts(model))

    def middle(self, found: np.ndarray) -> np.ndarray:
        """Return the middle one [..., h] of the quantiles [..., h, Q]; forecasts of the mean as they are."""
        return found[..., len(self.quantiles) // 2] if self.quantiles else found

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return forecasts in the column's own units."""
        return np.exp(np.minimum(x, _MAX_LOG)) if self.log else x

    def to_config(self) -> dict[str, Any]:
        """Return a description for JSON."""
        names = ("seq_length", "horizon", "season", "base", "log")
        return {
            "column": self.names[0],
            "inputs": list(self.names[1 : len(self.names) - self.num_future]),
            **{name: getattr(self, name) for name in names},
            "scaler": self.scaler.to_config(),
            "spread": self.spread.tolist(),
        } | {name: list(values) for name, values in (("quantiles", self.quantiles), ("future", self.future)) if values}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make one of what :meth:`to_config` described.

        Raises:
            DataError: it does not describe one.
        """
        scaler, spread = Scaler.from_config(config["scaler"]), np.array(config["spread"], np.float64)
        future = config.get("future", ())
        names = (config["column"], *config["inputs"], *future)
        sizes = [config[name] for name in ("seq_length", "horizon", "season")]
        if not all(isinstance(size, int) and size > 0 for size in sizes) or config["base"] not in get_args(Base):
            raise DataError(f"series: expected lengths above 0 and a base of {', '.join(get_args(Base))}")
        if len(scaler.mean) != len(names) or spread.shape != (sizes[1],) or not (spread > 0).all():
            raise DataError(f"series: expected {len(names)} scales of columns and {sizes[1]} spreads of steps")
        quantiles = parse_quantiles(",".join(map(str, config["quantiles"])) if "quantiles" in config else None)
        base, log = config["base"], bool(config["log"])
        return cls(names, sizes[0], sizes[1], sizes[2], base, log, scaler, spread, quantiles, len(future))


@dataclass(frozen=True, eq=False)
class Examples:
    """N windows of a series and what comes after them.

    Attributes:
        z: [L, N, C] scaled columns.
        base, expected: [N, h] baseline forecasts, and the values that followed.
        spread: [h] see :class:`Preprocessor`.
        future: [N, F h] scaled columns known in advance in the rows after the windows.
    """

    z: np.ndarray
    base: np.ndarray
    expected: np.ndarray
    spread: np.ndarray
    future: np.ndarray

    def __len__(self) -> int:
        return len(self.base)

    def inputs(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Return the model's inputs [L, n, 1 + C + F h] of some windows."""
        z, future = self.z[:, numbers], np.tanh(self.future[numbers] / 2)
        future = np.broadcast_to(future, (len(z), *future.shape))
        return np.concatenate([z[:, :, :1] - z[-1:, :, :1], np.tanh(z / 2), future], axis=2)

    def targets(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Return the outputs [n, h] that would make the forecasts right."""
        return (self.expected[numbers] - self.base[numbers]) / self.spread

    def forecasts(self, model: ManyToOne) -> np.ndarray:
        """Return x [N, h] as the model forecasts it; [N, h, Q] of quantiles.

        Quantiles that cross are put in order, which never makes them worse (Chernozhukov, Fernández-Val & Galichon
        2010, "Quantile and probability curves without crossing").
        """
        parts = [slice(start, start + EVAL_BATCH_SIZE) for start in range(0, len(self), EVAL_BATCH_SIZE)]
        with model.evaluating():
            outputs = [model(self.inputs(part)).numpy() for part in parts]
        y = np.concatenate(outputs).astype(np.float64)
        if y.shape == self.base.shape:
            return self.base + self.spread * y
        y = np.sort(y.reshape(*self.base.shape, -1), 2)
        return self.base[:, :, None] + self.spread[:, None] * y


# ------------------------------------------------------------------------------------------------------- task


class Forecaster(ExampleTask[Series, ForecasterConfig]):
    """A forecaster of a series, trained on windows of it; the last rows are the validation set.

    With ``quantiles`` it forecasts these rather than the mean, by the pinball loss of
    :func:`~minirnn.metrics.pinball_loss` in the place of the squared error.

    The model begins as the baseline itself (its head is zero) and learns to correct it. What is minimised is the mean
    squared error in units of the baseline's own, plus ``penalty / N`` times the sum of all squared weights but biases,
    for N training windows: the most probable weights under a normal prior (MacKay 1992, "A practical Bayesian
    framework for backpropagation networks"). So a long series may teach much, and a short one departs from its
    baseline only as far as it gives reason to, however long it is trained.

    Args:
        preprocessor: turns a series into inputs, and outputs into forecasts.
        data: ``sha256`` of the values of the training table, its ``rows``, and how many of them are ``train_rows``.

    >>> forecaster = Forecaster.load("checkpoints/airline-passengers/best.safetensors")  # doctest: +SKIP
    >>> forecaster.predict([112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118])  # doctest: +SKIP
    >>> forecaster.measure(["airline-passengers.csv"])["rmse"]  # doctest: +SKIP
    """

    name = "forecaster"
    description = "a forecaster"
    help = (
        "Train a forecaster on a table. The last rows are the validation set. To test it, train on the beginning of a "
        "file and give the whole file to eval, which scores the rows that follow."
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
    _validation: Series
    _weights: list[Parameter]
    _penalty: float

    def __init__(self, model: ManyToOne, preprocessor: Preprocessor, data: dict[str, Any]) -> None:
        self.model, self.preprocessor, self._data = model, preprocessor, data

    @classmethod
    def read(cls, sources: Sequence[str], config: ForecasterConfig) -> Series:
        return Series.read(_only(sources), config.column, config.inputs or (), config.future or ())

    @classmethod
    def _build(cls, data: Series, config: ForecasterConfig, init_from: Self | None) -> Self:
        if init_from is not None and len(data.names) != len(init_from.preprocessor.names):
            known = init_from.preprocessor.names
            columns = f"{len(known)} columns, as the trained model reads ({', '.join(known)})"
            raise OptionError(f"inputs: expected {columns}, got {len(data.names)} ({', '.join(data.names)})")
        if init_from is not None and data.num_future != init_from.preprocessor.num_future:
            known = init_from.preprocessor.future
            raise OptionError(f"future: expected {len(known)} columns, as the trained model, got {data.num_future}")
        count = max(0, len(data) - max(config.horizon, round(len(data) * config.val_fraction)))
        train = data.rows(count, len(data) - count)
        preprocessor = Preprocessor.fit(train, config)
        examples = preprocessor.examples(train, preprocessor.first_row)
        random.manual_seed(config.seed)
        model = ManyToOne(
            1 + len(data.names) + data.num_future * config.horizon,
            output_size=config.horizon * max(1, len(preprocessor.quantiles)),
            **config.recurrent(),
        )
        for parameter in model.head.parameters():
            parameter.data[...] = 0
        facts = {"sha256": fingerprint(data.values), "rows": len(data), "train_rows": count}
        task = cls(model, preprocessor, facts | config.subset("batch_size", "penalty", "val_fraction", "seed"))
        task.set_examples(np.full(len(examples), config.seq_length), config)
        task._examples, task._validation = examples, data.rows(count + max(MAX_EVAL_ROWS, config.horizon))
        task._weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        task._penalty = config.penalty / len(examples)
        log = " as logarithm" if preprocessor.log else ""
        task.summary = (
            f"{len(data):,} rows, {count:,} to train on; column {data.names[0]!r}{log}, season "
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
        metrics = self.metrics(self._validation, self._data["train_rows"])
        shown = [name for name in ("rmse", "mae", "pinball", "coverage") if name in metrics]
        return {"val_loss": metrics["loss"], **{name: metrics[name] for name in shown}}

    # ------------------------------------------------------------------------------------------------ use

    def metrics(self, series: Series, first: int) -> dict[str, float]:
        """Return how well the rows from ``first`` on are forecast, each window made of the true values before.

        Returns:
            ``loss``, the mean squared error in units of the spread; ``rmse`` and ``mae`` in units of the column; and
            both of forecasts that need no learning: ``base_`` of the baseline, ``persistence_`` of repeating the last
            value, ``seasonal_naive_`` of repeating the last season. Of quantiles, ``loss`` is the pinball loss in units
            of the spread, ``pinball`` that in units of the column, and ``coverage`` the fraction of values from the
            lowest to the highest quantile; ``rmse`` and ``mae`` are those of the middle one.
        """
        made = self.preprocessor
        examples = made.examples(series, first)
        x = examples.forecasts(self.model)
        column = series.values[:, 0]
        expected = windows(column[first - 1 :, None], 1, made.horizon)[1]
        found, more = made.values(x), dict[str, float]()
        if made.quantiles:
            scaled = ((x - examples.expected[:, :, None]) / made.spread[:, None], np.zeros_like(expected))
            loss = pinball_loss(*scaled, made.quantiles)
            inside = (found[:, :, 0] <= expected) & (expected <= found[:, :, -1])
            more = {"pinball": pinball_loss(found, expected, made.quantiles), "coverage": float(inside.mean())}
            found = made.middle(found)
        else:
            loss = float(np.mean(((x - examples.expected) / made.spread) ** 2))
        metrics = {
            "loss": loss,
            **more,
            "rmse": rmse(found, expected),
            "mae": mae(found, expected),
            "base_rmse": rmse(made.values(examples.base), expected),
        }
        for name, period in (("persistence", 1), ("seasonal_naive", made.season)):
            naive = naive_forecasts(column, first, made.horizon, period)
            metrics |= {f"{name}_rmse": rmse(naive, expected), f"{name}_mae": mae(naive, expected)}
        return metrics

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, with ``scored_rows``, how many rows were forecast, and ``first_row``, counted from 1.

        In a table that begins with the rows the model was made with, only the rows after them are scored; in exactly
        that table the validation set. In any other table, all rows that have a window and a season before them.
        """
        series, first = self._scored(sources)
        return self.metrics(series, first) | {"scored_rows": len(series) - first, "first_row": first + 1}

    def compare(self, sources: Sequence[str]) -> tuple[np.ndarray, int, dict[str, np.ndarray]]:
        """Return the true column [R], the first row that :meth:`measure` scores, and forecasts of the rows from it on.

        Those are ``forecast``, the model's, and the naive ones, ``persistence`` and, where there is a season,
        ``seasonal_naive``: one value for each row, in stretches of ``horizon`` rows, each forecast from the true rows
        before the stretch. Rows after the last whole stretch have none.
        """
        series, first = self._scored(sources)
        made, column = self.preprocessor, series.values[:, 0]
        found = {"forecast": made.values(made.examples(series, first).forecasts(self.model))}
        for name, period in {"persistence": 1, "seasonal_naive": made.season}.items():
            if name == "persistence" or period > 1:
                found[name] = naive_forecasts(column, first, made.horizon, period)
        return column, first, {name: rows[:: made.horizon].reshape(-1) for name, rows in found.items()}

    def _scored(self, sources: Sequence[str]) -> tuple[Series, int]:
        """The series, and its first row to score."""
        series = self._series(read_table(_only(sources)))
        rows = self._data["rows"]
        first = max(self.preprocessor.first_row, self.preprocessor.season)
        if len(series) >= rows and fingerprint(series.values[:rows]) == self._data["sha256"]:
            first = rows if len(series) > rows else self._data["train_rows"]
        horizon = self.preprocessor.horizon
        series.check_rows(first + horizon, f"{first} before those to score and {horizon} to forecast")
        return series, first

    def predict_lines(self, lines: Sequence[Line], options: None = None) -> list[Prediction]:
        """Return one prediction: the ``horizon`` values after the last row of a table, whose lines these are.

        Raises:
            DataError: the lines are no table with the model's columns, or too short a one; the last ``horizon`` rows
                are not those to forecast, where the model reads columns known in advance.
        """
        return [self._prediction(*self._text(_name(lines), "\n".join(line.text for line in lines)))]

    def predict_batches(self, batches: Iterable[Sequence[Line]], options: None = None) -> Iterator[list[Prediction]]:
        """Return the forecast after each row of a table whose lines arrive in batches, once there are enough rows.

        Each is that of :meth:`predict_lines` for the table up to this row, but a row is one line, and so is the text of
        a forecast: its values with tabs between them. The time it takes does not grow with the rows read before.
        """
        made, batches = self.preprocessor, iter(batches)
        self._refuse_future("predict: expected a table as a file")
        first = next(batches, [])
        name, x, enough = _name(first), np.empty((0, len(made.names))), False
        texts = ([line.text for line in batch] for batch in itertools.chain([first], batches))
        for table in read_batches(name, texts):
            x = np.concatenate([x, self.transformed(table)])
            if len(x) >= made.first_row:
                found = made.forecasts(x, self.model)
                yield [self._facts(steps, "\t".join(f"{value:.6g}" for value in steps.flat)) for steps in found]
                x, enough = x[len(x) - made.first_row + 1 :], True
        if not enough:
            self._check_rows(name, x)

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
        read = (
            self._text(name, normalize_newlines(one)) if isinstance(one, str) else self._numbers(name, one)
            for name, one in inputs.items()
        )
        return [self._prediction(*one) for one in read]

    def _text(self, name: str, text: str) -> tuple[str, np.ndarray, Callable[[int], str]]:
        series = self._series(parse_table(name, text), self.preprocessor.horizon * bool(self.preprocessor.future))
        return name, series.values, series.table.where

    def _numbers(self, name: str, input: Any) -> tuple[str, np.ndarray, Callable[[int], str]]:
        made = self.preprocessor
        values = check_columns(name, input, made.names, made.horizon if made.future else 0)
        return name, values, lambda row: f"{name}[{row}]"

    def _prediction(self, name: str, x: np.ndarray, where: Callable[[int], str]) -> Prediction:
        made, future = self.preprocessor, None
        if made.future:
            x, rows = x[: -made.horizon], x[-made.horizon :]
            future = rows[:, len(made.names) - made.num_future :]
            for row in np.flatnonzero(~np.isnan(rows[:, 0]) | np.isnan(future).any(1)):
                expected = f"the last {made.horizon} rows are to be forecast: expected {', '.join(made.future)}"
                raise DataError(f"{where(len(x) + int(row))}: {expected}, and nothing as {made.names[0]}")
        self._check_rows(name, x)
        x = _logarithm(x, made.names[0], where) if made.log else x
        steps = made.forecasts(x[-made.first_row :], self.model, future)[0]
        lines = ["\t".join(f"{value:.6g}" for value in row.flat) for row in steps]
        return self._facts(steps, "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1)))

    def _facts(self, steps: np.ndarray, text: str) -> Prediction:
        made = self.preprocessor
        quantiles = dict(zip(map(str, made.quantiles), steps.T.tolist(), strict=False))
        more = {"quantiles": quantiles} if quantiles else {}
        return Prediction(text, {"column": made.names[0], "horizon": made.middle(steps).tolist(), **more})

    def _check_rows(self, name: str, x: np.ndarray) -> None:
        if len(x) < self.preprocessor.first_row:
            needed = f"expected at least {self.preprocessor.first_row} rows, to forecast from"
            raise DataError(f"{name}: {needed}, got {len(x)}")

    def transformed(self, table: Table) -> np.ndarray:
        """Return the model's columns of a table, rows x [R, C] as :meth:`Series.transformed` gives them."""
        return self._series(table).transformed(self.preprocessor.log)

    def _series(self, table: Table, empty: int = 0) -> Series:
        made = self.preprocessor
        return Series.of(table, made.names[0], made.names[1 : len(made.names) - made.num_future], made.future, empty)

    def _refuse_future(self, message: str) -> None:
        """Raise an :class:`OptionError` where the model reads columns known in advance."""
        if known := self.preprocessor.future:
            raise OptionError(f"{message}, for the model reads columns known in advance: {', '.join(known)}")

    def initial_state(self) -> np.ndarray:
        self._refuse_future("step: expected a model that reads the past alone; use predict")
        return np.empty((0, len(self.preprocessor.names)))

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
        return made.middle(made.forecasts(rows, self.model)[0]).tolist() if len(rows) == made.first_row else None, rows


def _name(lines: Sequence[Line]) -> str:
    """Where the lines come from."""
    where = lines[0].where if lines else "standard input"
    return where.rpartition(":")[0] or where


def _only(sources: Sequence[str]) -> str:
    if len(sources) != 1:
        raise OptionError(f"a forecaster reads one table at a time, got {len(sources)}")
    return sources[0]
