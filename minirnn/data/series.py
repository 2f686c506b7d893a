"""Read numeric sequences with labels: CSV tables, the ``.ts`` files of the UEA archive, NumPy's ``.npz``; inputs."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from minirnn.data.sources import decode_text, read_sources
from minirnn.data.tables import Scaler, parse_number, parse_table
from minirnn.errors import DataError
from minirnn.validation import check_int

Kind = Literal["class", "number", "anomaly"]

MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "none"))
"""Cells, in lower case, that stand for a missing value."""
_MAX_RATIO = 1032  # bytes that one byte of a deflated file can hold, at the most
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Layout:
    """What of a file is read.

    Attributes:
        id: the column of a table that names a sequence, whose rows are together; None: a table is one sequence.
        label: the column of a table with the labels; None: the last one.
        inputs: the columns of a table to read; None: all others. Names with commas, but no columns, are several.
        labelled: labels are read from tables. every_step: there is a label for every row, rather than for a sequence.
    """

    id: str | None = None
    label: str | None = None
    inputs: tuple[str, ...] | None = None
    labelled: bool = True
    every_step: bool = False


@dataclass(frozen=True, eq=False)
class Sequences:
    """N sequences.

    Attributes:
        names: of the C columns.
        values: [T, C] float64 of each, NaN where a value is missing; T is at least 2.
        ids, where: its name, and where it was read.
        labels: its one label, or with ``every_step`` that of each row; None where the files have none.
        label: the column that held the labels, None where it has no name.
    """

    names: tuple[str, ...]
    values: list[np.ndarray] = field(repr=False)
    ids: list[str]
    where: list[str]
    labels: list[list[str]] | None
    label: str | None = None

    def __len__(self) -> int:
        return len(self.values)

    def numbers(self) -> np.ndarray:
        """Return the labels of all sequences, one after another, as numbers [N, 1]; a :class:`DataError` if not."""
        found = []
        for where, part in zip(self.where, self.labels or (), strict=True):
            for label in part:
                found.append(parse_number(label))
                if not math.isfinite(found[-1]):
                    raise DataError(f"{where}: expected a number as label, got {label!r:.80}")
        return np.array(found)[:, None]

    def take(self, numbers: np.ndarray) -> Sequences:
        """Return some of the sequences."""
        values, ids, where = ([one[n] for n in numbers] for one in (self.values, self.ids, self.where))
        labels = None if self.labels is None else [self.labels[n] for n in numbers]
        return replace(self, values=values, ids=ids, where=where, labels=labels)

    def cut(self, seq_length: int) -> Sequences:
        """Return windows of at most L steps; labels must be those of steps, or None."""
        parts = [(n, s) for n, one in enumerate(self.values) for s in range(0, len(one), seq_length)]
        made = self.take(np.array([n for n, _ in parts]))
        values = [one[s : s + seq_length] for one, (_, s) in zip(made.values, parts, strict=True)]
        labels = made.labels and [one[s : s + seq_length] for one, (_, s) in zip(made.labels, parts, strict=True)]
        return replace(made, values=values, labels=labels)


def read_sequences(sources: Sequence[str], layout: Layout) -> Sequences:
    """Read files: ``.ts`` and ``.npz`` by their names, any other (``-``: standard input) as a table.

    A table (CSV) has a row per step. ``.ts`` is the format of the UEA and UCR archives, without time stamps. ``.npz``
    holds ``x``: [N, T, C], or [R, C] with the rows of all sequences; ``lengths`` [N], where they differ; ``y`` [N], or
    a label per step, [N, T] or [R].

    Raises:
        DataError: a file cannot be read, is damaged or empty, or has other columns than the first; a cell is text; an
            id comes back after another one; a label changes within a sequence, or is missing; a sequence has one step.
            Says where.
    """
    parts = [parse_sequences(name, data, layout) for name, data in read_sources(sources)]
    first = parts[0]
    for part in parts[1:]:
        if part.names != first.names or (part.labels is None) != (first.labels is None):
            columns = ", ".join(first.names) + (" and labels" if first.labels is not None else "")
            raise DataError(f"{part.where[0]}: expected the columns of {first.where[0]}: {columns}")
    labels = None if first.labels is None else [label for part in parts for label in part.labels or ()]
    values, ids, where = ([x for p in parts for x in getattr(p, name)] for name in ("values", "ids", "where"))
    return replace(first, values=values, ids=ids, where=where, labels=labels)


def parse_sequences(name: str, data: bytes, layout: Layout) -> Sequences:
    """As :func:`read_sequences`, from the contents of one file."""
    if name.lower().endswith(".npz"):
        found = _parse_npz(name, data)
    elif name.lower().endswith(".ts"):
        found = _parse_ts(name, decode_text(data, name))
    else:
        found = _parse_table(name, decode_text(data, name), layout)
    if not found.values:
        raise DataError(f"{name}: there is no sequence")
    for n, values in enumerate(found.values):
        if len(values) < 2:
            steps = f"{len(values)} step{'s' * (len(values) != 1)}"
            raise DataError(f"{found.where[n]}: sequence {found.ids[n]!r} has {steps}; expected at least 2")
        if found.labels is not None and len(found.labels[n]) != (expected := len(values) if layout.every_step else 1):
            one = "a label for every step" if layout.every_step else "one label for a sequence"
            raise DataError(f"{found.where[n]}: expected {one} ({expected}), got {len(found.labels[n])}")
    return found


def _parse_table(name: str, text: str, layout: Layout) -> Sequences:
    table = parse_table(name, text)
    label = layout.label if layout.label is not None or not layout.labelled else table.header[-1]
    keys = [column for column in (layout.id, label if layout.labelled else None) if column is not None]
    given = layout.inputs or tuple(column for column in table.header if column not in (layout.id, label))
    inputs = table.names(given)
    for column in (*keys, *inputs):
        if [*keys, *inputs].count(column) > 1:
            raise DataError(f"{name}: column {column!r} is named twice; ids and labels are no inputs")
    if not inputs:
        raise DataError(f"{name}: no column is left to read; there are {', '.join(map(repr, table.header))}")
    groups = table.groups(layout.id)
    lines, rows, labels = list[int](), list[list[float]](), list[str]()
    for line, cells in table.cells([*inputs, *keys]):
        rows.append([_value(cell, f"{name}:{line}", column) for column, cell in zip(inputs, cells, strict=False)])
        lines.append(line)
        if layout.labelled:
            labels.append(cells[-1])
            if not cells[-1]:
                raise DataError(f"{name}:{line}: column {label!r}: the label is missing")
    every = np.array(rows, np.float64)
    values, parts = (
        [every[start:stop] for *_, start, stop in groups],
        [labels[start:stop] for *_, start, stop in groups],
    )
    if layout.labelled and not layout.every_step:
        for (id, *_, start, _), part in zip(groups, parts, strict=True):
            for row, found in enumerate(part, start):
                if found != part[0]:
                    change = f"the label changes from {part[0]!r} to {found!r} within sequence {id!r}"
                    expected = "expected one label, or with --every-step one for each row"
                    raise DataError(f"{name}:{lines[row]}: {change}; {expected}")
        parts = [part[:1] for part in parts]
    ids, where = [id for id, *_ in groups], [f"{name}:{line}" for _, line, *_ in groups]
    return Sequences(inputs, values, ids, where, parts if layout.labelled else None, label)


def _value(cell: str, where: str, column: str) -> float:
    """The number in a cell, NaN where it is missing."""
    number = parse_number(cell)
    if math.isfinite(number) or cell.lower() in MISSING:
        return number
    raise DataError(f"{where}: column {column!r}: expected a number, or nothing, got {cell!r:.80}")


def _parse_ts(name: str, text: str) -> Sequences:
    header, labelled, names = True, False, tuple[str, ...]()
    values, labels, where = list[np.ndarray](), list[list[str]](), list[str]()
    for line, row in enumerate(map(str.strip, text.split("\n")), 1):
        if not row or row.startswith("#"):
            continue
        place = f"{name}:{line}"
        if header:
            key, *words = row.lower().split()
            if not key.startswith("@"):
                raise DataError(f"{place}: expected a line that begins with @, such as @data, got {row!r:.40}")
            if key == "@timestamps" and words[:1] == ["true"]:
                raise DataError(f"{place}: expected values without time stamps")
            labelled |= key in ("@classlabel", "@targetlabel") and words[:1] == ["true"]
            header = key != "@data"
            continue
        *dimensions, last = row.split(":")
        if labelled:
            labels.append([last.strip()])
        else:
            dimensions.append(last)
        names = names or tuple(f"x{k}" for k in range(len(dimensions)))
        if not dimensions or len(dimensions) != len(names):
            raise DataError(f"{place}: expected {len(names) or 'some'} dimensions, got {len(dimensions)}")
        columns = [
            [_value(cell.strip(), place, c) for cell in d.split(",")] for c, d in zip(names, dimensions, strict=True)
        ]
        if len({len(column) for column in columns}) > 1:
            raise DataError(f"{place}: expected as many values in all dimensions, got {[len(c) for c in columns]}")
        values.append(np.array(columns, np.float64).T)
        where.append(place)
    if header:
        raise DataError(f"{name}: expected a line @data, and sequences after it")
    ids = [str(number) for number in range(1, len(values) + 1)]
    return Sequences(names, values, ids, where, labels if labelled else None)


def _parse_npz(name: str, data: bytes) -> Sequences:
    arrays = _arrays(name, data)
    x, lengths, y = arrays.get("x"), arrays.get("lengths"), arrays.get("y")
    if x is None or x.ndim not in (2, 3) or x.dtype.kind not in "iuf":
        got = f"an array of numbers x, [N, T, C] or [R, C], got {_shown(x)}; the file has {', '.join(arrays) or 'none'}"
        raise DataError(f"{name}: expected {got}")
    if lengths is None:
        lengths = np.full(len(x), x.shape[1]) if x.ndim == 3 else np.array([len(x)])
    count = len(x) if x.ndim == 3 else lengths.size
    fits = lengths.shape == (count,) and lengths.dtype.kind in "iu" and (lengths >= 0).all()
    if not fits or (lengths.sum() != len(x) if x.ndim == 2 else (lengths > x.shape[1]).any()):
        expected = f"[{count}], at most {x.shape[1]} each" if x.ndim == 3 else f"[N] with the sum {len(x)}"
        raise DataError(f"{name}: expected lengths {expected}, got {_shown(lengths)} with the sum {lengths.sum()}")

    def cut(array: np.ndarray) -> list[np.ndarray]:
        if x.ndim == 3:
            return [array[n, :length] for n, length in enumerate(lengths)]
        return np.split(array, np.cumsum(lengths)[:-1])

    labels = None
    if y is not None:
        if y.dtype.kind not in "biufU" or y.shape not in ((count,), x.shape[:-1]):
            raise DataError(f"{name}: expected labels y [{count}] or {list(x.shape[:-1])}, got {_shown(y)}")
        parts = y[:, None] if y.shape == (count,) else cut(y)
        labels = [[str(one) for one in part.tolist()] for part in parts]
    values = [part.astype(np.float64) for part in cut(x)]
    for n, part in enumerate(values):
        if np.isinf(part).any():
            raise DataError(f"{name}: sequence {n}: expected finite numbers, or NaN where one is missing")
    names = tuple(f"x{k}" for k in range(x.shape[-1]))
    return Sequences(
        names, values, [str(n) for n in range(count)], [f"{name}: sequence {n}" for n in range(count)], labels
    )


def _shown(array: np.ndarray | None) -> str:
    return "none" if array is None else f"{array.dtype} {list(array.shape)}"


def _arrays(name: str, data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, which can be larger than the file only as far as deflating allows."""
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize > _MAX_RATIO * len(data):
                    raise DataError(
                        f"{name}: array {member} is {dtype} {list(shape)}; expected numbers that fit the file"
                    )
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, KeyError, EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{name}: not a NumPy .npz file, or damaged: {error}") from None
    return found


