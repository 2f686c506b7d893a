"""How the rows of a ragged batch lie in memory, so that no kernel ever computes a padded step.

A batch of N sequences of lengths L_n is *packed*: sequences sorted by falling length, then step by step, the
rows that are still running. Step t holds rows ``starts[t]`` to ``starts[t + 1]``; row r of a step is always
sequence ``order[r]``. A batch without lengths is the special case in which every step holds N rows, and its
packed form is the plain ``[T, N, ...]`` array.

States lie in arrays of N + S rows (S packed rows): first the N initial states, then every step's result.
``previous`` and ``final`` index into these.
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
        reverse: walk from each sequence's own last step to its first.
        starts: [T + 1] first packed row of each step.
        cumulative_steps: [N + 1] steps of all sequences before each sorted place.
        previous: [S] for each packed row, the state row it continues from.
        final: [N] for each sorted sequence, the state row after its last step in this direction.
        order: [N] the sequence at each sorted place; None when nothing was sorted.
        packed: [S] for each packed row, its row in the padded [T * N] batch; None when they are the same.
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
    def places(self) -> np.ndarray:
        """[N] the sorted place of each sequence."""
        return np.arange(self.batch) if self.order is None else np.argsort(self.order)


def _layout(
    lengths: np.ndarray, length: int, reverse: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """starts, previous, final, and each packed row's step and place, for lengths sorted downwards."""
    batch = len(lengths)
    counts = np.searchsorted(-lengths, -np.arange(1, length + 1), side="right")
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    step = np.repeat(np.arange(length), counts)
    place = np.arange(starts[-1]) - starts[step]
    places = np.arange(batch)
    if reverse:
        neighbour = np.minimum(step + 1, length - 1)
        continues = step + 1 < lengths[place]
        final = np.where(lengths > 0, batch + places, places)
    else:
        neighbour = np.maximum(step - 1, 0)
        continues = step > 0
        final = np.where(lengths > 0, batch + starts[np.maximum(lengths - 1, 0)] + places, places)
    previous = np.where(continues, batch + starts[neighbour] + place, place)
    return starts, previous.astype(np.int64), final.astype(np.int64), step, place


def cumulative_steps_of(lengths: np.ndarray) -> np.ndarray:
    """How many steps the sequences before each place have, [N + 1]: by which threads share them out."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@functools.lru_cache(maxsize=256)
def dense_steps(length: int, batch: int, reverse: bool = False) -> Steps:
    """The layout of a batch in which every sequence has ``length`` steps."""
    lengths = np.full(batch, length)
    starts, previous, final, _, _ = _layout(lengths, length, reverse)
    return Steps(length, batch, reverse, starts, cumulative_steps_of(lengths), previous, final, None, None)


def ragged_steps(lengths: np.ndarray, length: int) -> tuple[Steps, Steps]:
    """The forward and the reverse layout of a batch with ``lengths`` [N], each from 0 to ``length``."""
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    both = []
    for reverse in (False, True):
        starts, previous, final, step, place = _layout(sorted_lengths, length, reverse)
        packed = step * len(lengths) + order[place]
        cumulative_steps = cumulative_steps_of(sorted_lengths)
        both.append(Steps(length, len(lengths), reverse, starts, cumulative_steps, previous, final, order, packed))
    return both[0], both[1]
