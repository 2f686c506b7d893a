"""Recurrent layers over whole sequences: the fused RNN, LSTM and GRU, and the unrolling of any cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.sequence import GateInput, gru_sequence, lstm_sequence, rnn_sequence
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps
from minirnn.nn import init
from minirnn.nn.cells import Cell, State, members_of, state_of
from minirnn.nn.layers import positive
from minirnn.nn.module import Module, ModuleList, Parameter


class _RecurrentLayer(Module):
    """What RNN, LSTM and GRU share: parameters, shapes, lengths, layers and directions.

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers stacked; each above the first reads the outputs of the one below.
        bias: with biases b_ih and b_hh.
        batch_first: x and y are [N, T, ...] instead of [T, N, ...].
        dropout: probability with which outputs of all but the last layer are dropped in training.
        bidirectional: a second direction runs from each sequence's own end; outputs are concatenated.
        dtype: of the parameters, float32 or float64.

    All weights start in U(-1/sqrt(H), 1/sqrt(H)). D is 2 with ``bidirectional``, else 1; L is ``num_layers``.
    """

    gates = 1
    proj_size = 0

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        kind = type(self).__name__
        self.input_size = positive(f"{kind}: input_size", input_size)
        self.hidden_size = positive(f"{kind}: hidden_size", hidden_size)
        self.num_layers = positive(f"{kind}: num_layers", num_layers)
        if not 0 <= dropout <= 1:
            raise OptionError(f"{kind}: dropout must be from 0 to 1, got {dropout}")
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        bound, rows, width = 1 / math.sqrt(hidden_size), self.gates * hidden_size, self._width
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else width * self._directions
            for direction in range(self._directions):
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, width)}
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
                shapes |= {"weight_hr": (width, hidden_size)} if self.proj_size else {}
                for name, shape in shapes.items():
                    setattr(self, _name(name, layer, direction), init.uniform(shape, bound, dtype))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _width(self) -> int:
        """Size of h: hidden_size, or proj_size with a projection."""
        return self.proj_size or self.hidden_size

    @property
    def dtype(self) -> np.dtype:
        return self._parameter("weight_hh", 0, 0).dtype

    def _parameter(self, name: str, layer: int, direction: int) -> Parameter:
        return getattr(self, _name(name, layer, direction))

    def forward(self, x: Any, hx: State = None, lengths: Any = None, embedding: Tensor | None = None) -> Any:
        """Run the layers over whole sequences.

        Args:
            x: [T, N, I], [N, T, I] with ``batch_first``, or [T, I] for one sequence.
            hx: initial states [L D, N, H] ([L D, H] for one sequence), zeros where None; the LSTM takes a pair
                (h_0, c_0), with h_0 [L D, N, P] under a projection.
            lengths: [N] integers from 0 to T, in any order. Steps past a sequence's length give zeros in y, and
                cost nothing; final states are those of each sequence's own last step.
            embedding: a table [V, I]; x then holds integer tokens, [T, N] (or [N, T], [T]).

        Returns:
            y, as x with D H at the end, and the final states, as ``hx``.

        Raises:
            ShapeError, DTypeError, IndexRangeError, OptionError: what does not fit.
        """
        kind, weight = type(self).__name__, self._parameter("weight_hh", 0, 0)
        # tokens are checked on the host
        x = ops.as_tensor(x, weight) if embedding is None else Tensor(ops.as_index(f"{kind} tokens", x))
        dims = 3 if embedding is None else 2
        self._check_input(x, dims, embedding)
        single = x.ndim == dims - 1
        if single:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        length, batch = x.shape[:2]
        forward, reverse = self._steps(length, batch, lengths)
        states = self._initial_states(hx, batch, single, forward.order)

        rows: Any = x.data.reshape(-1) if embedding is not None else x.reshape(length * batch, x.shape[2])
        if forward.packed is not None:
            rows = rows[forward.packed] if embedding is not None else ops.take_rows(rows, forward.packed)
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self._directions):
                steps = reverse if direction else forward
                gate_input = self._gate_input(rows, layer, direction, embedding if layer == 0 else None)
                y, *final = self._run(gate_input, states[len(finals)], layer, direction, steps)
                outputs.append(y)
                finals.append(tuple(final))
            rows = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, 1)
            if layer + 1 < self.num_layers:
                rows = ops.dropout(rows, self.dropout, self.training)
        if forward.packed is not None:
            rows = ops.put_rows(rows, forward.packed, length * batch)
        y = rows.reshape(length, batch, rows.shape[1])
        if single:
            y = y.squeeze(1)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, self._final_states(finals, single, forward.order)

    def _check_input(self, x: Tensor, dims: int, embedding: Tensor | None) -> None:
        kind = type(self).__name__
        if embedding is not None:
            if embedding.ndim != 2 or embedding.shape[1] != self.input_size:
                raise ShapeError(f"{kind}: wanted a table [V, {self.input_size}], got {list(embedding.shape)}")
            ops.check_range(kind, x.data, embedding.shape[0])
        elif x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            axes = "[N, T, " if self.batch_first else "[T, N, "
            raise ShapeError(
                f"{kind}: wanted x {axes}{self.input_size}] or [T, {self.input_size}], got {list(x.shape)}"
            )
        elif x.dtype != self.dtype:
            raise DTypeError(f"{kind}: x is {x.dtype}, the parameters {self.dtype}; convert one with .to(...)")
        if x.ndim not in (dims - 1, dims):
            raise ShapeError(f"{kind}: wanted tokens [T, N] or [T], got {list(x.shape)}")

    def _steps(self, length: int, batch: int, lengths: Any) -> tuple[Steps, Steps]:
        if lengths is None:
            return dense_steps(length, batch), dense_steps(length, batch, True)
        counts = checked_lengths(type(self).__name__, lengths, length, batch)
        if counts.size == 0 or counts.min() == length:
            return dense_steps(length, batch), dense_steps(length, batch, True)
        return ragged_steps(counts, length)

    # State tuples have one member, h, or two, h and c; each member is [L D, N, size] outside and cut into
    # [N, size] in sorted order inside.

    def _state_sizes(self) -> tuple[int, ...]:
        return (self.hidden_size,)

    def _initial_states(
        self, hx: State, batch: int, single: bool, order: np.ndarray | None
    ) -> list[tuple[Tensor, ...]]:
        count, sizes, kind = self.num_layers * self._directions, self._state_sizes(), type(self).__name__
        if hx is None:
            device = self._parameter("weight_hh", 0, 0).device
            zeros = [Tensor(kernels.on(device).zeros((batch, n), self.dtype), device=device) for n in sizes]
            return [tuple(zeros)] * count
        members = members_of(hx)
        if len(members) != len(sizes):
            raise ShapeError(f"{kind}: wanted {'a pair (h_0, c_0)' if len(sizes) == 2 else 'one state h_0'} as hx")
        cut = []
        for member, size in zip(members, sizes, strict=True):
            state = ops.as_tensor(member, self._parameter("weight_hh", 0, 0))
            wanted = (count, size) if single else (count, batch, size)
            if state.shape != wanted:
                raise ShapeError(f"{kind}: wanted an initial state {list(wanted)}, got {list(state.shape)}")
            if state.dtype != self.dtype:
                raise DTypeError(f"{kind}: the initial state is {state.dtype}, the parameters {self.dtype}")
            state = state.reshape(count, batch, size)
            cut.append([state[k] if order is None else ops.take_rows(state[k], order) for k in range(count)])
        return list(zip(*cut, strict=True))

    def _final_states(self, finals: list[tuple[Tensor, ...]], single: bool, order: np.ndarray | None) -> State:
        members = []
        for parts in zip(*finals, strict=True):
            if order is not None:
                parts = tuple(ops.put_rows(part, order, len(order)) for part in parts)
            member = ops.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)
            members.append(member.squeeze(1) if single else member)
        return state_of(members)

    def _gate_input(self, rows: Any, layer: int, direction: int, embedding: Tensor | None) -> GateInput:
        """x W_ih^T + b for all packed rows, or for every token where that is less."""
        weight = self._parameter("weight_ih", layer, direction)
        bias = self.input_bias(layer, direction) if self.bias else None
        if embedding is None:
            return GateInput(ops.linear(rows, weight, bias))
        if embedding.shape[0] < rows.size:
            return GateInput(ops.linear(embedding, weight, bias), rows)
        return GateInput(ops.linear(ops.embedding(embedding, rows), weight, bias))

    def input_bias(self, layer: int, direction: int) -> Tensor:
        """Both biases are added before the gate, so they can join the input part."""
        return self._parameter("bias_ih", layer, direction) + self._parameter("bias_hh", layer, direction)

    def _run(
        self, gate_input: GateInput, state: tuple[Tensor, ...], layer: int, direction: int, steps: Steps
    ) -> tuple[Tensor, ...]:
        """One layer in one direction: outputs [S, P], then the final states."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
                    "proj_size": 0}  # fmt: skip
        for name, default in defaults.items():
            if getattr(self, name) != default:
                shown += f", {name}={getattr(self, name)}"
        return shown


