"""Text as numbers: vocabularies of characters and bytes, contiguous streams."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn.errors import DataError, OptionError


class Characters:
    """A vocabulary of the characters of a text, numbered in the order of their code points."""

    kind = "characters"

    def __init__(self, characters: str) -> None:
        points = code_points(characters)
        if points.size == 0 or (np.diff(points.astype(np.int64)) <= 0).any():
            raise DataError("a character vocabulary holds different characters in rising order")
        self.characters, self._points = characters, points
        self._numbers = np.full(int(points[-1]) + 2, len(points), np.min_scalar_type(len(points)))  # [code point]
        self._numbers[points] = np.arange(len(points))

    @classmethod
    def of(cls, text: str) -> Characters:
        """The vocabulary of everything in ``text``."""
        found = [np.unique(code_points(piece)) for piece in _pieces(text)]
        return cls("".join(map(chr, np.unique(np.concatenate(found)))) if found else "")

    def __len__(self) -> int:
        return len(self._points)

    def missing(self, text: str) -> str:
        """The characters of ``text`` that are not in the vocabulary."""
        known = set(self.characters)
        return "".join(dict.fromkeys(c for c in text if c not in known))

    def encode(self, text: str) -> np.ndarray:
        """Token numbers of ``text``; characters that are not in the vocabulary are left out."""
        kind = np.min_scalar_type(len(self) - 1)
        parts = [np.empty(0, kind)]
        for piece in _pieces(text):
            numbers = self._numbers.take(code_points(piece), mode="clip")
            known = numbers < len(self)
            parts.append((numbers if known.all() else numbers[known]).astype(kind, copy=False))
        return np.concatenate(parts)

    def decoder(self) -> Callable[[np.ndarray], str]:
        return lambda tokens: self._points[tokens].tobytes().decode("utf-32-le")

    def to_config(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}


class Bytes:
    """The 256 byte values: a vocabulary for any file at all."""

    kind = "bytes"

    def __len__(self) -> int:
        return 256

    def missing(self, text: str) -> str:
        """Nothing: every text has bytes."""
        return ""

    def encode(self, text: str) -> np.ndarray:
        """The UTF-8 bytes of ``text``."""
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)

    def decoder(self) -> Callable[[np.ndarray], str]:
        """Bytes that are no UTF-8 become replacement characters; a character cut in two waits for its rest."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        return lambda tokens: decode(tokens.astype(np.uint8).tobytes())

    def to_config(self) -> dict[str, Any]:
        return {"kind": self.kind}


def symbols_from_config(config: dict[str, Any]) -> Characters | Bytes:
    """The vocabulary that ``to_config`` described.

    Raises:
        DataError: there is no such kind.
    """
    if config.get("kind") == Bytes.kind:
        return Bytes()
    if config.get("kind") == Characters.kind and isinstance(config.get("characters"), str):
        return Characters(config["characters"])
    raise DataError(f"unknown vocabulary {config.get('kind')!r}")


_PIECE = 1 << 20  # characters handled at once, so that a large corpus needs little beside itself
_CHUNKS_KEPT = 64  # after so many, the pages of a file that they were read from leave memory


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))


def code_points(text: str) -> np.ndarray:
    """The code points [S] of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def in_pieces(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """``tokens`` [S], some at a time; of those that lie in a file no more than that is in memory."""
    for start in range(0, tokens.size, _PIECE):
        yield tokens[start : start + _PIECE]
        _let_go(tokens)


def _let_go(tokens: np.ndarray) -> None:
    """Take the pages of a mapped file out of this process's memory; whoever reads them again finds them again."""
    mapped = getattr(tokens, "_mmap", None)
    if mapped is not None and not tokens.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):  # changes would be lost
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Streams:
    """A token sequence cut into N contiguous streams, read side by side in chunks of T steps.

    Stream n holds the tokens from ``n * length`` on, so a recurrent state carried from chunk to chunk has
    really seen what came before. Nothing is copied but the chunk that is read.

    Attributes:
        tokens: [N, L], one stream a row; may lie in a file.
        seq_length: T.
    """

    tokens: np.ndarray
    seq_length: int

    @classmethod
    def of(cls, tokens: np.ndarray, batch_size: int, seq_length: int) -> Streams:
        """Cut ``tokens`` [S]; fewer streams than ``batch_size`` where they would be shorter than one chunk.

        Raises:
            DataError: there are fewer than two tokens.
        """
        for name, value in (("batch size", batch_size), ("sequence length", seq_length)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise OptionError(f"the {name} must be an int of at least 1, got {value}")
        if tokens.size < 2:
            raise DataError(f"expected at least two tokens to predict one from the other, got {tokens.size}")
        count = max(1, min(batch_size, tokens.size // (seq_length + 1)))
        length = tokens.size // count
        return cls(tokens[: length * count].reshape(count, length), seq_length)

    @property
    def batch_size(self) -> int:
        return self.tokens.shape[0]

    def __len__(self) -> int:
        """Chunks in one pass."""
        return -(-(self.tokens.shape[1] - 1) // self.seq_length)

    def chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets [T, N], the targets one step later; the last chunk may be shorter."""
        start = number * self.seq_length
        rows = np.ascontiguousarray(self.tokens[:, start : start + self.seq_length + 1].T)
        if number % _CHUNKS_KEPT == 0:
            _let_go(self.tokens)
        return rows[:-1], rows[1:]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self.chunk(number) for number in range(len(self)))
