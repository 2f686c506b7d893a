"""A recurrent layer over a whole packed sequence on the GPU: one launch for one direction, forward or backward.

A block computes ``units`` outputs of ``rows`` sequences for all steps. On the path "block" these are all outputs, so
that blocks never wait for one another. On the path "grid" the outputs are divided among the multiprocessors, which
exchange them through global memory, with one grid sync for each step. What a block caches and how it multiplies is in
:mod:`minirnn.kernels.cuda.persistent`, what a cell computes in :mod:`minirnn.kernels.cuda.step`.

Shapes: S packed rows, N sequences, H hidden, W width of h (H without a projection); the others as in
:mod:`minirnn.kernels.plan`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import from_dtype

from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.cuda import block, persistent
from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray, zeros
from minirnn.kernels.cuda.jit import SIMULATOR, Array, Kernel, cuda, device_function
from minirnn.kernels.cuda.launch_plan import Problem, plan_recurrence
from minirnn.kernels.cuda.matrix import gemm
from minirnn.kernels.cuda.rows import column_sums
from minirnn.kernels.cuda.step import Step, steps_of
from minirnn.kernels.cuda.strided import copy_into
from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import Steps

_NO_NUMBERS = np.zeros(0, np.int64)
_steps_on_gpu: dict[int, tuple[DeviceArray, DeviceArray]] = {}


def _to_gpu(steps: Steps) -> tuple[DeviceArray, DeviceArray]:
    """``starts`` and ``previous`` on the GPU, copied there once."""
    found = _steps_on_gpu.get(id(steps))
    if found is None:
        found = _steps_on_gpu[id(steps)] = asarray(steps.starts), asarray(steps.previous)
        weakref.finalize(steps, _steps_on_gpu.pop, id(steps), None)
    return found


@device_function
def _rows_of_step(starts: Array, step: int, reverse: bool, first: int, last: int) -> tuple[int, int]:
    """The block's first packed row at the ``step``-th step, and how many of its sequences have that step."""
    t = starts.size - 2 - step if reverse else step
    begin = starts[t]
    return begin + first, max(0, min(last, starts[t + 1] - begin) - first)


@functools.cache
def _make_forward(step: Step, dtype: Any, tile: int, on_grid: bool, projected: bool) -> Kernel:
    """The forward kernel of a cell."""
    multiply, recurrent_multiply = block.make_multiply(tile), block.make_recurrent_multiply(tile, on_grid, True)
    gate_count, recurrent, staged, height = step.plan.gates, step.recurrent, step.stages is not None, tile + 4
    recurrent_size, unit_step, staged_step = max(1, recurrent), step.unit, step.staged(tile)

    @device_function
    def load_inputs(x: Array, gates: Array, by_token: tuple, s: Any, j: Any) -> None:
        table, tokens = by_token
        for g in range(gate_count):
            x[g] = table[tokens[s], g, j] if tokens.size > 0 else gates[s, g, j]

    @persistent.compile_kernel
    def forward(
        packed: tuple, steps: tuple, reverse: bool, noise: tuple, arrays: tuple, by_token: tuple, sizes: tuple
    ) -> None:
        weights, projection, inner = packed
        starts, previous = steps
        gates, h, source = arrays[0], arrays[4], arrays[-1]
        units, rows, splits, chunk, cached, products_size, reserved = sizes
        shared = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        acc = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        x, u = cuda.local.array(gate_count, dtype), cuda.local.array(recurrent_size, dtype)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        size, width, batch = gates.shape[2], h.shape[1], h.shape[0] - gates.shape[0]
        unit, block_units, first, last = block.owned_range(units, size, rows, batch)
        depth, columns, stride = (width + 3) // 4, (units * recurrent + 3) // 4, chunk + 1
        projection_depth, projection_columns = (size + 3) // 4, (width + 3) // 4
        products_at = rows * stride
        hidden_at = products_at + products_size
        hidden_stride = projection_depth + 1
        stages_at = hidden_at + (rows * hidden_stride if projected else 0)
        cached_at = stages_at + reserved
        weights_at = cuda.blockIdx.x * 4 * depth * columns
        shape, projection_shape = (columns, rows, splits), (projection_columns, rows, splits)
        places = rows, splits, products_at, stride, 0, 4 * stride, stages_at

        block.clear(shared, 0, products_at)
        block.clear(shared, hidden_at, cached_at)
        block.cache_weights(shared, cached_at, weights, weights_at, 4 * cached * columns)
        cuda.syncthreads()
        if not on_grid:
            for r in range(last - first):
                for j in range(thread, width, threads):
                    shared[4 * r * stride + j] = source[first + r, j]
        cuda.syncthreads()
        for step in range(starts.size - 1):
            begin, active = _rows_of_step(starts, step, reverse, first, last)
            if thread < active * block_units:  # loads overlap with the product
                r, j = block.divmod_u32(thread, block_units)
                load_inputs(x, gates, by_token, np.uintp(begin + r), np.uintp(unit + j))
            if recurrent > 0:
                left, right = (source, previous, begin, active), (weights, weights_at, cached_at, cached)
                recurrent_multiply(acc, shared, left, right, (depth, chunk), shape, products_at)
            i = thread
            while i < active * block_units:
                r, j = block.divmod_u32(i, block_units)
                s = begin + r
                if i >= threads:
                    load_inputs(x, gates, by_token, np.uintp(s), np.uintp(unit + j))
                if recurrent > 0:
                    block.totals(u, shared, products_at, shape, r, j * recurrent)
                value = unit_step(x, u, arrays, noise, s, first + r, previous[np.uintp(s)], batch + s, unit + j)
                if projected:
                    shared[np.uintp(4 * (hidden_at + r * hidden_stride) + j)] = value
                elif not on_grid and not staged:
                    shared[np.uintp(4 * r * stride + j)] = value
                i += threads
            if staged:
                cuda.syncthreads()
                staged_step(acc, shared, inner, arrays, noise, (previous, begin, batch, first, active), places)
            if projected:
                cuda.syncthreads()
                hidden, hr = (hidden_at, hidden_stride, active), (projection, 0, 0, 0)
                multiply(acc, shared, hidden, hr, (0, projection_depth), projection_shape, products_at)
                cuda.syncthreads()
                for i in range(thread, active * width, threads):
                    r, j = block.divmod_u32(i, width)
                    value = block.total(shared, products_at, projection_shape, r, j)
                    h[batch + begin + r, j] = value
                    shared[4 * r * stride + j] = value
            if on_grid:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()

    return forward


