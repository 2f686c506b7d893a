"""``--resume``: continues with the options of the run; refuses other data, word vectors and options, for every task."""

import os
from pathlib import Path
from typing import Any

import pytest
from support import invoke, refusal, steps_of
from tiny import TASKS, VECTORS, other_value
from typer.testing import Result

from minirnn import checkpoint
from minirnn.runs import LAST
from minirnn.training import Step, Trainer
from minirnn.training import trainer as loop

WITH_VECTORS = [name for name, tiny in TASKS.items() if "--embeddings" in tiny.arguments]
OTHER_DATA = "the data is not the one the run started with"


def train(name: str, *arguments: str, code: int = 0) -> Result:
    return invoke(f"train-{name}", TASKS[name].name, *arguments, "--out", "run", code=code)


def begin(name: str) -> bytes:
    """A run of three steps; its last state."""
    TASKS[name].write(Path())
    assert train(name, *TASKS[name].arguments, "--steps", "3", "--quiet").output == ""
    return Path("run", LAST).read_bytes()


def assert_refused(name: str, *arguments: str, message: str, last: bytes) -> None:
    """The refusal is one line, and the run stays as it was."""
    command = (f"train-{name}", TASKS[name].name, "--out", "run", "--resume", "--steps", "5", *arguments)
    assert refusal(*command) == f"cannot resume run: {message}"
    assert Path("run", LAST).read_bytes() == last
    assert steps_of("run") == [1, 2, 3]


@pytest.mark.parametrize("name", TASKS)
def test_a_resumed_run_has_the_options_it_was_started_with(name: str) -> None:
    begin(name)
    before = checkpoint.load_config(f"run/{LAST}")
    assert "resuming at step 3, to 5 steps, in run" in train(name, "--resume", "--steps", "5").stderr
    train(name, "--resume", "--steps", "7", "--lr", "0.1", *TASKS[name].arguments)  # typed again, they change nothing
    after = checkpoint.load_config(f"run/{LAST}")
    if name == "char":  # the rate that was not given follows from the budget
        rates = [config["model"].pop("dropout") for config in (before, after)]
        assert 0 < rates[0] < rates[1] < 0.05
    assert (after["model"], after["data"]) == (before["model"], before["data"])
    assert after["notes"]["settings"] == before["notes"]["settings"] | {"steps": 7, "lr": 0.1}
    assert steps_of("run") == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("name", TASKS)
def test_other_data_is_refused(name: str) -> None:
    last = begin(name)
    Path(TASKS[name].name).write_text(TASKS[name].more)
    assert_refused(name, message=OTHER_DATA, last=last)
    TASKS[name].write(Path())  # as it was, though written again
    train(name, "--resume", "--steps", "5")


def shown(value: Any) -> str:
    if value is None:
        return "not given"
    return (",".join(value) or "none") if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", TASKS)
def test_every_other_option_is_refused_by_its_flag(name: str) -> None:
    last = begin(name)
    config = TASKS[name].config(Path(TASKS[name].name))
    for option, info in config.options().items():
        if info.is_data:
            continue
        old = getattr(config, option)
        new = other_value(option, info, old)
        flag, off = info.flags[0].split("/") if "/" in info.flags[0] else (info.flags[0], "")
        typed = (flag if new else off,) if isinstance(new, bool) else (flag, shown(new))
        change = f"was {shown(old)}, now it is {shown(new)}"
        assert_refused(name, *typed, message=f"{flag} {change}; leave it out, or start a new run", last=last)
    assert_refused(name, "--optimizer", "sgd", message='optimizer was "adamw", now it is "sgd"', last=last)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_other_word_vectors_are_refused_but_their_file_may_move(name: str) -> None:
    last = begin(name)
    Path("vectors.txt").write_text(VECTORS.replace("0.3", "0.4").replace("0.5", "0.6"))
    assert_refused(name, message="the embeddings file is not the one the run started with", last=last)
    Path("moved.txt").write_text(VECTORS)
    train(name, "--resume", "--steps", "5", "--embeddings", "moved.txt")


def test_a_run_without_the_options_of_later_versions_continues_with_their_defaults() -> None:
    begin("music")
    arrays, config = checkpoint.load(f"run/{LAST}")
    for options in (config["model"], config["notes"]["settings"]):
        for rate in ("zoneout", "recurrent_dropout"):
            assert options.pop(rate) == 0
    checkpoint.save(f"run/{LAST}", arrays, config)
    message = "--zoneout was 0.0, now it is 0.1; leave it out, or start a new run"
    assert_refused("music", "--zoneout", "0.1", message=message, last=Path("run", LAST).read_bytes())
    train("music", "--resume", "--steps", "5")


@pytest.mark.parametrize(("name", "file"), [*((name, None) for name in TASKS), ("tagger", "vectors.txt")])
def test_data_that_changes_during_the_run_is_reported_once(
    name: str, file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run continues with what it has read."""
    begin(name)
    changing = file or TASKS[name].name
    evaluate = loop.evaluate

    def meanwhile(trainer: Trainer, step: Step) -> None:
        os.utime(changing, (1, 1))
        evaluate(trainer, step)

    monkeypatch.setattr(loop, "evaluate", meanwhile)
    done = train(name, "--resume", "--steps", "6")
    told = (
        f"{changing} has changed since the run started; training continues, but can be resumed with the old data only"
    )
    assert done.stderr.count(told) == 1


def test_without_out_the_newest_run_of_the_name_is_resumed() -> None:
    Path("a[1].txt").write_text("some text to learn from. " * 30)  # a name that is a pattern
    options = ("train-char", "a[1].txt", "--hidden", "6", "--batch-size", "4", "--seq-length", "8")
    invoke(*options, "--steps", "3")
    invoke(*options, "--steps", "3")
    done = invoke("train-char", "a[1].txt", "--steps", "5", "--resume")
    assert "resuming at step 3, to 5 steps, in checkpoints/a[1]-2" in done.stderr
    message = "the run in checkpoints/a[1]-2 has used up its budget; give a larger one to continue"
    assert refusal("train-char", "a[1].txt", "--resume") == message


def test_a_missing_last_state_is_replaced_by_the_one_before() -> None:
    begin("char")
    os.unlink(f"run/{LAST}")
    done = train("char", "--steps", "8", "--resume")
    assert "continuing from previous.safetensors, the state saved before it" in done.stderr
    assert steps_of("run") == [1, 2, 3, 4, 5, 6, 7, 8]
