"""Vocabularies of characters, bytes and words, and token sequences cut into parallel streams for training."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn.data.tokenize import GLUE, Tokenizer, join_words
from minirnn.data.vocabulary import UNK, Vocabulary
from minirnn.errors import DataError
from minirnn.validation import check_int

_CHUNK = 1 << 20  # characters or tokens handled at once, so that a large corpus needs little memory beside itself
_RELEASE_EVERY = 64  # chunks of T steps, after which the pages of a mapped file are released


class Characters:
    """A vocabulary of ``characters``, numbered in the order of their code points.

    Raises:
        DataError: there is no character, or they are not in rising order.
    """

    kind = "characters"
    never: tuple[int, ...] = ()

    def __init__(self, characters: str) -> None:
        points = code_points(characters)
        if points.size == 0 or (np.diff(points.astype(np.int64)) <= 0).any():
            raise DataError("character vocabulary: expected different characters in rising order")
        self.characters, self._points = characters, points
        self._numbers = np.full(int(points[-1]) + 2, len(points), np.min_scalar_type(len(points)))  # by code point
        self._numbers[points] = np.arange(len(points))

    @classmethod
    def of(cls, text: str) -> Characters:
        """The vocabulary of all characters of ``text``."""
        found = [np.unique(code_points(chunk)) for chunk in _chunks(text)]
        return cls("".join(map(chr, np.unique(np.concatenate(found)))) if found else "")

    def __len__(self) -> int:
        return len(self._points)

    def missing(self, text: str) -> str:
        """The characters of ``text`` that are not in the vocabulary, each once."""
        known = set(self.characters)
        return "".join(dict.fromkeys(c for c in text if c not in known))

    def encode(self, text: str) -> np.ndarray:
        """Token numbers [S] of ``text``; characters that are not in the vocabulary are left out."""
        dtype = np.min_scalar_type(len(self) - 1)
        parts = [np.empty(0, dtype)]
        for chunk in _chunks(text):
            numbers = self._numbers.take(code_points(chunk), mode="clip")
            known = numbers < len(self)
            parts.append((numbers if known.all() else numbers[known]).astype(dtype, copy=False))
        return np.concatenate(parts)

    def symbol(self, token: int) -> str:
        """The character that is ``token``."""
        return self.characters[token]

    def decoder(self, before: str = "") -> Callable[[np.ndarray], str]:
        """Return a function that turns consecutive tokens [S] into text, which follows the text ``before``."""
        return lambda tokens: self._points[tokens].tobytes().decode("utf-32-le")

    def entries(self) -> str:
        """What each number stands for, in their order."""
        return self.characters

    def to_config(self) -> dict[str, str]:
        """A description for JSON."""
        return {"kind": self.kind, "characters": self.characters}


class Bytes:
    """The 256 byte values: a vocabulary for any file."""

    kind = "bytes"
    never: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 256

    def missing(self, text: str) -> str:
        """Nothing: every text has bytes."""
        return ""

    def encode(self, text: str) -> np.ndarray:
        """The UTF-8 bytes [S] of ``text``, uint8."""
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)

    def symbol(self, token: int) -> str:
        """The byte as an ASCII character, or written as ``\\xe4``."""
        return chr(token) if token < 128 else f"\\x{token:02x}"

    def decoder(self, before: str = "") -> Callable[[np.ndarray], str]:
        """Return a function that turns consecutive tokens [S] into text, which follows the text ``before``.

        An incomplete character at the end of a call is completed by the next call; bytes that are not UTF-8 become
        replacement characters.
        """
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        return lambda tokens: decode(tokens.astype(np.uint8).tobytes())

    def entries(self) -> list[bytes]:
        """What each number stands for, in their order."""
        return [bytes([number]) for number in range(len(self))]

    def to_config(self) -> dict[str, str]:
        """A description for JSON."""
        return {"kind": self.kind}


class Words:
    """A vocabulary of words and symbols, and what is not in it: ``<unk>``, number 0.

    Text is split by the rule "word" of :class:`~minirnn.data.tokenize.Tokenizer`; the end of a line is a token,
    ``"\\n"``. Decoded tokens are the text again, but for its unknown words, and for white space: of several blanks one
    is left, and none at the ends of lines.

    Args:
        vocabulary: the tokens. lower: lower-case the text.

    >>> words = Words.of(["No, no\\nno"])
    >>> words.split("No, no"), words.encode("No,\\nyes").tolist()
    (['No', '\uffed,', 'no'], [2, 3, 4, 0])
    """

    kind = "words"
    never = (0,)

    def __init__(self, vocabulary: Vocabulary, lower: bool = False) -> None:
        self.vocabulary, self.tokenizer = vocabulary, Tokenizer(lower=lower)

    @classmethod
    def of(cls, texts: Iterable[str], lower: bool = False) -> Words:
        """The vocabulary of all words of ``texts``."""
        return cls(Vocabulary.of(map(cls(Vocabulary([]), lower).split, texts)), lower)

    def most_frequent(self, tokens: np.ndarray, min_count: int = 1, max_size: int | None = None) -> Words:
        """The words that occur in ``tokens`` [S], as :meth:`Vocabulary.of` chooses them."""
        counts = np.zeros(len(self), np.int64)
        for chunk in iter_chunks(tokens):
            counts += np.bincount(chunk, minlength=len(self))
        counts[0] = 0
        order = np.argsort(-counts, kind="stable")[:max_size].tolist()
        return Words(Vocabulary(self.symbol(n) for n in order if counts[n] >= min_count), self.tokenizer.lower)

    def __len__(self) -> int:
        return len(self.vocabulary) - UNK

    def split(self, text: str) -> list[str]:
        """The tokens of ``text``."""
        lines = map(self.tokenizer.split, text.split("\n"))
        return [*next(lines), *(token for line in lines for token in ("\n", *line))]

    def missing(self, text: str) -> list[str]:
        """The words of ``text`` that are not in the vocabulary, each once."""
        return list(dict.fromkeys(t.strip(GLUE) for t in self.split(text) if t not in self.vocabulary))

    def encode(self, text: str) -> np.ndarray:
        """Token numbers [S] of ``text``."""
        return (self.vocabulary.encode(self.split(text)) - UNK).astype(np.min_scalar_type(len(self) - 1))

    def symbol(self, token: int) -> str:
        """The word that is ``token``; a symbol has a ``\uffed`` where no space stood."""
        return self.vocabulary.tokens[token + UNK]

    def decoder(self, before: str = "") -> Callable[[np.ndarray], str]:
        """Return a function that turns consecutive tokens [S] into text, which follows the text ``before``."""
        last = "\n" if not before or before[-1].isspace() else self.split(before)[-1]

        def decode(tokens: np.ndarray) -> str:
            nonlocal last
            words = [self.symbol(token) for token in tokens.tolist()]
            text = "".join(join_words(words, last))
            last = words[-1] if words else last
            return text

        return decode

    def entries(self) -> list[Hashable]:
        """What each number stands for, in their order: a special as its number, see :meth:`Vocabulary.entries`."""
        return self.vocabulary.entries()[UNK:]

    def to_config(self) -> dict[str, Any]:
        """A description for JSON."""
        return {"kind": self.kind, "lower": self.tokenizer.lower, **self.vocabulary.to_config()}


Symbols = Characters | Bytes | Words


def symbols_from_config(config: dict[str, Any]) -> Symbols:
    """Return the vocabulary that ``to_config`` described; a :class:`DataError` if it describes none."""
    kind, characters, lower = config.get("kind"), config.get("characters"), config.get("lower")
    if kind == Bytes.kind:
        return Bytes()
    if kind == Characters.kind and isinstance(characters, str):
        return Characters(characters)
    if kind == Words.kind and isinstance(lower, bool):
        return Words(Vocabulary.from_config(config), lower)
    raise DataError(f"unknown vocabulary {kind!r}")


def union(symbols: Symbols, others: Symbols) -> Symbols:
    """Return the vocabulary of the symbols of both; a :class:`DataError` if they are of different kinds."""
    if isinstance(symbols, Characters) and isinstance(others, Characters):
        return Characters.of(symbols.characters + others.characters)
    if isinstance(symbols, Words) and isinstance(others, Words):
        return Words(symbols.vocabulary.union(others.vocabulary), symbols.tokenizer.lower)
    if symbols.kind != others.kind:
        raise DataError(f"vocabulary: expected {symbols.kind}, as the trained model reads, got {others.kind}")
    return symbols


def code_points(text: str) -> np.ndarray:
    """The code points [S] of ``text``, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _chunks(text: str) -> Iterator[str]:
    return (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))


