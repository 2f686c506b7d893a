"""Start-up times of whole processes, with an empty kernel cache and with a filled one.

    python benchmarks/startup.py [--corpus FILE] [--repeat 5]

``train-char --steps 1`` includes more than the first training step: reading the corpus, an evaluation on its
validation set, and writing two checkpoints. Medians of wall-clock seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MINIRNN = [sys.executable, "-m", "minirnn_cli.main"]


def seconds(command: list[str], folder: Path, cache: Path) -> float:
    """Wall time of one process."""
    environment = dict(os.environ, MINIRNN_CACHE_DIR=str(cache), PYTHONPYCACHEPREFIX=str(folder / "bytecode"))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="@python")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    corpus = options.corpus if options.corpus.startswith("@") else str(Path(options.corpus).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = [*MINIRNN, "train-char", corpus, "--steps", "1", "--quiet"]
        sample = [*MINIRNN, "sample", "--length", "1", "--quiet"]
        warm = folder / "warm"
        for command in (train, sample):
            seconds(command, folder, warm)
        cold = [seconds(train, folder, folder / f"cold{n}") for n in range(2)]
        cold_sample = [seconds(sample, folder, folder / f"cold_sample{n}") for n in range(2)]
        rows = {
            "python -c 'import minirnn'": [sys.executable, "-c", "import minirnn"],
            "minirnn --help": [*MINIRNN, "--help"],
            "first training step, warm cache": train,
            "sample --length 1, warm cache": sample,
            "python -c 'import numpy, numba' (for comparison)": [sys.executable, "-c", "import numpy, numba"],
        }
        print("| | seconds |\n|---|---|")
        print(f"| first training step, empty cache | {statistics.median(cold):.2f} |")
        print(f"| sample --length 1, empty cache | {statistics.median(cold_sample):.2f} |")
        for label, command in rows.items():
            times = [seconds(command, folder, warm) for _ in range(options.repeat)]
            print(f"| {label} | {statistics.median(times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
