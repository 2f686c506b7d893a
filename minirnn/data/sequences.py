"""Batches of sequences of different lengths: padding, and batches of similar lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from minirnn.errors import DTypeError, ShapeError
from minirnn.validation import check_int

_BATCHES_PER_SORT = 100  # enough to pad little, few enough that the batches differ from epoch to epoch


def pad(sequences: Sequence[ArrayLike], value: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stack sequences side by side, the shorter ones padded with ``value`` at the end.

    ``sequences`` are N sequences, each of integers [t] or of vectors [t, F]; t may be 0.

    Returns:
        ``(array, lengths)``: array [T, N] int64, or [T, N, F] in the floating-point type of the vectors, float32 where
        they have none (lists, integers); lengths [N] int64. T is the longest length, at least 1.

    Raises:
        ShapeError: a sequence has another number of dimensions, or other features than the first.
        DTypeError: a sequence does not hold numbers, or fractions where integers are expected.

    >>> array, lengths = pad([[1, 2, 3], [4]])
    >>> array.tolist(), lengths.tolist()
    ([[1, 4], [2, 0], [3, 0]], [3, 1])
    """
    arrays = [_as_array(n, sequence) for n, sequence in enumerate(sequences)]
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    filled = [(n, a) for n, a in enumerate(arrays) if a.shape != (0,)]  # an empty list fits everywhere
    features = filled[0][1].shape[1:] if filled else ()
    for n, a in filled:
        if a.shape[1:] != features:
            k, first = filled[0]
            raise ShapeError(f"pad: sequence {k} is {list(first.shape)} but sequence {n} {list(a.shape)}")
        if a.dtype.kind not in ("iubf" if features else "iub"):
            raise DTypeError(f"pad: sequence {n} holds {a.dtype}; expected integers [t], or vectors [t, F]")
    floats = [a.dtype for n, a in filled if isinstance(sequences[n], np.ndarray) and a.dtype.kind == "f"]
    dtype = (np.result_type(*floats) if floats else np.dtype(np.float32)) if features else np.dtype(np.int64)
    padded = np.full((max(1, lengths.max(initial=0)), len(arrays), *features), value, dtype)
    for n, a in filled:
        padded[: len(a), n] = a
    return padded, lengths


def _as_array(n: int, sequence: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(sequence)
    except ValueError:
        raise ShapeError(f"pad: sequence {n} is ragged itself; expected vectors of one size [t, F]") from None
    if array.ndim not in (1, 2):
        raise ShapeError(f"pad: sequence {n} has shape {list(array.shape)}; expected numbers [t] or vectors [t, F]")
    return array


def valid_rows(steps: int, lengths: np.ndarray) -> np.ndarray:
    """Indices [S] of the rows that are not padding, of a batch of T ``steps`` and N ``lengths``, as rows [T N, ...]."""
    return np.flatnonzero(np.arange(steps)[:, None] < lengths)


class Buckets:
    """Batches of sequences of similar lengths, so that little of a batch is padding.

    Args:
        lengths: [S], or a tuple of several such keys (source, target): sorted by the first, ties by the next.
        batch_size: N; the last batch of an epoch may be smaller.

    Raises:
        ShapeError, OptionError: the keys are not all [S]; ``batch_size`` is not an int of at least 1.
    """

    def __init__(self, lengths: ArrayLike, batch_size: int) -> None:
        keys = [np.asarray(key) for key in (lengths if isinstance(lengths, tuple) else (lengths,))]
        shapes = [list(key.shape) for key in keys]
        if not keys or any(len(shape) != 1 or shape != shapes[0] for shape in shapes):
            raise ShapeError(f"Buckets: expected lengths [S], or a tuple of such keys, got shapes {shapes}")
        self._keys, self.batch_size = keys, check_int("batch size", batch_size)

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self._keys[0].size // self.batch_size)

    def order(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches of one epoch in random order, each the indices [N] of its sequences; every index once.

        The sequences are shuffled; every hundred batches of them are sorted by length and cut.
        """
        shuffled = rng.permutation(self._keys[0].size)
        size = _BATCHES_PER_SORT * self.batch_size
        parts = (shuffled[start : start + size] for start in range(0, shuffled.size, size))
        batches = [batch for part in parts for batch in self._cut(part)]
        return [batches[k] for k in rng.permutation(len(batches))]

    def in_order(self) -> list[np.ndarray]:
        """The batches of one epoch from the shortest sequences to the longest, without randomness."""
        return self._cut(np.arange(self._keys[0].size))

    def _cut(self, indices: np.ndarray) -> list[np.ndarray]:
        """``indices``, sorted by length, in batches."""
        indices = indices[np.lexsort([key[indices] for key in reversed(self._keys)])]  # lexsort's last key comes first
        return [indices[start : start + self.batch_size] for start in range(0, indices.size, self.batch_size)]
