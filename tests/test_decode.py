"""Beam search on models that are tables: scores depend on the whole prefix, and every answer can be enumerated."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.decode import Hypothesis, Scores, _largest, beam_search, length_penalty
from minirnn.errors import OptionError, ShapeError

START, END, SOURCE = 1, 2, 3
ALPHAS = (0.0, 0.6, 1.0, 2.5)

Prefix = tuple[int, ...]


class Table:
    """A model whose log-probabilities and attention are drawn again for every prefix, -inf among them.

    Its state is a list with the seed and the prefix of every row.
    """

    def __init__(self, vocabulary: int, forbidden: float = 0.0) -> None:
        self.vocabulary, self.forbidden, self.calls = vocabulary, forbidden, 0

    def row(self, seed: int, prefix: Prefix) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities [V] and attention [S] after ``prefix``."""
        rng = np.random.default_rng([seed, *prefix])
        logits = rng.normal(scale=1.5, size=self.vocabulary)
        logits[rng.random(self.vocabulary) < self.forbidden] = -np.inf
        weights = rng.dirichlet(np.ones(SOURCE))
        with np.errstate(invalid="ignore"):
            return logits - np.logaddexp.reduce(logits), weights  # NaN where all are forbidden

    def step(self, tokens: np.ndarray, state: list[tuple[int, Prefix]]) -> Scores:
        self.calls += 1
        assert len(tokens) == len(state)
        after = [(seed, (*prefix, int(token))) for (seed, prefix), token in zip(state, tokens, strict=True)]
        rows = [self.row(seed, prefix) for seed, prefix in after]
        return Scores(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), after)

    @staticmethod
    def select(state: list[tuple[int, Prefix]], rows: np.ndarray) -> list[tuple[int, Prefix]]:
        assert rows.dtype == np.int64
        return [state[row] for row in rows]

    def search(self, seeds: list[int], max_length: Any, **options: Any) -> list[Hypothesis]:
        state = [(seed, ()) for seed in seeds]
        return beam_search(self.step, self.select, state, len(seeds), START, END, max_length, **options)

    def log_prob(self, seed: int, tokens: Prefix) -> float:
        """Of ``tokens``, the end among them where there is one."""
        return float(sum(self.row(seed, (START, *tokens[:t]))[0][token] for t, token in enumerate(tokens)))

    def scored(self, seed: int, max_length: int, alpha: float) -> list[tuple[float, Prefix]]:
        """Score and tokens of every possible sequence that ends, or has the maximum length."""
        others = [token for token in range(self.vocabulary) if token != END]
        ended = [(*body, END) for n in range(max_length) for body in itertools.product(others, repeat=n)]
        scored = [
            (self.log_prob(seed, s) / ((5 + len(s)) / 6) ** alpha, s)
            for s in ended + list(itertools.product(others, repeat=max_length))
        ]
        return [(score, s) for score, s in scored if np.isfinite(score)]

    def beam(self, seed: int, max_length: int, width: int, alpha: float) -> tuple[float, Prefix]:
        """Plain beam search without early stopping, on prefixes whose probabilities are computed again each time."""
        alive: list[Prefix] = [()]
        ended: list[Prefix] = []
        while alive:
            longer = [(*prefix, token) for prefix in alive for token in range(self.vocabulary)]
            longer = sorted(longer, key=lambda s: -self.log_prob(seed, s))[:width]
            ended += [s for s in longer if s[-1] == END or len(s) == max_length]
            alive = [s for s in longer if s[-1] != END and len(s) < max_length]
        return max((self.log_prob(seed, s) / ((5 + len(s)) / 6) ** alpha, s) for s in ended)


def without_end(tokens: Prefix) -> list[int]:
    return [token for token in tokens if token != END]


@given(st.integers(0, 10**6), st.integers(4, 5), st.integers(1, 8))
def test_width_one_is_greedy(seed: int, vocabulary: int, max_length: int) -> None:
    table = Table(vocabulary)
    tokens: list[int] = []
    log_prob = 0.0
    while len(tokens) < max_length and tokens[-1:] != [END]:
        log_probs, _ = table.row(seed, (START, *tokens))
        tokens.append(int(log_probs.argmax()))
        log_prob += log_probs.max()
    (found,) = table.search([seed], max_length)
    assert found.tokens.tolist() == without_end(tuple(tokens))
    assert found.log_prob == pytest.approx(log_prob, abs=1e-12)
    assert found.score == pytest.approx(log_prob * 6 / (5 + len(tokens)), abs=1e-12)
    assert table.calls == len(tokens)


