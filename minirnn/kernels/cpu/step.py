"""What generated recurrent kernels do at each step besides arithmetic: find their rows, load inputs, clear and copy."""

from __future__ import annotations

from minirnn.kernels.jit import jit

__all__ = [
    "add_output_gradients",
    "clear_inner",
    "clear_rows",
    "copy_rows",
    "gather_inputs",
    "init_products",
    "partition_sequences",
    "rows_of_step",
]


@jit(inline=True)
def partition_sequences(cumulative_steps, thread_id, num_threads):
    """The sequences of this thread, ``first`` to ``last - 1`` in sorted order: an equal part of all steps.

    They are consecutive: with rows dealt out one by one each thread's prefetcher would fetch the others' rows.
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
def rows_of_step(starts, step, backwards, first, last):
    """The first packed row of the ``step``-th step, and the end of this thread's sequences that have it."""
    t = starts.size - 2 - step if backwards else step
    start = starts[t]
    return start, min(last, starts[t + 1] - start)


@jit(inline=True)
def gather_inputs(gates, table, tokens, start, first, stop):
    """gates[s] = table[tokens[s]], [G, H] each, if there are tokens; else ``gates`` holds the input parts already."""
    if tokens.size > 0:
        for r in range(first, stop):
            token = tokens[start + r]
            for k in range(gates.shape[1]):
                for j in range(gates.shape[2]):
                    gates[start + r, k, j] = table[token, k, j]


@jit(inline=True)
def add_output_gradients(d_h, dy, start, first, stop):
    """d_h[r] += dy[s], [W] each, if the outputs have a gradient."""
    if dy.size > 0:
        for r in range(first, stop):
            for j in range(d_h.shape[1]):
                d_h[r, j] += dy[start + r, j]


@jit(inline=True)
def clear_rows(target, first, stop):
    """target[r] = 0, for a matrix."""
    for r in range(first, stop):
        for j in range(target.shape[1]):
            target[r, j] = 0


@jit(inline=True)
def clear_inner(target, index, first, stop):
    """target[r, index] = 0, for an array [N, M, H]."""
    for r in range(first, stop):
        for j in range(target.shape[2]):
            target[r, index, j] = 0


@jit(inline=True)
def copy_rows(target, target_first, source, source_first, count):
    """target[target_first + r] = source[source_first + r] for r < count."""
    for r in range(count):
        for j in range(source.shape[1]):
            target[target_first + r, j] = source[source_first + r, j]


@jit(inline=True)
def init_products(products, bias, first, stop):
    """products[s, k] = bias[k] for recurrent parts that are stored separately, 0 for products inside the step."""
    for s in range(first, stop):
        for k in range(products.shape[1]):
            for j in range(products.shape[2]):
                products[s, k, j] = bias[k, j] if k < bias.shape[0] else 0
