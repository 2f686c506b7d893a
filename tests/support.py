"""What several test files share: training to the end, what a run has written, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from minirnn_cli.main import app
from typer.testing import CliRunner, Result

from minirnn import checkpoint
from minirnn.runs import BEST, LAST, METRICS
from minirnn.training import Step, Trainer

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
needs_many_steps = pytest.mark.skipif(SMALL, reason="needs some hundred steps, too slow without compiling")
typer.testing._get_command = cache(typer.main.get_command)  # type: ignore[attr-defined]  # built once, not per call


def run(trainer: Trainer, steps: int | None = None) -> list[Step]:
    """Train to the end, or stop after so many steps."""
    done = []
    for step in trainer.fit():
        done.append(step)
        if steps is not None and len(done) == steps:
            trainer.stop()
    return done


def perturb(task: Any) -> Any:
    """Add noise to all weights, some of which are zero at first."""
    for parameter in task.model.parameters():
        parameter.data[...] += np.random.default_rng(3).normal(0, 0.3, parameter.shape)
    return task


def metrics_of(folder: Path | str) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics file, without the time."""
    lines = [json.loads(line) for line in Path(folder, METRICS).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def steps_of(folder: Path | str) -> list[int]:
    """Return the steps in a run's metrics file."""
    return [line["step"] for line in metrics_of(folder)]


def contents(folder: Path | str) -> Any:
    """Return everything that a run has written, but the time it took."""
    files = {}
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(Path(folder, name))
        for seconds in ("seconds", "evaluation_seconds"):
            config["position"].pop(seconds)
        files[name] = {key: (a.dtype, a.shape, a.tobytes()) for key, a in arrays.items()}, config
    return metrics_of(folder), files


def close(value: Any, rel: float = 1e-10) -> Any:
    """Return ``value``, a nest of lists and mappings, with numbers that may differ by rounding."""
    if isinstance(value, dict):
        return {name: close(item, rel) for name, item in value.items()}
    if isinstance(value, list):
        return [close(item, rel) for item in value]
    return pytest.approx(value, rel=rel, abs=1e-14) if isinstance(value, float) else value


def invoke(*arguments: str, code: int = 0, input: str | bytes | None = None, **options: Any) -> Result:
    """Run the command ``minirnn`` in this process, and check its exit code."""
    done = CliRunner().invoke(app, arguments, input=input, **options)
    assert done.exit_code == code, (arguments, done.output)
    assert "Traceback" not in done.output
    return done


def json_of(*arguments: str, **options: Any) -> Any:
    """Return the JSON object that a command prints with ``--json``."""
    return json.loads(invoke(*arguments, "--json", **options).stdout)


def refusal(*arguments: str, code: int = 2, **options: Any) -> str:
    """Run a command that must fail with one line on standard error, and return this line."""
    done = invoke(*arguments, code=code, **options)
    assert done.stdout == ""
    assert done.stderr.startswith("minirnn: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("minirnn: ").rstrip("\n")


def interrupt(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Send a signal, again after five seconds if it came just before the process waited; return the exit code."""
    for _ in range(100):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(5)
    raise AssertionError("the process does not end")
