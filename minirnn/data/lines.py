"""Read texts with labels, pairs of texts, and tagged sentences from files of lines."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError

_NOT_CLASSES = {"COPYING", "LICENSE", "NOTICE", "README"}  # stems of files that lie beside data


class Locations:
    """File and line of every item that was read, at four bytes per item.

    ``locations[i]`` is ``"file.tsv:17"``: for errors that show only later, such as a label that was never seen.
    """

    def __init__(self) -> None:
        self._names, self._starts, self._lines = list[str](), list[int](), array("I")

    def begin(self, name: str) -> None:
        """The items that follow are from the file ``name``."""
        self._names.append(name)
        self._starts.append(len(self._lines))

    def add(self, line: int) -> None:
        """Append an item that begins on ``line``, counted from 1."""
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, item: int) -> str:
        return self.at(item)

    def at(self, item: int, offset: int = 0) -> str:
        """File and line of an item, or of the line ``offset`` lines below: word k of a sentence is k lines below."""
        item = range(len(self))[item]
        return f"{self._names[bisect_right(self._starts, item) - 1]}:{self._lines[item] + offset}"


def _lines(sources: Sequence[str], where: Locations, blank: bool = False) -> Iterator[tuple[str, int, str]]:
    """Name, line number and text of every line, without blank lines at the end of a file; ``blank``: others may be."""
    for name, data in read_sources(sources):
        where.begin(name)
        lines = decode_text(data, name).split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        for number, line in enumerate(lines, 1):
            if not blank and not line.strip():
                raise DataError(f"{name}:{number}: empty line")
            yield name, number, line


def read_pairs(sources: Sequence[str]) -> tuple[list[str], list[str], Locations]:
    """Read two columns per line, separated by a tab: a text and its label, or a text and its translation.

    ``sources`` are files; ``-`` is standard input. White space around a column is stripped.

    Returns:
        ``(firsts, seconds, where)``: the columns, and the file and line of each pair.

    Raises:
        DataError: a source cannot be read or is not UTF-8; a line is empty or has other than two columns; a column
            is empty.
    """
    firsts, seconds, where = list[str](), list[str](), Locations()
    for name, number, line in _lines(sources, where):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2:
            raise DataError(f"{name}:{number}: expected 2 columns separated by a tab, got {len(cells)}")
        if not all(cells):
            raise DataError(f"{name}:{number}: column {cells.index('') + 1} is empty")
        firsts.append(cells[0])
        seconds.append(cells[1])
        where.add(number)
    return firsts, seconds, where


def read_classes(folder: str | Path) -> tuple[list[str], list[str], Locations]:
    """Read a folder with one file per class: the file's stem names the class, every line is a text of that class.

    White space around a text is stripped. Hidden files, folders, and files called README, LICENSE, COPYING or NOTICE
    are ignored.

    Returns:
        ``(texts, labels, where)``: texts, the class of each, and its file and line; classes sorted by file name.

    Raises:
        DataError: there are fewer than two classes, or two files of one class; a file cannot be read, is not UTF-8,
            has no line, or a blank one.
    """
    classes = _class_files(Path(folder))
    texts, labels, where = list[str](), list[str](), Locations()
    for name, number, line in _lines(list(classes), where):
        texts.append(line.strip())
        labels.append(classes[name])
        where.add(number)
    seen = set(labels)
    for name, label in classes.items():
        if label not in seen:
            raise DataError(f"{name}: no text of class {label!r} in it")
    return texts, labels, where


def _class_files(folder: Path) -> dict[str, str]:
    """The class of every file in ``folder`` that holds one."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from None
    files: dict[str, Path] = {}
    for path in found:
        if path.name.startswith(".") or path.stem in _NOT_CLASSES or not path.is_file():
            continue
        if path.stem in files:
            raise DataError(f"{files[path.stem]} and {path.name} are both of class {path.stem!r}; rename one")
        files[path.stem] = path
    if len(files) < 2:
        got = f"one class only, {next(iter(files))!r}" if files else "no class"
        raise DataError(f"{folder}: {got}; expected a file for every class, two or more")
    return {str(path): label for label, path in files.items()}


def read_columns(sources: Sequence[str], tag_column: int = -1) -> tuple[list[list[str]], list[list[str]], Locations]:
    """Read tagged sentences: a word per line with its tags in further columns, and a blank line after each sentence.

    Columns are separated by tabs, or in a line without a tab by white space. A line that begins with ``#``, has no
    tab and comes before the first word of a sentence is a comment.

    Args:
        sources: files; ``-`` is standard input.
        tag_column: the column of the tags: 2 is the first after the words, -1 the last.

    Returns:
        ``(words, tags, where)``: the words of every sentence, their tags, and the file and line of its first word;
        word k of sentence i is at ``where.at(i, k)``.

    Raises:
        DataError: a source cannot be read or is not UTF-8; lines have different numbers of columns, or no such
            column; a word or tag is empty; there is no sentence.
    """
    words, tags, where = list[list[str]](), list[list[str]](), Locations()
    width, first, column = 0, "", 0
    between = True  # the next word begins a sentence
    for name, number, line in _lines(sources, where, blank=True):
        between = between or number == 1 or not line.strip()
        if not line.strip() or (between and line.startswith("#") and "\t" not in line):
            continue
        cells, here = line.split("\t" if "\t" in line else None), f"{name}:{number}"
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
    """The column of the tags, counted from 0 on the left."""
    if width < 2:
        raise DataError(f"{here}: expected a word and its tag in 2 columns or more, got {width}")
    column = tag_column + width if tag_column < 0 else tag_column - 1
    if not 1 <= column < width:
        raise DataError(f"{here}: no column {tag_column} for tags; there are {width}, tags in columns 2 to {width}")
    return column
