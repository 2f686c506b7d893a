"""Exported C programs: time per step beside minirnn's own, and what int8 costs on text.

Usage: python benchmarks/export_c.py                  time per step of char LSTMs with random weights
       python benchmarks/export_c.py RUN TEXT         bits per symbol of a trained char model, on TEXT
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import minirnn as mr
from minirnn.export.network import describe
from minirnn.export.record import record
from minirnn.export.to_c import program
from minirnn.tasks import TextGenerator

FLAGS = ("-O3", "-march=native")
SIZES = ((1, 64), (2, 128), (2, 256))
SYMBOLS = 65

_TIME = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
#include "model.h"
static model_state state;
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int main(void) {
    float y[MODEL_OUTPUTS], sum = 0.0f;
    double best = 1e9;
    int repeat, k;
    model_init(&state);
    for (repeat = 0; repeat < 10; repeat++) {
        const double start = seconds();
        for (k = 0; k < 2000; k++) {
            model_step(&state, k % MODEL_TOKENS, y);
            sum += y[0];
        }
        if (seconds() - start < best) best = seconds() - start;
    }
    fprintf(stderr, "%g", (double)sum);
    printf("%.9g", best / 2000);
    return 0;
}
"""

_BITS = """
#include <stdio.h>
#include "model.h"
int main(void) {
    static model_state state;
    float y[MODEL_OUTPUTS];
    double total = 0.0;
    long count = 0;
    int token = -1, next, low, high;
    model_init(&state);
    while ((low = getchar()) != EOF && (high = getchar()) != EOF) {
        next = low + 256 * high;
        if (token >= 0) {
            double sum = 0.0;
            int k;
            model_step(&state, token, y);
            for (k = 0; k < MODEL_OUTPUTS; k++) sum += exp((double)y[k]);
            total += log(sum) - (double)y[next];
            count++;
            fprintf(stderr, "%d\\n", model_argmax(y, MODEL_OUTPUTS));
        }
        token = next;
    }
    printf("%.9g", total / (double)count / log(2.0));
    return 0;
}
"""


def run_c(header: Path, source: str, flags: tuple[str, ...] = FLAGS, stdin: bytes = b"") -> tuple[float, str]:
    """Compile a program that includes ``header``, called "model" within; what it prints on both outputs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.h").write_bytes(header.read_bytes())
        Path(folder, "main.c").write_text(source)
        subprocess.run(["cc", "-std=c99", *flags, "main.c", "-o", "main", "-lm"], cwd=folder, check=True)
        done = subprocess.run(["./main"], cwd=folder, check=True, capture_output=True, input=stdin)
    return float(done.stdout), done.stderr.decode()


def time_c(header: Path, flags: tuple[str, ...] = FLAGS) -> float:
    """Seconds per step of an exported char model: the best of 10 times 2,000 steps."""
    return run_c(header, _TIME, flags)[0]


def bits_c(header: Path, tokens: np.ndarray) -> tuple[float, np.ndarray]:
    """Bits per symbol of an exported char model on ``tokens`` [S], and the most likely symbols [S - 1]."""
    bits, best = run_c(header, _BITS, stdin=tokens.astype("<u2").tobytes())
    return bits, np.array(best.split(), np.int64)


def time_minirnn(model: mr.models.CharLM) -> float:
    """Seconds per symbol of minirnn's compiled sampling loop, greedy: the best of 5 times 2,000."""
    model.generate([0], 64, temperature=0)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model.generate([0], 2000, temperature=0)
        times.append((time.perf_counter() - start) / 2000)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="checkpoint of a char model")
    parser.add_argument("text", nargs="?", help="text file that it was not trained on")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder, "exported.h")
        if arguments.run:
            task = TextGenerator.load(arguments.run)
            tokens = task.symbols.encode(Path(arguments.text).read_text(encoding="utf-8"))
            network = replace(describe(task.model), task=task.config())
            with task.model.evaluating():
                logits = task.model(tokens[:-1])[0].numpy()
            loss = mr.nn.functional.cross_entropy(logits, tokens[1:]).item() / np.log(2)
            print(f"{len(tokens):,} symbols; minirnn: {loss:.6f} bits per symbol")
            for int8 in (False, True):
                header.write_bytes(program(network, record(task.model), int8=int8))
                bits, best = bits_c(header, tokens)
                agree = int((best == logits.argmax(1)).sum())
                same = f"the same most likely symbol {agree:,} times of {len(best):,}"
                print(f"{'int8' if int8 else 'float'}: {bits:.6f} bits per symbol; {same}")
            return
        mr.set_num_threads(1)
        print("| char LSTM | weights | header, kB | constants, kB | step, µs | with -O2, µs | minirnn, µs |")
        print("|---|---|---|---|---|---|---|")
        for layers, hidden in SIZES:
            model = mr.models.CharLM(SYMBOLS, hidden, layers)
            own = time_minirnn(model) * 1e6
            for int8 in (False, True):
                header.write_bytes(program(describe(model), record(model), int8=int8))
                text = header.read_text()
                flash = int(text.split("Flash: ")[1].split(" bytes")[0].replace(",", ""))
                times = [time_c(header, flags) * 1e6 for flags in (FLAGS, ("-O2",))]
                sizes = f"{len(text) / 1000:,.0f} | {flash / 1000:,.0f}"
                stored = "int8" if int8 else "float"
                print(
                    f"| {layers}x{hidden} | {stored} | {sizes} | {times[0]:.2f} | {times[1]:.2f} | {own:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
