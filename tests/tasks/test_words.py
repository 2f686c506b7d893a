"""The language model of words: its vocabulary, what it says of texts, and the trigrams it is compared with."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perturb
from tiny import TASKS

from minirnn.errors import DataError
from minirnn.tasks.words import WordGenerator

TEXT = "to be, or not to be:\nthat is the question.\n"


def make(folder: Path, **changed: Any) -> Any:
    task = perturb(TASKS["words"].make(TASKS["words"].write(folder), **changed))
    task.model.eval()
    return task


def test_rare_words_are_unknown_and_the_validation_set_is_inside_the_text(tmp_path: Path) -> None:
    path = tmp_path / "speech.txt"
    path.write_text("a b a b c d\n" * 2 + "rare a\na held b\n", encoding="utf-8")
    options = TASKS["words"].config(path, min_count=2, val_fraction=0.2, batch_size=1)  # of 21 tokens four
    task = WordGenerator.build(WordGenerator.read([str(path)], options), options)
    assert task.symbols.entries() == [3, "a", "b", "\n", "c", "d"]
    assert task._train.tokens.tolist() == [[1, 2, 1, 2, 4, 5, 3, 1, 5, 3, 0, 1, 3, 1, 0, 2, 3]]
    assert task._validation.tokens.tolist() == [[2, 1, 2, 4]]
    options = options.replace(min_count=1, max_words=2)
    task = WordGenerator.build(WordGenerator.read([str(path)], options), options)
    assert task.symbols.entries() == [3, "a", "b"]


def test_words_that_a_trained_model_knows_stay_known_where_they_are_rare(tmp_path: Path) -> None:
    source, path = make(tmp_path), tmp_path / "other.txt"
    path.write_text("be quick, be quick, be quick or rare\n", encoding="utf-8")
    options = TASKS["words"].config(path, min_count=2)
    task = WordGenerator.build(WordGenerator.read([str(path)], options), options, source)
    assert task.symbols.entries() == [*source.symbols.entries(), "quick"]
    texts = [task.symbols.decoder()(streams.tokens.ravel()) for streams in (task._train, task._validation)]
    assert texts == ["be quick, be be quick or <unk>\n", "quick,"]


def test_perplexity_is_that_of_the_probabilities_of_single_steps(tmp_path: Path) -> None:
    task, path = make(tmp_path, tie_weights=True), tmp_path / "new.txt"
    path.write_text(TEXT * 2 + "fly", encoding="utf-8")
    tokens = task.symbols.encode(TEXT * 2 + "fly")
    assert (tokens[-1], task.symbols.decoder()(tokens)) == (0, TEXT.replace(":", " <unk>") * 2 + "<unk>")
    nats, state = [], task.initial_state()
    for token, following in pairwise(tokens):
        logits, state = task.model.step([token], state)
        row = logits.numpy()[0].astype(np.float64)
        nats.append(np.log(np.exp(row).sum()) - row[following])
    measured = task.measure([str(path)])
    assert measured == pytest.approx({"loss": np.mean(nats), "perplexity": math.exp(np.mean(nats))}, rel=1e-5)
    score = task.scorer(prime=task.symbols.symbol(int(tokens[0])))([(TEXT * 2 + "fly").removeprefix("to ")])[0]
    np.testing.assert_allclose(score.nats, nats, rtol=1e-4)


def test_the_unknown_word_is_read_and_predicted_but_never_written(tmp_path: Path) -> None:
    task = make(tmp_path)
    task.model.head.bias.data[0] = 8.0
    found = task.predict("to fly")
    assert (found["symbol"], sum(found["probabilities"].values())) == ("<unk>", pytest.approx(1))
    probabilities, _ = task.step("to fly", task.initial_state())
    assert probabilities == pytest.approx(found["probabilities"], rel=1e-4)
    with pytest.raises(DataError, match="step: expected a symbol"):
        task.step(" ", task.initial_state())
    with pytest.raises(DataError, match="no word of input ' ' is in the model's vocabulary"):
        task.predict(" ")
    assert list(task.predict("to fly", alternatives=3)["probabilities"]) == list(found["probabilities"])[:3]
    text = task.sample("to fly", 200, seed=1)
    assert "<unk>" not in text
    assert len(task.symbols.split(text)) == pytest.approx(200, abs=20)  # symbols side by side are read as one
    assert task.sample("to fly", 200, seed=1, stop="be").endswith("be")
    assert "".join(task.stream("to fly", 200, seed=1)) == text


# ---------------------------------------------------------------------------------------------------- trigrams


@pytest.fixture(scope="module")
def quality() -> Any:
    spec = importlib.util.spec_from_file_location("quality", Path(__file__).parents[2] / "benchmarks" / "quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trigrams_are_those_of_tables_of_all_counts(quality: Any) -> None:
    """Their probabilities are above zero and sum to one, also after words that were never seen together, or at all."""
    size, tokens = 120, np.random.default_rng(0).zipf(1.4, 3000) % 110
    trigrams, expected = quality.KneserNey(tokens.tolist(), size), np.full(size, 1 / size)
    counts = np.zeros((size, size, size), int)
    np.add.at(counts, (tokens[:-2], tokens[1:-1], tokens[2:]), 1)
    for order, table in enumerate([((counts > 0).sum(0) > 0).sum(0), (counts > 0).sum(0), counts]):
        ones, twos, threes, fours = ((table == n).sum() for n in (1, 2, 3, 4))
        y = ones / (ones + 2 * twos)
        discounts = [0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes]
        kept = table - np.array(discounts)[np.minimum(table, 3)]
        total = np.broadcast_to(table.sum(-1, keepdims=True), table.shape)
        left_over = (table - kept).sum(-1, keepdims=True)
        seen = (kept + left_over * expected) / np.maximum(total, 1)
        expected = np.where(total > 0, seen, expected)
        assert min(discounts[1:]) > 0
        assert trigrams.discounts[2 - order] == pytest.approx(discounts)
        np.testing.assert_allclose(expected.sum(-1), 1, rtol=1e-12)
        for *history, token in np.random.default_rng(order).integers(size, size=(200, order + 1)):
            found = trigrams.probability(list(map(int, history)), int(token))
            assert found == pytest.approx(expected[(*history, token)], rel=1e-10)
            assert found > 0
    assert trigrams.probability([3, 1, 2], 5) == trigrams.probability([1, 2], 5)
    few = quality.KneserNey([0, 1, 0, 1, 0], 4)
    assert few.discounts == [quality.FALLBACK_DISCOUNTS] * 3
    assert sum(few.probability([1, 0], token) for token in range(4)) == pytest.approx(1)
