"""Plain (Elman) RNN over a whole packed sequence, forward and back; rows are shared as in the LSTM's file."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.cpu.matrix import product
from minirnn.kernels.cpu.walk import add_rows, own_places, own_rows, pick_rows
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import relu, relu_grad, tanh, tanh_grad
from minirnn.kernels.steps import Steps
from minirnn.kernels.tile import multiply_add


@jit
def step_rows(
    share: int, shares: int, loads: Any, gates: Any, table: Any, tokens: Any, panels: Any, rectify: bool,
    starts: Any, reverse: bool, h: Any, state: Any,
) -> None:  # fmt: skip
    """All steps forward for this share of the rows."""
    batch, size = state.shape
    panel_columns = panels.shape[2]
    first, last = own_places(loads, share, shares)
    for step in range(starts.size - 1):
        start, stop = own_rows(starts, step, reverse, first, last)
        if stop <= first:
            continue
        pick_rows(gates, table, tokens, start, first, stop)
        multiply_add(
            state, first * size, size, 1, stop - first, panels, 0, size * panel_columns, size,
            gates, (start + first) * size, size, size,
        )  # fmt: skip
        for r in range(first, stop):
            s = start + r
            if rectify:
                for j in range(size):
                    state[r, j] = relu(gates[s, 0, j])
            else:
                for j in range(size):
                    state[r, j] = tanh(gates[s, 0, j])
            for j in range(size):
                h[batch + s, j] = state[r, j]


@jit
def _step_rows_back(
    share: int, shares: int, loads: Any, gates: Any, panels: Any, rectify: bool, starts: Any, reverse: bool, h: Any,
    dy: Any, dh: Any,
) -> None:  # fmt: skip
    """All steps back for this share of the rows."""
    batch, size = dh.shape
    panel_columns = panels.shape[2]
    first, last = own_places(loads, share, shares)
    for step in range(starts.size - 1):
        start, stop = own_rows(starts, step, not reverse, first, last)
        if stop <= first:
            continue
        add_rows(dh, dy, start, first, stop)
        for r in range(first, stop):
            s = start + r
            n = batch + s
            if rectify:
                for j in range(size):
                    gates[s, 0, j] = dh[r, j] * relu_grad(h[n, j])
            else:
                for j in range(size):
                    gates[s, 0, j] = dh[r, j] * tanh_grad(h[n, j])
            for j in range(size):
                dh[r, j] = 0
        multiply_add(
            gates, (start + first) * size, size, 1, stop - first, panels, 0, size * panel_columns, size,
            dh, first * size, size, size,
        )  # fmt: skip


def rnn_forward(
    gates: np.ndarray,
    table: np.ndarray | None,
    tokens: np.ndarray | None,
    weight_hh: np.ndarray,
    h_0: np.ndarray,
    rectify: bool,
    steps: Steps,
) -> np.ndarray:
    """Run the layer; returns h [N + S, H], initial states first.

    Args:
        gates: [S, H] input part of the pre-activations; used up.
        table, tokens: instead of a filled ``gates``, the input part of token v is ``table[v]`` [V, H].
        weight_hh: [H, H].
        h_0: [N, H] in the steps' sorted order.
        rectify: relu instead of tanh.
    """
    rows, batch, size = gates.shape[0], steps.batch, h_0.shape[1]
    h = memory.empty((batch + rows, size), gates.dtype)
    h[:batch] = h_0
    panels = tile.pack(weight_hh, True)
    if table is None or tokens is None:
        table, tokens = np.empty((0, size), gates.dtype), np.empty(0, np.int64)
    threads.run(
        step_rows, float(rows) * size * (size + 8), batch, steps.loads, gates.reshape(rows, 1, size),
        table.reshape(-1, 1, size), tokens, panels, rectify, steps.starts, steps.reverse, h, h_0.copy(),
    )  # fmt: skip
    return h


def rnn_backward(
    gates: np.ndarray,
    h: np.ndarray,
    weight_hh: np.ndarray,
    dy: np.ndarray | None,
    dh_n: np.ndarray,
    rectify: bool,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Backpropagation through time; returns dh_0 and dweight_hh.

    Args:
        gates: [S, H] room for the gradients of the pre-activations, which it holds afterwards.
        dy: [S, H] gradient of every step's output, or None.
        dh_n: [N, H] gradient of the final states; overwritten.
    """
    rows, batch, size = gates.shape[0], steps.batch, h.shape[1]
    panels = tile.pack(weight_hh, False)
    if dy is None:
        dy = np.empty((0, size), gates.dtype)
    threads.run(
        _step_rows_back, float(rows) * size * (size + 8), batch, steps.loads, gates.reshape(rows, 1, size), panels,
        rectify, steps.starts, steps.reverse, h, dy, dh_n,
    )  # fmt: skip
    return dh_n, product(gates, h, transpose_a=True, rows=steps.previous)