def checked_lengths(kind: str, lengths: Any, length: int, batch: int) -> np.ndarray:
    """``lengths`` as [batch] integers, each from 0 to ``length``; all ``length`` where None."""
    if lengths is None:
        return np.full(batch, length)
    counts = ops.as_index(f"{kind} lengths", lengths)
    if counts.shape != (batch,):
        raise ShapeError(f"{kind}: wanted a length for each of {batch} sequences, got {list(counts.shape)}")
    if counts.size and (counts.min() < 0 or counts.max() > length):
        raise OptionError(f"{kind}: lengths must be from 0 to {length}, got {counts.min()} to {counts.max()}")
    return counts


def _name(name: str, layer: int, direction: int) -> str:
    return f"{name}_l{layer}{'_reverse' if direction else ''}"


class RNN(_RecurrentLayer):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu (Elman 1990).

    ``y, h_n = rnn(x, h_0, lengths=lengths)``; arguments as in :class:`_RecurrentLayer`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)
        self.nonlinearity = nonlinearity

    def _run(
        self, gate_input: GateInput, state: tuple[Tensor, ...], layer: int, direction: int, steps: Steps
    ) -> tuple[Tensor, ...]:
        weight_hh = self._parameter("weight_hh", layer, direction)
        return rnn_sequence(gate_input, weight_hh, state[0], self.nonlinearity == "relu", steps)


