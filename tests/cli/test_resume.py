"""What ``--resume`` refuses: other data, other word vectors, options that would make another model; for every task."""

import json
import os
from pathlib import Path

import pytest
from minirnn_cli.main import app
from tiny import TASKS, VECTORS
from typer.testing import CliRunner, Result

from minirnn import checkpoint, training

runner = CliRunner()
WITH_VECTORS = [name for name, tiny in TASKS.items() if "--embeddings" in tiny.arguments]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name: str, *arguments: str) -> Result:
    return runner.invoke(app, [f"train-{name}", TASKS[name].name, *arguments, "--out", "run"])


def begin(name: str, folder: Path) -> bytes:
    """A run of three steps; its last state."""
    TASKS[name].write(folder)
    done = train(name, *TASKS[name].arguments, "--steps", "3", "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    return Path("run/last.safetensors").read_bytes()


def assert_refused(done: Result, message: str, last: bytes) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr == f"minirnn: cannot resume run: {message}\n"
    assert Path("run/last.safetensors").read_bytes() == last
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", TASKS)
def test_other_data_is_refused(name: str, folder: Path) -> None:
    last = begin(name, folder)
    for other in (TASKS[name].more, TASKS[name].data.replace("o", "u").replace("-3", "-2").replace("60", "61")):
        assert other != TASKS[name].data
        (folder / TASKS[name].name).write_text(other)
        assert_refused(train(name, "--resume", "--steps", "5"), "the data is not the one the run started with", last)
    TASKS[name].write(folder)  # as it was, though written again
    assert train(name, "--resume", "--steps", "5").exit_code == 0
    lines = [json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", TASKS)
def test_options_of_another_model_are_refused_by_name(name: str, folder: Path) -> None:
    last = begin(name, folder)
    for option, now, before in (TASKS[name].changed, ("--hidden", "7", "6"), ("--seed", "3", "1337")):
        message = f"{option} was {before}, now it is {now}; leave it out, or start a new run"
        assert_refused(train(name, "--resume", "--steps", "5", option, now), message, last)
    assert_refused(train(name, "--resume", "--steps", "5", "--optimizer", "sgd"),
                   'optimizer was "adamw", now it is "sgd"', last)  # fmt: skip
    same = TASKS[name].arguments  # typed again, they change nothing
    assert train(name, "--resume", "--steps", "5", *same).exit_code == 0


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_other_vectors_of_words_are_refused(name: str, folder: Path) -> None:
    last = begin(name, folder)
    Path("vectors.txt").write_text(VECTORS.replace("0.3", "0.4").replace("0.5", "0.6"))
    assert_refused(
        train(name, "--resume", "--steps", "5"), "the embeddings file is not the one the run started with", last
    )
    Path("moved.txt").write_text(VECTORS)
    assert train(name, "--resume", "--steps", "5", "--embeddings", "moved.txt").exit_code == 0


def test_other_sentences_to_validate_with_are_refused(folder: Path) -> None:
    Path("val.tsv").write_text(TASKS["tagger"].data)
    TASKS["tagger"].write(folder)
    assert train("tagger", "--val", "val.tsv", "--hidden", "6", "--steps", "3").exit_code == 0
    last = Path("run/last.safetensors").read_bytes()
    Path("val.tsv").write_text(TASKS["tagger"].more)
    assert_refused(
        train("tagger", "--resume", "--steps", "5"), "the val file is not the one the run started with", last
    )


def test_a_run_from_before_there_were_rates_goes_on(folder: Path) -> None:
    TASKS["music"].write(folder)
    assert train("music", *TASKS["music"].arguments, "--steps", "3", "--quiet").exit_code == 0
    arrays, config = checkpoint.load("run/last.safetensors")
    for options in (config["model"], config["notes"]["settings"]):
        for rate in ("zoneout", "recurrent_dropout", "weight_drop"):
            assert options.pop(rate) == 0
    checkpoint.save("run/last.safetensors", arrays, config)
    last = Path("run/last.safetensors").read_bytes()
    message = "--zoneout was 0.0, now it is 0.1; leave it out, or start a new run"
    assert_refused(train("music", "--resume", "--steps", "5", "--zoneout", "0.1"), message, last)
    assert train("music", "--resume", "--steps", "5").exit_code == 0


def test_bytes_are_not_characters(folder: Path) -> None:
    last = begin("char", folder)
    message = "--bytes was False, now it is True; leave it out, or start a new run"
    assert_refused(train("char", "--resume", "--steps", "5", "--bytes"), message, last)


@pytest.mark.parametrize(("name", "file"), [*((name, None) for name in TASKS), ("tagger", "vectors.txt")])
def test_data_that_changes_during_the_run_is_said(
    name: str, file: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on with what it has read, and says once that it could not be resumed."""
    begin(name, folder)
    changing = folder / (file or TASKS[name].name)
    evaluate = training.evaluate

    def meanwhile(trainer: training.Trainer, step: training.Step) -> None:
        os.utime(changing, (1, 1))
        evaluate(trainer, step)

    monkeypatch.setattr(training, "evaluate", meanwhile)
    done = train(name, "--resume", "--steps", "9")
    assert done.exit_code == 0, done.output
    told = (
        f"{changing.name} has changed since the run started; training continues, but can be resumed with the old data"
    )
    assert done.stderr.count(told) == 1
