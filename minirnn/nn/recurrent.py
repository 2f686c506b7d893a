"""A recurrent layer of any cell over whole sequences, by kernels generated from the cell's equations."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from minirnn import cells, kernels, random
from minirnn.autograd import ops
from minirnn.autograd.sequence import GateInput, recurrent_sequence, split_biases
from minirnn.autograd.tape import same_device
from minirnn.autograd.tensor import DType, Tensor
from minirnn.cells import Cell
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.kernels.contract import Array, Noise, RecurrentWeights
from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import dense_steps, ragged_steps
from minirnn.nn.cells import new_parameters
from minirnn.nn.module import Parameter
from minirnn.nn.state import State, StateLayout, check_lengths
from minirnn.nn.unrolled import SequenceModule, Unrolled, is_cell
from minirnn.validation import check_choice, check_float, check_int


class Recurrent(SequenceModule):
    """One or more recurrent layers of any cell over whole sequences.

    ``y, state = Recurrent("peephole_lstm", 3, 5)(x, state, lengths=lengths)``; the shapes are those of :meth:`forward`.
    Given a module with a step of its own, or a list of such modules, in place of the cell,
    ``Recurrent(cell, reverse=False, batch_first=False)`` unrolls it: see :class:`~minirnn.nn.unrolled.Unrolled`.

    Args:
        cell: a name of :func:`minirnn.cells.names`, or a cell made by :func:`minirnn.cell`.
        input_size, hidden_size: number of features I of the input, and of units H, or a list with one H per layer.
        num_layers: number of layers L; each above the first reads the outputs of the one below.
        bias: if False, the layers have no bias_ih and bias_hh.
        batch_first: if True, x and y are [N, T, ...] instead of [T, N, ...]; states are not changed by this.
        dropout: probability of dropout on the outputs of all layers but the last, in training.
        bidirectional: if True, a second direction runs from each sequence's last step to its first (D = 2); y has both
            outputs, concatenated.
        zoneout: probability of a unit to keep its old state in training (Krueger et al. 2017); in evaluation the state
            is its expected value.
        recurrent_dropout: probability of dropout inside the recurrence, in training.
        weight_drop: probability of dropout on recurrent weights in training, one mask per call (DropConnect; Merity,
            Keskar & Socher 2018).
        residual: if True, each layer above the first adds its input to its output (Wu et al. 2016, section 3.1).
        dtype: of the parameters, float32 or float64.
        recurrent_dropout_on: "state": one mask for all steps on h where the recurrent weights multiply it (Gal &
            Ghahramani 2016); "update": a mask for each step on the new value that a gate adds to the state (Semeniuta,
            Severyn & Barth 2016).

    Parameters of layer k (``_reverse`` at the end for the second direction), from U(-1/sqrt(H), 1/sqrt(H)), for G gates
    with an input part and R with a recurrent part, in the order of the cell's definition: ``weight_ih_l{k}`` [G H, I]
    (above the first layer [G H, D H]), ``weight_hh_l{k}`` [R H, H], ``bias_ih_l{k}`` [G H], ``bias_hh_l{k}`` [R H],
    ``weight_product{m}_l{k}`` [H, H] for each product inside the step; and each learnt vector ``{name}_l{k}`` [H].

    >>> import minirnn as mr
    >>> layer = mr.nn.Recurrent("peephole_lstm", 3, 5, num_layers=2, bidirectional=True)
    >>> y, (h_n, c_n) = layer(mr.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h_n.shape
    ((7, 2, 10), (4, 2, 5))
    """

    proj_size = 0
    weight_ih_l0: Parameter

    dropout: float = 0.0
    weight_drop: float = 0.0

    def __init__(
        self,
        cell: str | Cell,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_drop: float = 0.0,
        residual: bool = False,
        dtype: DType = "float32",
        recurrent_dropout_on: Literal["state", "update"] = "state",
    ) -> None:
        caller, self.cell = type(self).__name__, cells.get(cell)
        self.input_size = check_int(f"{caller}: input_size", input_size)
        self.num_layers = check_int(f"{caller}: num_layers", num_layers)
        sizes = hidden_size if isinstance(hidden_size, (list, tuple)) else [hidden_size] * self.num_layers
        if len(sizes) != num_layers:
            raise OptionError(f"{caller}: expected {num_layers} hidden sizes, one per layer, got {hidden_size}")
        self.hidden_size = hidden_size
        self.hidden_sizes = [check_int(f"{caller}: hidden_size", size) for size in sizes]
        self.zoneout = check_float(f"{caller}: zoneout", zoneout, 0, 1)
        self.recurrent_dropout = check_float(f"{caller}: recurrent_dropout", recurrent_dropout, 0, 1)
        on = check_choice(f"{caller}: recurrent_dropout_on", recurrent_dropout_on, ("state", "update"))
        self.recurrent_dropout_on, self.residual = on, residual
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.set_dropout(dropout, weight_drop)
        self._check_cell(caller)
        self._directions = (0, 1) if bidirectional else (0,)
        state_sizes: list[tuple[int, ...]] = []
        features = self.input_size
        for layer, size in enumerate(self.hidden_sizes):
            width = self.proj_size or size
            for direction in self._directions:
                made = new_parameters(self.cell, features, size, bias, dtype, self.proj_size)
                self._names = list(made)  # the same in every layer
                for name, parameter in made.items():
                    setattr(self, name + _suffix(layer, direction), parameter)
                state_sizes.append((width, *(size,) * (len(self.cell.states) - 1)))
            features = width * len(self._directions)
        self._states = StateLayout(caller, self.cell.states, state_sizes)

    def __new__(cls, cell: Any = None, *args: Any, **kwargs: Any) -> Any:
        if cls is Recurrent and is_cell(cell):
            return Unrolled(cell, *args, **kwargs)
        return object.__new__(cls)

    __new__.__wrapped__ = __init__  # type: ignore[attr-defined] # help() shows the arguments of __init__

    def set_dropout(self, dropout: float | None = None, weight_drop: float | None = None) -> None:
        """Set two of the rates for the training that follows; None leaves a rate as it is.

        Raises:
            OptionError: one is not from 0 to 1, or the cell has no recurrent weights to drop.
        """
        caller = type(self).__name__
        dropout = check_float(f"{caller}: dropout", self.dropout if dropout is None else dropout, 0, 1)
        weight_drop = check_float(
            f"{caller}: weight_drop", self.weight_drop if weight_drop is None else weight_drop, 0, 1
        )
        if weight_drop and not self.cell.recurrent_gates:
            raise OptionError(f"{caller}: {self.cell.name} has no recurrent weights that weight_drop could drop")
        self.dropout, self.weight_drop = dropout, weight_drop

    def _check_cell(self, caller: str) -> None:
        """Raise :class:`OptionError` for an option that means nothing for this cell or these sizes."""
        cell, dropout_on = self.cell, self.recurrent_dropout_on if self.recurrent_dropout else None
        if dropout_on == "update" and not cell.equations.has_dropout:
            raise OptionError(f"{caller}: {cell.name} marks no update by dropout(x); use recurrent_dropout_on='state'")
        if dropout_on == "state" and not cell.recurrent_gates:
            raise OptionError(f"{caller}: {cell.name} has no recurrent weights; use recurrent_dropout_on='update'")
        if self.residual and len(set(self.hidden_sizes)) > 1:
            raise OptionError(f"{caller}: residual needs layers of one size, got {self.hidden_sizes}")

    @property
    def dtype(self) -> np.dtype:
        return self.weight_ih_l0.dtype

    def forward(
        self, x: ArrayLike, hx: State = None, lengths: ArrayLike | None = None, embedding: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run the layers over whole sequences.

        Args:
            x: [T, N, I], [N, T, I] with ``batch_first``, or [T, I] for one sequence.
            hx: initial states, zeros where None. h_0 [L D, N, H] ([L D, H] for one sequence), or a tuple with one for
                each state of the cell: (h_0, c_0) for an LSTM, h_0 [L D, N, P] where it has a projection. Where layers
                differ in size, each is a list of [N, H], one per layer and direction.
            lengths: [N] integers from 0 to T, in any order; all T where None. Steps past a sequence's length cost
                nothing and give zeros in y; final states are those of each sequence's own last step.
            embedding: a table [V, I]; x then holds integer tokens, [T, N] (or [N, T], [T]).

        Returns:
            y, as x with D H features, and the final states h_n, in the form of ``hx``.

        Raises:
            ShapeError, DTypeError, IndexRangeError, OptionError: an input does not fit.
        """
        x = self._check_input(x, embedding)
        unbatched = x.ndim == (2 if embedding is None else 1)
        if unbatched or self.batch_first:
            x = x.unsqueeze(1) if unbatched else x.transpose(0, 1)
        length, batch = x.shape[:2]
        counts = check_lengths(type(self).__name__, lengths, length, batch)
        if counts.min(initial=length) == length:
            steps = dense_steps(length, batch), dense_steps(length, batch, True)
        else:
            steps = ragged_steps(counts, length)
        states = self._states.split(hx, batch, unbatched, self.weight_ih_l0)

        packed = steps[0].packed
        numbers = _numbers(length, batch, packed), _numbers(1, batch, steps[0].order)
        rows = x.reshape(length * batch, *x.shape[2:])
        rows = rows if packed is None else ops.take_rows(rows, packed)
        equations = self.resolved()
        finals: list[Sequence[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in self._directions:
                weights = self.weights(layer, direction)
                weight_ih = self._parameter("weight_ih", layer, direction)
                gate_input = _gate_input(rows, weight_ih, weights.input_bias, embedding if layer == 0 else None)
                noise, initial = self._noise(equations, layer, batch, numbers), states[len(finals)]
                y, *final = recurrent_sequence(equations, gate_input, weights, initial, steps[direction], noise)
                outputs.append(y)
                finals.append(final)
            below, rows = rows, ops.concatenate(outputs, 1) if self.bidirectional else outputs[0]
            if self.residual and layer > 0:
                rows = rows + below
            if layer + 1 < self.num_layers:
                rows = ops.dropout(rows, self.dropout, self.training, numbers[0])
        if packed is not None:
            rows = ops.scatter_rows(rows, packed, length * batch)

        y = rows.reshape(length, batch, rows.shape[1])
        if unbatched or self.batch_first:
            y = y.squeeze(1) if unbatched else y.transpose(0, 1)
        return y, self._states.join(finals, unbatched)

    def initial_state(self, batch_size: int = 1) -> State:
        """Return the state before the first step, zeros, in the form of ``hx`` for ``batch_size`` sequences."""
        self._check_one_direction(self.bidirectional)
        batch = check_int(f"{type(self).__name__}: batch_size", batch_size, 0)
        zeros = self._states.split(None, batch, False, self.weight_ih_l0)
        return self._states.join([[zero.unsqueeze(0) for zero in layer] for layer in zeros], False)

    def step(self, x: ArrayLike, state: State = None) -> tuple[Tensor, State]:
        """Compute one step in evaluation mode, without a tape: as :meth:`forward` with T = 1, but much faster.

        The parameters are read as they are at this call. ``state`` is not changed: it can be gone on from again.

        Args:
            x: [N, I], also with ``batch_first``.
            state: from :meth:`initial_state`, an earlier step or :meth:`forward`; zeros where None.

        Returns:
            y [N, H], the outputs of the top layer, and the new state.

        Raises:
            ShapeError, DTypeError, OptionError: an input does not fit, or the layers run in both directions.
        """
        self._check_one_direction(self.bidirectional)
        caller, like = type(self).__name__, self.weight_ih_l0
        given = ops.as_tensor(x, like)
        if given.ndim != 2 or given.shape[1] != self.input_size:
            raise ShapeError(f"{caller}: expected x [N, {self.input_size}] of one step, got {list(given.shape)}")
        if given is x and given.dtype != like.dtype:
            raise DTypeError(f"{caller}: x is {given.dtype}, the parameters {like.dtype}; convert one with .to(...)")
        K, own, equations = kernels.on(like.device), vars(self), self.resolved(False)
        same_device(f"{caller}: step", given, like)
        rows = K.contiguous(given.data.astype(like.dtype, copy=False))
        finals: list[list[Array]] = []
        for layer, states in enumerate(self.split_state(state, len(rows))):
            weights = {name: own[f"{name}_l{layer}"].data for name in self._names}
            finals.append(K.recurrent_step(equations, rows, weights, states, self.zoneout))
            rows = rows + finals[-1][0] if self.residual and layer > 0 else finals[-1][0]
        return Tensor(rows.copy(), device=like.device), self._states.join_arrays(finals, like)

    def split_state(self, state: State, batch: int) -> Sequence[Sequence[Array]]:
        """Return the states of each layer and direction as arrays [N, H], zeros for None; they may share memory."""
        return self._states.arrays(state, batch, self.weight_ih_l0)

    def _check_input(self, x: ArrayLike, embedding: Tensor | None) -> Tensor:
        caller, size = type(self).__name__, self.input_size
        if embedding is None:
            x = ops.as_tensor(x, self.weight_ih_l0)
            if x.ndim not in (2, 3) or x.shape[-1] != size:
                batched = f"[N, T, {size}]" if self.batch_first else f"[T, N, {size}]"
                raise ShapeError(f"{caller}: expected x {batched} or [T, {size}], got {list(x.shape)}")
            if x.dtype != self.dtype:
                raise DTypeError(f"{caller}: x is {x.dtype}, the parameters {self.dtype}; convert one with .to(...)")
            return x
        tokens = ops.as_index(f"{caller} tokens", x)  # checked on the host
        if embedding.ndim != 2 or embedding.shape[1] != size:
            raise ShapeError(f"{caller}: expected a table [V, {size}], got {list(embedding.shape)}")
        ops.check_range(caller, tokens, embedding.shape[0])
        if tokens.ndim not in (1, 2):
            raise ShapeError(f"{caller}: expected tokens [T, N] or [T], got {list(tokens.shape)}")
        return Tensor(tokens)

    def _parameter(self, name: str, layer: int, direction: int) -> Parameter:
        return getattr(self, name + _suffix(layer, direction))

    def weights(self, layer: int, direction: int) -> RecurrentWeights[Tensor]:
        """Return what a layer is computed with besides weight_ih, as tensors."""
        cell, get = self.cell, partial(self._parameter, layer=layer, direction=direction)
        result: RecurrentWeights[Tensor] = RecurrentWeights()
        result.inner = [get(f"weight_product{number}") for number in range(cell.equations.products)]
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

    def resolved(self, training: bool | None = None) -> Equations:
        """Return the cell's equations as this layer computes them, in training or in evaluation; its mode if None."""
        on = self.recurrent_dropout_on if self.recurrent_dropout > 0 else None
        training = self.training if training is None else training
        return self.cell.equations.resolve(training, self.zoneout > 0, on == "update", on == "state")

    def _noise(
        self, equations: Equations, layer: int, batch: int, numbers: tuple[np.ndarray | None, np.ndarray | None]
    ) -> Noise[Array]:
        """The random numbers of one layer and direction in this call; ``numbers`` are those of rows and sequences."""
        mask = None
        if equations.masked:
            K = kernels.on(self.weight_ih_l0.device)
            ones = K.ones_like(K.zeros((batch, self.hidden_sizes[layer]), self.dtype))
            mask = K.dropout(ones, self.recurrent_dropout, random.draw_seed(), numbers[1])
        seed = random.draw_seed() if equations.graph.draws else 0
        return Noise(seed, self.zoneout, self.recurrent_dropout, mask, numbers[0])

    def extra_repr(self) -> str:
        shown = [] if type(self) is not Recurrent else [repr(self.cell)]
        shown += [str(self.input_size), str(self.hidden_size)]
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if parameter.default not in (parameter.empty, getattr(self, name, None)) and name != "dtype":
                shown.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(shown)


def _numbers(steps: int, batch: int, taken: np.ndarray | None) -> np.ndarray | None:
    """What random numbers depend on: where rows [steps N], some ``taken``, lie in the whole batch; None: in order."""
    shard = random.shard()
    if shard is None or shard.last - shard.first != batch:
        return taken
    numbers = shard.row_numbers(steps)
    return numbers if taken is None else numbers[taken]


def _gate_input(rows: Tensor, weight: Tensor, bias: Tensor | None, embedding: Tensor | None) -> GateInput:
    """x W_ih^T + b for all packed rows, or for every token of the table where those are fewer."""
    if embedding is None:
        return GateInput(ops.linear(rows, weight, bias))
    if embedding.shape[0] < rows.numel():
        return GateInput(ops.linear(embedding, weight, bias), rows.data)
    return GateInput(ops.linear(ops.embedding(embedding, rows), weight, bias))


def _suffix(layer: int, direction: int) -> str:
    return f"_l{layer}{'_reverse' if direction else ''}"
