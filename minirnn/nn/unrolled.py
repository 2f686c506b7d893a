"""Cells unrolled over whole sequences in primitive operations, and two directions as one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn.cells import Cell, RecurrentCell
from minirnn.nn.module import Module, ModuleList, as_input
from minirnn.nn.state import State, check_lengths, unpack_state
from minirnn.validation import check_choice

Cells: TypeAlias = Module | Sequence[Cell]
Merge = Literal["concat", "sum", "mul", "ave"]
MERGES: tuple[Merge, ...] = ("concat", "sum", "mul", "ave")


class SequenceModule(Module):
    """Base class of modules over whole sequences, ``y, state = module(x, state, lengths)``, that can also be called for
    one step: ``y, state = module.step(x, state)``."""

    def initial_state(self, batch_size: int = 1) -> State:
        """Return the state before the first step, for ``batch_size`` sequences."""
        raise OptionError(f"{type(self).__name__} must define initial_state(batch_size)")

    def step(self, x: ArrayLike, state: State = None) -> tuple[Tensor, State]:
        """Compute one step in evaluation mode, without a tape: x [N, I] to y [N, H] and the new state."""
        raise OptionError(f"{type(self).__name__} must define step(x, state)")

    def _check_one_direction(self, other: bool) -> None:
        if other:
            raise OptionError(f"{type(self).__name__}: step needs one direction, forward; the other starts at the end")


class Unrolled(SequenceModule):
    """A cell, or a stack of cells, unrolled step by step: what :class:`~minirnn.nn.Recurrent` makes of a module.

    Args:
        cell: a module whose call takes (x [N, I], state) and returns the next state (its first member, or itself, is
            the output [N, H]) and which has ``initial_state(batch_size)``; or a list, each reading the one before.
        reverse: if True, run from each sequence's own last step to its first.
        batch_first: if True, x and y are [N, T, ...] instead of [T, N, ...].

    >>> import minirnn as mr
    >>> y, state = mr.nn.Recurrent([mr.nn.GRUCell(3, 5), mr.nn.LSTMCell(5, 4)])(mr.zeros(7, 2, 3))
    >>> y.shape, len(state)
    ((7, 2, 4), 2)
    """

    def __init__(self, cell: Cells, reverse: bool = False, batch_first: bool = False) -> None:
        if isinstance(cell, (list, tuple)):
            if not cell or not all(isinstance(one, Module) for one in cell):
                raise OptionError("Recurrent: expected a cell, or a list of at least one, each of them a module")
            cell = ModuleList(*cell)
        self.cell: Any = cell
        self.reverse, self.batch_first = reverse, batch_first

    @property
    def _cells(self) -> list[Any]:
        return list(self.cell) if isinstance(self.cell, ModuleList) else [self.cell]

    def forward(self, x: ArrayLike, state: State = None, lengths: ArrayLike | None = None) -> tuple[Tensor, State]:
        """Run over whole sequences.

        Args:
            x: [T, N, I], or [N, T, I] with ``batch_first``.
            state: the initial state of the cell; of a stack, a list with one state per cell. None: ``initial_state``.
            lengths: [N] integers from 0 to T; steps past a sequence's length leave its state alone and give zeros in y.

        Returns:
            y [T, N, H] (or [N, T, H]), and the state after each sequence's last step; of a stack, a tuple of states.

        Raises:
            ShapeError, OptionError, DTypeError: x, the state or the lengths do not fit.
        """
        stacked, cells = isinstance(self.cell, ModuleList), self._cells
        values = ops.as_tensor(x)
        takes_tokens = values.dtype.kind != "f" and not isinstance(cells[0], RecurrentCell)
        x = values if takes_tokens else as_input(self, x)
        if x.ndim != 3:
            raise ShapeError(f"Recurrent: expected x of three dimensions, got {list(x.shape)}")
        x = x.transpose(0, 1) if self.batch_first else x
        length, batch = x.shape[:2]
        if length == 0:
            raise ShapeError("Recurrent: expected at least one step, got none")
        counts = None if lengths is None else check_lengths("Recurrent", lengths, length, batch)
        steps = [step.squeeze(0) for step in x.split(1)]  # one node: indexing would make T gradients as large as x
        states = [state] if not stacked else [None] * len(cells) if state is None else state
        if not isinstance(states, (tuple, list)) or len(states) != len(cells):
            raise ShapeError(f"Recurrent: expected a list of {len(cells)} states, one for each layer")
        finals: list[State] = []
        for cell, initial in zip(cells, states, strict=True):
            steps, final = self._unroll(cell, steps, initial, batch, counts)
            finals.append(final)
        y = ops.stack(steps)
        return y.transpose(0, 1) if self.batch_first else y, tuple(finals) if stacked else finals[0]

    def initial_state(self, batch_size: int = 1) -> State:
        self._check_one_direction(self.reverse)
        states = [cell.initial_state(batch_size) for cell in self._cells]
        return tuple(states) if isinstance(self.cell, ModuleList) else states[0]

    def step(self, x: ArrayLike, state: State = None) -> tuple[Tensor, State]:
        self._check_one_direction(self.reverse)
        time = 1 if self.batch_first else 0
        with self.evaluating():
            y, state = self(ops.as_tensor(x).unsqueeze(time), state)
            return y.squeeze(time), state

    def _unroll(
        self, cell: Any, steps: list[Tensor], state: State, batch: int, counts: np.ndarray | None
    ) -> tuple[list[Tensor], State]:
        """Run one cell over all steps [N, I]; return its outputs, and the state after the last."""
        length = len(steps)
        state = cell.initial_state(batch) if state is None else state
        state = _map_state(lambda member: as_input(cell, member) if isinstance(member, np.ndarray) else member, state)
        outputs: list[Tensor] = [steps[0]] * length
        for t in reversed(range(length)) if self.reverse else range(length):
            new = cell(steps[t], state)
            running = None if counts is None or counts.min(initial=length) > t else t < counts
            state = new if running is None else _select(running, new, state)
            output = unpack_state(state)[0]
            outputs[t] = output if running is None else _select(running, output, 0.0)
        return outputs, state


def _select(mask: np.ndarray, new: Any, old: Any) -> Any:
    """Return the new state [N, ...] where the mask [N] is true, else the old one."""
    return _map_state(lambda n, o: ops.where(mask.reshape(-1, *(1,) * (n.ndim - 1)), n, o), new, old)


def _map_state(function: Callable[..., Any], *states: Any) -> Any:
    """Apply a function to each member of a state, or to those of several states of one form."""
    first = states[0]
    if isinstance(first, (tuple, list)):
        members = [_map_state(function, *parts) for parts in zip(*states, strict=True)]
        return type(first)(*members) if hasattr(first, "_fields") else type(first)(members)  # a named tuple stays one
    return function(*states)


def merge_directions(forward: Tensor, backward: Tensor, merge: Merge) -> Tensor:
    """Merge the outputs [..., H] of two directions: [..., 2 H] with "concat", else [..., H]."""
    if merge == "concat":
        return ops.concatenate([forward, backward], forward.ndim - 1)
    if merge == "mul":
        return forward * backward
    total = forward + backward
    return total * 0.5 if merge == "ave" else total


def is_cell(value: Any) -> TypeGuard[Cells]:
    """Return whether :class:`Unrolled` takes this: a module that computes one step, or a list of such modules."""
    if isinstance(value, (list, tuple, ModuleList)):
        return True
    return hasattr(value, "initial_state") and not isinstance(value, SequenceModule)


class Bidirectional(Module):
    """Two recurrent modules over the same sequences, the second in reverse; their outputs are merged.

    ``y, (state_fwd, state_bwd) = Bidirectional(fwd, bwd)(x, (state_fwd, state_bwd), lengths)``.

    Args:
        fwd, bwd: ``Recurrent(cell)`` and ``Recurrent(cell, reverse=True)``; or cells (modules with ``initial_state``)
            or lists of cells, which are wrapped so.
        merge: "concat" (y [T, N, 2 H]), or "sum", "mul" or "ave" (the mean) of both (y [T, N, H]).
        batch_first: of cells that are wrapped: if True, x and y are [N, T, ...].
    """

    def __init__(self, fwd: Cells, bwd: Cells, merge: Merge = "concat", batch_first: bool = False) -> None:
        check_choice("Bidirectional: merge", merge, MERGES)
        self.fwd: Any = Unrolled(fwd, False, batch_first) if is_cell(fwd) else fwd
        self.bwd: Any = Unrolled(bwd, True, batch_first) if is_cell(bwd) else bwd
        if isinstance(self.bwd, Unrolled) and not self.bwd.reverse:
            raise OptionError("Bidirectional: bwd must run in reverse; make it with Recurrent(cell, reverse=True)")
        self.merge = merge

    def forward(
        self, x: ArrayLike, state: tuple[State, State] | None = None, lengths: ArrayLike | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        """Run both directions; ``state`` is a pair of their initial states, or None."""
        state_fwd, state_bwd = (None, None) if state is None else state
        y_fwd, state_fwd = self.fwd(x, state_fwd, lengths)
        y_bwd, state_bwd = self.bwd(x, state_bwd, lengths)
        return merge_directions(y_fwd, y_bwd, self.merge), (state_fwd, state_bwd)
