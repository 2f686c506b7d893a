"""Vocabularies of tokens and of class labels: strings to numbers, and back."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from minirnn.errors import DataError, DTypeError, IndexRangeError, ShapeError
from minirnn.validation import check_int

PAD, START, END, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")


class _Numbered:
    """Different strings, numbered from ``first`` on; written to JSON as a list of strings under ``_key``."""

    _key: ClassVar[str]

    def __init__(self, strings: Iterable[str], first: int) -> None:
        self._numbers: dict[str, int] = {}
        name = type(self).__name__.lower()
        for number, string in enumerate(strings, first):
            if not isinstance(string, str):
                raise DataError(f"{name}: expected strings, got {string!r} as number {number}")
            if self._numbers.setdefault(string, number) != number:
                raise DataError(f"{name}: {string!r} stands at {self._numbers[string]} and again at {number}")

    def entries(self) -> list[Hashable]:
        """What each number stands for, in their order."""
        return list(self._numbers)

    def to_config(self) -> dict[str, list[str]]:
        """A description for JSON."""
        return {self._key: list(self._numbers)}

    @classmethod
    def from_config(cls, config: object) -> Self:
        """Return what ``to_config`` described; a :class:`DataError` if it describes something else."""
        found = config.get(cls._key) if isinstance(config, dict) else None
        if not isinstance(found, list):
            expected = f"expected a description with a list of strings as {cls._key!r}"
            raise DataError(f"{cls.__name__.lower()}: {expected}, got {reprlib.repr(config)}")
        return cls(found)  # type: ignore[call-arg] # subclasses take the strings alone


class Vocabulary(_Numbered):
    """Tokens, numbered after the four specials: padding, start, end and unknown.

    A token of the data that is spelled like a special is a token of its own, with a number of its own.

    Args:
        tokens: every token once, in the order of the numbers, without the specials; the attribute begins with them.

    Raises:
        DataError: a token is not a string, or given twice.

    >>> vocabulary = Vocabulary.of([["the", "cat"], ["the", "dog"]])
    >>> vocabulary.encode(["the", "bird"]).tolist()
    [4, 3]
    """

    _key = "tokens"

    def __init__(self, tokens: Iterable[str]) -> None:
        super().__init__(tokens, len(SPECIALS))
        self.tokens = [*SPECIALS, *self._numbers]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]], min_count: int = 1, max_size: int | None = None) -> Self:
        """The tokens of ``sequences``, the most frequent first, equally frequent ones in order of appearance.

        Tokens that occur less often than ``min_count`` are left out, and only the first ``max_size`` kept.

        Raises:
            OptionError: ``min_count`` or ``max_size`` is not an int of at least 1.
        """
        check_int("vocabulary: min_count", min_count)
        if max_size is not None:
            check_int("vocabulary: max_size", max_size)
        counts = Counter(token for sequence in sequences for token in sequence)
        return cls(token for token, count in counts.most_common(max_size) if count >= min_count)

    def union(self, other: Self) -> Self:
        """The tokens of both: those of this vocabulary keep their numbers, those of ``other`` alone follow."""
        return type(self)(dict.fromkeys([*self._numbers, *other._numbers]))

    def entries(self) -> list[Hashable]:
        """What each number stands for: a special as its number, as a token may be spelled like it, and the tokens."""
        return [*range(len(SPECIALS)), *self._numbers]

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        """Whether ``token`` of the data has a number of its own."""
        return token in self._numbers

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Numbers [T] of ``tokens``, int64; UNK for those that are not in the vocabulary."""
        return np.fromiter((self._numbers.get(token, UNK) for token in tokens), np.int64, len(tokens))

    def decode(self, ids: ArrayLike) -> list[str]:
        """The tokens of ``ids`` [T] up to the first END, without PAD and START; UNK becomes ``<unk>``.

        Raises:
            ShapeError, DTypeError, IndexRangeError: ``ids`` are not integers [T], or a number is out of range.
        """
        numbers = _as_numbers("Vocabulary.decode", ids, len(self))
        if END in numbers:
            numbers = numbers[: numbers.index(END)]
        return [self.tokens[number] for number in numbers if number not in (PAD, START)]


class Labels(_Numbered):
    """The ``names`` of classes, numbered from 0 in sorted order.

    Raises:
        DataError: there is no name, one is not a string, or they are not different and sorted.
    """

    _key = "names"

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names, 0)
        self.names = list(self._numbers)
        if not self.names:
            raise DataError("labels: expected at least one class, got none")
        for name, following in pairwise(self.names):
            if following < name:
                raise DataError(f"labels: expected names in sorted order, got {following!r} after {name!r}")

    @classmethod
    def of(cls, labels: Iterable[str]) -> Self:
        """The different names in ``labels``."""
        return cls(sorted(set(labels)))

    def union(self, other: Self) -> Self:
        """The names of both, in sorted order."""
        return self.of([*self.names, *other.names])

    def isdisjoint(self, other: Self) -> bool:
        """Whether no name is in both."""
        return self._numbers.keys().isdisjoint(other._numbers)

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Numbers [N] of ``labels``, int64; a :class:`DataError` for a label that is not one of the names."""
        try:
            return np.fromiter((self._numbers[label] for label in labels), np.int64, len(labels))
        except KeyError as error:
            known = ", ".join(self.names[:10]) + (", ..." if len(self) > 10 else "")
            raise DataError(f"label {error.args[0]!r} is none of the {len(self)} known: {known}") from None

    def decode(self, ids: ArrayLike) -> list[str]:
        """The names of class numbers [N]; raises as :meth:`Vocabulary.decode`."""
        return [self.names[number] for number in _as_numbers("Labels.decode", ids, len(self))]


def _as_numbers(name: str, ids: ArrayLike, count: int) -> list[int]:
    """``ids`` [T] as a list of integers from 0 to ``count - 1``."""
    numbers = np.asarray(ids)
    if numbers.ndim != 1:
        raise ShapeError(f"{name}: expected numbers [T], got shape {list(numbers.shape)}")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise DTypeError(f"{name}: expected integers, got {numbers.dtype}")
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if outside.size:
        raise IndexRangeError(f"{name}: {outside[0]} is out of range; expected 0 to {count - 1}")
    return numbers.tolist()
