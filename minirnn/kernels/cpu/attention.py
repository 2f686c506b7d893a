"""Attention of every step of a decoder over every row of a memory, forward and back.

A share owns whole sequences, so no number depends on the threads. What is read more than once of a sequence is
packed or copied first: in [S, N, A] its rows lie a large power of two apart, where a cache holds only a few.
Shapes: T queries, S memory rows, N sequences, A attention, M memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import memory, threads, tile
from minirnn.kernels.cpu.rows import column_sums
from minirnn.kernels.cpu.step import partition_sequences
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast, exp, tanh, tanh_grad
from minirnn.kernels.steps import cumulative_steps_of
from minirnn.kernels.tile import multiply_add, panel_width

_TANH = 8  # multiply-adds that cost as much as one hyperbolic tangent
_BLOCK = 64  # columns turned into rows at a time: what is written stays in the first cache


@jit(inline=True)
def _gather(x: Any, n: int, count: int, rows: Any, share: int) -> None:
    """rows[share, k] = x[k, n], [A] each."""
    for k in range(count):
        for j in range(x.shape[2]):
            rows[share, k, j] = x[k, n, j]


@jit(inline=True)
def _pack(x: Any, n: int, count: int, panels: Any, share: int) -> None:
    """x[:count, n], [count, M], as the packed right-hand side of a product."""
    columns, width = x.shape[2], panel_width(panels)
    for k in range(count):
        for start in range(0, columns, width):
            at = (start // width * count + k) * width
            used = min(width, columns - start)
            for j in range(used):  # uintp: a sign check would keep the loop scalar
                panels[share, np.uintp(at + j)] = x[k, n, np.uintp(start + j)]
            for j in range(used, width):
                panels[share, np.uintp(at + j)] = 0


@jit(inline=True)
def _pack_transposed(x: Any, n: int, count: int, panels: Any, share: int) -> None:
    """The transpose of x[:count, n], [M, count], as the packed right-hand side of a product."""
    depth, width = x.shape[2], panel_width(panels)
    for start in range(0, count, width):
        at = start * depth
        used = min(width, count - start)
        for k0 in range(0, depth, _BLOCK):
            k1 = min(k0 + _BLOCK, depth)
            for j in range(used):
                for k in range(k0, k1):
                    panels[share, np.uintp(at + k * width + j)] = x[start + j, n, np.uintp(k)]
            for k in range(k0, k1):
                for j in range(used, width):
                    panels[share, np.uintp(at + k * width + j)] = 0


@jit(inline=True)
def _clear(x: Any, n: int) -> None:
    """x[:, n] = 0."""
    for k in range(x.shape[0]):
        for j in range(x.shape[2]):
            x[k, n, j] = 0


@jit(inline=True, reassociate=True)
def _fit(score: Any, query: Any, t: int, n: int, rows: Any, share: int, s: int) -> Any:
    """score . tanh(query[t, n] + rows[share, s])."""
    total = cast(0, score[0])
    for j in range(score.size):
        total += score[j] * tanh(query[t, n, j] + rows[share, s, j])
    return total


@jit(inline=True)
def _softmax(weights: Any, t: int, n: int, length: int) -> None:
    """weights[t, n, :length] from scores to their softmax; ``length`` is not 0."""
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
def _softmax_grad(weights: Any, t: int, n: int, length: int, slopes: Any, share: int) -> None:
    """slopes[share, t, :length] from the gradient of the weights to that of the scores."""
    mean = cast(0, weights[t, n, 0])
    for s in range(length):
        mean += weights[t, n, s] * slopes[share, t, s]
    for s in range(length):
        slopes[share, t, s] = weights[t, n, s] * (slopes[share, t, s] - mean)


@jit(inline=True)
def _fit_grad(
    slope: Any, query: Any, t: int, n: int, rows: Any, share: int, s: int, dquery: Any, drows: Any, dscore: Any
) -> None:
    """Add one score's part to the gradients; that of dquery and drows still lacks the factor score[j]."""
    for j in range(dscore.shape[1]):
        y = tanh(query[t, n, j] + rows[share, s, j])
        inside = slope * tanh_grad(y)
        dscore[n, j] += slope * y
        dquery[t, n, j] += inside
        drows[share, s, j] += inside


