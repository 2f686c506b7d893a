"""What every generated recurrent kernel does at a step: find its rows, fetch their input, fill and copy."""

from __future__ import annotations

from typing import Any

from minirnn.kernels.jit import jit

__all__ = [
    "add_output_gradients", "clear_place", "copy_rows", "fill_products", "fill_rows", "gather_inputs",
    "partition_sequences", "rows_of_step",
]  # fmt: skip


@jit(inline=True)
def partition_sequences(cumulative_steps: Any, thread_id: int, num_threads: int) -> Any:
    """The sequences of this thread, ``first`` to ``last - 1`` in sorted order: an equal part of all steps.

    Neighbours, because rows dealt out one by one would have every thread's prefetcher fetch the others' rows.

    Args:
        cumulative_steps: [N + 1] steps of all the sequences before each.
    """
    total, batch = cumulative_steps[cumulative_steps.size - 1], cumulative_steps.size - 1
    first, last = 0, 0
    while first < batch and cumulative_steps[first] * num_threads < total * thread_id:
        first += 1
    if thread_id == num_threads - 1:
        return first, batch
    while last < batch and cumulative_steps[last] * num_threads < total * (thread_id + 1):
        last += 1
    return first, last


@jit(inline=True)
def rows_of_step(starts: Any, step: int, backwards: bool, first: int, last: int) -> Any:
    """The first packed row of the ``step``-th step, and the end of this thread's sequences that have it."""
    t = starts.size - 2 - step if backwards else step
    start = starts[t]
    return start, min(last, starts[t + 1] - start)


@jit(inline=True)
def gather_inputs(gates: Any, table: Any, tokens: Any, start: int, first: int, stop: int) -> None:
    """gates[s] = table[tokens[s]], [G, H] each, where the input is given as a table; else they are filled already."""
    if tokens.size > 0:
        for r in range(first, stop):
            token = tokens[start + r]
            for k in range(gates.shape[1]):
                for j in range(gates.shape[2]):
                    gates[start + r, k, j] = table[token, k, j]


@jit(inline=True)
def add_output_gradients(d_h: Any, dy: Any, start: int, first: int, stop: int) -> None:
    """d_h[r] += dy[s], [H] each, where the outputs have a gradient at all."""
    if dy.size > 0:
        for r in range(first, stop):
            for j in range(d_h.shape[1]):
                d_h[r, j] += dy[start + r, j]


@jit(inline=True)
def fill_rows(target: Any, first: int, stop: int, value: float) -> None:
    """target[r] = value, for rows of any shape [rows, columns]."""
    for r in range(first, stop):
        for j in range(target.shape[1]):
            target[r, j] = value


@jit(inline=True)
def copy_rows(target: Any, at: int, source: Any, source_at: int, count: int) -> None:
    """target[at + r] = source[source_at + r], rows [columns]."""
    for r in range(count):
        for j in range(source.shape[1]):
            target[at + r, j] = source[source_at + r, j]


@jit(inline=True)
def clear_place(target: Any, index: int, first: int, stop: int) -> None:
    """target[r, index] = 0, for rows of places [index, H]."""
    for r in range(first, stop):
        for j in range(target.shape[2]):
            target[r, index, j] = 0


@jit(inline=True)
def fill_products(products: Any, bias: Any, first: int, stop: int) -> None:
    """products[s, k] = bias[k] for the K gates that have one, 0 for the results of products inside the step."""
    for s in range(first, stop):
        for k in range(products.shape[1]):
            for j in range(products.shape[2]):
                products[s, k, j] = bias[k, j] if k < bias.shape[0] else 0
