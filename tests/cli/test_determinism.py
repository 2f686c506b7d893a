"""The same seed gives the same run, byte for byte: on any number of threads, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import contents, invoke
from tiny import TASKS

from minirnn.kernels import threads


def written(folder: str) -> Any:
    """The metrics and arrays of a run."""
    lines, files = contents(folder)
    return lines, {name: arrays for name, (arrays, _) in files.items()}


def arguments(name: str) -> list[str]:
    TASKS[name].write(Path())
    return [f"train-{name}", TASKS[name].name, *TASKS[name].arguments, "--hidden", "40", "--steps", "4", "--quiet"]


@pytest.mark.parametrize("name", TASKS)
def test_a_run_depends_on_its_seed_but_not_on_the_number_of_threads(
    name: str, monkeypatch: pytest.MonkeyPatch, set_threads: Any
) -> None:
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # however little there is to do, it is split
    used: set[int] = set()
    run = threads.run

    def counted(kernel: Any, work: float, maximum: int, *rest: Any) -> None:
        used.add(min(threads.get_num_threads(), maximum))
        run(kernel, work, maximum, *rest)

    monkeypatch.setattr(threads, "run", counted)
    for count in ("1", "2", "3"):
        assert invoke(*arguments(name), "--threads", count, "--out", f"threads-{count}").output == ""
    assert used >= {1, 2, 3}
    assert written("threads-1") == written("threads-2") == written("threads-3")
    invoke(*arguments(name), "--seed", "5", "--out", "other")
    assert written("other")[1] != written("threads-1")[1]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "char" else pytest.mark.slow) for name in TASKS]
)
def test_a_run_does_not_depend_on_the_process(name: str) -> None:
    invoke(*arguments(name), "--out", "here")
    subprocess.run([sys.executable, "-m", "minirnn", *arguments(name), "--out", "spawned"], check=True)
    assert written("spawned") == written("here")