@jit
def _attend(
    share: int, shares: int, loads: Any, lengths: Any, query: Any, keys: Any, values: Any, score: Any, scale: float,
    context: Any, weights: Any, rows: Any, panels: Any,
) -> None:  # fmt: skip
    """All queries of this share's sequences."""
    steps, batch, size = context.shape
    width, extent = query.shape[2], weights.shape[2]
    panel, panels_at = panel_width(panels), share * panels.shape[1]
    first, last = partition_sequences(loads, share, shares)
    for n in range(first, last):
        length = lengths[n]
        _clear(context, n)
        _clear(weights, n)
        if length == 0:
            continue
        if score.size > 0:
            _gather(keys, n, length, rows, share)
            for t in range(steps):
                for s in range(length):
                    weights[t, n, s] = _fit(score, query, t, n, rows, share, s)
        else:
            _pack_transposed(keys, n, length, panels, share)
            multiply_add(
                query, n * width, batch * width, 1, steps, panels, panels_at, width * panel, width,
                weights, n * extent, batch * extent, length,
            )  # fmt: skip
            for t in range(steps):
                for s in range(length):
                    weights[t, n, s] *= cast(scale, weights[t, n, s])
        for t in range(steps):
            _softmax(weights, t, n, length)
        _pack(values, n, length, panels, share)
        multiply_add(
            weights, n * extent, batch * extent, 1, steps, panels, panels_at, length * panel, length,
            context, n * size, batch * size, size,
        )  # fmt: skip


@jit
def _attend_back(
    share: int, shares: int, loads: Any, lengths: Any, query: Any, keys: Any, values: Any, score: Any, scale: float,
    weights: Any, dcontext: Any, dweights: Any, dquery: Any, dkeys: Any, dvalues: Any, dscore: Any,
    rows: Any, drows: Any, slopes: Any, panels: Any,
) -> None:  # fmt: skip
    """The gradients of this share's sequences."""
    steps, batch, extent = weights.shape
    width, size = query.shape[2], values.shape[2]
    panel, panels_at, slopes_at = panel_width(panels), share * panels.shape[1], share * steps * extent
    first, last = partition_sequences(loads, share, shares)
    for n in range(first, last):
        length = lengths[n]
        _clear(dquery, n)
        _clear(dkeys, n)
        _clear(dvalues, n)
        for j in range(score.size):
            dscore[n, j] = 0
        if length == 0 or steps == 0:
            continue
        for t in range(steps):
            for s in range(length):
                slopes[share, t, s] = dweights[t, n, s] if dweights.size > 0 else cast(0, weights[t, n, s])
        if dcontext.size > 0:
            _pack_transposed(values, n, length, panels, share)
            multiply_add(
                dcontext, n * size, batch * size, 1, steps, panels, panels_at, size * panel, size,
                slopes, slopes_at, extent, length,
            )  # fmt: skip
            _pack(dcontext, n, steps, panels, share)
            multiply_add(
                weights, n * extent, 1, batch * extent, length, panels, panels_at, steps * panel, steps,
                dvalues, n * size, batch * size, size,
            )  # fmt: skip
        for t in range(steps):
            _softmax_grad(weights, t, n, length, slopes, share)
        if score.size > 0:
            _gather(keys, n, length, rows, share)
            for s in range(length):
                for j in range(width):
                    drows[share, s, j] = 0
            for t in range(steps):
                for s in range(length):
                    _fit_grad(slopes[share, t, s], query, t, n, rows, share, s, dquery, drows, dscore)
                for j in range(width):
                    dquery[t, n, j] *= score[j]
            for s in range(length):
                for j in range(width):
                    dkeys[s, n, j] = score[j] * drows[share, s, j]
        else:
            for t in range(steps):
                for s in range(length):
                    slopes[share, t, s] *= cast(scale, slopes[share, t, s])
            _pack(keys, n, length, panels, share)
            multiply_add(
                slopes, slopes_at, extent, 1, steps, panels, panels_at, length * panel, length,
                dquery, n * width, batch * width, width,
            )  # fmt: skip
            _pack(query, n, steps, panels, share)
            multiply_add(
                slopes, slopes_at, 1, extent, length, panels, panels_at, steps * panel, steps,
                dkeys, n * width, batch * width, width,
            )  # fmt: skip


