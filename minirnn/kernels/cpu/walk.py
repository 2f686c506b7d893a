"""What every recurrent kernel does at every step: find its own rows, fetch its input, add what came from above."""

from __future__ import annotations

from typing import Any

from minirnn.kernels.jit import jit


@jit(inline=True)
def own_rows(starts: Any, step: int, backwards: bool, share: int, shares: int) -> Any:
    """The ``step``-th step of the walk: its first packed row, how many it has, how many are this share's."""
    t = starts.size - 2 - step if backwards else step
    start = starts[t]
    count = starts[t + 1] - start
    return start, count, (count - share + shares - 1) // shares


@jit(inline=True)
def pick_rows(gates: Any, table: Any, tokens: Any, start: int, count: int, share: int, shares: int) -> None:
    """gates[s] = table[tokens[s]], [G, H] each, where the input is given as a table; else they are filled."""
    if tokens.size > 0:
        for r in range(share, count, shares):
            token = tokens[start + r]
            for k in range(gates.shape[1]):
                for j in range(gates.shape[2]):
                    gates[start + r, k, j] = table[token, k, j]


@jit(inline=True)
def add_rows(dh: Any, dy: Any, start: int, count: int, share: int, shares: int) -> None:
    """dh[r] += dy[s], [H] each, where the outputs have a gradient at all."""
    if dy.size > 0:
        for r in range(share, count, shares):
            for j in range(dh.shape[1]):
                dh[r, j] += dy[start + r, j]
