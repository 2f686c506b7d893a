"""LSTM over a whole packed sequence, forward and back. Gates are i, f, g, o."""

from __future__ import annotations

from typing import Any

from minirnn.kernels.cuda import walk
from minirnn.kernels.cuda.device import DeviceArray, empty
from minirnn.kernels.cuda.jit import device_function
from minirnn.kernels.cuda.matrix import product
from minirnn.kernels.pointwise import lstm_c, lstm_dc, lstm_h, sigmoid, sigmoid_gate_grad, tanh, tanh_gate_grad
from minirnn.kernels.steps import Steps


@device_function
def cell(x: Any, u: Any, bias_n: Any, gates: Any, c: Any, h: Any, s: int, p: int, n: int, j: int) -> Any:
    """c = f c_prev + i g, h = o tanh(c)."""
    i, f = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
    g, o = tanh(x[2] + u[2]), sigmoid(x[3] + u[3])
    gates[s, 0, j], gates[s, 1, j], gates[s, 2, j], gates[s, 3, j] = i, f, g, o
    c_new = lstm_c(i, f, g, c[p, j])
    c[n, j] = c_new
    return lstm_h(o, c_new)


@device_function
def _back(dh: Any, fed: Any, gates: Any, c: Any, dc: Any, h: Any, s: int, r: int, p: int, n: int, j: int) -> Any:
    i, f, g, o = gates[s, 0, j], gates[s, 1, j], gates[s, 2, j], gates[s, 3, j]
    tanh_c = tanh(c[n, j])
    dc_new = lstm_dc(dh, o, tanh_c, dc[r, j])
    dc[r, j] = dc_new * f
    fed[0] = gates[s, 0, j] = sigmoid_gate_grad(dc_new, g, i)
    fed[1] = gates[s, 1, j] = sigmoid_gate_grad(dc_new, c[p, j], f)
    fed[2] = gates[s, 2, j] = tanh_gate_grad(dc_new, i, g)
    fed[3] = gates[s, 3, j] = sigmoid_gate_grad(dh, tanh_c, o)
    return 0


def lstm_forward(
    gates: DeviceArray,
    table: DeviceArray | None,
    tokens: DeviceArray | None,
    weight_hh: DeviceArray,
    weight_hr: DeviceArray | None,
    h_0: DeviceArray,
    c_0: DeviceArray,
    steps: Steps,
) -> tuple[DeviceArray, DeviceArray]:
    """As :func:`minirnn.kernels.cpu.lstm.lstm_forward`: h [N + S, P] and c [N + S, H], initial states first."""
    c = walk.with_initial(c_0, gates.shape[0])
    return walk.forward(cell, gates, table, tokens, weight_hh, weight_hr, None, h_0, c, steps), c


def lstm_backward(
    gates: DeviceArray,
    h: DeviceArray,
    c: DeviceArray,
    weight_hh: DeviceArray,
    weight_hr: DeviceArray | None,
    dy: DeviceArray | None,
    dh_n: DeviceArray,
    dc_n: DeviceArray,
    steps: Steps,
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray | None]:
    """As :func:`minirnn.kernels.cpu.lstm.lstm_backward`: dh_0, dc_0, dweight_hh and dweight_hr."""
    projection = None
    if weight_hr is not None:
        rows, (width, size) = gates.shape[0], weight_hr.shape
        projection = weight_hr, empty((rows, width), h.dtype), empty((rows, size), h.dtype)
    walk.backward(_back, gates, weight_hh, projection, h, c, dy, dh_n, dc_n, steps)
    dweight_hh = product(gates, h, transpose_a=True, rows=walk.layout(steps)[1])
    dweight_hr = None if projection is None else product(projection[1], projection[2], transpose_a=True)
    return dh_n, dc_n, dweight_hh, dweight_hr