def attention_forward(
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    score: np.ndarray | None,
    lengths: np.ndarray,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Each query's weighted mean of the values: context [T, N, M] and weights [T, N, S].

    weights = softmax over s of score . tanh(query_t + keys_s), or of scale query_t . keys_s without ``score``;
    context_t = sum_s weights_ts values_s.

    Args:
        query: [T, N, A].
        keys, values: [S, N, A], [S, N, M].
        score: [A] or None.
        lengths: [N] int64 rows of each sequence that are there, 0 to S; those past are not read, their weight is 0.
    """
    steps, batch, width = query.shape
    extent, size = keys.shape[0], values.shape[2]
    dtype, shares = query.dtype, threads.get_num_threads()
    context = memory.empty((steps, batch, size), dtype)
    weights = memory.empty((steps, batch, extent), dtype)
    rows = memory.empty((0 if score is None else shares, extent, width), dtype)
    panels = _panels(shares, dtype, (extent, size), (width, 0 if score is not None else extent))
    loads = cumulative_steps_of(lengths)
    threads.run(
        _attend, _work(steps, loads, width, size, score), min(batch, shares), loads, lengths, query, keys, values,
        np.empty(0, dtype) if score is None else score, scale, context, weights, rows, panels,
    )  # fmt: skip
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
    """Gradients of query, keys, values and score; zero at rows past the length.

    Hyperbolic tangents are computed again: [T, N, S, A] of them would not fit any cache.

    Args:
        query, keys, values, score, lengths, scale: as :func:`attention_forward` had them.
        weights: what it returned.
        dcontext, dweights: [T, N, M], [T, N, S]; either may be None.
    """
    steps, batch, width = query.shape
    extent, size = keys.shape[0], values.shape[2]
    dtype, shares = query.dtype, threads.get_num_threads()
    dquery, dkeys, dvalues = (memory.empty(x.shape, dtype) for x in (query, keys, values))
    dscore = memory.empty((0 if score is None else batch, width), dtype)  # one row a sequence, added up in order
    rows, drows = (memory.empty((0 if score is None else shares, extent, width), dtype) for _ in range(2))
    slopes = memory.empty((shares, steps, extent), dtype)
    panels = _panels(shares, dtype, (size, extent), (max(steps, extent), max(size, width)))
    loads = cumulative_steps_of(lengths)
    absent = np.empty((0, 0, 0), dtype)
    threads.run(
        _attend_back, 2 * _work(steps, loads, width, size, score), min(batch, shares), loads, lengths, query, keys,
        values, np.empty(0, dtype) if score is None else score, scale, weights,
        absent if dcontext is None else dcontext, absent if dweights is None else dweights,
        dquery, dkeys, dvalues, dscore, rows, drows, slopes, panels,
    )  # fmt: skip
    return dquery, dkeys, dvalues, None if score is None else column_sums(dscore)


def _panels(shares: int, dtype: np.dtype, *shapes: tuple[int, int]) -> np.ndarray:
    """Room for the largest of these [depth, columns] matrices, packed, for every share."""
    width = tile.VECTORS * tile.vector_bytes() // dtype.itemsize
    size = max(depth * tile.packed_panels(columns, dtype) for depth, columns in shapes) * width
    return memory.empty((shares, size), dtype)


def _work(steps: int, loads: np.ndarray, width: int, size: int, score: np.ndarray | None) -> float:
    return float(steps) * float(loads[-1]) * (width * (1 if score is None else _TANH) + size)
