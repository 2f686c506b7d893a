"""Where the time of one training step goes, kernel by kernel, and the least time their arithmetic takes.

    python benchmarks/profile_step.py [ROW] [--threads 2] [--steps 40]

ROW is a training row of `minirnn bench`. Times are those of :func:`minirnn.kernels.threads.run`, so they include the
distribution of work to threads; the rest is Python: the tape, modules, the optimizer's bookkeeping. The minimum of a
kernel that multiplies matrices is its arithmetic at the rate of large products, measured in the same process. Of a
small model's recorded calls (:mod:`minirnn.nn.replay`) each is timed, NumPy's too, without a minimum.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from minirnn_cli.bench import ROWS, minirnn_runner, product_rate

from minirnn.kernels import threads
from minirnn.kernels.recording import Call
from minirnn.nn import replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", default="lstm-2x128", choices=[n for n, w in ROWS.items() if not w.streams])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    rate = 1e9 * product_rate(options.threads)
    step = minirnn_runner(ROWS[options.row], options.threads)
    for _ in range(5):
        step()

    seconds: defaultdict[str, float] = defaultdict(float)
    minima: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    run = threads.run

    def note(kernel: Callable[..., Any], args: Sequence[Any], began: float, work: float) -> None:
        shapes = [a.shape for a in args if isinstance(a, np.ndarray)][:1] if "_times_" in kernel.__name__ else []
        module = getattr(kernel, "__module__", None) or "numpy"
        label = f"{module.rpartition('.')[2]}.{kernel.__name__} {' '.join(map(str, shapes))}"
        seconds[label] += time.perf_counter() - began
        calls[label] += 1
        if work and (shapes or kernel.__name__.endswith(("_forward", "_backward"))):
            minima[label] += 2 * work / rate

    def timed(kernel: Callable[..., Any], work: float, most: int, *args: Any) -> None:
        began = time.perf_counter()
        run(kernel, work, most, *args)
        note(kernel, args, began, work)

    def timed_calls(recorded: list[Call]) -> None:
        for function, args, kwargs in recorded:
            began = time.perf_counter()
            function(*args, **kwargs)
            note(function, args, began, 0.0)

    threads.run, replay.repeat_calls = timed, timed_calls
    began = time.perf_counter()
    for _ in range(options.steps):
        step()
    total = time.perf_counter() - began
    print(f"{options.row}, {options.threads} threads, {1e3 * total / options.steps:.2f} ms per step\n")
    print("| kernel | calls | ms | minimum, ms | of the step |\n|---|---|---|---|---|")
    seconds["Python"] = total - sum(seconds.values())
    for label, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        count = f"{calls[label] / options.steps:.0f}" if calls[label] else ""
        minimum = f"{1e3 * minima[label] / options.steps:.3f}" if label in minima else ""
        print(f"| {label} | {count} | {1e3 * spent / options.steps:.3f} | {minimum} | {spent / total:.0%} |")


if __name__ == "__main__":
    main()
