"""Products of a few rows that threads compute together: each some of the columns, in one loop, without sleeping.

Every thread runs the whole loop on a copy of its own of all that changes. Of a product it computes its panels, leaves
the result in a buffer, and takes the others' from there: one exchange a product, and no other meeting. If another
thread does not come in time, because the system has given its processor to a different program, the team dissolves:
thread 0 goes on alone, with all panels, and the others return as soon as they notice. The numbers are the same, so no
thread waits for long, and none can hang.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels.jit import chunk_of, jit
from minirnn.kernels.spin import LINE, load_atomic, spin_until, store_atomic
from minirnn.kernels.tile import panel_width

SPINS = 1 << 19
"""How often a thread looks for another's part, 0.1 ms or less, before it goes on alone."""

_DISSOLVED = 1 << 62

Team = tuple[np.ndarray, np.ndarray, int]
"""``progress``: a cache line for each thread, how many products it has left, or that the team has dissolved for it;
``parts`` [2, N]: the buffers of consecutive products; the number of spins."""


def make_team(num_threads: int, size: int, dtype: np.dtype) -> Team:
    """What threads share, for products of up to ``size`` numbers; 0 where they divide the sequences instead."""
    return np.zeros(LINE * num_threads, np.int64), np.empty((2, size), dtype), SPINS


def is_dissolved(progress: np.ndarray) -> bool:
    """Whether thread 0 had to go on alone."""
    return bool(progress[0] >= _DISSOLVED)


@jit(inline=True)
def is_over(team, thread_id, num_threads):
    """Whether the team has dissolved for this thread and, if that is thread 0, for all others too."""
    progress = team[0]
    last = num_threads if thread_id == 0 else thread_id + 1
    over = True
    for member in range(thread_id, last):
        over = over and load_atomic(progress, LINE * member) >= _DISSOLVED
    return over


def make_multiply_shared(multiply: Any) -> Any:
    """The product C += A B of a team, made of one of a thread alone, ``multiply``.

    It takes ``thread_id, num_threads, team``, then what ``multiply`` takes: the arguments of
    :func:`minirnn.kernels.tile.multiply_add`, the panels being a whole array of three dimensions.
    """

    @jit
    def multiply_shared(
        thread_id, num_threads, team, a, a_at, a_row, a_column, rows, panels, panels_at, panel_size, depth,
        c, c_at, c_row, columns,
    ):  # fmt: skip
        progress, parts, spins = team
        size, width, own = panels.shape[1] * panels.shape[2], panel_width(panels), LINE * thread_id
        together = num_threads > 1 and parts.size > 0 and progress[own] < _DISSOLVED
        members = num_threads if together else 1
        number, out, count = progress[own] + 1, c.reshape(c.size), (columns + width - 1) // width
        part = parts[number & 1]
        for turn in range(members):
            member = (thread_id + turn) % members
            first, last = chunk_of(count, member, members)
            begin, stop = first * width, min(columns, last * width)
            if turn > 0 and progress[own] < _DISSOLVED:
                found = spin_until(progress, LINE * member, number, spins)
                if found and load_atomic(progress, LINE * member) < _DISSOLVED:
                    for r in range(rows):
                        for j in range(begin, stop):
                            out[c_at + r * c_row + j] = part[r * columns + j]
                    continue
                store_atomic(progress, own, _DISSOLVED)
            if thread_id > 0 and progress[own] >= _DISSOLVED:
                return
            to, used = c_at + begin, stop - begin
            multiply(a, a_at, a_row, a_column, rows, panels, first * size, size, depth, c, to, c_row, used)
            if together and turn == 0:
                for r in range(rows):
                    for j in range(begin, stop):
                        part[r * columns + j] = out[c_at + r * c_row + j]
                store_atomic(progress, own, number)

    return multiply_shared
