"""Read CSV tables; scale series, cut them into windows, and forecast without a model."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError, ShapeError
from minirnn.validation import check_int

_DELIMITERS = (",", ";", "\t")
_NO_HEADER = "expected a header with the names of the columns"


@dataclass(frozen=True)
class Table:
    """A table with a header; cells become numbers when :meth:`columns` asks for them.

    Attributes:
        name, header: of the file; the names of the columns.
        rows, delimiter: R, the header not counted; the character between two cells.
    """

    name: str
    header: tuple[str, ...]
    rows: int
    delimiter: str
    _text: str = field(repr=False)
    _skipped: int = 0  # lines between the header and the rows

    def __len__(self) -> int:
        return self.rows

    def columns(self, names: Sequence[str], empty: int = 0) -> np.ndarray:
        """The numbers of C columns, float64 [R, C], in the order of ``names``.

        In the last ``empty`` rows a cell may be empty; it is NaN.

        Raises:
            DataError: there is no such column; a cell of it is empty, not a number, NaN or infinite.
        """
        numbers = np.empty((self.rows, len(names)))
        for row, (line, cells) in enumerate(self.cells(names)):
            numbers[row] = [parse_number(cell) for cell in cells]
            for name, cell, number in zip(names, cells, numbers[row], strict=True):
                if not math.isfinite(number) and (cell or row < self.rows - empty):
                    got = f"got {cell!r}" if cell else "the cell is empty"
                    raise DataError(f"{self.name}:{line}: column {name!r}: expected a finite number, {got}")
        return numbers

    def cells(self, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """The line and the cells of C columns, as text, of every row; a :class:`DataError` if there is no such column.

        White space around a cell is no part of it.
        """
        for name in names:
            if name not in self.header:
                raise DataError(f"{self.name}: no column {name!r}; there are {', '.join(map(repr, self.header))}")
        columns = [self.header.index(name) for name in names]
        return ((line, [cells[column].strip() for column in columns]) for line, cells in self._rows())

    def last_number(self) -> str:
        """The name of the last column whose first cell is a finite number; a :class:`DataError` if there is none."""
        _, cells = next(self._rows())
        for name, cell in zip(reversed(self.header), reversed(cells), strict=True):
            if math.isfinite(parse_number(cell)):
                return name
        raise DataError(f"{self.name}: no column holds numbers; there are {', '.join(map(repr, self.header))}")

    def where(self, row: int) -> str:
        """File and line of a row, counted from 0: ``series.csv:17``."""
        line, _ = next(islice(self._rows(), row, None))
        return f"{self.name}:{line}"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        return _rows(self.name, self._text, self.delimiter, self._skipped)


def read_table(source: str) -> Table:
    """Read a CSV file (RFC 4180; ``-`` is standard input) with a header, and commas, semicolons or tabs between cells.

    Raises:
        DataError: the source cannot be read or is not UTF-8; there is no header, or no row below it; two columns
            have one name; a row has more or fewer cells than the header; a quote does not end.
    """
    name, data = read_sources([source])[0]
    return parse_table(name, decode_text(data, name))


def parse_table(name: str, text: str) -> Table:
    """As :func:`read_table`, from the text of a file; the delimiter is the one that makes the most columns."""
    header, delimiter = _header(name, text)
    rows = sum(1 for _ in _rows(name, text, delimiter))
    if not rows:
        raise DataError(f"{name}: no row below the header")
    return Table(name, header, rows, delimiter, text)


def read_batches(name: str, batches: Iterable[Sequence[str]]) -> Iterator[Table]:
    """Read a table whose lines arrive in batches: as soon as a batch has arrived, a table of its rows alone.

    Raises:
        DataError: as :func:`parse_table` for all lines; a row is more than one line.
    """
    lines, read, found = list[str](), 0, False  # lines to read, those before
    for batch in batches:
        lines += batch
        if lines and not read:
            first, *lines = lines
            header, delimiter = _header(name, first)
            read = 1
        end = max((n for n, line in enumerate(lines, 1) if line.strip(' "')), default=0)  # blank lines may be the last
        if end:
            text = "\n".join([first, *lines[:end]])
            numbers = [number for number, _ in _rows(name, text, delimiter, read - 1)]
            if len(numbers) < end:
                after = next((n for n, number in enumerate(numbers, read + 1) if n != number), read + len(numbers) + 1)
                raise DataError(f"{name}:{after - 1}: expected rows of one line; give others as a file")
            yield Table(name, header, end, delimiter, text, read - 1)
            found = True
        read, lines = read + end, lines[end : end + 1]
    if not found:
        parse_table(name, first if read else "")


def check_columns(name: str, input: ArrayLike, columns: Sequence[str], missing: int | None = 0) -> np.ndarray:
    """Return rows of numbers, float64 [R, C]; [R] may stand for [R, 1].

    Args:
        name, columns: what the array is called; the names of its C columns.
        missing: rows at the end in which NaN may stand for a missing value; None for all.

    Raises:
        DataError: it holds anything but finite numbers.
        ShapeError: it is not [R, C].
    """
    try:
        values = np.asarray(input)
    except ValueError:  # lists of different lengths
        values = np.empty(0, object)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{name}: expected numbers, or the text of a CSV table, got {input!r:.80}")
    values = values.astype(np.float64)
    if values.ndim == len(columns) == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != len(columns):
        shape = "[R] or [R, 1]" if len(columns) == 1 else f"[R, {len(columns)}]"
        shape += f" of the columns {', '.join(map(repr, columns))}"
        raise ShapeError(f"{name}: expected {shape}, got {list(values.shape)}; several tables are a list of arrays")
    complete = 0 if missing is None else max(0, len(values) - missing)
    wrong = np.concatenate([~np.isfinite(values[:complete]), np.isinf(values[complete:])])
    for row, column in np.argwhere(wrong):
        where = f"{name}[{row}]: column {columns[column]!r}"
        raise DataError(f"{where}: expected a finite number, got {values[row, column]}")
    return values


def _header(name: str, text: str) -> tuple[tuple[str, ...], str]:
    """The names of the columns, and the delimiter."""
    delimiter = max(_DELIMITERS, key=lambda each: _width(text, each))
    _, cells = next(_records(name, text, delimiter), (1, []))
    header = tuple(cell.strip() for cell in cells)
    if not any(header):
        raise DataError(f"{name}:1: {_NO_HEADER}, got an empty line")
    for column in header:
        if header.count(column) > 1:
            raise DataError(f"{name}:1: {header.count(column)} columns are called {column!r}")
    if not any(math.isnan(parse_number(cell)) for cell in header):
        raise DataError(f"{name}:1: {_NO_HEADER}, got numbers")
    return header, delimiter


def _records(name: str, text: str, delimiter: str, skipped: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Every record with the line it begins on; a quoted cell may span lines. ``skipped``: see :class:`Table`."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for record in reader:
            yield line, record
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise DataError(f"{name}:{line}: {error}; is there a quote that does not end?") from None


def _rows(name: str, text: str, delimiter: str, skipped: int = 0) -> Iterator[tuple[int, list[str]]]:
    """The records below the header, all of the same width; blank lines only at the end."""
    records = _records(name, text, delimiter, skipped)
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


def parse_number(cell: str) -> float:
    """The number in a cell, NaN where there is none; Python allows underscores in numbers, a table does not."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


