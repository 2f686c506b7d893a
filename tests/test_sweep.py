"""Spaces, samples, rungs, and the course of a sweep, by values worked out by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minirnn import checkpoint, sweep, tasks
from minirnn.errors import CheckpointError, OptionError
from minirnn.runs import LAST
from minirnn.sweep import Choice, Ended, Range, Runner, Sweep, Trial, parse_space, run_processes, rungs, sample
from minirnn.tasks.char import TextGenerator
from minirnn.training import TrainingConfig

OPTIONS = TextGenerator.Config.options() | TrainingConfig.options()


@pytest.mark.parametrize(
    ("name", "text", "space"),
    [
        ("hidden_size", "128", None),
        ("hidden_size", "128,256,128", Choice((128, 256))),
        ("hidden_size", "64..512", Range(64, 512, integer=True)),
        ("hidden_size", "64..640", Range(64, 640, log=True, integer=True)),
        ("lr", "1e-3..2e-3", Range(0.001, 0.002, log=True)),  # declared so
        ("dropout", "0..0.5", Range(0.0, 0.5)),
        ("dropout", "0.1..0.5", Range(0.1, 0.5)),
        ("weight_decay", "1e-4..1e-2", Range(1e-4, 1e-2, log=True)),
        ("dropout", "0,.5", Choice((0.0, 0.5))),
        ("cell", "lstm,gru", Choice(("lstm", "gru"))),
        ("cell", "../my.py:cell", None),
        ("optimizer", "adamw", None),
    ],
)
def test_parse_space(name: str, text: str, space: object) -> None:
    assert parse_space("--x", text, OPTIONS[name]) == space


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hidden_size", "8,", "expected ints as in 128,256 or 64..512, got '8,'"),
        ("hidden_size", "8,16.5", "expected ints as in 128,256 or 64..512, got '8,16.5'"),
        ("lr", "1,nan", "expected numbers as in 0.1,0.2 or 1e-3..1e-2, got '1,nan'"),
        ("lr", "1e-3..", "expected numbers as in 0.1,0.2 or 1e-3..1e-2, got '1e-3..'"),
        ("lr", "0..inf", "expected numbers as in 0.1,0.2 or 1e-3..1e-2, got '0..inf'"),
        ("lr", "1..2..3", "expected numbers as in 0.1,0.2 or 1e-3..1e-2, got '1..2..3'"),
        ("lr", "0.1..0.1", "expected a range from a lower to a higher number, got '0.1..0.1'"),
    ],
)
def test_bad_spaces_are_refused_by_their_flag(name: str, text: str, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse_space("--x", text, OPTIONS[name])
    assert str(raised.value) == f"--x: {message}"


def test_numbers_beyond_floats_are_refused() -> None:
    with pytest.raises(OptionError, match="--x: expected ints"):
        parse_space("--x", f"1..1{'0' * 400}", OPTIONS["hidden_size"])


def test_values_of_a_space() -> None:
    assert [Choice((8, 16, 32)).at(u) for u in (0, 0.33, 0.34, 0.999999, 1)] == [8, 8, 16, 32, 32]
    assert [Range(0.0, 0.5).at(u) for u in (0, 0.5, 1)] == [0, 0.25, 0.5]
    assert [Range(1e-4, 1e-2, log=True).at(u) for u in (0, 0.25, 0.5, 1)] == [1e-4, 0.0003162, 1e-3, 1e-2]
    assert [Range(-1, 2, integer=True).at(u) for u in (0, 0.24, 0.26, 0.51, 0.76, 1)] == [-1, -1, 0, 1, 2, 2]
    logarithmic = Range(1, 63, log=True, integer=True)  # 64^u
    assert [logarithmic.at(u) for u in (0, 1 / 6 - 1e-9, 0.5, 0.99, 1)] == [1, 1, 8, 61, 63]
    assert all(type(logarithmic.at(u)) is int for u in (0, 0.5, 1))
    assert Range(1.00004, 1.5).at(0) == 1.00004  # not rounded to below the range


def test_choices_give_their_grid_and_a_larger_grid_a_random_part_of_it() -> None:
    space = {"a": Choice((1, 2, 3)), "b": Choice(("x", "y"))}
    grid = [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]
    assert sample(space, 6, seed=0) == sample(space, 100, seed=1) == grid
    parts = [sample(space, 3, seed) for seed in range(10)]
    for part in parts:
        assert len(part) == 3
        assert part == [options for options in grid if options in part]
    assert {json.dumps(options) for part in parts for options in part} == {json.dumps(options) for options in grid}
    assert parts == [sample(space, 3, seed) for seed in range(10)]


def test_samples_are_a_latin_hypercube() -> None:
    space = {"lr": Range(1e-4, 1.0, log=True), "dropout": Range(0.0, 0.5), "cell": Choice(("lstm", "gru", "rnn"))}
    trials = sample(space, 24, seed=3)
    parts = np.sort(np.floor([24 * (1 + np.log10(trial["lr"]) / 4) for trial in trials]))
    np.testing.assert_array_equal(parts, range(24))
    parts = np.sort(np.floor([24 * 2 * trial["dropout"] for trial in trials]))
    np.testing.assert_array_equal(parts, range(24))
    cells = [trial["cell"] for trial in trials]
    assert sorted(cells) == ["gru"] * 8 + ["lstm"] * 8 + ["rnn"] * 8
    assert trials == sample(space, 24, seed=3)
    assert trials != sample(space, 24, seed=4)


def test_equal_samples_are_one_trial() -> None:
    found = sample({"n": Range(1, 3, integer=True)}, 20, seed=0)
    assert sorted(options["n"] for options in found) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((81, 81, 3), [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]),  # the example of Li et al.
        ((20, 20, 3), [(20, 3), (6, 7), (2, 20)]),
        ((20, 5, 3), [(20, 2), (6, 5)]),  # too few evaluations for a third rung
        ((4, 20, 2), [(4, 5), (2, 10), (1, 20)]),
        ((2, 20, 3), [(2, 20)]),
        ((20, 20, 1), [(20, 20)]),
        ((1, 1, 2), [(1, 1)]),
    ],
)
def test_rungs(arguments: tuple[int, int, int], expected: list[tuple[int, int]]) -> None:
    assert rungs(*arguments) == expected


# ------------------------------------------------------------------------------------------------ the course

LOSSES = {1: [5, 4.0, 3], 2: [3, 2.5, 2], 3: [4, 1.0, 0.5], 4: [9, 9, 9], 5: [None], 6: [6, 6, 6]}
"""The best value of every trial at each rung; None: it fails."""


class Runs:
    """Stands for the training of trials: writes the state that a run would have."""

    def __init__(self, losses: Mapping[int, list[float | None]], interrupt_after: int | None = None) -> None:
        self.losses, self.left, self.started = losses, interrupt_after, list[tuple[list[int], int]]()

    def __call__(self, todo: Mapping[int, Trial], until: int) -> Ended:
        self.started.append((list(todo), until))
        for number, trial in todo.items():
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            value = self.losses[number][[2, 3, 6].index(until)]
            position = {"step": until, "seconds": 0.5, "best": {} if value is None else {"val_loss": value}}
            checkpoint.save(Path(trial.folder) / LAST, {}, {"position": position})
            yield number, "not today" if value is not None and value < 0 else None


def new_trials(folder: Path) -> list[Trial]:
    return [Trial(n, {"seed": n}, str(folder / str(n)), f"minirnn {n}") for n in LOSSES]


@pytest.fixture
def lowest(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    task = SimpleNamespace(best_mode="min")
    monkeypatch.setattr(tasks, "load", lambda path: task)
    return task


STEPS = rungs(6, 6, 2)  # 6 trials to 2, 3 to 3, 1 to 6


def test_the_best_of_a_rung_are_continued(tmp_path: Path, lowest: SimpleNamespace) -> None:
    runs, course = Runs(LOSSES), Sweep(tmp_path, new_trials(tmp_path), STEPS)
    assert len(list(course.run(runs))) == 10
    assert runs.started == [([1, 2, 3, 4, 5, 6], 2), ([2, 3, 1], 3), ([3], 6)]
    statuses = {trial.trial: (trial.status, trial.values, trial.steps) for trial in course.trials}
    assert statuses == {
        1: ("stopped", [5, 4], 3),
        2: ("stopped", [3, 2.5], 3),
        3: ("finished", [4, 1, 0.5], 6),
        4: ("stopped", [9], 2),
        5: ("failed", [], 2),
        6: ("stopped", [6], 2),
    }
    assert course.trials[4].error == "no evaluation gave a finite number"
    assert [trial.trial for trial in course.ranked(course.trials)] == [3, 2, 1, 6, 4]
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [(line["trial"], line["options"], line["status"]) for line in lines][2] == (3, {"seed": 3}, "finished")


def test_the_highest_value_is_the_best_where_the_task_says_so(tmp_path: Path, lowest: SimpleNamespace) -> None:
    lowest.best_mode = "max"
    runs = Runs(LOSSES)
    list(Sweep(tmp_path, new_trials(tmp_path), STEPS).run(runs))
    assert runs.started == [([1, 2, 3, 4, 5, 6], 2), ([4, 6, 1], 3), ([4], 6)]


def test_a_trial_that_fails_later_is_not_replaced(tmp_path: Path, lowest: SimpleNamespace) -> None:
    losses = LOSSES | {3: [4, -1.0]}
    runs, course = Runs(losses), Sweep(tmp_path, new_trials(tmp_path), STEPS)
    list(course.run(runs))
    assert runs.started == [([1, 2, 3, 4, 5, 6], 2), ([2, 3, 1], 3), ([2], 6)]
    assert (course.trials[2].status, course.trials[2].error, course.trials[2].values) == ("failed", "not today", [4])
    again = Runs(losses)
    assert list(Sweep(tmp_path, new_trials(tmp_path), STEPS).run(again)) == []
    assert [started for started, _ in again.started] == [[], [], []]
    os.rename(tmp_path / "5", tmp_path / "elsewhere")  # a failed trial whose folder is gone is tried again
    again = Runs(losses)
    assert [trial.trial for trial in Sweep(tmp_path, new_trials(tmp_path), STEPS).run(again)] == [5]


@pytest.mark.parametrize("moment", range(10))
def test_an_interrupted_sweep_continues(tmp_path: Path, lowest: SimpleNamespace, moment: int) -> None:
    whole = Sweep(tmp_path, new_trials(tmp_path), STEPS)
    list(whole.run(Runs(LOSSES)))
    (tmp_path / "trials.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        list(Sweep(tmp_path, new_trials(tmp_path), STEPS).run(Runs(LOSSES, interrupt_after=moment)))
    course = Sweep(tmp_path, new_trials(tmp_path), STEPS)
    assert len(list(course.run(Runs(LOSSES)))) == 10 - moment
    assert course.trials == whole.trials


@pytest.mark.parametrize("text", ["{", "[1]\n", '{"trial": 1}\n', '{"x": 1}\n', ""])
def test_a_damaged_list_of_trials_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / sweep.TRIALS).write_text(text)
    with pytest.raises(CheckpointError, match=r"trials\.jsonl is damaged, or of other trials"):
        Sweep(tmp_path, new_trials(tmp_path), STEPS)


# ------------------------------------------------------------------------------------------------- processes

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


@posix
def test_processes_report_how_they_ended() -> None:
    commands = {
        1: python("print('not this')"),
        2: python("import sys; print('a warning\\nminirnn: too large\\n', file=sys.stderr); sys.exit(2)"),
        3: python("import sys; sys.exit(7)"),
        4: python("import os; os.kill(os.getpid(), 9)"),
    }
    assert dict(run_processes(commands, [Runner(), Runner()], 2)) == {
        1: None,
        2: "too large",
        3: "exit code 7",
        4: "ended by signal 9",
    }


@posix
def test_so_many_processes_run_at_a_time(tmp_path: Path) -> None:
    code = "import os, sys, time; n = sys.argv[1]; open(n, 'x'); time.sleep(0.2); print(os.listdir('.')); os.remove(n)"
    code = code.replace("print(os.listdir('.'))", "assert len(os.listdir('.')) <= 2")
    commands = {n: [*python(f"import os; os.chdir({str(tmp_path)!r}); {code}"), str(n)] for n in range(5)}
    assert dict(run_processes(commands, [Runner(), Runner()], 2)) == dict.fromkeys(range(5))


SAVE = """
import pathlib, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    file.write_text("saved")
    sys.exit(1)
file = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, save)
file.touch()
time.sleep(60)
"""
WAIT = """
import os, sys, time
while not all(map(os.path.exists, sys.argv[1:])):
    time.sleep(0.01)
"""


@posix
def test_processes_end_with_their_iterator(tmp_path: Path) -> None:
    """They are given the time to save."""
    files = [str(tmp_path / "1"), str(tmp_path / "2")]
    commands = {1: [*python(SAVE), files[0]], 2: [*python(SAVE), files[1]], 3: [*python(WAIT), *files]}
    ended = run_processes(commands, [Runner() for _ in range(4)], 3)
    assert next(ended) == (3, None)
    ended.close()
    assert [Path(file).read_text() for file in files] == ["saved", "saved"]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_programs_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """By SIGTERM, so that they can save; they are no ranks of its MPI run."""
    file = tmp_path / "1"
    started = f"import os; assert 'PMI_SIZE' not in os.environ; {SAVE}"
    code = f"from minirnn.sweep import Runner; Runner().start({[*python(started), str(file)]!r}); input()"
    environment = os.environ | {"PMI_SIZE": "1", "PYTHONPATH": str(Path(sweep.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE) as parent:
        wait_for(file.exists)
        parent.kill()
    wait_for(file.read_text)
    assert file.read_text() == "saved"


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not happen")
