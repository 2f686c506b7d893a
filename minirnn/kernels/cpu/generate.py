"""Sampling from a token model in one compiled loop: embed, all layers, softmax, draw, feed back.

The layers are the very kernels of training, called for one step. Streams are dealt out to threads as rows are in
training; each has its own counter-based random numbers, so a stream's text depends on its seed alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn.kernels import threads, tile
from minirnn.kernels.build import build_function
from minirnn.kernels.contract import TokenModel
from minirnn.kernels.cpu.recurrence import kernels_of
from minirnn.kernels.cpu.step import copy_rows, partition_sequences
from minirnn.kernels.graph import Equations
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast, exp, random_uniform
from minirnn.kernels.tile import multiply_add


@jit(inline=True)
def _sort_by_probability(order: Any, probability: Any) -> None:
    """Shell's sort of token numbers, most probable first, equals by number."""
    for i in range(order.size):
        order[i] = i
    gap = 1
    while gap < order.size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, order.size):
            token, j = order[i], i
            while j >= gap and (
                probability[order[j - gap]] < probability[token]
                or (probability[order[j - gap]] == probability[token] and order[j - gap] > token)
            ):
                order[j] = order[j - gap]
                j -= gap
            order[j] = token
        gap //= 3


@jit(inline=True)
def _draw(logits: Any, probability: Any, order: Any, temperature: float, top_k: int, top_p: float, u: float) -> int:
    """One token from logits [V]; u in [0, 1) decides which. Temperature 0 takes the most probable."""
    best = 0
    for j in range(logits.size):
        if logits[j] > logits[best]:
            best = j
    if temperature == 0:
        return best
    scale, largest = cast(1 / temperature, logits[0]), logits[best]
    for j in range(logits.size):
        probability[j] = exp((logits[j] - largest) * scale)
    total = 0.0
    for j in range(logits.size):
        total += probability[j]
    kept = logits.size
    sort = top_k < kept or top_p < 1
    if sort:
        _sort_by_probability(order, probability)
        kept = min(kept, top_k)
        mass, reached = 0.0, 0.0
        for i in range(kept):
            mass += probability[order[i]]
        for i in range(kept):
            reached += probability[order[i]]
            if reached >= top_p * mass:
                kept = i + 1
                break
        total = min(reached, mass)
    target, reached = u * total, 0.0
    for i in range(kept):
        token = order[i] if sort else i
        reached += probability[token]
        if reached > target:
            return token
    return best


def _make_kernel(layer_step: Callable[..., None]) -> Any:
    @jit
    def generate(
        thread_id: int, num_threads: int, cumulative_steps: Any, starts: Any, previous: Any, table: Any, ih: Any,
        bias_ih: Any, head: Any, head_bias: Any, state: Any, arrays: Any, gates: Any, logits: Any, probability: Any,
        order: Any, no_tokens: Any, given: Any, tokens: Any, out: Any, temperature: float, top_k: int, top_p: float,
        seeds: Any, position: int,
    ) -> None:  # fmt: skip
        layers, size = state.shape[0], state.shape[2]
        width, panel_columns = gates.shape[1] * size, ih.shape[3]
        first, last = partition_sequences(cumulative_steps, thread_id, num_threads)
        for step in range(given.shape[0] + out.shape[0] - 1):
            if step < given.shape[0]:
                for r in range(first, last):
                    tokens[r] = given[step, r]
            for layer in range(layers):
                if layer == 0:
                    fed = tokens
                else:
                    fed = no_tokens
                    for r in range(first, last):
                        for k in range(gates.shape[1]):
                            for j in range(size):
                                gates[r, k, j] = bias_ih[layer, k, j]
                    multiply_add(
                        state[layer - 1], first * size, size, 1, last - first, ih[layer - 1], 0, size * panel_columns,
                        size, gates, first * width, width, width,
                    )  # fmt: skip
                layer_step(
                    thread_id, num_threads, layer, cumulative_steps, starts, previous, gates, table, fed, state, arrays
                )
            if step < given.shape[0] - 1:
                continue
            classes = logits.shape[1]
            for r in range(first, last):
                for j in range(classes):
                    logits[r, j] = head_bias[j]
            multiply_add(
                state[layers - 1], first * size, size, 1, last - first, head, 0, size * panel_columns, size,
                logits, first * classes, classes, classes,
            )  # fmt: skip
            made = step - given.shape[0] + 1
            for r in range(first, last):
                u = random_uniform(seeds[r], position + made)
                token = _draw(logits[r], probability[r], order[r], temperature, top_k, top_p, u)
                tokens[r] = token
                out[made, r] = token

    return generate


_BY_LAYER = ("bias", "vectors", "panels", "inner", "history")
"""Arguments of the forward kernel that each layer has its own of, "panels0" and the like among them."""


