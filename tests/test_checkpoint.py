"""Checkpoints: what is written is read back, damage is reported, an old file survives a failed write."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from minirnn import checkpoint
from minirnn.errors import CheckpointError

ARRAYS = {
    "plain": np.arange(12, dtype=np.float32).reshape(3, 4),
    "transposed": np.arange(12, dtype=np.float64).reshape(3, 4).T,
    "strided": np.arange(20, dtype=np.int64)[::3],
    "empty": np.zeros((0, 5), np.float32),
    "number": np.array(7.5),
}


def test_arrays_of_any_layout_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.safetensors"
    config = {"a": [1, 2.5, None], "text": "ü\n😀", "big": 1 << 80}
    checkpoint.save(path, ARRAYS, config)
    arrays, read = checkpoint.load(path)
    assert read == config == checkpoint.load_config(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    assert sorted(os.listdir(path.parent)) == ["x.safetensors"]


@pytest.mark.parametrize("position", [0, 7, 9, 60, 300, -1, -17, -40])
def test_a_flipped_bit_is_detected(tmp_path: Path, position: int) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, ARRAYS, {"a": 1})
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        checkpoint.load(path)


@pytest.mark.parametrize("keep", [0, 3, 8, 100, 0.5, 0.99])
def test_a_truncated_file_is_detected(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, ARRAYS, {"a": 1})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        checkpoint.load(path)


def test_a_changed_description_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {}, {"best_loss": 2.59})
    path.write_bytes(path.read_bytes().replace(b"2.59", b"3.59"))
    with pytest.raises(CheckpointError, match="its description does not match its checksum"):
        checkpoint.load(path)


def test_temporary_files_of_processes_that_died_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".x.safetensors.{dead.pid}.tmp").write_bytes(b"half a checkpoint")
    (tmp_path / f".x.safetensors.{os.getppid()}.tmp").write_bytes(b"another is writing")
    checkpoint.save(tmp_path / "x.safetensors", {}, {})
    assert sorted(os.listdir(tmp_path)) == [f".x.safetensors.{os.getppid()}.tmp", "x.safetensors"]


def test_the_damaged_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"only": np.zeros(100, np.float32)}, {})
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="array only does not match its checksum"):
        checkpoint.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "nowhere")
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(safetensors.numpy.save({"x": np.zeros(3)}))
    with pytest.raises(CheckpointError, match="not a minirnn checkpoint"):
        checkpoint.load(foreign)
    text = tmp_path / "text"
    text.write_text("once upon a time there was a model of text and it was long enough to be a header")
    with pytest.raises(CheckpointError, match="is not a checkpoint, or damaged"):
        checkpoint.load(text)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"x": np.ones(3)}, {"version": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(path, {"x": np.zeros(3)}, {"version": 2})
    assert checkpoint.load_config(path) == {"version": 1}
    assert os.listdir(tmp_path) == ["x.safetensors"]
