"""The same seed gives the same run, byte for byte: on any number of threads, in this process or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from minirnn_cli.main import app
from tiny import TASKS
from typer.testing import CliRunner

from minirnn import checkpoint
from minirnn.kernels import threads
from minirnn.runs import BEST, LAST, METRICS


def _written(folder: Path) -> Any:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    arrays = [checkpoint.load(folder / name)[0] for name in (BEST, LAST)]
    return [{**line, "seconds": 0} for line in lines], [
        {name: (a.dtype, a.shape, a.tobytes()) for name, a in part.items()} for part in arrays
    ]


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_threads: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = TASKS[name]
    tiny.write(tmp_path)
    arguments = [f"train-{name}", tiny.name, *tiny.arguments, "--hidden", "40", "--steps", "8", "--quiet"]
    spawned = subprocess.Popen([sys.executable, "-m", "minirnn_cli.main", *arguments, "--out", "spawned"])
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # however little there is to do, it is shared
    shares: set[int] = set()
    shared = threads.run

    def counted(kernel: Any, work: float, most: int, *rest: Any) -> None:
        shares.add(min(threads.get_num_threads(), most))
        shared(kernel, work, most, *rest)

    monkeypatch.setattr(threads, "run", counted)
    for count in ("1", "2", "3"):
        done = CliRunner().invoke(app, [*arguments, "--threads", count, "--out", f"threads-{count}"])
        assert (done.exit_code, done.output) == (0, "")
    assert spawned.wait(120) == 0
    assert shares >= {1, 2, 3}
    expected = _written(Path("threads-1"))
    for folder in ("threads-2", "threads-3", "spawned"):
        assert _written(Path(folder)) == expected, folder
    other = CliRunner().invoke(app, [*arguments, "--seed", "5", "--out", "other"])
    assert other.exit_code == 0
    assert _written(Path("other"))[1] != expected[1]
