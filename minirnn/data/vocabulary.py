"""Tokens and class names as numbers, and back."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from minirnn.errors import DataError, DTypeError, IndexRangeError, OptionError, ShapeError

PAD, START, END, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")


class Vocabulary:
    """Tokens, numbered after the four specials: padding, start, end and unknown.

    A token of the data that is spelled like a special is a token of its own, with a number of its own.

    Attributes:
        tokens: every token in the order of the numbers, the specials first.

    Raises:
        DataError: a token is no string, or given twice.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._numbers: dict[str, int] = {}
        for number, token in enumerate(tokens, len(SPECIALS)):
            if not isinstance(token, str):
                raise DataError(f"vocabulary: token {number} is {token!r}, expected a string")
            if self._numbers.setdefault(token, number) != number:
                raise DataError(f"vocabulary: token {token!r} stands at {self._numbers[token]} and again at {number}")
        self.tokens = [*SPECIALS, *self._numbers]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]], min_count: int = 1, max_size: int | None = None) -> Self:
        """The tokens of ``sequences`` by falling frequency, equally frequent ones in order of first appearance.

        Args:
            min_count: rarer tokens are left out.
            max_size: how many tokens are kept beside the specials; None keeps all.

        Raises:
            OptionError: ``min_count`` or ``max_size`` is below 1.
        """
        if min_count < 1 or (max_size is not None and max_size < 1):
            raise OptionError(f"vocabulary: min_count and max_size must be at least 1, got {min_count} and {max_size}")
        counts = Counter(token for sequence in sequences for token in sequence)
        return cls(token for token, count in counts.most_common(max_size) if count >= min_count)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        """Whether the data's ``token`` has a number of its own."""
        return token in self._numbers

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Numbers [T] of ``tokens``, int64; UNK for those that are not in the vocabulary."""
        return np.fromiter((self._numbers.get(token, UNK) for token in tokens), np.int64, len(tokens))

    def decode(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The tokens of ``ids`` [T] up to the first END, without PAD and START; UNK reads ``<unk>``.

        Raises:
            ShapeError, DTypeError: ``ids`` are not integers in one row.
            IndexRangeError: a number is out of range.
        """
        numbers = _whole_numbers("Vocabulary.decode", ids, len(self))
        if END in numbers:
            numbers = numbers[: numbers.index(END)]
        return [self.tokens[number] for number in numbers if number not in (PAD, START)]

    def to_config(self) -> dict[str, Any]:
        """A description for JSON: the tokens after the specials."""
        return {"tokens": self.tokens[len(SPECIALS) :]}

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The vocabulary that ``to_config`` described.

        Raises:
            DataError: it describes no vocabulary.
        """
        return cls(_strings(config, "vocabulary", "tokens"))


class Labels:
    """The names of classes, numbered from 0 in sorted order.

    Raises:
        DataError: there are none, one is no string, or they are not different and in sorted order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        if not self.names:
            raise DataError("labels: there is no class")
        for name in self.names:
            if not isinstance(name, str):
                raise DataError(f"labels: {name!r} is no string")
        for name, following in zip(self.names, self.names[1:], strict=False):
            if following <= name:
                raise DataError(f"labels: {following!r} after {name!r}; expected different names in sorted order")
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def of(cls, labels: Iterable[str]) -> Self:
        """The different names in ``labels``."""
        return cls(sorted(set(labels)))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Numbers [N] of ``labels``, int64.

        Raises:
            DataError: a label is none of the names.
        """
        try:
            return np.fromiter((self._numbers[label] for label in labels), np.int64, len(labels))
        except KeyError as error:
            known = ", ".join(self.names[:10]) + (", ..." if len(self) > 10 else "")
            raise DataError(f"label {error.args[0]!r} is none of the {len(self)} known: {known}") from None

    def decode(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The names of class numbers [N].

        Raises:
            ShapeError, DTypeError: ``ids`` are not integers in one row.
            IndexRangeError: a number is out of range.
        """
        return [self.names[number] for number in _whole_numbers("Labels.decode", ids, len(self))]

    def to_config(self) -> dict[str, Any]:
        """A description for JSON."""
        return {"names": list(self.names)}

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The labels that ``to_config`` described.

        Raises:
            DataError: it describes no labels.
        """
        return cls(_strings(config, "labels", "names"))


def _strings(config: Any, what: str, key: str) -> list[Any]:
    """The list at ``key`` of a description that may be anybody's."""
    found = config.get(key) if isinstance(config, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{what}: expected a description with a list of strings as {key!r}, got {reprlib.repr(config)}")
    return found


def _whole_numbers(name: str, ids: Any, count: int) -> list[int]:
    """``ids`` [T] as a list, all from 0 to below ``count``."""
    numbers = np.asarray(ids)
    if numbers.ndim != 1:
        raise ShapeError(f"{name}: expected numbers [T], got shape {list(numbers.shape)}")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise DTypeError(f"{name}: expected integers, got {numbers.dtype}")
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if outside.size:
        raise IndexRangeError(f"{name}: {outside[0]} is out of range; expected 0 to {count - 1}")
    return numbers.tolist()
