"""Hyperparameter search: a space, samples of it, and successive halving over training runs.

Every trial is an ordinary run that is paused at each rung: a number of evaluations, of those that its whole budget
has. The best of a rung are continued from where they paused. Learning rate and evaluations follow the whole budget from
the first step on, so that a trial which reaches the end is the run that it would have been alone.

>>> space = {"hidden_size": Choice((128, 256)), "lr": Range(1e-3, 1e-2, log=True)}
>>> for options in sample(space, 4, seed=0):
...     print(options)
{'hidden_size': 256, 'lr': 0.001367}
{'hidden_size': 128, 'lr': 0.005417}
{'hidden_size': 128, 'lr': 0.002844}
{'hidden_size': 256, 'lr': 0.005632}
>>> rungs(20, evaluations=20, reduction=3)
[(20, 3), (6, 7), (2, 20)]
"""

from __future__ import annotations

import ctypes
import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from minirnn import distributed, tasks
from minirnn.checkpoint import write_atomically
from minirnn.config import OptionInfo
from minirnn.errors import CheckpointError, MinirnnError, OptionError
from minirnn.runs import LAST, RunFolder

TRIALS = "trials.jsonl"
_POLL_SECONDS = 0.05
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None  # looked up before a fork

Value = int | float | str


@dataclass(frozen=True)
class Choice:
    """One of ``values``."""

    values: tuple[Value, ...]

    def at(self, u: float) -> Value:
        """Return the value at ``u`` in [0, 1): each has an equal part of it."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, uniform, or with ``log`` its logarithm; an int if ``integer``."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def at(self, u: float) -> Value:
        """Return the value at ``u`` in [0, 1); of a float four digits, so that it can be typed."""
        high = self.high + self.integer  # an int has all numbers up to the next one
        value = self.low * (high / self.low) ** u if self.log else self.low + (high - self.low) * u
        value = math.floor(value) if self.integer else float(f"{value:.4g}")
        return min(max(value, self.low), self.high)


Space = Choice | Range
Ended = Generator[tuple[int, str | None], None, None]
"""The numbers of trials whose runs have ended, each with its error or None."""


def parse_space(flag: str, text: str, info: OptionInfo) -> Space | None:
    """Return the space that ``text`` means as the value of an option; None where it is one value.

    ``a,b,c`` is a :class:`Choice`, ``low..high`` a :class:`Range` of a number: logarithmic where the option is declared
    so, as a learning rate is, or where ``high`` is at least ten times ``low``, and ``low`` is positive.

    Args:
        flag: the option's name in messages. info: its declaration.

    Raises:
        OptionError: a part is no number, or ``low`` is not below ``high``.
    """
    kind: Any = info.types[0]
    low, dots, high = text.partition("..") if kind in (int, float) else (text, "", "")
    parts = [low, high] if dots else text.split(",")
    values: list[Any] = list(parts)
    if kind in (int, float):
        if len(parts) == 1:
            return None
        finite = False
        with suppress(ValueError, OverflowError):
            values = [kind(part) for part in parts]
            finite = all(map(math.isfinite, values))
        if not finite:
            example = "128,256 or 64..512" if kind is int else "0.1,0.2 or 1e-3..1e-2"
            raise OptionError(f"{flag}: expected {'ints' if kind is int else 'numbers'} as in {example}, got {text!r}")
    if not dots:
        return Choice(tuple(dict.fromkeys(values))) if len(values) > 1 else None
    if not values[0] < values[1]:
        raise OptionError(f"{flag}: expected a range from a lower to a higher number, got {text!r}")
    log = values[0] > 0 and (info.log or values[1] >= 10 * values[0])
    return Range(values[0], values[1], log, kind is int)


def sample(space: Mapping[str, Space], trials: int, seed: int) -> list[dict[str, Value]]:
    """Return the options of at most ``trials`` different trials.

    Where all are choices, the trials are the grid of them, or where that is larger a random part of it. Otherwise they
    are a Latin hypercube (McKay, Beckman & Conover 1979): each option takes one value in each of ``trials`` equal parts
    of its range, and the parts are combined at random.
    """
    grid = [one.values for one in space.values() if isinstance(one, Choice)]
    if len(grid) == len(space):
        shape = tuple(len(values) for values in grid)
        size = math.prod(shape)
        chosen = range(size) if size <= trials else sorted(random.Random(seed).sample(range(size), trials))
        places = zip(*np.unravel_index(list(chosen), shape), strict=True)
        return [{n: v[i] for n, v, i in zip(space, grid, place, strict=True)} for place in places]
    generator = np.random.default_rng(seed)
    points = {name: (generator.permutation(trials) + generator.random(trials)) / trials for name in space}
    found = ({name: one.at(points[name][trial]) for name, one in space.items()} for trial in range(trials))
    return list({tuple(options.values()): options for options in found}.values())


def rungs(trials: int, evaluations: int, reduction: int) -> list[tuple[int, int]]:
    """Return how many trials reach each rung, and the evaluations they have had there, by successive halving.

    One of ``reduction`` trials is continued to ``reduction`` times the evaluations, as often as there are trials and
    evaluations for it (Jamieson & Talwalkar 2016; the inner loop of Hyperband, Li et al. 2018, algorithm 1).
    """
    last = 0
    while reduction > 1 and reduction ** (last + 1) <= min(trials, evaluations):
        last += 1
    return [(trials // reduction**rung, -(-evaluations // reduction ** (last - rung))) for rung in range(last + 1)]


@dataclass
class Trial:
    """One trial; a line of ``trials.jsonl``.

    Attributes:
        trial: its number, from 1. options: what it tries. folder: that of its run. command: what trains it alone.
        status: ``stopped`` where others were better. error: why it failed.
        metric, values: the metric that chooses the best state, and its best value so far at the end of each rung.
        steps, seconds: of training.
    """

    trial: int
    options: dict[str, Value]
    folder: str
    command: str
    status: Literal["unfinished", "stopped", "finished", "failed"] = "unfinished"
    error: str | None = None
    metric: str | None = None
    values: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0

    def update(self, error: str | None, last: bool) -> None:
        """Take note of what its run has reached at a rung, the last one or another, or of the error that ended it."""
        try:
            position = RunFolder(Path(self.folder)).load_config()["position"]
        except MinirnnError as problem:
            self.status, self.error = "failed", error or str(problem)
            return
        self.steps, self.seconds = position["step"], position["seconds"]
        if error is None and not position["best"]:
            error = "no evaluation gave a finite number"
        if error is not None:
            self.status, self.error = "failed", error
            return
        ((self.metric, value),) = position["best"].items()
        self.values.append(value)
        self.status = "finished" if last else "unfinished"


class Sweep:
    """Trials in a folder, which a later sweep with the same trials continues.

    Trials that have failed are not repeated, unless their folder was deleted.

    Args:
        folder: for ``trials.jsonl``. trials: all of them. rungs: as :func:`rungs` returns them.

    Raises:
        CheckpointError: ``trials.jsonl`` is damaged.
    """

    def __init__(self, folder: Path, trials: Sequence[Trial], rungs: Sequence[tuple[int, int]]) -> None:
        self.path, self.trials, self.rungs = folder / TRIALS, list(trials), list(rungs)
        if self.path.exists():
            try:
                saved = [Trial(**json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]
                if [trial.options for trial in saved] != [trial.options for trial in trials]:
                    raise ValueError
            except (ValueError, TypeError):
                raise CheckpointError(f"{self.path} is damaged, or of other trials; begin in another folder") from None
            gone = [trial.status == "failed" and not Path(trial.folder).exists() for trial in saved]
            self.trials = [new if again else old for again, old, new in zip(gone, saved, trials, strict=True)]

    def save(self) -> None:
        """Write ``trials.jsonl``."""
        lines = (json.dumps(asdict(trial)) + "\n" for trial in self.trials)
        write_atomically(self.path, "".join(lines).encode())

    def run(self, start: Callable[[Mapping[int, Trial], int], Ended]) -> Iterator[Trial]:
        """Train all trials rung by rung, and yield each one that has reached its rung, or failed.

        Args:
            start: continues the runs of the trials, by their numbers, to a number of evaluations; yields the number of
                each as its run ends, with an error or None. Closed where the iteration ends early.
        """
        alive = self.trials
        for rung, (count, evaluations) in enumerate(self.rungs):
            if rung:
                alive = self.ranked(alive, rung - 1)[:count]
            for trial in self.trials:
                if trial.status == "unfinished" and trial not in alive:
                    trial.status = "stopped"
            pending = {trial.trial: trial for trial in alive if len(trial.values) <= rung and trial.error is None}
            self.save()
            with closing(start(pending, evaluations)) as ended:
                for number, error in ended:
                    pending[number].update(error, last=rung == len(self.rungs) - 1)
                    self.save()
                    yield pending[number]

    def ranked(self, trials: Sequence[Trial], rung: int = -1) -> list[Trial]:
        """Return those of ``trials`` that have reached a rung, the best one there first."""
        reached = [trial for trial in trials if len(trial.values) > max(rung, 0)]
        return sorted(reached, key=lambda trial: self._sign * trial.values[rung])

    @cached_property
    def _sign(self) -> int:
        trained = next(trial for trial in self.trials if trial.values)
        return 1 if tasks.load(Path(trained.folder) / LAST).best_mode == "min" else -1


class Runner:
    """Runs programs, one at a time. They get SIGTERM when this process ends; on Linux also when it is killed.

    Args:
        pass_fds: file descriptors that stay open in them.

    Attributes:
        arguments: further ones of every program.
        cores: what they may run on, as :func:`minirnn.distributed.cores` gives them.
        signal: the number of the signal that should end all of them, 0 for none.
    """

    def __init__(self, pass_fds: Sequence[int] = (), rank: int = 0) -> None:
        self.pass_fds, self.cores, self.rank = pass_fds, distributed.cores()[rank], rank
        self.arguments: Sequence[str] = ()
        self.signal = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str]) -> None:
        """Start a program, which is no rank of MPI."""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been read
        # Of a session of its own: Ctrl-C on the terminal must not reach it besides the signal of terminate().
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
            pass_fds=self.pass_fds,
            env=distributed.environment_alone(),
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )

    def poll(self) -> tuple[str | None] | None:
        """Return ``(error,)`` once the program has ended, None for no error; None while there is none that has."""
        if self._process is None or self._process.poll() is None:
            return None
        process, self._process = self._process, None
        return (_error_of(process.returncode, self._errors),)

    def terminate(self, kill: bool = False) -> None:
        """Send SIGTERM, or SIGKILL, to the program."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


