"""Attention of every step of a decoder over every row of a memory, forward and backward.

Each thread has whole sequences, so no number depends on the threads. What is read more than once of a sequence is
packed or copied first: in [M, N, A] its rows are a large power of two apart, where a cache holds few of them.

Shapes: T queries, M memory rows, N sequences; A is the width of queries and keys, D that of values.
"""

from __future__ import annotations

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.cpu.rows import column_sums
from minirnn.kernels.cpu.step import partition_sequences
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast, exp, tanh, tanh_grad
from minirnn.kernels.steps import cumulative_steps
from minirnn.kernels.tile import multiply_add, panel_width

_TANH_COST = 8  # multiply-adds
_BLOCK = 64  # columns transposed at a time: what is written stays in the first-level cache


@jit(inline=True)
def _gather(x, n, count, rows):
    """rows[k] = x[k, n], [A] each."""
    for k in range(count):
        for j in range(x.shape[2]):
            rows[k, j] = x[k, n, j]


@jit(inline=True)
def _pack(x, n, count, panels):
    """x[:count, n], [count, D], as the packed right operand of a product."""
    columns, width = x.shape[2], panel_width(panels)
    for k in range(count):
        for start in range(0, columns, width):
            at = (start // width * count + k) * width
            used = min(width, columns - start)
            for j in range(used):  # uintp: a sign check would keep the loop scalar
                panels[np.uintp(at + j)] = x[k, n, np.uintp(start + j)]
            for j in range(used, width):
                panels[np.uintp(at + j)] = 0


@jit(inline=True)
def _pack_transposed(x, n, count, panels):
    """The transpose of x[:count, n], [D, count], as the packed right operand of a product."""
    depth, width = x.shape[2], panel_width(panels)
    for start in range(0, count, width):
        at = start * depth
        used = min(width, count - start)
        for k0 in range(0, depth, _BLOCK):
            k1 = min(k0 + _BLOCK, depth)
            for j in range(used):
                for k in range(k0, k1):
                    panels[np.uintp(at + k * width + j)] = x[start + j, n, np.uintp(k)]
            for k in range(k0, k1):
                for j in range(used, width):
                    panels[np.uintp(at + k * width + j)] = 0


@jit(inline=True)
def _clear(x, n):
    """x[:, n] = 0."""
    for k in range(x.shape[0]):
        for j in range(x.shape[2]):
            x[k, n, j] = 0


@jit(inline=True, reassociate=True)
def _additive_score(score, query, t, n, rows, s):
    """score . tanh(query[t, n] + rows[s])."""
    total = cast(0, score[0])
    for j in range(score.size):
        total += score[j] * tanh(query[t, n, j] + rows[s, j])
    return total


@jit(inline=True)
def _additive_score_grad(d_score, query, t, n, rows, s, d_query, d_rows, d_vector):
    """Add the gradients through one score; those of d_query and d_rows still lack the factor score[j]."""
    for j in range(d_vector.shape[1]):
        y = tanh(query[t, n, j] + rows[s, j])
        inside = d_score * tanh_grad(y)
        d_vector[n, j] += d_score * y
        d_query[t, n, j] += inside
        d_rows[s, j] += inside


@jit(inline=True)
def _softmax(weights, t, n, length):
    """weights[t, n, :length] from scores to their softmax; ``length`` is at least 1."""
    largest = weights[t, n, 0]
    for s in range(1, length):
        largest = weights[t, n, s] if weights[t, n, s] > largest else largest
    for s in range(length):
        weights[t, n, s] = exp(weights[t, n, s] - largest)
    total = cast(0, largest)
    for s in range(length):
        total += weights[t, n, s]
    for s in range(length):
        weights[t, n, s] = weights[t, n, s] / total


@jit(inline=True)
def _softmax_grad(weights, t, n, length, d_scores):
    """d_scores[t, :length] from the gradient of the weights to that of the scores."""
    mean = cast(0, weights[t, n, 0])
    for s in range(length):
        mean += weights[t, n, s] * d_scores[t, s]
    for s in range(length):
        d_scores[t, s] = weights[t, n, s] * (d_scores[t, s] - mean)


@jit
def _forward(thread_id, num_threads, cumulative, lengths, inputs, scale, context, weights, buffers):
    """Scores, their softmax, and the weighted sums of values, for this thread's sequences."""
    query, keys, values, score = inputs
    (T, N, D), A, M = context.shape, query.shape[2], weights.shape[2]
    rows, panels = buffers[0][thread_id], buffers[1][thread_id]
    panel = panel_width(panels)
    first, last = partition_sequences(cumulative, thread_id, num_threads)
    for n in range(first, last):
        length = lengths[n]
        _clear(context, n)
        _clear(weights, n)
        if length == 0:
            continue
        if score.size > 0:
            _gather(keys, n, length, rows)
            for t in range(T):
                for s in range(length):
                    weights[t, n, s] = _additive_score(score, query, t, n, rows, s)
        else:
            _pack_transposed(keys, n, length, panels)
            multiply_add(query, n * A, N * A, 1, T, panels, 0, A * panel, A, weights, n * M, N * M, length)
            for t in range(T):
                for s in range(length):
                    weights[t, n, s] *= cast(scale, weights[t, n, s])
        for t in range(T):
            _softmax(weights, t, n, length)
        _pack(values, n, length, panels)
        multiply_add(weights, n * M, N * M, 1, T, panels, 0, length * panel, length, context, n * D, N * D, D)


@jit
def _backward(thread_id, num_threads, cumulative, lengths, inputs, scale, weights, upstream, gradients, buffers):
    """The gradients of the inputs, for this thread's sequences."""
    query, keys, values, score = inputs
    d_context, d_weights = upstream
    d_query, d_keys, d_values, d_vector = gradients
    (T, N, M), A, D = weights.shape, query.shape[2], values.shape[2]
    rows, d_rows = buffers[0][thread_id], buffers[1][thread_id]
    d_scores, panels = buffers[2][thread_id], buffers[3][thread_id]
    panel = panel_width(panels)
    first, last = partition_sequences(cumulative, thread_id, num_threads)
    for n in range(first, last):
        length = lengths[n]
        _clear(d_query, n)
        _clear(d_keys, n)
        _clear(d_values, n)
        for j in range(score.size):
            d_vector[n, j] = 0
        if length == 0 or T == 0:
            continue
        for t in range(T):
            for s in range(length):
                d_scores[t, s] = d_weights[t, n, s] if d_weights.size > 0 else cast(0, weights[t, n, s])
        if d_context.size > 0:
            _pack_transposed(values, n, length, panels)
            multiply_add(d_context, n * D, N * D, 1, T, panels, 0, D * panel, D, d_scores, 0, M, length)
            _pack(d_context, n, T, panels)
            multiply_add(weights, n * M, 1, N * M, length, panels, 0, T * panel, T, d_values, n * D, N * D, D)
        for t in range(T):
            _softmax_grad(weights, t, n, length, d_scores)
        if score.size > 0:
            _gather(keys, n, length, rows)
            for s in range(length):
                for j in range(A):
                    d_rows[s, j] = 0
            for t in range(T):
                for s in range(length):
                    _additive_score_grad(d_scores[t, s], query, t, n, rows, s, d_query, d_rows, d_vector)
                for j in range(A):
                    d_query[t, n, j] *= score[j]
            for s in range(length):
                for j in range(A):
                    d_keys[s, n, j] = score[j] * d_rows[s, j]
        else:
            for t in range(T):
                for s in range(length):
                    d_scores[t, s] *= cast(scale, d_scores[t, s])
            _pack(keys, n, length, panels)
            multiply_add(d_scores, 0, M, 1, T, panels, 0, length * panel, length, d_query, n * A, N * A, A)
            _pack(query, n, T, panels)
            multiply_add(d_scores, 0, 1, M, length, panels, 0, T * panel, T, d_keys, n * A, N * A, A)


def attention_forward(
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    score: np.ndarray | None,
    lengths: np.ndarray,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    (T, N, A), M, D = query.shape, keys.shape[0], values.shape[2]
    dtype, count = query.dtype, threads.get_num_threads()
    context, weights = memory.empty((T, N, D), dtype), memory.empty((T, N, M), dtype)
    rows = memory.empty((count, 0 if score is None else M, A), dtype)
    buffers = rows, _panels(count, dtype, (M, D), (A, 0 if score is not None else M))
    inputs = query, keys, values, np.empty(0, dtype) if score is None else score
    cumulative = cumulative_steps(lengths)
    work = _work(T, cumulative, A, D, score)
    threads.run(_forward, work, min(N, count), cumulative, lengths, inputs, scale, context, weights, buffers)
    return context, weights


def attention_backward(
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    score: np.ndarray | None,
    lengths: np.ndarray,
    scale: float,
    weights: np.ndarray,
    dcontext: np.ndarray | None,
    dweights: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Hyperbolic tangents are computed again: [T, N, M, A] of them would not fit any cache."""
    (T, N, A), M, D = query.shape, keys.shape[0], values.shape[2]
    dtype, count = query.dtype, threads.get_num_threads()
    dquery, dkeys, dvalues = (memory.empty(x.shape, dtype) for x in (query, keys, values))
    dscore = memory.empty((0 if score is None else N, A), dtype)  # one row per sequence, summed in order
    rows, drows = (memory.empty((count, 0 if score is None else M, A), dtype) for _ in range(2))
    panels = _panels(count, dtype, (D, M), (max(T, M), max(A, D)))
    inputs = query, keys, values, np.empty(0, dtype) if score is None else score
    absent = np.empty((0, 0, 0), dtype)
    upstream = absent if dcontext is None else dcontext, absent if dweights is None else dweights
    gradients, buffers = (dquery, dkeys, dvalues, dscore), (rows, drows, memory.empty((count, T, M), dtype), panels)
    cumulative = cumulative_steps(lengths)
    arguments = cumulative, lengths, inputs, scale, weights, upstream, gradients, buffers
    threads.run(_backward, 2 * _work(T, cumulative, A, D, score), min(N, count), *arguments)
    return dquery, dkeys, dvalues, None if score is None else column_sums(dscore)


def _panels(count: int, dtype: np.dtype, *shapes: tuple[int, int]) -> np.ndarray:
    """For each thread a buffer for the largest of these [depth, columns] matrices, packed."""
    size = max(depth * tile.packed_panels(columns, dtype) for depth, columns in shapes)
    return memory.empty((count, size * tile.packed_width(dtype)), dtype)


def _work(T: int, cumulative: np.ndarray, A: int, D: int, score: np.ndarray | None) -> float:
    return float(T) * float(cumulative[-1]) * (A * (1 if score is None else _TANH_COST) + D)
