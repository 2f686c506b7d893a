"""Custom cells against the built-in LSTM, PyTorch and primitive operations, alternating in one process.

    python benchmarks/custom_cells.py [--threads 2] [--seconds 3] [--only NAME]

- peephole: an LSTM with peepholes written with ``mr.cell``, two layers of 128, 50 sequences of 50 steps; against the
  built-in LSTM (which has less to compute), a PyTorch loop over the steps, the same loop with ``torch.compile`` of the
  step, and ``nn.RecurrentCell``, minirnn's own primitive operations.
- peephole-1x100: the same with one sequence of 25 steps, one layer of 100.
- layer-norm: the LSTM with layer normalization against a PyTorch loop.
- cells: every built-in cell against the LSTM, 2x128.

One unit is a forward and backward pass of the layers alone, the loss a sum of all outputs; the input requires a
gradient. PyTorch projects the inputs of all steps at once, as minirnn does. The programs alternate and medians are
printed as in `minirnn bench`; a ratio is the time of a program divided by that of the first line of its table.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from minirnn_cli.bench import Runner, measure

import minirnn as mr
from minirnn.cells import sigmoid, tanh
from minirnn.nn.unrolled import Unrolled


@mr.cell
def peephole(i, f, g, o, /, h, c, *, p_i=0, p_f=0, p_o=0):  # type: ignore[no-untyped-def]
    """The LSTM with peephole connections (Gers, Schraudolph & Schmidhuber 2002)."""
    c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o + p_o * c_new) * tanh(c_new), c_new


Work = tuple[int, int, int, int]
"""Layers, hidden size, batch size, steps."""
MIDDLE: Work = (2, 128, 50, 50)
SINGLE: Work = (1, 100, 1, 25)


def _input(work: Work) -> np.ndarray:
    _, hidden, batch, steps = work
    return np.random.default_rng(0).standard_normal((steps, batch, hidden)).astype(np.float32)


def fused(cell: Any, work: Work) -> Runner:
    """The layers computed by generated kernels."""
    layer = mr.nn.Recurrent(cell, work[1], work[1], work[0])
    return _stepping(layer, lambda x: layer(x)[0], work)


def primitive(cell: Any, work: Work) -> Runner:
    """The layers computed by primitive operations, step by step."""
    layer = Unrolled([mr.nn.RecurrentCell(cell, work[1], work[1]) for _ in range(work[0])])
    return _stepping(layer, lambda x: layer(x)[0], work)


def _stepping(module: mr.nn.Module, run: Callable[[Any], Any], work: Work) -> Runner:
    x = mr.tensor(_input(work), requires_grad=True)

    def step() -> int:
        x.grad = None
        module.zero_grad()
        run(x).sum().backward()
        return 1

    return step


def peephole_step(gates: Any, h: Any, c: Any, weight: Any, p_i: Any, p_f: Any, p_o: Any) -> tuple[Any, Any]:
    i, f, g, o = torch.addmm(gates, h, weight).chunk(4, 1)
    c_new = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
    return torch.sigmoid(o + p_o * c_new) * torch.tanh(c_new), c_new


def layer_norm_step(gates: Any, h: Any, c: Any, weight: Any, *vectors: Any) -> tuple[Any, Any]:
    size = h.shape[1:]
    parts = torch.addmm(gates, h, weight).chunk(4, 1)
    normalized = [
        torch.nn.functional.layer_norm(part, size, gain, bias)
        for part, gain, bias in zip(parts, vectors[:4], vectors[5:9], strict=True)
    ]
    i, f, g, o = normalized
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    c = torch.nn.functional.layer_norm(c, size, vectors[4], vectors[9])
    return torch.sigmoid(o) * torch.tanh(c), c


def torch_loop(step_function: Callable[..., Any], vectors: list[float], work: Work) -> Runner:
    """A Python loop over the steps; the inputs of all steps are projected before it."""
    layers, hidden, batch, steps = work
    bound = hidden**-0.5

    def uniform(*shape: int) -> Any:
        return torch.empty(*shape).uniform_(-bound, bound).requires_grad_()

    def vector(value: float) -> Any:
        return torch.full((hidden,), value, requires_grad=True)

    gates = 4 * hidden
    parameters = [
        (uniform(hidden, gates), uniform(gates), uniform(hidden, gates), [vector(value) for value in vectors])
        for _ in range(layers)
    ]
    leaves = [torch.from_numpy(_input(work)).requires_grad_()]
    for w_ih, bias, w_hh, own in parameters:
        leaves += [w_ih, bias, w_hh, *own]
    zeros = torch.zeros(batch, hidden)

    def step() -> int:
        for leaf in leaves:
            leaf.grad = None
        x = leaves[0]
        for w_ih, bias, w_hh, own in parameters:
            gates, h, c, outputs = (x @ w_ih + bias).unbind(0), zeros, zeros, []
            for t in range(steps):
                h, c = step_function(gates[t], h, c, w_hh, *own)
                outputs.append(h)
            x = torch.stack(outputs)
        x.sum().backward()
        return 1

    return step


def compiled_loop(step_function: Callable[..., Any], vectors: list[float], work: Work) -> Runner | str:
    """The loop with the step compiled by torch.compile, or the reason why that does not work here."""
    runner = torch_loop(torch.compile(step_function, dynamic=False), vectors, work)
    try:
        runner()
    except Exception as error:  # such as a missing compiler; the other rows continue
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return runner


Table = dict[str, tuple[Runner | str, str]]
"""For each program its runner, or why there is none, and the goal of its ratio. The first is the reference."""


def peephole_table(work: Work = MIDDLE) -> Table:
    vectors = [0.0, 0.0, 0.0]
    return {
        "minirnn, custom cell": (fused(peephole, work), ""),
        "minirnn, built-in LSTM": (fused("lstm", work), "0.9"),
        "PyTorch, loop": (torch_loop(peephole_step, vectors, work), "2.2"),
        "PyTorch, loop, torch.compile": (compiled_loop(peephole_step, vectors, work), "1.5"),
        "minirnn, primitive operations": (primitive(peephole, work), "2.5"),
    }


def single_table() -> Table:
    return {
        "minirnn, custom cell": (fused(peephole, SINGLE), ""),
        "PyTorch, loop": (torch_loop(peephole_step, [0.0, 0.0, 0.0], SINGLE), "8"),
    }


def layer_norm_table() -> Table:
    gains, biases = [1.0] * 5, [0.0, 1.0, 0.0, 0.0, 0.0]
    return {
        "minirnn, layer_norm_lstm": (fused("layer_norm_lstm", MIDDLE), ""),
        "PyTorch, loop": (torch_loop(layer_norm_step, gains + biases, MIDDLE), "2"),
    }


def cells_table() -> Table:
    others = [name for name in mr.cells.names() if name != "lstm"]
    return {name: (fused(name, MIDDLE), "") for name in ["lstm", *others]}


TABLES: dict[str, Callable[[], Table]] = {
    "peephole": peephole_table,
    "peephole-1x100": single_table,
    "layer-norm": layer_norm_table,
    "cells": cells_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", choices=list(TABLES), help="one table")
    options = parser.parse_args()
    mr.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    mr.manual_seed(0)
    torch.manual_seed(0)
    print("| work | program | per step | ratio | goal |\n|---|---|---|---|---|")
    for name, make in TABLES.items():
        if options.only not in (None, name):
            continue
        table = make()
        times = measure(
            {program: run for program, (run, _) in table.items() if not isinstance(run, str)}, options.seconds
        )
        first = next(iter(times))
        for program, (run, goal) in table.items():
            if isinstance(run, str):
                print(f"| {name} | {program} | {run} | | {goal} |", flush=True)
                continue
            ratio = statistics.median(b / a for a, b in zip(times[first], times[program], strict=True))
            milliseconds = 1e3 * statistics.median(times[program])
            print(f"| {name} | {program} | {milliseconds:.2f} ms | {ratio:.2f}x | {goal} |", flush=True)


if __name__ == "__main__":
    main()