@dataclass(frozen=True, eq=False)
class Scaler:
    """Scales every column to mean 0 and standard deviation 1: ``z = (x - mean) / std``.

    Fit it on the training set only: what is known of later rows would help to forecast them.

    Attributes:
        mean, std: [C]; std is 1 for a column that never changes.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, series: np.ndarray) -> Scaler:
        """Mean and standard deviation of rows [R, C].

        Raises:
            ShapeError, DataError: ``series`` is not [R, C]; has no row, or a number that is not finite or too large.
        """
        _check_dims("Scaler.fit: expected a series [R, C]", series, 2)
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
        """Scale ``series`` [..., C]; with ``column``, an array of any shape whose numbers are all of that column."""
        mean, std = self._of("apply", series, column)
        return (series - mean) / std

    def undo(self, scaled: np.ndarray, column: int | None = None) -> np.ndarray:
        """The inverse of :meth:`apply`, with the same ``column``."""
        mean, std = self._of("undo", scaled, column)
        return scaled * std + mean

    def _of(self, name: str, series: np.ndarray, column: int | None) -> tuple[np.ndarray, np.ndarray]:
        if column is not None:
            return self.mean[column], self.std[column]
        if series.ndim == 0 or series.shape[-1] != len(self.mean):
            raise ShapeError(f"Scaler.{name}: expected [..., {len(self.mean)}], got {list(series.shape)}")
        return self.mean, self.std

    def to_config(self) -> dict[str, list[float]]:
        """A description for JSON."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_config(cls, config: Mapping[str, ArrayLike]) -> Scaler:
        """Return the scaler that ``to_config`` described; a :class:`DataError` if it describes none."""
        try:
            mean, std = (np.array(config[key], np.float64) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            raise DataError("Scaler.from_config: expected the numbers 'mean' and 'std' of every column") from None
        if mean.ndim != 1 or mean.shape != std.shape or not (np.isfinite(mean) & np.isfinite(std) & (std > 0)).all():
            raise DataError("Scaler.from_config: expected finite means and as many standard deviations above 0")
        return cls(mean, std)


def windows(series: np.ndarray, seq_length: int, horizon: int = 1, target: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cut a series into all windows of L rows, with the values of one column in the h rows after each as targets.

    Window i holds the rows i to i+L-1, its targets are those of the rows i+L to i+L+h-1; so no window sees a row it
    has to forecast. Both are read-only views of ``series``: a batch of windows is ``inputs[:, numbers]``.

    Args:
        series, target: [R, C]; the column to forecast.
        seq_length, horizon: L rows per window, and h rows to forecast.

    Returns:
        ``(inputs, targets)``: [L, N, C] and [N, h] for the N = R-L-h+1 windows.

    Raises:
        ShapeError, DataError: ``series`` is not [R, C]; there are fewer than L+h rows.
        OptionError: a number is below 1, or there is no such column.
    """
    _check_dims("windows: expected a series [R, C]", series, 2)
    check_int("windows: seq_length", seq_length)
    check_int("windows: horizon", horizon)
    rows, columns = series.shape
    check_int("windows: target", target, 0, columns - 1)
    if rows < seq_length + horizon:
        parts = f"{seq_length} to look at, {horizon} to forecast"
        raise DataError(f"expected at least {seq_length + horizon} rows ({parts}), got {rows}")
    inputs = sliding_window_view(series[: rows - horizon], seq_length, axis=0).transpose(2, 0, 1)
    return inputs, sliding_window_view(series[seq_length:, target], horizon)


def naive_forecasts(values: np.ndarray, first: int, horizon: int = 1, period: int = 1) -> np.ndarray:
    """Seasonal-naive forecasts, the baseline of a model.

    The forecast of row t+k from row t is ``values[t + k - period * ceil(k / period)]``: the value of the same
    season of the last cycle (Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", 3rd ed., section
    5.2); with period 1 it is the last value (persistence).

    Args:
        values, period: one column [R]; rows per season.
        first, horizon: the first row to forecast, those before it are known; h rows to forecast from each row.

    Returns:
        [N, h] for the N = R-first-h+1 targets of ``windows(series[first - L :], L, h)``.

    Raises:
        ShapeError, OptionError: ``values`` is not [R]; a number is below 1.
        DataError: fewer than ``period`` rows are known, or fewer than ``horizon`` are left.
    """
    _check_dims("naive_forecasts: expected values [R]", values, 1)
    for name, number in {"first": first, "horizon": horizon, "period": period}.items():
        check_int(f"naive_forecasts: {name}", number)
    if first < period:
        raise DataError(f"naive_forecasts: expected at least one season of {period} rows before row {first}")
    count = len(values) - first - horizon + 1
    if count < 1:
        left = max(0, len(values) - first)
        raise DataError(f"naive_forecasts: expected at least {horizon} rows from row {first} on, got {left}")
    steps = np.arange(1, horizon + 1)
    return values[first - 1 + np.arange(count)[:, None] + steps - period * -(-steps // period)]


def seasonal_period(values: np.ndarray) -> int:
    """The number of rows per season, found by autocorrelation; 1 where there is none.

    It is the lag of the highest peak of the autocorrelation r, from where r first is below 0 to K = R/3, of the
    values without their linear trend, or where that has none, of their differences. The peak must be significant:
    above ``sqrt(2 ln(2K) v)``, about the largest of 2K normal deviates, with Bartlett's variance at lag k
    ``v = (1 + 2 sum r[j]**2) (R - k) / R**2`` over the lags j up to where r first is below 0 (Box, Jenkins & Reinsel,
    "Time Series Analysis", 3rd ed., section 2.1.6). Multiples of a season are peaks too; the shortest is returned of
    those that are higher only by chance. ``values`` is the training set of one column [R].
    """
    _check_dims("seasonal_period: expected values [R]", values, 1)
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


def _check_dims(expected: str, array: np.ndarray, dims: int) -> None:
    if array.ndim != dims:
        raise ShapeError(f"{expected}, got {list(array.shape)}")
