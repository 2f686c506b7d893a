"""Read a text corpus of any size as tokens: block by block, into a temporary file where memory should not hold it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, Protocol, TypeVar

import numpy as np

from minirnn.data.sources import Opened, decode_stream, iter_blocks, open_sources
from minirnn.data.text import Bytes, Characters, Symbols, Words, code_points, iter_chunks
from minirnn.errors import DataError

_MAX_IN_MEMORY = 1 << 27  # bytes of tokens; more go to an unnamed temporary file
_CODE_POINTS = 0x110000

S = TypeVar("S", bound=Symbols | None)
Encode = Callable[[], tuple[Iterator[np.ndarray], S]]
"""Returns tokens, block by block, all of one type, and their vocabulary."""


class Store(Protocol):
    """Makes one array of the tokens; :func:`store`, or a function that does so once for several processes."""

    def __call__(self, encode: Encode[S], /) -> tuple[np.ndarray, S]: ...


def store(encode: Encode[S], /) -> tuple[np.ndarray, S]:
    """Return all tokens, in memory or mapped from an unnamed file that is deleted with the array; and the vocabulary.

    Raises:
        DataError: the file cannot be written.
    """
    blocks, symbols = encode()
    dtype, blocks = _type_of(blocks)
    memory = io.BytesIO()
    for block in blocks:
        memory.write(block.data)
        if memory.tell() > _MAX_IN_MEMORY:
            break
    else:
        return np.frombuffer(memory.getbuffer(), dtype), symbols
    try:
        with tempfile.TemporaryFile() as file:
            write_blocks(file, [np.frombuffer(memory.getbuffer(), dtype)])
            memory = io.BytesIO()
            write_blocks(file, blocks)
            return map_file(file, dtype), symbols
    except OSError as error:
        raise cannot_store(error) from None


def write_blocks(file: IO[bytes], blocks: Iterable[np.ndarray]) -> np.dtype:
    """Write tokens to a file, and return their type.

    They do not go through a mapping, whose pages would count as this process's memory.
    """
    dtype, blocks = _type_of(iter(blocks))
    for block in blocks:
        file.write(block.data)
    file.flush()
    return dtype


def map_file(file: IO[bytes], dtype: np.dtype) -> np.ndarray:
    """Return the tokens in a file, mapped read-only; the file may be closed and deleted."""
    return np.memmap(file, dtype, "r") if file.seek(0, io.SEEK_END) else np.empty(0, dtype)


def cannot_store(error: OSError) -> DataError:
    """Return the error for a disk that takes no more tokens."""
    folder, reason = tempfile.gettempdir(), error.strerror or error
    return DataError(f"cannot store the encoded text in {folder}: {reason}; set TMPDIR to another folder")


def _type_of(blocks: Iterator[np.ndarray]) -> tuple[np.dtype, Iterator[np.ndarray]]:
    """The type of the tokens, and all blocks again."""
    first = next(blocks, np.empty(0, np.uint8))
    return first.dtype, chain([first], blocks)


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


def read_characters(
    sources: Sequence[str], symbols: Characters | None = None, store: Store = store
) -> tuple[np.ndarray, Characters]:
    """Read the text of ``sources`` as tokens [S], one per character. It is read twice and never held as a whole.

    Args:
        sources: files, ``-`` for standard input, or ``@python``.
        symbols: the vocabulary to use; other characters are left out. None takes all characters of the text.
        store: makes one array of the tokens.

    Returns:
        ``(tokens, symbols)``: of the smallest unsigned integer type that holds the vocabulary; the vocabulary.

    Raises:
        DataError: a source cannot be read, is not UTF-8, or changes meanwhile; or all of them are blank.
    """

    def encode() -> tuple[Iterator[np.ndarray], Characters]:
        opened = open_sources(sources)
        counts = np.zeros(_CODE_POINTS, np.int64)
        for block in iter_text(opened):
            found = np.bincount(code_points(block))
            counts[: found.size] += found
        present = np.flatnonzero(counts)
        if not any(not chr(point).isspace() for point in present):
            raise _nothing(sources)
        chosen = symbols or Characters("".join(map(chr, present)))
        size = int(counts[code_points(chosen.characters)].sum())
        return _of_size(map(chosen.encode, iter_text(opened)), size, sources), chosen

    return store(encode)


def _of_size(blocks: Iterable[np.ndarray], size: int, sources: Sequence[str]) -> Iterator[np.ndarray]:
    """The blocks, which must have so many tokens."""
    for block in blocks:
        size -= block.size
        yield block
    if size:
        raise DataError(f"{', '.join(sources)} changed while being read; try again")


def read_words(
    sources: Sequence[str],
    symbols: Words | None = None,
    lower: bool = False,
    store: Store = store,
) -> tuple[np.ndarray, Words]:
    """Read the text of ``sources`` as tokens [S], one per word, as :func:`read_characters` does.

    Args:
        sources: files, ``-`` for standard input, or ``@python``.
        symbols: the vocabulary to use. None makes one of all words of the text.
        lower: lower-case the text for it.
        store: makes one array of the tokens.

    Raises:
        DataError: a source cannot be read or is not UTF-8, or all of them are blank.
    """

    def encode() -> tuple[Iterator[np.ndarray], Words]:
        opened = open_sources(sources)
        chosen = symbols or Words.of(_whole_words(opened), lower)
        blank = np.array([chosen.symbol(token).isspace() for token in range(len(chosen))])
        blocks = map(chosen.encode, _whole_words(opened))
        return _refuse_blank(blocks, lambda block: bool(blank[block].all()), sources), chosen

    return store(encode)


def _refuse_blank(
    blocks: Iterable[np.ndarray], is_blank: Callable[[np.ndarray], bool], sources: Sequence[str]
) -> Iterator[np.ndarray]:
    """The blocks, of which one must not be blank."""
    blank = True
    for block in blocks:
        blank = blank and is_blank(block)
        yield block
    if blank:
        raise _nothing(sources)


def _nothing(sources: Sequence[str]) -> DataError:
    return DataError(f"nothing to read in {', '.join(sources)}")


def _whole_words(opened: Sequence[Opened]) -> Iterator[str]:
    """As :func:`iter_text`, in blocks that end after white space."""
    rest = ""
    for block in iter_text(opened):
        text = rest + block
        end = max(text.rfind(" "), text.rfind("\n")) + 1
        rest = text[end:]
        yield text[:end]
    yield rest


def read_bytes(sources: Sequence[str], store: Store = store) -> tuple[np.ndarray, Bytes]:
    """Read the bytes of ``sources`` as tokens [S] uint8, one source after the other.

    Raises:
        DataError: a source cannot be read, or all of them are empty.
    """

    def blocks() -> Iterator[np.ndarray]:
        for _, opener in open_sources(sources):
            with opener() as file:
                yield from (np.frombuffer(block, np.uint8) for block in iter_blocks(file))

    return store(lambda: (_refuse_blank(blocks(), lambda block: not block.size, sources), Bytes()))


def renumber(tokens: np.ndarray, numbers: np.ndarray, store: Store = store) -> np.ndarray:
    """Tokens [S] with the ``numbers`` [V] in place of their own; as little in memory as by :func:`read_characters`."""
    numbers = numbers.astype(np.min_scalar_type(numbers.max()))
    return store(lambda: ((numbers[chunk] for chunk in iter_chunks(tokens)), None))[0]


def split_evenly(tokens: np.ndarray, count: int, length: int, store: Store = store) -> tuple[np.ndarray, np.ndarray]:
    """Take ``count`` pieces of ``length`` tokens, evenly spaced, out of tokens [S], of which there are as many.

    Returns:
        ``(rest, pieces)``, each one after the other; the rest is as little in memory as by :func:`read_characters`.
    """
    starts = [(2 * number + 1) * tokens.size // (2 * count) - length // 2 for number in range(count)]
    between = zip([0, *(start + length for start in starts)], [*starts, tokens.size], strict=True)
    pieces = np.concatenate([tokens[start : start + length] for start in starts])
    rest = chain.from_iterable(iter_chunks(tokens[start:end]) for start, end in between)
    return store(lambda: (rest, None))[0], pieces
