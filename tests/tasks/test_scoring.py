"""Scores of a text: those of the whole sequence by plain NumPy, however the text is cut, and of the other paths."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import perturb

import minirnn as mr
from minirnn.data.text import Bytes, Characters, Streams
from minirnn.errors import DataError, OptionError
from minirnn.models import CharLM
from minirnn.tasks import scoring
from minirnn.tasks.char import TextGenerator, evaluate

TEXT = "to be or not to be,\n\nthat is the question.\n"


def generator(symbols: Characters | Bytes | None = None, dtype: str = "float32", **options: Any) -> TextGenerator:
    symbols = symbols or Characters.of(TEXT)
    mr.manual_seed(0)
    return perturb(TextGenerator(CharLM(len(symbols), 7, dtype=dtype, **options).eval(), symbols))


def nats_by_hand(task: TextGenerator, before: int, tokens: np.ndarray) -> np.ndarray:
    """``-ln p`` of each token [S], after the token ``before``, from the logits of one call in float64."""
    logits, _ = task.model(np.array([before, *tokens])[:-1])
    logits = logits.numpy().astype(np.float64)
    totals = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return totals - logits[np.arange(len(tokens)), tokens]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"cell": "gru", "num_layers": 1}, {"cell": "slstm"}], ids=str)
def test_scores_are_those_of_the_whole_sequence(dtype: str, options: dict[str, Any]) -> None:
    task = generator(dtype=dtype, **options)
    for text in ("t", TEXT, TEXT * 30):  # the last one longer than what is computed at once
        expected = nats_by_hand(task, task.symbols.encode("\n")[0], task.symbols.encode(text))
        score = task.score(text)
        np.testing.assert_allclose(score.nats, expected, rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)
        assert score.nats.dtype == np.float64
        assert score.symbols == list(text)
        assert score.nats_per_symbol == pytest.approx(expected.mean(), rel=1e-5)
        assert score.bits_per_symbol == pytest.approx(expected.mean() / math.log(2), rel=1e-5)
        assert score.perplexity == pytest.approx(math.exp(expected.mean()), rel=1e-5)


def test_a_text_starts_after_the_first_symbol_where_there_is_no_line_end() -> None:
    task = generator(Characters("abc"))
    np.testing.assert_allclose(task.score("cab").nats, nats_by_hand(task, 0, np.array([2, 0, 1])), atol=2e-5)


def test_bytes_are_scored_one_by_one() -> None:
    task = generator(Bytes())
    score = task.score("é!", alternatives=256)
    np.testing.assert_allclose(score.nats, nats_by_hand(task, 10, np.array([0xC3, 0xA9, 33])), atol=2e-5)
    assert score.symbols == ["\\xc3", "\\xa9", "!"]
    assert {symbol for symbol, _ in score.alternatives[0]} == {Bytes().symbol(token) for token in range(256)}
    invalid = b"\xff\x80".decode("utf-8", "surrogateescape")
    assert task.score(invalid).symbols == ["\\xff", "\\x80"]


def test_the_score_is_the_loss_of_eval() -> None:
    """On the same symbols, in one stream."""
    task = generator()
    text = TEXT * 40
    streams = Streams.of(task.symbols.encode("\n" + text), 1, 256)
    metrics, score = evaluate(task.model, streams), task.score(text)
    assert score.nats_per_symbol == pytest.approx(metrics["loss"], abs=1e-6)
    assert score.bits_per_symbol == pytest.approx(metrics["bits_per_symbol"], abs=1e-6)


@given(st.lists(st.integers(0, len(TEXT)), max_size=6), st.integers(1, 50))
def test_pieces_of_a_text_have_the_scores_of_the_whole(cuts: list[int], steps: int) -> None:
    """Read in one call or in several, and whatever number of steps is computed at once; empty pieces included."""
    task, places = generator(dtype="float64"), [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in pairwise(places)]
    whole = task.score(TEXT, alternatives=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_STEPS", steps)
        one_call, scorer = task.scorer(3)(pieces), task.scorer(3)
        calls = [scorer([piece])[0] for piece in pieces]
    for scores in (one_call, calls):
        np.testing.assert_allclose(np.concatenate([score.nats for score in scores]), whole.nats, atol=1e-12)
        assert [score.text for score in scores] == pieces
        assert [score.symbols for score in scores] == [list(piece) for piece in pieces]
        alternatives = [place for score in scores for place in score.alternatives]
        assert [[one for one, _ in place] for place in alternatives] == [
            [one for one, _ in place] for place in whole.alternatives
        ]


def test_no_call_of_the_model_grows_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    task, steps = generator(), []
    call = CharLM.__call__

    def counted(self: CharLM, tokens: np.ndarray, state: Any = None) -> Any:
        steps.append(len(tokens))
        return call(self, tokens, state)

    monkeypatch.setattr(CharLM, "__call__", counted)
    task.score(TEXT * 50)
    assert max(steps) == scoring._STEPS
    assert sum(steps) == 1 + len(TEXT) * 50


def test_alternatives_are_the_most_likely_symbols() -> None:
    task = generator()
    few, every = task.score(TEXT, alternatives=3), task.score(TEXT, alternatives=1000)
    assert few.alternatives == [place[:3] for place in every.alternatives]
    for symbol, nats, likely in zip(every.symbols, every.nats, every.alternatives, strict=True):
        probabilities = [probability for _, probability in likely]
        assert len({other for other, _ in likely}) == len(task.symbols)
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert dict(likely)[symbol] == pytest.approx(math.exp(-nats), rel=1e-5)
    assert task.score(TEXT).alternatives == [[]] * len(TEXT)


def test_the_most_likely_symbols_are_those_that_are_sampled_at_temperature_0() -> None:
    task = generator()
    text = "".join(task.sample("to", 60, temperature=0))
    score = task.scorer(1, prime="to")([text])[0]
    assert "".join(likely[0][0] for likely in score.alternatives) == text


def test_unknown_characters_are_left_out_and_named() -> None:
    task = generator()
    score = task.score("t☃o é☃b", alternatives=1)
    assert (score.unknown, score.symbols, score.text) == ("☃é", list("to b"), "t☃o é☃b")
    np.testing.assert_array_equal(score.nats, task.score("to b").nats)


@pytest.mark.parametrize("text", ["", "☃"])
def test_a_text_without_a_symbol_has_no_mean(text: str) -> None:
    score = generator().score(text)
    assert (score.nats.shape, score.symbols, score.alternatives) == ((0,), [], [])
    assert math.isnan(score.nats_per_symbol)
    assert math.isnan(score.perplexity)


def test_bad_arguments_are_refused() -> None:
    task = generator()
    with pytest.raises(OptionError, match="score: alternatives: expected an int of at least 0, got -1"):
        task.score("to", alternatives=-1)
    with pytest.raises(DataError, match="no character of the prime '☃'"):
        task.scorer(prime="☃")
