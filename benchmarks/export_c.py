"""Exported C programs: what int8 costs on text; and how export.py times them.

    python benchmarks/export_c.py RUN TEXT

prints the bits per symbol of a trained character model and of its programs in float and int8, on a text it was not
trained on, and how often their most likely symbol is minirnn's.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import minirnn as mr
from minirnn.export.network import describe
from minirnn.export.record import record
from minirnn.export.to_c import program

FLAGS = ("-O3", "-march=native")
ROUNDS = 7

_TIME = """
#define _POSIX_C_SOURCE 199309L
#define MODEL_TEST
#include <time.h>
#include "model.h"
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static volatile int last;
static void once(void) {
#if SYMBOLS
    model_state state;
    float y[MODEL_OUTPUTS];
    int k, token = 0;
    model_init(&state);
    for (k = 0; k < SYMBOLS; k++) {
        model_step(&state, token, y);
        token = model_argmax(y, MODEL_OUTPUTS);
    }
    last = token; /* so that the loop is not left out */
#else
    model_test();
#endif
}
int main(void) {
    double times[ROUNDS], start = seconds();
    int round, other, k, count, bad = model_test();
    last = bad;
    once();
    start = seconds();
    once();
    count = 1 + (int)(SECONDS / ROUNDS / (seconds() - start + 1e-9));
    for (round = 0; round < ROUNDS; round++) {
        start = seconds();
        for (k = 0; k < count; k++) once();
        times[round] = (seconds() - start) / count;
        for (other = round; other > 0 && times[other] < times[other - 1]; other--) {
            start = times[other];
            times[other] = times[other - 1];
            times[other - 1] = start;
        }
    }
    fprintf(stderr, "%.9g", times[ROUNDS / 2]);
    return bad;
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


def run_c(header: bytes, source: str, flags: tuple[str, ...] = FLAGS, stdin: bytes = b"") -> tuple[str, str]:
    """Compile a program that includes ``header``, called "model" within; what it prints on both outputs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.h").write_bytes(header)
        Path(folder, "main.c").write_text(source)
        subprocess.run(["cc", "-std=c99", *flags, "main.c", "-o", "main", "-lm"], cwd=folder, check=True)
        done = subprocess.run(["./main"], cwd=folder, check=True, capture_output=True, input=stdin)
    return done.stdout.decode(), done.stderr.decode()


def time_c(header: bytes, symbols: int, seconds: float = 1.0, flags: tuple[str, ...] = FLAGS) -> tuple[float, float]:
    """The largest difference from the recorded outputs, and seconds: the median of some rounds.

    Args:
        header: of a program called "model".
        symbols: of a character model, time for so many greedy ones; 0: time for the recorded sequence.
        seconds: for all rounds together.
    """
    options = (f"-DSYMBOLS={symbols}", f"-DSECONDS={seconds}", f"-DROUNDS={ROUNDS}")
    shown, taken = run_c(header, _TIME, (*flags, *options))
    return float(shown.split("outputs: ")[1].split(",")[0]), float(taken)


def bits_c(header: bytes, tokens: np.ndarray) -> tuple[float, np.ndarray]:
    """Bits per symbol of an exported char model on ``tokens`` [S], and the most likely symbols [S - 1]."""
    bits, best = run_c(header, _BITS, stdin=tokens.astype("<u2").tobytes())
    return float(bits), np.array(best.split(), np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a character model")
    parser.add_argument("text", help="text file that it was not trained on")
    arguments = parser.parse_args()
    task = mr.load(arguments.run)
    tokens = task.symbols.encode(Path(arguments.text).read_text(encoding="utf-8"))
    network = replace(describe(task.model), task=task.config())
    with task.model.evaluating():
        logits = task.model(tokens[:-1])[0].numpy()
    loss = mr.nn.functional.cross_entropy(logits, tokens[1:].astype(np.int64)).item() / np.log(2)
    print(f"{len(tokens):,} symbols; minirnn: {loss:.6f} bits per symbol")
    for int8 in (False, True):
        bits, best = bits_c(program(network, record(task.model), int8=int8), tokens)
        same = f"the same most likely symbol {int((best == logits.argmax(1)).sum()):,} times of {len(best):,}"
        print(f"{'int8' if int8 else 'float'}: {bits:.6f} bits per symbol; {same}")


if __name__ == "__main__":
    main()
