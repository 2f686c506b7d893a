"""How a training step grows with sequence length, batch size and threads, and how much memory it takes.

    python benchmarks/scaling.py [length] [batch] [threads] [memory] [long]

Each part prints a table; the default is all of them. ``length`` and ``batch``: LSTM 2x128, V65, from T=25 to 3,200 and
from B=8 to 512; medians over turns that each run every size, so that a machine that slows down slows all of them.
``threads``: LSTM 2x512 on one thread and on two. ``memory``: LSTM 2x512 B64 T128 V100 and 2x650 B20 T35 V10000, each in
a process of its own, against PyTorch. ``long``: T=20,000 at H=256 with and without recomputing.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minirnn_cli.bench import ROWS, Work, minirnn_runner, torch_runner

SMALL = ROWS["lstm-2x128"]
PARTS = ("length", "batch", "threads", "memory", "long")


def medians(steps: list[Callable[[], int]], turns: int = 5, minimum: float = 0.2) -> list[float]:
    """Seconds of each step; a turn is one step to warm up, then steps for ``minimum`` seconds, at least one."""
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(turns + 1):
        for step, taken in zip(steps, times, strict=True):
            step()
            done, began = 0, time.perf_counter()
            while (now := time.perf_counter()) - began < minimum or done == 0:
                done += step()
            if turn:
                taken.append((now - began) / done)
    return [statistics.median(taken) for taken in times]


def growth(name: str, works: list[Work], count: Callable[[Work], int]) -> None:
    """A table of step times, in total, per step (or sequence), and relative to the median of all."""
    times = medians([minirnn_runner(work, 2) for work in works])
    each = [seconds / count(work) for seconds, work in zip(times, works, strict=True)]
    middle = statistics.median(each)
    print(f"\n| {name} | ms | µs for one | / median | GFLOP/s |\n|---|---|---|---|---|")
    for work, seconds, one in zip(works, times, each, strict=True):
        row = (
            f"{count(work):,} | {1e3 * seconds:.2f} | {1e6 * one:.1f} | {one / middle:.2f} | {work.gflop / seconds:.0f}"
        )
        print(f"| {row} |", flush=True)


def threads() -> None:
    """Two threads against one, alternating."""
    print("\n| LSTM | 1 thread, ms | 2 threads, ms | ratio |\n|---|---|---|---|")
    for name in ("lstm-2x128", "lstm-2x512"):
        times: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(7):
            for count in times:
                times[count] += medians([minirnn_runner(ROWS[name], count)], 1)
        one, two = (statistics.median(times[count]) for count in (1, 2))
        ratio = statistics.median(a / b for a, b in zip(times[1], times[2], strict=True))
        print(f"| {name} | {1e3 * one:.1f} | {1e3 * two:.1f} | {ratio:.2f} |", flush=True)


def peak_megabytes() -> float:
    """The peak resident size of this process; ``ru_maxrss`` would begin with the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child_memory(row: str, program: str) -> None:
    """Peak memory of a few steps, then page faults and Python allocations of steps after warm-up."""
    step = {"minirnn": minirnn_runner, "torch": torch_runner}[program](ROWS[row], 2)
    for _ in range(4):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4
    peak = peak_megabytes()
    tracemalloc.start()
    step()
    tracemalloc.reset_peak()
    at = tracemalloc.get_traced_memory()[0]
    step()
    traced = (tracemalloc.get_traced_memory()[1] - at) / 1024
    print(f"| {row} | {program} | {peak:.0f} | {faults:.0f} | {traced:.0f} |")


def child_long(every: int | None, length: int, batch: int) -> None:
    """One training step over a long sequence."""
    import numpy as np

    import minirnn as mr

    mr.manual_seed(0)
    mr.set_num_threads(2)
    model = mr.models.CharLM(65, 256, 2)
    optimizer = mr.optim.Adam(model.parameters())
    tokens, targets = np.random.default_rng(0).integers(65, size=(2, length, batch))
    model.loss(tokens[:8], targets[:8])[0].backward()  # compiles
    began = time.perf_counter()
    optimizer.zero_grad()
    loss, _ = model.loss(tokens, targets, recompute_every=every)
    loss.backward()
    norm = mr.optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    seconds = time.perf_counter() - began
    kept = "all" if every is None else f"every {every}"
    print(f"| {kept} | {seconds:.1f} | {peak_megabytes():.0f} | {loss.item():.7f} | {norm:.7f} |")


def run_child(*arguments: str) -> None:
    subprocess.run([sys.executable, __file__, "child", *arguments], check=True)


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        kind, *rest = sys.argv[2:]
        if kind == "memory":
            child_memory(*rest)
        else:
            child_long(int(rest[0]) or None, int(rest[1]), int(rest[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure")
    parser.add_argument("--long-batch", type=int, default=16, help="sequences of T=20,000")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if "length" in parts:
        growth("T", [replace(SMALL, steps=25 * 2**n) for n in range(8)], lambda work: work.steps)
    if "batch" in parts:
        growth("B", [replace(SMALL, batch=8 * 2**n) for n in range(7)], lambda work: work.batch)
    if "threads" in parts:
        threads()
    if "memory" in parts:
        print(
            "\n| work | program | peak MB | page faults per step | peak KB allocated in Python |\n|---|---|---|---|---|"
        )
        for row, program in itertools.product(("lstm-2x512", "lstm-2x650"), ("minirnn", "torch")):
            sys.stdout.flush()
            run_child("memory", row, program)
    if "long" in parts:
        print(f"\nLSTM 2x256, T=20,000, B={options.long_batch}, V65, one step\n")
        print("| states kept | seconds | peak MB | loss | gradient norm |\n|---|---|---|---|---|")
        for every in (0, 500, 100):
            sys.stdout.flush()
            run_child("long", str(every), "20000", str(options.long_batch))


if __name__ == "__main__":
    main()
