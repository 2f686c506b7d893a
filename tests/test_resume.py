"""A run that was cut, anywhere and again and again, ends as if it had not been: every task with every optimiser."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import run
from tiny import TASKS

from minirnn import checkpoint, optim
from minirnn.runs import BEST, LAST, METRICS
from minirnn.optim import OPTIMIZERS
from minirnn.training import Trainer, TrainingConfig

STEPS = 15
MOMENTUM = {
    "sgd": partial(optim.SGD, momentum=0.9, nesterov=True), "rmsprop": partial(optim.RMSprop, momentum=0.9),
}  # fmt: skip


def contents(folder: Path) -> Any:
    """Everything a run has written, but the time it took."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    files = {}
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(folder / name)
        config["position"].pop("seconds")
        files[name] = {key: (a.dtype, a.shape, a.tobytes()) for key, a in arrays.items()}, config
    return lines, files


def check(name: str, optimizer: str, folder: Path) -> None:
    path = TASKS[name].write(folder)
    config = TrainingConfig(steps=STEPS, optimizer=optimizer, lr=1e-2, evaluations=4, log_every=2, clip=0.5)

    def trainer(out: str, resume: bool = False) -> Trainer:
        return Trainer(TASKS[name].make(path), config, folder / out, resume)

    whole = trainer("whole")
    run(whole)
    batches = whole.task.num_batches
    assert 2 < batches < STEPS, "expected an end of an epoch among the cuts"
    at = 0
    for cut in sorted({1, batches - 1, batches, batches + 1, STEPS - 1, STEPS}):
        cut_run = trainer("cut", resume=at > 0)
        assert cut_run.position.step == at
        run(cut_run, cut - at)
        at = cut
    assert contents(folder / "cut") == contents(folder / "whole")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", TASKS)
def test_every_task_with_every_optimizer(name: str, optimizer: str, tmp_path: Path) -> None:
    check(name, optimizer, tmp_path)


@pytest.mark.parametrize("optimizer", MOMENTUM)
def test_momentum_is_kept(optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, optimizer, MOMENTUM[optimizer])
    check("char", optimizer, tmp_path)
    arrays, _ = checkpoint.load(tmp_path / "whole" / LAST)
    assert any("momentum" in key and array.any() for key, array in arrays.items())
