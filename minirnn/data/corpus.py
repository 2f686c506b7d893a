"""A body of text as token numbers, however large: read in pieces, kept on disk where memory should not hold it."""

from __future__ import annotations

import codecs
import io
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import BinaryIO

import numpy as np

from minirnn.data.sources import Opened, open_sources
from minirnn.data.text import Bytes, Characters, code_points
from minirnn.errors import DataError

_PIECE = 1 << 20  # bytes read at once
_IN_MEMORY = 1 << 27  # bytes of tokens; more go to an unnamed temporary file
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
    tokens = _stored(map(symbols.encode, text_pieces(opened)))
    if tokens.size != size:
        raise DataError(f"{', '.join(sources)} changed while being read; try again")
    return tokens, symbols


def read_bytes(sources: Sequence[str]) -> tuple[np.ndarray, Bytes]:
    """The bytes [S] of ``sources``, one after the other.

    Raises:
        DataError: a source cannot be read, or there is nothing in any of them.
    """
    data = _stored(_byte_pieces(open_sources(sources)))
    if not data.size:
        raise DataError(f"nothing to read in {', '.join(sources)}")
    return data, Bytes()


def _byte_pieces(opened: Sequence[Opened]) -> Iterator[np.ndarray]:
    for _, reader in opened:
        with reader() as file:
            while piece := file.read(_PIECE):
                yield np.frombuffer(piece, np.uint8)


def _stored(pieces: Iterator[np.ndarray]) -> np.ndarray:
    """The pieces as one array: in memory, or in a file that nobody else sees and that is gone with the array.

    What becomes of the sources later does not matter to it.

    Raises:
        DataError: there is no room for the file.
    """
    kept, size = [np.empty(0, np.uint8)], 0
    for piece in pieces:
        kept.append(piece)
        size += piece.nbytes
        if size > _IN_MEMORY:
            break
    else:
        return np.concatenate(kept[1:] or kept)
    try:
        with tempfile.TemporaryFile() as file:
            for piece in chain(kept[1:], pieces):
                file.write(piece.data)  # rather than through the mapping, whose pages would count as memory
            file.flush()
            return np.memmap(file, piece.dtype, "r")
    except OSError as error:
        raise DataError(
            f"cannot keep the encoded text in {tempfile.gettempdir()}: {error.strerror or error}; TMPDIR says where "
            "else to"
        ) from None
