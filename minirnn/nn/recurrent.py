"""Recurrent layers over whole sequences by fused kernels: any cell, and PyTorch's RNN, LSTM and GRU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn import cells, kernels, random
from minirnn.autograd import ops
from minirnn.autograd.sequence import GateInput, recurrent_sequence, split_biases
from minirnn.autograd.tensor import DType, Tensor
from minirnn.cells import Cell
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps
from minirnn.nn import init
from minirnn.nn.cells import State, check_lengths, pack_state, unpack_state
from minirnn.nn.layers import positive
from minirnn.nn.module import Module, Parameter
from minirnn.nn.unrolled import Unrolled


class Recurrent(Module):
    """Any cell over whole sequences, by kernels generated from its equations.

    ``y, state = Recurrent("peephole_lstm", 3, 5)(x, state, lengths=lengths)``. A module with a step of its own, or a
    list of such modules, in place of the cell is unrolled step by step: see :class:`~minirnn.nn.unrolled.Unrolled`.

    Args:
        cell: a name of :func:`minirnn.cells.names`, or what :func:`minirnn.cell` made.
        input_size: I.
        hidden_size: H, or a list with one per layer.
        num_layers: layers stacked; each above the first reads the outputs of the one below.
        bias: with biases bias_ih and bias_hh.
        batch_first: x and y are [N, T, ...] instead of [T, N, ...].
        dropout: probability with which outputs of all but the last layer are dropped in training.
        bidirectional: a second direction runs from each sequence's own end; outputs are concatenated.
        zoneout: probability with which a unit keeps its old state in training; in evaluation states take their expected
            value (Krueger et al. 2017).
        recurrent_dropout: probability of dropout inside the recurrence in training.
        weight_drop: probability with which a recurrent weight is dropped in training, one mask per call (DropConnect;
            Merity, Keskar & Socher 2018).
        residual: each layer above the first adds its input to its output (Wu et al. 2016, section 3.1).
        dtype: of the parameters, float32 or float64.
        recurrent_dropout_on: "state": one mask for all steps on h where the recurrent weights multiply it (Gal &
            Ghahramani 2016); "update": on the new value that a gate adds to the state, drawn at every step (Semeniuta,
            Severyn & Barth 2016).

    Parameters of layer k, and ``_reverse`` of the second direction: ``weight_ih_l{k}`` [G H, I] with the gates in the
    order in which their input parts appear in the cell, ``weight_hh_l{k}`` [R H, H] likewise for recurrent parts,
    ``bias_ih_l{k}``, ``bias_hh_l{k}``, each learnt vector ``{name}_l{k}`` [H], and ``weight_product{m}_l{k}`` [H, H].
    Weights start in U(-1/sqrt(H), 1/sqrt(H)), vectors at their initial values. D is 2 with ``bidirectional``, else 1;
    L is ``num_layers``.

    >>> import minirnn as mr
    >>> layer = mr.nn.Recurrent("peephole_lstm", 3, 5, num_layers=2, bidirectional=True)
    >>> y, (h_n, c_n) = layer(mr.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h_n.shape
    ((7, 2, 10), (4, 2, 5))
    """

    proj_size = 0
    weight_ih_l0: Parameter

    def __new__(cls, cell: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(cell, (list, tuple)) or hasattr(cell, "initial_state"):
            return Unrolled(cell, *args, **kwargs)
        return object.__new__(cls)

    def __init__(
        self, cell: str | Cell, input_size: int, hidden_size: int | Sequence[int], num_layers: int = 1,
        bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        zoneout: float = 0.0, recurrent_dropout: float = 0.0, weight_drop: float = 0.0, residual: bool = False,
        dtype: DType = "float32", recurrent_dropout_on: str = "state",
    ) -> None:  # fmt: skip
        self.cell, kind = cells.get(cell), self._kind
        self.input_size = positive(f"{kind}: input_size", input_size)
        self.num_layers = positive(f"{kind}: num_layers", num_layers)
        self.hidden_size, sizes = hidden_size, hidden_size if isinstance(hidden_size, (list, tuple)) else None
        if sizes is not None and len(sizes) != num_layers:
            raise OptionError(f"{kind}: expected {num_layers} hidden sizes, one per layer, got {hidden_size}")
        self.hidden_sizes = [positive(f"{kind}: hidden_size", n) for n in sizes or [hidden_size] * num_layers]
        self.dropout, self.zoneout = dropout, zoneout
        self.recurrent_dropout, self.weight_drop = recurrent_dropout, weight_drop
        self.recurrent_dropout_on, self.residual = recurrent_dropout_on, residual
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self._check_options()
        for layer, size in enumerate(self.hidden_sizes):
            inputs = input_size if layer == 0 else self._width(layer - 1) * self._directions
            for direction in range(self._directions):
                self._add_parameters(layer, direction, inputs, size, dtype)

    @property
    def _kind(self) -> str:
        return type(self).__name__

    def _check_options(self) -> None:
        kind, cell = self._kind, self.cell
        for name in ("dropout", "zoneout", "recurrent_dropout", "weight_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{kind}: {name} must be from 0 to 1, got {getattr(self, name)}")
        on = self.recurrent_dropout_on
        if on not in ("state", "update"):
            raise OptionError(f"{kind}: recurrent_dropout_on must be 'state' or 'update', got {on!r}")
        if self.recurrent_dropout and on == "update" and not cell.equations.has_dropout:
            raise OptionError(f"{kind}: {cell.name} marks no update by dropout(x); use recurrent_dropout_on='state'")
        if self.recurrent_dropout and on == "state" and not cell.recurrent_gates:
            raise OptionError(f"{kind}: {cell.name} has no recurrent weights; use recurrent_dropout_on='update'")
        if self.weight_drop and not cell.recurrent_gates:
            raise OptionError(f"{kind}: {cell.name} has no recurrent weights that weight_drop could drop")
        if self.residual and len(set(self.hidden_sizes)) > 1:
            raise OptionError(f"{kind}: residual needs layers of one size, got {self.hidden_sizes}")

    def _add_parameters(self, layer: int, direction: int, inputs: int, size: int, dtype: DType) -> None:
        bound, width, cell = 1 / math.sqrt(size), self._width(layer), self.cell
        rows, recurrent = len(cell.input_gates) * size, len(cell.recurrent_gates) * size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs)}
        shapes |= {"weight_hh": (recurrent, width)} if recurrent else {}
        shapes |= {"bias_ih": (rows,)} if self.bias else {}
        shapes |= {"bias_hh": (recurrent,)} if self.bias and recurrent else {}
        shapes |= {"weight_hr": (width, size)} if self.proj_size else {}
        shapes |= {f"weight_product{number}": (size, size) for number in range(cell.equations.products)}
        for name, shape in shapes.items():
            setattr(self, _name(name, layer, direction), init.uniform(shape, bound, dtype))
        for name, value in cell.vectors.items():
            setattr(self, _name(name, layer, direction), init.constant((size,), value, dtype))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _width(self, layer: int) -> int:
        """Size of h: hidden_size, or proj_size with a projection."""
        return self.proj_size or self.hidden_sizes[layer]

    @property
    def dtype(self) -> np.dtype:
        return self.weight_ih_l0.dtype

    def _parameter(self, name: str, layer: int, direction: int) -> Parameter:
        return getattr(self, _name(name, layer, direction))

    def forward(self, x: Any, hx: State = None, lengths: Any = None, embedding: Tensor | None = None) -> Any:
        """Run the layers over whole sequences.

        Args:
            x: [T, N, I], [N, T, I] with ``batch_first``, or [T, I] for one sequence.
            hx: initial states [L D, N, H] ([L D, H] for one sequence), zeros where None; a tuple of them, in the
                cell's order, where it has several: the LSTM takes a pair (h_0, c_0), with h_0 [L D, N, P] under a
                projection. Where layers differ in size, each is a list of [N, H], one per layer and direction.
            lengths: [N] integers from 0 to T, in any order. Steps past a sequence's length give zeros in y, and
                cost nothing; final states are those of each sequence's own last step.
            embedding: a table [V, I]; x then holds integer tokens, [T, N] (or [N, T], [T]).

        Returns:
            y, as x with D H at the end, and the final states, as ``hx``.

        Raises:
            ShapeError, DTypeError, IndexRangeError, OptionError: what does not fit.
        """
        kind, weight = self._kind, self.weight_ih_l0
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
        states = self._initial_states(hx, batch, single)

        rows: Any = x.data.reshape(-1) if embedding is not None else x.reshape(length * batch, x.shape[2])
        if forward.packed is not None:
            rows = rows[forward.packed] if embedding is not None else ops.take_rows(rows, forward.packed)
        equations = self.resolved()
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self._directions):
                steps = reverse if direction else forward
                weights, weight_ih = self.weights(layer, direction), self._parameter("weight_ih", layer, direction)
                table = embedding if layer == 0 else None
                gate_input = self._gate_input(rows, weight_ih, weights.input_bias, table)
                noise = self._noise(equations, layer, batch)
                y, *final = recurrent_sequence(equations, gate_input, weights, states[len(finals)], steps, noise)
                outputs.append(y)
                finals.append(tuple(final))
            below, rows = rows, outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, 1)
            if self.residual and layer > 0:
                rows = rows + below
            if layer + 1 < self.num_layers:
                rows = ops.dropout(rows, self.dropout, self.training)
        if forward.packed is not None:
            rows = ops.scatter_rows(rows, forward.packed, length * batch)
        y = rows.reshape(length, batch, rows.shape[1])
        if single:
            y = y.squeeze(1)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, self._final_states(finals, single)

    def _check_input(self, x: Tensor, dims: int, embedding: Tensor | None) -> None:
        kind = self._kind
        if embedding is not None:
            if embedding.ndim != 2 or embedding.shape[1] != self.input_size:
                raise ShapeError(f"{kind}: expected a table [V, {self.input_size}], got {list(embedding.shape)}")
            ops.check_range(kind, x.data, embedding.shape[0])
        elif x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            axes = "[N, T, " if self.batch_first else "[T, N, "
            raise ShapeError(
                f"{kind}: expected x {axes}{self.input_size}] or [T, {self.input_size}], got {list(x.shape)}"
            )
        elif x.dtype != self.dtype:
            raise DTypeError(f"{kind}: x is {x.dtype}, the parameters {self.dtype}; convert one with .to(...)")
        if x.ndim not in (dims - 1, dims):
            raise ShapeError(f"{kind}: expected tokens [T, N] or [T], got {list(x.shape)}")

    def _steps(self, length: int, batch: int, lengths: Any) -> tuple[Steps, Steps]:
        if lengths is None:
            return dense_steps(length, batch), dense_steps(length, batch, True)
        counts = check_lengths(self._kind, lengths, length, batch)
        if counts.size == 0 or counts.min() == length:
            return dense_steps(length, batch), dense_steps(length, batch, True)
        return ragged_steps(counts, length)

    # A state has one member per state of the cell; each is [L D, N, size] outside, a tuple of [N, size] where layers
    # differ in size, and cut into [N, size] inside.

    def _state_sizes(self, layer: int) -> tuple[int, ...]:
        return (self._width(layer), *(self.hidden_sizes[layer],) * (len(self.cell.states) - 1))

    def _initial_states(self, hx: State, batch: int, single: bool) -> list[tuple[Tensor, ...]]:
        layers = [self._state_sizes(layer) for layer in range(self.num_layers) for _ in range(self._directions)]
        if hx is None:
            K, device = kernels.on(self.weight_ih_l0.device), self.weight_ih_l0.device
            zeros = {n: Tensor(K.zeros((batch, n), self.dtype), device=device) for n in {*sum(layers, ())}}
            return [tuple([zeros[n] for n in sizes]) for sizes in layers]
        names, members = [f"{state}_0" for state in self.cell.states], unpack_state(hx)
        differ = len(set(layers)) > 1
        if differ and len(names) == 1 and len(members) == len(layers):
            members = (hx,)
        if len(members) != len(names):
            several = f"{'a pair ' if len(names) == 2 else ''}({', '.join(names)})"
            raise ShapeError(f"{self._kind}: expected {several if len(names) > 1 else 'one state h_0'} as hx")
        cut = []
        for number, member in enumerate(members):
            shapes = [(sizes[number],) if single else (batch, sizes[number]) for sizes in layers]
            parts: Any = member
            if not differ:
                whole = self._checked_state(member, (len(layers), *shapes[0]))
                parts = [whole[k] for k in range(len(layers))]
            elif not isinstance(member, (tuple, list)) or len(member) != len(layers):
                raise ShapeError(f"{self._kind}: expected a list of {len(layers)} states, as layers differ in size")
            both = zip(parts, shapes, strict=True)
            cut.append([self._checked_state(part, shape).reshape(batch, shape[-1]) for part, shape in both])
        return list(zip(*cut, strict=True))

    def _checked_state(self, member: Any, shape: tuple[int, ...]) -> Tensor:
        state = ops.as_tensor(member, self.weight_ih_l0)
        if state.shape != shape:
            raise ShapeError(f"{self._kind}: expected an initial state {list(shape)}, got {list(state.shape)}")
        if state.dtype != self.dtype:
            raise DTypeError(f"{self._kind}: the initial state is {state.dtype}, the parameters {self.dtype}")
        return state

    def _final_states(self, finals: list[tuple[Tensor, ...]], single: bool) -> State:
        members: list[Any] = []
        for parts in zip(*finals, strict=True):  # [1, N, size] each
            if len({part.shape for part in parts}) > 1:
                members.append(tuple(part.squeeze((0, 1) if single else 0) for part in parts))
            else:
                member = ops.concatenate(parts) if len(parts) > 1 else parts[0]
                members.append(member.squeeze(1) if single else member)
        return pack_state(members)

    def _gate_input(self, rows: Any, weight: Tensor, bias: Tensor | None, embedding: Tensor | None) -> GateInput:
        """x W_ih^T + b for all packed rows, or for every token where that is less."""
        if embedding is None:
            return GateInput(ops.linear(rows, weight, bias))
        if embedding.shape[0] < rows.size:
            return GateInput(ops.linear(embedding, weight, bias), rows)
        return GateInput(ops.linear(ops.embedding(embedding, rows), weight, bias))

    def weights(self, layer: int, direction: int) -> RecurrentWeights:
        """What a layer is computed with beside weight_ih, as tensors."""
        cell, end, result = self.cell, _name("", layer, direction), RecurrentWeights()

        def get(name: str) -> Parameter:
            return getattr(self, name + end)

        result.inner = [get(f"weight_product{k}") for k in range(cell.equations.products)]
        if self.bias and cell.recurrent_gates:
            result.input_bias, result.bias = split_biases(cell.equations, get("bias_ih"), get("bias_hh"))
        elif self.bias:
            result.input_bias = get("bias_ih")
        if cell.recurrent_gates:
            result.weight_hh = ops.dropout(get("weight_hh"), self.weight_drop, self.training)
        if cell.vectors:
            result.vectors = ops.stack([get(name) for name in cell.vectors])
        if self.proj_size:
            result.weight_hr = get("weight_hr")
        return result

    @property
    def _drops_state(self) -> bool:
        return self.recurrent_dropout > 0 and self.recurrent_dropout_on == "state"

    def resolved(self) -> Equations:
        """The cell's equations as this layer computes them, in training or in evaluation."""
        update = self.recurrent_dropout > 0 and not self._drops_state
        return self.cell.equations.resolve(self.training, self.zoneout > 0, update, self._drops_state)

    def _noise(self, equations: Equations, layer: int, batch: int) -> Noise:
        """The random numbers of one layer and direction in this call."""
        mask = None
        if equations.masked:
            K = kernels.on(self.weight_ih_l0.device)
            ones = K.ones_like(K.zeros((batch, self.hidden_sizes[layer]), self.dtype))
            mask = K.dropout(ones, self.recurrent_dropout, random.draw_seed())
        seed = random.draw_seed() if equations.graph.draws else 0
        return Noise(seed, self.zoneout, self.recurrent_dropout, mask)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
                    "proj_size": 0, "zoneout": 0.0, "recurrent_dropout": 0.0, "weight_drop": 0.0,
                    "residual": False}  # fmt: skip
        for name, default in defaults.items():
            if getattr(self, name) != default:
                shown += f", {name}={getattr(self, name)}"
        return shown if type(self) is not Recurrent else f"{self.cell!r}, {shown}"