def iter_chunks(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Views of ``tokens`` [S], at most a million tokens each; of a mapped file no more than that stays in memory."""
    for start in range(0, tokens.size, _CHUNK):
        yield tokens[start : start + _CHUNK]
        _release_pages(tokens)


def _release_pages(tokens: np.ndarray) -> None:
    """Take the pages of a file mapped read-only out of this process's memory; they are read again when needed."""
    mapped = getattr(tokens, "_mmap", None)
    if mapped is not None and not tokens.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Streams:
    """A token sequence cut into N contiguous streams that are read in parallel, in chunks of T steps.

    Stream n holds the tokens from ``n * L`` on, so a recurrent state carried from chunk to chunk has seen the tokens
    before. Only the chunk that is read is copied.

    Attributes:
        tokens, seq_length: [N, L], one stream per row, may be mapped from a file; T.
    """

    tokens: np.ndarray
    seq_length: int

    @classmethod
    def of(cls, tokens: np.ndarray, batch_size: int, seq_length: int) -> Streams:
        """Cut ``tokens`` [S] into ``batch_size`` streams, or fewer where they would be shorter than one chunk.

        Raises:
            DataError, OptionError: there are fewer than two tokens; a number is not an int of at least 1.
        """
        check_int("batch size", batch_size)
        check_int("sequence length", seq_length)
        if tokens.size < 2:
            raise DataError(f"expected at least two tokens to predict one from the other, got {tokens.size}")
        count = max(1, min(batch_size, tokens.size // (seq_length + 1)))
        length = tokens.size // count
        return cls(tokens[: length * count].reshape(count, length), seq_length)

    @property
    def batch_size(self) -> int:
        """N."""
        return self.tokens.shape[0]

    def __len__(self) -> int:
        """Chunks per epoch."""
        return -(-(self.tokens.shape[1] - 1) // self.seq_length)

    def chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets [T, N] of chunk ``number``, the targets one step later; the last may be shorter."""
        start = number * self.seq_length
        rows = np.ascontiguousarray(self.tokens[:, start : start + self.seq_length + 1].T)
        if number % _RELEASE_EVERY == 0:
            _release_pages(self.tokens)
        return rows[:-1], rows[1:]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self.chunk(number) for number in range(len(self)))
