"""Training in several processes: one process of two threads against two of one, and the time of an all-reduce.

    python benchmarks/distributed.py

Then the alpha-beta model of an all-reduce, fitted to what two processes measured, predicts the efficiency for more.

The model is an LSTM 2x256 on batches of 32 sequences of 64 steps. Each row is a run of ``mpiexec``, twice, alternating;
the faster counts. Needs mpi4py and an MPI. More processes than cores are oversubscribed: they show that nothing breaks.
"""

from __future__ import annotations

import json
import math
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
from minirnn.models import CharLM
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import Trainer, TrainingConfig

RUNS = ((1, 2), (2, 1), (4, 1))  # processes, threads of each
SECONDS, WARMUP = 5.0, 5  # of a run; steps left out
HIDDEN = (256, 512, 1024)  # of the models of the predictions
ETHERNET = (30e-6, 0.8e-9)
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
        if sum(steps[WARMUP:]) > SECONDS:
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
    sizes, times = np.array([int(size) for size in tables[0]]), np.array(list(tables[0].values()))
    alpha, beta = np.linalg.lstsq(np.stack([1 / times, sizes / times], 1), np.ones(len(times)), rcond=None)[0]
    found = best[2, 1]
    parameters = CharLM(65, 256, 2).num_parameters()
    rate = parameters / (float(found["step"]) - float(found["reducing"]))  # type: ignore[arg-type]
    predict({"shared memory, measured": (alpha, beta), "Ethernet of 10 Gbit/s, assumed": ETHERNET}, rate)


def all_reduce_seconds(processes: int, size: float, alpha: float, beta: float) -> float:
    """The faster of recursive doubling and a ring (Thakur, Rabenseifner & Gropp 2005), without the time of adding."""
    doubling = math.ceil(math.log2(processes)) * (alpha + beta * size)
    return min(doubling, 2 * (processes - 1) * (alpha + beta * size / processes))


def predict(networks: dict[str, tuple[float, float]], rate: float) -> None:
    """Print the efficiency: the part of a step that is not spent in the all-reduce, 16 sequences of 64 steps a process.

    Args:
        networks: alpha, seconds of a message, and beta, seconds of a byte. rate: parameters per second of computing.
    """
    models = {f"2x{hidden}": CharLM(65, hidden, 2).num_parameters() for hidden in HIDDEN}
    for name, (alpha, beta) in networks.items():
        print(f"\n{name}: alpha {1e6 * alpha:.1f} µs, beta {1e9 * beta:.2f} ns per byte")
        print(f"\n| processes | {' | '.join(models)} |\n|---|{'---|' * len(models)}")
        for processes in (2, 4, 16, 64, 256, 1024):
            row = []
            for count in models.values():
                compute, reducing = count / rate, all_reduce_seconds(processes, 4 * count, alpha, beta)
                row.append(f"{compute / (compute + reducing):.0%} ({1e3 * reducing:.1f} ms)")
            print(f"| {processes:,} | {' | '.join(row)} |")


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        result = measure()
        if distributed.rank() == 0:
            print(json.dumps(result))
    else:
        main()
