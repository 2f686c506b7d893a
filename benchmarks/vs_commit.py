"""The rows of ``minirnn bench`` in this checkout and in another one, alternating: what a change costs or saves.

    git worktree add /tmp/before COMMIT
    python benchmarks/vs_commit.py /tmp/before [ROW ...] [--threads 2] [--turns 7] [--seconds 1]

Two processes, one per checkout, alternate, so that both see the same machine. A ratio is the median over turns of the
other checkout's time divided by this one's: above 1 this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_WORKER = """
import json, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/cli"]
import minirnn
assert minirnn.__file__.startswith(sys.argv[1]), minirnn.__file__
from minirnn_cli.bench import ROWS, minirnn_runner
for line in sys.stdin:
    job = json.loads(line)
    if "row" in job:
        run = minirnn_runner(ROWS[job["row"]], job["threads"])
        for _ in range(3):
            run()
    began, times = time.perf_counter(), []
    while time.perf_counter() - began < job["seconds"]:
        start = time.perf_counter()
        done = run()
        times.append((time.perf_counter() - start) / done)
    print(json.dumps(sorted(times)[len(times) // 2] if times else 0.0), flush=True)
"""


class Checkout:
    """A process that runs the rows of one checkout."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", _WORKER, str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def seconds(self, **job: Any) -> float:
        """The median time of a step, or of a sampled token, in one turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row of minirnn bench; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="per turn")
    options = parser.parse_args()
    from minirnn_cli.bench import ROWS

    both = [Checkout(path.resolve()) for path in (options.other, Path(__file__).parent.parent)]
    print("| row | other | this | other / this, median | range |\n|---|---|---|---|---|")
    for row in options.rows or ROWS:
        for checkout in both:
            checkout.seconds(row=row, threads=options.threads, seconds=0)
        turns = []
        for turn in range(options.turns):
            pair = {}
            for number in (0, 1) if turn % 2 else (1, 0):
                time.sleep(0.1)  # until the threads of the other process sleep
                pair[number] = both[number].seconds(seconds=options.seconds)
            turns.append((pair[0], pair[1]))
        ratios = sorted(a / b for a, b in turns)
        first, second = (statistics.median(values) * 1e3 for values in zip(*turns, strict=True))
        print(
            f"| {row} | {first:.4g} ms | {second:.4g} ms | {statistics.median(ratios):.3f} | "
            f"{ratios[0]:.3f} to {ratios[-1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
