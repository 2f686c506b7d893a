"""What tests/test_distributed.py starts by mpiexec, in one process or several."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tiny import TASKS

from minirnn import Tensor, distributed, get_num_threads, kernels, random
from minirnn.data import sources
from minirnn.errors import DataError
from minirnn.tasks import TASKS as ALL_TASKS
from minirnn.tasks import Task
from minirnn.training import Trainer, TrainingConfig


def make(name: str, folder: Path, **changed: Any) -> Task[Any, Any]:
    """The tiny run of a task, in float64."""
    random.manual_seed(5)
    task = TASKS[name].make(folder / TASKS[name].name, **changed)
    task.model.to("float64")
    return task


def train(
    task: Task[Any, Any],
    steps: int,
    out: Path | None = None,
    resume: bool = False,
    stop: int = 0,
    spoiled: int = 0,
    **options: Any,
) -> list[list[float]]:
    """Train to its end, or to the step after ``stop``; what each step reported.

    In step ``spoiled`` the last rank has a loss that is not finite.
    """
    settings = {"lr": 1e-2, "evaluations": 4, "log_every": 1, "save_every": 7} | options
    trainer, found, loss_of = Trainer(task, TrainingConfig(steps=steps, **settings), out, resume), [], task.loss
    last = distributed.rank() == distributed.size() - 1

    def loss(batch_index: int, progress: float) -> tuple[Tensor, int]:
        value, tokens = loss_of(batch_index, progress)
        return value * (math.nan if last and trainer.position.step == spoiled - 1 else 1.0), tokens

    task.loss = loss  # type: ignore[method-assign]
    for step in trainer.fit():
        found.append([step.train_loss, step.grad_norm, step.tokens])
        if step.step == stop and last:
            trainer.stop()
    return found


def kill(folder: Path, out: Path, rank: int, at: int) -> None:
    """End one rank without a word in the middle of a run; there is more than one save before."""
    task = TASKS["char"].make(folder / TASKS["char"].name)
    trainer = Trainer(task, TrainingConfig(steps=10**6, save_every=3), out)
    for step in trainer.fit():
        if step.step == at and distributed.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)


def collectives() -> dict[str, object]:
    rank, size = distributed.rank(), distributed.size()
    strided = np.arange(6.0).reshape(2, 3).T + rank
    arrays = {"a": np.full((2, 3), rank, np.int16), "b": np.zeros(0), "c": np.array(rank + 0.5)} if rank == 0 else {}
    batches = {}
    for count in (7, 2, 1):
        whole, part = np.arange(2.0 * count).reshape(2, count, 1), distributed.shard(count)
        own = whole if part is None else whole[:, part.columns]
        batches[count] = distributed.gather(own, part, -2).tolist() == whole.tolist()
    with distributed.disabled():
        alone = distributed.size() == 1 and distributed.shard(5) is None
    return {
        "sum": distributed.all_reduce(strided).tolist(),
        "largest": distributed.largest(rank),
        "value": distributed.broadcast_json({"rank": rank, "nan": None} if rank == 0 else object()),
        "arrays": {name: [a.dtype.str, a.tolist()] for name, a in distributed.broadcast_arrays(arrays).items()},
        "batches": batches,
        "alone": alone,
        "size": size,
        "threads": int(distributed.all_reduce(np.array([get_num_threads()]))[0]),
    }


def device_sums() -> list[object]:
    """Sums of arrays on the GPU, or in the simulator: larger and smaller ones, a view, an empty one, other types."""
    backend, rank, found = kernels.on("cuda"), distributed.rank(), []
    whole = backend.asarray(np.arange(12, dtype=np.float32) * (1 + rank))
    for array in (
        whole[3:6],
        backend.asarray(np.full((300, 7), 0.5 + rank)),
        backend.asarray(np.array([[1 + rank, 2]], np.int64)),
        backend.asarray(np.zeros((0, 3), np.float32)),
        backend.asarray(np.float64(rank)),
    ):
        assert distributed.all_reduce(array) is array
        values = array.numpy()
        found.append([values.dtype.str, values.shape, np.unique(values).tolist()])
    return [*found, whole.numpy().tolist()]


def read_texts(folder: Path, reads: dict[str, Any]) -> dict[str, object]:
    """What this rank says of texts that one rank reads for all: an error, or whether it has what it reads alone."""
    (folder / "temporary").mkdir(exist_ok=True)
    tempfile.tempdir = str(folder / "temporary")
    found, opened, open_file = dict[str, object](), [0], sources._open

    def counting(path: str) -> object:
        opened[0] += 1
        return open_file(path)

    sources._open = counting  # type: ignore[assignment]
    for name, (task, files, options, block) in reads.items():
        sources._BLOCK, opened[0] = block, 0
        config = ALL_TASKS[task].Config(batch_size=2, hidden_size=2, num_layers=1, seq_length=3, **options)
        try:
            data = ALL_TASKS[task].read(files, config)
        except DataError as error:
            found[name] = str(error)
            continue
        shared, reader = ALL_TASKS[task].build(data, config), opened[0] > 0
        with distributed.disabled():
            own = ALL_TASKS[task].build(ALL_TASKS[task].read(files, config), config)
        sets = [[made._train.tokens, made._validation.tokens] for made in (shared, own)]
        found[name] = {
            "same": [a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*sets, strict=True)]
            + [shared.config() == own.config(), shared.summary == own.summary],
            "mapped": isinstance(data.tokens, np.memmap) and not data.tokens.flags.writeable,
            "left": os.listdir(tempfile.tempdir) if reader else [],  # others see the next file of the reader
            "reader": reader,
        }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # as a full disk
    try:
        ALL_TASKS["char"].read([str(folder / "odd")], ALL_TASKS["char"].Config())
    except DataError as error:
        found["full"] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return found


def main(action: str, folder: Path, out: Path, *more: str) -> None:
    found: Any = None
    if action == "losses":
        found = {name: train(make(name, folder), int(more[0])) for name in more[1:]}
    elif action == "runs":
        found = [train(make(name, folder, **changed), **options) for name, changed, options in json.loads(more[0])]
    elif action == "train":
        options = json.loads(more[3]) if len(more) > 3 else {}
        train(make("char", folder), int(more[1]), out, more[0] == "resume", int(more[2]), **options)
    elif action == "kill":
        kill(folder, out, *map(int, more))
    elif action == "collectives":
        found = collectives()
    elif action == "device":
        found = device_sums()
    elif action == "texts":
        told = read_texts(folder, json.loads(more[0]))
        (folder / f"rank-{distributed.rank()}").write_text(json.dumps(told))
    elif distributed.rank() == 1:
        raise ValueError("a fault of one rank")
    if found is not None and distributed.rank() == 0:
        out.write_text(json.dumps(found))
    distributed.barrier()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
