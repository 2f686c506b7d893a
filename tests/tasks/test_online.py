"""Learning from a stream: what is predicted, how it is scored, and what is learned, for every task that does it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import needs_many_steps, perturb
from tiny import TASKS

import minirnn as mr
from minirnn import checkpoint, tasks
from minirnn.data.forecasting import select_series
from minirnn.data.tables import parse_table
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.tasks.online import ONLINE, LearnConfig, learner

FROZEN = LearnConfig(lr=0)
STREAMS = {name: TASKS[name].data.splitlines() for name in ("char", "words", "classifier", "forecaster")}


def make(name: str, folder: Path, **changed: Any) -> Any:
    task = perturb(TASKS[name].make(TASKS[name].write(folder), **changed))
    task.model.eval()
    return task


def losses(task: Any, lines: list[str], config: LearnConfig) -> list[float]:
    return [outcome.loss for outcome in learner(task, config).run(lines) if outcome.loss is not None]


def test_losses_of_text_are_those_of_one_stream(tmp_path: Path) -> None:
    task, text = make("char", tmp_path), "to be\nor not\n" + "x to be, or not to be; " * 40 + "\n\n"
    found = list(learner(task, FROZEN).run(text.splitlines()))
    tokens = task.symbols.encode(text)
    state_of_all, _ = task.model.loss(np.append(task.start()[-1:], tokens[:-1])[:, None], tokens[:, None])
    counts = [outcome.facts["symbols"] for outcome in found]
    assert sum(counts) == tokens.size
    mean = np.average([outcome.loss for outcome in found], weights=counts)
    assert mean == pytest.approx(state_of_all.item(), rel=1e-5)


def test_losses_of_texts_are_those_of_their_labels(tmp_path: Path) -> None:
    task = make("classifier", tmp_path)
    for line, outcome in zip(STREAMS["classifier"], learner(task, FROZEN).run(STREAMS["classifier"]), strict=True):
        text, label = line.split("\t")
        expected = task.predict(text)
        assert outcome.loss == pytest.approx(-math.log(expected["probabilities"][label]), rel=1e-6)
        assert (outcome.prediction, outcome.facts["true_label"]) == (expected["label"], label)


@pytest.mark.parametrize("horizon", [1, 3])
def test_losses_of_rows_are_those_of_eval(horizon: int, tmp_path: Path) -> None:
    task, text = make("forecaster", tmp_path, horizon=horizon), TASKS["forecaster"].data
    names, first = task.preprocessor.names, task.preprocessor.first_row
    (series,) = select_series(parse_table("x", text), names[0], names[1:])
    found = list(learner(task, FROZEN).run(text.splitlines()))
    scored = [outcome.loss for outcome in found if outcome.loss is not None]
    assert len(scored) == len(series) - first - horizon + 1
    assert np.mean(scored) == pytest.approx(task.metrics([series.split(first)])["loss"], rel=1e-5)
    assert found[-1].facts["value"] == pytest.approx(series.values[-1, 0])
    assert found[-1].facts["horizon"] == pytest.approx(task.predict(text)["horizon"])


def test_the_mean_fades(tmp_path: Path) -> None:
    made = learner(make("classifier", tmp_path), FROZEN.replace(fading=0.5))
    found = list(made.run(STREAMS["classifier"][:3]))
    a, b, c = (outcome.loss for outcome in found)
    assert found[-1].mean_loss == pytest.approx((a / 4 + b / 2 + c) / 1.75)
    assert made.count == 3


@needs_many_steps
@pytest.mark.parametrize("name", STREAMS)
def test_it_learns_after_it_predicts(name: str, tmp_path: Path) -> None:
    lines = STREAMS[name] * 3 if name != "forecaster" else STREAMS[name]
    frozen = losses(make(name, tmp_path), lines, FROZEN)
    learned = losses(make(name, tmp_path), lines, LearnConfig(lr=1e-2))
    assert learned[0] == pytest.approx(frozen[0], rel=1e-6)
    third = len(lines) // 3
    assert np.mean(learned[-third:]) < 0.9 * np.mean(frozen[-third:])


def test_memory_is_bounded_and_repeated(tmp_path: Path) -> None:
    made = learner(make("classifier", tmp_path), LearnConfig(memory=2, replay=5))
    sizes: list[int] = []
    loss = made._loss
    made._loss = lambda examples: (sizes.append(len(examples)), loss(examples))[1]  # type: ignore[method-assign]
    list(made.run(STREAMS["classifier"][:4]))
    assert sizes == [1, 2, 3, 3]


@pytest.mark.parametrize("name", STREAMS)
def test_saved_and_resumed_it_goes_on_the_same(name: str, tmp_path: Path) -> None:
    config, lines = LearnConfig(replay=0), STREAMS[name]
    half = len(lines) // 2
    made = learner(make(name, tmp_path), config)
    list(made.run(lines[:half]))
    made.save(tmp_path / "run")
    loaded = tasks.load(tmp_path / "run" / ONLINE)
    again = learner(loaded, config)
    again.resume(tmp_path / "run" / ONLINE)
    assert (again.count, again.mean_loss) == (made.count, made.mean_loss)
    rest = lines[half:] if name != "forecaster" else [lines[0], *lines[half:]]
    found = []
    for one in (learner_of_same_state(made, name), again):
        mr.manual_seed(5)
        found.append([outcome.loss for outcome in one.run(rest)])
    assert found[0] == found[1]
    for (key, old), new in zip(made.task.model.state_dict().items(), loaded.model.state_dict().values(), strict=True):
        np.testing.assert_array_equal(old, new, err_msg=key)


def learner_of_same_state(made: Any, name: str) -> Any:
    """The learner itself, of text with the state that a new one begins with."""
    if name in ("char", "words"):
        made._last, made._state = int(made.task.start()[-1]), None
    return made


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    task = make("classifier", tmp_path)
    table = task.model.body.embedding.weight
    table.requires_grad, before = False, table.numpy().copy()
    list(learner(task, LearnConfig(lr=0.1)).run(STREAMS["classifier"]))
    np.testing.assert_array_equal(table.numpy(), before)


def test_lines_without_an_answer_are_only_predicted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = learner(make("classifier", tmp_path), LearnConfig(lr=0.1))
    before = made.task.model.state_dict()["head.weight"].copy()
    with caplog.at_level(logging.WARNING, logger="minirnn"):
        found = list(made.run(["a good film", "a film\tcomedy", ""]))
    assert [outcome.loss for outcome in found] == [None] * 3
    assert [outcome.mean_loss for outcome in found] == [None] * 3
    assert found[0].prediction == made.task.predict("a good film")["label"]
    assert "line 2" in caplog.text
    assert "'comedy'" in caplog.text
    np.testing.assert_array_equal(made.task.model.state_dict()["head.weight"], before)


def test_what_cannot_be_learned(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="expected a character model, a classifier or a forecaster, got a tagger"):
        learner(make("tagger", tmp_path))
    task = make("forecaster", tmp_path)
    rows = [STREAMS["forecaster"][0], *STREAMS["forecaster"][1:3], "a,b,c,d,e"]
    with pytest.raises(DataError, match="expected"):
        list(learner(task).run(rows))
    made = make("char", tmp_path)
    checkpoint.save(tmp_path / "x.safetensors", {}, made.config())
    with pytest.raises(CheckpointError, match="not a checkpoint of minirnn learn"):
        learner(made).resume(tmp_path / "x.safetensors")