class LSTM(_RecurrentLayer):
    """i, f, o = sigmoid(W x + b + W' h + b'), g = tanh(...), c = f c + i g, h = o tanh(c).

    ``y, (h_n, c_n) = lstm(x, (h_0, c_0), lengths=lengths)`` (Hochreiter & Schmidhuber 1997; forget gate: Gers et
    al. 2000). With ``proj_size`` P, h is W_hr (o tanh(c)), P wide (Sak, Senior & Beaufays 2014). Other arguments
    as in :class:`_RecurrentLayer`; weights hold the gates in the order i, f, g, o.

    >>> import minirnn as mr
    >>> lstm = mr.nn.LSTM(3, 5, bidirectional=True)
    >>> y, (h_n, c_n) = lstm(mr.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h_n.shape
    ((7, 2, 10), (2, 2, 5))
    """

    gates = 4

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        limit = positive("LSTM: hidden_size", hidden_size) - 1
        if not isinstance(proj_size, (int, np.integer)) or not 0 <= proj_size <= limit:
            raise OptionError(f"LSTM: proj_size must be from 0 (none) to hidden_size - 1, {limit}, got {proj_size}")
        self.proj_size = proj_size
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)

    def _state_sizes(self) -> tuple[int, ...]:
        return (self._width, self.hidden_size)

    def _run(
        self, gate_input: GateInput, state: tuple[Tensor, ...], layer: int, direction: int, steps: Steps
    ) -> tuple[Tensor, ...]:
        weight_hh = self._parameter("weight_hh", layer, direction)
        weight_hr = self._parameter("weight_hr", layer, direction) if self.proj_size else None
        return lstm_sequence(gate_input, weight_hh, weight_hr, state[0], state[1], steps)


