"""Sampling from a token model in one compiled loop: embedding, all layers, softmax, draw, feed back.

The layers are the kernels of training, called for one step at a time. Threads divide the sequences as in training, or
for few sequences and large weights the columns of every product, each thread on a copy of the sequences. A sequence has
its own counter-based random numbers, so its tokens depend on its seed alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn.errors import OptionError
from minirnn.kernels import memory, threads, tile
from minirnn.kernels.build import build_function
from minirnn.kernels.contract import TokenModel, Weights
from minirnn.kernels.cpu.int8 import has_int8, multiply_int8, pack_int8
from minirnn.kernels.cpu.kernel import FUNCTIONS, Kernel, kernels_of
from minirnn.kernels.cpu.shared import is_dissolved, is_over, make_multiply_shared, make_team
from minirnn.kernels.cpu.step import copy_rows, partition_sequences
from minirnn.kernels.equations import Equations
from minirnn.kernels.jit import DISABLED, jit
from minirnn.kernels.pointwise import cast, exp, random_uniform
from minirnn.kernels.rounding import check_dtype
from minirnn.kernels.tile import multiply_add


@jit(inline=True)
def _sort_by_probability(order, probability):
    """Shell sort of token numbers, most probable first, equal ones by number."""
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
def _draw(logits, probability, order, temperature, top_k, top_p, u):
    """Draw one token from logits [V] by u in [0, 1); temperature 0 takes the most probable."""
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


def _make_generate(layer_step: Any, multiply: Any) -> Any:
    @jit
    def generate(
        thread_id, num_threads, layout, weights, state, arrays, buffers, team, start, stop, reached, given,
        tokens, out, options,
    ):  # fmt: skip
        table, ih, bias_ih, head, head_bias = weights
        gates, logits, probability, order, no_tokens = buffers
        temperature, top_k, top_p, seeds, position = options
        layers, size, texts = state.shape[0], state.shape[2], given.shape[1]
        width, classes = gates.shape[1] * size, logits.shape[1]
        copies = state.shape[1] // texts
        layout = layout[0][: texts * min(copies, num_threads) + 1], layout[1], layout[2]
        first, last = partition_sequences(layout[0], thread_id, num_threads)
        for step in range(start, stop):
            if copies > 1 and num_threads > 1 and is_over(team, thread_id, num_threads):
                if thread_id == 0:
                    reached[0] = step
                return
            if step < given.shape[0]:
                for r in range(first, last):
                    tokens[r] = given[step, r % texts]
            for layer in range(layers):
                if layer == 0:
                    layer_tokens = tokens
                else:
                    layer_tokens = no_tokens
                    for r in range(first, last):
                        for k in range(gates.shape[1]):
                            for j in range(size):
                                gates[r, k, j] = bias_ih[layer, k, j]
                    h, to, count = state[layer - 1], first * width, last - first
                    multiply(
                        thread_id, num_threads, team, h, first * size, size, 1, count, ih[layer - 1], 0, 0, size, gates,
                        to, width, width,
                    )  # fmt: skip
                layer_step(thread_id, num_threads, layer, layout, gates, table, layer_tokens, state, arrays, team)
            if step < given.shape[0] - 1:
                continue
            for r in range(first, last):
                for j in range(classes):
                    logits[r, j] = head_bias[j]
            h, to, count = state[layers - 1], first * classes, last - first
            rows = logits.reshape((-1, 1, classes))  # as many axes as the gates, for one compiled product
            multiply(
                thread_id, num_threads, team, h, first * size, size, 1, count, head, 0, 0, size, rows, to, classes,
                classes,
            )  # fmt: skip
            made = step - given.shape[0] + 1
            for r in range(first, last):
                u = random_uniform(seeds[r % texts], position + made)
                token = _draw(logits[r], probability[r], order[r], temperature, top_k, top_p, u)
                tokens[r] = token
                if r < texts:  # of the copies that of thread 0, which computes all steps in any case
                    out[made, r] = token
        if thread_id == 0:
            reached[0] = stop

    return generate


_PER_LAYER = ("bias", "vectors", "panels", "inner", "history")
"""Arguments of the forward kernel that differ between layers; "panels0" and the like are among them."""


@functools.lru_cache(maxsize=64)
def _kernel_of(equations: Equations, weights: Weights) -> tuple[Any, list[str]]:
    """The sampling kernel of a cell, and the names of the arrays it takes as a tuple for all layers."""
    multiply = make_multiply_shared(multiply_int8 if weights == "int8" else multiply_add)
    forward = Kernel(kernels_of(equations, False)[0], False, "multiply(thread_id, num_threads, team, ")
    common = ["cumulative_steps", "starts", "previous", "reverse", "gates", "table", "tokens", "state", "team"]
    names = [name for name in forward.arguments if name not in common]
    passed = {"reverse": "False", "state": "state[layer]"}
    passed |= {name: f"{name}[layer]" for name in names if name.rstrip("0123456789") in _PER_LAYER}
    lines = [
        "def layer_step(thread_id, num_threads, layer, layout, gates, table, tokens, state, arrays, team):",
        "    cumulative_steps, starts, previous = layout",
        f"    {', '.join(names)}, = arrays",
        f"    forward(thread_id, num_threads, {', '.join(passed.get(name, name) for name in forward.arguments)})",
        "    first, last = partition_sequences(cumulative_steps, thread_id, num_threads)",
    ]
    for k in range(1, len(equations.states)):
        old = f"history{k}[layer]"
        lines.append(f"    copy_rows({old}, first, {old}, state.shape[1] + first, last - first)")
    compiled = forward.compile(FUNCTIONS | {"multiply": multiply}, f"{equations.name}_{weights}_sampling")
    functions = {"forward": compiled, "partition_sequences": partition_sequences, "copy_rows": copy_rows}
    step = build_function("layer_step", "\n".join(lines) + "\n", functions, f"{equations.name}_layer_step")
    return _make_generate(jit(step, inline=True), multiply), names


_PACK: dict[Weights, Callable[[np.ndarray], np.ndarray]] = {
    "float32": functools.partial(tile.pack, transposed=True),
    "bfloat16": tile.pack_bfloat16,
    "int8": pack_int8,
}

_MIN_BYTES = 1 << 19
"""Bytes of weights that are worth another thread for the same sequences: less stays in a core's own cache."""

