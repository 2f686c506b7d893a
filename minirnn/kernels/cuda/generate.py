"""Sampling from a token model, the whole text in one launch: embed, all layers, softmax, draw, feed back.

Laid out as :mod:`minirnn.kernels.cuda.walk` is: blocks that own streams, or a grid that shares the units of every
layer and the classes of the head, and meets after each. Steps take turns between two states, so that nobody
overwrites what others still read. A stream has its own counter-based random numbers, those of the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.cpu.generate import TokenModel
from minirnn.kernels.cuda import gru, lstm, rnn
from minirnn.kernels.cuda.device import asarray, empty, zeros
from minirnn.kernels.cuda.jit import SIMULATOR, cuda, device_function
from minirnn.kernels.cuda.planning import WARP, plan_sampling, quads
from minirnn.kernels.cuda.resident import (
    bring,
    clear,
    hold,
    limits,
    make_multiply,
    pack,
    parted,
    resident_kernel,
    start,
    total,
    totals,
)
from minirnn.kernels.pointwise import cast, exp, random_uniform

__all__ = ["Sampler", "TokenModel"]

_CELLS = {"rnn": rnn.tanh_cell, "lstm": lstm.cell, "gru": gru.cell}


@device_function
def _sort_by_probability(thread: int, threads: int, order: Any, probability: Any, n: int) -> None:
    """order[n] = the tokens, most probable first, equals by number: a bitonic sort by all threads of a block.

    Its first pass over a span compares mirrored places, so that all passes put the better one first, and what lies
    past the end need not be there.
    """
    size = order.shape[1]
    for i in range(thread, size, threads):
        order[n, i] = i
    cuda.syncthreads()
    span = 1
    while span < size:
        span *= 2
        distance = span // 2
        while distance > 0:
            for i in range(thread, size, threads):
                mirrored = 2 * distance == span
                other = i ^ (span - 1) if mirrored else i ^ distance
                if i < other < size:
                    a, b = order[n, i], order[n, other]
                    p, q = probability[n, a], probability[n, b]
                    if p < q or (p == q and a > b):
                        order[n, i], order[n, other] = b, a
            distance //= 2
            cuda.syncthreads()


@device_function
def _most_probable(thread: int, logits: Any, n: int, bests: Any) -> int:
    """The first of the largest logits[n] [V], by pieces: each has a thread, and thread 0 compares their results."""
    size, pieces = logits.shape[1], bests.shape[1]
    each = (size + pieces - 1) // pieces
    if thread < pieces:
        best = min(thread * each, size - 1)
        largest = logits[n, best]
        for v in range(thread * each, min(thread * each + each, size)):
            if logits[n, v] > largest:
                best, largest = v, logits[n, v]
        bests[n, thread] = best
    cuda.syncthreads()
    best = bests[n, 0]
    largest = logits[n, best]
    for piece in range(1, pieces):
        v = bests[n, piece]
        if logits[n, v] > largest:
            best, largest = v, logits[n, v]
    return best


@device_function
def _draw_from_all(thread: int, probability: Any, n: int, best: int, masses: Any, u: float) -> int:
    """The token in whose share of the whole mass u falls; by pieces, as above."""
    size, pieces = probability.shape[1], masses.shape[1]
    each = (size + pieces - 1) // pieces
    if thread < pieces:
        mass = 0.0
        for v in range(thread * each, min(thread * each + each, size)):
            mass += probability[n, v]
        masses[n, thread] = mass
    cuda.syncthreads()
    mass = 0.0
    for piece in range(pieces):
        mass += masses[n, piece]
    target, reached, piece = u * mass, 0.0, 0
    while piece < pieces - 1 and reached + masses[n, piece] <= target:
        reached += masses[n, piece]
        piece += 1
    for v in range(piece * each, size):
        reached += probability[n, v]
        if reached > target:
            return v
    return best


@device_function
def _draw_from_some(probability: Any, order: Any, n: int, best: int, top_k: int, top_p: float, u: float) -> int:
    """The same among the ``top_k`` first of ``order``, and of these the first that hold ``top_p`` of their mass."""
    kept = min(order.shape[1], top_k)
    mass, reached = 0.0, 0.0
    for i in range(kept):
        mass += probability[n, order[n, i]]
    for i in range(kept):
        reached += probability[n, order[n, i]]
        if reached >= top_p * mass:
            kept = i + 1
            break
    target, reached = u * min(reached, mass), 0.0
    for i in range(kept):
        reached += probability[n, order[n, i]]
        if reached > target:
            return order[n, i]
    return best


@functools.cache
def _make_kernel(cell: Callable, gate_count: int, dtype: Any, tile: int, spread: bool) -> Any:
    multiply, height = make_multiply(tile), tile + 4

    @resident_kernel
    def generate(
        table: Any, weights: Any, bias_ih: Any, bias_n: Any, head_bias: Any, h: Any, extra: Any, gates: Any,
        logits: Any, probability: Any, order: Any, bests: Any, masses: Any, given: Any, tokens: Any, out: Any,
        temperature: float, top_k: int, top_p: float, seeds: Any, position: int, turn: int, units: int, classes: int,
        rows: int, parts: int, held: int,
    ) -> None:  # fmt: skip
        room = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        sums = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        x, u = cuda.local.array(gate_count, dtype), cuda.local.array(gate_count, dtype)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        layers, batch, size = extra.shape
        vocabulary = logits.shape[1]
        unit, first_class = cuda.blockIdx.x * units, cuda.blockIdx.x * classes
        own = min(units, size - unit)
        own_classes = max(0, min(classes, vocabulary - first_class))
        first = cuda.blockIdx.y * rows
        active = min(rows, batch - first)
        depth, lanes, head_lanes = (size + 3) // 4, (units * gate_count + 3) // 4, (classes + 3) // 4
        stride, matrix = depth + 1, 4 * depth * lanes  # quads of a row of states, and of a layer's matrix
        below_at = rows * stride
        sums_at = 2 * below_at
        sums_below_at = sums_at + parts * rows * max(lanes, head_lanes)
        held_at = sums_below_at + parts * rows * lanes
        weights_at = cuda.blockIdx.x * (weights.size // cuda.gridDim.x // 4)

        clear(thread, threads, room, 0, sums_at)
        hold(thread, threads, room, held_at, weights, weights_at, held)
        cuda.syncthreads()
        for step in range(given.shape[0] + out.shape[0] - 1):
            now = (turn + step) % 2
            fed = step < given.shape[0]
            at = 0  # this matrix's place among the block's weights
            for layer in range(layers + 1):
                is_head = layer == layers
                if is_head and step < given.shape[0] - 1:
                    break
                r = thread // WARP
                while r < 2 * active:
                    if r < active and not is_head:
                        bring(thread, room, r * stride, h[1 - now, layer], first + r, 0, depth)
                    if r >= active and layer > 0:
                        n = r - active
                        bring(thread, room, below_at + n * stride, h[now, layer - 1], first + n, 0, depth)
                    r += threads // WARP
                cuda.syncthreads()
                if layer > 0:
                    here = head_lanes if is_head else lanes
                    multiply(
                        thread, threads, sums, room, below_at, stride, active, held_at + at,
                        max(0, held - at) // (4 * here), weights, weights_at + at, 0, depth,
                        here, rows, parts, sums_at if is_head else sums_below_at,
                    )  # fmt: skip
                    at += matrix
                if not is_head:
                    multiply(
                        thread, threads, sums, room, 0, stride, active, held_at + at, max(0, held - at) // (4 * lanes),
                        weights, weights_at + at, 0, depth, lanes, rows, parts, sums_at,
                    )  # fmt: skip
                    at += matrix
                cuda.syncthreads()
                if is_head:
                    for i in range(thread, active * own_classes, threads):
                        r, v = parted(i, own_classes)
                        logits[first + r, first_class + v] = (
                            total(room, sums_at, head_lanes, rows, parts, r, v) + head_bias[first_class + v]
                        )
                else:
                    i = thread
                    while i < active * own:
                        r, j = parted(i, own)
                        stream, mine = np.uintp(first + r), np.uintp(unit + j)
                        if layer > 0:
                            totals(x, room, sums_below_at, lanes, rows, parts, r, j * gate_count)
                        for g in range(gate_count):
                            if layer == 0:
                                x[g] = table[given[step, stream] if fed else tokens[stream], g, mine]
                            else:
                                x[g] += bias_ih[layer, g, mine]
                        totals(u, room, sums_at, lanes, rows, parts, r, j * gate_count)
                        h[now, layer, stream, mine] = cell(
                            x, u, bias_n[layer], gates, extra[layer], h[1 - now, layer], stream, stream, stream, mine
                        )
                        i += threads
                if spread:
                    cuda.cg.this_grid().sync()
                else:
                    cuda.syncthreads()
            if step < given.shape[0] - 1:
                continue
            made = step - given.shape[0] + 1
            if cuda.blockIdx.x == 0:
                for n in range(first, first + active):
                    token = _most_probable(thread, logits, n, bests)
                    if temperature != 0:
                        scale, largest = cast(1 / temperature, logits[n, 0]), logits[n, token]
                        for v in range(thread, vocabulary, threads):
                            probability[n, v] = exp((logits[n, v] - largest) * scale)
                        cuda.syncthreads()
                        chance = random_uniform(seeds[n], position + made)
                        if top_k < vocabulary or top_p < 1:
                            _sort_by_probability(thread, threads, order, probability, n)
                            if thread == 0:
                                token = _draw_from_some(probability, order, n, token, top_k, top_p, chance)
                        else:
                            token = _draw_from_all(thread, probability, n, token, masses, chance)
                    if thread == 0:
                        tokens[n] = token
                        out[made, n] = token
            if spread:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()

    return generate


class Sampler:
    """A token model ready to sample: weights packed, states kept from call to call.

    Args:
        model: the weights.
        h, c: [L, N, H] states to begin with, of any device; ``c`` is used by the LSTM only.
    """

    def __init__(self, model: TokenModel, h: Any, c: Any) -> None:
        layers, batch, size = h.shape
        vocabulary, count = model.table.shape[0], model.table.shape[1] // size
        dtype = np.dtype(h.dtype)
        planned = plan_sampling(size, batch, count, layers, vocabulary, dtype.itemsize, limits())
        blocks = planned.blocks[0]
        classes = -(-vocabulary // blocks)
        matrix, head = 16 * quads(size) * quads(planned.units * count), 16 * quads(size) * quads(classes)
        weights = empty((blocks, (2 * layers - 1) * matrix + head), dtype)
        bias_ih, bias_n = zeros((layers, count, size), dtype), empty((layers, size), dtype)
        at = 0
        for layer in range(layers):
            if layer > 0:
                pack(asarray(model.weight_ih[layer - 1]), count, planned.units, True, weights, at)
                bias_ih[layer] = asarray(model.bias_ih[layer - 1]).reshape(count, size)
                at += matrix
            pack(asarray(model.weight_hh[layer]), count, planned.units, True, weights, at)
            bias_n[layer] = asarray(model.bias_n[layer])
            at += matrix
        pack(asarray(model.head), 1, classes, True, weights, at)
        states, extra = empty((2, layers, batch, size), dtype), asarray(c).copy()
        states[1] = asarray(h)
        pieces = min(planned.threads, math.isqrt(vocabulary - 1) + 1)
        self._kernel = _make_kernel(_CELLS[model.cell], count, from_dtype(dtype), planned.tile, planned.path == "grid")
        self._plan, self._turn = planned, 0
        table = asarray(model.table).reshape(vocabulary, count, size)
        scratch = (empty(shape, dtype) for shape in ((batch, count, size), (batch, vocabulary), (batch, vocabulary)))
        self._arrays = (
            table, weights.flat, bias_ih, bias_n, asarray(model.head_bias), states, extra, *scratch,
            empty((batch, vocabulary), np.int64), empty((batch, pieces), np.int64), empty((batch, pieces), np.float64),
        )  # fmt: skip
        self._tokens = empty((batch,), np.int64)
        self._sizes = planned.units, classes, planned.rows, planned.parts, planned.held

    def run(
        self, given: Any, count: int, temperature: float, top_k: int, top_p: float, seeds: Any, position: int
    ) -> np.ndarray:
        """As :meth:`minirnn.kernels.cpu.generate.Sampler.run`; returns [count, N] on the host."""
        out = empty((count, given.shape[1]), np.int64)
        start(
            self._kernel, self._plan, *self._arrays, asarray(given), self._tokens, out,
            temperature, top_k, top_p, asarray(seeds), position, self._turn, *self._sizes,
        )  # fmt: skip
        self._turn = (self._turn + given.shape[0] + count - 1) % 2
        return out.numpy()
