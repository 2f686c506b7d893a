"""Trained tasks step by step: a symbol, word, row or chord in, probabilities or forecasts out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perturb
from tiny import TASKS

from minirnn import tasks
from minirnn.data.forecasting import select_series
from minirnn.data.tables import parse_table
from minirnn.errors import DataError, OptionError
from minirnn.nn import functional as F

OPTIONS: dict[str, dict[str, Any]] = {"classifier": {"bidirectional": False, "max_length": 3}}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Make a tiny task with noise on its weights, in evaluation mode."""

    def of(name: str, **changed: Any) -> tasks.Task[Any, Any]:
        task = perturb(TASKS[name].make(TASKS[name].write(tmp_path), **OPTIONS.get(name, {}), **changed))
        task.model.eval()
        return task

    return of


def outputs(task: Any, inputs: Any) -> tuple[list[Any], Any]:
    state, found = task.initial_state(), []
    for one in inputs:
        output, state = task.step(one, state)
        found.append(output)
    return found, state


def softmax(logits: Any) -> np.ndarray:
    return np.asarray(F.softmax(logits.numpy().astype(np.float64), 1))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_text_generator(make: Any, as_bytes: bool) -> None:
    task = make("char", as_bytes=as_bytes)
    found, state = outputs(task, "to be, ")
    tokens = task.symbols.encode("to be, ")
    expected = softmax(task.model(tokens)[0])
    names = (
        [*map(chr, range(128)), *(f"\\x{n:x}" for n in range(128, 256))] if as_bytes else list(task.symbols.characters)
    )
    for probabilities, row in zip(found, expected, strict=True):
        assert list(probabilities) == names
        np.testing.assert_allclose(list(probabilities.values()), row, atol=1e-6)
    several, after = task.step("to be, ", task.initial_state())
    assert several == found[-1]
    most_likely = task.model.generate(tokens, 5, temperature=0)
    np.testing.assert_array_equal(most_likely, task.model.generate(tokens[-1:], 5, 0, state=outputs(task, "to be,")[1]))
    for a, b in zip(state, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("level", ["word", "char"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_classifier(make: Any, pooling: str, level: str) -> None:
    """The labels of the text so far, also past max_length, which is 3 here."""
    task = make("classifier", pooling=pooling, level=level, embeddings=None)
    inputs = ["so", "very good", "Film", "unknown"] if level == "word" else list("bad!")
    found, _ = outputs(task, inputs)
    for count, probabilities in enumerate(found, 1):
        tokens = np.concatenate([task.encode(text) for text in inputs[:count]])
        expected = softmax(task.model(tokens[:, None]))[0]
        assert list(probabilities) == task.labels.names == ["neg", "pos"]
        np.testing.assert_allclose(list(probabilities.values()), expected, atol=1e-6)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "base": "trend", "season": 7, "horizon": 3}])
def test_forecaster(make: Any, options: dict[str, Any], log: bool) -> None:
    """From the first row on that has enough before it, the forecasts of all windows of the table."""
    task = make("forecaster", **options)
    made = task.preprocessor = replace(task.preprocessor, log=log)
    (series,) = select_series(parse_table("series.csv", TASKS["forecaster"].data), "a", ["b"])
    series = replace(series, values=series.values + np.array([1, 0]))  # above 0
    rows = series.values.copy()
    found, state = outputs(task, rows)
    assert found[: made.first_row - 1] == [None] * (made.first_row - 1)
    expected = made.values(task.forecasts(made.examples([series.split(made.first_row)])))
    np.testing.assert_allclose(found[made.first_row - 1 : -made.horizon], expected, rtol=1e-6)
    assert state.shape == (made.first_row, 2)
    np.testing.assert_array_equal(rows, series.values)
    assert task.step(rows[0].tolist(), state)[0] == task.step(rows[0], state)[0] != found[-1]


def test_composer(make: Any) -> None:
    task = make("music")
    piece = [(60, 64), (), (108, 21)]
    found, _ = outputs(task, piece)
    roll = np.zeros((3, 1, 88), np.float32)
    roll[[0, 0, 2, 2], 0, [39, 43, 87, 0]] = 1
    expected = task.model(roll)[0].sigmoid().numpy()[:, 0]
    assert [list(one) for one in found] == [list(range(21, 109))] * 3
    np.testing.assert_allclose([list(one.values()) for one in found], expected, atol=1e-6)


def test_what_has_no_steps_says_so(make: Any) -> None:
    for name in ("tagger", "translator"):
        task = make(name)
        for call in (task.initial_state, lambda task=task: task.step("a", None)):
            with pytest.raises(OptionError, match=f"step: {task.description} needs all of its input"):
                call()
    OPTIONS["classifier"]["bidirectional"] = True
    try:
        with pytest.raises(OptionError, match="one direction"):
            make("classifier").initial_state()
    finally:
        OPTIONS["classifier"]["bidirectional"] = False


def test_inputs_that_cannot_be_read(make: Any) -> None:
    char, classifier, music = make("char"), make("classifier"), make("music")
    forecaster, logs = make("forecaster"), make("forecaster")
    logs.preprocessor = replace(logs.preprocessor, log=True)
    for task, given, message in (
        (char, "", "step: expected a symbol, got an empty string"),
        (char, "to Z", "step: expected a symbol, got 'Z', which is not in the model's vocabulary"),
        (char, 5, "step: expected a string"),
        (classifier, "  ", "step: expected a word or character, got '  '"),
        (classifier, None, "step: expected a string"),
        (forecaster, [1.0], r"step: expected a row of finite numbers \(a, b\), got \[1.0\]"),
        (forecaster, [1.0, np.nan], r"step: expected a row of finite numbers \(a, b\), got \[1.0, nan\]"),
        (logs, [0.0, 1.0], r"\(a, b, a above 0 as the model takes logarithms\), got \[0.0, 1.0\]"),
        (music, [20], "step: .*20.* the keys of a piano"),
    ):
        with pytest.raises(DataError, match=message):
            task.step(given, task.initial_state())