def fit_scaler(rows: np.ndarray) -> Scaler:
    """Return the scaler of each column [R, C], of the values that are there; one that has none stays as it is."""
    columns = [column[~np.isnan(column)] for column in rows.T]
    parts = [Scaler.fit(one[:, None]) if one.size else Scaler(np.zeros(1), np.ones(1)) for one in columns]
    return Scaler(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("mean", "std")))


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Turns sequences into inputs of the model.

    The inputs of a step are its C values, scaled to mean 0 and standard deviation 1; a missing one is the last value of
    its column before (0, the mean, where there is none), and if any was missing in training, C numbers more say which
    are there (1) and which are missing (0): the simple form of Che et al. 2018, "Recurrent neural networks for
    multivariate time series with missing values", section 2.3.1, without time intervals.

    Attributes:
        names: of the columns. id, label: columns of tables, see :class:`~minirnn.data.series.Layout`.
        kind: what is predicted. every_step: for each step.
        seq_length: steps in a window, None where sequences are not cut.
        missing: whether the model reads which values are missing.
        scaler: of the columns. target_scaler: of labels that are numbers; fitted on the training set.
    """

    names: tuple[str, ...]
    id: str | None
    label: str | None
    kind: Kind
    every_step: bool
    seq_length: int | None
    missing: bool
    scaler: Scaler
    target_scaler: Scaler

    @property
    def input_size(self) -> int:
        """Numbers in a step of the model's inputs."""
        return len(self.names) * (1 + self.missing)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return values [T, C] scaled, with missing ones filled in; the model's inputs [T, C] or [T, 2 C], float32."""
        z = self.scaler.apply(values)
        there = ~np.isnan(z)
        last = np.maximum.accumulate(np.where(there, np.arange(len(z))[:, None], -1), axis=0)
        z = np.where(last >= 0, np.take_along_axis(z, np.maximum(last, 0), 0), 0.0)
        return (np.concatenate([z, there], 1) if self.missing else z).astype(np.float32)

    def starts(self, steps: int) -> list[int]:
        """Return where the windows of a sequence of T steps begin; the last one ends with it."""
        size = self.seq_length or steps
        return [*range(0, steps - size, size), max(0, steps - size)]

    def layout(self, labelled: bool) -> Layout:
        """Return what is read of a file, with its labels or without."""
        return Layout(self.id, self.label, self.names, labelled, self.every_step)

    def to_config(self) -> dict[str, Any]:
        """Return a description for JSON."""
        scalers = {name: getattr(self, name).to_config() for name in ("scaler", "target_scaler")}
        return vars(self) | {"names": list(self.names)} | scalers

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make one of what :meth:`to_config` described; a :class:`DataError` where it describes none."""
        scalers = {name: Scaler.from_config(config[name]) for name in ("scaler", "target_scaler")}
        made = cls(**config | {"names": tuple(config["names"])} | scalers)
        sizes = len(made.names), 1
        if made.kind not in get_args(Kind) or sizes != tuple(len(scaler.mean) for scaler in scalers.values()):
            raise DataError(f"preprocessor: expected a kind of {', '.join(get_args(Kind))} and {sizes[0]} scales")
        if made.seq_length is not None:
            check_int("preprocessor: seq_length", made.seq_length)
        return made