@functools.cache
def _make_backward(step: Step, dtype: Any, tile: int, on_grid: bool, projected: bool) -> Kernel:
    """The backward kernel of a cell: ``gates``, ``products``, ``dh`` and ``d_states`` become gradients."""
    multiply, recurrent_multiply = block.make_multiply(tile), block.make_recurrent_multiply(tile, on_grid, False)
    recurrent, staged, height = step.recurrent, step.stages is not None, tile + 4
    recurrent_size, unit_step, staged_step = max(1, recurrent), step.unit, step.staged(tile)

    @persistent.compile_kernel
    def backward(
        packed: tuple, steps: tuple, reverse: bool, noise: tuple, arrays: tuple, upstream: tuple, sizes: tuple
    ) -> None:
        weights, projection, inner = packed
        starts, previous = steps
        gates, mask = arrays[0], arrays[7]
        dy, dh, d_projected, exchange = upstream
        units, rows, splits, chunk, cached, products_size, reserved = sizes
        shared = cuda.shared.array(0, dtype) if SIMULATOR else cuda.shared.array(0, dtype, alignment=16)
        acc = cuda.local.array((height, 4), dtype) if SIMULATOR else cuda.local.array((height, 4), dtype, alignment=16)
        fed = cuda.local.array(recurrent_size, dtype)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        size, width, batch = gates.shape[2], dh.shape[1], dh.shape[0]
        unit, block_units, first, last = block.owned_range(units, size, rows, batch)
        outputs = width if projected else block_units
        depth, stride = (recurrent * size + 3) // 4, chunk + 1
        columns = ((width if projected else units) + 3) // 4
        projection_depth, projection_columns = (width + 3) // 4, (size + 3) // 4
        products_at = rows * stride
        dh_at = products_at + products_size
        dh_stride = columns + 1
        stages_at = dh_at + rows * dh_stride
        cached_at = stages_at + reserved
        weights_at = cuda.blockIdx.x * 4 * depth * columns
        shape, projection_shape = (columns, rows, splits), (projection_columns, rows, splits)
        places = rows, splits, products_at, stride, 4 * dh_at, 4 * dh_stride, stages_at

        block.clear(shared, 0, products_at)
        block.clear(shared, dh_at, cached_at)
        block.cache_weights(shared, cached_at, weights, weights_at, 4 * cached * columns)
        cuda.syncthreads()
        for i in range(thread, max(0, last - first) * outputs, threads):
            r, j = i // outputs, i % outputs
            shared[4 * (dh_at + r * dh_stride) + j] = dh[first + r, unit + j]
        for step in range(starts.size - 1):
            begin, active = _rows_of_step(starts, step, not reverse, first, last)
            if dy.size > 0:
                i = thread
                while i < active * outputs:
                    r, j = block.divmod_u32(i, outputs)
                    shared[np.uintp(4 * (dh_at + r * dh_stride) + j)] += dy[np.uintp(begin + r), np.uintp(unit + j)]
                    i += threads
            if projected:
                cuda.syncthreads()
                for i in range(thread, active * width, threads):
                    r, j = block.divmod_u32(i, width)
                    d_projected[begin + r, j] = shared[4 * (dh_at + r * dh_stride) + j]
                d_output, hr = (dh_at, dh_stride, active), (projection, 0, 0, 0)
                multiply(acc, shared, d_output, hr, (0, projection_depth), projection_shape, products_at)
                cuda.syncthreads()
            if staged:
                cuda.syncthreads()
                staged_step(acc, shared, inner, arrays, noise, (previous, begin, batch, first, active), places)
            else:
                i = thread
                while i < active * block_units:
                    r, j = block.divmod_u32(i, block_units)
                    s, place = begin + r, np.uintp(4 * (dh_at + r * dh_stride) + j)
                    value = block.total(shared, products_at, projection_shape, r, j) if projected else shared[place]
                    rest = unit_step(
                        value, fed, arrays, noise, s, first + r, previous[np.uintp(s)], batch + s, unit + j
                    )
                    if not projected:
                        shared[place] = rest
                    for g in range(recurrent):
                        if on_grid:
                            exchange[np.uintp(step % 2 * batch + first + r), np.uintp(g * size + unit + j)] = fed[g]
                        else:
                            shared[np.uintp(4 * r * stride + g * size + j)] = fed[g]
                    i += threads
            if on_grid:
                cuda.cg.this_grid().sync()
            else:
                cuda.syncthreads()
            sent, right = (
                (exchange, previous, step % 2 * batch + first, active),
                (weights, weights_at, cached_at, cached),
            )
            recurrent_multiply(acc, shared, sent, right, (depth, chunk), shape, products_at)
            i = thread
            while recurrent > 0 and i < active * outputs:
                r, j = block.divmod_u32(i, outputs)
                place = np.uintp(4 * (dh_at + r * dh_stride) + j)
                value = block.total(shared, products_at, shape, r, j)
                if mask.size > 0:
                    value *= mask[np.uintp(first + r), np.uintp(unit + j)]
                shared[place] = value if projected else shared[place] + value
                i += threads
        for i in range(thread, max(0, last - first) * outputs, threads):
            r, j = i // outputs, i % outputs
            dh[first + r, unit + j] = shared[4 * (dh_at + r * dh_stride) + j]

    return backward