class RankRunner(Runner):
    """Runs programs in another rank of MPI, which must :func:`serve` rank 0."""

    def start(self, command: Sequence[str]) -> None:
        distributed.send(["start", list(command)], self.rank)

    def poll(self) -> tuple[str | None] | None:
        match distributed.receive(self.rank):
            case ["ended", error]:
                return (error,)
            case ["signal", number]:
                self.signal = number
        return None

    def terminate(self, kill: bool = False) -> None:
        distributed.send(["terminate", kill], self.rank)

    def end(self) -> None:
        """Let :func:`serve` return there."""
        distributed.send(["end"], self.rank)


def serve(runner: Runner) -> None:
    """Run what rank 0 wants to run in this rank, until it says so. Signals are passed on to it."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: caught.append(number)) for number in numbers}
    try:
        while True:
            match distributed.receive(0):
                case ["start", command]:
                    runner.start(command)
                case ["terminate", kill]:
                    runner.terminate(kill)
                case ["end"]:
                    return
            if (ended := runner.poll()) is not None:
                distributed.send(["ended", *ended], 0)
            if caught:
                distributed.send(["signal", caught.pop()], 0)
            time.sleep(_POLL_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def open_runners(jobs: int, pass_fds: Sequence[int] = ()) -> Iterator[list[Runner]]:
    """Yield ``jobs`` runners of this process; or of an MPI run one in each rank, first those of different machines."""
    size = distributed.size()
    if size == 1:
        yield [Runner(pass_fds) for _ in range(jobs)]
        return
    others = [RankRunner(rank=rank) for rank in range(1, size)]
    machines = [next(iter(cores))[0] for cores in distributed.cores()]
    try:
        yield sorted(
            [Runner(pass_fds), *others], key=lambda runner: machines[: runner.rank].count(machines[runner.rank])
        )
    finally:
        for other in others:
            other.end()


def run_processes(commands: Mapping[int, Sequence[str]], runners: Sequence[Runner], jobs: int) -> Ended:
    """Run programs, ``jobs`` at a time, by the first runners; yield the key of each as it ends, with its error or None.

    Those that still run when the iterator is closed get SIGTERM, and are waited for.
    """
    waiting, idle, running = list(commands.items()), list(runners[:jobs]), dict[Runner, int]()
    try:
        while waiting or running:
            while waiting and idle:
                key, command = waiting.pop(0)
                runner = idle.pop(0)
                runner.start([*command, *runner.arguments])
                running[runner] = key
            for runner in runners:
                if (ended := runner.poll()) is not None:
                    idle.append(runner)
                    yield running.pop(runner), ended[0]
                if runner.signal:
                    signal.raise_signal(runner.signal)
            time.sleep(_POLL_SECONDS)
    finally:
        for runner in running:
            runner.terminate()
        try:
            while running := {runner: key for runner, key in running.items() if runner.poll() is None}:
                time.sleep(_POLL_SECONDS)
        except BaseException:  # a second Ctrl-C
            for runner in running:
                runner.terminate(kill=True)
            raise


def _end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent ends."""
    _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _error_of(code: int, errors: IO[bytes]) -> str | None:
    """What a program with this exit code has said last."""
    with errors:
        errors.seek(0)
        *_, last = ["", *errors.read().decode(errors="replace").strip().splitlines()]
    if code == 0:
        return None
    return f"ended by signal {-code}" if code < 0 else last.removeprefix("minirnn: ") or f"exit code {code}"
