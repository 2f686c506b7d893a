"""Training in several processes, started by a real mpiexec: the numbers of one process, and no process left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mpi_program import make, train
from support import SMALL, close, metrics_of, run
from tiny import TASKS

import minirnn as mr
from minirnn import checkpoint, distributed, random
from minirnn.errors import OptionError
from minirnn.models import CharLM
from minirnn.nn import replay
from minirnn.nn.recurrent import Recurrent
from minirnn.optim.lr_scheduler import WarmupCosine
from minirnn.random import Shard
from minirnn.runs import BEST, LAST
from minirnn.training import Trainer, TrainingConfig, save_state

PROGRAM = Path(__file__).with_name("mpi_program.py")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
needs_mpi = pytest.mark.skipif(
    SMALL or MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpiexec and mpi4py (pip install mpi4py mpich), and compiling",
)


def environment() -> dict[str, str]:
    own = [str(Path(__file__).parent), str(Path(mr.__file__).parents[1]), str(Path(mr.__file__).parents[1] / "cli")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(own)}


def start(ranks: int, *command: object) -> subprocess.Popen[str]:
    """Start a Python command in so many processes."""
    assert MPIEXEC is not None
    arguments = [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)]
    return subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    """Wait for its end, and return its exit code and what it wrote on standard error."""
    try:
        _, errors = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, errors


def ranks(count: int, action: str, *arguments: object) -> tuple[int, str]:
    return finish(start(count, PROGRAM, action, *arguments))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for tiny in TASKS.values():
        tiny.write(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------- the numbers


def test_without_mpi_nothing_is_shared_and_mpi4py_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # an import would fail
    assert (distributed.rank(), distributed.size(), distributed.shard(5)) == (0, 1, None)
    array, value = np.arange(3.0), object()
    assert distributed.all_reduce(array) is array
    assert distributed.broadcast(array) is array
    assert array.tolist() == [0, 1, 2]
    assert distributed.broadcast_json(value) is value
    assert distributed.gather(array, None, 0) is array
    assert distributed.largest(-2) == -2
    assert not distributed.is_extra(1)
    distributed.barrier()
    distributed.abort(3)


def test_several_processes_without_mpi4py_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "3")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(distributed, "_disabled", False)
    distributed._started.cache_clear()
    with pytest.raises(
        OptionError, match=r"one of 3 processes, but mpi4py cannot be used .*pip install 'minirnn\[mpi\]'"
    ):
        distributed.size()
    assert distributed.size() == 1, "the error can be said"
    monkeypatch.undo()
    distributed._started.cache_clear()


def test_another_mpi_than_that_which_started_the_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mpi4py = SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=SimpleNamespace(size=1)))
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", mpi4py)
    monkeypatch.setattr(distributed, "_disabled", False)
    distributed._started.cache_clear()
    with pytest.raises(OptionError, match=r"one of 2 processes, but the MPI of mpi4py finds one only: it is another"):
        distributed.rank()
    monkeypatch.undo()
    distributed._started.cache_clear()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "rates",
    [
        {"dropout": 0.4},
        {"zoneout": 0.3},
        {"recurrent_dropout": 0.4},
        {"recurrent_dropout": 0.4, "recurrent_dropout_on": "state"},
        {"dropout": 0.2, "zoneout": 0.2, "weight_drop": 0.3, "bidirectional": True},
    ],
)
def test_masks_follow_the_sequence_not_the_shard(rates: dict[str, Any], ragged: bool, device: str) -> None:
    """Shards of a batch, one of a single sequence, have the outputs and gradients of the whole batch."""
    x = np.random.default_rng(0).normal(size=(6, 9, 5))
    lengths = np.array([3, 6, 0, 5, 6, 1, 2, 6, 4]) if ragged else np.full(9, 6)

    def outputs(*shards: Shard) -> tuple[np.ndarray, list[np.ndarray]]:
        mr.manual_seed(3)
        layers, dropout, found = Recurrent("lstm", 5, 7, 2, dtype="float64", **rates).to(device), mr.nn.Dropout(0.3), []
        for shard in shards:
            mr.manual_seed(4)
            with random.drawing_for(shard if len(shards) > 1 else None):
                inputs = mr.Tensor(x[:, shard.columns].copy()).to(device)
                y = dropout(layers(inputs, lengths=lengths[shard.columns])[0])
                (y * y).sum().backward()
                drawn = random.uniform(4, y.shape[1]), np.array([g.random() for g in random.generators(y.shape[1])])
            found.append(y.numpy())
            draws.setdefault(len(shards), []).append(np.concatenate([drawn[0], drawn[1][None]]))
        return np.concatenate(found, 1), [p.grad.numpy().copy() for p in layers.parameters() if p.grad is not None]

    draws: dict[int, list[np.ndarray]] = {}
    whole, gradients = outputs(Shard(0, 9, 9))
    parts, sums = outputs(Shard(0, 4, 9), Shard(4, 5, 9), Shard(5, 9, 9))
    np.testing.assert_array_equal(parts, whole)
    for total, gradient in zip(sums, gradients, strict=True):
        np.testing.assert_allclose(total, gradient, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(np.concatenate(draws[3], 1), draws[1][0])


@pytest.mark.parametrize("recompute_every", [None, 4])
@pytest.mark.parametrize("repeat", [False, True])
def test_what_is_computed_again_in_the_backward_pass_has_the_masks_of_the_shard(
    recompute_every: int | None, repeat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of two shards, the backward passes outside of ``drawing_for``, add up to those of the batch."""
    tokens, targets = np.random.default_rng(0).integers(7, size=(2, 8, 4))
    if repeat:  # no gradient is where a recording expects it, so that the forward pass is computed again
        monkeypatch.setattr(replay._Plan, "_repeat_backward", lambda plan, call, *given: plan._again(call, given))
    model = CharLM(7, 5, 2, "gru", dropout=0.5, zoneout=0.3, recurrent_dropout=0.3, dtype="float64")

    def gradients(*shards: Shard | None) -> list[np.ndarray]:
        for _ in range(3 if repeat else 1):
            model.zero_grad()
            for shard in shards:
                mr.manual_seed(4)
                inputs, labels = tokens, targets
                if shard is not None:
                    inputs, labels = (np.ascontiguousarray(x[:, shard.columns]) for x in (tokens, targets))
                with random.drawing_for(shard):
                    loss, _ = model.loss(inputs, labels, None, recompute_every, "sum")
                loss.backward()
        return [p.grad.numpy().copy() for p in model.parameters() if p.grad is not None]

    for whole, parts in zip(gradients(None), gradients(Shard(0, 1, 4), Shard(1, 4, 4)), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-12)