@given(st.integers(0, 10**6), st.integers(4, 5), st.integers(3, 4), st.sampled_from(ALPHAS))
def test_a_beam_that_holds_everything_finds_the_optimum(seed: int, vocabulary: int, length: int, alpha: float) -> None:
    table = Table(vocabulary)
    score, tokens = max(table.scored(seed, length, alpha))
    (found,) = table.search([seed], length, width=vocabulary**length, alpha=alpha)
    assert found.score == pytest.approx(score, abs=1e-12)
    assert found.tokens.tolist() == without_end(tokens)
    assert found.log_prob == pytest.approx(table.log_prob(seed, tokens), abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.sampled_from(ALPHAS))
def test_any_width_matches_plain_beam_search(seed: int, width: int, length: int, alpha: float) -> None:
    table = Table(5)
    score, tokens = table.beam(seed, length, width, alpha)
    (found,) = table.search([seed], length, width=width, alpha=alpha)
    assert (found.tokens.tolist(), found.score) == (without_end(tokens), pytest.approx(score, abs=1e-12))


def test_the_length_penalty_by_hand() -> None:
    """The end at once has probability 0.4; 3, 3 and the end 0.6 * 0.7 * 0.8 = 0.336; the penalty decides."""
    rows = {(1,): [0, 0, 0.4, 0.6], (1, 3): [0, 0, 0.3, 0.7], (1, 3, 3): [0, 0, 0.8, 0.2]}

    def step(tokens: np.ndarray, state: list[Prefix]) -> Scores:
        after = [(*prefix, int(token)) for prefix, token in zip(state, tokens, strict=True)]
        with np.errstate(divide="ignore"):
            return Scores(np.log([rows[prefix] for prefix in after]), None, after)

    for alpha, tokens, score in [(0.0, [], math.log(0.4)), (1.0, [3, 3], math.log(0.336) * 6 / 8)]:
        (found,) = beam_search(step, Table.select, [()], 1, START, END, 4, 3, alpha)
        assert found.tokens.tolist() == tokens
        assert found.score == pytest.approx(score)
        assert found.attention is None
    assert length_penalty(1, 3.0) == 1
    assert length_penalty(7, 2.0) == 4


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_attention_is_that_of_the_chosen_path(seed: int, width: int, length: int) -> None:
    table = Table(5)
    (found,) = table.search([seed], length, width=width)
    tokens = found.tokens.tolist()
    rows = [table.row(seed, (START, *tokens[:t]))[1] for t in range(len(tokens))]
    assert found.attention is not None
    assert found.attention.shape == (len(tokens), SOURCE)
    np.testing.assert_array_equal(found.attention, np.array(rows).reshape(-1, SOURCE))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 7)), max_size=6), st.integers(1, 5))
def test_each_sequence_of_a_batch_gets_what_it_gets_alone(sentences: list[tuple[int, int]], width: int) -> None:
    """Sentences end at different steps and have different limits; the others do not notice."""
    table = Table(5)
    together = table.search([seed for seed, _ in sentences], [limit for _, limit in sentences], width=width)
    assert len(together) == len(sentences)
    for (seed, limit), found in zip(sentences, together, strict=True):
        (alone,) = table.search([seed], limit, width=width)
        assert found.tokens.tolist() == alone.tokens.tolist()
        assert (found.log_prob, found.score) == (alone.log_prob, alone.score)
        np.testing.assert_array_equal(found.attention, alone.attention)


