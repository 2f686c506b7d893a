"""Event files, read back by TensorBoard itself."""

from __future__ import annotations

import errno
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import invoke, metrics_of, refusal, run
from tiny import TASKS

from minirnn import checkpoint, tensorboard
from minirnn.runs import BEST, METRICS
from minirnn.tensorboard import TensorBoard
from minirnn.training import Trainer, TrainingConfig

Read = Callable[[Path], Any]
CURVES = {"train_loss", "lr", "grad_norm", "val_loss", "bits_per_symbol"}


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra: tensorboard)")


@pytest.fixture
def read() -> Read:
    """Return a function that gives all that TensorBoard finds in a folder."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="tensorboard is not installed (extra: peers)")
    everything = dict.fromkeys(("scalars", "histograms", "tensors"), 0)
    return lambda folder: accumulator.EventAccumulator(str(folder), everything).Reload()


def check_curves(events: Any, folder: Path) -> None:
    """The curves are those of the metrics file, a point for each line."""
    lines = metrics_of(folder)
    assert set(events.Tags()["scalars"]) == CURVES
    for name in CURVES:
        found = {point.step: point.value for point in events.Scalars(name)}
        expected = {line["step"]: line[name] for line in lines if name in line}
        assert len(events.Scalars(name)) == len(expected)
        assert found == {step: np.float32(value) for step, value in expected.items()}


def test_a_command_writes_curves_histograms_and_samples(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, small = TASKS["char"].write(tmp_path), TASKS["char"].arguments
    command = ("train-char", str(data), *small, "--steps", "12", "--evaluations", "3", "--log-every", "2", "--quiet")
    invoke(*command, "--out", "run", "--tensorboard")
    events = read(tmp_path / "run")
    check_curves(events, tmp_path / "run")
    weights, _ = checkpoint.load(tmp_path / "run" / "last.safetensors")
    for tag in events.Tags()["histograms"]:
        *_, last = points = events.Histograms(tag)
        values = weights[f"model.{tag.removeprefix('weights/')}"].astype(np.float64)
        assert [point.step for point in points] == [4, 8, 12]
        found = last.histogram_value
        assert (found.num, found.min, found.max) == (values.size, values.min(), values.max())
        assert found.sum == pytest.approx(values.sum())
        assert sum(found.bucket) == values.size
    assert len(events.Tags()["histograms"]) == sum(name.startswith("model.") for name in weights)
    samples = events.Tensors("sample/text_summary")
    assert [sample.step for sample in samples] == [4, 8, 12]
    assert samples[-1].tensor_proto.string_val[0].startswith(b"    ")
    invoke(*command, "--out", "plain")
    assert metrics_of("plain") == metrics_of("run")  # writing changes nothing
    assert not list(Path("plain").glob("events*"))


def test_resumed_and_rolled_back_runs_continue_their_curves(read: Read, tmp_path: Path) -> None:
    """After a crash four steps after the last saved state, every step is there once."""
    task = TASKS["char"].make(TASKS["char"].write(tmp_path))
    config = TrainingConfig(steps=20, evaluations=2, log_every=1, save_every=10)
    trainer = Trainer(task, config, tmp_path / "run")
    trainer.hooks.append(TensorBoard(tmp_path / "run"))
    for step in trainer.fit():
        if step.step == 14:
            break
    trainer.hooks[-1].close()  # type: ignore[attr-defined]
    assert read(tmp_path / "run").Scalars("lr")[-1].step == 14
    resumed = Trainer(TASKS["char"].make(tmp_path / "corpus.txt"), config, tmp_path / "run", resume=True)
    assert resumed.position.step == 10
    board = TensorBoard(tmp_path / "run", step=10)
    resumed.hooks.append(board)
    steps = run(resumed, 8)
    steps[-1].rolled_back, resumed.position.step = True, 16
    board(resumed, steps[-1])
    board.close()
    lines = (tmp_path / "run" / METRICS).read_text().splitlines(keepends=True)
    (tmp_path / "run" / METRICS).write_text("".join(line for line in lines if json.loads(line)["step"] <= 16))
    check_curves(read(tmp_path / "run"), tmp_path / "run")


def test_a_missing_package_is_one_line_before_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = refusal("train-char", "not-there.txt", "--tensorboard")
    assert message == "--tensorboard needs tensorboardX: pip install 'minirnn[tensorboard]'"


def test_a_full_disk_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboardX.record_writer import RecordWriter

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    task = TASKS["char"].make(TASKS["char"].write(tmp_path))
    trainer = Trainer(task, TrainingConfig(steps=6, log_every=1), tmp_path / "run")
    trainer.hooks.append(TensorBoard(tmp_path / "events"))
    monkeypatch.setattr(RecordWriter, "write", fail)
    monkeypatch.setattr(tensorboard, "FLUSH_SECONDS", 0)
    with caplog.at_level(logging.WARNING, "minirnn"):
        assert len(run(trainer)) == 6
    (message,) = caplog.messages
    assert message.startswith("cannot write event files to ")
    assert message.endswith("No space left on device; training continues without")
    assert (tmp_path / "run" / BEST).is_file()


def test_weights_that_are_not_finite_are_left_out(read: Read, tmp_path: Path) -> None:
    task = TASKS["char"].make(TASKS["char"].write(tmp_path))
    trainer = Trainer(task, TrainingConfig(steps=1), tmp_path / "run")
    board = TensorBoard(tmp_path / "run")
    trainer.hooks.append(board)
    step = run(trainer)[0]
    task.model.head.bias.data[0] = np.nan
    step.step, step.grad_norm = 2, float("nan")
    board(trainer, step)
    board.close()
    events = read(tmp_path / "run")
    assert [point.step for point in events.Histograms("weights/head.bias")] == [1]
    assert [point.step for point in events.Histograms("weights/head.weight")] == [1, 2]
    assert [point.step for point in events.Scalars("grad_norm")] == [1]


def test_a_folder_that_cannot_be_made_does_not_end_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "minirnn"):
        TensorBoard(tmp_path / "file").close()
    assert len(caplog.messages) == 1
