"""Checkpoints: what is written is read back, damage is reported, an old file survives a failed write."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
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
    "big-endian": np.arange(5, dtype=">f4"),
    "half": np.arange(3, dtype=np.float16),
    "flags": np.array([[True], [False]]),
    "bytes": np.arange(7, dtype=np.uint8),
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
        assert arrays[name].dtype == array.dtype.newbyteorder("=")
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)
    assert sorted(os.listdir(path.parent)) == ["x.safetensors"]


def test_saving_and_loading_copy_nothing_large(tmp_path: Path) -> None:
    """What is saved beside a large model must fit beside it."""
    arrays = {"first": np.arange(1 << 20, dtype=np.float64), "second": np.ones((3, 1 << 20), np.float32)}
    size = sum(array.nbytes for array in arrays.values())
    tracemalloc.start()
    checkpoint.save(tmp_path / "x.safetensors", arrays, {})
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.reset_peak()
    read, _ = checkpoint.load(tmp_path / "x.safetensors")
    assert tracemalloc.get_traced_memory()[1] < size + (4 << 20)
    tracemalloc.stop()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def changed(data: bytes, position: int, bit: int = 4) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= bit
    return bytes(damaged)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    **{f"bit {at}": (partial(changed, position=at), "") for at in (0, 7, 9, 60, 300, -1, -17, -40)},
    **{f"{keep} bytes": (lambda data, keep=keep: data[:keep], "") for keep in (0, 3, 8, 100)},
    **{f"{keep} of it": (lambda data, keep=keep: data[: int(keep * len(data))], "") for keep in (0.5, 0.99)},
    "an array": (partial(changed, position=-200, bit=1), "array only does not match its checksum"),
    "the description": (lambda data: data.replace(b"2.59", b"3.59"), "its description does not match its checksum"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_detected(kind: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[kind]
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"only": np.zeros(100, np.float32)} if kind == "an array" else ARRAYS, {"best_loss": 2.59})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"x\.safetensors.*{message}"):
        checkpoint.load(path)


def test_temporary_files_of_processes_that_died_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".x.safetensors.{dead.pid}.tmp").write_bytes(b"half a checkpoint")
    (tmp_path / f".x.safetensors.{os.getppid()}.tmp").write_bytes(b"another is writing")
    checkpoint.save(tmp_path / "x.safetensors", {}, {})
    assert sorted(os.listdir(tmp_path)) == [f".x.safetensors.{os.getppid()}.tmp", "x.safetensors"]


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


def test_a_dtype_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"array b is of dtype complex128, expected bool, int, uint or float"):
        checkpoint.save(tmp_path / "x", {"a": np.zeros(2), "b": np.zeros(2, complex)}, {})
    assert not list(tmp_path.iterdir())
