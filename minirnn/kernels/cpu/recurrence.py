"""A recurrent layer over a packed batch on the CPU: buffers for its generated kernels, gradients of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.kernels import memory, recording, threads, tile
from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.cpu.kernel import Kernel, kernels_of
from minirnn.kernels.cpu.matrix import gemm
from minirnn.kernels.cpu.rows import column_sums
from minirnn.kernels.equations import Equations
from minirnn.kernels.precision import uses_bfloat16
from minirnn.kernels.steps import Steps

_NO_TOKENS = np.empty(0, np.int64)


class Recurrence:
    """One layer in one direction; see :meth:`minirnn.kernels.contract.Backend.Recurrence`."""

    def __init__(
        self,
        equations: Equations,
        gates: np.ndarray,
        table: np.ndarray | None,
        tokens: np.ndarray | None,
        weights: RecurrentWeights[np.ndarray],
        states: Sequence[np.ndarray],
        steps: Steps,
        noise: Noise[np.ndarray],
    ) -> None:
        plan, self._forward, self._backward = kernels_of(equations, weights.weight_hr is not None)
        rows, columns = gates.shape
        size = columns // plan.gates
        self._plan, self._weights, self._steps, self._gates = plan, weights, steps, gates
        self._dtype, self._size, self._width = gates.dtype, size, states[0].shape[1]
        self._mask, state = noise.mask, states[0].copy() if noise.mask is None else states[0] * noise.mask
        if table is None or tokens is None:
            table, tokens = self._empty(0, plan.gates, size), _NO_TOKENS
        self.histories = [self._history(initial) for initial in states]
        self._source = self.histories[0] if noise.mask is None else self._history(state)
        recording.constant(steps.cumulative_steps, steps.starts, steps.previous)
        # by the names of the kernels' arguments, see minirnn.kernels.plan; each kernel picks those it has
        self._arrays: dict[str, Any] = {
            "cumulative_steps": steps.cumulative_steps,
            "starts": steps.starts,
            "previous": steps.previous,
            "reverse": steps.reverse,
            "gates": gates.reshape(rows, plan.gates, size),
            "table": table.reshape(-1, plan.gates, size),
            "tokens": tokens,
            "state": state,
            "source": self._source,
            "vectors": weights.vectors,
            "mask": noise.mask,
            "zoneout": noise.zoneout,
            "dropout": noise.dropout,
        }
        for number, history in enumerate(self.histories):
            self._arrays[f"history{number}"] = history
        if equations.graph.draws:
            self._arrays["seed"] = np.uint64(noise.seed)
            self._arrays["row_numbers"] = numbers = np.arange(rows) if noise.rows is None else noise.rows
            recording.constant(numbers)
        if plan.products:
            self._arrays["products"] = self._empty(rows, plan.products, size)
            bias = weights.bias if plan.separate else None
            self._arrays["bias"] = self._empty(0, size) if bias is None else bias.reshape(-1, size)
        if plan.inputs:
            self._arrays["inputs"] = self._empty(rows, plan.inputs, size)
        if plan.sums:
            self._arrays["sums"] = self._empty(rows, plan.sums)
        if plan.projected:
            self._arrays["hidden"] = self._empty(steps.batch, size)
        per_unit = plan.recurrent * (self._width + 8) + plan.inputs * size + 8 * plan.gates
        self._work = float(rows) * size * per_unit
        self._run(self._forward, True)

    def _empty(self, *shape: int) -> np.ndarray:
        return memory.empty(shape, self._dtype)

    def _history(self, initial: np.ndarray) -> np.ndarray:
        batch, width = initial.shape
        history = self._empty(batch + self._steps.rows, width)
        history[:batch] = initial
        return history

    def _run(self, kernel: Kernel, forward: bool) -> None:
        arrays, temporaries = dict(self._arrays), kernel.temporaries  # what is added here, this pass alone needs
        batch, size = self._steps.batch, self._size
        if temporaries.carry:
            arrays["carry"] = self._empty(batch, temporaries.carry, size)
        if temporaries.rows:
            arrays["row_carry"] = self._empty(batch, temporaries.rows)
        max_threads = batch
        if temporaries.scratch:
            count = threads.get_num_threads()
            arrays["scratches"] = self._empty(count, temporaries.scratch, size)
            max_threads = min(batch, count)
        bfloat16 = uses_bfloat16(self._dtype)
        for number, part in enumerate(self._by_run(self._weights.weight_hh)):
            arrays[f"panels{number}"] = tile.pack(part, forward, bfloat16)
        for number, weight in enumerate(self._weights.inner):
            arrays[f"inner{number}"] = tile.pack(weight, forward, bfloat16)
        if self._weights.weight_hr is not None:
            arrays["projection"] = tile.pack(self._weights.weight_hr, forward, bfloat16)
        compiled = kernel.compiled_bfloat16 if bfloat16 else kernel.compiled
        threads.run(compiled, self._work, max_threads, *kernel.pick(arrays))

    def _by_run(self, weight_hh: np.ndarray | None) -> list[np.ndarray]:
        """The rows of each matrix product with weight_hh."""
        runs, size = self._plan.runs, self._size
        if weight_hh is None or len(runs) == 1:
            return [] if weight_hh is None else [weight_hh]
        return [weight_hh[run.first * size : (run.first + run.count) * size] for run in runs]

    def backward(
        self, dy: np.ndarray | None, d_states: list[np.ndarray], d_weight_hh: np.ndarray | None = None
    ) -> tuple[list[np.ndarray], RecurrentWeights[np.ndarray]]:
        plan, arrays, rows, batch = self._plan, self._arrays, self._steps.rows, self._steps.batch
        size, width, vectors = self._size, self._width, self._weights.vectors
        arrays["dy"] = self._empty(0, width) if dy is None else dy
        arrays["state"] = d_states[0]
        for number in range(1, len(d_states)):
            arrays[f"d_state{number}"] = d_states[number]
        if plan.inputs:
            arrays["d_inputs"] = self._empty(batch, plan.inputs, size)
        if vectors is not None:
            arrays["d_vectors"] = memory.zeros((batch, *vectors.shape), self._dtype)
        if plan.projected:
            arrays["hidden"], arrays["d_hidden"] = self._empty(rows, size), self._empty(batch, size)
            arrays["d_projected"] = self._empty(rows, width)
        if self._mask is not None:
            arrays["d_source"] = memory.zeros((batch, size), self._dtype)
        self._run(self._backward, False)
        if self._mask is not None:
            d_states[0] += arrays["d_source"] * self._mask
        return d_states, self._weight_gradients(d_weight_hh)

    def _weight_gradients(self, d_weight_hh: np.ndarray | None) -> RecurrentWeights[np.ndarray]:
        plan, weights, arrays, size = self._plan, self._weights, self._arrays, self._size
        result: RecurrentWeights[np.ndarray] = RecurrentWeights()
        products = self._gates
        if plan.products:
            products = arrays["products"].reshape(self._steps.rows, plan.products * size)
        if weights.weight_hh is not None and plan.runs:
            result.weight_hh = self._empty(*weights.weight_hh.shape) if d_weight_hh is None else d_weight_hh
        for run, part in zip(plan.runs, self._by_run(result.weight_hh), strict=True):
            a, column = self._gates if run.array == "gates" else products, run.index * size
            gemm(a, self._source, out=part, transpose_a=True, rows=self._steps.previous, column=column)
        if plan.separate and weights.bias is not None:
            result.bias = column_sums(products)[: plan.separate * size]
        for number, weight in enumerate(weights.inner):
            if all(node.key[0] != number for node in plan.forward.products):  # evaluation left it out
                result.inner.append(np.zeros_like(weight))
                continue
            operand, out = arrays["inputs"][:, number].copy(), self._empty(*weight.shape)
            column = (plan.separate + number) * size
            result.inner.append(gemm(products, operand, out=out, transpose_a=True, column=column))
        if weights.vectors is not None:
            sums = column_sums(arrays["d_vectors"].reshape(self._steps.batch, weights.vectors.size))
            result.vectors = sums.reshape(weights.vectors.shape)
        if plan.projected:
            result.weight_hr = gemm(arrays["d_projected"], arrays["hidden"], transpose_a=True)
        return result
