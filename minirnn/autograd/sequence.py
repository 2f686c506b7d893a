"""A whole recurrent layer as one operation, with hand-derived backpropagation through time.

Each operation here takes the *input part* of the gates' pre-activations, x W_ih^T + b for all steps at once,
either as rows (``linear`` made them; they are used up as workspace) or as a table with one row a token. The
second form is exact and cheaper when there are fewer tokens than rows: V rows are projected instead of S,
and on the way back the gradients are summed by token first.

Rows are packed as :mod:`minirnn.kernels.steps` says; S packed rows, N sequences in sorted order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor, record_many
from minirnn.kernels.steps import Steps


@dataclass(frozen=True)
class GateInput:
    """The input part of a layer's pre-activations, [S, G H].

    Attributes:
        values: [S, G H], owned by whoever takes it; or, with ``tokens``, a table [V, G H].
        tokens: [S] int64 row of the table for each packed row.
    """

    values: Tensor
    tokens: np.ndarray | None = None

    def buffer(self, K: Any, rows: int) -> Any:
        """The array the kernel fills with activations."""
        return self.values.data if self.tokens is None else K.empty((rows, self.values.shape[1]), self.values.dtype)

    @property
    def table(self) -> Any:
        return None if self.tokens is None else self.values.data

    def gradient(self, K: Any, gates: Any) -> Any:
        """The gradient of ``values`` from that of every row."""
        return gates if self.tokens is None else K.add_rows_at(gates, self.tokens, self.values.shape[0])


def _final(K: Any, states: Any, steps: Steps) -> Any:
    if steps.order is None and steps.batch:  # neighbouring rows
        first = int(steps.final[0])
        return states[first : first + steps.batch].copy()
    return K.take_rows(states, steps.final)


def _gradient(K: Any, g: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of its own for a final state's gradient, which the kernel overwrites."""
    return K.zeros(shape, dtype) if g is None else g.copy()


def _contiguous(K: Any, g: Any) -> Any:
    return None if g is None else K.contiguous(g)


def rnn_sequence(
    gate_input: GateInput, weight_hh: Tensor, h_0: Tensor, rectify: bool, steps: Steps
) -> tuple[Tensor, Tensor]:
    """h_t = tanh(x_t + W_hh h_{t-1}), or relu; returns y [S, H] and h_n [N, H]."""
    K = kernels.on(weight_hh.device)
    gates = gate_input.buffer(K, steps.rows)
    h = K.rnn_forward(
        gates, gate_input.table, gate_input.tokens, weight_hh.data, K.contiguous(h_0.data), rectify, steps
    )

    def gradients(dy: Any, dh_n: Any) -> tuple[Any, ...]:
        dh = _gradient(K, dh_n, h_0.shape, h.dtype)
        dh_0, dweight = K.rnn_backward(gates, h, weight_hh.data, _contiguous(K, dy), dh, rectify, steps)
        return gate_input.gradient(K, gates), dweight, dh_0

    inputs = (gate_input.values, weight_hh, h_0)
    y, h_n = record_many("rnn", inputs, (h[steps.batch :], _final(K, h, steps)), gradients)
    return y, h_n


def lstm_sequence(
    gate_input: GateInput, weight_hh: Tensor, weight_hr: Tensor | None, h_0: Tensor, c_0: Tensor, steps: Steps
) -> tuple[Tensor, Tensor, Tensor]:
    """i, f, g, o = x_t + W_hh h_{t-1}; c = f c + i g; h = o tanh(c), times W_hr where there is one.

    Returns y [S, P], h_n [N, P] and c_n [N, H] (P = H without ``weight_hr``).
    """
    K = kernels.on(weight_hh.device)
    gates = gate_input.buffer(K, steps.rows)
    w_hr = None if weight_hr is None else weight_hr.data
    h, c = K.lstm_forward(
        gates, gate_input.table, gate_input.tokens, weight_hh.data, w_hr, K.contiguous(h_0.data),
        K.contiguous(c_0.data), steps,
    )  # fmt: skip

    def gradients(dy: Any, dh_n: Any, dc_n: Any) -> tuple[Any, ...]:
        dh, dc = _gradient(K, dh_n, h_0.shape, h.dtype), _gradient(K, dc_n, c_0.shape, h.dtype)
        dh_0, dc_0, dweight, dweight_hr = K.lstm_backward(
            gates, h, c, weight_hh.data, w_hr, _contiguous(K, dy), dh, dc, steps
        )
        return gate_input.gradient(K, gates), dweight, dweight_hr, dh_0, dc_0

    inputs = (gate_input.values, weight_hh, weight_hr, h_0, c_0)
    outputs = (h[steps.batch :], _final(K, h, steps), _final(K, c, steps))
    y, h_n, c_n = record_many("lstm", inputs, outputs, gradients)
    return y, h_n, c_n


def gru_sequence(
    gate_input: GateInput, weight_hh: Tensor, bias_n: Tensor, h_0: Tensor, steps: Steps
) -> tuple[Tensor, Tensor]:
    """r, z = x_t + W_hh h; n = tanh(x_t + r (W_hn h + b_hn)); h = (1 - z) n + z h.

    Returns y [S, H] and h_n [N, H].
    """
    K = kernels.on(weight_hh.device)
    gates = gate_input.buffer(K, steps.rows)
    h, product_n = K.gru_forward(
        gates, gate_input.table, gate_input.tokens, weight_hh.data, bias_n.data, K.contiguous(h_0.data), steps
    )

    def gradients(dy: Any, dh_n: Any) -> tuple[Any, ...]:
        dh = _gradient(K, dh_n, h_0.shape, h.dtype)
        dh_0, dweight = K.gru_backward(gates, product_n, h, weight_hh.data, _contiguous(K, dy), dh, steps)
        return gate_input.gradient(K, gates), dweight, K.column_sums(product_n), dh_0

    inputs = (gate_input.values, weight_hh, bias_n, h_0)
    y, h_n = record_many("gru", inputs, (h[steps.batch :], _final(K, h, steps)), gradients)
    return y, h_n
