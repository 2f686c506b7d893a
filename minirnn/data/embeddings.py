"""Read pretrained word vectors from the text files of GloVe and word2vec."""

from __future__ import annotations

import codecs
import math
import re
from array import array
from collections.abc import Container, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from minirnn.data.vocabulary import PAD, Vocabulary
from minirnn.errors import DataError

_MAX_LINE = 1 << 20  # bytes; no vector is that long, but a file that is something else may have no line end at all
_HEADER = re.compile(rb"([0-9]{1,18}) ([0-9]{1,18})")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def read_embeddings(path: str | Path, keep: Container[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Read words and their vectors, in the order of the file; the first of a word that occurs twice.

    A line is a word and E numbers separated by single spaces (GloVe). The first line may be a header of two integers,
    the number of words and E (word2vec); without it, the first word must not contain a space. Words may contain
    spaces, but not be followed by further numbers. The file is read once, line by line.

    ``keep`` has the words to keep; of others only the columns are counted. None keeps all.

    Returns:
        ``(words, rows)``: V words and their vectors [V, E] float32.

    Raises:
        DataError: the file cannot be read or is something else; the message names the line.
    """
    try:
        return _read(str(path), keep)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def pretrained_rows(vocabulary: Vocabulary, path: str | Path, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Rows of an embedding for ``vocabulary``, from the file of word vectors at ``path``.

    Words that are not in the file get rows from N(0, s^2), drawn by ``rng``, with s the standard deviation of the rows
    found; PAD's is 0.

    Returns:
        ``(rows, found)``: rows [V, E] float32, and how many of them are from the file.

    Raises:
        DataError: as :func:`read_embeddings`; or the file has none of the words.
    """
    words, found = read_embeddings(path, vocabulary)
    if not words:
        raise DataError(f"{path} has no word of the vocabulary; is it of another language, or all lower case?")
    rows = rng.normal(0, found.std(dtype=np.float64), (len(vocabulary), found.shape[1])).astype(np.float32)
    rows[vocabulary.encode(words)] = found
    rows[PAD] = 0
    return rows, len(words)


def _read(path: str, keep: Container[str] | None) -> tuple[list[str], np.ndarray]:
    lines = _lines(path)
    first = next(lines, (path, b""))
    header = _HEADER.fullmatch(first[1])
    promised, size = (int(header[1]), int(header[2])) if header else (None, first[1].count(b" "))
    if not 0 < size < _MAX_LINE:
        raise DataError(f"{first[0]}: {size} columns; expected lines of a word and its numbers, single spaces between")
    words: dict[str, None] = {}
    values, count = array("f"), 0  # grow with what the file holds, whatever its header promises
    for place, line in lines if header else chain([first], lines):
        count += 1
        word, *fields = line.rsplit(b" ", size)
        extra = word.split(b" ")[1:]  # a word may contain spaces, but if numbers follow them, the line is too long
        if len(fields) < size or not word or (extra and all(map(_is_number, extra))):
            got = len(fields) + len(extra)
            raise DataError(f"{place}: expected {size} columns after the word as in the first line, got {got}")
        try:
            name = word.decode()
        except UnicodeDecodeError:
            raise DataError(f"{place}: the word {word[:40]!r} is not UTF-8 text") from None
        if name not in words and (keep is None or name in keep):
            values.extend(_vector(place, fields))
            words[name] = None
    if promised not in (None, count):
        raise DataError(f"{path}: expected {promised} words as the first line says, got {count}; is the file complete?")
    return list(words), np.asarray(values).reshape(len(words), size)


def _lines(path: str) -> Iterator[tuple[str, bytes]]:
    """``"file:line"`` and contents of the lines that are not blank."""
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            if len(line) == _MAX_LINE:
                raise DataError(f"{path}:{number}: the line is too long for a vector; is it a text file of vectors?")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line := line.rstrip(b" \r\n"):  # word2vec ends its lines with a space
                yield f"{path}:{number}", line


def _vector(place: str, fields: list[bytes]) -> array[float]:
    try:
        row = array("f", map(float, fields))
        if math.isfinite(sum(row)) and not any(b"_" in field for field in fields):  # float takes 1_000
            return row
    except ValueError:
        pass
    bad = next(field for field in fields if not _is_number(field))
    raise DataError(f"{place}: {bad[:40].decode(errors='replace')!r} is not a finite float32 number")


def _is_number(field: bytes) -> bool:
    try:
        return abs(float(field)) <= _MAX_FLOAT32 and b"_" not in field
    except ValueError:
        return False
