"""A recurrent layer over a whole sequence as one operation, with backpropagation through time.

It takes the *input part* of the gates' pre-activations, x W_ih^T + b of all steps at once, either as rows (which it
overwrites) or as a table with one row per token. The second form is exact too, and cheaper when there are fewer tokens
than rows: only V rows are projected instead of S, and in the backward pass the gradients are summed by token first.

Rows are packed as :mod:`minirnn.kernels.steps` describes: S packed rows of N sequences, sorted by length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minirnn import kernels
from minirnn.autograd.tape import record, record_many
from minirnn.autograd.tensor import Tensor
from minirnn.kernels.contract import Array, Kernels, Noise, RecurrentWeights
from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import Steps


@dataclass(frozen=True)
class GateInput:
    """The input part of a layer's pre-activations, [S, G H].

    ``values`` is [S, G H], overwritten by the layer; or, with ``tokens`` [S] int64, a table [V, G H] of rows.
    """

    values: Tensor
    tokens: Array | None = None

    def buffer(self, K: Kernels, rows: int) -> Array:
        """The array that the kernel fills with activations."""
        return self.values.data if self.tokens is None else K.empty((rows, self.values.shape[1]), self.values.dtype)

    @property
    def table(self) -> Array | None:
        return None if self.tokens is None else self.values.data

    def gradient(self, K: Kernels, gates: Array) -> Array:
        """The gradient of ``values`` from that of every row."""
        return gates if self.tokens is None else K.scatter_add_rows(gates, self.tokens, self.values.shape[0])


def split_biases(equations: Equations, bias_ih: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor | None]:
    """Add the biases up as the kernels take them.

    Returns [G H], what is added to the input part: bias_ih, and bias_hh of the gates whose parts are added up; and
    [K, H], bias_hh of the K gates whose recurrent part is stored separately, None where there are none.
    """
    K, size, runs = kernels.on(bias_ih.device), bias_ih.shape[0] // len(equations.input_gates), equations.runs
    if len(runs) == 1 and runs[0].count == len(equations.input_gates) and not equations.separate_gates:
        return record("biases", (bias_ih, bias_hh), K.add(bias_ih.data, bias_hh.data), lambda g: (g, g)), None
    joined, separate, slices = bias_ih.data.copy(), [], []
    for run in runs:
        source = slice(run.first * size, (run.first + run.count) * size)
        target = slice(run.index * size, (run.index + run.count) * size)
        slices.append((source, target, run.array == "gates"))
        if run.array == "gates":
            joined[target] = joined[target] + bias_hh.data[source]
        else:
            separate.append(bias_hh.data[source])

    def gradients(d_joined: Array, d_separate: Array | None = None) -> tuple[Array, Array]:
        d_hh = K.zeros(bias_hh.shape, bias_hh.dtype)
        for source, target, in_gates in slices:
            d = d_joined if in_gates else d_separate
            if d is not None:
                d_hh[source] = d[target]
        return d_joined, d_hh

    if not separate:
        return record("biases", (bias_ih, bias_hh), joined, gradients), None
    both = (joined, K.concatenate(separate, 0) if len(separate) > 1 else separate[0].copy())
    first, second = record_many("biases", (bias_ih, bias_hh), both, gradients)
    return first, second


def recurrent_sequence(
    equations: Equations,
    gate_input: GateInput,
    weights: RecurrentWeights[Tensor],
    states: Sequence[Tensor],
    steps: Steps,
    noise: Noise[Array],
) -> tuple[Tensor, ...]:
    """Any cell over a whole sequence.

    Args:
        equations, weights: of the cell, resolved for training or evaluation; of the layer in one direction.
        gate_input, states: [S, G H]; the initial states [N, W], [N, H], ...
        steps, noise: the layout of the batch; rates and seed of what is random in training.

    Returns:
        y [S, W], then the final states [1, N, W], [1, N, H], ...
    """
    K, order = kernels.on(gate_input.values.device), steps.order
    gates = gate_input.buffer(K, steps.rows)
    arrays = weights.map(lambda tensor: tensor.data)
    initial = [K.contiguous(s.data) if order is None else K.take_rows(s.data, order) for s in states]
    run = K.Recurrence(equations, gates, gate_input.table, gate_input.tokens, arrays, initial, steps, noise)

    def final(history: Array) -> Array:
        """The final states of a history [N + S, W] in the order of the batch."""
        if order is None and steps.batch:  # neighbouring rows
            first = int(steps.final[0])
            rows = history[first : first + steps.batch].copy()
        else:
            rows = K.take_rows(history, steps.final[steps.positions])
        return rows.reshape(1, *rows.shape)

    def gradients(dy: Array | None, *d_finals: Array | None) -> tuple[Array | None, ...]:
        d_states = []  # new arrays, which the kernel overwrites
        for d_final, state in zip(d_finals, initial, strict=True):
            if d_final is None:
                d_states.append(K.zeros(state.shape, gates.dtype))
            else:
                rows = d_final.reshape(state.shape)
                d_states.append(rows.copy() if order is None else K.take_rows(rows, order))
        out = None if weights.weight_hh is None else weights.weight_hh.grad_out()
        d_states, d = run.backward(None if dy is None else K.contiguous(dy), d_states, out)
        if order is not None:
            d_states = [K.take_rows(rows, steps.positions) for rows in d_states]
        return gate_input.gradient(K, gates), d.weight_hh, d.bias, d.vectors, d.weight_hr, *d.inner, *d_states

    w = weights
    inputs = (gate_input.values, w.weight_hh, w.bias, w.vectors, w.weight_hr, *w.inner, *states)
    outputs = (run.histories[0][steps.batch :], *map(final, run.histories))
    return record_many(equations.name, inputs, outputs, gradients)
