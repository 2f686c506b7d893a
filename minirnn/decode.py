"""From a model that scores the next token to whole sequences: greedy and beam search, on arrays.

A model is given as a function ``step(tokens [B], state) -> Scores``, and its state as anything whose rows
``select(state, rows)`` can pick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minirnn.errors import OptionError, ShapeError
from minirnn.validation import check_float, check_int

State = Any
"""The state of a model, whatever it is; the search only passes it on."""


class Scores(NamedTuple):
    """The result of one step for B rows.

    Attributes:
        log_probs: [B, V] log-probabilities of the next token; -inf or NaN forbids one.
        attention: [B, S] weights on the source, or None.
        state: after the step.
    """

    log_probs: np.ndarray
    attention: np.ndarray | None
    state: State


Step = Callable[[np.ndarray, State], Scores]
Select = Callable[[State, np.ndarray], State]


@dataclass(frozen=True)
class Hypothesis:
    """One decoded sequence.

    Attributes:
        tokens: [T] without start and end.
        log_prob: sum of the tokens' log-probabilities, in nats; with that of the end where it was reached.
        score: ``log_prob`` divided by the length penalty.
        attention: [T, S], the weights with which each token was predicted, or None.
    """

    tokens: np.ndarray
    log_prob: float
    score: float
    attention: np.ndarray | None


def length_penalty(length: int, alpha: float) -> float:
    """``((5 + length) / 6)^alpha`` (Wu et al. 2016, arXiv:1609.08144, section 7).

    With alpha 0 there is no penalty, and short hypotheses win.
    """
    return ((5 + length) / 6) ** alpha


def beam_search(
    step: Step,
    select: Select,
    state: State,
    batch: int,
    start: int,
    end: int,
    max_length: int | Sequence[int] | np.ndarray,
    width: int = 1,
    alpha: float = 1.0,
) -> list[Hypothesis]:
    """The best hypothesis found for each of ``batch`` sequences.

    At every step the ``width`` most likely continuations of a sequence's active hypotheses are kept; those that end
    leave the beam. The ended hypothesis with the best score is returned; the search stops when no active one can reach
    that score any more: further tokens lower the log-probability, and the penalty is largest at ``max_length``. Width 1
    is greedy decoding; a beam that holds every hypothesis finds the optimum.

    Args:
        step: scores the next token of B rows.
        select: picks rows of a state.
        state: of ``batch`` rows.
        batch: number of sequences N.
        start, end: tokens a sequence begins with (not scored) and ends with.
        max_length: tokens at most, the end included, of all sequences or of each [N]. Hypotheses of that length end, as
            do active ones where no token may follow and nothing has ended.
        width: hypotheses kept for each sequence.
        alpha: exponent of :func:`length_penalty`.

    Returns:
        N hypotheses.

    Raises:
        OptionError: width or max_length is below 1, alpha negative or not finite, or the end is not a token.
        ShapeError: there are not as many max_lengths as sequences.
    """
    limits = np.asarray(max_length)
    if limits.ndim and limits.shape != (batch,):
        raise ShapeError(f"beam_search: expected one max_length, or one for each of {batch}, got {list(limits.shape)}")
    width = check_int("beam_search: width", width)
    alpha = check_float("beam_search: alpha", alpha, finite=True)
    lengths = [check_int("beam_search: max_length", limit) for limit in np.broadcast_to(limits, batch)]
    beams = [_Beam(width, start, end, length, alpha) for length in lengths]
    active = beams  # the model's rows are in the order of the sequences, those of one beam together
    while active:
        tokens = np.array([path.token for beam in active for path in beam.paths])
        log_probs, attention, state = step(tokens, state)
        if log_probs.shape[1] <= end:
            raise OptionError(f"beam_search: the end is token {end}, but there are only {log_probs.shape[1]}")
        rows: list[int] = []
        first = 0
        for beam in active:
            last = first + len(beam.paths)
            parents = beam.extend(log_probs[first:last], None if attention is None else attention[first:last])
            rows += [first + parent for parent in parents]
            first = last
        active = [beam for beam in active if beam.paths]
        state = select(state, np.array(rows, np.int64))
    return [beam.best for beam in beams if beam.best is not None]  # a beam without a best hypothesis is still active


@dataclass(frozen=True)
class _Path:
    """A hypothesis as a chain back to the start."""

    log_prob: float
    token: int
    length: int
    parent: _Path | None
    attention: np.ndarray | None


class _Beam:
    """The hypotheses of one sequence."""

    def __init__(self, width: int, start: int, end: int, max_length: int, alpha: float) -> None:
        self.width, self.end, self.max_length, self.alpha = width, end, max_length, alpha
        self.paths = [_Path(0.0, start, 0, None, None)]
        self.best: Hypothesis | None = None

    def extend(self, log_probs: np.ndarray, attention: np.ndarray | None) -> list[int]:
        """Extend all active hypotheses by one token; returns for each new active one the index of its parent.

        Args:
            log_probs: [active, V]. attention: [active, S] or None.
        """
        totals = (log_probs + np.array([[path.log_prob] for path in self.paths])).ravel()
        totals[np.isnan(totals)] = -np.inf
        parents: list[int] = []
        paths: list[_Path] = []
        for index in _largest(totals, self.width):
            if totals[index] == -np.inf:
                break
            row, token = divmod(int(index), log_probs.shape[1])
            parent, weights = self.paths[row], None if attention is None else attention[row]
            path = _Path(float(totals[index]), token, parent.length + 1, parent, weights)
            if token == self.end or path.length == self.max_length:
                self._finish(path)
            else:
                parents.append(row)
                paths.append(path)
        if not paths and self.best is None:
            for path in self.paths:
                self._finish(path)
        largest = length_penalty(self.max_length, self.alpha)
        if self.best is not None and all(path.log_prob / largest <= self.best.score for path in paths):
            parents, paths = [], []
        self.paths = paths
        return parents

    def _finish(self, path: _Path) -> None:
        """Keep an ended hypothesis if it is the best so far."""
        log_prob, score = path.log_prob, path.log_prob / length_penalty(path.length, self.alpha)
        if self.best is not None and score <= self.best.score:
            return
        chain: list[_Path] = []
        while path.parent is not None:
            chain.append(path)
            path = path.parent
        chain.reverse()
        weights = [one.attention for one in chain]
        attention = np.array(weights) if chain and weights[0] is not None else None
        if chain and chain[-1].token == self.end:
            chain.pop()
            attention = None if attention is None else attention[:-1]
        self.best = Hypothesis(np.array([one.token for one in chain], np.int64), log_prob, score, attention)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` largest values, largest first, equal ones in order."""
    if count == 1:
        return np.array([values.argmax()])
    if count < values.size:
        found = np.flatnonzero(values >= np.partition(values, -count)[-count])
    else:
        found = np.arange(values.size)
    return found[np.argsort(-values[found], kind="stable")[:count]]
