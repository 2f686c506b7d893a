"""Series to forecast: columns of tables, their season, and forecasts that need no learning."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minirnn.data.tables import Table, parse_number
from minirnn.errors import DataError, OptionError, ShapeError

Base = Literal["last", "season", "trend"]

_CLEARLY_BETTER = 0.5  # factor of a squared error or variation
_STRETCH_ROWS, _MIN_STRETCHES = 12, 4  # for measuring how a spread changes
_MAX_SHOWN = 10  # series in a message

logger = logging.getLogger("minirnn")


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


# ------------------------------------------------------------------------------------------------------ series


@dataclass(frozen=True, eq=False)
class Series:
    """One series, rows in the order of time.

    Attributes:
        name: what it was read from. names: of the C columns, the one to forecast first.
        values: [R, C]. where: gives the place of a row, for messages.
        future: the last of the names, those of columns known in advance.
        id: its name where a table has several series, else None.
        num_later: rows at the end that are to be forecast; those before are the past.
    """

    name: str
    names: tuple[str, ...]
    values: np.ndarray = field(repr=False)
    where: Callable[[int], str] = field(repr=False)
    future: tuple[str, ...] = ()
    id: str | None = None
    num_later: int = 0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> int:
        """The first row that is to be forecast."""
        return len(self) - self.num_later

    @property
    def past(self) -> Series:
        """The rows before those to forecast."""
        return replace(self, values=self.values[: self.first], num_later=0)

    def split(self, first: int, count: int | None = None) -> Series:
        """Return the series with ``count`` rows from ``first`` on as those to forecast, all that there are where None.

        Rows after them are left out.
        """
        values = self.values if count is None else self.values[: first + count]
        return replace(self, values=values, num_later=len(values) - first)

    def transformed(self, log: bool) -> np.ndarray:
        """Return the values x [R, C], with ``log`` the first column as logarithm.

        Raises:
            DataError: a value has no logarithm; says where.
        """
        if not log:
            return self.values
        column = self.values[:, :1]
        if column.min(initial=1) <= 0:
            row = int(np.argmax(column[:, 0] <= 0))
            raise DataError(
                f"{self.where(row)}: column {self.names[0]!r}: expected a number above 0, since the model takes "
                f"logarithms (unless it is trained with log=False), got {column[row, 0]:g}"
            )
        return np.concatenate([np.log(column), self.values[:, 1:]], axis=1)

    def targets(self, horizon: int) -> np.ndarray:
        """Return the values [N, h] to forecast from each row, for the N = num_later - h + 1 rows before."""
        return sliding_window_view(self.values[self.first :, 0], horizon)


def select_series(
    table: Table,
    column: str | None = None,
    inputs: Sequence[str] = (),
    future: Sequence[str] = (),
    id: str | None = None,
    num_empty: int = 0,
) -> list[Series]:
    """Return columns of a table as series: one, or with ``id`` one for each of the names in that column.

    Args:
        column: the one to forecast; the last one that holds numbers where None.
        inputs, future: others, and others that are known in advance; names that contain commas, but are not columns,
            are several.
        num_empty: so many rows at the end of each series may have empty cells, which are NaN.

    Raises:
        DataError: there is no such column, or a cell of it is not a finite number; an id comes back after another.
            Says where.
        OptionError: a column is named twice.
    """
    others = [table.names(given) for given in (inputs, future)]
    names = (table.last_number(id) if column is None else column, *others[0], *others[1])
    for name in names:
        if [*names, id].count(name) > 1:
            raise OptionError(f"column {name!r} is named twice; the column to forecast is always an input")
    groups = table.groups(id)
    empty = np.zeros(len(table), bool)
    for *_, start, stop in groups:
        empty[max(start, stop - num_empty) : stop] = True
    values = table.columns(names, empty)
    found = []
    for name, _, start, stop in groups:
        where = partial(table.where, start=start)
        found.append(Series(table.name, names, values[start:stop], where, others[1], name if id is not None else None))
    return found


def long_enough(series: Sequence[Series], minimums: Sequence[int], purpose: str) -> list[Series]:
    """Return the series whose past has as many rows as it needs, and log one warning that names the others.

    Raises:
        DataError: it is none of them.
    """
    pairs = list(zip(series, minimums, strict=True))
    found = [one for one, minimum in pairs if one.first >= minimum]
    if not found:
        one, minimum = max(pairs, key=lambda pair: pair[0].first - pair[1])
        got = f"{one.first}{f' of {len(one)}' if one.num_later else ''}"
        got += "" if one.id is None else f" in {one.id!r:.80}, the longest of {len(series)} series"
        raise DataError(f"{one.name}: expected at least {minimum} rows{purpose}, got {got}")
    if len(found) < len(series):
        short = [f"{one.id!r:.80} ({one.first} of {minimum})" for one, minimum in pairs if one.first < minimum]
        shown = ", ".join(short[:_MAX_SHOWN]) + ", ..." * (len(short) > _MAX_SHOWN)
        left_out = f"{len(short):,} of {len(series):,} series, which have too few rows{purpose}"
        logger.warning("%s: left out %s: %s", series[0].name, left_out, shown)
    return found


# ------------------------------------------------------------------------------------------ without learning


def base_forecasts(values: np.ndarray, first: int, horizon: int, base: str, season: int) -> np.ndarray:
    """Return baseline forecasts [N, h] of one column [R], from row ``first`` on, each from the rows before it.

    With m rows in a season, the forecast of x[t+k] from the rows up to t is ::

        last      x[t]
        season    x[t + k - c m],  c = ceil(k / m)
        trend     x[t + k - c m] + c (x[t] - x[t - m])

    The second is the seasonal-naive forecast (Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", 3rd
    ed., section 5.2). The last one lets every season change as much as the latest rows have since a season ago: an
    ARIMA (0,1,0)(0,1,0)_m without noise (Box & Jenkins 1976, chapter 9).

    N = R - first - h + 1, and ``first`` is at least m, with a trend m + 1.
    """
    period = 1 if base == "last" else season
    steps = np.arange(1, horizon + 1)
    cycles = -(-steps // period)
    rows = np.arange(first - 1, len(values) - horizon)[:, None]
    found = values[rows + steps - period * cycles]
    return found + cycles * (values[rows] - values[rows - season]) if base == "trend" else found


def choose_base(columns: Sequence[np.ndarray], horizon: int, season: int) -> Base:
    """Return the baseline with the smallest error on scaled columns [R], "last" unless another halves its square.

    A season in the baseline brings the noise of older values with it, so it must clearly pay.
    """
    first = season + 1
    columns = [values for values in columns if len(values) - first - horizon + 1 >= season]
    if not columns:
        return "last"
    errors = {}
    for base in get_args(Base):
        parts = [
            base_forecasts(values, first, horizon, base, season) - sliding_window_view(values[first:], horizon)
            for values in columns
        ]
        errors[base] = float(np.mean(np.concatenate(parts) ** 2))
    best = min(errors, key=lambda base: errors[base])
    return best if errors[best] <= _CLEARLY_BETTER * errors["last"] else "last"


def grows_with_level(values: np.ndarray, season: int) -> bool:
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


def seasonal_period(values: np.ndarray) -> int:
    """The number of rows per season, found by autocorrelation; 1 where there is none.

    It is the lag of the highest peak of the autocorrelation r, from where r first is below 0 to K = R/3, of the
    values without their linear trend, or where that has none, of their differences. The peak must be significant:
    above ``sqrt(2 ln(2K) v)``, about the largest of 2K normal deviates, with Bartlett's variance at lag k
    ``v = (1 + 2 sum r[j]**2) (R - k) / R**2`` over the lags j up to where r first is below 0 (Box, Jenkins & Reinsel,
    "Time Series Analysis", 3rd ed., section 2.1.6). Multiples of a season are peaks too; the shortest is returned of
    those that are higher only by chance. ``values`` is the training set of one column [R].
    """
    if values.ndim != 1:
        raise ShapeError(f"seasonal_period: expected values [R], got {list(values.shape)}")
    top = len(values) // 3
    if top < 2:
        return 1
    x = values / (np.abs(values).max() or 1.0)
    x = x - x.mean()
    steps = np.arange(len(x)) - (len(x) - 1) / 2
    for changes in (x - steps * (steps @ x / (steps @ steps)), np.diff(x)):
        changes -= changes.mean()
        if np.abs(changes).max() <= 1e-12:  # nothing but rounding
            continue
        r = _autocorrelation(changes)[: top + 2]
        below = np.flatnonzero(r[: top + 1] < 0)
        if not below.size:
            continue
        short = r[1 : below[0] + 1]
        lags = np.arange(max(2, below[0]), min(top, len(r) - 2) + 1)
        chance = np.sqrt(2 * math.log(2 * top) * (1 + 2 * (short @ short)) * (len(x) - lags)) / len(x)
        peak = (r[lags] > r[lags - 1]) & (r[lags] >= r[lags + 1]) & (r[lags] > chance)
        if peak.any():
            best = max(lags[peak], key=lambda lag: r[lag])
            return int(min(k for k in lags[peak] if best % k == 0 and r[k] >= r[best] - 2 / math.sqrt(len(x))))
    return 1


def _autocorrelation(x: np.ndarray) -> np.ndarray:
    """r[k] = sum_t x[t] x[t+k] / sum_t x[t]**2 for every lag k, by Fourier transform, padded against wrapping."""
    spectrum = np.fft.rfft(x, 2 * len(x))
    return np.fft.irfft(np.abs(spectrum) ** 2, 2 * len(x))[: len(x)] / (x @ x)