def _name(name: str, layer: int, direction: int) -> str:
    return f"{name}_l{layer}{'_reverse' if direction else ''}"


class _NamedLayer(Recurrent):
    """A layer of one cell, with PyTorch's arguments."""

    cell_name = ""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(
            self.cell_name, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype
        )


class RNN(_NamedLayer):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu (Elman 1990).

    ``y, h_n = rnn(x, h_0, lengths=lengths)``; arguments as in :class:`Recurrent`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity, self.cell_name = nonlinearity, "rnn" if nonlinearity == "tanh" else "rnn_relu"
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)


class LSTM(_NamedLayer):
    """i, f, o = sigmoid(W x + b + W' h + b'), g = tanh(...), c = f c + i g, h = o tanh(c).

    ``y, (h_n, c_n) = lstm(x, (h_0, c_0), lengths=lengths)`` (Hochreiter & Schmidhuber 1997; forget gate: Gers et
    al. 2000). With ``proj_size`` P, h is W_hr (o tanh(c)), P wide (Sak, Senior & Beaufays 2014). Other arguments
    as in :class:`Recurrent`; weights hold the gates in the order i, f, g, o.

    >>> import minirnn as mr
    >>> lstm = mr.nn.LSTM(3, 5, bidirectional=True)
    >>> y, (h_n, c_n) = lstm(mr.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h_n.shape
    ((7, 2, 10), (2, 2, 5))
    """

    cell_name = "lstm"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        limit = positive("LSTM: hidden_size", hidden_size) - 1
        if not isinstance(proj_size, (int, np.integer)) or not 0 <= proj_size <= limit:
            raise OptionError(f"LSTM: proj_size must be from 0 (none) to hidden_size - 1, {limit}, got {proj_size}")
        self.proj_size = proj_size
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)


class GRU(_NamedLayer):
    """r, z = sigmoid(W x + b + W' h + b'), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h = (1 - z) n + z h.

    ``y, h_n = gru(x, h_0, lengths=lengths)`` (Cho et al. 2014, in cuDNN's form); arguments as in
    :class:`Recurrent`; weights hold the gates in the order r, z, n.
    """

    cell_name = "gru"