class GRU(_RecurrentLayer):
    """r, z = sigmoid(W x + b + W' h + b'), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h = (1 - z) n + z h.

    ``y, h_n = gru(x, h_0, lengths=lengths)`` (Cho et al. 2014, in cuDNN's form); arguments as in
    :class:`_RecurrentLayer`; weights hold the gates in the order r, z, n.
    """

    gates = 3

    def input_bias(self, layer: int, direction: int) -> Tensor:
        bias_ih, bias_hh = self._parameter("bias_ih", layer, direction), self._parameter("bias_hh", layer, direction)
        outside = ops.concatenate([bias_hh[: 2 * self.hidden_size], np.zeros(self.hidden_size, self.dtype)])
        return bias_ih + outside

    def _run(
        self, gate_input: GateInput, state: tuple[Tensor, ...], layer: int, direction: int, steps: Steps
    ) -> tuple[Tensor, ...]:
        weight_hh = self._parameter("weight_hh", layer, direction)
        if self.bias:
            bias_n = self._parameter("bias_hh", layer, direction)[2 * self.hidden_size :]
        else:
            device = weight_hh.device
            bias_n = Tensor(kernels.on(device).zeros((self.hidden_size,), self.dtype), device=device)
        return gru_sequence(gate_input, weight_hh, bias_n, state[0], steps)


# ------------------------------------------------------------------------------------------ any cell unrolled


class Recurrent(Module):
    """Any cell over whole sequences: ``y, state = Recurrent(cell)(x, state, lengths)``.

    Args:
        cell: a module whose call takes (x [N, I], state) and returns the next state (its first member, or itself, is
            the output [N, H]) and which has ``initial_state(batch_size)``; or a list of such cells, layer on layer:
            each runs over the outputs of the one before. The state is then a list or tuple with one state a layer
            (None: the layer's initial one), and a tuple of them is returned.
        reverse: run from each sequence's own last step to its first.
        batch_first: x and y are [N, T, ...].

    Steps past a sequence's length leave its state alone and give zeros in y. A state of several members may be a
    tuple or a list.

    >>> import minirnn as mr
    >>> y, state = mr.nn.Recurrent([mr.nn.GRUCell(3, 5), mr.nn.LSTMCell(5, 4)])(mr.zeros(7, 2, 3))
    >>> y.shape, len(state)
    ((7, 2, 4), 2)
    """

    def __init__(
        self, cell: Cell | Sequence[Cell] | ModuleList, reverse: bool = False, batch_first: bool = False
    ) -> None:
        if isinstance(cell, (list, tuple)):
            if not cell or not all(isinstance(one, Module) for one in cell):
                raise OptionError("Recurrent: wanted a cell, or a list of at least one, each of them a module")
            cell = ModuleList(*cell)
        self.cell, self.reverse, self.batch_first = cell, reverse, batch_first

    def forward(self, x: Any, state: State = None, lengths: Any = None) -> tuple[Tensor, State]:
        x = ops.as_tensor(x)
        if x.ndim != 3:
            raise ShapeError(f"Recurrent: wanted x of three dimensions, got {list(x.shape)}")
        if self.batch_first:
            x = x.transpose(0, 1)
        length, batch = x.shape[:2]
        if length == 0:
            raise ShapeError("Recurrent: wanted at least one step, got none")
        counts = None if lengths is None else checked_lengths("Recurrent", lengths, length, batch)
        steps = [step.squeeze(0) for step in x.split(1)]  # one node: indexing would make T gradients as large as x
        if isinstance(self.cell, ModuleList):
            layers = len(self.cell)
            before = [None] * layers if state is None else state
            if not isinstance(before, (tuple, list)) or len(before) != layers:
                raise ShapeError(f"Recurrent: wanted a list of {layers} states, one for each layer")
            after = []
            for (_, cell), one in zip(self.cell.named_children(), before, strict=True):
                steps, last = self._unroll(cell, steps, one, batch, counts)
                after.append(last)
            state = tuple(after)
        else:
            steps, state = self._unroll(self.cell, steps, state, batch, counts)
        y = ops.stack(steps)
        return y.transpose(0, 1) if self.batch_first else y, state

    def _unroll(
        self, cell: Any, steps: list[Tensor], state: State, batch: int, counts: np.ndarray | None
    ) -> tuple[list[Tensor], State]:
        """One cell over all steps [N, I]: its outputs, and the state after the last."""
        length = len(steps)
        state = cell.initial_state(batch) if state is None else state
        outputs: list[Any] = [None] * length
        for t in reversed(range(length)) if self.reverse else range(length):
            following = cell(steps[t], state)
            running = None if counts is None or counts.min(initial=length) > t else t < counts
            state = following if running is None else _chosen(running, following, state)
            output = members_of(state)[0]
            outputs[t] = output if running is None else _chosen(running, output, 0.0)
        return outputs, state