@needs_mpi
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_collectives(count: int, tmp_path: Path) -> None:
    assert ranks(count, "collectives", tmp_path, tmp_path / "found") == (0, "")
    extra = count * (count - 1) // 2
    assert json.loads((tmp_path / "found").read_text()) == {
        "sum": [[count * k + extra, count * (k + 3) + extra] for k in range(3)],
        "largest": count - 1,
        "value": {"rank": 0, "nan": None},
        "arrays": {"a": ["<i2", [[0] * 3] * 2], "b": ["<f8", []], "c": ["<f8", 0.5]},
        "batches": {"7": True, "2": True, "1": True},
        "alone": True,
        "size": count,
        "threads": max(count, count * (len(os.sched_getaffinity(0)) // count)),
    }


@needs_mpi
@pytest.mark.slow
def test_arrays_on_a_gpu_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the memory of the host, as the simulator has no other."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    code, errors = ranks(2, "device", tmp_path, tmp_path / "found")
    assert code == 0, errors
    assert json.loads((tmp_path / "found").read_text()) == [
        ["<f4", [3], [9, 12, 15]],
        ["<f8", [300, 7], [2]],
        ["<i8", [1, 2], [3, 4]],
        ["<f4", [0, 3], []],
        ["<f8", [], [1]],
        [0, 1, 2, 9, 12, 15, 6, 7, 8, 9, 10, 11],
    ]


def check_losses(data: Path, count: int, steps: int, names: list[str]) -> None:
    """n processes report the losses, norms of gradients and numbers of tokens of one, to 1e-6."""
    for number in (1, count):
        assert ranks(number, "losses", data, data / f"{number}.json", steps, *names)[0] == 0
    whole, parts = (json.loads((data / f"{number}.json").read_text()) for number in (1, count))
    assert {name: len(values) for name, values in parts.items()} == dict.fromkeys(names, steps)
    for name in names:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6, err_msg=name)


@needs_mpi
def test_two_processes_have_the_losses_of_one(data: Path) -> None:
    check_losses(data, 2, 40, ["char", "classifier"])


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_task_has_the_losses_of_one_process(count: int, data: Path) -> None:
    check_losses(data, count, 200, list(TASKS))


@needs_mpi
def test_a_run_goes_on_with_another_number_of_processes(data: Path) -> None:
    """Three processes, stopped by the last of them; then one; then two: the numbers of one process all the way."""
    assert ranks(1, "train", data, data / "whole", "new", 30, 0)[0] == 0
    for count, action, stop in ((3, "new", 11), (1, "resume", 17), (2, "resume", 0)):
        assert ranks(count, "train", data, data / "cut", action, 30, stop)[0] == 0
    cut, whole = metrics_of(data / "cut"), metrics_of(data / "whole")
    assert [line["step"] for line in cut] == list(range(1, 31))
    assert cut == close(whole, 1e-6)
    for name in (BEST, LAST):
        found, expected = (checkpoint.load(data / out / name)[0] for out in ("cut", "whole"))
        assert found.keys() == expected.keys()
        assert all(np.allclose(array, expected[key], 1e-6, 1e-9) for key, array in found.items()), name


@needs_mpi
def test_one_process_of_a_machine_reads_a_text_for_all(tmp_path: Path) -> None:
    """Tokens, vocabularies, splits and errors are those of reading alone; pieces end within characters and lines."""
    texts = {
        "odd": b"\xef\xbb\xbfna\xc3\xafve \xf0\x9f\x98\x80\r\ncaf\xc3\xa9\rx  y\n the the The\xe2\x82\xac",
        "more": "\n\n  \tthe end, na\u00efve the the x x y y".encode(),
        "empty": b"",
        "bad": b"a\nb\xc3\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    odd, more, empty, bad, gone = (str(tmp_path / name) for name in (*texts, "gone"))
    good = {
        "characters": ("char", [odd, empty, more], {}, 1),
        "bytes": ("char", [odd, bad, empty], {"as_bytes": True}, 2),
        "words": ("words", [odd, more], {"lower": True, "min_count": 1}, 3),
        "some words": ("words", [more, odd], {"max_words": 3}, 5),
        "built in": ("char", ["@python"], {}, 1 << 20),
    }
    refused = {"bad": [odd, bad], "gone": [gone], "empty": [empty], "folder": [str(tmp_path)]}
    reads = good | {name: ("char", files, {}, 2) for name, files in refused.items()}
    code, errors = ranks(3, "texts", tmp_path, tmp_path / "none", json.dumps(reads))
    assert code == 0, errors
    for rank in range(3):
        found = json.loads((tmp_path / f"rank-{rank}").read_text())
        expected = {"same": [True] * 4, "mapped": True, "left": [], "reader": rank == 0}
        assert {name: found.pop(name) for name in good} == dict.fromkeys(good, expected)
        assert found == {
            "bad": f"{bad} is not UTF-8 text (byte 3, line 2); any file can be read as bytes instead",
            "gone": f"cannot read {gone}: No such file or directory",
            "empty": f"nothing to read in {empty}",
            "folder": f"cannot read {tmp_path}: Is a directory",
            "full": f"cannot store the encoded text in {tmp_path / 'temporary'}: File too large; set TMPDIR to another "
            "folder",
        }
    assert not list((tmp_path / "temporary").iterdir())


# --------------------------------------------------------------------------------------------------- local SGD


def run_all(data: Path, count: int, *runs: tuple[str, dict[str, Any], dict[str, Any]]) -> list[list[list[float]]]:
    """What each step of several runs (name, options of the task, of the training) reported."""
    assert ranks(count, "runs", data, data / "runs.json", json.dumps(runs)) == (0, "")
    found: list[list[list[float]]] = json.loads((data / "runs.json").read_text())
    return found


def simulated(
    data: Path, count: int, name: str, changed: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> list[list[float]]:
    """Local SGD in one process: models that train on one shard each, and NumPy's mean of them and of their moments."""
    config = TrainingConfig(**{"lr": 1e-2, "evaluations": 4} | options)
    steps, found, seen = config.steps or 0, [], np.zeros(count)
    tasks = [make(name, data, **changed) for _ in range(count)]
    for task in tasks:
        task.expect_passes(steps / task.num_batches)
    optimizers = [config.make_optimizer(task.model) for task in tasks]
    states = [random.generator().bit_generator.state] * count
    for step in range(steps):
        epoch, batch = divmod(step, tasks[0].num_batches)
        losses, norms, tokens = np.zeros(count), np.zeros(count), np.zeros(count)
        for rank, (task, optimizer) in enumerate(zip(tasks, optimizers, strict=True)):
            world = distributed._World(None, SimpleNamespace(rank=rank, size=count), None, [])
            monkeypatch.setattr(distributed, "_world", lambda world=world: world)
            random.generator().bit_generator.state = states[rank]
            if batch == 0:
                task.start_epoch(epoch)
            WarmupCosine(optimizer, config.lr, config.warmup, config.final_lr).set_progress(step / steps)
            optimizer.zero_grad()
            loss, tokens[rank] = task.loss(batch, step / steps)
            loss.backward()
            norms[rank] = mr.optim.clip_grad_norm_(task.model.parameters(), config.clip)
            losses[rank] = loss.item()
            optimizer.step()
            states[rank] = random.generator().bit_generator.state
        monkeypatch.undo()
        seen += tokens
        found.append([losses @ tokens / tokens.sum(), norms.mean(), tokens.sum()])
        evaluated = (step + 1) * config.evaluations // steps > step * config.evaluations // steps
        if evaluated or 0 in ((step + 1) % (config.average_every or 1), (step + 1) % (config.save_every or 1)):
            weights, seen = seen / seen.sum(), np.zeros(count)
            pairs = zip(tasks, optimizers, strict=True)
            held = [[task.model.state_dict(), optimizer.state_dict()] for task, optimizer in pairs]
            mean = mean_of(held, weights)
            for task, optimizer in zip(tasks, optimizers, strict=True):
                task.model.load_state_dict(mean[0])
                optimizer.load_state_dict(mean[1])
    return [[*row[:2], sum(one[2] for one in found[: number + 1])] for number, row in enumerate(found)]


def mean_of(values: list[Any], weights: np.ndarray) -> Any:
    """The mean of nests of dicts and lists, of the arrays in them; everything else must be the same."""
    first = values[0]
    if isinstance(first, np.ndarray):
        return np.tensordot(weights, np.stack(values), 1)
    if isinstance(first, (dict, list)):
        keys = list(first) if isinstance(first, dict) else range(len(first))
        items = [mean_of([value[key] for value in values], weights) for key in keys]
        return dict(zip(keys, items, strict=True)) if isinstance(first, dict) else items
    assert all(value == first for value in values)
    return first


LOCAL = [("char", {}), ("char", {"batch_size": 3}), ("classifier", {})]  # batches of 8, 3, and 8 or 1


@needs_mpi
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_local_sgd_is_the_mean_of_models_that_train_on_their_own(
    count: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With momentum and clipping, ragged batches, batches with too few sequences for all, and averages also
    where the model is saved (7, 14) and evaluated (10, 20)."""
    options = {"steps": 20, "average_every": 3, "evaluations": 2, "save_every": 7, "optimizer": "adamw", "clip": 0.5}
    runs = [(name, changed, options) for name, changed in LOCAL]
    for found, case in zip(run_all(data, count, *runs), runs, strict=True):
        np.testing.assert_allclose(found, simulated(data, count, *case, monkeypatch), rtol=1e-9, err_msg=str(case))


@needs_mpi
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_plain_sgd_averaged_at_each_step_is_data_parallel_training(count: int, data: Path) -> None:
    plain = {"steps": 20, "optimizer": "sgd", "clip": 0.0, "lr": 0.5, "weight_decay": 0.01}
    runs = [(name, changed, plain | {"average_every": k}) for name, changed in LOCAL for k in (None, 1)]
    found = run_all(data, count, *runs)
    for summed, averaged, case in zip(found[::2], found[1::2], LOCAL, strict=True):
        values, expected = (np.array(steps)[:, [0, 2]] for steps in (averaged, summed))  # the norm is another one
        np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=str(case))
        assert values[0, 0] - values[-1, 0] > 0.1, "it learns"


@needs_mpi
def test_a_loss_that_is_not_finite_is_skipped_by_all(data: Path) -> None:
    """Also by those whose own loss is finite: what all report stays finite, and the models are the same."""
    options = {"steps": 9, "optimizer": "sgd", "clip": 0.0, "spoiled": 4}
    summed, averaged = run_all(data, 2, *(("char", {}, options | {"average_every": k}) for k in (None, 1)))
    for steps in (summed, averaged):
        assert np.isnan([row[1] for row in steps]).tolist() == [n == 4 for n in range(1, 10)]
    np.testing.assert_allclose([row[0] for row in averaged], [row[0] for row in summed], rtol=1e-12)


@needs_mpi
def test_local_sgd_goes_on_from_a_saved_mean(data: Path) -> None:
    """With as many processes the run is the same; with others the first loss is, for the model is the same."""
    options = json.dumps({"average_every": 3, "save_every": 6})
    assert ranks(2, "train", data, data / "whole", "new", 24, 0, options)[0] == 0
    assert ranks(2, "train", data, data / "cut", "new", 24, 11, options)[0] == 0
    shutil.copytree(data / "cut", data / "three")
    for count, out in ((2, "cut"), (3, "three")):
        assert ranks(count, "train", data, data / out, "resume", 24, 0, options)[0] == 0
    whole, cut, three = (metrics_of(data / out) for out in ("whole", "cut", "three"))
    assert cut == close(whole, 1e-12)
    assert three[:13] == close([{**whole[n], "grad_norm": three[n]["grad_norm"]} for n in range(13)], 1e-12)
    assert len(three) == 24


def test_the_save_once_a_minute_waits_for_an_average(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.training.trainer.SAVE_SECONDS", -1.0)
    monkeypatch.setattr(Trainer, "averaged", property(lambda self: self.position.step % 3 == 0))
    trainer, saved = Trainer(make("char", data), TrainingConfig(steps=8, average_every=3)), []
    trainer.hooks = [save_state]
    trainer.save = lambda: saved.append(trainer.position.step)  # type: ignore[method-assign]
    run(trainer)
    assert saved == [0, 3, 6]


def test_one_process_alone_has_nothing_to_average(data: Path) -> None:
    with_and_without = [train(make("char", data), 5, average_every=k) for k in (None, 2)]
    assert with_and_without[0] == with_and_without[1]


# ------------------------------------------------------------------------------------------- signals and faults


def command(data: Path, *more: object) -> list[object]:
    path = data / TASKS["char"].name
    return ["-m", "minirnn", "train-char", path, "--hidden", 8, "--batch-size", 5, "--out", data / "out", *more]


def command_lines() -> dict[int, list[str]]:
    """The arguments of all processes, by their ids."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").split("\0")
    return found


def pids(process: subprocess.Popen[str], count: int, ready: Path) -> list[int]:
    """The process ids of all ranks, once their run has written a line of metrics; none if it has ended before."""
    for _ in range(3000):
        lines = command_lines().items()
        found = [pid for pid, line in lines if line[0] == sys.executable and str(ready.parent) in line]
        if len(found) == count and ready.exists() and ready.stat().st_size:
            return found
        if process.poll() is not None:
            return []
        time.sleep(0.1)
    raise AssertionError("the run does not begin")


@needs_mpi
@pytest.mark.parametrize(
    ("to", "number"),
    [
        ("rank", signal.SIGTERM),
        pytest.param("rank", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("mpiexec", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("mpiexec", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_once_and_ends_all(to: str, number: signal.Signals, data: Path) -> None:
    process = start(2, *command(data, "--steps", 10**6, "--log-every", 1))
    found = pids(process, 2, data / "out" / "metrics.jsonl")
    assert found, process.communicate()
    os.kill(process.pid if to == "mpiexec" else found[-1], number)
    code, errors = finish(process)
    assert code == 128 + number
    assert errors.count("stopped at step") == 1
    step = int(errors.split("stopped at step ")[1].split(";")[0])
    assert checkpoint.load_config(data / "out" / LAST)["position"]["step"] == step
    code, errors = finish(start(1, *command(data, "--resume", "--steps", step + 2)))
    assert code == 0, errors


@needs_mpi
@pytest.mark.slow
def test_a_killed_process_ends_the_others(data: Path) -> None:
    """Within ten seconds, with a whole checkpoint."""
    for rank, at in ((0, 5), (1, 8)):
        out = data / f"kill-{rank}"
        assert ranks(2, "kill", data, out, rank, at)[0] == 9
        assert checkpoint.load_config(out / LAST)["position"]["step"] == at // 3 * 3


@needs_mpi
@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_same_numbers(data: Path) -> None:
    """kill -9 of a random rank, twenty times; no process hangs, and what is saved leads to the same end."""
    rng, kills, runs, steps = np.random.default_rng(0), 0, 0, 2000
    assert ranks(2, "train", data, data / "whole", "new", steps, 0)[0] == 0
    while kills < 20:
        runs, out = runs + 1, data / f"cut-{runs}"
        while True:
            action = "resume" if (out / LAST).exists() else "new"
            process = start(2, PROGRAM, "train", data, out, action, steps, 0)
            time.sleep(rng.uniform(0.5, 3))
            found = pids(process, 2, out / "metrics.jsonl") if kills < 20 and process.poll() is None else []
            if found:
                os.kill(int(rng.choice(found)), signal.SIGKILL)
            code, errors = finish(process)
            if code == 0:
                break
            assert code in (9, 255), errors  # 255: of mpiexec itself, where a process is killed while MPI starts
            kills += 1
        assert metrics_of(out) == close(metrics_of(data / "whole"), 1e-6)


@needs_mpi
def test_a_fault_of_one_process_ends_all_and_is_said_once(data: Path) -> None:
    code, errors = ranks(2, "fault", data, data / "none")
    assert code == 1
    assert errors.count("ValueError: a fault of one rank") == 1


@needs_mpi
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--freeze", "all"], "minirnn: "),
        (["-"], "standard input"),
    ],
)
def test_a_mistake_is_said_once(change: list[object], said: str, data: Path) -> None:
    code, errors = finish(start(2, *command(data, "--steps", 3, *change)))
    assert code == 2
    assert errors.count(said) == 1


@needs_mpi
def test_metrics_and_progress_are_shown_once(data: Path) -> None:
    process = start(2, *command(data, "--steps", 20, "--log-every", 5, "--evaluations", 1, "--json"))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors.count("training for 20 steps") == 1
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    seconds = [line["seconds"] for line in lines]
    assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3]
    task = TASKS["char"].make(data / TASKS["char"].name, batch_size=5, seq_length=64)
    steps = run(Trainer(task, TrainingConfig(steps=20)))
    assert [line["tokens"] for line in lines] == [steps[n - 1].tokens for n in (5, 10, 15, 20)]


@needs_mpi
def test_a_paused_run_is_evaluated_where_it_pauses_and_once(data: Path) -> None:
    """All processes end after the step that follows."""
    code, errors = finish(start(2, *command(data, "--steps", 12, "--evaluations", 4, "--pause-after", 2, "--quiet")))
    assert (code, errors) == (0, "")
    evaluated = [line["step"] for line in metrics_of(data / "out") if "val_loss" in line]
    assert evaluated == [3, 6]
    assert checkpoint.load_config(data / "out" / LAST)["position"]["step"] == 7


# ------------------------------------------------------------------------------------------------------ sweeps


def sweep(data: Path, out: str, *more: object) -> list[object]:
    """A sweep of four trials to one of two evaluations and of one to the end; the last rate diverges."""
    corpus, rates = data / TASKS["char"].name, "0.002,0.02,0.006,1e30"
    options = ["--hidden", 4, "--layers", 1, "--batch-size", 4, "--seq-length", 8, "--steps", 60, "--evaluations", 4]
    return ["-m", "minirnn", "sweep", "train-char", corpus, *options, "--lr", rates, "--out", data / out, *more]


def trials_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of trials.jsonl without what differs: the time, and the folder."""
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "folder")} for line in lines]


def test_cores_are_divided_among_those_that_may_use_them() -> None:
    assert distributed.divide_cores([{0, 1, 2, 3}] * 3) == [1, 1, 1]
    assert distributed.divide_cores([{0, 1, 2, 3}] * 2) == [2, 2]
    assert distributed.divide_cores([{0, 1, 2, 3}, {2, 3}, {(1, 0)}, set(range(10, 17))]) == [3, 1, 1, 7]
    assert distributed.divide_cores([{0}] * 3) == [1, 1, 1]
    assert len(distributed.cores()[0]) == mr.get_num_threads()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep without MPI."""
    folder = tmp_path_factory.mktemp("sweep")
    TASKS["char"].write(folder)
    subprocess.run([sys.executable, *map(str, sweep(folder, "out"))], env=environment(), check=True, timeout=300)
    return folder / "out"


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_sweep_over_ranks_has_the_trials_of_a_local_one(count: int, data: Path, local: Path) -> None:
    process = start(count, *sweep(data, "out", "--json"))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"4 of 4 trials, to 2 of 4 evaluations, {count} in parallel" in errors
    assert json.loads(output.splitlines()[0])["trial"] == 2
    found, expected = trials_of(data / "out"), trials_of(local)
    assert [line.pop("command").replace(str(data), str(local.parent)) for line in found] == [
        line.pop("command") for line in expected
    ]
    assert found == expected
    assert [line["status"] for line in found] == ["stopped", "finished", "stopped", "failed"]
    assert metrics_of(data / "out" / "trial-2") == metrics_of(local / "trial-2")


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "number"),
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM), (0, signal.SIGINT), ("mpiexec", signal.SIGINT)],
)
def test_a_signal_ends_all_of_a_sweep_which_can_be_continued(
    to: int | str, number: signal.Signals, data: Path, local: Path
) -> None:
    """Also the trials, which save."""
    process = start(2, *sweep(data, "out"))
    for _ in range(3000):
        started = [file.parent.name for file in (data / "out").glob("*/metrics.jsonl") if file.stat().st_size]
        if len(started) > 1:
            break
        assert process.poll() is None
        time.sleep(0.02)
    ranks = {
        folder: arguments
        for folder, arguments in command_lines().items()
        if arguments[1:4] == ["-m", "minirnn", "sweep"] and str(data / "out") in arguments
    }
    os.kill(process.pid if to == "mpiexec" else sorted(ranks)[int(to)], number)
    code, errors = finish(process, 20)
    assert code == (9 if number == signal.SIGKILL else 128 + number), errors
    assert errors.count("the same command continues") == (number != signal.SIGKILL)
    for _ in range(200):
        left = [line for line in command_lines().values() if str(data / "out") in " ".join(line)]
        if not left:
            break
        time.sleep(0.1)
    assert not left
    code, errors = finish(start(3, *sweep(data, "out")))
    assert code == 0, errors
    found, expected = ([line | {"command": ""} for line in trials_of(path)] for path in (data / "out", local))
    assert found == expected


@needs_mpi
def test_a_mistake_in_a_sweep_is_said_once(data: Path) -> None:
    code, errors = finish(start(2, *sweep(data, "out", "--optimizer", "adam,adamx")))
    assert code == 2
    assert errors.count("'adamx' is not one of") == 1
    (data / "out").mkdir()
    (data / "out" / "notes").touch()
    code, errors = finish(start(2, *sweep(data, "out")))
    assert code == 2
    assert errors.count("is not empty, and not the folder of a sweep") == 1
