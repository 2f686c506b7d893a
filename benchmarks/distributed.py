"""Training in several processes: one process of two threads against two of one, and the time of an all-reduce.

    python benchmarks/distributed.py
    python benchmarks/distributed.py corpus.txt     # what local SGD costs in loss

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
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from minirnn import distributed
from minirnn.data.text import Characters
from minirnn.models import CharLM
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator, read_corpus
from minirnn.training import Trainer, TrainingConfig

RUNS = ((1, 2), (2, 1), (4, 1))  # processes, threads of each
SECONDS, WARMUP = 5.0, 5  # of a run; steps left out
HIDDEN = (256, 512, 1024)  # of the models of the predictions
PROCESSES = (2, 4, 16, 64, 256, 1024)
ETHERNET = (30e-6, 0.8e-9)
SIZES = [4**k for k in range(2, 13)]  # float32 numbers
SMALL = 40  # bytes of the all-reduce that every step has: loss, tokens, norm, stop, seconds
EVERY = (4, 16, 64)  # steps between two averages of local SGD
ARRAYS = 3  # that are averaged: parameters, and two moments of AdamW
SEEDS, STEPS = 3, 600  # of the runs that show the loss


def measure() -> dict[str, object]:
    """Median step, the part of it in all-reduces, and the median time of an all-reduce by its bytes."""
    symbols = Characters.of("".join(map(chr, range(48, 113))))
    tokens = np.random.default_rng(0).integers(0, 65, 400_000).astype(np.uint8)
    config = CharConfig(
        cell="lstm", hidden_size=256, num_layers=2, dropout=0.0, weight_drop=0.0, batch_size=32, seq_length=64
    )
    trainer = Trainer(TextGenerator.build(Corpus(tokens, symbols), config), TrainingConfig(steps=10**6, evaluations=1))
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = time.perf_counter()
            result = function(*args)
            spent[0] += time.perf_counter() - began
            return result

        return call

    collectives = {name: getattr(distributed, name) for name in ("all_reduce", "broadcast", "largest")}
    for name, function in collectives.items():
        setattr(distributed, name, timed(function))
    steps, reducing, began = [], [], time.perf_counter()
    for _ in trainer.fit():
        now = time.perf_counter()
        steps.append(now - began)
        reducing.append(spent[0])
        began, spent[0] = now, 0.0
        if sum(steps[WARMUP:]) > SECONDS:
            trainer.stop()
    for name, function in collectives.items():
        setattr(distributed, name, function)
    by_size = {}
    for size in SIZES if distributed.size() > 1 else ():
        array, times = np.zeros(size, np.float32), []
        for _ in range(20):
            distributed.barrier()
            began = time.perf_counter()
            distributed.all_reduce(array)
            times.append(time.perf_counter() - began)
        by_size[array.nbytes] = median(times)
    return {"step": median(steps[WARMUP:]), "reducing": median(reducing[WARMUP:]), "all_reduce": by_size}


def loss_of(corpus: str, every: str, seed: str) -> dict[str, object]:
    """Validation loss at the end of a run, and what its all-reduces add up per step, in bytes."""
    config = CharConfig(
        cell="layer_norm_gru",
        hidden_size=128,
        num_layers=1,
        dropout=0.09,
        weight_drop=0.0,
        batch_size=32,
        seq_length=64,
        seed=int(seed),
    )
    task = TextGenerator.build(read_corpus([corpus]), config)
    average_every = None if every == "1" else int(every)
    trainer = Trainer(task, TrainingConfig(steps=STEPS, evaluations=1, average_every=average_every))
    *_, last = trainer.fit()
    size = 4 * task.model.num_parameters()
    return {
        "loss": (last.metrics or {})["val_loss"],
        "sent": SMALL + size * (ARRAYS / int(every) if average_every else 1),
    }


def start(ranks: int, threads: int, *arguments: str) -> dict[str, Any]:
    """What this program, started in several processes, found."""
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        raise SystemExit("no mpiexec: pip install mpi4py mpich")
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, *arguments]
    environment = os.environ | {"MINIRNN_NUM_THREADS": str(threads)}
    found: dict[str, Any] = json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    )
    return found


def show_losses(corpus: str) -> None:
    print("| processes | K | validation loss | bytes per step |\n|---|---|---|---|")
    for ranks in (2, 4):
        for every in (1, *EVERY):
            found = [start(ranks, 1, "loss", corpus, str(every), str(seed)) for seed in range(SEEDS)]
            losses = [run["loss"] for run in found]
            print(
                f"| {ranks} | {every} | {mean(losses):.4f} ± {stdev(losses):.4f} | {found[0]['sent']:,.0f} |",
                flush=True,
            )


def main() -> None:
    best: dict[tuple[int, int], dict[str, Any]] = {}
    for run in RUNS * 2:
        found = start(*run, "run")
        best[run] = min(best.get(run, found), found, key=lambda one: one["step"])
    print("| processes x threads | step | tokens per second | communicating |\n|---|---|---|---|")
    for (ranks, threads), found in best.items():
        step, reducing = found["step"], found["reducing"]
        print(f"| {ranks} x {threads} | {1e3 * step:.1f} ms | {32 * 64 / step:,.0f} | {1e3 * reducing:.2f} ms |")
    print("\n| bytes | 2 processes | 4 processes |\n|---|---|---|")
    tables: list[dict[str, float]] = [best[run]["all_reduce"] for run in RUNS[1:]]
    for size in tables[0]:
        print(f"| {int(size):,} | {' | '.join(f'{1e6 * table[size]:,.0f} µs' for table in tables)} |")
    sizes, times = np.array([int(size) for size in tables[0]]), np.array(list(tables[0].values()))
    alpha, beta = np.linalg.lstsq(np.stack([1 / times, sizes / times], 1), np.ones(len(times)), rcond=None)[0]
    found = best[2, 1]
    parameters = CharLM(65, 256, 2).num_parameters()
    rate = parameters / (found["step"] - found["reducing"])
    predict({"shared memory, measured": (alpha, beta), "Ethernet of 10 Gbit/s, assumed": ETHERNET}, rate)
    predict_local(rate)


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
        for processes in PROCESSES:
            row = []
            for count in models.values():
                reducing = sum(all_reduce_seconds(processes, size, alpha, beta) for size in (SMALL, 4 * count))
                row.append(f"{efficiency(count / rate, reducing)} ({1e3 * reducing:.1f} ms)")
            print(f"| {processes:,} | {' | '.join(row)} |")


def efficiency(compute: float, reducing: float) -> str:
    return f"{compute / (compute + reducing):.0%}"


def predict_local(rate: float) -> None:
    """Print the efficiency of the model of 512 units over Ethernet: with a sum of gradients after the backward pass; at
    best, if those of head and upper layer travelled during that of the lower one, a quarter of a step; with local SGD.
    """
    model = CharLM(65, 512, 2)
    count = model.num_parameters()
    upper = sum(p.numel() for name, p in model.named_parameters() if name.startswith("head") or "_l1" in name)
    print(f"\n| processes | gradients | overlapped | {' | '.join(f'K = {k}' for k in EVERY)} |")
    print(f"|---|---|---|{'---|' * len(EVERY)}")
    for processes in PROCESSES:
        small, whole, part = (all_reduce_seconds(processes, n, *ETHERNET) for n in (SMALL, 4 * count, 4 * upper))
        hidden = min(part, count / rate / 4)
        times = [small + whole, small + whole - hidden, *(small + ARRAYS * whole / k for k in EVERY)]
        print(f"| {processes:,} | {' | '.join(efficiency(count / rate, seconds) for seconds in times)} |")


if __name__ == "__main__":
    if sys.argv[1:2] in (["run"], ["loss"]):
        result = measure() if sys.argv[1] == "run" else loss_of(*sys.argv[2:])
        if distributed.rank() == 0:
            print(json.dumps(result))
    elif len(sys.argv) == 2:
        show_losses(sys.argv[1])
    else:
        main()
