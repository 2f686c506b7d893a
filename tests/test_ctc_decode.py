"""Decoding for CTC against all paths of small inputs."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.decode import ctc_beam_search, ctc_greedy
from minirnn.errors import OptionError, ShapeError


def log_probs_of(seed: int, steps: int, batch: int, classes: int, scale: float = 2.0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).standard_normal((steps, batch, classes))
    return logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)


def enumerated(log_probs: np.ndarray, blank: int) -> tuple[dict[tuple[int, ...], float], tuple[int, ...], float]:
    """The log-probability of every possible labelling of [T, C], the most likely path's labels, and its own."""
    totals: dict[tuple[int, ...], float] = defaultdict(lambda: -np.inf)
    best: tuple[float, tuple[int, ...]] = (-np.inf, ())
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        log_prob = float(sum(row[label] for row, label in zip(log_probs, path, strict=True)))
        labels = tuple(label for label, _ in itertools.groupby(path) if label != blank)
        totals[labels] = np.logaddexp(totals[labels], log_prob)
        best = max(best, (log_prob, labels))
    return totals, best[1], best[0]


@given(steps=st.integers(1, 5), classes=st.integers(2, 4), seed=st.integers(0, 999))
def test_beam_with_every_prefix_is_exact_and_greedy_finds_the_best_path(steps: int, classes: int, seed: int) -> None:
    blank = seed % classes
    log_probs = log_probs_of(seed, steps, 1, classes)
    totals, labels, log_prob = enumerated(log_probs[:, 0], blank)
    greedy = ctc_greedy(log_probs, blank=blank)[0]
    assert tuple(greedy.tokens) == labels
    assert greedy.log_prob == greedy.score == pytest.approx(log_prob)
    hypotheses = ctc_beam_search(log_probs, blank=blank, width=len(totals))[0]
    assert {tuple(one.tokens.tolist()): pytest.approx(one.log_prob) for one in hypotheses} == totals
    scores = [one.score for one in hypotheses]
    assert scores == sorted(scores, reverse=True)


@given(width=st.integers(1, 6), seed=st.integers(0, 999))
def test_narrow_beam_gives_different_labels_and_lower_bounds(width: int, seed: int) -> None:
    """A prefix that leaves the beam and comes back must not appear twice."""
    log_probs = log_probs_of(seed, 6, 1, 3, scale=1.0)
    totals, _, _ = enumerated(log_probs[:, 0], 0)
    hypotheses = ctc_beam_search(log_probs, width=width)[0]
    found = [tuple(one.tokens.tolist()) for one in hypotheses]
    assert len(found) == len(set(found)) == width
    assert all(one.log_prob <= totals[labels] + 1e-9 for one, labels in zip(hypotheses, found, strict=True))


def test_narrow_beam_finds_the_best_labels_almost_always() -> None:
    """Where the best path does not: its labels are the most likely ones in fewer cases."""
    right = {"greedy": 0, "beam": 0}
    for seed in range(60):
        log_probs = log_probs_of(seed, 6, 1, 3, scale=1.0)
        totals, _, _ = enumerated(log_probs[:, 0], 0)
        best = max(totals, key=lambda labels: totals[labels])
        right["greedy"] += tuple(ctc_greedy(log_probs)[0].tokens) == best
        right["beam"] += tuple(ctc_beam_search(log_probs, width=8)[0][0].tokens) == best
    assert right["beam"] >= 57
    assert right["greedy"] < right["beam"]


def test_each_sequence_is_decoded_alone_up_to_its_length() -> None:
    log_probs = log_probs_of(3, 7, 3, 5)
    lengths = [7, 0, 4]
    greedy, beams = ctc_greedy(log_probs, lengths), ctc_beam_search(log_probs, np.array(lengths), width=4)
    for n, length in enumerate(lengths):
        alone = log_probs[:length, n : n + 1]
        for one, two in [
            (greedy[n], ctc_greedy(alone)[0]),
            *zip(beams[n], ctc_beam_search(alone, width=4)[0], strict=True),
        ]:
            assert one.tokens.tolist() == two.tokens.tolist()
            assert one.log_prob == two.log_prob
    assert (greedy[1].tokens.tolist(), greedy[1].log_prob) == ([], 0.0)
    assert [(one.tokens.tolist(), one.log_prob) for one in beams[1]] == [([], 0.0)]


@pytest.mark.filterwarnings("error")
def test_forbidden_classes_are_not_decoded() -> None:
    log_probs = log_probs_of(5, 5, 1, 4)
    log_probs[:, :, 2] = -np.inf
    log_probs[3, :, 1] = np.nan
    assert all(2 not in one.tokens and np.isfinite(one.log_prob) for one in ctc_beam_search(log_probs)[0])
    nothing = ctc_beam_search(np.full((2, 1, 3), -np.inf))[0]
    assert [(one.tokens.tolist(), one.log_prob) for one in nothing] == [([], -np.inf)]


def test_wrong_arguments() -> None:
    log_probs = log_probs_of(0, 3, 2, 4)
    for decode in (ctc_greedy, ctc_beam_search):
        with pytest.raises(ShapeError, match=rf"{decode.__name__}: expected log_probs \[T, N, C\], got \[2, 4\]"):
            decode(log_probs[0])
        with pytest.raises(ShapeError, match=r"length for each of 2 sequences, got \[1\]"):
            decode(log_probs, [3])
        with pytest.raises(OptionError, match="length: expected an int from 0 to 3, got 4"):
            decode(log_probs, [3, 4])
        with pytest.raises(OptionError, match="blank: expected an int from 0 to 3, got 4"):
            decode(log_probs, blank=4)
    with pytest.raises(OptionError, match="ctc_beam_search: width: expected an int of at least 1, got 0"):
        ctc_beam_search(log_probs, width=0)