@given(st.integers(0, 10**6), st.floats(0.2, 0.9), st.integers(1, 4), st.sampled_from([1, 2, 400]))
def test_forbidden_tokens_are_never_taken(seed: int, forbidden: float, length: int, width: int) -> None:
    """Tokens at -inf, and rows where all are NaN: the optimum among allowed sequences, or one that cannot go on."""
    table = Table(4, forbidden)
    (found,) = table.search([seed], length, width=width)
    tokens = tuple(found.tokens.tolist())
    assert np.isfinite(table.log_prob(seed, tokens))
    assert np.isfinite(found.log_prob)
    if width == 400:
        if scored := table.scored(seed, length, 1.0):
            assert found.score == pytest.approx(max(scored)[0], abs=1e-12)
        else:
            assert np.isnan(table.row(seed, (START, *tokens))[0]).all()
            assert found.log_prob == pytest.approx(table.log_prob(seed, tokens), abs=1e-12)


@pytest.mark.parametrize(
    ("log_probs", "width", "tokens", "log_prob"),
    [
        ([np.nan, np.nan, -3.0, -2.0], 1, [3, 3], -4.0),
        ([np.nan, np.nan, -3.0, -2.0], 2, [], -3.0),
        ([np.nan, np.nan, -3.0, -2.0], 3, [], -3.0),
        ([np.nan] * 4, 3, [], 0.0),
    ],
)
def test_nan_forbids_a_token(log_probs: list[float], width: int, tokens: list[int], log_prob: float) -> None:
    def step(tokens: np.ndarray, state: Any) -> Scores:
        return Scores(np.array([log_probs] * len(tokens)), None, state)

    (found,) = beam_search(step, lambda state, rows: state, None, 1, START, END, 2, width, 0.0)
    assert (found.tokens.tolist(), found.log_prob, found.score) == (tokens, log_prob, log_prob)


def test_a_model_that_never_ends_stops_at_max_length() -> None:
    table = Table(4)

    def step(tokens: np.ndarray, state: Any) -> Scores:
        scores = table.step(tokens, state)
        scores.log_probs[:, END] = -np.inf
        return scores

    for limit in (1, 2, 5):
        table.calls = 0
        (found,) = beam_search(step, table.select, [(7, ())], 1, START, END, limit, 2)
        assert (len(found.tokens), table.calls) == (limit, limit)
        assert found.score == pytest.approx(found.log_prob * 6 / (5 + limit))


def test_equal_values_are_taken_in_order() -> None:
    values = np.array([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 3.0])
    for count in range(1, 10):
        assert _largest(values, count).tolist() == [1, 3, 6, 2, 4, 5, 0][:count]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width": 0}, OptionError, "width: expected an int of at least 1, got 0"),
        ({"max_length": 0}, OptionError, "max_length: expected an int of at least 1, got 0"),
        ({"max_length": [2, 0]}, OptionError, "max_length: expected an int of at least 1, got 0"),
        ({"max_length": 2.5}, OptionError, "max_length: expected an int of at least 1, got .*2.5"),
        ({"max_length": [2]}, ShapeError, r"expected one max_length, or one for each of 2, got \[1\]"),
        ({"alpha": -1}, OptionError, "alpha: expected a finite number of at least 0, got -1"),
        ({"alpha": math.nan}, OptionError, "alpha: .* got nan"),
        ({"alpha": math.inf}, OptionError, "alpha: .* got inf"),
        ({"end": 4}, OptionError, "the end is token 4, but there are only 4"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    table = Table(4)
    state: list[tuple[int, Prefix]] = [(0, ()), (1, ())]
    options = {"max_length": 3, "end": END} | options
    with pytest.raises(error, match=message):
        beam_search(table.step, table.select, state, 2, START, **options)


@pytest.mark.parametrize("width", [2, 3, 4, 5])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_unlikely_early_ends_do_not_end_the_search(width: int, alpha: float) -> None:
    """A sure sequence of eight tokens wins, though at each step ending at once is the second choice."""
    sure, end, vocabulary = [3, 4, 5, 3, 4, 5, 3, 4], 2, 6

    def step(tokens: np.ndarray, state: np.ndarray) -> Scores:
        log_probs = np.full((len(tokens), vocabulary), -20.0)
        log_probs[:, end] = -10.0
        for row, length in enumerate(state):
            log_probs[row, sure[length] if length < len(sure) else end] = -1e-6
        return Scores(log_probs, None, state + 1)

    found = beam_search(step, lambda state, rows: state[rows], np.zeros(1, int), 1, 1, end, 30, width, alpha)
    assert found[0].tokens.tolist() == sure
    assert found[0].log_prob == pytest.approx(-9e-6)
