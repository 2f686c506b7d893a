"""Plain (Elman) RNN over a whole packed sequence, forward and back."""

from __future__ import annotations

from typing import Any

from minirnn.kernels.cuda import walk
from minirnn.kernels.cuda.device import DeviceArray
from minirnn.kernels.cuda.jit import device_function
from minirnn.kernels.cuda.matrix import product
from minirnn.kernels.pointwise import relu, relu_grad, tanh, tanh_grad
from minirnn.kernels.steps import Steps


@device_function
def tanh_cell(x: Any, u: Any, bias_n: Any, gates: Any, extra: Any, h: Any, s: int, p: int, n: int, j: int) -> Any:
    """h = tanh(x + u)."""
    return tanh(x[0] + u[0])


@device_function
def _relu_cell(x: Any, u: Any, bias_n: Any, gates: Any, extra: Any, h: Any, s: int, p: int, n: int, j: int) -> Any:
    """h = relu(x + u)."""
    return relu(x[0] + u[0])


@device_function
def _tanh_back(
    dh: Any, fed: Any, gates: Any, extra: Any, dc: Any, h: Any, s: int, r: int, p: int, n: int, j: int
) -> Any:
    fed[0] = gates[s, 0, j] = dh * tanh_grad(h[n, j])
    return 0


@device_function
def _relu_back(
    dh: Any, fed: Any, gates: Any, extra: Any, dc: Any, h: Any, s: int, r: int, p: int, n: int, j: int
) -> Any:
    fed[0] = gates[s, 0, j] = dh * relu_grad(h[n, j])
    return 0


def rnn_forward(
    gates: DeviceArray,
    table: DeviceArray | None,
    tokens: DeviceArray | None,
    weight_hh: DeviceArray,
    h_0: DeviceArray,
    rectify: bool,
    steps: Steps,
) -> DeviceArray:
    """As :func:`minirnn.kernels.cpu.rnn.rnn_forward`: h [N + S, H], initial states first."""
    cell = _relu_cell if rectify else tanh_cell
    return walk.forward(cell, gates, table, tokens, weight_hh, None, None, h_0, None, steps)


def rnn_backward(
    gates: DeviceArray,
    h: DeviceArray,
    weight_hh: DeviceArray,
    dy: DeviceArray | None,
    dh_n: DeviceArray,
    rectify: bool,
    steps: Steps,
) -> tuple[DeviceArray, DeviceArray]:
    """As :func:`minirnn.kernels.cpu.rnn.rnn_backward`: dh_0 and dweight_hh."""
    walk.backward(_relu_back if rectify else _tanh_back, gates, weight_hh, None, h, None, dy, dh_n, None, steps)
    return dh_n, product(gates, h, transpose_a=True, rows=walk.layout(steps)[1])