class Recurrence:
    """See :class:`minirnn.kernels.contract.Recurrence`."""

    def __init__(
        self,
        equations: Equations,
        gates: DeviceArray,
        table: DeviceArray | None,
        tokens: object,
        weights: RecurrentWeights[DeviceArray],
        states: Sequence[DeviceArray],
        steps: Steps,
        noise: Noise[DeviceArray],
    ) -> None:
        self._cell, forward, self._backward = steps_of(equations, weights.weight_hr is not None)
        self._weights, self._steps = weights, steps
        cell, dtype, rows, (batch, width) = self._cell, gates.dtype, gates.shape[0], states[0].shape
        self._size = size = gates.shape[1] // cell.gates
        h, others = empty((batch + rows, width), dtype), empty((len(states) - 1, batch + rows, size), dtype)
        self.histories = [h, *(others[k] for k in range(len(states) - 1))]
        for history, state in zip(self.histories, states, strict=True):
            copy_into(history.view(0, state.shape), state)
        self._source = h
        if noise.mask is not None:
            self._source = empty(h.shape, dtype)
            copy_into(self._source.view(0, states[0].shape), states[0] * noise.mask)
        numbers = noise.rows if noise.rows is not None and equations.graph.draws else _NO_NUMBERS  # none: in order
        self._noise = np.uint64(noise.seed), asarray(numbers), float(noise.zoneout), float(noise.dropout)
        self._products = empty((rows, cell.products, size), dtype)
        self._inputs = empty((rows, cell.inputs, size), dtype)
        self._nothing = nothing = empty((0, 0), dtype)
        vectors = nothing if weights.vectors is None else weights.vectors
        self._gates, sums = gates.reshape(rows, cell.gates, size), empty((rows, cell.sums), dtype)
        mask = nothing if noise.mask is None else noise.mask
        self._arrays = self._gates, self._products, self._inputs, sums, h, others, vectors, mask
        if table is None or tokens is None:
            table, tokens = empty((0, cell.gates * size), dtype), empty((0,), np.int64)
        shape = cell.separate, size
        bias = zeros(shape, dtype) if weights.bias is None else weights.bias.reshape(shape)
        by_token = table.reshape(table.shape[0], cell.gates, size), asarray(tokens)
        self._launch(_make_forward, forward, (bias, self._source), by_token)

    def _launch(
        self, make: Callable[..., Kernel], step: Step, arrays: tuple[DeviceArray, ...], others: tuple[DeviceArray, ...]
    ) -> None:
        weights, steps, size, dtype = self._weights, self._steps, self._size, self._nothing.dtype
        batch, backward = steps.batch, step.is_backward
        projected = 0 if weights.weight_hr is None else self._source.shape[1]
        if not self._gates.size:
            return
        problem = Problem(size, batch, step.recurrent, dtype.itemsize, backward, projected, step.stages)
        plan = plan_recurrence(problem, persistent.limits())
        on_grid = plan.path == "grid"
        packed = projection = self._nothing
        if weights.weight_hh is not None and step.recurrent:
            outputs = projected if backward and projected else plan.units
            packed = persistent.pack(weights.weight_hh, 1 if backward else step.recurrent, outputs, not backward)
        if weights.weight_hr is not None:
            projection = persistent.pack(weights.weight_hr, 1, size if backward else projected, not backward)
        if backward:
            others += (empty((2 * batch, step.recurrent * size) if on_grid else (0, 0), dtype),)
        inner = persistent.pack_inner(weights.inner, size, dtype, not backward)
        kernel = make(step, from_dtype(dtype), plan.tile, on_grid, projected > 0)
        arrays = *self._arrays, empty((batch, step.scratch, size), dtype), *arrays
        matrices = packed.flat, projection.flat, inner.flat
        persistent.launch_kernel(
            kernel, plan, matrices, _to_gpu(steps), steps.reverse, self._noise, arrays, others, plan.sizes
        )

    def backward(
        self, dy: DeviceArray | None, d_states: Sequence[DeviceArray], d_weight_hh: DeviceArray | None = None
    ) -> tuple[list[DeviceArray], RecurrentWeights[DeviceArray]]:
        (batch, width), size, dtype = d_states[0].shape, self._size, self._nothing.dtype
        rows, cell, weights = self._products.shape[0], self._cell, self._weights
        result: RecurrentWeights[DeviceArray] = RecurrentWeights()
        others = empty((len(d_states) - 1, batch, size), dtype)
        for number, d_state in enumerate(d_states[1:]):
            copy_into(others[number], d_state)
        count = 0 if weights.vectors is None else weights.vectors.shape[0]
        d_vectors, d_inputs = zeros((batch, count, size), dtype), empty((batch, cell.inputs, size), dtype)
        hidden, d_projected = (empty((rows if weights.weight_hr is not None else 0, n), dtype) for n in (size, width))
        upstream = self._nothing if dy is None else dy, d_states[0], d_projected
        self._launch(_make_backward, self._backward, (others, d_vectors, d_inputs, hidden), upstream)

        d_gates, d_products = (x.reshape(rows, x.shape[1] * size) for x in (self._gates, self._products))
        if weights.weight_hh is not None and cell.runs:
            result.weight_hh = empty(weights.weight_hh.shape, dtype) if d_weight_hh is None else d_weight_hh
            previous = _to_gpu(self._steps)[1]
            for run in cell.runs:
                part = result.weight_hh[run.first * size : (run.first + run.count) * size]
                d_run, column = d_gates if run.array == "gates" else d_products, run.index * size
                gemm(d_run, self._source, out=part, transpose_a=True, rows=previous, column=column)
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
