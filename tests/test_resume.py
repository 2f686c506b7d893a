"""A run that is interrupted, anywhere and repeatedly, ends as if it was not: every task with every optimiser."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import contents, run
from tiny import TASKS

from minirnn import checkpoint, optim
from minirnn.optim import OPTIMIZERS
from minirnn.runs import LAST
from minirnn.training import Trainer, TrainingConfig

STEPS = 15
RUNS = [
    pytest.param(name, optimizer, marks=() if name == "char" or optimizer == "adamw" else pytest.mark.slow)
    for name in TASKS
    for optimizer in OPTIMIZERS
]
MOMENTUM = {
    "sgd": partial(optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": partial(optim.RMSprop, momentum=0.9),
}


def check(name: str, optimizer: str, folder: Path, **changed: Any) -> None:
    path = TASKS[name].write(folder)
    config = TrainingConfig(steps=STEPS, optimizer=optimizer, lr=1e-2, evaluations=4, log_every=2, clip=0.5)

    def trainer(out: str, resume: bool = False) -> Trainer:
        return Trainer(TASKS[name].make(path, **changed), config, folder / out, resume)

    whole = trainer("whole")
    run(whole)
    batches = whole.task.num_batches
    assert 2 < batches < STEPS, "expected an end of an epoch among the interruptions"
    at = 0
    for cut in sorted({1, batches - 1, batches, batches + 1, STEPS - 1, STEPS}):
        cut_run = trainer("cut", resume=at > 0)
        assert cut_run.position.step == at
        run(cut_run, cut - at)
        at = cut
    assert contents(folder / "cut") == contents(folder / "whole")


@pytest.mark.parametrize(("name", "optimizer"), RUNS)
def test_an_interrupted_run_ends_with_the_same_numbers(name: str, optimizer: str, tmp_path: Path) -> None:
    check(name, optimizer, tmp_path)


def test_teacher_forcing_per_sequence_resumes_with_the_same_numbers(tmp_path: Path) -> None:
    check("translator", "adamw", tmp_path, draw="sequence", teacher_forcing_end=0.2)


@pytest.mark.parametrize("optimizer", MOMENTUM)
def test_momentum_is_saved(optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, optimizer, MOMENTUM[optimizer])
    check("char", optimizer, tmp_path)
    arrays, _ = checkpoint.load(tmp_path / "whole" / LAST)
    assert any("momentum" in key and array.any() for key, array in arrays.items())
