"""Recurrent cells: one step in primitive operations, the readable path.

The layers of :mod:`minirnn.nn.recurrent` compute the same by fused kernels; tests compare the two.
"""

from __future__ import annotations

import math
from typing import Literal

from numpy.typing import ArrayLike

from minirnn import cells
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn import init
from minirnn.nn.module import Module, Parameter
from minirnn.nn.state import State, check_members, pack_state, zero_state
from minirnn.validation import check_choice, check_int

Nonlinearity = Literal["tanh", "relu"]


def rnn_cell(caller: str, nonlinearity: Nonlinearity) -> str:
    """Return the name of the simple cell with this nonlinearity."""
    return "rnn" if check_choice(f"{caller}: nonlinearity", nonlinearity, ("tanh", "relu")) == "tanh" else "rnn_relu"


def new_parameters(
    cell: cells.Cell, input_size: int, hidden_size: int, bias: bool, dtype: DType, proj_size: int = 0
) -> dict[str, Parameter]:
    """Return the parameters of one cell by name: weights and biases from U(-1/sqrt(H), 1/sqrt(H)), then vectors."""
    rows, recurrent = len(cell.input_gates) * hidden_size, len(cell.recurrent_gates) * hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
    if recurrent:
        shapes["weight_hh"] = (recurrent, proj_size or hidden_size)
    if bias:
        shapes["bias_ih"] = (rows,)
    if bias and recurrent:
        shapes["bias_hh"] = (recurrent,)
    if proj_size:
        shapes["weight_hr"] = (proj_size, hidden_size)
    shapes |= {f"weight_product{number}": (hidden_size, hidden_size) for number in range(cell.equations.products)}
    made = {name: init.uniform(shape, 1 / math.sqrt(hidden_size), dtype) for name, shape in shapes.items()}
    return made | {name: init.constant((hidden_size,), value, dtype) for name, value in cell.vectors.items()}


class Cell(Module):
    """Base class of cells that :class:`~minirnn.nn.Recurrent` unrolls: ``state = cell(x, state)`` for one step.

    A subclass defines :meth:`initial_state` and ``forward(x, state)``, which takes x [N, I] and returns the next state;
    its first member, or itself, is the output [N, H].
    """

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first step, for ``batch_size`` sequences."""
        raise OptionError(f"{type(self).__name__} must define initial_state(batch_size)")


class RecurrentCell(Cell):
    """One step of any cell, in primitive operations.

    Args:
        cell: a name of :func:`minirnn.cells.names`, or a cell made by :func:`minirnn.cell`.
        input_size, hidden_size, bias: I and H; if ``bias`` is False, the cell has no bias_ih and bias_hh.
        dtype: of the parameters, float32 or float64.

    Parameters are those of :class:`~minirnn.nn.Recurrent`, without the number of a layer: ``weight_ih`` [G H, I],
    ``weight_hh`` [R H, H], ``bias_ih`` [G H], ``bias_hh`` [R H], and each learnt vector [H].

    >>> import minirnn as mr
    >>> step = mr.nn.RecurrentCell("peephole_lstm", 3, 5)
    >>> h, c = step(mr.zeros(2, 3))
    >>> h.shape
    (2, 5)
    """

    weight_ih: Parameter
    weight_hh: Parameter | None = None
    bias_ih: Parameter | None = None
    bias_hh: Parameter | None = None

    def __init__(
        self, cell: str | cells.Cell, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32"
    ) -> None:
        caller = type(self).__name__
        self.cell = cells.get(cell)
        self.input_size = check_int(f"{caller}: input_size", input_size)
        self.hidden_size = check_int(f"{caller}: hidden_size", hidden_size)
        for name in self.cell.vectors:
            if hasattr(self, name):
                raise OptionError(f"{caller}: rename the vector {name} of {self.cell.name}; every module has a .{name}")
        for name, parameter in new_parameters(self.cell, self.input_size, self.hidden_size, bias, dtype).items():
            setattr(self, name, parameter)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros [N, H] for each state of the cell."""
        return self._zeros(batch_size)

    def _zeros(self, *batch: int) -> State:
        return pack_state([zero_state(self.weight_ih, *batch, self.hidden_size) for _ in self.cell.states])

    def forward(self, x: ArrayLike, state: State = None) -> State:
        """Compute one step.

        Args:
            x: [N, I], or [I] for one sequence.
            state: [N, H] (or [H]), a tuple of them where the cell has several states; zeros where None.

        Returns:
            The next state, in the form of ``state``.

        Raises:
            ShapeError: x or the state does not have these shapes.
        """
        caller, cell = type(self).__name__, self.cell
        x = ops.as_tensor(x, self.weight_ih)
        given = self._zeros(*x.shape[:-1]) if state is None else state
        members = [ops.as_tensor(m, self.weight_ih) for m in check_members(caller, "state", given, cell.states)]
        fits = x.ndim in (1, 2) and x.shape[-1] == self.input_size
        if not fits or any(member.shape != (*x.shape[:-1], self.hidden_size) for member in members):
            got = ", ".join(f"{name} {list(m.shape)}" for name, m in zip(cell.states, members, strict=True))
            expected = f"x [N, {self.input_size}] and states [N, {self.hidden_size}]"
            raise ShapeError(f"{caller}: expected {expected}, got {list(x.shape)} and {got}")
        values = dict(zip(cell.input_gates, self._parts(x, self.weight_ih, self.bias_ih), strict=True))
        if self.weight_hh is not None:
            recurrent = self._parts(members[0], self.weight_hh, self.bias_hh)
            for gate, part in zip(cell.recurrent_gates, recurrent, strict=True):
                values[gate] = values[gate] + part if gate in values else part
        weights = [getattr(self, f"weight_product{number}") for number in range(cell.equations.products)]
        vectors = {name: getattr(self, name) for name in cell.vectors}
        return cell(*(values[gate] for gate in cell.gates), *members, weights=weights, **vectors)

    def _parts(self, x: Tensor, weight: Parameter, bias: Parameter | None) -> tuple[Tensor, ...]:
        return ops.linear(x, weight, bias).chunk(weight.shape[0] // self.hidden_size, dim=-1)

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}"
        return sizes if type(self) is not RecurrentCell else f"{self.cell!r}, {sizes}"


