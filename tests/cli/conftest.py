"""What the tests of commands share: a working directory of their own, and trained runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from support import invoke
from tiny import TASKS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a run of a task, beside its data; trained once, only to be read."""

    @cache
    def train(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        data = TASKS[name].write(folder)
        options = list(TASKS[name].arguments)
        if "vectors.txt" in options:
            options[options.index("vectors.txt")] = str(folder / "vectors.txt")
        invoke(f"train-{name}", str(data), *options, "--steps", "6", "--out", str(folder / "run"), "--quiet")
        return folder / "run"

    return train
