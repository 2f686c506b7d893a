"""Read CSV tables, and scale their columns."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError, ShapeError

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

    def columns(self, names: Sequence[str], empty: np.ndarray | None = None) -> np.ndarray:
        """The numbers of C columns, float64 [R, C], in the order of ``names``.

        In rows where ``empty`` [R] is true a cell may be empty; it is NaN.

        Raises:
            DataError: there is no such column; a cell of it is empty, not a number, NaN or infinite.
        """
        numbers = np.empty((self.rows, len(names)))
        for row, (line, cells) in enumerate(self.cells(names)):
            numbers[row] = [parse_number(cell) for cell in cells]
            for name, cell, number in zip(names, cells, numbers[row], strict=True):
                if not math.isfinite(number) and (cell or empty is None or not empty[row]):
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

    def groups(self, column: str | None) -> list[tuple[str, int, int, int]]:
        """The ids in a column, all rows of one together: ``(id, line, start, stop)``, the line of the first row.

        Where the column is None, all rows are one group with the name of the table.

        Raises:
            DataError: there is no such column; an id comes back after another; says where.
        """
        found, current = dict[str, tuple[int, int]](), None
        for row, (line, cells) in enumerate(self.cells([] if column is None else [column])):
            id = cells[0] if cells else self.name
            if id != current:
                if id in found:
                    before = f"line {found[id][0]} has it too, {current!r} is between"
                    together = "expected all rows of a sequence together"
                    raise DataError(f"{self.name}:{line}: id {id!r} comes back: {before}; {together}")
                current, found[id] = id, (line, row)
        stops = [*(row for _, row in found.values()), self.rows][1:]
        return [(id, *place, stop) for (id, place), stop in zip(found.items(), stops, strict=True)]

    def names(self, given: Iterable[str]) -> tuple[str, ...]:
        """Names of columns, where a name that contains commas, but is no column, is several."""
        return tuple(part.strip() for one in given for part in ([one] if one in self.header else one.split(",")))

    def last_number(self, but: str | None = None) -> str:
        """The name of the last column but ``but`` whose first cell is a finite number; a :class:`DataError` if none."""
        _, cells = next(self._rows())
        for name, cell in zip(reversed(self.header), reversed(cells), strict=True):
            if name != but and math.isfinite(parse_number(cell)):
                return name
        raise DataError(f"{self.name}: no column holds numbers; there are {', '.join(map(repr, self.header))}")

    def where(self, row: int, start: int = 0) -> str:
        """File and line of a row, counted from 0, or from the row ``start``: ``series.csv:17``."""
        line, _ = next(islice(self._rows(), start + row, None))
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
        if series.ndim != 2:
            raise ShapeError(f"Scaler.fit: expected a series [R, C], got {list(series.shape)}")
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

    def apply(self, series: np.ndarray) -> np.ndarray:
        """Scale ``series`` [..., C]."""
        return (self._checked("apply", series) - self.mean) / self.std

    def undo(self, scaled: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`apply`."""
        return self._checked("undo", scaled) * self.std + self.mean

    def _checked(self, name: str, series: np.ndarray) -> np.ndarray:
        if series.ndim == 0 or series.shape[-1] != len(self.mean):
            raise ShapeError(f"Scaler.{name}: expected [..., {len(self.mean)}], got {list(series.shape)}")
        return series

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