class RNNCell(RecurrentCell):
    """One step of a simple recurrent network (Elman 1990): h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu.

    ``h = cell(x, h)`` with x [N, I] and h [N, H], or [I] and [H] for one sequence; h is zeros where None.

    Args:
        input_size, hidden_size, bias: I and H; if ``bias`` is False, the cell has no bias_ih and bias_hh.
        nonlinearity: "tanh" or "relu".
        dtype: of the parameters, float32 or float64.

    Parameters: ``weight_ih`` [H, I], ``weight_hh`` [H, H], ``bias_ih`` and ``bias_hh`` [H].
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Nonlinearity = "tanh",
        dtype: DType = "float32",
    ) -> None:
        super().__init__(rnn_cell("RNNCell", nonlinearity), input_size, hidden_size, bias, dtype)
        self.nonlinearity = nonlinearity


class LSTMCell(RecurrentCell):
    """One step of a long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, o = sigmoid(W_i* x + b_i* + W_h* h + b_h*), g = tanh(W_ig x + b_ig + W_hg h + b_hg),
    c' = f * c + i * g, h' = o * tanh(c').

    ``h, c = cell(x, (h, c))`` with x [N, I], h and c [N, H], or [I] and [H] for one sequence; zeros where None.

    Args:
        input_size, hidden_size, bias: I and H; if ``bias`` is False, the cell has no bias_ih and bias_hh.
        dtype: of the parameters, float32 or float64.

    Parameters (gates i, f, g, o): ``weight_ih`` [4 H, I], ``weight_hh`` [4 H, H], ``bias_ih`` and ``bias_hh`` [4 H].
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32") -> None:
        super().__init__("lstm", input_size, hidden_size, bias, dtype)


class GRUCell(RecurrentCell):
    """One step of a gated recurrent unit (Cho et al. 2014), with the reset gate after the product as in cuDNN.

    r, z = sigmoid(W_i* x + b_i* + W_h* h + b_h*), n = tanh(W_in x + b_in + r * (W_hn h + b_hn)),
    h' = (1 - z) * n + z * h.

    ``h = cell(x, h)`` with x [N, I] and h [N, H], or [I] and [H] for one sequence; h is zeros where None.

    Args:
        input_size, hidden_size, bias: I and H; if ``bias`` is False, the cell has no bias_ih and bias_hh.
        dtype: of the parameters, float32 or float64.

    Parameters (gates r, z, n): ``weight_ih`` [3 H, I], ``weight_hh`` [3 H, H], ``bias_ih`` and ``bias_hh`` [3 H].
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: DType = "float32") -> None:
        super().__init__("gru", input_size, hidden_size, bias, dtype)
