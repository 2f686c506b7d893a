"""GRU over a whole packed sequence, forward and back. Gates are r, z, n.

The recurrent part of gate n is kept for every step, since r multiplies it; its gradient takes its place.
"""

from __future__ import annotations

from typing import Any

from minirnn.kernels.cuda import walk
from minirnn.kernels.cuda.device import DeviceArray, empty
from minirnn.kernels.cuda.jit import device_function
from minirnn.kernels.cuda.matrix import product
from minirnn.kernels.pointwise import gru_dn, gru_h, gru_n, sigmoid, sigmoid_gate_grad
from minirnn.kernels.steps import Steps


@device_function
def cell(x: Any, u: Any, bias_n: Any, gates: Any, product_n: Any, h: Any, s: int, p: int, n: int, j: int) -> Any:
    """h = (1 - z) n + z h_prev, n = tanh(x_n + r h_n)."""
    reset, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
    h_n = u[2] + bias_n[j]
    new = gru_n(x[2], reset, h_n)
    gates[s, 0, j], gates[s, 1, j], gates[s, 2, j] = reset, z, new
    product_n[s, j] = h_n
    return gru_h(z, new, h[p, j])


@device_function
def _back(
    dh: Any, fed: Any, gates: Any, product_n: Any, dc: Any, h: Any, s: int, r: int, p: int, n: int, j: int
) -> Any:
    reset, z, new = gates[s, 0, j], gates[s, 1, j], gates[s, 2, j]
    dn = gru_dn(dh, z, new)
    fed[0] = gates[s, 0, j] = sigmoid_gate_grad(dn, product_n[s, j], reset)
    fed[1] = gates[s, 1, j] = sigmoid_gate_grad(dh, h[p, j] - new, z)
    fed[2] = product_n[s, j] = dn * reset
    gates[s, 2, j] = dn
    return dh * z


def gru_forward(
    gates: DeviceArray,
    table: DeviceArray | None,
    tokens: DeviceArray | None,
    weight_hh: DeviceArray,
    bias_n: DeviceArray,
    h_0: DeviceArray,
    steps: Steps,
) -> tuple[DeviceArray, DeviceArray]:
    """As :func:`minirnn.kernels.cpu.gru.gru_forward`: h [N + S, H], initial states first, and h_n [S, H]."""
    product_n = empty((gates.shape[0], h_0.shape[1]), gates.dtype)
    return walk.forward(cell, gates, table, tokens, weight_hh, None, bias_n, h_0, product_n, steps), product_n


def gru_backward(
    gates: DeviceArray,
    product_n: DeviceArray,
    h: DeviceArray,
    weight_hh: DeviceArray,
    dy: DeviceArray | None,
    dh_n: DeviceArray,
    steps: Steps,
) -> tuple[DeviceArray, DeviceArray]:
    """As :func:`minirnn.kernels.cpu.gru.gru_backward`: dh_0 and dweight_hh."""
    walk.backward(_back, gates, weight_hh, None, h, product_n, dy, dh_n, None, steps)
    size, previous = h.shape[1], walk.layout(steps)[1]
    dweight_hh = empty(weight_hh.shape, h.dtype)
    product(gates, h, out=dweight_hh[: 2 * size], transpose_a=True, rows=previous)
    product(product_n, h, out=dweight_hh[2 * size :], transpose_a=True, rows=previous)
    return dh_n, dweight_hh
