"""Windows of series as a network reads them, and its outputs as forecasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minirnn.data.forecasting import (
    Base,
    Series,
    base_forecasts,
    choose_base,
    grows_with_level,
    long_enough,
    parse_quantiles,
    seasonal_period,
    select_series,
)
from minirnn.data.tables import Scaler, Table
from minirnn.errors import DataError

_MAX_LOG = 700.0  # e^709 is the largest double


@dataclass(frozen=True, eq=False)
class Examples:
    """N windows and what comes after them; no window reaches from one series into another.

    Attributes:
        z: [R, C] scaled rows of all series. rows: [N] the row of z after each window. seq_length: L rows in a window.
        base, expected: [N, h] baseline forecasts, and the values that followed.
        spread: [N, h] see :class:`Preprocessor`.
        num_future: how many of the columns, the last ones, are known in advance.
    """

    z: np.ndarray
    rows: np.ndarray
    seq_length: int
    base: np.ndarray
    expected: np.ndarray
    spread: np.ndarray
    num_future: int

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Return the windows of all parts, one after another."""
        starts = np.cumsum([0, *(len(part.z) for part in parts)])
        rows = np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=False)])
        z, base, expected, spread = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("z", "base", "expected", "spread")
        )
        return cls(z, rows, parts[0].seq_length, base, expected, spread, parts[0].num_future)

    def __len__(self) -> int:
        return len(self.rows)

    def inputs(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Return the model's inputs [L, n, 1 + C + F h] of some windows."""
        rows = self.rows[numbers]
        z = self.z[rows + np.arange(-self.seq_length, 0)[:, None]]
        later = self.z[:, self.z.shape[1] - self.num_future :][rows[:, None] + np.arange(self.base.shape[1])]
        future = np.tanh(later.swapaxes(1, 2).reshape(len(rows), -1) / 2)
        future = np.broadcast_to(future, (len(z), *future.shape))
        return np.concatenate([z[:, :, :1] - z[-1:, :, :1], np.tanh(z / 2), future], axis=2)

    def targets(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Return the outputs [n, h] that would make the forecasts right."""
        return (self.expected[numbers] - self.base[numbers]) / self.spread[numbers]

    def forecasts(self, outputs: np.ndarray) -> np.ndarray:
        """Return x [N, h] as the model's outputs [N, h] say it; [N, h, Q] of quantiles, whose outputs are [N, h Q].

        Quantiles that cross are put in order, which never makes them worse (Chernozhukov, Fernández-Val & Galichon
        2010, "Quantile and probability curves without crossing").
        """
        y = outputs.astype(np.float64)
        if y.shape == self.base.shape:
            return self.base + self.spread * y
        y = np.sort(y.reshape(*self.base.shape, -1), 2)
        return self.base[:, :, None] + self.spread[:, :, None] * y


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Turns series into inputs of the model, and outputs of the model into forecasts; fitted on training rows only.

    With z the columns scaled to mean 0 and standard deviation 1 (after the logarithm, where it is taken), the inputs
    of a window of L rows are z[t] - z[L] of the column to forecast, and tanh(z[t] / 2) of every column: the level,
    which stays in the range seen in training however far the series grows; and, the same for all rows of the window,
    tanh(z / 2) of the columns known in advance in the h rows after it. The output o_k of the model means ::

        x[t+k] = base[t+k] + spread_k o_k

    A model of Q quantiles has an output for each, [h Q].

    Of a model of many series, mean and standard deviation of the column to forecast are those of each series' own past:
    the rows before the first one that is forecast. So a small series counts as much as a large one, and a series that
    training never saw has a scale too (Salinas et al. 2020, "DeepAR", section 3.3). The other columns, which mean the
    same in every series, have one scale, that of the training set.

    Attributes:
        column, inputs, future: names of columns: the one to forecast, others, and others that are known in advance.
        seq_length: L rows in a window. horizon: h steps to forecast at once.
        season: in rows, 1 where there is none. base: see :func:`base_forecasts`. log: x is the logarithm of the column.
        scaler: of the columns; where each series has its own scale, the column to forecast has mean 0, and the median
            of all standard deviations, which is that of a series that has not changed yet.
        spread: [h] root mean squared errors of the baseline on the training rows, in units of a series' own scale
            where it has one.
        quantiles: Q increasing numbers between 0 and 1, or none.
        id: the column of tables that names a series, None where a table is one.
    """

    column: str
    inputs: tuple[str, ...]
    seq_length: int
    horizon: int
    season: int
    base: Base
    log: bool
    scaler: Scaler
    spread: np.ndarray
    quantiles: tuple[float, ...] = ()
    future: tuple[str, ...] = ()
    id: str | None = None

    @classmethod
    def fit(
        cls,
        series: Sequence[Series],
        seq_length: int,
        horizon: int = 1,
        season: int | None = None,
        base: Base | None = None,
        log: bool | None = None,
        quantiles: tuple[float, ...] = (),
        id: str | None = None,
    ) -> tuple[Self, list[Series]]:
        """Fit to the past of series, and return the preprocessor, and those that are long enough to train on.

        Season, base and log are chosen by what is best on the past where they are None: the season that most series
        have, logarithms where the spread of most grows with the level, and all values are above 0.

        Raises:
            DataError: there are too few rows, or a value has no logarithm.
        """
        if season is None:
            season = Counter(seasonal_period(one.past.values[:, 0]) for one in series).most_common(1)[0][0]
        first = max(seq_length, season + 1)
        purpose = f" before the validation set, to train on ({first} to look at, {horizon} to forecast)"
        series = long_enough(series, [first + horizon] * len(series), purpose)
        pasts = [one.past for one in series]
        if log is None:
            grow = [grows_with_level(one.values[:, 0], season) for one in pasts]
            log = 2 * sum(grow) > len(grow) and all(one.values[:, 0].min() > 0 for one in pasts)
        columns = [one.transformed(log) for one in pasts]
        scaler = Scaler.fit(np.concatenate(columns))
        if id is not None:
            scaler.mean[0], scaler.std[0] = 0, np.median([np.std(x[:, 0]) for x in columns if np.ptp(x[:, 0])] or 1)
        unit = scaler.std[0] if id is None else 1
        (column, *inputs), future = series[0].names, series[0].future
        known = column, tuple(inputs[: len(inputs) - len(future)]), seq_length, horizon, season, base or "last", log
        made = cls(*known, scaler, np.ones(horizon), quantiles, future, id)
        if base is None:
            scaled = [made.of(x).scaler.apply(x)[:, 0] for x in columns]
            made = replace(made, base=choose_base(scaled, horizon, season))
        targets = [made.of(x).cut(x, made.first_row).targets(slice(None)) for x in columns]
        errors = np.sqrt(np.mean(np.concatenate(targets) ** 2, axis=0))
        spread = np.where(errors > 1e-9 * unit, errors, unit)  # a baseline without errors
        return replace(made, spread=spread), series

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, the one to forecast first, those known in advance last."""
        return (self.column, *self.inputs, *self.future)

    @property
    def first_row(self) -> int:
        """The first row that can be forecast: so many must come before it."""
        return max(self.seq_length, {"last": 1, "season": self.season, "trend": self.season + 1}[self.base])

    @property
    def num_known(self) -> int:
        """How many rows after the past a table to forecast from has, for the columns known in advance."""
        return self.horizon if self.future else 0

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Return the columns known in advance [R, F] of rows [R, C]."""
        return rows[:, 1 + len(self.inputs) :]

    def select(self, table: Table, num_empty: int = 0) -> list[Series]:
        """Return the series of a table that the model reads, see :func:`select_series`."""
        return select_series(table, self.column, self.inputs, self.future, self.id, num_empty)

    def of(self, past: np.ndarray) -> Self:
        """Return the preprocessor of a series with these rows x [R, C]: with its own scale, where each has its own."""
        if self.id is None:
            return self
        own, mean, std = Scaler.fit(past[:, :1]), self.scaler.mean.copy(), self.scaler.std.copy()
        mean[0] = own.mean[0]
        if np.ptp(past[:, 0]):
            std[0] = own.std[0]
        return replace(self, scaler=Scaler(mean, std), spread=self.spread * std[0])

    def examples(self, series: Iterable[Series]) -> Examples:
        """Return all windows whose forecasts are among the rows to forecast, scaled by the rows before these."""
        pairs = [(one.transformed(self.log), one.first) for one in series]
        return Examples.join([self.of(x[:first]).cut(x, first) for x, first in pairs])

    def cut(self, x: np.ndarray, first: int) -> Examples:
        """Return all windows of rows x [R, C], see :meth:`Series.transformed`, with forecasts at ``first`` or later."""
        base = base_forecasts(x[:, 0], first, self.horizon, self.base, self.season)
        expected = sliding_window_view(x[first:, 0], self.horizon)
        rows, spread = np.arange(first, first + len(base)), np.broadcast_to(self.spread, base.shape)
        return Examples(self.scaler.apply(x), rows, self.seq_length, base, expected, spread, len(self.future))

    def next_windows(self, x: np.ndarray, future: np.ndarray | None = None) -> Examples:
        """Return the windows after which values are not known yet, one for each row but the first ones.

        Args:
            x: [R, C] at least :attr:`first_row` rows, see :meth:`Series.transformed`.
            future: [h, F] the columns known in advance in the rows after them, of a model that reads some.
        """
        unknown = np.repeat(x[-1:], self.horizon, axis=0)  # in place of the rows to come; nothing else is read
        if future is not None:
            self.known(unknown)[:] = future
        return self.cut(np.concatenate([x, unknown]), self.first_row)

    def middle(self, found: np.ndarray) -> np.ndarray:
        """Return the middle one [..., h] of the quantiles [..., h, Q]; forecasts of the mean as they are."""
        return found[..., len(self.quantiles) // 2] if self.quantiles else found

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return forecasts in the column's own units."""
        return np.exp(np.minimum(x, _MAX_LOG)) if self.log else x

    def to_config(self) -> dict[str, Any]:
        """Return a description for JSON."""
        names = ("column", "seq_length", "horizon", "season", "base", "log")
        arrays = {"scaler": self.scaler.to_config(), "spread": self.spread.tolist(), "inputs": list(self.inputs)}
        optional = {"quantiles": list(self.quantiles), "future": list(self.future), "id": self.id}
        config = {name: getattr(self, name) for name in names} | arrays
        return config | {name: value for name, value in optional.items() if value}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make one of what :meth:`to_config` described.

        Raises:
            DataError: it does not describe one.
        """
        lists = {name: tuple(config.get(name, ())) for name in ("inputs", "future", "quantiles")}
        arrays = {"scaler": Scaler.from_config(config["scaler"]), "spread": np.array(config["spread"], np.float64)}
        made = cls(**config | lists | arrays)
        sizes = (made.seq_length, made.horizon, made.season)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or made.base not in get_args(Base):
            raise DataError(f"series: expected lengths above 0 and a base of {', '.join(get_args(Base))}")
        count, spread = len(made.names), made.spread
        if len(made.scaler.mean) != count or spread.shape != (made.horizon,) or not (spread > 0).all():
            raise DataError(f"series: expected {count} scales of columns and {made.horizon} spreads of steps")
        if made.quantiles:
            parse_quantiles(",".join(map(str, made.quantiles)))
        return made
