"""Attention of every step of a decoder over every row of a memory, forward and back.

A block makes one query's part of one sequence, or one memory row's; a number has one thread, which adds it up in
order. Shapes: T queries, S memory rows, N sequences, A attention, M memory.
"""

from __future__ import annotations

from typing import Any

from minirnn.kernels.cuda.device import DeviceArray, asarray, empty, launch_blocks
from minirnn.kernels.cuda.jit import cuda, device_function, kernel
from minirnn.kernels.cuda.rows import column_sums
from minirnn.kernels.pointwise import cast, exp, tanh, tanh_grad


@device_function
def _dot(x: Any, t: int, y: Any, s: int, n: int) -> Any:
    """x[t, n] . y[s, n]."""
    total = x.dtype.type(0)
    for j in range(x.shape[2]):
        total += x[t, n, j] * y[s, n, j]
    return total


@device_function
def _fit(score: Any, query: Any, t: int, keys: Any, s: int, n: int) -> Any:
    """score . tanh(query[t, n] + keys[s, n])."""
    total = score.dtype.type(0)
    for j in range(score.size):
        total += score[j] * tanh(query[t, n, j] + keys[s, n, j])
    return total


@kernel
def _attend(
    lengths: Any, query: Any, keys: Any, values: Any, score: Any, scale: float, context: Any, weights: Any
) -> None:
    """The weights and the context of one query."""
    thread, threads, batch = cuda.threadIdx.x, cuda.blockDim.x, context.shape[1]
    t, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    length = lengths[n]
    for s in range(thread, weights.shape[2], threads):
        value = context.dtype.type(0)
        if s < length:
            value = _fit(score, query, t, keys, s, n) if score.size > 0 else _dot(query, t, keys, s, n)
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
def _query_back(
    lengths: Any, query: Any, keys: Any, values: Any, score: Any, scale: float, weights: Any, dcontext: Any,
    dweights: Any, slopes: Any, dquery: Any,
) -> None:  # fmt: skip
    """slopes [T, N, S], the gradients of the scores, and dquery, of one query."""
    thread, threads, batch = cuda.threadIdx.x, cuda.blockDim.x, query.shape[1]
    t, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    length = lengths[n]
    for s in range(thread, length, threads):
        slope = query.dtype.type(0)
        if dcontext.size > 0:
            slope += _dot(dcontext, t, values, s, n)
        if dweights.size > 0:
            slope += dweights[t, n, s]
        slopes[t, n, s] = slope
    cuda.syncthreads()
    mean = query.dtype.type(0)
    for s in range(length):
        mean += weights[t, n, s] * slopes[t, n, s]
    cuda.syncthreads()
    for s in range(thread, length, threads):
        slopes[t, n, s] = weights[t, n, s] * (slopes[t, n, s] - mean)
    cuda.syncthreads()
    for j in range(thread, query.shape[2], threads):
        value = query.dtype.type(0)
        for s in range(length):
            if score.size > 0:
                value += slopes[t, n, s] * tanh_grad(tanh(query[t, n, j] + keys[s, n, j]))
            else:
                value += slopes[t, n, s] * keys[s, n, j]
        dquery[t, n, j] = value * (score[j] if score.size > 0 else cast(scale, value))


@kernel
def _row_back(
    lengths: Any, query: Any, keys: Any, score: Any, scale: float, weights: Any, slopes: Any, dcontext: Any,
    dkeys: Any, dvalues: Any, dscore: Any,
) -> None:  # fmt: skip
    """The gradients of one row of the memory, and its part of the score's, dscore [S, N, A]."""
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    steps, batch = query.shape[0], query.shape[1]
    s, n = cuda.blockIdx.x // batch, cuda.blockIdx.x % batch
    if s >= lengths[n]:
        steps = 0
    for j in range(thread, dvalues.shape[2], threads):
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
                of_score += slopes[t, n, s] * y
                value += slopes[t, n, s] * tanh_grad(y)
            else:
                value += slopes[t, n, s] * query[t, n, j]
        if score.size > 0:
            dscore[s, n, j] = of_score
        dkeys[s, n, j] = value * (score[j] if score.size > 0 else cast(scale, value))


def attention_forward(
    query: DeviceArray, keys: DeviceArray, values: DeviceArray, score: DeviceArray | None, lengths: Any, scale: float
) -> tuple[DeviceArray, DeviceArray]:
    """As :func:`minirnn.kernels.cpu.attention.attention_forward`: context [T, N, M] and weights [T, N, S]."""
    steps, batch, _ = query.shape
    context = empty((steps, batch, values.shape[2]), query.dtype)
    weights = empty((steps, batch, keys.shape[0]), query.dtype)
    rows, score = asarray(lengths), empty((0,), query.dtype) if score is None else score
    if steps * batch:
        launch_blocks(
            _attend, steps * batch, rows, query, keys, values, score, scale, context,
            weights,
        )  # fmt: skip
    return context, weights


def attention_backward(
    query: DeviceArray,
    keys: DeviceArray,
    values: DeviceArray,
    score: DeviceArray | None,
    lengths: Any,
    scale: float,
    weights: DeviceArray,
    dcontext: DeviceArray | None,
    dweights: DeviceArray | None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray | None]:
    """As :func:`minirnn.kernels.cpu.attention.attention_backward`: dquery, dkeys, dvalues and dscore."""
    dtype, (steps, batch, width), extent = query.dtype, query.shape, keys.shape[0]
    dquery, dkeys, dvalues = (empty(x.shape, dtype) for x in (query, keys, values))
    slopes = empty(weights.shape, dtype)
    dscore = empty((0, 0, 0) if score is None else keys.shape, dtype)
    none, rows = empty((0, 0, 0), dtype), asarray(lengths)
    factors = empty((0,), dtype) if score is None else score
    upstream, of_weights = none if dcontext is None else dcontext, none if dweights is None else dweights
    if steps * batch:
        launch_blocks(
            _query_back, steps * batch, rows, query, keys, values, factors, scale, weights,
            upstream, of_weights, slopes, dquery,
        )  # fmt: skip
    if extent * batch:
        launch_blocks(
            _row_back, extent * batch, rows, query, keys, factors, scale, weights, slopes,
            upstream, dkeys, dvalues, dscore,
        )  # fmt: skip
    return dquery, dkeys, dvalues, None if score is None else column_sums(dscore.reshape(extent * batch, width))
