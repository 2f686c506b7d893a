"""A recurrent layer over a whole sequence as one operation, with backpropagation through time.

It takes the *input part* of the gates' pre-activations, x W_ih^T + b for all steps at once, either as rows (``linear``
made them; they are used up as workspace) or as a table with one row per token. The second form is exact and cheaper
when there are fewer tokens than rows: V rows are projected instead of S, and in backward the gradients are summed by
token first.

Rows are packed as :mod:`minirnn.kernels.steps` says: S packed rows, N sequences, sorted by length inside only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor, record, record_many
from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.equations import Equations
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
        return gates if self.tokens is None else K.scatter_add_rows(gates, self.tokens, self.values.shape[0])


def _final(K: Any, states: Any, steps: Steps) -> Any:
    """The final states of a history [N + S, W] in the order of the batch, [1, N, W]."""
    if steps.order is None and steps.batch:  # neighbouring rows
        first = int(steps.final[0])
        final = states[first : first + steps.batch].copy()
    else:
        final = K.take_rows(states, steps.final[steps.positions])
    return final.reshape(1, *final.shape)


def _reordered(K: Any, rows: Any, order: np.ndarray | None) -> Any:
    return K.contiguous(rows) if order is None else K.take_rows(rows, order)


def split_biases(equations: Equations, bias_ih: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor | None]:
    """What is added to the input part, bias_ih and most of bias_hh [G H], and the rest [K, H]: of parts kept apart."""
    K, size = kernels.on(bias_ih.device), bias_ih.shape[0] // len(equations.input_gates)
    joined, own, pieces = bias_ih.data, [], []
    runs = equations.runs
    if len(runs) == 1 and runs[0].count == len(equations.input_gates) and not equations.separate_gates:
        return record("biases", (bias_ih, bias_hh), K.add(joined, bias_hh.data), lambda g: (g, g)), None
    joined = joined.copy()
    for run in runs:
        source = slice(run.first * size, (run.first + run.count) * size)
        place = slice(run.index * size, (run.index + run.count) * size)
        pieces.append((source, place, run.array == "gates"))
        if run.array == "gates":
            joined[place] = joined[place] + bias_hh.data[source]
        else:
            own.append(bias_hh.data[source])

    def gradients(d_joined: Any, d_own: Any = None) -> tuple[Any, Any]:
        d_hh = K.zeros(bias_hh.shape, bias_hh.dtype)
        for source, place, in_gates in pieces:
            d = d_joined if in_gates else d_own
            if d is not None:
                d_hh[source] = d[place]
        return d_joined, d_hh

    outputs = (joined, *([K.concatenate(own, 0) if len(own) > 1 else own[0].copy()] if own else ()))
    made = record_many("biases", (bias_ih, bias_hh), outputs, gradients)
    return made[0], made[1] if own else None


def recurrent_sequence(
    equations: Equations, gate_input: GateInput, weights: RecurrentWeights, states: Sequence[Tensor], steps: Steps,
    noise: Noise,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Any cell over a whole sequence: y [S, W], then the final states [1, N, W], [1, N, H], ...

    Args:
        equations: of the cell, resolved for training or evaluation.
        weights: tensors.
        states: the initial ones, [N, W], [N, H], ...
    """
    K = kernels.on(gate_input.values.device)
    gates = gate_input.buffer(K, steps.rows)
    arrays = weights.map(lambda tensor: tensor.data)
    initial = [_reordered(K, state.data, steps.order) for state in states]
    run = K.Recurrence(equations, gates, gate_input.table, gate_input.tokens, arrays, initial, steps, noise)

    def gradients(dy: Any, *d_finals: Any) -> tuple[Any, ...]:
        d_states = []  # arrays of their own, which the kernel overwrites
        for d_final, state in zip(d_finals, initial, strict=True):
            if d_final is None:
                d_states.append(K.zeros(state.shape, gates.dtype))
            else:
                rows = d_final.reshape(state.shape)
                d_states.append(rows.copy() if steps.order is None else K.take_rows(rows, steps.order))
        d_states, d = run.backward(None if dy is None else K.contiguous(dy), d_states)
        if steps.order is not None:
            d_states = [K.take_rows(rows, steps.positions) for rows in d_states]
        return gate_input.gradient(K, gates), d.weight_hh, d.bias, d.vectors, d.weight_hr, *d.inner, *d_states

    inputs = (
        gate_input.values, weights.weight_hh, weights.bias, weights.vectors, weights.weight_hr, *weights.inner, *states
    )  # fmt: skip
    outputs = (run.histories[0][steps.batch :], *(_final(K, history, steps) for history in run.histories))
    return record_many(equations.name, inputs, outputs, gradients)
