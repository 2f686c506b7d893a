"""Modules with a step of their own over whole sequences, unrolled; and two directions as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn.cells import Cell, State, check_lengths, unpack_state
from minirnn.nn.module import Module, ModuleList


class Unrolled(Module):
    """A module with a step of its own over whole sequences: ``y, state = Recurrent(cell)(x, state, lengths)``.

    What :class:`~minirnn.nn.Recurrent` makes of a module, or of a list of modules, in primitive operations.

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
                raise OptionError("Recurrent: expected a cell, or a list of at least one, each of them a module")
            cell = ModuleList(*cell)
        self.cell, self.reverse, self.batch_first = cell, reverse, batch_first

    def forward(self, x: Any, state: State = None, lengths: Any = None) -> tuple[Tensor, State]:
        x = ops.as_tensor(x)
        if x.ndim != 3:
            raise ShapeError(f"Recurrent: expected x of three dimensions, got {list(x.shape)}")
        if self.batch_first:
            x = x.transpose(0, 1)
        length, batch = x.shape[:2]
        if length == 0:
            raise ShapeError("Recurrent: expected at least one step, got none")
        counts = None if lengths is None else check_lengths("Recurrent", lengths, length, batch)
        steps = [step.squeeze(0) for step in x.split(1)]  # one node: indexing would make T gradients as large as x
        if isinstance(self.cell, ModuleList):
            layers = len(self.cell)
            before = [None] * layers if state is None else state
            if not isinstance(before, (tuple, list)) or len(before) != layers:
                raise ShapeError(f"Recurrent: expected a list of {layers} states, one for each layer")
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
            output = unpack_state(state)[0]
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
    return Unrolled(module, reverse, batch_first) if cells else module


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
        if isinstance(self.bwd, Unrolled) and not self.bwd.reverse:
            raise OptionError("Bidirectional: bwd must run backwards; make it with Recurrent(cell, reverse=True)")
        self.merge = merge

    def forward(self, x: Any, state: State = None, lengths: Any = None) -> tuple[Tensor, State]:
        before_fwd, before_bwd = (None, None) if state is None else state
        y_fwd, state_fwd = self.fwd(x, before_fwd, lengths)
        y_bwd, state_bwd = self.bwd(x, before_bwd, lengths)
        return merge_directions(y_fwd, y_bwd, self.merge), (state_fwd, state_bwd)
