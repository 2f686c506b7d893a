"""Ragged sequences as batches: padding, and batches of like lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.errors import DTypeError, OptionError, ShapeError

_PIECE = 100  # batches that are sorted together: enough to pad little, few enough that batches change every epoch


def pad(sequences: Sequence[Any], value: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sequences side by side, the shorter ones filled up with ``value``.

    Args:
        sequences: N sequences, each of integers [t] or of vectors [t, F]; t may be 0.

    Returns:
        ``(array, lengths)``: array [T, N] int64, or [T, N, F] in the floating-point type of the vectors, float32 where
        they have none (lists, integers); lengths [N] int64. T is the longest length, at least 1.

    Raises:
        ShapeError: a sequence is neither, or not like the first; says which.
        DTypeError: a sequence holds something else than numbers, or fractions where integers are expected.
    """
    arrays = [_array(n, sequence) for n, sequence in enumerate(sequences)]
    lengths = np.fromiter((len(a) for a in arrays), np.int64, len(arrays))
    filled = [(n, a) for n, a in enumerate(arrays) if a.shape != (0,)]  # an empty list fits everywhere
    tail = filled[0][1].shape[1:] if filled else ()
    for n, a in filled:
        if a.shape[1:] != tail:
            k, first = filled[0]
            raise ShapeError(f"pad: sequence {k} is {list(first.shape)} but sequence {n} {list(a.shape)}")
        if a.dtype.kind not in ("iubf" if tail else "iub"):
            raise DTypeError(f"pad: sequence {n} holds {a.dtype}; expected integers [t], or vectors [t, F]")
    kinds = [a.dtype for n, a in filled if isinstance(sequences[n], np.ndarray) and a.dtype.kind == "f"]
    dtype = (np.result_type(*kinds) if kinds else np.dtype(np.float32)) if tail else np.dtype(np.int64)
    padded = np.full((max(1, lengths.max(initial=0)), len(arrays), *tail), value, dtype)
    for n, a in filled:
        padded[: len(a), n] = a
    return padded, lengths


def _array(n: int, sequence: Any) -> np.ndarray:
    try:
        array = np.asarray(sequence)
    except ValueError:
        raise ShapeError(f"pad: sequence {n} is ragged itself; expected vectors of one size [t, F]") from None
    if array.ndim not in (1, 2):
        raise ShapeError(f"pad: sequence {n} has shape {list(array.shape)}; expected numbers [t] or vectors [t, F]")
    return array


def valid_rows(steps: int, lengths: np.ndarray) -> np.ndarray:
    """Which rows [S] of a padded batch [T, N, ...], taken row by row as [T N, ...], are no padding.

    Args:
        steps: T. lengths: [N].
    """
    return np.flatnonzero(np.arange(steps)[:, None] < lengths)


class Buckets:
    """Batches of sequences of like lengths, so that little of a batch is padding.

    Args:
        lengths: [S], or a tuple of several such keys (source, target): sorted by the first, equals by the next.
        batch_size: N; the last batch of a pass may be smaller.

    Raises:
        ShapeError: the keys are not all [S].
        OptionError: ``batch_size`` is below 1.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray | tuple[Any, ...], batch_size: int) -> None:
        keys = [np.asarray(key) for key in (lengths if isinstance(lengths, tuple) else (lengths,))]
        shapes = [list(key.shape) for key in keys]
        if not keys or any(len(shape) != 1 or shape != shapes[0] for shape in shapes):
            raise ShapeError(
                f"Buckets: expected lengths [S], or a tuple of such, one for each key; got shapes {shapes}"
            )
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise OptionError(f"Buckets: the batch size must be an int of at least 1, got {batch_size}")
        self._keys, self.batch_size = keys, batch_size

    def __len__(self) -> int:
        """Batches in one pass."""
        return -(-self._keys[0].size // self.batch_size)

    def order(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches of one pass in random order, each the indices [N] of its sequences; every index once.

        The sequences are shuffled and taken in pieces of a hundred batches; each piece is sorted by length and cut.
        """
        shuffled = rng.permutation(self._keys[0].size)
        size = _PIECE * self.batch_size
        pieces = (shuffled[start : start + size] for start in range(0, shuffled.size, size))
        batches = [batch for piece in pieces for batch in self._cut(piece)]
        return [batches[k] for k in rng.permutation(len(batches))]

    def in_order(self) -> list[np.ndarray]:
        """The batches of one pass from the shortest sequences to the longest, without randomness."""
        return self._cut(np.arange(self._keys[0].size))

    def _cut(self, indices: np.ndarray) -> list[np.ndarray]:
        """``indices``, sorted by length, in batches."""
        indices = indices[np.lexsort([key[indices] for key in reversed(self._keys)])]  # lexsort's last key comes first
        return [indices[start : start + self.batch_size] for start in range(0, indices.size, self.batch_size)]
