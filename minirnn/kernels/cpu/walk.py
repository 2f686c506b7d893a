"""What every recurrent kernel does at every step: find its own rows, fetch its input, add what came from above."""

from __future__ import annotations

from typing import Any

from minirnn.kernels.jit import jit


@jit(inline=True)
def own_places(loads: Any, share: int, shares: int) -> Any:
    """The sequences of this share, sorted places ``first`` to ``last - 1``: neighbours, an equal part of all steps.

    Neighbours, because rows dealt out one by one would have every thread's prefetcher fetch the others' rows.

    Args:
        loads: [N + 1] steps of the sequences before each place.
    """
    total, batch = loads[loads.size - 1], loads.size - 1
    first, last = 0, 0
    while first < batch and loads[first] * shares < total * share:
        first += 1
    if share == shares - 1:
        return first, batch
    while last < batch and loads[last] * shares < total * (share + 1):
        last += 1
    return first, last


@jit(inline=True)
def own_rows(starts: Any, step: int, backwards: bool, first: int, last: int) -> Any:
    """Where the ``step``-th step of the walk starts, and which of its rows are this share's: up to ``stop - 1``."""
    t = starts.size - 2 - step if backwards else step
    start = starts[t]
    return start, min(last, starts[t + 1] - start)


@jit(inline=True)
def pick_rows(gates: Any, table: Any, tokens: Any, start: int, first: int, stop: int) -> None:
    """gates[s] = table[tokens[s]], [G, H] each, where the input is given as a table; else they are filled."""
    if tokens.size > 0:
        for r in range(first, stop):
            token = tokens[start + r]
            for k in range(gates.shape[1]):
                for j in range(gates.shape[2]):
                    gates[start + r, k, j] = table[token, k, j]


@jit(inline=True)
def add_rows(dh: Any, dy: Any, start: int, first: int, stop: int) -> None:
    """dh[r] += dy[s], [H] each, where the outputs have a gradient at all."""
    if dy.size > 0:
        for r in range(first, stop):
            for j in range(dh.shape[1]):
                dh[r, j] += dy[start + r, j]
