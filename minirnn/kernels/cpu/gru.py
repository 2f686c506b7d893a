"""GRU over a whole packed sequence, forward and back; rows are shared as in the LSTM's file.

The gate n needs its recurrent part by itself, ``h_n = h_prev W_hn^T + b_hn``, since r multiplies it; it is
kept for every step, and its gradient takes its place on the way back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.cpu.matrix import product
from minirnn.kernels.cpu.walk import add_rows, own_places, own_rows, pick_rows
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import gru_dn, gru_h, gru_n, sigmoid, sigmoid_gate_grad
from minirnn.kernels.steps import Steps
from minirnn.kernels.tile import multiply_add


@jit
def step_rows(
    share: int, shares: int, loads: Any, gates: Any, table: Any, tokens: Any, panels_rz: Any, panels_n: Any,
    bias_n: Any, starts: Any, reverse: bool, h: Any, state: Any, product_n: Any,
) -> None:  # fmt: skip
    """All steps forward for this share of the rows."""
    batch, size = state.shape
    panel_columns = panels_rz.shape[2]
    first, last = own_places(loads, share, shares)
    for step in range(starts.size - 1):
        start, stop = own_rows(starts, step, reverse, first, last)
        if stop <= first:
            continue
        pick_rows(gates, table, tokens, start, first, stop)
        for r in range(first, stop):
            for j in range(size):
                product_n[start + r, j] = bias_n[j]
        multiply_add(
            state, first * size, size, 1, stop - first, panels_rz, 0, size * panel_columns, size,
            gates, (start + first) * 3 * size, 3 * size, 2 * size,
        )  # fmt: skip
        multiply_add(
            state, first * size, size, 1, stop - first, panels_n, 0, size * panel_columns, size,
            product_n, (start + first) * size, size, size,
        )  # fmt: skip
        for r in range(first, stop):
            s = start + r
            for j in range(size):
                gates[s, 0, j] = sigmoid(gates[s, 0, j])
            for j in range(size):
                gates[s, 1, j] = sigmoid(gates[s, 1, j])
            for j in range(size):
                gates[s, 2, j] = gru_n(gates[s, 2, j], gates[s, 0, j], product_n[s, j])
            for j in range(size):
                state[r, j] = gru_h(gates[s, 1, j], gates[s, 2, j], state[r, j])
            for j in range(size):
                h[batch + s, j] = state[r, j]


@jit
def _step_rows_back(
    share: int, shares: int, loads: Any, gates: Any, product_n: Any, panels_rz: Any, panels_n: Any, starts: Any,
    previous: Any, reverse: bool, h: Any, dy: Any, dh: Any,
) -> None:  # fmt: skip
    """All steps back for this share of the rows."""
    size = dh.shape[1]
    panel_columns = panels_rz.shape[2]
    first, last = own_places(loads, share, shares)
    for step in range(starts.size - 1):
        start, stop = own_rows(starts, step, not reverse, first, last)
        if stop <= first:
            continue
        add_rows(dh, dy, start, first, stop)
        for r in range(first, stop):
            s = start + r
            p = previous[s]
            for j in range(size):
                z, n = gates[s, 1, j], gates[s, 2, j]
                gates[s, 2, j] = gru_dn(dh[r, j], z, n)
                gates[s, 1, j] = sigmoid_gate_grad(dh[r, j], h[p, j] - n, z)
                dh[r, j] = dh[r, j] * z
            for j in range(size):
                reset, dn = gates[s, 0, j], gates[s, 2, j]
                gates[s, 0, j] = sigmoid_gate_grad(dn, product_n[s, j], reset)
                product_n[s, j] = dn * reset
        multiply_add(
            gates, (start + first) * 3 * size, 3 * size, 1, stop - first, panels_rz, 0, 2 * size * panel_columns,
            2 * size, dh, first * size, size, size,
        )  # fmt: skip
        multiply_add(
            product_n, (start + first) * size, size, 1, stop - first, panels_n, 0, size * panel_columns,
            size, dh, first * size, size, size,
        )  # fmt: skip


def gru_forward(
    gates: np.ndarray,
    table: np.ndarray | None,
    tokens: np.ndarray | None,
    weight_hh: np.ndarray,
    bias_n: np.ndarray,
    h_0: np.ndarray,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the layer; returns h [N + S, H], initial states first, and h_n [S, H], the product of gate n.

    Args:
        gates: [S, 3H] pre-activations (order r, z, n) but for the recurrent products and ``bias_n``;
            overwritten by the activations.
        table, tokens: instead of a filled ``gates``, the input part of token v is ``table[v]`` [V, 3H].
        weight_hh: [3H, H].
        bias_n: [H], inside the reset product.
        h_0: [N, H] in the steps' sorted order.
    """
    rows, batch, size = gates.shape[0], steps.batch, h_0.shape[1]
    dtype = gates.dtype
    h = memory.empty((batch + rows, size), dtype)
    h[:batch] = h_0
    state = h_0.copy()
    product_n = memory.empty((rows, size), dtype)
    panels_rz = tile.pack(weight_hh[: 2 * size], True)
    panels_n = tile.pack(weight_hh[2 * size :], True)
    if table is None or tokens is None:
        table, tokens = np.empty((0, 3, size), dtype), np.empty(0, np.int64)
    threads.run(
        step_rows, float(rows) * 3 * size * (size + 8), batch, steps.loads, gates.reshape(rows, 3, size),
        table.reshape(-1, 3, size), tokens, panels_rz, panels_n, bias_n, steps.starts, steps.reverse,
        h, state, product_n,
    )  # fmt: skip
    return h, product_n


def gru_backward(
    gates: np.ndarray,
    product_n: np.ndarray,
    h: np.ndarray,
    weight_hh: np.ndarray,
    dy: np.ndarray | None,
    dh_n: np.ndarray,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Backpropagation through time; returns dh_0 and dweight_hh.

    Args:
        gates: [S, 3H] activations; overwritten by the gradients of the pre-activations.
        product_n: [S, H] from :func:`gru_forward`; overwritten by its gradient (its sum is dbias_n).
        dy: [S, H] gradient of every step's output, or None.
        dh_n: [N, H] gradient of the final states; overwritten.
    """
    rows, batch, size = gates.shape[0], steps.batch, h.shape[1]
    panels_rz = tile.pack(weight_hh[: 2 * size], False)
    panels_n = tile.pack(weight_hh[2 * size :], False)
    if dy is None:
        dy = np.empty((0, size), gates.dtype)
    threads.run(
        _step_rows_back, float(rows) * 3 * size * (size + 8), batch, steps.loads, gates.reshape(rows, 3, size),
        product_n, panels_rz, panels_n, steps.starts, steps.previous, steps.reverse, h, dy, dh_n,
    )  # fmt: skip
    dweight_hh = np.empty_like(weight_hh)
    product(gates, h, out=dweight_hh[: 2 * size], transpose_a=True, rows=steps.previous)
    product(product_n, h, out=dweight_hh[2 * size :], transpose_a=True, rows=steps.previous)
    return dh_n, dweight_hh
