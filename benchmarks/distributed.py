"""Training in several processes: one process of two threads against two of one, and the time of an all-reduce.

    python benchmarks/distributed.py

The model is an LSTM 2x256 on batches of 32 sequences of 64 steps. Each row is a run of ``mpiexec``, twice, alternating;
the faster counts. Needs mpi4py and an MPI. More processes than cores are oversubscribed: they show that nothing breaks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from minirnn import distributed
from minirnn.data.text import Characters
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import Trainer, TrainingConfig

RUNS = ((1, 2), (2, 1), (4, 1))  # processes, threads of each
SECONDS, WARMUP = 5.0, 5  # of a run; steps left out
SIZES = [4**k for k in range(2, 13)]  # float32 numbers


def measure() -> dict[str, object]:
    """Median step, the part of it in all-reduces, and the median time of an all-reduce by its bytes."""
    symbols = Characters.of("".join(map(chr, range(48, 113))))
    tokens = np.random.default_rng(0).integers(0, 65, 400_000).astype(np.uint8)
    config = CharConfig(hidden_size=256, num_layers=2, dropout=0.0, batch_size=32, seq_length=64)
    trainer = Trainer(TextGenerator.build(Corpus(tokens, symbols), config), TrainingConfig(steps=10**6, evaluations=1))
    reduce, spent = distributed.all_reduce, [0.0]

    def timed(array: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        reduce(array)
        spent[0] += time.perf_counter() - began
        return array

    distributed.all_reduce = timed  # type: ignore[assignment]
    steps, reducing, began = [], [], time.perf_counter()
    for _ in trainer.fit():
        now = time.perf_counter()
        steps.append(now - began)
        reducing.append(spent[0])
        began, spent[0] = now, 0.0
        if sum(steps) > SECONDS:
            trainer.stop()
    distributed.all_reduce = reduce
    by_size = {}
    for size in SIZES if distributed.size() > 1 else ():
        array, times = np.zeros(size, np.float32), []
        for _ in range(20):
            distributed.barrier()
            began = time.perf_counter()
            reduce(array)
            times.append(time.perf_counter() - began)
        by_size[array.nbytes] = median(times)
    return {"step": median(steps[WARMUP:]), "reducing": median(reducing[WARMUP:]), "all_reduce": by_size}


def main() -> None:
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        raise SystemExit("no mpiexec: pip install mpi4py mpich")
    best: dict[tuple[int, int], dict[str, object]] = {}
    for run in RUNS * 2:
        command = [mpiexec, "-n", str(run[0]), sys.executable, __file__, "run"]
        environment = os.environ | {"MINIRNN_NUM_THREADS": str(run[1])}
        found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
        best[run] = min(best.get(run, found), found, key=lambda one: one["step"])
    print("| processes x threads | step | tokens per second | in all-reduces |\n|---|---|---|---|")
    for (ranks, threads), found in best.items():
        step, reducing = float(found["step"]), float(found["reducing"])  # type: ignore[arg-type]
        print(f"| {ranks} x {threads} | {1e3 * step:.1f} ms | {32 * 64 / step:,.0f} | {1e3 * reducing:.2f} ms |")
    print("\n| bytes | 2 processes | 4 processes |\n|---|---|---|")
    tables: list[dict[str, float]] = [best[run]["all_reduce"] for run in RUNS[1:]]  # type: ignore[misc]
    for size in tables[0]:
        print(f"| {int(size):,} | {' | '.join(f'{1e6 * table[size]:,.0f} µs' for table in tables)} |")


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        result = measure()
        if distributed.rank() == 0:
            print(json.dumps(result))
    else:
        main()
