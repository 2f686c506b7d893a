"""A run in a process of its own meets signals, a full disk and a read-only one: what was saved stays whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import TASKS

from minirnn import checkpoint
from minirnn.runs import LAST, METRICS

pytestmark = [pytest.mark.needs_jit, pytest.mark.skipif(os.name == "nt", reason="POSIX signals and disks")]

# The command itself, with shorter pauses between attempts to save, and a disk that hangs while the file "hang" exists
_MAIN = """
import os, time
from minirnn import runs
runs.RETRY_SECONDS = 0.2
fsync = os.fsync
def hanging(file):
    if os.path.exists("hang"):
        print("hanging", flush=True)
        time.sleep(60)
    fsync(file)
os.fsync = hanging
from minirnn_cli.main import app
app()
"""


def slow(value: object) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def command(name: str, *more: str) -> list[str]:
    tiny = TASKS[name]
    return [sys.executable, "-c", _MAIN, f"train-{name}", tiny.name, *tiny.arguments, "--out", "run", *more]


class Child:
    """A running command.

    Attributes:
        out, errors: what it has written so far to standard output and to standard error.
        opened: descriptors to close when it is over.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(arguments, cwd=folder, stdout=pipe, stderr=pipe, text=True)
        self.pid, self.signal = self.process.pid, self.process.send_signal
        self.out = self.errors = ""
        self.opened: list[int] = []
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in ("out", "errors")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        stream = self.process.stdout if name == "out" else self.process.stderr
        assert stream is not None
        for line in stream:
            setattr(self, name, getattr(self, name) + line)
        stream.close()

    def until(self, happens: Callable[[], Any]) -> None:
        """Wait for something while the process lives."""
        for _ in range(1200):
            if happens():
                return
            assert self.process.poll() is None, self.errors
            time.sleep(0.05)
        raise AssertionError(f"it did not happen within a minute: {self.errors}")

    def end(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(60)
        for reader in self._readers:
            reader.join()
        return code


Start = Callable[..., Child]


def saved_step(folder: Path) -> int:
    """The step of the last state, which must be whole."""
    return checkpoint.load(folder / LAST)[1]["position"]["step"]


def lines(folder: Path) -> list[int]:
    try:
        text = (folder / METRICS).read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


def steps_shown(child: Child) -> int:
    """The last step printed by ``--json``."""
    whole = child.out.rpartition("\n")[0]
    return json.loads(whole.splitlines()[-1])["step"] if whole else 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Child] = []

    def begin(arguments: list[str]) -> Child:
        started.append(Child(arguments, tmp_path))
        return started[-1]

    yield begin
    for child in started:
        child.process.kill()
        child.end()
        for descriptor in child.opened:
            os.close(descriptor)


# ---------------------------------------------------------------------------------------------------- signals

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("name", ["char", slow("tagger"), slow("forecaster"), slow("music")])
def test_a_signal_finishes_the_step_and_saves(name: str, number: int, code: int, tmp_path: Path, start: Start) -> None:
    TASKS[name].write(tmp_path)
    child = start(command(name, "--epochs", "1e5"))
    child.until(lambda: len(lines(tmp_path / "run")) > 2)
    child.signal(number)
    assert (child.end(), child.out) == (code, ""), child.errors
    step = saved_step(tmp_path / "run")
    assert child.errors.endswith(f"stopped at step {step}; saved in run, continue with --resume\n")
    assert lines(tmp_path / "run")[-1] <= step
    assert_it_resumes(name, step, tmp_path, start)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("name", ["char", "translator"])
def test_a_second_signal_ends_it_at_once(name: str, number: int, code: int, tmp_path: Path, start: Start) -> None:
    """Even where the disk hangs in the save after the first one; the state before stays, and no temporary file."""
    TASKS[name].write(tmp_path)
    child = start(command(name, "--epochs", "1e5", "--quiet"))
    child.until(lambda: len(lines(tmp_path / "run")) > 2)
    (tmp_path / "hang").write_text("")
    child.signal(signal.SIGTERM)
    child.until(lambda: child.out == "hanging\n")
    child.signal(number)
    assert (child.end(), child.errors) == (code, "")
    (tmp_path / "hang").unlink()
    assert not list((tmp_path / "run").glob(".*"))
    assert_it_resumes(name, saved_step(tmp_path / "run"), tmp_path, start)


def assert_it_resumes(name: str, step: int, folder: Path, start: Start) -> None:
    again = start(command(name, "--resume", "--steps", str(step + 3), "--quiet"))
    assert (again.end(), again.out, again.errors) == (0, "", "")
    assert saved_step(folder / "run") == step + 3


# ------------------------------------------------------------------------------------------------------ disks


