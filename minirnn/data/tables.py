"""Tables of numbers and series over time: reading, scaling, windows, and forecasts that need no model."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError, OptionError, ShapeError

_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Table:
    """A table with a header; cells become numbers when :meth:`columns` asks for them.

    Attributes:
        name: of the file.
        header: the names of the columns.
        rows: R, the header not counted.
        delimiter: what stands between two cells.
    """

    name: str
    header: tuple[str, ...]
    rows: int
    delimiter: str
    _text: str = field(repr=False)

    def __len__(self) -> int:
        return self.rows

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of C columns, float64 [R, C], in the order of ``names``.

        Raises:
            DataError: there is no such column; a cell of it is empty, not a number, NaN or infinite.
        """
        for name in names:
            if name not in self.header:
                there = ", ".join(map(repr, self.header))
                raise DataError(f"{self.name}: no column {name!r}; there are {there}")
        expected = [self.header.index(name) for name in names]
        numbers = np.empty((self.rows, len(expected)))
        for row, (line, record) in enumerate(_rows(self.name, self._text, self.delimiter)):
            for place, column in enumerate(expected):
                number = _number(record[column])
                if not math.isfinite(number):
                    cell = record[column].strip()
                    got = f"got {cell!r}" if cell else "the cell is empty"
                    here = f"{self.name}:{line}: column {self.header[column]!r}"
                    raise DataError(f"{here}: expected a finite number, {got}")
                numbers[row, place] = number
        return numbers

    def last_number(self) -> str:
        """The name of the last column whose first cell is a number.

        Raises:
            DataError: there is none.
        """
        _, record = next(_rows(self.name, self._text, self.delimiter))
        for name, cell in zip(reversed(self.header), reversed(record), strict=True):
            if math.isfinite(_number(cell)):
                return name
        raise DataError(f"{self.name}: no column holds numbers; there are {', '.join(map(repr, self.header))}")

    def where(self, row: int) -> str:
        """File and line of a row, counted from 0: ``series.csv:17``."""
        line, _ = next(islice(_rows(self.name, self._text, self.delimiter), row, None))
        return f"{self.name}:{line}"


def read_table(source: str) -> Table:
    """A CSV file (RFC 4180) with a header; comma, semicolon or tab between cells, whichever parts the header most.

    Args:
        source: a file; ``-`` is standard input.

    Raises:
        DataError: the source cannot be read or is not UTF-8; there is no header, or no row below it; two columns
            have one name; a row has more or fewer cells than the header, or a quote that does not end.
    """
    name, data = read_sources([source])[0]
    return parse_table(name, decode_text(data, name))


def parse_table(name: str, text: str) -> Table:
    """As :func:`read_table`, from text that was read before; ``name`` says where, for errors."""
    delimiter = max(_DELIMITERS, key=lambda each: _width(text, each))
    _, cells = next(_records(name, text, delimiter), (1, []))
    header = tuple(cell.strip() for cell in cells)
    if not any(header):
        raise DataError(f"{name}:1: expected a header with the names of the columns, got an empty line")
    for column in header:
        if header.count(column) > 1:
            raise DataError(f"{name}:1: {header.count(column)} columns are called {column!r}")
    if all(not math.isnan(_number(cell)) for cell in header):
        raise DataError(f"{name}:1: expected a header with the names of the columns, got numbers")
    rows = sum(1 for _ in _rows(name, text, delimiter))
    if not rows:
        raise DataError(f"{name}: no row below the header")
    return Table(name, header, rows, delimiter, text)


def _records(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every record with the line it begins on; a quoted cell may go over several."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for record in reader:
            yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}:{line}: {error}; is there a quote that does not end?") from None


