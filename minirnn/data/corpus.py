"""Read a text corpus of any size as tokens: block by block, into a temporary file where memory should not hold it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from minirnn.data.sources import Opened, decode_stream, iter_blocks, open_sources
from minirnn.data.text import Bytes, Characters, Words, code_points, iter_chunks
from minirnn.errors import DataError

_MAX_IN_MEMORY = 1 << 27  # bytes of tokens; more go to an unnamed temporary file
_CODE_POINTS = 0x110000


def iter_text(opened: Sequence[Opened]) -> Iterator[str]:
    """The text of sources of UTF-8, block by block, each on a new line, without byte order marks, line ends ``\\n``.

    Raises:
        DataError: the bytes are not UTF-8; the message names the byte and the line.
    """
    for number, (name, opener) in enumerate(opened):
        last = ""
        with opener() as file:
            for block in decode_stream(iter_blocks(file), name, hint="; any file can be read as bytes instead"):
                last = block[-1:] or last
                yield block
        if last not in ("", "\n") and number + 1 < len(opened):
            yield "\n"


def read_characters(sources: Sequence[str], symbols: Characters | None = None) -> tuple[np.ndarray, Characters]:
    """Read the text of ``sources`` as tokens [S], one per character. It is read twice and never held as a whole.

    Args:
        sources: files, ``-`` for standard input, or ``@python``.
        symbols: the vocabulary to use; other characters are left out. None takes all characters of the text.

    Returns:
        ``(tokens, symbols)``: of the smallest unsigned integer type that holds the vocabulary; the vocabulary.

    Raises:
        DataError: a source cannot be read, is not UTF-8, or changes meanwhile; or all of them are blank.
    """
    opened = open_sources(sources)
    counts = np.zeros(_CODE_POINTS, np.int64)
    for block in iter_text(opened):
        found = np.bincount(code_points(block))
        counts[: found.size] += found
    present = np.flatnonzero(counts)
    if not any(not chr(point).isspace() for point in present):
        raise DataError(f"nothing to read in {', '.join(sources)}")
    symbols = symbols or Characters("".join(map(chr, present)))
    size = int(counts[code_points(symbols.characters)].sum())
    tokens = _store(map(symbols.encode, iter_text(opened)))
    if tokens.size != size:
        raise DataError(f"{', '.join(sources)} changed while being read; try again")
    return tokens, symbols


def read_words(
    sources: Sequence[str],
    symbols: Words | None = None,
    lower: bool = False,
) -> tuple[np.ndarray, Words]:
    """Read the text of ``sources`` as tokens [S], one per word, as :func:`read_characters` does.

    Args:
        sources: files, ``-`` for standard input, or ``@python``.
        symbols: the vocabulary to use. None makes one of all words of the text.
        lower: lower-case the text for it.

    Raises:
        DataError: a source cannot be read or is not UTF-8, or all of them are blank.
    """
    opened = open_sources(sources)
    symbols = symbols or Words.of(_whole_words(opened), lower)
    tokens = _store(map(symbols.encode, _whole_words(opened)))
    if all(symbols.symbol(token).isspace() for token in np.unique(tokens).tolist()):
        raise DataError(f"nothing to read in {', '.join(sources)}")
    return tokens, symbols


def _whole_words(opened: Sequence[Opened]) -> Iterator[str]:
    """As :func:`iter_text`, in blocks that end after white space."""
    rest = ""
    for block in iter_text(opened):
        text = rest + block
        end = max(text.rfind(" "), text.rfind("\n")) + 1
        rest = text[end:]
        yield text[:end]
    yield rest


def read_bytes(sources: Sequence[str]) -> tuple[np.ndarray, Bytes]:
    """Read the bytes of ``sources`` as tokens [S] uint8, one source after the other.

    Raises:
        DataError: a source cannot be read, or all of them are empty.
    """

    def blocks() -> Iterator[np.ndarray]:
        for _, opener in open_sources(sources):
            with opener() as file:
                yield from (np.frombuffer(block, np.uint8) for block in iter_blocks(file))

    data = _store(blocks())
    if not data.size:
        raise DataError(f"nothing to read in {', '.join(sources)}")
    return data, Bytes()


def renumber(tokens: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Tokens [S] with the ``numbers`` [V] in place of their own; as little in memory as by :func:`read_characters`."""
    numbers = numbers.astype(np.min_scalar_type(numbers.max()))
    return _store(numbers[chunk] for chunk in iter_chunks(tokens))


def split_evenly(tokens: np.ndarray, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Take ``count`` pieces of ``length`` tokens, evenly spaced, out of tokens [S], of which there are as many.

    Returns:
        ``(rest, pieces)``, each one after the other; the rest is as little in memory as by :func:`read_characters`.
    """
    starts = [(2 * number + 1) * tokens.size // (2 * count) - length // 2 for number in range(count)]
    between = zip([0, *(start + length for start in starts)], [*starts, tokens.size], strict=True)
    pieces = np.concatenate([tokens[start : start + length] for start in starts])
    return _store(tokens[start:end] for start, end in between), pieces


def _store(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """The blocks as one array, in memory or mapped from an unnamed file that is deleted with the array."""
    kept, size = [np.empty(0, np.uint8)], 0
    for block in blocks:
        kept.append(block)
        size += block.nbytes
        if size > _MAX_IN_MEMORY:
            break
    else:
        return np.concatenate(kept[1:] or kept)
    try:
        with tempfile.TemporaryFile() as file:
            for block in chain(kept[1:], blocks):
                file.write(block.data)  # not through the mapping, whose pages would count as this process's memory
            file.flush()
            return np.memmap(file, block.dtype, "r")
    except OSError as error:
        folder, reason = tempfile.gettempdir(), error.strerror or error
        raise DataError(f"cannot store the encoded text in {folder}: {reason}; set TMPDIR to another folder") from None
