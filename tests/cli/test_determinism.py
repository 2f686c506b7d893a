"""The same seed gives the same run, byte for byte: on any number of threads, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from support import contents, invoke
from tiny import TASKS

from minirnn.kernels import threads


def written(folder: str) -> Any:
    """The metrics and arrays of a run."""
    lines, files = contents(folder)
    return lines, {name: arrays for name, (arrays, _) in files.items()}


@pytest.mark.parametrize("name", TASKS)
def test_a_run_depends_on_its_seed_but_not_on_threads_or_process(
    name: str, monkeypatch: pytest.MonkeyPatch, set_threads: Any, folder: Any
) -> None:
    TASKS[name].write(folder)
    arguments = [f"train-{name}", TASKS[name].name, *TASKS[name].arguments, "--hidden", "40", "--steps", "5", "--quiet"]
    spawned = subprocess.Popen([sys.executable, "-m", "minirnn", *arguments, "--out", "spawned"])
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # however little there is to do, it is split
    used: set[int] = set()
    run = threads.run

    def counted(kernel: Any, work: float, maximum: int, *rest: Any) -> None:
        used.add(min(threads.get_num_threads(), maximum))
        run(kernel, work, maximum, *rest)

    monkeypatch.setattr(threads, "run", counted)
    for count in ("1", "2", "3"):
        assert invoke(*arguments, "--threads", count, "--out", f"threads-{count}").output == ""
    assert used >= {1, 2, 3}
    invoke(*arguments, "--seed", "5", "--out", "other")
    assert spawned.wait(120) == 0
    for out in ("threads-2", "threads-3", "spawned"):
        assert written(out) == written("threads-1"), out
    assert written("other")[1] != written("threads-1")[1]
