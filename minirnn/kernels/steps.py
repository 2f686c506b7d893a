"""The memory layout of a ragged batch, in which no kernel computes a padded step.

A batch of N sequences of lengths L_n is *packed*: sequences are sorted by decreasing length, and the rows of all
sequences that are still running are stored step by step. Step t has the rows ``starts[t]`` to ``starts[t + 1]``; its
r-th row belongs to sequence ``order[r]``. Without lengths every step has N rows, and the packed form is the plain
``[T, N, ...]`` array.

States are arrays of N + S rows for S packed rows: the N initial states, then the result of every packed row.
``previous`` and ``final`` are row numbers of these.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Steps:
    """The layout of one batch in one direction.

    Attributes:
        length: T, steps of the padded batch.
        batch: N, sequences.
        reverse: run from each sequence's own last step to its first.
        starts: [T + 1], first packed row of each step.
        cumulative_steps: [N + 1], total steps of the sequences before each sorted position.
        previous: [S], the state row each packed row continues from.
        final: [N], for each sorted position the state row after the last step in this direction.
        order: [N], the sequence at each sorted position; None when nothing was sorted.
        packed: [S], each packed row's row in the padded [T * N] batch; None when they are the same.
    """

    length: int
    batch: int
    reverse: bool
    starts: np.ndarray
    cumulative_steps: np.ndarray
    previous: np.ndarray
    final: np.ndarray
    order: np.ndarray | None
    packed: np.ndarray | None

    @property
    def rows(self) -> int:
        """S, the number of packed rows."""
        return int(self.starts[-1])

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """[N], the sorted position of each sequence."""
        return np.arange(self.batch) if self.order is None else np.argsort(self.order)


def cumulative_steps(lengths: np.ndarray) -> np.ndarray:
    """Total steps of the sequences before each, [N + 1]; threads divide the sequences by it."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _make_steps(lengths: np.ndarray, length: int, reverse: bool, order: np.ndarray | None = None) -> Steps:
    """The layout for sorted lengths; ``order`` where they were sorted."""
    batch = len(lengths)
    counts = np.searchsorted(-lengths, -np.arange(1, length + 1), side="right")
    starts = cumulative_steps(counts)
    step = np.repeat(np.arange(length), counts)
    position = np.arange(starts[-1]) - starts[step]
    positions = np.arange(batch)
    if reverse:
        neighbour = np.minimum(step + 1, length - 1)
        continues = step + 1 < lengths[position]
        last = positions
    else:
        neighbour = np.maximum(step - 1, 0)
        continues = step > 0
        last = starts[np.maximum(lengths - 1, 0)] + positions
    previous = np.where(continues, batch + starts[neighbour] + position, position).astype(np.int64)
    final = np.where(lengths > 0, batch + last, positions).astype(np.int64)
    packed = None if order is None else step * batch + order[position]
    return Steps(length, batch, reverse, starts, cumulative_steps(lengths), previous, final, order, packed)


@functools.lru_cache(maxsize=256)
def dense_steps(length: int, batch: int, reverse: bool = False) -> Steps:
    """The layout of a batch in which every sequence has ``length`` steps."""
    return _make_steps(np.full(batch, length), length, reverse)


def ragged_steps(lengths: np.ndarray, length: int) -> tuple[Steps, Steps]:
    """The forward and the reverse layout of a batch with ``lengths`` [N], each from 0 to ``length``."""
    order = np.argsort(-lengths, kind="stable")
    return _make_steps(lengths[order], length, False, order), _make_steps(lengths[order], length, True, order)
