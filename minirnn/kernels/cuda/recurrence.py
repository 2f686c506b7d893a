"""A recurrent layer over a whole packed sequence on the GPU: one launch for one direction, forward or backward.

A block owns ``units`` outputs of ``rows`` sequences for all steps. On the path "block" it owns all outputs, so that
nothing but the block itself has to wait for a step. On the path "grid" outputs are spread over the multiprocessors,
what they feed to one another goes through global memory, and there is one grid sync per step. What a block keeps and
how it multiplies is in :mod:`minirnn.kernels.cuda.resident`, what a cell computes in :mod:`minirnn.kernels.cuda.step`.

Shapes: S packed rows, N sequences, H hidden, P projected (else P = H); the others as in :mod:`minirnn.kernels.plan`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.cuda.device import DeviceArray, asarray, empty, zeros
from minirnn.kernels.cuda.jit import SIMULATOR, cuda, device_function
from minirnn.kernels.cuda.matrix import gemm
from minirnn.kernels.cuda.planning import WARP, plan
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
from minirnn.kernels.cuda.rows import column_sums
from minirnn.kernels.cuda.step import Step, steps_of
from minirnn.kernels.cuda.strided import overwrite
from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import Steps

_layouts: dict[int, tuple[DeviceArray, DeviceArray]] = {}


def layout(steps: Steps) -> tuple[DeviceArray, DeviceArray]:
    """``starts`` and ``previous`` on the GPU, copied there once."""
    found = _layouts.get(id(steps))
    if found is None:
        found = _layouts[id(steps)] = asarray(steps.starts), asarray(steps.previous)
        weakref.finalize(steps, _layouts.pop, id(steps), None)
    return found


@device_function
def rows_of_step(starts: Any, step: int, backwards: bool, first: int, last: int) -> Any:
    """First packed row of this block, and how many of its sequences are there, at the ``step``-th step."""
    t = starts.size - 2 - step if backwards else step
    begin = starts[t]
    return begin + first, max(0, min(last, starts[t + 1] - begin) - first)


@functools.cache
def make_forward(step: Step, dtype: Any, tile: int, spread: bool, projected: bool) -> Any:
    """The forward kernel of a cell."""
    multiply, height, unit_step, staged_step = make_multiply(tile), tile + 4, step.unit, step.staged(tile)
    gate_count, recurrent, staged = step.plan.gates, step.recurrent, step.stages is not None
    recurrent_size = max(1, recurrent)

    @device_function
    def take(x: Any, gates: Any, table: Any, tokens: Any, s: Any, j: Any) -> None:
        for g in range(gate_count):
            x[g] = table[tokens[s], g, j] if tokens.size > 0 else gates[s, g, j]

    @resident_kernel
    def forward(
        weights: Any, projection: Any, inner: Any, exchange: Any, scratch: Any, starts: Any, previous: Any,
        reverse: bool, seed: int, zoneout: float, dropout: float, gates: Any, products: Any, inputs: Any, sums: Any,
        h: Any, states: Any, vectors: Any, mask: Any, table: Any, tokens: Any, bias: Any, source: Any, units: int,
        rows: int, parts: int, chunk: int, held: int, products_size: int, reserved: int,
    ) -> None:  # fmt: skip
        shared = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        acc = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        x, u = cuda.local.array(gate_count, dtype), cuda.local.array(recurrent_size, dtype)
        arrays = gates, products, inputs, sums, bias, h, source, states, vectors, mask, scratch
        noise = seed, zoneout, dropout
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        size, width, batch = gates.shape[2], h.shape[1], h.shape[0] - gates.shape[0]
        unit = cuda.blockIdx.x * units
        own = min(units, size - unit)
        first = cuda.blockIdx.y * rows
        last = min(first + rows, batch)
        depth, lanes, stride = (width + 3) // 4, (units * recurrent + 3) // 4, chunk + 1
        p_depth, p_lanes = (size + 3) // 4, (width + 3) // 4  # of the projection
        products_at = rows * stride
        hidden_at = products_at + products_size
        hidden_stride = p_depth + 1
        stages_at = hidden_at + (rows * hidden_stride if projected else 0)
        held_at = stages_at + reserved
        weights_at = cuda.blockIdx.x * 4 * depth * lanes

        clear(thread, threads, shared, 0, products_at)
        clear(thread, threads, shared, hidden_at, held_at)
        cache_weights(thread, threads, shared, held_at, weights, weights_at, 4 * held * lanes)
        cuda.syncthreads()
        if not spread:
            for r in range(last - first):
                for j in range(thread, width, threads):
                    shared[4 * r * stride + j] = source[first + r, j]
        cuda.syncthreads()
        for step in range(starts.size - 1):
            begin, active = rows_of_step(starts, step, reverse, first, last)
            if thread < active * own:  # on its way while the product is made
                r, j = divmod_u32(thread, own)
                take(x, gates, table, tokens, np.uintp(begin + r), np.uintp(unit + j))
            at = 0
            while recurrent > 0 and at < depth:
                end = min(at + chunk, depth)
                if spread:
                    r = thread // WARP
                    while r < active:
                        load_row(thread, shared, r * stride, source, previous[begin + r], at, end)
                        r += threads // WARP
                    cuda.syncthreads()
                multiply(
                    thread, threads, acc, shared, 0, stride, active, held_at, held, weights, weights_at, at, end,
                    lanes, rows, parts, products_at,
                )  # fmt: skip
                cuda.syncthreads()
                at = end
            i = thread
            while i < active * own:
                r, j = divmod_u32(i, own)
                s = begin + r
                if i >= threads:
                    take(x, gates, table, tokens, np.uintp(s), np.uintp(unit + j))
                if recurrent > 0:
                    totals(u, shared, products_at, lanes, rows, parts, r, j * recurrent)
                value = unit_step(x, u, arrays, noise, s, first + r, previous[np.uintp(s)], batch + s, unit + j)
                if projected:
                    shared[np.uintp(4 * (hidden_at + r * hidden_stride) + j)] = value
                elif not spread and not staged:
                    shared[np.uintp(4 * r * stride + j)] = value
                i += threads
            if staged:
                cuda.syncthreads()
                staged_step(
                    thread, threads, acc, shared, inner, arrays, noise, previous, begin, batch, first, active, rows,
                    parts, products_at, stride, 0, 4 * stride, stages_at,
                )  # fmt: skip
            if projected:
                cuda.syncthreads()
                multiply(
                    thread, threads, acc, shared, hidden_at, hidden_stride, active, 0, 0, projection, 0, 0, p_depth,
                    p_lanes, rows, parts, products_at,
                )  # fmt: skip
                cuda.syncthreads()
                for i in range(thread, active * width, threads):
                    r, j = divmod_u32(i, width)
                    value = total(shared, products_at, p_lanes, rows, parts, r, j)
                    h[batch + begin + r, j] = value
                    shared[4 * r * stride + j] = value
            if spread:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()

    return forward


@functools.cache
def make_backward(step: Step, dtype: Any, tile: int, spread: bool, projected: bool) -> Any:
    """The backward kernel of a cell: ``gates``, ``products``, ``dh`` and ``d_states`` become gradients."""
    multiply, height, unit_step, staged_step = make_multiply(tile), tile + 4, step.unit, step.staged(tile)
    recurrent, recurrent_size, staged = step.recurrent, max(1, step.recurrent), step.stages is not None

    @resident_kernel
    def backward(
        weights: Any, projection: Any, inner: Any, exchange: Any, scratch: Any, starts: Any, previous: Any,
        reverse: bool, seed: int, zoneout: float, dropout: float, gates: Any, products: Any, inputs: Any, sums: Any,
        h: Any, states: Any, vectors: Any, mask: Any, dy: Any, dh: Any, d_states: Any, d_vectors: Any, d_inputs: Any,
        hidden: Any, d_projected: Any, units: int, rows: int, parts: int, chunk: int, held: int, products_size: int,
        reserved: int,
    ) -> None:  # fmt: skip
        shared = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        acc = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        fed = cuda.local.array(recurrent_size, dtype)
        arrays = gates, products, inputs, sums, h, states, d_states, vectors, d_vectors, d_inputs, mask, hidden, scratch
        noise = seed, zoneout, dropout
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        size, width, batch = gates.shape[2], dh.shape[1], dh.shape[0]
        unit = cuda.blockIdx.x * units
        own = min(units, size - unit)
        outputs = width if projected else own
        first = cuda.blockIdx.y * rows
        last = min(first + rows, batch)
        depth, stride = (recurrent * size + 3) // 4, chunk + 1
        lanes = ((width if projected else units) + 3) // 4
        p_depth, p_lanes = (width + 3) // 4, (size + 3) // 4  # of the projection
        products_at = rows * stride
        dh_at = products_at + products_size
        dh_stride = lanes + 1
        stages_at = dh_at + rows * dh_stride
        held_at = stages_at + reserved
        weights_at = cuda.blockIdx.x * 4 * depth * lanes

        clear(thread, threads, shared, 0, products_at)
        clear(thread, threads, shared, dh_at, held_at)
        cache_weights(thread, threads, shared, held_at, weights, weights_at, 4 * held * lanes)
        cuda.syncthreads()
        for i in range(thread, max(0, last - first) * outputs, threads):
            r, j = i // outputs, i % outputs
            shared[4 * (dh_at + r * dh_stride) + j] = dh[first + r, unit + j]
        for step in range(starts.size - 1):
            begin, active = rows_of_step(starts, step, not reverse, first, last)
            if dy.size > 0:
                i = thread
                while i < active * outputs:
                    r, j = divmod_u32(i, outputs)
                    shared[np.uintp(4 * (dh_at + r * dh_stride) + j)] += dy[np.uintp(begin + r), np.uintp(unit + j)]
                    i += threads
            if projected:
                cuda.syncthreads()
                for i in range(thread, active * width, threads):
                    r, j = divmod_u32(i, width)
                    d_projected[begin + r, j] = shared[4 * (dh_at + r * dh_stride) + j]
                multiply(
                    thread, threads, acc, shared, dh_at, dh_stride, active, 0, 0, projection, 0, 0, p_depth, p_lanes,
                    rows, parts, products_at,
                )  # fmt: skip
                cuda.syncthreads()
            if staged:
                cuda.syncthreads()
                staged_step(
                    thread, threads, acc, shared, inner, arrays, noise, previous, begin, batch, first, active, rows,
                    parts, products_at, stride, 4 * dh_at, 4 * dh_stride, stages_at,
                )  # fmt: skip
            else:
                i = thread
                while i < active * own:
                    r, j = divmod_u32(i, own)
                    s, place = begin + r, np.uintp(4 * (dh_at + r * dh_stride) + j)
                    value = total(shared, products_at, p_lanes, rows, parts, r, j) if projected else shared[place]
                    kept = unit_step(
                        value, fed, arrays, noise, s, first + r, previous[np.uintp(s)], batch + s, unit + j
                    )
                    if not projected:
                        shared[place] = kept
                    for g in range(recurrent):
                        if spread:
                            exchange[np.uintp(step % 2 * batch + first + r), np.uintp(g * size + unit + j)] = fed[g]
                        else:
                            shared[np.uintp(4 * r * stride + g * size + j)] = fed[g]
                    i += threads
            if spread:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()
            at = 0
            while at < depth:
                end = min(at + chunk, depth)
                if spread:
                    r = thread // WARP
                    while r < active:
                        load_row(thread, shared, r * stride, exchange, step % 2 * batch + first + r, at, end)
                        r += threads // WARP
                    cuda.syncthreads()
                multiply(
                    thread, threads, acc, shared, 0, stride, active, held_at, held, weights, weights_at, at, end,
                    lanes, rows, parts, products_at,
                )  # fmt: skip
                cuda.syncthreads()
                at = end
            i = thread
            while recurrent > 0 and i < active * outputs:
                r, j = divmod_u32(i, outputs)
                place = np.uintp(4 * (dh_at + r * dh_stride) + j)
                value = total(shared, products_at, lanes, rows, parts, r, j)
                if mask.size > 0:
                    value *= mask[np.uintp(first + r), np.uintp(unit + j)]
                shared[place] = value if projected else shared[place] + value
                i += threads
        for i in range(thread, max(0, last - first) * outputs, threads):
            r, j = i // outputs, i % outputs
            dh[first + r, unit + j] = shared[4 * (dh_at + r * dh_stride) + j]

    return backward


# ----------------------------------------------------------------------------------------------- from the host


def pack_inner(weights: Sequence[DeviceArray], size: int, dtype: np.dtype, transpose: bool) -> DeviceArray:
    """The weights [H, H] of all products inside the step, packed one after the other, as one row."""
    matrix = (4 * -(-size // 4)) ** 2
    packed = empty((1, len(weights) * matrix), dtype)
    for number, weight in enumerate(weights):
        pack(weight, 1, size, transpose, packed, number * matrix)
    return packed


class Recurrence:
    """One layer in one direction over a batch: run forward when it is made, and backward once.

    As :class:`minirnn.kernels.cpu.recurrence.Recurrence`, on arrays of this device.

    Args:
        equations: the cell's, resolved.
        gates: [S, G H] input part of the pre-activations; its memory is used for what backward needs.
        table, tokens: instead of a filled ``gates``, the input part of token v is ``table[v]`` [V, G H].
        states: [N, P], then [N, H] for each further one, in the steps' sorted order.

    Attributes:
        histories: [N + S, P], then [N + S, H] for each further state: the initial ones, then every step's.
    """

    def __init__(
        self, equations: Equations, gates: DeviceArray, table: DeviceArray | None, tokens: Any,
        weights: RecurrentWeights, states: Sequence[DeviceArray], steps: Steps, noise: Noise,
    ) -> None:  # fmt: skip
        self._cell, self._forward, self._backward = steps_of(equations, weights.weight_hr is not None)
        self._weights, self._steps, self._noise = weights, steps, noise
        cell, dtype, rows, (batch, width) = self._cell, gates.dtype, gates.shape[0], states[0].shape
        self._size = size = gates.shape[1] // cell.gates
        h, others = empty((batch + rows, width), dtype), empty((len(states) - 1, batch + rows, size), dtype)
        self.histories = [h, *(others[k] for k in range(len(states) - 1))]
        for history, state in zip(self.histories, states, strict=True):
            overwrite(history.view(0, state.shape), state)
        self._source = h
        if noise.mask is not None:
            self._source = empty(h.shape, dtype)
            overwrite(self._source.view(0, states[0].shape), states[0] * noise.mask)
        self._products = empty((rows, cell.products, size), dtype)
        self._inputs = empty((rows, cell.inputs, size), dtype)
        self._none = none = empty((0, 0), dtype)
        self._arrays = (
            gates.reshape(rows, cell.gates, size), self._products, self._inputs, empty((rows, cell.sums), dtype), h,
            others, none if weights.vectors is None else weights.vectors, none if noise.mask is None else noise.mask,
        )  # fmt: skip
        if table is None or tokens is None:
            table, tokens = empty((0, cell.gates * size), dtype), empty((0,), np.int64)
        shape = cell.separate, size
        bias = zeros(shape, dtype) if weights.bias is None else weights.bias.reshape(shape)
        table = table.reshape(table.shape[0], cell.gates, size)
        self._launch(make_forward, self._forward, table, asarray(tokens), bias, self._source)

    def _launch(self, make: Any, step: Step, *args: Any) -> None:
        weights, steps, noise, size, dtype = self._weights, self._steps, self._noise, self._size, self._none.dtype
        batch, projected, backward = (
            steps.batch,
            0 if weights.weight_hr is None else self._source.shape[1],
            step.is_backward,
        )
        if not self._arrays[0].size:
            return
        planned = plan(size, batch, step.recurrent, dtype.itemsize, limits(), backward, projected, step.stages)
        packed = projection = exchange = self._none
        if step.recurrent:
            outputs = projected if backward and projected else planned.units
            packed = pack(weights.weight_hh, 1 if backward else step.recurrent, outputs, not backward)
        if projected:
            projection = pack(weights.weight_hr, 1, size if backward else projected, not backward)
        if backward and planned.path == "grid":
            exchange = empty((2 * batch, step.recurrent * size), dtype)
        launch_planned(
            make(step, from_dtype(dtype), planned.tile, planned.path == "grid", projected > 0), planned,
            packed.flat, projection.flat, pack_inner(weights.inner, size, dtype, not backward).flat, exchange,
            empty((batch, step.scratch, size), dtype), *layout(steps), steps.reverse, np.uint64(noise.seed),
            float(noise.zoneout), float(noise.dropout), *self._arrays, *args, planned.units, planned.rows,
            planned.parts, planned.chunk, planned.held, planned.products, planned.reserved,
        )  # fmt: skip

    def backward(
        self, dy: DeviceArray | None, d_states: Sequence[DeviceArray]
    ) -> tuple[list[DeviceArray], RecurrentWeights]:
        """Backpropagation through time: the gradients of the initial states and of the weights.

        The gradient of the input part takes the place of ``gates``.

        Args:
            dy: [S, P] gradient of every step's output, or None.
            d_states: gradients of the final states, like ``states``; overwritten.
        """
        (batch, width), size, dtype = d_states[0].shape, self._size, self._none.dtype
        rows, cell, weights, result = self._products.shape[0], self._cell, self._weights, RecurrentWeights()
        others = empty((len(d_states) - 1, batch, size), dtype)
        for number, d_state in enumerate(d_states[1:]):
            overwrite(others[number], d_state)
        count = 0 if weights.vectors is None else weights.vectors.shape[0]
        d_vectors, d_inputs = zeros((batch, count, size), dtype), empty((batch, cell.inputs, size), dtype)
        hidden, d_projected = (empty((rows if weights.weight_hr is not None else 0, n), dtype) for n in (size, width))
        self._launch(
            make_backward, self._backward, self._none if dy is None else dy, d_states[0], others, d_vectors, d_inputs,
            hidden, d_projected,
        )  # fmt: skip

        d_gates, d_products = (x.reshape(rows, x.shape[1] * size) for x in self._arrays[:2])
        if cell.runs:
            result.weight_hh = empty(weights.weight_hh.shape, dtype)
        for run in cell.runs:
            out = result.weight_hh[run.first * size : (run.first + run.count) * size]
            gemm(
                d_gates if run.array == "gates" else d_products, self._source, out=out, transpose_a=True,
                rows=layout(self._steps)[1], column=run.index * size,
            )  # fmt: skip
        if cell.separate and weights.bias is not None:
            result.bias = column_sums(d_products)[: cell.separate * size]
        for number in range(cell.inputs):
            out, column = empty((size, size), dtype), (cell.separate + number) * size
            gemm(d_products, self._inputs[:, number], out=out, transpose_a=True, column=column)
            result.inner.append(out)
        if count:
            result.vectors = column_sums(d_vectors.reshape(batch, count * size)).reshape(count, size)
        if weights.weight_hr is not None:
            result.weight_hr = gemm(d_projected, hidden, transpose_a=True)
        return [d_states[0], *(others[k] for k in range(len(d_states) - 1))], result
