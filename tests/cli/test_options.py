"""Options as a person types them: aliases, files of options, help, completion, and corpora by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from minirnn_cli.main import app
from support import invoke, refusal
from tiny import TASKS
from typer.testing import Result

from minirnn import checkpoint
from minirnn.data import catalog
from minirnn.errors import DataError
from minirnn.tasks.char import CharConfig

SIZES = ("--hidden", "6", "--layers", "1", "--batch-size", "4", "--seq-length", "8")


@pytest.fixture(autouse=True)
def corpus(folder: Path) -> None:
    TASKS["char"].write(folder)


def train(*arguments: str, out: str = "run") -> Result:
    return invoke("train-char", "corpus.txt", *arguments, "--out", out)


def refused(*arguments: str) -> str:
    return refusal("train-char", "corpus.txt", *arguments, "--out", "run")


def settings(out: str = "run") -> dict[str, Any]:
    return checkpoint.load_config(f"{out}/last.safetensors")["notes"]["settings"]


def test_names_of_options_in_other_programs_are_aliases() -> None:
    train("--steps", "2", "--hidden-size", "6", "--num-layers", "1", "--learning-rate", "0.01", out="a")
    train("--steps", "2", "--hidden", "6", "--layers", "1", "--lr", "0.01", out="b")
    assert settings("a") == settings("b")
    names = (("--prompt", "to", "--max-new-tokens", "9"), ("--prime", "to", "--length", "9"))
    one, other = (invoke("sample", "a", "--seed", "1", *options).stdout for options in names)
    assert one == other
    assert len(one) == len("to") + 9 + len("\n")


def test_patience_stops_early_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.tasks.char.TextGenerator.evaluate", lambda task: {"val_loss": 1.0})
    done = train(*SIZES, "--steps", "20", "--evaluations", "20", "--patience", "3")
    assert "step      4  stopped early: no better validation loss in 3 evaluations\n" in done.stderr
    assert refused("--resume") == "the run in run stopped early; give a larger --patience to continue"


def test_the_command_line_overrides_a_file_and_a_file_the_defaults() -> None:
    Path("small.toml").write_text('hidden = 6\nnum-layers = 1\nseq_length = 8\nlr = 1\ncell = "gru"\nminutes = 5\n')
    train("--config", "small.toml", "--lr", "0.01", "--steps", "2")
    expected = {"hidden_size": 6, "num_layers": 1, "seq_length": 8, "cell": "gru"}
    expected |= {"lr": 0.01, "steps": 2, "minutes": None, "batch_size": CharConfig().batch_size}
    assert settings().items() >= expected.items()


def test_config_takes_the_options_of_another_run() -> None:
    train(*SIZES, "--steps", "2", "--zoneout", "0.1", out="a")
    for source in ("a", "a/best.safetensors"):
        train("--config", source, "--batch-size", "5", out=f"from-{Path(source).name}")
        assert settings(f"from-{Path(source).name}") == settings("a") | {"batch_size": 5}
    assert refusal("train-music", "corpus.txt", "--config", "a") == "a is not a run of train-music"


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
    assert refused("--config", "options.toml").startswith(message)
    assert not Path("run").exists()


def test_a_resumed_run_refuses_other_options_from_a_file() -> None:
    train(*SIZES, "--steps", "2")
    Path("other.toml").write_text("hidden = 7\n")
    message = "cannot resume run: --hidden was 6, now it is 7; leave it out, or start a new run"
    assert refused("--resume", "--steps", "4", "--config", "other.toml") == message
    Path("other.toml").write_text("hidden = 6\nsteps = 4\n")
    train("--resume", "--config", "other.toml")


def test_help_groups_the_commands_and_has_a_short_flag() -> None:
    text = invoke("-h").stdout
    at = [text.index(word) for word in ("Train", "train-char", "Use", "predict", "Look inside", "System", "warmup")]
    assert at == sorted(at)
    assert "--hidden-size" in invoke("train-music", "-h", env={"COLUMNS": "200"}).stdout


def test_every_option_of_every_command_has_help() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)


def test_python_m_minirnn_is_the_command_and_completes_commands() -> None:
    command = [sys.executable, "-m", "minirnn"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == invoke("--version").stdout
    assert done.stdout.count(".") == 2
    words = {"_MINIRNN_COMPLETE": "complete_bash", "COMP_WORDS": "minirnn train-", "COMP_CWORD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | words)
    assert done.stdout.split() == [f"train-{name}" for name in TASKS]


def test_corpora_are_listed_and_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = invoke("data").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [corpus.name for corpus in catalog.entries()]
    monkeypatch.setattr(catalog, "download", lambda name, folder: Path(folder) / f"{name}.txt")
    done = invoke("data", "get", "names", "--out", "here")
    assert done.stdout == "here/names.txt\n"
    assert "now try: minirnn train-char here/names.txt" in done.stderr

    def offline(name: str, folder: Path) -> Path:
        raise DataError("cannot reach example.org")

    monkeypatch.setattr(catalog, "download", offline)
    assert refusal("data", "get", "names", "--quiet") == "cannot reach example.org"
    assert "did you mean 'names'?" in refusal("data", "get", "nams")