_MAX_PAUSE = 1024
"""Steps that one thread makes alone where teams dissolve all the time, as on a busy machine."""


class Sampler:
    """A token model ready to sample; see :class:`minirnn.kernels.contract.Sampler`."""

    def __init__(
        self, model: TokenModel[np.ndarray], states: Sequence[np.ndarray], weights: Weights = "float32"
    ) -> None:
        layers, batch, size = states[0].shape
        dtype, vocabulary = states[0].dtype, model.table.shape[0]
        check_dtype(weights, dtype)
        if weights == "int8" and not has_int8():
            raise OptionError("weights: int8 needs a processor with VNNI (x86); use bfloat16")
        plan, forward, _ = kernels_of(model.equations, False)
        gates, temporaries = plan.gates, forward.temporaries
        self._kernel, names = _kernel_of(model.equations, weights)
        num_threads = threads.get_num_threads()
        recurrent, pack = model.recurrent, _PACK[weights]
        weights_hh = [w.weight_hh for w in recurrent if w.weight_hh is not None]

        def packed(matrices: list[np.ndarray], columns: int) -> np.ndarray:
            panels = [pack(matrix) for matrix in matrices]
            one = panels[0] if panels else pack(np.zeros((columns, size), dtype))
            target = memory.empty((len(panels), *one.shape), one.dtype)
            return np.stack(panels, out=target) if panels else target

        def stacked(parts: list[np.ndarray | None], count: int) -> np.ndarray:
            return np.stack([np.zeros((count, size), dtype) if p is None else p.reshape(count, size) for p in parts])

        arrays: dict[str, Any] = {}
        for number, run in enumerate(plan.runs):
            part = slice(run.first * size, (run.first + run.count) * size)
            arrays[f"panels{number}"] = packed([weight[part] for weight in weights_hh], run.count * size)
        for number in range(plan.inputs):
            arrays[f"inner{number}"] = packed([w.inner[number] for w in recurrent], size)
        panels_ih, panels_head = packed(model.weight_ih, gates * size), pack(model.head)
        nbytes = sum(panels.nbytes for panels in (*arrays.values(), panels_ih, panels_head))
        together = batch < num_threads and not DISABLED
        self._copies = min(num_threads, max(1, nbytes // _MIN_BYTES)) if together else 1
        rows = self._copies * batch
        arrays |= {
            "bias": stacked([w.bias for w in recurrent], plan.separate),
            "vectors": stacked([w.vectors for w in recurrent], len(model.equations.vectors)),
            "products": np.zeros((rows, plan.products, size), dtype),
            "inputs": np.zeros((rows, plan.inputs, size), dtype),
            "sums": np.zeros((rows, plan.sums), dtype),
            "carry": np.zeros((rows, temporaries.carry, size), dtype),
            "row_carry": np.zeros((rows, temporaries.rows), dtype),
            "scratches": np.zeros((num_threads, temporaries.scratch, size), dtype),
            "zoneout": model.zoneout,
        }
        for number, state in enumerate(states):
            history = np.zeros((layers, 2 * rows, size), dtype)
            history[:, :rows] = np.tile(state, (1, self._copies, 1))
            arrays[f"history{number}"] = history
        matrices = [model.head, *model.weight_ih, *weights_hh, *(m for w in recurrent for m in w.inner)]
        self._work = float(sum(matrix.size for matrix in matrices))
        self._max_threads = self._copies if self._copies > 1 else min(batch, num_threads)
        layout = np.arange(rows + 1), np.array([0, rows], np.int64), np.arange(rows, dtype=np.int64)
        of_layers = (
            model.table.reshape(vocabulary, gates, size),
            panels_ih,
            np.stack([np.zeros(gates * size, dtype), *model.bias_ih]).reshape(layers, gates, size),
            panels_head,
            model.head_bias,
        )
        state = arrays["history0"][:, :rows].copy()
        buffers = (
            np.zeros((rows, gates, size), dtype),
            np.zeros((rows, vocabulary), dtype),
            np.zeros((rows, vocabulary), dtype),
            np.zeros((rows, vocabulary), np.int64),
            np.zeros(0, np.int64),
        )
        largest = batch * max(vocabulary, max(gates, plan.recurrent) * size)  # numbers of a product
        self._team = make_team(num_threads, largest if self._copies > 1 else 0, dtype)
        self._pause = self._next_pause = 0
        self._states = [state, *(arrays[f"history{number}"][:, :rows] for number in range(1, len(states)))]
        self._arguments = layout, of_layers, state, tuple(arrays[name] for name in names), buffers, self._team

    def states(self) -> list[np.ndarray]:
        return [state[:, : state.shape[1] // self._copies].copy() for state in self._states]

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
        batch, steps = given.shape[1], len(given) + count - 1
        out, tokens = np.empty((count, batch), np.int64), np.zeros(self._copies * batch, np.int64)
        options = temperature, top_k, top_p, seeds, position
        work, reached = self._work * batch * steps, np.zeros(1, np.int64)
        while (start := int(reached[0])) < steps:
            progress = self._team[0]
            progress[:] = 0
            tokens[:] = np.tile(tokens[:batch], self._copies)  # every copy starts from the one of thread 0
            for state in self._states:
                state[:] = np.tile(state[:, :batch], (1, self._copies, 1))
            stop, max_threads = (min(steps, start + self._pause), 1) if self._pause else (steps, self._max_threads)
            text = start, stop, reached, given, tokens, out, options
            threads.run(self._kernel, work, max_threads, *self._arguments, *text)
            if self._pause:
                self._pause -= int(reached[0]) - start
            elif is_dissolved(progress):  # the team meets again, but later and later where that happens all the time
                self._pause, self._next_pause = self._next_pause, min(max(32, 2 * self._next_pause), _MAX_PAUSE)
            else:
                self._next_pause = 0
        return out
