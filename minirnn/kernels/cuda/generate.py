"""Sampling from a token model, the whole text in one launch: embed, all layers, softmax, draw, feed back.

Laid out as :mod:`minirnn.kernels.cuda.recurrence` is: blocks that own streams, or a grid that spreads the units of
every layer and the classes of the head, with a grid sync after each. Steps alternate between two rows of states for
each stream: no thread overwrites what others still read. A stream has random numbers of its own, those of the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.contract import TokenModel
from minirnn.kernels.cuda.device import asarray, empty, zeros
from minirnn.kernels.cuda.jit import SIMULATOR, cuda, device_function
from minirnn.kernels.cuda.planning import WARP, plan_sampling, quads
from minirnn.kernels.cuda.recurrence import pack_inner
from minirnn.kernels.cuda.resident import (
    cache_weights,
    clear,
    divmod_u32,
    launch_planned,
    limits,
    load_row,
    make_multiply,
    pack,
    resident_kernel,
    total,
    totals,
)
from minirnn.kernels.cuda.step import Step
from minirnn.kernels.equations import Equations
from minirnn.kernels.plan import make_plan
from minirnn.kernels.pointwise import cast, exp, random_uniform


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


@functools.lru_cache(maxsize=64)
def _step_of(equations: Equations) -> Step:
    """The forward step of a cell that keeps nothing for backward."""
    return Step(make_plan(equations), False, keep=False)


@functools.cache
def _make_kernel(step: Step, dtype: Any, tile: int, spread: bool) -> Any:
    multiply, height, unit_step, staged_step = make_multiply(tile), tile + 4, step.unit, step.staged(tile)
    gate_count, recurrent, staged = step.plan.gates, step.recurrent, step.stages is not None
    recurrent_size = max(1, recurrent)

    @resident_kernel
    def generate(
        table: Any, weights: Any, inner: Any, bias_ih: Any, bias: Any, vectors: Any, head_bias: Any, h: Any,
        states: Any, previous: Any, gates: Any, products: Any, inputs: Any, sums: Any, scratch: Any, mask: Any,
        zoneout: float, logits: Any, probability: Any, order: Any, bests: Any, masses: Any, given: Any, tokens: Any,
        out: Any,
        temperature: float, top_k: int, top_p: float, seeds: Any, position: int, turn: int, units: int, classes: int,
        rows: int, parts: int, held: int, products_size: int, reserved: int,
    ) -> None:  # fmt: skip
        shared = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        acc = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        x, u = cuda.local.array(gate_count, dtype), cuda.local.array(recurrent_size, dtype)
        noise = np.uint64(0), zoneout, 0.0
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        layers, batch, size = bias_ih.shape[0], logits.shape[0], bias_ih.shape[2]
        vocabulary = logits.shape[1]
        unit, first_class = cuda.blockIdx.x * units, cuda.blockIdx.x * classes
        own = min(units, size - unit)
        own_classes = max(0, min(classes, vocabulary - first_class))
        first = cuda.blockIdx.y * rows
        active = min(rows, batch - first)
        depth, lanes, head_lanes = (size + 3) // 4, (units * recurrent + 3) // 4, (classes + 3) // 4
        input_lanes = (units * gate_count + 3) // 4
        stride = depth + 1  # quads of a row of states
        below_at = rows * stride
        products_at = 2 * below_at
        products_below_at = products_at + products_size
        stages_at = products_below_at + parts * rows * input_lanes
        held_at = stages_at + reserved
        weights_at = cuda.blockIdx.x * (weights.size // cuda.gridDim.x // 4)

        clear(thread, threads, shared, 0, products_at)
        clear(thread, threads, shared, stages_at, held_at)
        cache_weights(thread, threads, shared, held_at, weights, weights_at, held)
        cuda.syncthreads()
        for step in range(given.shape[0] + out.shape[0] - 1):
            now = (turn + step) % 2
            before = (1 - now) * batch  # the first row of the states before this step
            fed = step < given.shape[0]
            at = 0  # this matrix's place among the block's weights
            for layer in range(layers + 1):
                is_head = layer == layers
                if is_head and step < given.shape[0] - 1:
                    break
                r = thread // WARP
                while r < 2 * active:
                    if r < active and not is_head:
                        load_row(thread, shared, r * stride, h[layer], before + first + r, 0, depth)
                    if r >= active and layer > 0:
                        n = r - active
                        load_row(thread, shared, below_at + n * stride, h[layer - 1], now * batch + first + n, 0, depth)
                    r += threads // WARP
                cuda.syncthreads()
                if layer > 0:
                    here = head_lanes if is_head else input_lanes
                    multiply(
                        thread, threads, acc, shared, below_at, stride, active, held_at + at,
                        max(0, held - at) // (4 * here), weights, weights_at + at, 0, depth,
                        here, rows, parts, products_at if is_head else products_below_at,
                    )  # fmt: skip
                    at += 4 * depth * here
                if recurrent > 0 and not is_head:
                    multiply(
                        thread, threads, acc, shared, 0, stride, active, held_at + at,
                        max(0, held - at) // (4 * lanes), weights, weights_at + at, 0, depth, lanes, rows, parts,
                        products_at,
                    )  # fmt: skip
                    at += 4 * depth * lanes
                cuda.syncthreads()
                if is_head:
                    for i in range(thread, active * own_classes, threads):
                        r, v = divmod_u32(i, own_classes)
                        logits[first + r, first_class + v] = (
                            total(shared, products_at, head_lanes, rows, parts, r, v) + head_bias[first_class + v]
                        )
                else:
                    arrays = (
                        gates, products, inputs, sums, bias[layer], h[layer], h[layer], states[layer], vectors[layer],
                        mask, scratch,
                    )  # fmt: skip
                    i = thread
                    while i < active * own:
                        r, j = divmod_u32(i, own)
                        stream, mine = first + r, np.uintp(unit + j)
                        if layer > 0:
                            totals(x, shared, products_below_at, input_lanes, rows, parts, r, j * gate_count)
                        for g in range(gate_count):
                            if layer == 0:
                                x[g] = table[given[step, stream] if fed else tokens[stream], g, mine]
                            else:
                                x[g] += bias_ih[layer, g, mine]
                        if recurrent > 0:
                            totals(u, shared, products_at, lanes, rows, parts, r, j * recurrent)
                        row = now * batch + stream
                        unit_step(x, u, arrays, noise, stream, stream, before + stream, row, unit + j)
                        i += threads
                    if staged:
                        cuda.syncthreads()
                        staged_step(
                            thread, threads, acc, shared, inner[layer], arrays, noise, previous[now], first,
                            now * batch, first, active, rows, parts, products_at, stride, 0, 4 * stride, stages_at,
                        )  # fmt: skip
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
        states: [L, N, H] to begin with, one for each state of the cell, of any device.
    """

    def __init__(self, model: TokenModel, states: Sequence[Any]) -> None:
        layers, batch, size = states[0].shape
        dtype, vocabulary = np.dtype(states[0].dtype), model.table.shape[0]
        step = _step_of(model.equations)
        cell, gates, recurrent = step.plan, step.plan.gates, step.recurrent
        lengths = size, batch, gates, recurrent, layers, vocabulary
        planned = plan_sampling(*lengths, dtype.itemsize, limits(), step.stages)
        blocks = planned.blocks[0]
        classes = -(-vocabulary // blocks)
        matrices, counts = [], (gates, cell.separate, len(model.equations.vectors), 2 * batch)
        bias_ih, bias, vectors, history = (zeros((layers, count, size), dtype) for count in counts)
        others = zeros((layers, len(states) - 1, 2 * batch, size), dtype)
        inner = zeros((layers, pack_inner(model.recurrent[0].inner, size, dtype, True).size), dtype)
        for layer, own in enumerate(model.recurrent):
            if layer > 0:
                matrices.append((model.weight_ih[layer - 1], gates, planned.units))
                bias_ih[layer] = asarray(model.bias_ih[layer - 1]).reshape(gates, size)
            if recurrent:
                matrices.append((own.weight_hh, recurrent, planned.units))
            if cell.separate and own.bias is not None:
                bias[layer] = asarray(own.bias).reshape(cell.separate, size)
            if vectors.size:
                vectors[layer] = asarray(own.vectors)
            if inner.size:
                inner[layer] = pack_inner([asarray(weight) for weight in own.inner], size, dtype, True)[0]
            history[layer][batch:] = asarray(states[0])[layer]
            for number, state in enumerate(states[1:]):
                others[layer][number][batch:] = asarray(state)[layer]
        matrices.append((model.head, 1, classes))
        places = np.cumsum([0, *(16 * quads(size) * quads(units * count) for _, count, units in matrices)]).tolist()
        weights = empty((blocks, places[-1]), dtype)
        for (matrix, count, units), place in zip(matrices, places, strict=False):
            pack(asarray(matrix), count, units, True, weights, place)
        pieces = min(planned.threads, math.isqrt(vocabulary - 1) + 1)
        self._kernel = _make_kernel(step, from_dtype(dtype), planned.tile, planned.path == "grid")
        self._plan, self._turn = planned, 0
        kept = batch if step.stages else 0
        self._arrays = (
            asarray(model.table).reshape(vocabulary, gates, size), weights.flat, inner, bias_ih, bias, vectors,
            asarray(model.head_bias), history, others, asarray(np.arange(2 * batch).reshape(2, batch)[::-1]),
            empty((kept, gates, size), dtype), empty((kept, cell.products, size), dtype),
            empty((kept, cell.inputs, size), dtype), empty((kept, cell.sums), dtype),
            empty((batch, step.scratch, size), dtype), empty((0, 0), dtype), float(model.zoneout),
            empty((batch, vocabulary), dtype), empty((batch, vocabulary), dtype), empty((batch, vocabulary), np.int64),
            empty((batch, pieces), np.int64), empty((batch, pieces), np.float64),
        )  # fmt: skip
        self._tokens = empty((batch,), np.int64)
        self._sizes = (
            planned.units, classes, planned.rows, planned.parts, planned.held, planned.products, planned.reserved
        )  # fmt: skip

    def run(
        self, given: Any, count: int, temperature: float, top_k: int, top_p: float, seeds: Any, position: int
    ) -> np.ndarray:
        """As :meth:`minirnn.kernels.cpu.generate.Sampler.run`; returns [count, N] on the host."""
        out = empty((count, given.shape[1]), np.int64)
        launch_planned(
            self._kernel, self._plan, *self._arrays, asarray(given), self._tokens, out,
            temperature, top_k, top_p, asarray(seeds), position, self._turn, *self._sizes,
        )  # fmt: skip
        self._turn = (self._turn + given.shape[0] + count - 1) % 2
        return out.numpy()