@functools.lru_cache(maxsize=64)
def _kernel_of(equations: Equations) -> tuple[Any, list[str]]:
    """The sampling kernel of a cell, and the names of the arrays it takes as a tuple for all layers."""
    forward = kernels_of(equations, False)[1]
    common = ["cumulative_steps", "starts", "previous", "reverse", "gates", "table", "tokens", "state"]
    names = [name for name in forward.arguments if name not in common]
    passed = {"reverse": "False", "state": "state[layer]"}
    passed |= {name: f"{name}[layer]" for name in names if name.rstrip("0123456789") in _BY_LAYER}
    call = ", ".join(passed.get(name, name) for name in forward.arguments)
    copies = "".join(
        f"    copy_rows(history{k}[layer], first, history{k}[layer], state.shape[1] + first, last - first)\n"
        for k in range(1, len(equations.states))
    )
    source = (
        "def layer_step(thread_id, num_threads, layer, cumulative_steps, starts, previous, gates, table, tokens, "
        f"state, arrays):\n    {', '.join(names)}, = arrays\n    forward(thread_id, num_threads, {call})\n"
        f"    first, last = partition_sequences(cumulative_steps, thread_id, num_threads)\n{copies}"
    )
    functions = {"forward": forward.compiled, "partition_sequences": partition_sequences, "copy_rows": copy_rows}
    step = jit(build_function("layer_step", source, functions, f"{equations.name}_layer_step"), inline=True)
    return _make_kernel(step), names


class Sampler:
    """A token model ready to sample: weights packed, states kept from call to call.

    Args:
        model: the weights.
        states: [L, N, H] to begin with, one for each state of the cell.
    """

    def __init__(self, model: TokenModel, states: Sequence[np.ndarray]) -> None:
        layers, batch, size = states[0].shape
        dtype, vocabulary = states[0].dtype, model.table.shape[0]
        plan, forward, _ = kernels_of(model.equations, False)
        gates = plan.gates
        self._kernel, names = _kernel_of(model.equations)
        recurrent = model.recurrent
        matrices = [
            *model.weight_ih,
            *(w.weight_hh for w in recurrent if plan.runs),
            *(m for w in recurrent for m in w.inner),
        ]
        self._work = float(model.head.size + sum(matrix.size for matrix in matrices))

        def packed(weights: list[np.ndarray], columns: int) -> np.ndarray:
            panels = [tile.pack(weight, True) for weight in weights]
            return np.stack(panels) if panels else np.empty((0, *tile.empty_panels(size, columns, dtype).shape), dtype)

        def stacked(parts: list[Any], count: int) -> np.ndarray:
            return np.stack([np.zeros((count, size), dtype) if p is None else p.reshape(count, size) for p in parts])

        arrays: dict[str, Any] = {
            "bias": stacked([w.bias for w in recurrent], plan.own), "vectors": stacked(
                [w.vectors for w in recurrent], len(model.equations.vectors)
            ),
            "products": np.zeros((batch, plan.products, size), dtype),
            "inputs": np.zeros((batch, plan.inputs, size), dtype),
            "sums": np.zeros((batch, plan.sums), dtype), "carry": np.zeros((batch, forward.room.carry, size), dtype),
            "row_carry": np.zeros((batch, forward.room.rows), dtype), "zoneout": model.zoneout,
            "scratches": np.zeros((threads.get_num_threads(), forward.room.scratch, size), dtype),
        }  # fmt: skip
        for number, run in enumerate(plan.runs):
            part = slice(run.first * size, (run.first + run.count) * size)
            arrays[f"panels{number}"] = packed([w.weight_hh[part] for w in recurrent], run.count * size)
        for number in range(plan.inputs):
            arrays[f"inner{number}"] = packed([w.inner[number] for w in recurrent], size)
        for number, state in enumerate(states):
            history = np.zeros((layers, 2 * batch, size), dtype)
            history[:, :batch] = state
            arrays[f"history{number}"] = history
        self._most = min(batch, len(arrays["scratches"]))
        self._weights = (
            model.table.reshape(vocabulary, gates, size),
            packed(model.weight_ih, gates * size),
            np.stack([np.zeros(gates * size, dtype), *model.bias_ih]).reshape(layers, gates, size),
            tile.pack(model.head, True),
            model.head_bias,
        )
        self._state = np.ascontiguousarray(states[0]).copy(), tuple(arrays[name] for name in names)
        self._scratch = (
            np.zeros((batch, gates, size), dtype),
            np.zeros((batch, vocabulary), dtype),
            np.zeros((batch, vocabulary), dtype),
            np.zeros((batch, vocabulary), np.int64),
            np.zeros(0, np.int64),
        )
        self._layout = np.arange(batch + 1), np.array([0, batch], np.int64), np.arange(batch, dtype=np.int64)

    def run(
        self, given: np.ndarray, count: int, temperature: float, top_k: int, top_p: float, seeds: np.ndarray,
        position: int,
    ) -> np.ndarray:  # fmt: skip
        """Feed ``given`` [P, N] (P at least 1), then sample ``count`` tokens a stream; returns [count, N].

        Args:
            temperature: divides the logits; 0 takes the most probable token.
            top_k, top_p: keep the k most probable; then the smallest set with this share of their mass.
            seeds: [N] uint64, a stream's random numbers.
            position: number of the first draw, so that chunks of one text continue each other.
        """
        batch = given.shape[1]
        out = np.empty((count, batch), np.int64)
        tokens = np.empty(batch, np.int64)
        threads.run(
            self._kernel, self._work * batch * count, self._most, *self._layout, *self._weights, *self._state,
            *self._scratch, given, tokens, out, temperature, top_k, top_p, seeds, position,
        )  # fmt: skip
        return out
