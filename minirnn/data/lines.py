"""Texts with labels, pairs of texts and tagged sentences, read from files of lines."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError

_NOT_CLASSES = {"COPYING", "LICENSE", "NOTICE", "README"}  # stems of files that lie beside data


class Where:
    """The file and line of every item that was read, at four bytes an item.

    ``where[i]`` is ``"file.tsv:17"``, for errors that only show later, such as a label that was never seen.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._starts: list[int] = []
        self._lines = array("I")

    def begin(self, name: str) -> None:
        """The items that follow come from the file ``name``."""
        self._names.append(name)
        self._starts.append(len(self._lines))

    def add(self, line: int) -> None:
        """One more item, which begins on ``line``, counted from 1."""
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, item: int) -> str:
        return self.at(item)

    def at(self, item: int, below: int = 0) -> str:
        """File and line of an item, or of the line ``below`` lines further down: word k of a sentence is k below."""
        item = range(len(self))[item]
        return f"{self._names[bisect_right(self._starts, item) - 1]}:{self._lines[item] + below}"


def _read(sources: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of every source, without the blank lines at its end."""
    for name, data in read_sources(sources):
        lines = decode_text(data, name).split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        yield name, lines


def read_pairs(sources: Sequence[str]) -> tuple[list[str], list[str], Where]:
    """Two columns a line, with a tab between: a text and its label, or a text and its translation.

    Blanks around a field do not count.

    Args:
        sources: files; ``-`` is standard input.

    Returns:
        first columns, second columns, and where they stand.

    Raises:
        DataError: a source cannot be read or is not UTF-8; a line is empty, has other than two columns, or a
            column has nothing in it.
    """
    firsts: list[str] = []
    seconds: list[str] = []
    where = Where()
    for name, lines in _read(sources):
        where.begin(name)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise DataError(f"{name}:{number}: empty line")
            cells = [cell.strip() for cell in line.split("\t")]
            if len(cells) != 2:
                raise DataError(f"{name}:{number}: expected 2 columns separated by a tab, got {len(cells)}")
            if not all(cells):
                raise DataError(f"{name}:{number}: column {cells.index('') + 1} is empty")
            firsts.append(cells[0])
            seconds.append(cells[1])
            where.add(number)
    return firsts, seconds, where


def read_classes(folder: str | Path) -> tuple[list[str], list[str], Where]:
    """A folder with a file for every class: the file's stem names the class, every line is a text of it.

    Blanks around a text do not count. Hidden files, folders, and files called README, LICENSE, COPYING or NOTICE
    are left out.

    Returns:
        texts, the class of each, and where they stand; classes in the order of their names.

    Raises:
        DataError: there are fewer than two files or two of one class; a file cannot be read, is not UTF-8, has no
            line, or a blank one.
    """
    try:
        found = sorted(Path(folder).iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from None
    classes: dict[str, Path] = {}
    for path in found:
        if path.name.startswith(".") or path.stem in _NOT_CLASSES or not path.is_file():
            continue
        if path.stem in classes:
            raise DataError(f"{classes[path.stem]} and {path.name} are both of class {path.stem!r}; rename one")
        classes[path.stem] = path
    if len(classes) < 2:
        what = f"one class only, {next(iter(classes))!r}" if classes else "no class"
        raise DataError(f"{folder}: {what}; expected a file for every class, two or more")
    texts: list[str] = []
    labels: list[str] = []
    where = Where()
    for label, (name, lines) in zip(classes, _read([str(path) for path in classes.values()]), strict=True):
        if not lines:
            raise DataError(f"{name}: no text of class {label!r} in it")
        where.begin(name)
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text:
                raise DataError(f"{name}:{number}: empty line")
            texts.append(text)
            labels.append(label)
            where.add(number)
    return texts, labels, where


def read_columns(sources: Sequence[str], tag_column: int = -1) -> tuple[list[list[str]], list[list[str]], Where]:
    """Tagged sentences, a word a line with its tags in further columns, a blank line after each sentence.

    Columns stand between tabs, or in a line without a tab between blanks. A line that begins with ``#``, has no
    tab and comes before the first word of a sentence is a comment.

    Args:
        sources: files; ``-`` is standard input.
        tag_column: which column holds the tags: 2 is the first after the words, -1 the last.

    Returns:
        the words of every sentence, their tags, and where its first word stands: word k of sentence i is at
        ``where.at(i, k)``.

    Raises:
        DataError: a source cannot be read or is not UTF-8; lines have different numbers of columns, or not that
            column; a word or tag is empty; there is no sentence.
    """
    words: list[list[str]] = []
    tags: list[list[str]] = []
    where = Where()
    width, first, column = 0, "", 0
    for name, lines in _read(sources):
        where.begin(name)
        between = True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                between = True
                continue
            tabs = "\t" in line
            if between and not tabs and line.startswith("#"):
                continue
            cells = line.split("\t") if tabs else line.split()
            here = f"{name}:{number}"
            if not width:
                width, first, column = len(cells), here, _column(tag_column, len(cells), here)
            if len(cells) != width:
                raise DataError(f"{here}: expected {width} columns as in {first}, got {len(cells)}")
            word, tag = cells[0].strip(), cells[column].strip()
            if not word or not tag:
                raise DataError(f"{here}: the {'tag' if word else 'word'} is empty")
            if between:
                words.append([])
                tags.append([])
                where.add(number)
                between = False
            words[-1].append(sys.intern(word))  # the same few words and tags again and again
            tags[-1].append(sys.intern(tag))
    if not words:
        raise DataError(f"no sentence in {', '.join(sources)}")
    return words, tags, where


def _column(tag_column: int, width: int, here: str) -> int:
    """The column of the tags, from the left and from 0."""
    if width < 2:
        raise DataError(f"{here}: expected a word and its tag in 2 columns or more, got {width}")
    column = tag_column + width if tag_column < 0 else tag_column - 1
    if not 1 <= column < width:
        raise DataError(f"{here}: no column {tag_column} for tags; there are {width}, tags in columns 2 to {width}")
    return column
