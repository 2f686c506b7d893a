"""FLOOR 4: from a model that scores the next token to whole sequences: greedy and beam search, on arrays.

A model is given as a function ``step(tokens [B], state) -> Scores``, and its state as anything that
``select(state, rows)`` can pick rows of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minirnn.errors import OptionError, ShapeError


class Scores(NamedTuple):
    """What one step gives for B rows.

    Attributes:
        log_probs: [B, V] log-probabilities of the next token; -inf (or NaN) forbids one.
        attention: [B, S] weights on the source, or None.
        state: after the step.
    """

    log_probs: np.ndarray
    attention: np.ndarray | None
    state: Any


Step = Callable[[np.ndarray, Any], Scores]
Select = Callable[[Any, np.ndarray], Any]


@dataclass(frozen=True)
class Hypothesis:
    """One decoded sequence.

    Attributes:
        tokens: [T] without start and end.
        log_prob: sum of the tokens' log-probabilities, the end's included where it was reached.
        score: ``log_prob`` over the length penalty.
        attention: [T, S], the weights each token was made with, or None.
    """

    tokens: np.ndarray
    log_prob: float
    score: float
    attention: np.ndarray | None


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, section 7); alpha 0 is no penalty, so that short ones win."""
    return ((5 + length) / 6) ** alpha


def beam_search(
    step: Step, select: Select, state: Any, batch: int, start: int, end: int,
    max_length: int | Sequence[int] | np.ndarray, width: int = 1, alpha: float = 1.0,
) -> list[Hypothesis]:  # fmt: skip
    """The best hypothesis found for each of ``batch`` sequences.

    At every step the ``width`` most likely continuations of a sequence's living hypotheses stay; those that end leave
    the beam. The best score of all that have ended wins, and the search is over when nothing that lives can reach it
    any more: further tokens lower the log-probability, and the penalty is largest at ``max_length``. Width 1 is greedy
    decoding; where the beam holds every hypothesis the result is the true optimum.

    Args:
        state: of ``batch`` rows.
        start, end: tokens a sequence begins with (not scored) and ends with.
        max_length: tokens at most, the end included, of all sequences or of each [batch]; what lives then is taken as
            it is. So is what lives where no token may follow and nothing has ended.
        alpha: exponent of :func:`length_penalty`.

    Raises:
        OptionError: width or max_length is under 1, alpha negative or not finite, or the end no token.
        ShapeError: there are not as many max_lengths as sequences.
    """
    limits = np.asarray(max_length)
    if limits.ndim and limits.shape != (batch,):
        raise ShapeError(f"beam_search: expected one max_length, or one for each of {batch}, got {list(limits.shape)}")
    whole = isinstance(width, (int, np.integer)) and (limits.dtype.kind in "iu" or not limits.size)
    if not whole or width < 1 or limits.min(initial=1) < 1:
        raise OptionError(
            f"beam_search: width and max_length must be integers of at least 1, got {width} and {max_length}"
        )
    if not 0 <= alpha < float("inf"):
        raise OptionError(f"beam_search: alpha must be at least 0, got {alpha}")
    beams = [_Beam(width, start, end, int(limit), alpha) for limit in np.broadcast_to(limits, batch)]
    living = beams  # rows of the model lie sequence by sequence, those of one beam together
    while living:
        tokens = np.array([path.token for beam in living for path in beam.alive])
        log_probs, attention, state = step(tokens, state)
        if log_probs.shape[1] <= end:
            raise OptionError(f"beam_search: the end is token {end}, but there are only {log_probs.shape[1]}")
        rows: list[int] = []
        first = 0
        for beam in living:
            last = first + len(beam.alive)
            parents = beam.grow(log_probs[first:last], None if attention is None else attention[first:last])
            rows += [first + parent for parent in parents]
            first = last
        living = [beam for beam in living if beam.alive]
        state = select(state, np.array(rows, np.int64))
    return [beam.best for beam in beams if beam.best is not None]  # a beam without one is still living


@dataclass(frozen=True)
class _Path:
    """A hypothesis as a chain back to the start."""

    log_prob: float
    token: int
    length: int
    before: _Path | None
    attention: np.ndarray | None


class _Beam:
    """The hypotheses of one sequence."""

    def __init__(self, width: int, start: int, end: int, max_length: int, alpha: float) -> None:
        self.width, self.end, self.max_length, self.alpha = width, end, max_length, alpha
        self.alive = [_Path(0.0, start, 0, None, None)]
        self.best: Hypothesis | None = None

    def grow(self, log_probs: np.ndarray, attention: np.ndarray | None) -> list[int]:
        """Continue all living hypotheses by one token; returns the old place of each that lives on.

        Args:
            log_probs: [alive, V]. attention: [alive, S] or None.
        """
        totals = (log_probs + np.array([[path.log_prob] for path in self.alive])).ravel()
        totals[np.isnan(totals)] = -np.inf
        parents: list[int] = []
        alive: list[_Path] = []
        for place in _largest(totals, self.width):
            if totals[place] == -np.inf:
                break
            parent, token = divmod(int(place), log_probs.shape[1])
            before = self.alive[parent]
            weights = None if attention is None else attention[parent]
            path = _Path(float(totals[place]), token, before.length + 1, before, weights)
            if token == self.end or path.length == self.max_length:
                self._finish(path)
            else:
                parents.append(parent)
                alive.append(path)
        if not alive and self.best is None:
            for path in self.alive:
                self._finish(path)
        largest = length_penalty(self.max_length, self.alpha)
        if self.best is not None and all(path.log_prob / largest <= self.best.score for path in alive):
            parents, alive = [], []
        self.alive = alive
        return parents

    def _finish(self, path: _Path) -> None:
        """Keep a hypothesis that has ended, where it is the best so far."""
        log_prob, score = path.log_prob, path.log_prob / length_penalty(path.length, self.alpha)
        if self.best is not None and score <= self.best.score:
            return
        links: list[_Path] = []
        while path.before is not None:
            links.append(path)
            path = path.before
        links.reverse()
        attention = np.array([link.attention for link in links]) if links and links[0].attention is not None else None
        if links and links[-1].token == self.end:
            links.pop()
            attention = None if attention is None else attention[:-1]
        self.best = Hypothesis(np.array([link.token for link in links], np.int64), log_prob, score, attention)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` largest values are, largest first, equals in order."""
    if count == 1:
        return np.array([values.argmax()])
    if count < values.size:
        found = np.flatnonzero(values >= np.partition(values, -count)[-count])
    else:
        found = np.arange(values.size)
    return found[np.argsort(-values[found], kind="stable")[:count]]
