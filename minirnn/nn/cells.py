"""Recurrent cells, one step each, in primitive operations: the readable path.

The layers of :mod:`minirnn.nn.recurrent` compute the same numbers with the same parameters by fused kernels;
tests hold the two against each other. Shapes: x [N, I], states [N, H]; also [I] and [H] for one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn import init
from minirnn.nn.layers import positive
from minirnn.nn.module import Module, Parameter

State = Any
"""A tensor, or a tuple of tensors."""


def members_of(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state; none where it is None."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


def state_of(members: Sequence[Tensor]) -> State:
    """The state with these tensors: None, one tensor or a tuple."""
    return tuple(members) if len(members) > 1 else members[0] if members else None


class Cell(Module):
    """What :class:`~minirnn.nn.recurrent.Recurrent` unrolls: a step, and a state to begin with."""

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, for ``batch_size`` sequences."""
        raise OptionError(f"{type(self).__name__} must define initial_state(batch_size)")


class _GatedCell(Cell):
    """Weights of G gates: weight_ih [G H, I], weight_hh [G H, H], biases [G H], all U(-1/sqrt(H), 1/sqrt(H))."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32") -> None:
        self.input_size = positive(f"{type(self).__name__}: input_size", input_size)
        self.hidden_size = positive(f"{type(self).__name__}: hidden_size", hidden_size)
        bound, rows = 1 / math.sqrt(hidden_size), self.gates * hidden_size
        self.weight_ih = init.uniform((rows, input_size), bound, dtype)
        self.weight_hh = init.uniform((rows, hidden_size), bound, dtype)
        self.bias_ih: Parameter | None = init.uniform((rows,), bound, dtype) if bias else None
        self.bias_hh: Parameter | None = init.uniform((rows,), bound, dtype) if bias else None

    def initial_state(self, batch_size: int) -> State:
        return self._zeros(batch_size)

    def _zeros(self, *batch: int) -> Tensor:
        device = self.weight_hh.device
        return Tensor(kernels.on(device).zeros((*batch, self.hidden_size), self.weight_hh.dtype), device=device)

    def _products(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x W_ih^T + b_ih and h W_hh^T + b_hh."""
        x, h = ops.as_tensor(x, self.weight_ih), ops.as_tensor(h, self.weight_hh)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size or h.shape != (*x.shape[:-1], self.hidden_size):
            raise ShapeError(
                f"{type(self).__name__}: wanted x [N, {self.input_size}] and a state [N, {self.hidden_size}], "
                f"got {list(x.shape)} and {list(h.shape)}"
            )
        return ops.linear(x, self.weight_ih, self.bias_ih), ops.linear(h, self.weight_hh, self.bias_hh)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_GatedCell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu (Elman 1990)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
        dtype: DType = "float32",
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        h = self._zeros(*x.shape[:-1]) if h is None else h
        x_part, h_part = self._products(x, h)
        total = x_part + h_part
        return total.tanh() if self.nonlinearity == "tanh" else total.relu()


class LSTMCell(_GatedCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi), f and o alike, g = tanh(W_ig x + b_ig + W_hg h + b_hg),
    c' = f c + i g, h' = o tanh(c'). Gates lie in the weights in the order i, f, g, o.
    """

    gates = 4

    def initial_state(self, batch_size: int) -> State:
        return self._zeros(batch_size), self._zeros(batch_size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if state is None:
            state = self._zeros(*x.shape[:-1]), self._zeros(*x.shape[:-1])
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise ShapeError("LSTMCell: wanted a pair (h, c) as state")
        h, c = state
        x_part, h_part = self._products(x, h)
        if c.shape != h.shape:
            raise ShapeError(f"LSTMCell: wanted c {list(h.shape)} like h, got {list(c.shape)}")
        i, f, g, o = (x_part + h_part).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GRUCell(_GatedCell):
    """Gated recurrent unit (Cho et al. 2014), its reset gate after the product as in cuDNN.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z alike, n = tanh(W_in x + b_in + r (W_hn h + b_hn)),
    h' = (1 - z) n + z h. Gates lie in the weights in the order r, z, n.
    """

    gates = 3

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        h = self._zeros(*x.shape[:-1]) if h is None else h
        x_part, h_part = self._products(x, h)
        x_r, x_z, x_n = x_part.chunk(3, dim=-1)
        h_r, h_z, h_n = h_part.chunk(3, dim=-1)
        r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        n = (x_n + r * h_n).tanh()
        return (1 - z) * n + z * h
