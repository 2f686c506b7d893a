"""Sampling from a token model, the whole text in one launch: embed, all layers, softmax, draw, feed back.

Organised as :mod:`minirnn.kernels.cuda.recurrence`: blocks that compute whole sequences, or a grid that divides the
units of every layer and the classes of the head, with a grid sync after each. Steps alternate between two rows of
states for each sequence, so that no thread overwrites what others still read. The random numbers are those of the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.errors import OptionError
from minirnn.kernels.contract import TokenModel, Weights
from minirnn.kernels.cuda import block, persistent
from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray, zeros
from minirnn.kernels.cuda.jit import SIMULATOR, Array, Kernel, cuda, device_function
from minirnn.kernels.cuda.launch_plan import WARP, Problem, float4s, plan_sampling
from minirnn.kernels.cuda.step import Step
from minirnn.kernels.equations import Equations
from minirnn.kernels.plan import make_plan
from minirnn.kernels.pointwise import cast, exp, random_uniform


@device_function
def _sort_by_probability(order: Array, probability: Array, n: int) -> None:
    """order[n] = the tokens, most probable first, equals by number: a bitonic sort by all threads of a block.

    Its first pass over a span compares mirrored places, so that all passes put the better one first, and places past
    the end need not exist.
    """
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
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
def _most_probable(logits: Array, n: int, bests: Array) -> int:
    """The first of the largest logits[n] [V]: each of P threads searches a piece, then each thread all bests[n] [P]."""
    size, pieces, thread = logits.shape[1], bests.shape[1], cuda.threadIdx.x
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
def _draw_from_all(probability: Array, n: int, best: int, masses: Array, u: float) -> int:
    """The token at the fraction u of the cumulative probability; in pieces, as above."""
    size, pieces, thread = probability.shape[1], masses.shape[1], cuda.threadIdx.x
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
def _draw_from_some(probability: Array, order: Array, n: int, best: int, top_k: int, top_p: float, u: float) -> int:
    """The same among the first ``top_k`` of ``order``, of these among the first that hold ``top_p`` of their mass."""
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
def _make_kernel(step: Step, dtype: Any, tile: int, on_grid: bool) -> Kernel:
    multiply, height, unit_step, staged_step = block.make_multiply(tile), tile + 4, step.unit, step.staged(tile)
    gate_count, recurrent, staged = step.plan.gates, step.recurrent, step.stages is not None
    recurrent_size = max(1, recurrent)

    @persistent.compile_kernel
    def generate(
        model: tuple,
        state: tuple,
        workspace: tuple,
        drawing: tuple,
        turn: int,
        text: tuple,
        options: tuple,
        sizes: tuple,
    ) -> None:
        weights, table, inner, bias_ih, bias, vectors, head_bias, zoneout = model
        h, states, previous = state
        gates, products, inputs, sums, mask, scratch = workspace
        logits, probability, order, bests, masses = drawing
        given, tokens, out, seeds = text
        temperature, top_k, top_p, position = options
        units, rows, splits, _, cached, products_size, reserved, classes = sizes
        shared = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        acc = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        x, u = cuda.local.array(gate_count, dtype), cuda.local.array(recurrent_size, dtype)
        noise = np.uint64(0), 0, zoneout, 0.0
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        layers, size, (batch, vocabulary) = bias_ih.shape[0], bias_ih.shape[2], logits.shape
        unit, first_class, first = cuda.blockIdx.x * units, cuda.blockIdx.x * classes, cuda.blockIdx.y * rows
        block_units = min(units, size - unit)
        block_classes = max(0, min(classes, vocabulary - first_class))
        active = min(rows, batch - first)
        depth, columns, head_columns = (size + 3) // 4, (units * recurrent + 3) // 4, (classes + 3) // 4
        input_columns = (units * gate_count + 3) // 4
        stride = depth + 1  # of a row of states
        below_at = rows * stride  # of the layer below
        products_at = 2 * below_at
        input_products_at = products_at + products_size
        stages_at = input_products_at + splits * rows * input_columns
        cached_at = stages_at + reserved
        weights_at = cuda.blockIdx.x * (weights.size // cuda.gridDim.x // 4)
        shape, head_shape = (columns, rows, splits), (head_columns, rows, splits)
        input_shape, places = (
            (input_columns, rows, splits),
            (rows, splits, products_at, stride, 0, 4 * stride, stages_at),
        )

        block.clear(shared, 0, products_at)
        block.clear(shared, stages_at, cached_at)
        block.cache_weights(shared, cached_at, weights, weights_at, cached)
        cuda.syncthreads()
        for step in range(given.shape[0] + out.shape[0] - 1):
            now = (turn + step) % 2
            before = (1 - now) * batch  # the first row of the states before this step
            is_given = step < given.shape[0]
            at = 0  # of this matrix among the block's weights
            for layer in range(layers + 1):
                is_head = layer == layers
                if is_head and step < given.shape[0] - 1:
                    break
                r = thread // WARP
                while r < 2 * active:
                    if r < active and not is_head:
                        block.load_row(shared, r * stride, h[layer], before + first + r, 0, depth)
                    if r >= active and layer > 0:
                        n = r - active
                        block.load_row(shared, below_at + n * stride, h[layer - 1], now * batch + first + n, 0, depth)
                    r += threads // WARP
                cuda.syncthreads()
                if layer > 0:
                    here_shape = head_shape if is_head else input_shape
                    left, here_at = (below_at, stride, active), products_at if is_head else input_products_at
                    right = weights, weights_at + at, cached_at + at, max(0, cached - at) // (4 * here_shape[0])
                    multiply(acc, shared, left, right, (0, depth), here_shape, here_at)
                    at += 4 * depth * here_shape[0]
                if recurrent > 0 and not is_head:
                    right = weights, weights_at + at, cached_at + at, max(0, cached - at) // (4 * columns)
                    multiply(acc, shared, (0, stride, active), right, (0, depth), shape, products_at)
                    at += 4 * depth * columns
                cuda.syncthreads()
                if is_head:
                    for i in range(thread, active * block_classes, threads):
                        r, v = block.divmod_u32(i, block_classes)
                        logit = block.total(shared, products_at, head_shape, r, v)
                        logits[first + r, first_class + v] = logit + head_bias[first_class + v]
                else:
                    own = h[layer], states[layer], vectors[layer], mask, scratch, bias[layer], h[layer]
                    arrays = gates, products, inputs, sums, *own
                    i = thread
                    while i < active * block_units:
                        r, j = block.divmod_u32(i, block_units)
                        stream, mine = first + r, np.uintp(unit + j)
                        if layer > 0:
                            block.totals(x, shared, input_products_at, input_shape, r, j * gate_count)
                        for g in range(gate_count):
                            if layer == 0:
                                x[g] = table[given[step, stream] if is_given else tokens[stream], g, mine]
                            else:
                                x[g] += bias_ih[layer, g, mine]
                        if recurrent > 0:
                            block.totals(u, shared, products_at, shape, r, j * recurrent)
                        row = now * batch + stream
                        unit_step(x, u, arrays, noise, stream, stream, before + stream, row, unit + j)
                        i += threads
                    if staged:
                        cuda.syncthreads()
                        step_rows = previous[now], first, now * batch, first, active
                        staged_step(acc, shared, inner[layer], arrays, noise, step_rows, places)
                if on_grid:
                    cuda.cg.this_grid().sync()
                else:
                    cuda.syncthreads()
            if step < given.shape[0] - 1:
                continue
            made = step - given.shape[0] + 1
            if cuda.blockIdx.x == 0:
                for n in range(first, first + active):
                    token = _most_probable(logits, n, bests)
                    if temperature != 0:
                        scale, largest = cast(1 / temperature, logits[n, 0]), logits[n, token]
                        for v in range(thread, vocabulary, threads):
                            probability[n, v] = exp((logits[n, v] - largest) * scale)
                        cuda.syncthreads()
                        chance = random_uniform(seeds[n], position + made)
                        if top_k < vocabulary or top_p < 1:
                            _sort_by_probability(order, probability, n)
                            if thread == 0:
                                token = _draw_from_some(probability, order, n, token, top_k, top_p, chance)
                        else:
                            token = _draw_from_all(probability, n, token, masses, chance)
                    if thread == 0:
                        tokens[n] = token
                        out[made, n] = token
            if on_grid:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()

    return generate


class Sampler:
    """See :class:`minirnn.kernels.contract.Sampler`."""

    def __init__(
        self, model: TokenModel[DeviceArray], states: Sequence[DeviceArray], weights: Weights = "float32"
    ) -> None:
        if weights != "float32":
            raise OptionError(f"weights: {weights} is for sampling on a CPU; a GPU takes float32")
        layers, batch, size = states[0].shape
        dtype, vocabulary = np.dtype(states[0].dtype), model.table.shape[0]
        step = _step_of(model.equations)
        cell, gates, recurrent = step.plan, step.plan.gates, step.recurrent
        problem = Problem(size, batch, recurrent, dtype.itemsize, False, 0, step.stages, gates, layers, vocabulary)
        self._plan = plan = plan_sampling(problem, persistent.limits())
        classes = -(-vocabulary // plan.blocks[0])
        matrices, counts = [], (gates, cell.separate, len(model.equations.vectors), 2 * batch)
        bias_ih, bias, vectors, history = (zeros((layers, count, size), dtype) for count in counts)
        others = zeros((layers, len(states) - 1, 2 * batch, size), dtype)
        inner = zeros((layers, persistent.pack_inner(model.recurrent[0].inner, size, dtype, True).size), dtype)
        for layer, own in enumerate(model.recurrent):
            if layer > 0:
                matrices.append((model.weight_ih[layer - 1], gates, plan.units))
                bias_ih[layer] = model.bias_ih[layer - 1].reshape(gates, size)
            if recurrent and own.weight_hh is not None:
                matrices.append((own.weight_hh, recurrent, plan.units))
            if cell.separate and own.bias is not None:
                bias[layer] = own.bias.reshape(cell.separate, size)
            if own.vectors is not None and vectors.size:
                vectors[layer] = own.vectors
            if inner.size:
                inner[layer] = persistent.pack_inner(own.inner, size, dtype, True)[0]
            history[layer][batch:] = asarray(states[0])[layer]
            for number, state in enumerate(states[1:]):
                others[layer][number][batch:] = asarray(state)[layer]
        matrices.append((model.head, 1, classes))
        offsets = np.cumsum(
            [0, *(16 * float4s(size) * float4s(units * count) for _, count, units in matrices)]
        ).tolist()
        packed = empty((plan.blocks[0], offsets[-1]), dtype)
        for (matrix, count, units), offset in zip(matrices, offsets, strict=False):
            persistent.pack(matrix, count, units, True, packed, offset)
        pieces = min(plan.threads, math.isqrt(vocabulary - 1) + 1)
        self._kernel = _make_kernel(step, from_dtype(dtype), plan.tile, plan.path == "grid")
        self._turn, self._sizes = 0, (*plan.sizes, classes)
        staged_batch = batch if step.stages else 0
        table, zoneout = model.table.reshape(vocabulary, gates, size), float(model.zoneout)
        alternating = asarray(np.arange(2 * batch).reshape(2, batch)[::-1])
        shapes = [(gates, size), (cell.products, size), (cell.inputs, size), (cell.sums,)]
        workspace = [empty((staged_batch, *shape), dtype) for shape in shapes]
        logits, probability = (empty((batch, vocabulary), dtype) for _ in range(2))
        order, bests = (empty((batch, n), np.int64) for n in (vocabulary, pieces))
        workspace += [empty((0, 0), dtype), empty((batch, step.scratch, size), dtype)]
        drawing = logits, probability, order, bests, empty((batch, pieces), np.float64)
        weights_of = packed.flat, table, inner, bias_ih, bias, vectors, model.head_bias, zoneout
        self._arrays = weights_of, (history, others, alternating), tuple(workspace), drawing
        self._tokens = empty((batch,), np.int64)

    def states(self) -> list[DeviceArray]:
        (history, others, _), batch = self._arrays[1], len(self._tokens)
        last = slice((1 - self._turn) * batch, (2 - self._turn) * batch)
        return [h[:, last].copy() for h in (history, *(others[:, k] for k in range(others.shape[1])))]

    def run(
        self,
        given: np.ndarray,
        count: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seeds: np.ndarray,
        position: int,
    ) -> np.ndarray:
        out = empty((count, given.shape[1]), np.int64)
        text = asarray(given), self._tokens, out, asarray(seeds)
        options = float(temperature), top_k, float(top_p), position
        persistent.launch_kernel(self._kernel, self._plan, *self._arrays, self._turn, text, options, self._sizes)
        self._turn = (self._turn + given.shape[0] + count - 1) % 2
        return out.numpy()
