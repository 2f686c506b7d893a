"""Attention of every step of a decoder over every row of a memory, forward and backward.

A block computes one query of one sequence, or one memory row; each number has one thread, which adds it up in order.
Shapes: T queries, M memory rows, N sequences, A attention, D memory width.
"""

from __future__ import annotations

import numpy as np

from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray
from minirnn.kernels.cuda.jit import Array, Number, cuda, device_function, kernel
from minirnn.kernels.cuda.launch import launch_blocks
from minirnn.kernels.cuda.rows import column_sums
from minirnn.kernels.pointwise import cast, exp, tanh, tanh_grad


@device_function
def _dot(x: Array, t: int, y: Array, s: int, n: int) -> Number:
    """x[t, n] . y[s, n]."""
    total = x.dtype.type(0)
    for j in range(x.shape[2]):
        total += x[t, n, j] * y[s, n, j]
    return total


@device_function
def _additive_score(score: Array, query: Array, t: int, keys: Array, s: int, n: int) -> Number:
    """score . tanh(query[t, n] + keys[s, n])."""
    total = score.dtype.type(0)
    for j in range(score.size):
        total += score[j] * tanh(query[t, n, j] + keys[s, n, j])
    return total


@kernel
def _forward(inputs: tuple, scale: float, context: Array, weights: Array) -> None:
    """The weights and the context of one query."""
    lengths, query, keys, values, score = inputs
    thread, threads, batch = cuda.threadIdx.x, cuda.blockDim.x, context.shape[1]
    t, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    length = lengths[n]
    for s in range(thread, weights.shape[2], threads):
        value = context.dtype.type(0)
        if s < length:
            value = _additive_score(score, query, t, keys, s, n) if score.size > 0 else _dot(query, t, keys, s, n)
            if score.size == 0:
                value *= cast(scale, value)
        weights[t, n, s] = value
    cuda.syncthreads()
    if length > 0:
        largest = weights[t, n, 0]
        for s in range(1, length):
            largest = weights[t, n, s] if weights[t, n, s] > largest else largest
        cuda.syncthreads()
        for s in range(thread, length, threads):
            weights[t, n, s] = exp(weights[t, n, s] - largest)
        cuda.syncthreads()
        total = context.dtype.type(0)
        for s in range(length):
            total += weights[t, n, s]
        cuda.syncthreads()
        for s in range(thread, length, threads):
            weights[t, n, s] = weights[t, n, s] / total
        cuda.syncthreads()
    for j in range(thread, context.shape[2], threads):
        value = context.dtype.type(0)
        for s in range(length):
            value += weights[t, n, s] * values[s, n, j]
        context[t, n, j] = value


@kernel
def _query_backward(inputs: tuple, scale: float, upstream: tuple, d_scores: Array, dquery: Array) -> None:
    """The gradients of one query and of its scores, d_scores [T, N, M]."""
    (lengths, query, keys, values, score), (weights, dcontext, dweights) = inputs, upstream
    thread, threads, batch = cuda.threadIdx.x, cuda.blockDim.x, query.shape[1]
    t, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    length = lengths[n]
    for s in range(thread, length, threads):
        slope = query.dtype.type(0)
        if dcontext.size > 0:
            slope += _dot(dcontext, t, values, s, n)
        if dweights.size > 0:
            slope += dweights[t, n, s]
        d_scores[t, n, s] = slope
    cuda.syncthreads()
    mean = query.dtype.type(0)
    for s in range(length):
        mean += weights[t, n, s] * d_scores[t, n, s]
    cuda.syncthreads()
    for s in range(thread, length, threads):
        d_scores[t, n, s] = weights[t, n, s] * (d_scores[t, n, s] - mean)
    cuda.syncthreads()
    for j in range(thread, query.shape[2], threads):
        value = query.dtype.type(0)
        for s in range(length):
            if score.size > 0:
                value += d_scores[t, n, s] * tanh_grad(tanh(query[t, n, j] + keys[s, n, j]))
            else:
                value += d_scores[t, n, s] * keys[s, n, j]
        dquery[t, n, j] = value * (score[j] if score.size > 0 else cast(scale, value))


@kernel
def _memory_backward(inputs: tuple, scale: float, upstream: tuple, d_scores: Array, gradients: tuple) -> None:
    """The gradients of one row of the memory, and what it adds to that of ``score``: dscore [M, N, A]."""
    (lengths, query, keys, values, score), (weights, dcontext, _) = inputs, upstream
    dkeys, dvalues, dscore = gradients
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    steps, batch = query.shape[0], query.shape[1]
    s, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    if s >= lengths[n]:
        steps = 0
    for j in range(thread, values.shape[2], threads):
        value = keys.dtype.type(0)
        if dcontext.size > 0:
            for t in range(steps):
                value += weights[t, n, s] * dcontext[t, n, j]
        dvalues[s, n, j] = value
    for j in range(thread, keys.shape[2], threads):
        value, of_score = keys.dtype.type(0), keys.dtype.type(0)
        for t in range(steps):
            if score.size > 0:
                y = tanh(query[t, n, j] + keys[s, n, j])
                of_score += d_scores[t, n, s] * y
                value += d_scores[t, n, s] * tanh_grad(y)
            else:
                value += d_scores[t, n, s] * query[t, n, j]
        if score.size > 0:
            dscore[s, n, j] = of_score
        dkeys[s, n, j] = value * (score[j] if score.size > 0 else cast(scale, value))


def attention_forward(
    query: DeviceArray,
    keys: DeviceArray,
    values: DeviceArray,
    score: DeviceArray | None,
    lengths: np.ndarray,
    scale: float,
) -> tuple[DeviceArray, DeviceArray]:
    steps, batch, _ = query.shape
    context = empty((steps, batch, values.shape[2]), query.dtype)
    weights = empty((steps, batch, keys.shape[0]), query.dtype)
    inputs = asarray(lengths), query, keys, values, empty((0,), query.dtype) if score is None else score
    if steps * batch:
        launch_blocks(_forward, steps * batch, inputs, scale, context, weights)
    return context, weights


def attention_backward(
    query: DeviceArray,
    keys: DeviceArray,
    values: DeviceArray,
    score: DeviceArray | None,
    lengths: np.ndarray,
    scale: float,
    weights: DeviceArray,
    dcontext: DeviceArray | None,
    dweights: DeviceArray | None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray | None]:
    dtype, (steps, batch, width), rows = query.dtype, query.shape, keys.shape[0]
    dquery, dkeys, dvalues = (empty(x.shape, dtype) for x in (query, keys, values))
    d_scores = empty(weights.shape, dtype)
    dscore = empty((0, 0, 0) if score is None else keys.shape, dtype)
    zero = empty((0, 0, 0), dtype)
    inputs = asarray(lengths), query, keys, values, empty((0,), dtype) if score is None else score
    upstream = weights, zero if dcontext is None else dcontext, zero if dweights is None else dweights
    if steps * batch:
        launch_blocks(_query_backward, steps * batch, inputs, scale, upstream, d_scores, dquery)
    if rows * batch:
        launch_blocks(_memory_backward, rows * batch, inputs, scale, upstream, d_scores, (dkeys, dvalues, dscore))
    return dquery, dkeys, dvalues, None if score is None else column_sums(dscore.reshape(rows * batch, width))