def _chosen(mask: np.ndarray, new: State, old: State) -> State:
    """The new state [N, ...] where the mask [N] holds, else the old one."""
    if isinstance(new, (tuple, list)):
        members = [_chosen(mask, n, o) for n, o in zip(new, old, strict=True)]
        return type(new)(*members) if hasattr(new, "_fields") else type(new)(members)  # named tuples stay such
    return ops.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


MERGES = ("concat", "sum", "mul", "ave")


def merge_directions(forward: Tensor, backward: Tensor, merge: str) -> Tensor:
    """Two directions' outputs [..., H] as one: [..., 2 H] with "concat", else [..., H]."""
    if merge == "concat":
        return ops.concatenate([forward, backward], forward.ndim - 1)
    if merge == "mul":
        return forward * backward
    total = forward + backward
    return total * 0.5 if merge == "ave" else total


def _recurrent(module: Any, reverse: bool, batch_first: bool) -> Module:
    cells = isinstance(module, (list, tuple, ModuleList)) or hasattr(module, "initial_state")
    return Recurrent(module, reverse, batch_first) if cells else module


class Bidirectional(Module):
    """Two recurrent modules over the same sequences, the second one backwards; outputs merged.

    Args:
        fwd, bwd: :class:`Recurrent`, the second with ``reverse=True``; or cells (whatever has ``initial_state``) or
            lists of cells, which are wrapped.
        merge: "concat", "sum", "mul" or "ave".
    """

    def __init__(
        self, fwd: Module | Sequence[Cell], bwd: Module | Sequence[Cell], merge: str = "concat",
        batch_first: bool = False,
    ) -> None:  # fmt: skip
        if merge not in MERGES:
            raise OptionError(f"Bidirectional: merge must be one of {', '.join(MERGES)}, got {merge!r}")
        self.fwd = _recurrent(fwd, False, batch_first)
        self.bwd = _recurrent(bwd, True, batch_first)
        if isinstance(self.bwd, Recurrent) and not self.bwd.reverse:
            raise OptionError("Bidirectional: bwd must run backwards; make it with Recurrent(cell, reverse=True)")
        self.merge = merge

    def forward(self, x: Any, state: State = None, lengths: Any = None) -> tuple[Tensor, State]:
        before_fwd, before_bwd = (None, None) if state is None else state
        y_fwd, state_fwd = self.fwd(x, before_fwd, lengths)
        y_bwd, state_bwd = self.bwd(x, before_bwd, lengths)
        return merge_directions(y_fwd, y_bwd, self.merge), (state_fwd, state_bwd)
