"""One step of a trained model at a time, against PyTorch, both on one thread, without a tape.

    python benchmarks/stepping.py [--hidden 64] [--layers 1] [--batch 1] [--turns 31] [--steps 500]

Each step goes on from the state of the step before. The programs take turns, ``--steps`` steps at a time; medians over
all turns, in microseconds of this process's CPU time, Python included, with the fastest and the slowest turn.
CPU time, because other programs of a shared machine would make up most of such short times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import minirnn as mr

VOCABULARY = 65
Step = Callable[[Any], Any]
"""From a state to the next one."""


def programs(hidden: int, layers: int, batch: int) -> dict[str, dict[str, tuple[Step, Any]]]:
    """For each kind of work the programs that do it: a step, and the state to begin with."""
    x = np.random.default_rng(0).standard_normal((batch, hidden)).astype(np.float32)
    tokens = np.arange(batch) % VOCABULARY
    x_t, tokens_t = torch.from_numpy(x), torch.from_numpy(tokens)
    lstm, lstm_t = mr.nn.LSTM(hidden, hidden, layers), torch.nn.LSTM(hidden, hidden, layers)
    head_t, embedding_t = torch.nn.Linear(hidden, VOCABULARY), torch.nn.Embedding(VOCABULARY, hidden)
    char = mr.models.CharLM(VOCABULARY, hidden, layers)
    tagger = mr.models.ManyToMany(hidden, hidden, VOCABULARY, layers)
    zeros_t = (torch.zeros(layers, batch, hidden),) * 2

    def torch_char(state: Any) -> Any:
        y, state = lstm_t(embedding_t(tokens_t)[None], state)
        head_t(y[0])
        return state

    def torch_tagger(state: Any) -> Any:
        y, state = lstm_t(x_t[None], state)
        head_t(y[0])
        return state

    def whole(state: Any) -> Any:
        with mr.no_grad():
            return lstm(x[None], state)[1]

    work: dict[str, dict[str, tuple[Step, Any]]] = {
        "LSTM": {
            "minirnn, step": (lambda state: lstm.step(x, state)[1], lstm.initial_state(batch)),
            "minirnn, whole sequence of T = 1": (whole, None),
            "PyTorch, LSTM of T = 1": (lambda state: lstm_t(x_t[None], state)[1], zeros_t),
        },
        "CharLM": {
            "minirnn, step": (lambda state: char.step(tokens, state)[1], char.initial_state(batch)),
            "PyTorch, Embedding, LSTM, Linear": (torch_char, zeros_t),
        },
        "ManyToMany": {
            "minirnn, step": (lambda state: tagger.step(x, state)[1], tagger.initial_state(batch)),
            "PyTorch, LSTM, Linear": (torch_tagger, zeros_t),
        },
    }
    if layers == 1:
        cell_t = torch.nn.LSTMCell(hidden, hidden)
        work["LSTM"]["PyTorch, LSTMCell"] = lambda state: cell_t(x_t, state), (zeros_t[0][0], zeros_t[1][0])
    return work


def measure(steps: dict[str, tuple[Step, Any]], turns: int, count: int) -> dict[str, list[float]]:
    """Microseconds per step of each program in each turn; the first turn is left out."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns + 1):
        for name, (step, state) in steps.items():
            began = time.process_time()
            for _ in range(count):
                state = step(state)
            times[name].append(1e6 * (time.process_time() - began) / count)
    return {name: values[1:] for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"hidden": 64, "layers": 1, "batch": 1, "turns": 31, "steps": 500}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    mr.set_num_threads(1)
    torch.set_num_threads(1)
    print("| work | program | us per step | fastest to slowest turn | against minirnn |\n|---|---|---|---|---|")
    with torch.no_grad():
        for work, steps in programs(options.hidden, options.layers, options.batch).items():
            times = measure(steps, options.turns, options.steps)
            for program, values in times.items():
                ratio = statistics.median(b / a for a, b in zip(times["minirnn, step"], values, strict=True))
                spread = f"{min(values):.1f} to {max(values):.1f}"
                print(f"| {work} | {program} | {statistics.median(values):.1f} | {spread} | {ratio:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
