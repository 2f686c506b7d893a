"""Nothing saved is lost: runs killed at random points, and a disk that fails at each system call in turn."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn import checkpoint
from minirnn.data.text import Characters
from minirnn.runs import LAST, METRICS, PREVIOUS, RunFolder
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import Trainer, TrainingConfig

TEXT = "pack my box with five dozen liquor jugs. " * 40
KILLS = 50


def _train(out: Path) -> None:
    """Train to the end of the run in ``out``, resuming it where it exists."""
    symbols = Characters.of(TEXT)
    sizes = CharConfig(cell="gru", hidden_size=12, num_layers=1, batch_size=4, seq_length=8, seed=0)
    task = TextGenerator.build(Corpus(symbols.encode(TEXT), symbols), sizes)
    config = TrainingConfig(steps=400, save_every=2, evaluations=4, log_every=1)
    begun = (out / LAST).exists() or (out / PREVIOUS).exists()
    for _ in Trainer(task, config, out, resume=begun).fit():
        pass


@pytest.mark.slow
@pytest.mark.needs_jit
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_random_points_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """kill -9, fifty times; after each the saved state is whole, and the end is equal byte for byte."""
    _train(tmp_path / "whole")
    rng, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:  # on a busy machine a run may come to its end between two kills: then one more
        runs += 1
        kills += _train_and_kill(tmp_path / f"cut-{runs}", KILLS - kills, rng)
        _assert_same_end(tmp_path / f"cut-{runs}", tmp_path / "whole")


def _train_and_kill(cut: Path, most: int, rng: random.Random) -> int:
    """Train in ``cut`` to the end, killed up to ``most`` times; returns how often it was."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                _train(cut)
                os._exit(0)
            except BaseException:
                os._exit(1)
        if kills < most:
            time.sleep(rng.uniform(0.005, 0.12))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            return kills
        kills += 1
        if (cut / LAST).exists() or (cut / PREVIOUS).exists():
            checkpoint.load(cut / LAST)  # the previous state was not even needed


def _assert_same_end(cut: Path, whole: Path) -> None:
    expected, found = checkpoint.load(whole / LAST), checkpoint.load(cut / LAST)
    assert expected[0].keys() == found[0].keys()
    for name, array in expected[0].items():
        assert array.tobytes() == found[0][name].tobytes(), name
    assert found[1]["position"]["step"] == 400
    steps = [line.split(",")[0] for line in (cut / METRICS).read_text().splitlines()]
    assert steps == [line.split(",")[0] for line in (whole / METRICS).read_text().splitlines()]
    assert not list(cut.glob(".*.tmp"))


class _Faulty:
    """The module ``os``, where the n-th call of all watched functions fails as the system would."""

    WATCHED = ("fsync", "replace", "link", "open")

    def __init__(self, failing: int, error: int) -> None:
        self.calls, self.failing, self.error = 0, failing, error

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.failing:
            raise OSError(self.error, os.strerror(self.error))

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in self.WATCHED:
            return function

        def watched(*args: Any) -> Any:
            self.count()
            return function(*args)

        return watched

    def open_file(self, path: Path, mode: str) -> Any:
        """``open``, whose ``write`` may fail after half of the bytes."""
        self.count()
        faulty, file = self, open(path, mode)  # noqa: SIM115 - the caller closes it

        class Writing:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                file.write(data[: len(data) // 2])
                file.flush()
                faulty.count()
                file.write(data[len(data) // 2 :])

            flush, fileno, read = file.flush, file.fileno, file.read

        return Writing()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_a_whole_state_remains_whichever_system_call_fails(error: int, tmp_path: Path) -> None:
    """The first, second, third ... system call of a save fails, until a save needs fewer calls than that."""
    path = tmp_path / LAST
    arrays = {name: np.arange(1000.0) + offset for name, offset in (("a", 0), ("b", 7))}
    checkpoint.save(path, arrays, {"saved": 0})
    saved, failed, failing = 0, 0, 1
    while True:
        faulty = _Faulty(failing, error)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "os", faulty)
            patch.setattr(checkpoint, "open", faulty.open_file, raising=False)
            attempt = saved + 1
            try:
                checkpoint.save(path, arrays, {"saved": attempt}, tmp_path / PREVIOUS)
            except OSError:
                failed += 1
            else:
                saved = attempt
        loaded, config = RunFolder(tmp_path).load()
        assert config["saved"] in (saved, attempt)
        saved = config["saved"]
        np.testing.assert_array_equal(loaded["b"], arrays["b"])
        assert {file.name for file in tmp_path.iterdir()} <= {LAST, PREVIOUS}
        if faulty.calls < failing:
            break
        failing += 1
    assert failed >= 5
