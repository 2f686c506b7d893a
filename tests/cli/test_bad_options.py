"""Every number that a training command takes, for every task, with values that are none or out of range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from minirnn_cli.main import app
from support import invoke, refusal
from tiny import TASKS

from minirnn.kernels import tile

HUGE = str(10**30)
UNLIMITED = {
    "steps",
    "average_every",
    "seed",
    "save_every",
    "log_every",
    "evaluations",
    "patience",
    "seq_length",
    "batch_size",
    "column",
}
UNLIMITED |= {"max_words", "max_length", "min_count", "season", "horizon", "recompute_every"}


def numbers(name: str) -> list[Any]:
    command = typer.main.get_command(app).commands[f"train-{name}"]  # type: ignore[attr-defined]
    return [option for option in command.params if option.type.name.startswith(("int", "float"))]


def bad_values(option: Any) -> Iterator[str]:
    """What is no number, and what lies just outside the range."""
    low, high = (getattr(option.type, name, None) for name in ("min", "max"))
    yield from ("x", "")
    if low is not None:
        yield str(low - 1)
    if high is not None:
        yield str(high + 1)
    if option.type.name.startswith("int"):
        yield from ("1.5",) if option.name in UNLIMITED else ("1.5", HUGE)
    else:
        yield from ("nan", "-inf") if option.name == "clip" else ("nan", "-inf", "inf")  # clip: inf is no clipping


@pytest.mark.parametrize("name", TASKS)
def test_numbers_out_of_range_are_refused_by_name(name: str) -> None:
    TASKS[name].write(Path())
    options = numbers(name)
    assert len(options) >= 24
    for option in options:
        flag = option.opts[0]
        for value in bad_values(option):
            budget = () if option.name in ("epochs", "minutes") else ("--steps", "1")
            arguments = (f"train-{name}", TASKS[name].name, *TASKS[name].arguments, *budget, flag, value)
            done = invoke(*arguments, "--out", "run", code=2)
            assert done.stdout == ""
            said = done.stderr.lower().replace("-", "_").replace(" ", "_")
            assert flag.strip("-").replace("-", "_") in said or option.name in said, (flag, value, done.stderr)
            if done.stderr.startswith("minirnn: "):
                assert done.stderr.count("\n") == 1
            assert not list(Path("run").glob("*")), (flag, value)


@pytest.mark.needs_jit
@pytest.mark.parametrize("name", TASKS)
def test_bf16_is_refused_on_a_cpu_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile, "cpu_features", lambda: frozenset({"avx512f"}))
    TASKS[name].write(Path())
    arguments = (f"train-{name}", TASKS[name].name, *TASKS[name].arguments, "--precision", "bf16")
    message = "precision: bf16 needs a CPU that multiplies bfloat16 (avx512_bf16); use fp32 on this one"
    assert refusal(*arguments) == message
    assert not Path("checkpoints").exists()
    assert refusal("bench", "--precision", "bf16") == message
