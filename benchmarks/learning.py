"""What a character model learns in its minutes: validation loss over several seeds, as a Markdown table.

    python benchmarks/learning.py TEXT ... [--seeds 3] [--minutes 3] [--with "--cell lstm --dropout 0.2"] ...

TEXT is a file or @python. Each ``--with`` is a row: options of ``minirnn train-char`` beside the defaults; without one,
the defaults alone. Every run is a process in a folder of its own; kernels are compiled before, so that all of the time
is training. The end of the text is the validation set; the loss is that of the best checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MINIRNN = [sys.executable, "-m", "minirnn_cli.main"]


@dataclass
class Run:
    """The lowest validation loss of a training, in nats, and how much it did for it."""

    loss: float
    steps: int
    tokens_per_second: float
    parameters: int


def train(text: str, minutes: float, *options: str) -> Run:
    """Train with ``minirnn train-char``, after one step that compiles the kernels."""
    source = text if text.startswith("@") else str(Path(text).resolve())
    command = [*MINIRNN, "train-char", source, "--quiet", *options]
    with tempfile.TemporaryDirectory() as folder:
        for out, budget in (("compile", ["--steps", "1"]), ("run", ["--minutes", str(minutes)])):
            subprocess.run([*command, "--out", out, *budget], cwd=folder, check=True)
        info = subprocess.run([*MINIRNN, "info", "run", "--json"], cwd=folder, check=True, stdout=subprocess.PIPE)
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text("utf-8").splitlines()]
    loss, last = min(line["val_loss"] for line in lines if line.get("val_loss") is not None), lines[-1]
    return Run(loss, last["step"], last["tokens"] / last["seconds"], json.loads(info.stdout)["parameters"])


def row(text: str, minutes: float, seeds: Sequence[int], options: str) -> str:
    """The row of one text and one set of options in the table."""
    runs = [train(text, minutes, "--seed", str(seed), *shlex.split(options)) for seed in seeds]
    losses = [run.loss for run in runs]
    steps, rate = statistics.mean(run.steps for run in runs), statistics.mean(run.tokens_per_second for run in runs)
    name = text if text.startswith("@") else Path(text).name
    return (
        f"| {name} | {options or 'defaults'} | {statistics.mean(losses):.4f} | {' '.join(f'{x:.4f}' for x in losses)} "
        f"| {steps:,.0f} | {rate:,.0f} | {runs[0].parameters:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 1337 on")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--with", dest="rows", action="append", metavar="OPTIONS", help="options of train-char")
    options = parser.parse_args()
    print("| text | options | validation loss, mean | each seed | steps | characters per second | parameters |")
    print("|---|---|---|---|---|---|---|")
    for text in options.texts:
        for each in options.rows or [""]:
            print(row(text, options.minutes, range(1337, 1337 + options.seeds), each), flush=True)


if __name__ == "__main__":
    main()
