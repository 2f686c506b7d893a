"""Recurrent states, and lengths of sequences: how they are given, checked and returned."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.tape import same_device
from minirnn.autograd.tensor import Tensor
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.kernels.contract import Array

State: TypeAlias = "Tensor | Sequence[State] | None"
"""A tensor, or a tuple with one for each state of the cell, as (h, c); None: zeros. Where layers differ in size, and
for a stack of unrolled cells, each element is itself a list with one state per layer."""


def unpack_state(state: State) -> tuple[Any, ...]:  # tensors, or lists of them
    """Return the tensors of a state as a tuple; an empty one for None."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


def pack_state(members: Sequence[State]) -> State:
    """Return the state with these tensors: None, the only tensor, or a tuple of them."""
    return tuple(members) if len(members) > 1 else members[0] if members else None


def zero_state(like: Tensor, *shape: int) -> Tensor:
    """Return zeros of a shape, with the dtype and on the device of ``like``."""
    return Tensor(kernels.on(like.device).zeros(shape, like.dtype), device=like.device)


def check_members(caller: str, argument: str, state: State, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the members of a state; :class:`ShapeError` unless there is one for each of ``names``."""
    members = unpack_state(state)
    if len(members) != len(names):
        kind = {1: "one state ", 2: "a pair "}.get(len(names), "")
        expected = kind + (names[0] if len(names) == 1 else f"({', '.join(names)})")
        raise ShapeError(f"{caller}: expected {expected} as {argument}, got {len(members)}")
    return members


def check_lengths(caller: str, lengths: ArrayLike | Tensor | None, length: int, batch: int) -> np.ndarray:
    """Return ``lengths`` as [N] integers from 0 to ``length``; where None, every sequence has ``length`` steps.

    Raises:
        ShapeError, OptionError, DTypeError: lengths are not one for each sequence, or out of range, or not integers.
    """
    if lengths is None:
        return np.full(batch, length)
    counts = ops.as_index(f"{caller} lengths", lengths)
    if counts.shape != (batch,):
        raise ShapeError(f"{caller}: expected a length for each of {batch} sequences, got {list(counts.shape)}")
    if counts.size and (counts.min() < 0 or counts.max() > length):
        raise OptionError(f"{caller}: expected lengths from 0 to {length}, got {counts.min()} to {counts.max()}")
    return counts


@dataclass(frozen=True)
class StateLayout:
    """Where the states of all layers and directions lie in what a user gives and gets.

    Attributes:
        caller, names: of the layer, for messages, and of the cell's states, as ("h", "c").
        sizes: for each layer and direction, layer 0 forward, layer 0 reverse, ..., the size of each of these states.
    """

    caller: str
    names: tuple[str, ...]
    sizes: list[tuple[int, ...]]

    def split(self, hx: State, batch: int, unbatched: bool, like: Tensor) -> list[tuple[Tensor, ...]]:
        """Return the initial states [N, size] of every layer and direction, in the dtype and on the device of ``like``.

        ``hx`` is None, or for each state of the cell a tensor [L D, N, size]; where layers differ in size, a list of
        [N, size]. Without N for one sequence (``unbatched``).
        """
        if hx is None:
            zeros = {size: zero_state(like, batch, size) for size in set(itertools.chain(*self.sizes))}
            return [tuple([zeros[size] for size in sizes]) for sizes in self.sizes]
        count, differ = len(self.sizes), len(set(self.sizes)) > 1
        if differ and len(self.names) == 1 and isinstance(hx, (tuple, list)) and len(hx) == count:
            hx = (hx,)
        columns = []
        for number, member in enumerate(check_members(self.caller, "hx", hx, [f"{name}_0" for name in self.names])):
            shapes = [(sizes[number],) if unbatched else (batch, sizes[number]) for sizes in self.sizes]
            if not differ:
                member = self._check(member, (count, *shapes[0]), like)
            elif not isinstance(member, (tuple, list)) or len(member) != count:
                raise ShapeError(f"{self.caller}: expected a list of {count} states, as layers differ in size")
            parts = [self._check(member[k], shape, like) for k, shape in enumerate(shapes)]
            columns.append([part.reshape(batch, part.shape[-1]) for part in parts])
        return list(zip(*columns, strict=True))

    @functools.cached_property
    def _same_sizes(self) -> tuple[int, ...] | None:
        """The size of each state of the cell, if those of all layers and directions are the same."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    def arrays(self, hx: State, batch: int, like: Tensor) -> Sequence[Sequence[Array]]:
        """As :meth:`split`, but arrays, which may be those of ``hx`` itself; fast, where they need no conversion."""
        members, sizes, count = unpack_state(hx), self._same_sizes, len(self.sizes)
        if sizes is None or len(members) != len(sizes):
            members = ()
        for member, size in zip(members, sizes or (), strict=False):
            fits = isinstance(member, Tensor) and member.shape == (count, batch, size)
            if not fits or member.dtype != like.dtype or member.device != like.device:
                members = ()
        contiguous = kernels.on(like.device).contiguous
        if members:
            return [[contiguous(member.data[number]) for member in members] for number in range(count)]
        found = self.split(hx, batch, False, like)
        same_device(f"{self.caller}: state", like, *itertools.chain(*found))
        return [[contiguous(part.data) for part in parts] for parts in found]

    def join_arrays(self, finals: Sequence[Sequence[Array]], like: Tensor) -> State:
        """As :meth:`join`, for new arrays [N, size] of every layer."""
        if self._same_sizes is None:
            return self.join([[Tensor(a, device=like.device).unsqueeze(0) for a in layer] for layer in finals], False)
        concatenate, members = kernels.on(like.device).concatenate, []
        for parts in zip(*finals, strict=True):
            rows = [part.reshape(1, *part.shape) for part in parts]
            members.append(Tensor(rows[0] if len(rows) == 1 else concatenate(rows, axis=0), device=like.device))
        return pack_state(members)

    def _check(self, state: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
        state = ops.as_tensor(state, like)
        if state.shape != shape:
            raise ShapeError(f"{self.caller}: expected an initial state {list(shape)}, got {list(state.shape)}")
        if state.dtype != like.dtype:
            raise DTypeError(f"{self.caller}: expected an initial state of {like.dtype}, got {state.dtype}")
        return state

    def join(self, finals: Sequence[Sequence[Tensor]], unbatched: bool) -> State:
        """Return the final states, [1, N, size] of every layer and direction, in the form of ``hx``."""
        members: list[Tensor | tuple[Tensor, ...]] = []
        for parts in zip(*finals, strict=True):
            if len({part.shape for part in parts}) > 1:
                members.append(tuple([part.squeeze((0, 1) if unbatched else 0) for part in parts]))
            else:
                member = ops.concatenate(parts) if len(parts) > 1 else parts[0]
                members.append(member.squeeze(1) if unbatched else member)
        return pack_state(members)
