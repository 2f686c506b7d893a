"""A body of text as token numbers, however large: read in pieces, kept on disk where memory should not hold it."""

from __future__ import annotations

import codecs
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from minirnn.data.sources import Opened, open_sources
from minirnn.data.text import Bytes, Characters, code_points
from minirnn.errors import DataError

_PIECE = 1 << 22  # bytes read at once
_IN_MEMORY = 1 << 28  # bytes of tokens; more go to an unnamed temporary file
_CODE_POINTS = 0x110000


def text_pieces(opened: Sequence[Opened]) -> Iterator[str]:
    """The text of sources one after the other, in pieces, each source beginning on a line of its own.

    UTF-8, with or without byte order marks, any line ends, which become ``\\n``.

    Raises:
        DataError: the bytes are not UTF-8; says where.
    """
    for number, (name, reader) in enumerate(opened):
        last = ""
        with reader() as file:
            for piece in _decoded(file, name):
                last = piece[-1:] or last
                yield piece
        if last not in ("", "\n") and number + 1 < len(opened):
            yield "\n"


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    read = lines = 0
    while True:
        data = file.read(_PIECE)
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = lines + error.object[: error.start].count(b"\n") + 1
            raise DataError(
                f"{name} is not UTF-8 text (byte {read - waiting + error.start}, line {line}); for any other file use "
                "--bytes"
            ) from None
        read, lines = read + len(data), lines + data.count(b"\n")
        yield line_ends.decode(text, final=not data).replace("\ufeff", "")
        if not data:
            return


def read_characters(sources: Sequence[str], symbols: Characters | None = None) -> tuple[np.ndarray, Characters]:
    """Tokens [S] of the text of ``sources``, and the vocabulary of its characters.

    The text is read twice, and never held as a whole.

    Args:
        symbols: a vocabulary to use instead; characters that it has not are left out.

    Raises:
        DataError: a source cannot be read, is not UTF-8, or there is nothing in any of them.
    """
    opened = open_sources(sources)
    counts = np.zeros(_CODE_POINTS, np.int64)
    for piece in text_pieces(opened):
        found = np.bincount(code_points(piece))
        counts[: found.size] += found
    present = np.flatnonzero(counts)
    if not any(not chr(point).isspace() for point in present):
        raise DataError(f"nothing to read in {', '.join(sources)}")
    symbols = symbols or Characters("".join(map(chr, present)))
    size = int(counts[code_points(symbols.characters)].sum())
    tokens, at = _room(size, np.min_scalar_type(len(symbols) - 1)), 0
    for piece in text_pieces(opened):
        part = symbols.encode(piece)
        if at + part.size > size:
            break
        tokens[at : at + part.size] = part
        at += part.size
    else:
        if at == size:
            return tokens, symbols
    raise DataError(f"{', '.join(sources)} changed while being read; try again")


def read_bytes(sources: Sequence[str]) -> tuple[np.ndarray, Bytes]:
    """The bytes [S] of ``sources``; those of a single file stay on disk, mapped into memory.

    Raises:
        DataError: a source cannot be read, or there is nothing in any of them.
    """
    opened = open_sources(sources)
    if len(opened) == 1 and os.path.isfile(sources[0]) and os.path.getsize(sources[0]) > 0:
        return np.memmap(sources[0], np.uint8, "r"), Bytes()
    parts = []
    for _, reader in opened:
        with reader() as file:
            parts.append(file.read())
    data = b"".join(parts)
    if not data:
        raise DataError(f"nothing to read in {', '.join(sources)}")
    return np.frombuffer(data, np.uint8), Bytes()


def _room(count: int, dtype: np.dtype) -> np.ndarray:
    """An array to fill: in memory, or in a file that nobody else sees and that is gone with the array."""
    if count * dtype.itemsize <= _IN_MEMORY:
        return np.empty(count, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=(count,))
