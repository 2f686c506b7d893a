"""LSTM over a whole packed sequence, forward and back.

A share owns neighbouring sequences, the same at every step; a row's numbers do not depend on who computes it.
Shapes: S packed rows, N sequences, H hidden, P projected (P = H without projection).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.cpu.matrix import product
from minirnn.kernels.cpu.walk import add_rows, own_places, own_rows, pick_rows
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import (
    lstm_c,
    lstm_dc,
    lstm_h,
    sigmoid,
    sigmoid_gate_grad,
    tanh,
    tanh_gate_grad,
)
from minirnn.kernels.steps import Steps
from minirnn.kernels.tile import multiply_add


@jit
def step_rows(
    share: int, shares: int, loads: Any, gates: Any, table: Any, tokens: Any, panels: Any, projection: Any,
    starts: Any, previous: Any, reverse: bool, h: Any, c: Any, state: Any, hidden: Any,
) -> None:  # fmt: skip
    """All steps forward for this share of the rows."""
    batch, width = state.shape
    size = c.shape[1]
    depth, panel_columns = panels.shape[1], panels.shape[2]
    first, last = own_places(loads, share, shares)
    for step in range(starts.size - 1):
        start, stop = own_rows(starts, step, reverse, first, last)
        if stop <= first:
            continue
        pick_rows(gates, table, tokens, start, first, stop)
        multiply_add(
            state, first * width, width, 1, stop - first, panels, 0, depth * panel_columns, width,
            gates, (start + first) * 4 * size, 4 * size, 4 * size,
        )  # fmt: skip
        for r in range(first, stop):
            s = start + r
            p, n = previous[s], batch + s
            for j in range(size):
                gates[s, 0, j] = sigmoid(gates[s, 0, j])
            for j in range(size):
                gates[s, 1, j] = sigmoid(gates[s, 1, j])
            for j in range(size):
                gates[s, 2, j] = tanh(gates[s, 2, j])
            for j in range(size):
                gates[s, 3, j] = sigmoid(gates[s, 3, j])
            for j in range(size):
                c[n, j] = lstm_c(gates[s, 0, j], gates[s, 1, j], gates[s, 2, j], c[p, j])
            for j in range(size):
                hidden[r, j] = lstm_h(gates[s, 3, j], c[n, j])
        if projection.size > 0:
            for r in range(first, stop):
                for j in range(width):
                    state[r, j] = 0
            multiply_add(
                hidden, first * size, size, 1, stop - first, projection, 0, size * panel_columns, size,
                state, first * width, width, width,
            )  # fmt: skip
        for r in range(first, stop):
            for j in range(width):
                h[batch + start + r, j] = state[r, j]


@jit
def _step_rows_back(
    share: int, shares: int, loads: Any, gates: Any, panels: Any, projection: Any, starts: Any, previous: Any,
    reverse: bool, c: Any, dy: Any, dh: Any, dc: Any, dhidden: Any, dprojected: Any, hidden: Any, scratch: Any,
) -> None:  # fmt: skip
    """All steps back for this share of the rows."""
    batch, width = dh.shape
    size = c.shape[1]
    depth, panel_columns = panels.shape[1], panels.shape[2]
    tanh_c = scratch[share]
    first, last = own_places(loads, share, shares)
    for step in range(starts.size - 1):
        start, stop = own_rows(starts, step, not reverse, first, last)
        if stop <= first:
            continue
        add_rows(dh, dy, start, first, stop)
        if projection.size > 0:
            for r in range(first, stop):
                for j in range(width):
                    dprojected[start + r, j] = dh[r, j]
                for j in range(size):
                    dhidden[r, j] = 0
            multiply_add(
                dh, first * width, width, 1, stop - first, projection, 0, width * panel_columns, width,
                dhidden, first * size, size, size,
            )  # fmt: skip
        for r in range(first, stop):
            s = start + r
            p, n = previous[s], batch + s
            for j in range(size):
                tanh_c[j] = tanh(c[n, j])
            if projection.size > 0:
                for j in range(size):
                    hidden[s, j] = gates[s, 3, j] * tanh_c[j]
            for j in range(size):
                dc[r, j] = lstm_dc(dhidden[r, j], gates[s, 3, j], tanh_c[j], dc[r, j])
            for j in range(size):
                gates[s, 3, j] = sigmoid_gate_grad(dhidden[r, j], tanh_c[j], gates[s, 3, j])
            for j in range(size):
                i, g = gates[s, 0, j], gates[s, 2, j]
                gates[s, 0, j] = sigmoid_gate_grad(dc[r, j], g, i)
                gates[s, 2, j] = tanh_gate_grad(dc[r, j], i, g)
            for j in range(size):
                f = gates[s, 1, j]
                gates[s, 1, j] = sigmoid_gate_grad(dc[r, j], c[p, j], f)
                dc[r, j] = dc[r, j] * f
        for r in range(first, stop):
            for j in range(width):
                dh[r, j] = 0
        multiply_add(
            gates, (start + first) * 4 * size, 4 * size, 1, stop - first, panels, 0, depth * panel_columns,
            4 * size, dh, first * width, width, width,
        )  # fmt: skip


def lstm_forward(
    gates: np.ndarray,
    table: np.ndarray | None,
    tokens: np.ndarray | None,
    weight_hh: np.ndarray,
    weight_hr: np.ndarray | None,
    h_0: np.ndarray,
    c_0: np.ndarray,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the layer; returns h [N + S, P] and c [N + S, H], initial states first.

    Args:
        gates: [S, 4H] input part of the pre-activations (order i, f, g, o); overwritten by the activations.
        table, tokens: instead of a filled ``gates``, the input part of token v is ``table[v]`` [V, 4H].
        weight_hh: [4H, P].
        weight_hr: [P, H] or None.
        h_0, c_0: [N, P], [N, H], in the steps' sorted order.
    """
    rows, batch = gates.shape[0], steps.batch
    size, width = c_0.shape[1], h_0.shape[1]
    dtype = gates.dtype
    h = memory.empty((batch + rows, width), dtype)
    c = memory.empty((batch + rows, size), dtype)
    h[:batch], c[:batch] = h_0, c_0
    state = h_0.copy()
    panels = tile.pack(weight_hh, True)
    projection = np.empty((0, 0, 0), dtype) if weight_hr is None else tile.pack(weight_hr, True)
    hidden = state if weight_hr is None else memory.empty((batch, size), dtype)
    if table is None or tokens is None:
        table, tokens = np.empty((0, 4, size), dtype), np.empty(0, np.int64)
    work = float(rows) * 4 * size * (width + 8)
    threads.run(
        step_rows, work, batch, steps.loads, gates.reshape(rows, 4, size), table.reshape(-1, 4, size), tokens, panels,
        projection, steps.starts, steps.previous, steps.reverse, h, c, state, hidden,
    )  # fmt: skip
    return h, c


