"""Options as a person types them: aliases, files of options, help, and corpora by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from minirnn_cli.main import app
from typer.testing import CliRunner, Result

from minirnn import checkpoint
from minirnn.data import catalog
from minirnn.errors import DataError

runner = CliRunner()
TINY = ("--hidden", "6", "--layers", "1", "--batch-size", "4", "--seq-length", "8")


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("to be or not to be, that is the question.\n" * 20)


def train(*arguments: str, out: str = "run") -> Result:
    return runner.invoke(app, ["train-char", "corpus.txt", *arguments, "--out", out])


def settings(out: str = "run") -> dict[str, Any]:
    return checkpoint.load_config(f"{out}/last.safetensors")["notes"]["settings"]


def refusal(done: Result) -> str:
    assert done.exit_code == 2, done.output
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    return done.stderr.removeprefix("minirnn: ").rstrip("\n")


def test_usual_names_of_options_are_aliases() -> None:
    usual = ("--hidden-size", "6", "--num-layers", "1", "--learning-rate", "0.01")
    assert train("--steps", "2", *usual, out="a").exit_code == 0
    assert train("--steps", "2", "--hidden", "6", "--layers", "1", "--lr", "0.01", out="b").exit_code == 0
    assert settings("a") == settings("b")
    texts = [
        runner.invoke(app, ["sample", "a", "--seed", "1", *options]).stdout
        for options in (("--prompt", "to", "--max-new-tokens", "9"), ("--prime", "to", "--length", "9"))
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == len("to") + 9 + len("\n")


def test_options_of_the_training_loop_reach_it() -> None:
    done = train(*TINY, "--steps", "3", "--warmup", "0.5", "--beta1", "0.8", "--beta2", "0.95", "--log-every", "1")
    assert done.exit_code == 0, done.output
    found = checkpoint.load_config("run/last.safetensors")
    assert {name: found["options"][name] for name in ("warmup", "beta1", "beta2")} == {
        "warmup": 0.5, "beta1": 0.8, "beta2": 0.95,
    }  # fmt: skip
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3


def test_patience_stops_early_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.tasks.char.TextGenerator.evaluate", lambda task: {"val_loss": 1.0})
    done = train(*TINY, "--steps", "20", "--evaluations", "20", "--patience", "3")
    assert done.exit_code == 0, done.output
    assert "step      4  stopped early: no better validation loss in 3 evaluations\n" in done.stderr
    assert refusal(train("--resume")) == "the run in run stopped early; give a larger --patience to continue"


def test_typed_options_win_over_a_file_and_a_file_over_defaults() -> None:
    Path("small.toml").write_text('hidden = 6\nnum-layers = 1\nseq_length = 8\nlr = 1\ncell = "gru"\nminutes = 5\n')
    done = train("--config", "small.toml", "--lr", "0.01", "--steps", "2")
    assert done.exit_code == 0, done.output
    found = settings()
    expected = {
        "hidden_size": 6, "num_layers": 1, "seq_length": 8, "cell": "gru", "lr": 0.01, "steps": 2, "minutes": None,
        "batch_size": 32,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_options_of_another_run_are_taken() -> None:
    assert train(*TINY, "--steps", "2", "--zoneout", "0.1", out="a").exit_code == 0
    for source in ("a", "a/best.safetensors"):
        done = train("--config", source, "--batch-size", "5", out=f"from-{Path(source).name}")
        assert done.exit_code == 0, done.output
        assert settings(f"from-{Path(source).name}") == settings("a") | {"batch_size": 5}
    done = runner.invoke(app, ["train-music", "corpus.txt", "--config", "a"])
    assert refusal(done) == "a is not a run of train-music"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden = 6", "options.toml: expected one of cell, hidden_size, "),
        ("hidden = 6.5", "hidden_size: expected an int from 1 to 1000000, got 6.5"),
        ("hidden = ", "cannot read options.toml: "),
        ("[model]\nhidden = 6", "options.toml: expected one of cell, hidden_size, "),
        ('cell = "lsmt"', "--cell: there is no cell 'lsmt'; did you mean lstm?"),
        ("steps = 3\nepochs = 2", "expected one budget of steps, epochs, minutes, got steps, epochs"),
        (None, "cannot read options.toml: No such file or directory"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_one_line(text: str | None, message: str) -> None:
    if text is not None:
        Path("options.toml").write_text(text)
    assert refusal(train("--config", "options.toml")).startswith(message)
    assert not Path("run").exists()


def test_a_resumed_run_refuses_other_options_from_a_file() -> None:
    assert train(*TINY, "--steps", "2").exit_code == 0
    Path("other.toml").write_text("hidden = 7\n")
    message = "cannot resume run: --hidden was 6, now it is 7; leave it out, or start a new run"
    assert refusal(train("--resume", "--steps", "4", "--config", "other.toml")) == message
    Path("other.toml").write_text("hidden = 6\nsteps = 4\n")
    assert train("--resume", "--config", "other.toml").exit_code == 0


def test_help_is_there_by_its_short_flag_and_grouped() -> None:
    text = runner.invoke(app, ["-h"]).stdout
    at = [text.index(word) for word in ("Train", "train-char", "Use", "predict", "Look inside", "System", "warmup")]
    assert at == sorted(at)
    assert "--hidden-size" in runner.invoke(app, ["train-music", "-h"], env={"COLUMNS": "200"}).stdout
    done = subprocess.run([sys.executable, "-m", "minirnn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == runner.invoke(app, ["--version"]).stdout


def test_every_option_of_every_command_has_help() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)


def test_corpora_are_listed_and_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = runner.invoke(app, ["data"]).stdout
    assert [line.split()[0] for line in text.splitlines()] == [corpus.name for corpus in catalog.entries()]
    monkeypatch.setattr(catalog, "download", lambda name, folder: Path(folder) / f"{name}.txt")
    done = runner.invoke(app, ["data", "get", "names", "--out", "here"])
    assert (done.exit_code, done.stdout) == (0, "here/names.txt\n")
    assert "now try: minirnn train-char here/names.txt" in done.stderr

    def offline(name: str, folder: Path) -> Path:
        raise DataError("cannot reach example.org")

    monkeypatch.setattr(catalog, "download", offline)
    assert refusal(runner.invoke(app, ["data", "get", "names", "--quiet"])) == "cannot reach example.org"
    assert "did you mean 'names'?" in refusal(runner.invoke(app, ["data", "get", "nams"]))
