"""``predict`` on pipes: every line is answered as it arrives, lines that wait are answered together."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minirnn_cli import lines
from support import close, interrupt, invoke
from tiny import TASKS

Trained = Callable[[str], Path]
SECONDS = 100  # to wait for an answer before a test fails


class Piped:
    """``minirnn predict`` in a process of its own, whose standard input stays open."""

    def __init__(self, process: subprocess.Popen[bytes], input: int) -> None:
        self.process, self.input = process, input

    def write(self, data: bytes) -> None:
        os.write(self.input, data)

    def answer(self) -> str:
        """Return the next line that is printed; fails where none comes."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        assert ready, "no answer"
        return self.process.stdout.readline().decode()

    def end(self) -> tuple[int, str, str]:
        """Close the input; return the exit code, and what is still printed."""
        os.close(self.input)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out.decode(), err.decode()


def start(run: Path, kind: str, *arguments: str) -> Piped:
    if kind == "socket":
        sockets = socket.socketpair()
        taken, given = (one.detach() for one in sockets)
    elif kind == "terminal":
        given, taken = pytest.importorskip("pty").openpty()
    else:
        taken, given = os.pipe()
    if kind == "named pipe":
        os.mkfifo("named")
        arguments = ("named", *arguments)
    command = [sys.executable, "-m", "minirnn", "predict", str(run), *arguments, "--quiet"]
    process = subprocess.Popen(
        command, stdin=taken, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    os.close(taken)
    if kind == "named pipe":
        os.close(given)
        given = os.open("named", os.O_WRONLY)
    return Piped(process, given)


@pytest.fixture
def piped() -> Iterator[Callable[..., Piped]]:
    """Start processes; none outlives the test."""
    made: list[Piped] = []

    def begin(run: Path, *arguments: str, kind: str = "pipe") -> Piped:
        made.append(start(run, kind, *arguments))
        return made[-1]

    yield begin
    for one in made:
        one.process.kill()
        one.process.communicate()


# ------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("kind", ["pipe", "named pipe", "socket", "terminal"])
def test_a_line_is_answered_before_the_next_is_written(
    kind: str, trained: Trained, piped: Callable[..., Piped]
) -> None:
    run = trained("classifier")
    texts = ["a good film", "so very bad", "", "fine"]
    expected = [json.loads(invoke("predict", str(run), text, "--json").stdout) for text in texts]
    process = piped(run, "--json", kind=kind)
    for text, one in zip(texts, expected, strict=True):
        process.write(f"{text}\n".encode())
        assert json.loads(process.answer()) == close(one, 1e-6)
    if kind != "terminal":  # whose input ends otherwise
        assert process.end() == (0, "", "")


def test_a_composer_continues_every_line(trained: Trained, piped: Callable[..., Piped]) -> None:
    """With the seeds that it has for a file of these lines; blank lines at the beginning wait for the first other."""
    lines, options = ["", "60,64", "[[62], [65]]", ""], ("--length", "3", "--seed", "4")
    Path("lines.txt").write_text("\n".join(lines) + "\n")
    expected = invoke("predict", str(trained("music")), "lines.txt", *options).stdout.splitlines(keepends=True)
    process = piped(trained("music"), *options)
    process.write(b"\n60,64\n")
    assert [process.answer(), process.answer()] == expected[:2]
    for line, answer in zip(lines[2:], expected[2:], strict=True):
        process.write(f"{line}\n".encode())
        assert process.answer() == answer
    assert process.end() == (0, "", "")


def test_lines_may_arrive_in_pieces(trained: Trained, piped: Callable[..., Piped]) -> None:
    """Characters split between two writes, CRLF, NUL, no end of the last line."""
    process = piped(trained("classifier"), "--json")
    pieces = [b"a good f\xc3", b"\xa9\r", b"\nbad\0"]
    for piece in pieces:
        process.write(piece)
        select.select([], [], [], 0.05)  # so that they are read one by one
    assert json.loads(process.answer())["text"] == "a good fé"
    process.write(b"\nfine")
    assert json.loads(process.answer())["text"] == "bad\0"
    code, out, err = process.end()
    assert (code, json.loads(out)["text"], err) == (0, "fine", "")


def test_a_forecaster_answers_every_row(trained: Trained, piped: Callable[..., Piped]) -> None:
    header, *rows = TASKS["forecaster"].data.splitlines(keepends=True)
    run, needed = trained("forecaster"), 12
    process = piped(run, "--json")
    process.write((header + "".join(rows[: needed - 1])).encode())
    for count in range(needed, needed + 3):
        process.write(rows[count - 1].encode())
        Path("so_far.csv").write_text(header + "".join(rows[:count]))
        expected = json.loads(invoke("predict", str(run), "so_far.csv", "--json").stdout)
        assert json.loads(process.answer()) == close(expected, 1e-6)
    process.write(b"d,1,x\n")
    code, out, err = process.end()
    message = f"minirnn: standard input:{needed + 4}: column 'a': expected a finite number, got 'x'\n"
    assert (code, out, err) == (2, "", message)


def test_interrupt_while_waiting(trained: Trained, piped: Callable[..., Piped]) -> None:
    process = piped(trained("classifier"))
    process.write(b"fine\n")
    process.answer()
    assert interrupt(process.process, signal.SIGINT) == 130
    assert process.end() == (130, "", "")


def test_a_closed_input_is_one_line(trained: Trained) -> None:
    command = f"{sys.executable} -m minirnn predict {trained('classifier')} --quiet <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=SECONDS)
    message = "minirnn: standard input is closed; expected a file, a text, or lines on standard input\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_reader_that_has_gone_ends_it(trained: Trained) -> None:
    command = f"yes 'a good film' | {sys.executable} -m minirnn predict {trained('classifier')} --quiet | head -n 3"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=SECONDS)
    assert (done.stdout.count("\n"), done.stderr, done.returncode) == (3, "", 0)


# ---------------------------------------------------------------------------------------------------- batches


def test_lines_that_wait_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, given = os.pipe()
    os.write(given, b"".join(b"line %d\n" % n for n in range(1000)))
    with open(taken, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        batches = lines.read_batches("-")
        found = list(islice(batches, 4))  # the pipe is still open
        assert [len(batch) for batch in found] == [256, 256, 256, 232]
        assert [(line.text, line.where) for batch in found for line in batch] == [
            (f"line {n}", f"standard input:{n + 1}") for n in range(1000)
        ]
        os.write(given, b"one more")
        os.close(given)
        assert [[line.text for line in batch] for batch in batches] == [["one more"]]


class Pieces(io.RawIOBase):
    """A file whose reads give one piece each."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self.pieces.pop(0) if self.pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


@given(st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\r", "\ufeff", "\0", "𝄞", "\x0c"])), st.data())
def test_lines_do_not_depend_on_how_they_arrive(parts: list[str], data: st.DataObject) -> None:
    whole = "".join(parts).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=9)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    arrived = lines._arriving(io.BufferedReader(Pieces([piece for piece in pieces if piece])), "x")
    assert [line for batch in arrived for line in batch] == list(lines._decoded(io.BytesIO(whole), "x"))
