"""From scores to whole sequences, on arrays: greedy and beam search, for models of the next token and for CTC.

For :func:`beam_search` a model is given as a function ``step(tokens [B], state) -> Scores``, and its state as anything
whose rows ``select(state, rows)`` can pick. The functions for CTC take the log-probabilities of all steps at once.
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
        tokens: [T] without start and end, or without blanks.
        log_prob: sum of the tokens' log-probabilities, in nats; with that of the end where it was reached.
        score: ``log_prob`` divided by the length penalty; with CTC ``log_prob`` itself.
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


def ctc_greedy(
    log_probs: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None, blank: int = 0
) -> list[Hypothesis]:
    """The labels of the most likely path of each sequence: the best class of each step, repetitions merged, no blanks.

    ``log_prob`` is that of the path alone, a lower bound of the labels' (best path decoding, Graves et al. 2006).

    Args:
        log_probs: [T, N, C] log-probabilities of the classes; -inf or NaN forbids one.
        lengths: [N] steps of each sequence; all T if None.
        blank: the class that stands for no label.

    Returns:
        N hypotheses.

    Raises:
        ShapeError, OptionError: shape, lengths or blank do not fit.

    >>> ctc_greedy(np.log([[[0.1, 0.9]], [[0.2, 0.8]], [[0.6, 0.4]], [[0.3, 0.7]]]))[0].tokens
    array([1, 1])
    """
    found = []
    for rows in _ctc_sequences("ctc_greedy", log_probs, lengths, blank):
        path, log_prob = rows.argmax(1), float(rows.max(1, initial=-np.inf).sum())
        changed = np.append(True, path[1:] != path[:-1])[: len(path)]
        found.append(Hypothesis(path[changed & (path != blank)], log_prob, log_prob, None))
    return found


def ctc_beam_search(
    log_probs: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None, blank: int = 0, width: int = 16
) -> list[list[Hypothesis]]:
    """The most likely labels of each sequence, best first, by prefix beam search.

    After every step the ``width`` most likely prefixes are kept, each with the probability of its paths that end in a
    blank and of those that end in a label (Graves 2012; Hannun et al. 2014, arXiv:1408.2873, without a language model).
    ``log_prob`` sums over all paths that were followed: exact in a beam that holds every prefix, else a lower bound.

    Args:
        log_probs, lengths, blank: as for :func:`ctc_greedy`.
        width: prefixes kept.

    Returns:
        For each of N sequences up to ``width`` hypotheses.

    Raises:
        ShapeError, OptionError: shape, lengths, blank or width do not fit.

    >>> log_probs = np.log([[[0.6, 0.4]], [[0.6, 0.4]]])  # the best path is two blanks, 0.36
    >>> [(one.tokens.tolist(), float(np.exp(one.log_prob).round(2))) for one in ctc_beam_search(log_probs)[0]]
    [([1], 0.64), ([], 0.36)]
    """
    check_int("ctc_beam_search: width", width)
    return [_prefix_search(rows, blank, width) for rows in _ctc_sequences("ctc_beam_search", log_probs, lengths, blank)]


def _ctc_sequences(
    name: str, log_probs: np.ndarray, lengths: Sequence[int] | np.ndarray | None, blank: int
) -> list[np.ndarray]:
    """Each sequence's log-probabilities [its length, C], in float64."""
    log_probs = np.asarray(log_probs, np.float64)
    log_probs = np.where(np.isnan(log_probs), -np.inf, log_probs)
    if log_probs.ndim != 3:
        raise ShapeError(f"{name}: expected log_probs [T, N, C], got {list(log_probs.shape)}")
    steps, batch, classes = log_probs.shape
    check_int(f"{name}: blank", blank, 0, classes - 1)
    counts = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    if counts.shape != (batch,):
        raise ShapeError(f"{name}: expected a length for each of {batch} sequences, got {list(counts.shape)}")
    return [log_probs[: check_int(f"{name}: length", count, 0, steps), n] for n, count in enumerate(counts)]


def _prefix_search(log_probs: np.ndarray, blank: int, width: int) -> list[Hypothesis]:
    """The best prefixes after all steps of ``log_probs`` [T, C].

    A prefix is a node of a tree, with the same number whenever it comes back; node 0 is the empty one.
    """
    parents, labels, children = [-1], [-1], dict[tuple[int, int], int]()

    def child(index: int, beam: list[int]) -> int:
        """The node of a candidate: a prefix of the beam, or one of them and a label."""
        if index < len(beam):
            return beam[index]
        place, label = divmod(index - len(beam), log_probs.shape[1])
        node = children.setdefault((beam[place], label), len(parents))
        if node == len(parents):
            parents.append(beam[place])
            labels.append(label)
        return node

    def tokens(node: int) -> np.ndarray:
        found = []
        while node:
            found.append(labels[node])
            node = parents[node]
        return np.array(found[::-1], np.int64)

    beam = [0]
    blanks, labelled = np.zeros(1), np.full(1, -np.inf)  # of the paths that end in a blank, and in a label
    for row in log_probs:
        either, last = np.logaddexp(blanks, labelled), np.array([labels[node] for node in beam])
        extended = either[:, None] + row
        named = last >= 0  # all but the empty prefix: the last label again is a new one only behind a blank
        extended[named, last[named]] = blanks[named] + row[last[named]]
        extended[:, blank] = -np.inf
        blanks, labelled = either + row[blank], labelled + row[last]
        place = {node: n for n, node in enumerate(beam)}
        for n, node in enumerate(beam):  # a prefix that is the extension of another one in the beam
            if parents[node] in place:
                source = place[parents[node]], labels[node]
                labelled[n] = np.logaddexp(labelled[n], extended[source])
                extended[source] = -np.inf
        totals = np.append(np.logaddexp(blanks, labelled), extended)
        best = _largest(totals, width)
        best = best[: max(1, np.count_nonzero(totals[best] > -np.inf))]
        blanks, labelled = np.append(blanks, np.full(extended.size, -np.inf)), np.append(labelled, extended)
        blanks, labelled, beam = blanks[best], labelled[best], [child(int(index), beam) for index in best]
    found = zip(beam, np.logaddexp(blanks, labelled).tolist(), strict=True)
    return [Hypothesis(tokens(node), log_prob, log_prob, None) for node, log_prob in found]
