"""Memory and time to the first step for a corpus of gigabytes, against a small one.

    python benchmarks/huge_corpus.py FOLDER --gigabytes 5

The text is the Python standard library's, in pieces of a few thousand characters in random order.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from minirnn.data.sources import BUILT_IN

_PIECE = 4096  # characters
_PIECES_PER_WRITE = 4096
_SMALL = 50_000_000  # bytes
_STEPS = 10

_RUN = """
import sys, time
began = time.perf_counter()
from minirnn.training import Trainer
fit = Trainer.fit
def timed(self):
    for number, step in enumerate(fit(self)):
        if number == 0:
            print(f"{time.perf_counter() - began - step.seconds:.1f}", flush=True)
        yield step
Trainer.fit = timed
from minirnn_cli.main import app
app()
"""


def write(path: Path, size: int) -> None:
    """Write a text of about ``size`` bytes."""
    text = "".join(file.read_text("utf-8", "replace") for file in BUILT_IN["@python"]())
    pieces = [text[at : at + _PIECE].encode() for at in range(0, len(text), _PIECE)]
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        while file.tell() < size:
            file.write(b"".join(pieces[n] for n in rng.integers(len(pieces), size=_PIECES_PER_WRITE)))


def measure(path: Path, *options: str) -> tuple[float, float, float]:
    """Peak memory in megabytes, seconds to the first step, and total seconds of a run of a few steps."""
    out = path.with_suffix(".run")
    arguments = f"--steps {_STEPS} --hidden 128 --quiet".split()
    command = [sys.executable, "-c", _RUN, "train-char", str(path), "--out", str(out), *arguments, *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    for file in out.glob("*"):
        file.unlink()
    out.rmdir()
    if process.returncode:
        raise SystemExit(f"the run of {path} failed with exit code {process.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, float(first), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the corpora, which are deleted at the end")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--keep", action="store_true", help="keep the corpora, and use existing ones")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    print("| corpus | read as | peak memory | time to the first step | total |\n|---|---|---|---|---|")
    for size in (_SMALL, int(chosen.gigabytes * 1e9)):
        path = chosen.folder / f"{size}.txt"
        if not (path.exists() and chosen.keep):
            write(path, size)
        for options in ([], ["--bytes"]):
            memory, first, seconds = measure(path, *options)
            corpus = f"{path.stat().st_size / 1e6:,.0f} MB | {'bytes' if options else 'characters'}"
            print(f"| {corpus} | {memory:,.0f} MB | {first:.1f} s | {seconds:.1f} s |", flush=True)
        if not chosen.keep:
            path.unlink()


if __name__ == "__main__":
    main()
