"""Recurrent cells, one step each, in primitive operations: the readable path.

The layers of :mod:`minirnn.nn.recurrent` compute the same numbers with the same parameters by fused kernels;
tests hold the two against each other. Shapes: x [N, I], states [N, H]; also [I] and [H] for one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn import cells, kernels
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn import init
from minirnn.nn.layers import positive
from minirnn.nn.module import Module, Parameter

State = Any
"""A tensor, or a tuple of tensors."""


def unpack_state(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state; none where it is None."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


def pack_state(members: Sequence[Tensor]) -> State:
    """The state with these tensors: None, one tensor or a tuple."""
    return tuple(members) if len(members) > 1 else members[0] if members else None


def check_lengths(kind: str, lengths: Any, length: int, batch: int) -> np.ndarray:
    """``lengths`` as [batch] integers, each from 0 to ``length``; all ``length`` where None."""
    if lengths is None:
        return np.full(batch, length)
    counts = ops.as_index(f"{kind} lengths", lengths)
    if counts.shape != (batch,):
        raise ShapeError(f"{kind}: expected a length for each of {batch} sequences, got {list(counts.shape)}")
    if counts.size and (counts.min() < 0 or counts.max() > length):
        raise OptionError(f"{kind}: lengths must be from 0 to {length}, got {counts.min()} to {counts.max()}")
    return counts


class Cell(Module):
    """What :class:`~minirnn.nn.Recurrent` unrolls: a step, and a state to begin with."""

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, for ``batch_size`` sequences."""
        raise OptionError(f"{type(self).__name__} must define initial_state(batch_size)")


class RecurrentCell(Cell):
    """One step of any cell in primitive operations: weight_ih [G H, I], weight_hh [R H, H], biases, learnt vectors.

    Args:
        cell: a name of :func:`minirnn.cells.names`, or what :func:`minirnn.cell` made.
        input_size, hidden_size: I and H.
        bias: with biases bias_ih [G H] and bias_hh [R H].

    Parameters have the names of :class:`~minirnn.nn.Recurrent` without the number of a layer, and start like its own.

    >>> import minirnn as mr
    >>> step = mr.nn.RecurrentCell("peephole_lstm", 3, 5)
    >>> h, c = step(mr.zeros(2, 3))
    >>> h.shape
    (2, 5)
    """

    def __init__(
        self, cell: str | cells.Cell, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32"
    ) -> None:
        self.cell = cells.get(cell)
        self.input_size = positive(f"{self._kind}: input_size", input_size)
        self.hidden_size = positive(f"{self._kind}: hidden_size", hidden_size)
        bound, size = 1 / math.sqrt(hidden_size), hidden_size
        rows, recurrent = len(self.cell.input_gates) * size, len(self.cell.recurrent_gates) * size
        self.weight_ih = init.uniform((rows, input_size), bound, dtype)
        self.weight_hh = init.uniform((recurrent, size), bound, dtype) if recurrent else None
        self.bias_ih: Parameter | None = init.uniform((rows,), bound, dtype) if bias else None
        self.bias_hh: Parameter | None = init.uniform((recurrent,), bound, dtype) if bias and recurrent else None
        for number in range(self.cell.equations.products):
            setattr(self, f"weight_product{number}", init.uniform((size, size), bound, dtype))
        for name, value in self.cell.vectors.items():
            if hasattr(self, name):
                raise OptionError(
                    f"{self._kind}: rename the vector {name} of {self.cell.name}; every module has a .{name}"
                )
            setattr(self, name, init.constant((size,), value, dtype))

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def initial_state(self, batch_size: int) -> State:
        return self._zeros(batch_size)

    def _zeros(self, *batch: int) -> State:
        device, shape = self.weight_ih.device, (*batch, self.hidden_size)
        zeros = [Tensor(kernels.on(device).zeros(shape, self.weight_ih.dtype), device=device) for _ in self.cell.states]
        return pack_state(zeros)

    def forward(self, x: Any, state: State = None) -> State:
        """The state after x [N, I] (or [I]), a tensor [N, H] or a tuple of them; zeros before it where None."""
        x, cell, size = ops.as_tensor(x, self.weight_ih), self.cell, self.hidden_size
        members = unpack_state(self._zeros(*x.shape[:-1]) if state is None else state)
        if len(members) != len(cell.states):
            expected = f"a pair ({', '.join(cell.states)})" if len(cell.states) == 2 else f"({', '.join(cell.states)})"
            raise ShapeError(f"{self._kind}: expected {expected} as state")
        members = tuple(ops.as_tensor(member, self.weight_ih) for member in members)
        fits = x.ndim in (1, 2) and x.shape[-1] == self.input_size
        if not fits or any(member.shape != (*x.shape[:-1], size) for member in members):
            states = ", ".join(f"{name} {list(m.shape)}" for name, m in zip(cell.states, members, strict=True))
            raise ShapeError(
                f"{self._kind}: expected x [N, {self.input_size}] and states [N, {size}], got {list(x.shape)} and "
                f"{states}"
            )
        values = dict(zip(cell.input_gates, self._parts(x, self.weight_ih, self.bias_ih), strict=True))
        if self.weight_hh is not None:
            parts = self._parts(members[0], self.weight_hh, self.bias_hh)
            for gate, part in zip(cell.recurrent_gates, parts, strict=True):
                values[gate] = values[gate] + part if gate in values else part
        weights = [getattr(self, f"weight_product{number}") for number in range(cell.equations.products)]
        vectors = {name: getattr(self, name) for name in cell.vectors}
        return cell(*(values[gate] for gate in cell.gates), *members, weights=weights, **vectors)

    def _parts(self, x: Tensor, weight: Parameter, bias: Parameter | None) -> tuple[Tensor, ...]:
        return ops.linear(x, weight, bias).chunk(weight.shape[0] // self.hidden_size, dim=-1)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        return shown if type(self) is not RecurrentCell else f"{self.cell!r}, {shown}"


class RNNCell(RecurrentCell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu (Elman 1990)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
        dtype: DType = "float32",
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__("rnn" if nonlinearity == "tanh" else "rnn_relu", input_size, hidden_size, bias, dtype)
        self.nonlinearity = nonlinearity


class LSTMCell(RecurrentCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi), f and o alike, g = tanh(W_ig x + b_ig + W_hg h + b_hg),
    c' = f c + i g, h' = o tanh(c'). Gates lie in the weights in the order i, f, g, o.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32") -> None:
        super().__init__("lstm", input_size, hidden_size, bias, dtype)


class GRUCell(RecurrentCell):
    """Gated recurrent unit (Cho et al. 2014), its reset gate after the product as in cuDNN.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z alike, n = tanh(W_in x + b_in + r (W_hn h + b_hn)),
    h' = (1 - z) n + z h. Gates lie in the weights in the order r, z, n.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32") -> None:
        super().__init__("gru", input_size, hidden_size, bias, dtype)
