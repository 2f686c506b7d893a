"""Every number that a training command takes, for every task, with values that are none or out of range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from minirnn_cli.main import app
from tiny import TASKS
from typer.testing import CliRunner

HUGE = str(10**30)
ENDLESS = ("steps", "seed", "save_every", "seq_length", "batch_size", "max_words", "max_length", "min_count", "season",
           "horizon", "column")  # fmt: skip


def bad_values(parameter: Any) -> Iterator[str]:
    """What is no such number, and what lies just outside its range."""
    low, high = (getattr(parameter.type, name, None) for name in ("min", "max"))
    whole = parameter.type.name.startswith("integer")
    yield "x"
    yield ""
    if low is not None:
        yield str(low - 1)
    if high is not None:
        yield str(high + 1)
    if whole:
        yield "1.5"
        if parameter.name not in ENDLESS:
            yield HUGE
    else:
        yield "nan"
        yield "-inf"
        if parameter.name != "clip":  # which then is none
            yield "inf"


def numbers(name: str) -> list[Any]:
    command = typer.main.get_command(app).commands[f"train-{name}"]  # type: ignore[attr-defined]
    return [p for p in command.params if p.type.name.startswith(("integer", "float"))]


@pytest.mark.parametrize("name", TASKS)
def test_each_is_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TASKS[name].write(tmp_path)
    tried = 0
    for parameter in numbers(name):
        for value in bad_values(parameter):
            tried += 1
            budget = [] if parameter.name in ("epochs", "minutes") else ["--steps", "1"]
            option = parameter.opts[0]
            arguments = [f"train-{name}", TASKS[name].name, *TASKS[name].arguments, *budget, option, value]
            done = CliRunner().invoke(app, [*arguments, "--out", "run"])
            assert done.exit_code == 2, (option, value, done.output)
            assert isinstance(done.exception, SystemExit)
            assert done.stdout == ""
            told = done.stderr.lower().replace("-", "_").replace(" ", "_")
            assert option.strip("-").removesuffix("-end").replace("-", "_") in told, (option, value, done.stderr)
            if done.stderr.startswith("minirnn: "):
                assert done.stderr.count("\n") == 1
            assert not list(tmp_path.glob("run/*")), (option, value)
    assert tried > 40