def lstm_backward(
    gates: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    weight_hh: np.ndarray,
    weight_hr: np.ndarray | None,
    dy: np.ndarray | None,
    dh_n: np.ndarray,
    dc_n: np.ndarray,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Backpropagation through time; returns dh_0, dc_0, dweight_hh and dweight_hr.

    Args:
        gates: [S, 4H] activations; overwritten by the gradients of the pre-activations.
        h, c: what :func:`lstm_forward` returned.
        dy: [S, P] gradient of every step's output, or None.
        dh_n, dc_n: [N, P], [N, H] gradients of the final states; overwritten.
    """
    rows, batch = gates.shape[0], steps.batch
    size, width = c.shape[1], h.shape[1]
    dtype = gates.dtype
    panels = tile.pack(weight_hh, False)
    if weight_hr is None:
        projection, dhidden = np.empty((0, 0, 0), dtype), dh_n
        dprojected = hidden = np.empty((0, 0), dtype)
    else:
        projection, dhidden = tile.pack(weight_hr, False), memory.empty((batch, size), dtype)
        dprojected, hidden = memory.empty((rows, width), dtype), memory.empty((rows, size), dtype)
    if dy is None:
        dy = np.empty((0, width), dtype)
    scratch = np.empty((threads.get_num_threads(), size), dtype)
    work = float(rows) * 4 * size * (width + 8)
    threads.run(
        _step_rows_back, work, min(batch, len(scratch)), steps.loads, gates.reshape(rows, 4, size), panels,
        projection, steps.starts, steps.previous, steps.reverse, c, dy, dh_n, dc_n, dhidden, dprojected, hidden,
        scratch,
    )  # fmt: skip
    dweight_hh = product(gates, h, transpose_a=True, rows=steps.previous)
    dweight_hr = None if weight_hr is None else product(dprojected, hidden, transpose_a=True)
    return dh_n, dc_n, dweight_hh, dweight_hr