class Limited:
    """No file may grow, as on a full disk: a limit of the process that is set from outside."""

    words = "File too large"

    def __init__(self, folder: Path, start: Start, arguments: list[str]) -> None:
        self.resource = pytest.importorskip("resource")
        if not hasattr(self.resource, "prlimit"):
            pytest.skip("needs prlimit")
        self.child = start(arguments)
        self.run = folder / "run"
        self.child.until(lambda: len(lines(self.run)) > 2)

    def fail(self) -> None:
        self._limit(100)

    def mend(self) -> None:
        self._limit(self.resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        self.resource.prlimit(self.child.pid, self.resource.RLIMIT_FSIZE, (size, self.resource.RLIM_INFINITY))


class Mounted:
    """A small file system in memory for the run, which only its process sees; full."""

    words = "No space left on device"

    def __init__(self, folder: Path, start: Start, arguments: list[str]) -> None:
        tools = ("unshare", "nsenter", "mount")
        probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
        if not all(map(shutil.which, tools)) or subprocess.run(probe, capture_output=True).returncode:
            pytest.skip("a user may mount no disks here")
        (folder / "run").mkdir()
        mount = 'mount -t tmpfs -o size=2m none run && exec "$@"'
        self.child = start(["unshare", "-rm", "sh", "-c", mount, "sh", *arguments])
        self.place = str(folder / "run")
        inside = Path(f"/proc/{self.child.pid}/root{self.place}")
        self.child.until(lambda: len(lines(inside)) > 2)
        self.child.opened.append(os.open(inside, os.O_RDONLY))  # the disk stays as long as this
        self.run = Path(f"/proc/self/fd/{self.child.opened[0]}")

    def fail(self) -> None:
        with open(self.run / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def mend(self) -> None:
        (self.run / "filler").unlink()


class ReadOnly(Mounted):
    """The same file system, remounted as read-only."""

    words = "Read-only file system"

    def fail(self) -> None:
        self.child.until(lambda: self._remount("ro"))  # refused while a file is open

    def mend(self) -> None:
        assert self._remount("rw")

    def _remount(self, how: str) -> bool:
        enter = ["nsenter", "-t", str(self.child.pid), "-U", "-m", "--preserve-credentials"]
        mount = ["mount", "-o", f"remount,{how}", self.place]
        return subprocess.run([*enter, *mount], capture_output=True).returncode == 0


class Forbidden(Limited):
    """A folder without write permission."""

    words = "Permission denied"

    def __init__(self, folder: Path, start: Start, arguments: list[str]) -> None:
        if os.geteuid() == 0:  # root may write everywhere, unless it gives up this capability
            if not shutil.which("setpriv"):
                pytest.skip("this user may write everywhere")
            arguments = ["setpriv", "--bounding-set", "-dac_override", *arguments]
        super().__init__(folder, start, arguments)

    def fail(self) -> None:
        (self.run / METRICS).chmod(0o400)
        self.run.chmod(0o500)

    def mend(self) -> None:
        self.run.chmod(0o700)
        (self.run / METRICS).chmod(0o600)


DISKS = pytest.mark.parametrize("disk", [Limited, slow(Mounted), slow(ReadOnly), slow(Forbidden)])


def train_on(disk: Any, folder: Path, start: Start) -> tuple[Any, int]:
    """A run on a disk that has failed, which has trained 500 steps since; and the step of its last good state."""
    TASKS["char"].write(folder)
    made = disk(folder, start, command("char", "--epochs", "1e6", "--save-every", "50", "--json"))
    made.fail()
    message = f"cannot write to run: {made.words}; training continues and will retry to save"
    made.child.until(lambda: message in made.child.errors)
    failed = saved_step(made.run)
    made.child.until(lambda: steps_shown(made.child) > failed + 500)
    assert saved_step(made.run) == failed
    return made, failed


@DISKS
def test_a_run_survives_a_disk_that_fails_for_a_while(disk: Any, tmp_path: Path, start: Start) -> None:
    """There is a message, training continues, and later everything is written."""
    made, failed = train_on(disk, tmp_path, start)
    made.mend()
    made.child.until(lambda: "run can be written to again; everything is saved" in made.child.errors)
    made.child.signal(signal.SIGINT)
    assert made.child.end() == 130, made.child.errors
    assert saved_step(made.run) > failed + 500
    assert lines(made.run) == list(range(10, saved_step(made.run) + 1, 10))
    assert not list(made.run.glob(".*"))


@DISKS
def test_a_disk_that_fails_to_the_end_is_an_error(disk: Any, tmp_path: Path, start: Start) -> None:
    """The exit code is 1; the last good state is there, and whole."""
    made, failed = train_on(disk, tmp_path, start)
    made.child.signal(signal.SIGTERM)
    assert made.child.end() == 1
    message = "minirnn: the end of the run could not be saved in run: the disk still fails; "
    assert made.child.errors.splitlines()[-1] == message + "last.safetensors holds the last state that was saved"
    assert "Traceback" not in made.child.errors
    assert saved_step(made.run) == failed
    written = lines(made.run)
    assert written == list(range(10, written[-1] + 1, 10))