def _rows(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records below the header, all of the same width; blank lines only at the end."""
    records = _records(name, text, delimiter)
    width, blank = len(next(records)[1]), 0
    for line, record in records:
        if not any(record) and len(record) < 2:
            blank = blank or line
            continue
        if blank:
            raise DataError(f"{name}:{blank}: empty line")
        if len(record) != width:
            raise DataError(f"{name}:{line}: expected {width} columns as in the header, got {len(record)}")
        yield line, record


def _width(text: str, delimiter: str) -> int:
    try:
        return len(next(_records("", text, delimiter), (1, []))[1])
    except DataError:
        return 0


def _number(cell: str) -> float:
    """The number in a cell, NaN where there is none; an underscore, which Python allows in numbers, makes text."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


@dataclass(frozen=True, eq=False)
class Scaler:
    """Every column to mean 0 and standard deviation 1: ``z = (x - mean) / std``.

    Fit it on the training set only: whatever is known of later rows would help to forecast them.

    Attributes:
        mean: [C].
        std: [C], 1 for a column that never changes.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, series: np.ndarray) -> Scaler:
        """From rows [R, C].

        Raises:
            DataError: there is no row, or a number is not finite or too large.
        """
        _check_series("Scaler.fit", series)
        if not len(series):
            raise DataError("Scaler.fit: expected at least one row, got none")
        x = series.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            spread = x.max(0) - x.min(0)
            unit = np.where(spread > 0, spread, 1.0)
            shifted = (x - x.min(0)) / unit  # squares of x itself could overflow, and equal x have a rounded mean
            mean, std = x.min(0) + shifted.mean(0) * unit, shifted.std(0) * unit
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise DataError("Scaler.fit: the series holds NaN, infinity, or numbers too large to scale")
        return cls(mean, np.where(std > 0, std, 1.0))

    def apply(self, series: np.ndarray, column: int | None = None) -> np.ndarray:
        """Scaled [..., C]; with ``column``, an array of any shape whose numbers are all of that column."""
        mean, std = self._of("apply", series, column)
        return (series - mean) / std

    def undo(self, scaled: np.ndarray, column: int | None = None) -> np.ndarray:
        """Back from :meth:`apply`, with the same ``column``."""
        mean, std = self._of("undo", scaled, column)
        return scaled * std + mean

    def _of(self, name: str, series: np.ndarray, column: int | None) -> tuple[Any, Any]:
        if column is not None:
            return self.mean[column], self.std[column]
        if series.ndim == 0 or series.shape[-1] != len(self.mean):
            raise ShapeError(f"Scaler.{name}: expected [..., {len(self.mean)}], got {list(series.shape)}")
        return self.mean, self.std

    def to_config(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaler:
        """What ``to_config`` described.

        Raises:
            DataError: it does not describe one.
        """
        try:
            mean, std = (np.array(config[key], np.float64) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            raise DataError("Scaler.from_config: expected the numbers 'mean' and 'std' of every column") from None
        if mean.ndim != 1 or mean.shape != std.shape or not (np.isfinite(mean) & np.isfinite(std) & (std > 0)).all():
            raise DataError("Scaler.from_config: expected finite means and as many standard deviations above 0")
        return cls(mean, std)


def windows(
    series: np.ndarray, seq_length: int, horizon: int = 1, target: int = 0
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Every stretch of L rows, and what one column does in the h rows after it.

    Window i holds the rows i to i+L-1, its targets are of the rows i+L to i+L+h-1; so no window sees a row it has
    to forecast. The arrays are read-only views of ``series``: a batch of windows is ``inputs[:, numbers]``.

    Args:
        series: [R, C].
        seq_length: L rows a window.
        horizon: h rows to forecast.
        target: the column to forecast.

    Returns:
        inputs [L, N, C] and targets [N, h] for the N = R-L-h+1 windows.

    Raises:
        DataError: there are fewer than L+h rows.
    """
    _check_series("windows", series)
    _check_least("windows", seq_length=seq_length, horizon=horizon)
    rows, columns = series.shape
    if not 0 <= target < columns:
        raise OptionError(f"windows: target must be a column from 0 to {columns - 1}, got {target}")
    if rows < seq_length + horizon:
        raise DataError(
            f"expected at least {seq_length + horizon} rows ({seq_length} to look at, {horizon} to forecast), got {rows}"
        )
    inputs = sliding_window_view(series[: rows - horizon], seq_length, axis=0).transpose(2, 0, 1)
    return inputs, sliding_window_view(series[seq_length:, target], horizon)


def naive_forecasts(values: np.ndarray, first: int, horizon: int = 1, period: int = 1) -> np.ndarray:
    """Forecasts that repeat what was there: a model should beat them.

    The forecast of row t+k from row t is ``values[t + k - period * ceil(k / period)]``: the value of the same
    season of the last cycle (Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", 3rd ed., section
    5.2); with period 1 it is the last value (persistence).

    Args:
        values: [R] one column.
        first: the first row to forecast; the rows before it are known.
        horizon: h rows to forecast from each row.
        period: rows in a season.

    Returns:
        [N, h] for the N = R-first-h+1 targets of ``windows(series[first - L :], L, h)``.

    Raises:
        DataError: fewer than ``period`` rows are known, or fewer than ``horizon`` are left.
    """
    _check_values("naive_forecasts", values)
    _check_least("naive_forecasts", first=first, horizon=horizon, period=period)
    if first < period:
        raise DataError(f"naive_forecasts: expected at least one season of {period} rows before row {first}")
    count = len(values) - first - horizon + 1
    if count < 1:
        left = max(0, len(values) - first)
        raise DataError(f"naive_forecasts: expected at least {horizon} rows from row {first} on, got {left}")
    steps = np.arange(1, horizon + 1)
    return values[first - 1 + np.arange(count)[:, None] + steps - period * -(-steps // period)]


def season_of(values: np.ndarray) -> int:
    """The season's length in rows, as autocorrelation shows it; 1 where it shows none.

    It is the lag of the highest peak of the autocorrelation r, from where r first is below 0 to K = R/3, of the
    values less their linear trend, or should that show none, of their differences. The peak must stand out of chance:
    above ``sqrt(2 ln(2K) v)``, about the largest of 2K normal deviates, with Bartlett's variance at lag k
    ``v = (1 + 2 sum r[j]**2) (R - k) / R**2`` over the lags j up to where r first is below 0 (Box, Jenkins & Reinsel,
    "Time Series Analysis", 3rd ed., section 2.1.6). Multiples of a season are peaks too; of those that chance could
    have made higher, the shortest counts.

    Args:
        values: [R] the training set of one column.
    """
    _check_values("season_of", values)
    top = len(values) // 3
    if top < 2:
        return 1
    x = values / (np.abs(values).max() or 1.0)
    x = x - x.mean()
    steps = np.arange(len(x)) - (len(x) - 1) / 2
    for changes in (x - steps * (steps @ x / (steps @ steps)), np.diff(x)):
        changes = changes - changes.mean()
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


def _check_series(name: str, series: np.ndarray) -> None:
    if series.ndim != 2:
        raise ShapeError(f"{name}: expected a series [R, C], got {list(series.shape)}")


def _check_values(name: str, values: np.ndarray) -> None:
    if values.ndim != 1:
        raise ShapeError(f"{name}: expected values [R], got {list(values.shape)}")


def _check_least(name: str, **options: int) -> None:
    for option, value in options.items():
        if value < 1:
            raise OptionError(f"{name}: {option} must be at least 1, got {value}")
