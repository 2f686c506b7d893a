"""A recurrent layer over a whole packed sequence on the CPU: kernels generated from a cell's plan, and how they run.

Each thread owns neighbouring sequences, the same at every step; a row's numbers do not depend on who computes it. For
every step the generated kernel gathers the inputs of its rows, adds the recurrent products by one matrix product for
all its rows, and then computes row after row by loops over the units.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.kernels import memory, pointwise, threads, tile
from minirnn.kernels.build import build_function
from minirnn.kernels.codegen import POINTWISE, Level, loop_body, schedule
from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.cpu import step as step_functions
from minirnn.kernels.cpu.matrix import gemm
from minirnn.kernels.cpu.rows import column_sums
from minirnn.kernels.graph import Equations, ancestors
from minirnn.kernels.jit import jit
from minirnn.kernels.plan import Pass, Place, Plan, Store, make_plan
from minirnn.kernels.steps import Steps

_FUNCTIONS: dict[str, Any] = {
    **{name: getattr(step_functions, name) for name in step_functions.__all__},
    **{name: getattr(pointwise, name) for name in POINTWISE},
    "multiply_add": tile.multiply_add,
}

# ------------------------------------------------------------------------------------------------- generation


def _without_overlap(function: Any) -> Any:
    """Its arrays never overlap, which the compiler may take for granted; Numba says so of its own parallel loops."""

    def customize(flags: Any) -> Any:
        flags.noalias = True
        return flags

    if hasattr(function, "_compiler"):
        function._compiler._customize_flags = customize
    return function


_STATE = "state, first * width, width"


def _row(place: Place) -> str:
    """The source of a place's row of units."""
    inside = ", ".join([*([place.row] if place.row else []), *([] if place.index is None else [str(place.index)])])
    return f"{place.array}[{inside}]"


class Kernel:
    """The generated forward or backward kernel of a cell.

    Attributes:
        sources: the text of its functions by name, the kernel itself last.
        arguments: the names of the arrays and numbers it takes after ``thread_id, num_threads``.
        room: what it needs for values between its loops.
    """

    def __init__(self, plan: Plan, backward: bool, projected: bool) -> None:
        self.plan, self.projected = plan, projected
        step = _projected(plan, backward) if projected else plan.backward if backward else plan.forward
        levels, self.room = schedule(step)
        self.sources: dict[str, str] = {}
        self._reassociate: set[str] = set()
        self._lines: list[str] = []
        self._forward_start() if not backward else self._backward_start()
        self._rows_begun = False
        for number, level in enumerate(levels):
            self._loop(f"loop{number}", level)
            for node in level.products:
                self._inner_product(*step.products[node], node.key[0], node.key[1])
        self._backward_end() if backward else self._forward_end()
        text = "\n".join(self._lines) + "\n"
        self.arguments = sorted(set(_ARGUMENTS.findall(text)))
        if self.room.scratch:
            self.arguments.append("scratches")
            text = "    scratch = scratches[thread_id]\n" + text
        name = self.name = "backward" if backward else "forward"
        self.sources[name] = f"def {name}(thread_id, num_threads, {', '.join(self.arguments)}):\n{text}"
        self.pick = operator.itemgetter(*self.arguments)

    @functools.cached_property
    def compiled(self) -> Any:
        """The kernel, ready to be called; compiled at its first call."""
        cell, names = self.plan.equations.name, dict(_FUNCTIONS)
        for name, text in self.sources.items():
            label = f"{cell}_{self.name}" if name == self.name else f"{cell}_{self.name}_{name}"
            function = build_function(name, text, names, label)
            if name == self.name:
                return jit(function)
            names[name] = _without_overlap(jit(function, inline=True, reassociate=name in self._reassociate))
        raise AssertionError

    def _add(self, text: str, indent: int = 2) -> None:
        self._lines.append("    " * indent + text)

    def _start(self, backwards: str) -> None:
        self._add("batch, width, size = state.shape[0], state.shape[1], gates.shape[2]", 1)
        self._add("first, last = partition_sequences(cumulative_steps, thread_id, num_threads)", 1)
        self._add("for step in range(starts.size - 1):", 1)
        self._add(f"start, stop = rows_of_step(starts, step, {backwards}, first, last)")
        self._add("if stop <= first:")
        self._add("continue", 3)

    def _product(self, a: str, panels: str, depth: str, c: str, columns: str) -> None:
        """c += a B for all rows of this thread; ``a`` and ``c`` are "array, first element, elements of a row"."""
        panel = f"{panels}, 0, {depth} * {panels}.shape[2], {depth}"
        self._add(f"multiply_add({a}, 1, stop - first, {panel}, {c}, {columns})")

    def _places(self, array: str, index: int) -> str:
        """The places ``array[row, index]`` of this thread's rows, for :meth:`_product`."""
        plan = self.plan
        row, count = {
            "gates": ("(start + first)", plan.gates), "products": ("(start + first)", plan.products),
            "inputs": ("(start + first)", plan.inputs), "d_inputs": ("first", plan.inputs),
        }[array]  # fmt: skip
        return f"{array}, ({row} * {count} + {index}) * size, {count} * size"

    def _forward_start(self) -> None:
        self._start("reverse")
        self._add("gather_inputs(gates, table, tokens, start, first, stop)")
        if self.plan.products:
            self._add("fill_products(products, bias, start + first, start + stop)")
        for k, run in enumerate(self.plan.runs):
            self._product(_STATE, f"panels{k}", "width", self._places(run.array, run.index), f"{run.count} * size")

    def _forward_end(self) -> None:
        if self.projected:
            self._add("fill_rows(state, first, stop, 0)")
            self._product("hidden, first * size, size", "projection", "size", _STATE, "width")
            self._add("copy_rows(history0, batch + start + first, state, first, stop - first)")

    def _backward_start(self) -> None:
        self._start("not reverse")
        self._add("add_output_gradients(state, dy, start, first, stop)")
        if self.projected:
            self._add("copy_rows(d_projected, start + first, state, first, stop - first)")
            self._add("fill_rows(d_hidden, first, stop, 0)")
            self._product(_STATE, "projection", "width", "d_hidden, first * size, size", "size")

    def _backward_end(self) -> None:
        masked = self.plan.equations.masked
        target = _STATE.replace("state", "d_source") if masked else _STATE
        if self.projected or masked:
            self._add(f"fill_rows({'d_source' if masked else 'state'}, first, stop, 0)")
        for k, run in enumerate(self.plan.runs):
            self._product(self._places(run.array, run.index), f"panels{k}", f"{run.count} * size", target, "width")

    def _inner_product(self, operand: Place, result: Place, number: int, transposed: bool) -> None:
        """result += W operand, or W^T operand; the forward pass has filled its results with zeros already."""
        (a, at), (c, to) = (operand.array, operand.index or 0), (result.array, result.index or 0)
        if transposed:
            self._add(f"clear_place({c}, {to}, first, stop)")
        self._product(self._places(a, at), f"inner{number}", "size", self._places(c, to), "size")
        self._rows_begun = False

    def _loop(self, name: str, level: Level) -> None:
        """A function of one loop over the units, and its call for a row."""
        places = {s.place for s in level.stores}
        inner = ancestors([s.node for s in level.stores] + [n.operands[0] for n in level.sums], level.at)
        used = [node for node in inner if node in level.at]
        arrays = list(dict.fromkeys([level.at[n] for n in used if not n.per_row] + [s.place for s in level.stores]))
        arrays.sort(key=lambda place: place not in places)  # what is written first: it has a row's length for sure
        element = {place: f"a{k}[j]" for k, place in enumerate(arrays)}
        parameters = [f"a{k}" for k in range(len(arrays))]
        values = [_row(place) for place in arrays]
        scalars = {}
        for node in inner:
            if node.op == "scalar" or (node.per_row and node in level.at):
                scalars[node] = f"s{node.number}"
                parameters.append(scalars[node])
                local = node.op == "sum" and level.at[node].array == "local"
                values.append(node.key if node.op == "scalar" else f"t{node.number}" if local else _row(level.at[node]))
        if any(node.op == "random" for node in inner):
            parameters += ["seed", "counter"]
            values += ["seed", "s * size"]
        before, body = loop_body(level, element, scalars)
        text = f"def {name}({', '.join(parameters)}):\n    kind = a0.dtype.type\n"
        text += "".join(f"    {s} = kind({s})\n" for s in scalars.values())
        text += "".join(f"    t{node.number} = kind(0)\n" for node in level.sums)
        text += "".join(f"    {line}\n" for line in before)
        text += "    for j in range(a0.size):\n" + "".join(f"        {line}\n" for line in body)
        results = ", ".join(f"t{node.number}" for node in level.sums)
        text += f"    return {results}\n" if results else ""
        self.sources[name] = text
        if results:
            self._reassociate.add(name)
        if not self._rows_begun:
            self._add("for r in range(first, stop):")
            self._add("s = start + r", 3)
            self._add("p, n = previous[s], batch + s", 3)
            self._rows_begun = True
        self._add(f"{results}{' = ' if results else ''}{name}({', '.join(values)})", 3)
        for s in level.row_stores:
            self._add(f"{_row(s.place)} = t{s.node.number}", 3)


_ARGUMENTS = re.compile(
    r"\b(?:cumulative_steps|starts|previous|reverse|gates|table|tokens|products|bias|inputs|sums|state|vectors|d_vectors|"
    r"d_inputs|mask|source|d_source|carry|row_carry|dy|hidden|d_hidden|d_projected|projection|seed|zoneout|dropout|"
    r"(?:history|d_state|panels|inner)\d+)\b"
)


def _projected(plan: Plan, backward: bool) -> Pass:
    """The pass of a cell whose h is W_hr times what its equations give, which is ``hidden`` then."""
    h = plan.equations.new[0]
    if not backward:
        stores = [s for s in plan.forward.stores if s.node is not h] + [Store(h, Place("hidden", "r"))]
        return Pass(plan.forward.given, stores, plan.forward.products)
    given = {n: Place("d_hidden", "r") if p == Place("state", "r") else p for n, p in plan.backward.given.items()}
    given.pop(h, None)
    stores = [s for s in plan.backward.stores if s.place != Place("state", "r")] + [Store(h, Place("hidden", "s"))]
    return Pass(given, stores, plan.backward.products)


@functools.lru_cache(maxsize=256)
def kernels_of(equations: Equations, projected: bool) -> tuple[Plan, Kernel, Kernel]:
    """A cell's plan, and its forward and backward kernel."""
    plan = make_plan(equations)
    return plan, Kernel(plan, False, projected), Kernel(plan, True, projected)


# ---------------------------------------------------------------------------------------------------- running

_NO_TOKENS = np.empty(0, np.int64)


class Recurrence:
    """One layer in one direction over a batch: run forward when it is made, and backward once.

    Args:
        equations: the cell's, resolved.
        gates: [S, G H] input part of the pre-activations; its memory is used for what backward needs.
        table, tokens: instead of a filled ``gates``, the input part of token v is ``table[v]`` [V, G H].
        states: [N, W], then [N, H] for each further one, in the steps' sorted order.

    Attributes:
        histories: the states, [N + S, W] and [N + S, H]: initial ones, then every step's.
    """

    def __init__(
        self, equations: Equations, gates: np.ndarray, table: np.ndarray | None, tokens: np.ndarray | None,
        weights: RecurrentWeights, states: Sequence[np.ndarray], steps: Steps, noise: Noise,
    ) -> None:  # fmt: skip
        plan, self._forward, self._backward = kernels_of(equations, weights.weight_hr is not None)
        dtype, (rows, columns), (batch, width) = gates.dtype, gates.shape, states[0].shape
        size = columns // plan.gates
        self._plan, self._weights, self._steps, self._gates = plan, weights, steps, gates
        self._dtype, self._rows, self._size, self._width = dtype, rows, size, width
        if table is None or tokens is None:
            table, tokens = np.empty((0, plan.gates, size), dtype), _NO_TOKENS
        self._mask, state = noise.mask, states[0].copy() if noise.mask is None else states[0] * noise.mask
        # by the names of the kernels' arguments, see minirnn.kernels.plan
        arrays: dict[str, Any] = {
            "cumulative_steps": steps.cumulative_steps, "starts": steps.starts, "previous": steps.previous,
            "reverse": steps.reverse, "gates": gates.reshape(rows, plan.gates, size),
            "table": table.reshape(-1, plan.gates, size), "tokens": tokens, "state": state, "vectors": weights.vectors,
            "mask": noise.mask, "zoneout": noise.zoneout, "dropout": noise.dropout,
        }  # fmt: skip
        self._arrays, self.histories = arrays, []
        for number, initial in enumerate(states):
            history = memory.empty((batch + rows, initial.shape[1]), dtype)
            history[:batch] = initial
            self.histories.append(history)
            arrays[f"history{number}"] = history
        self._source = self.histories[0]
        if equations.graph.draws:
            arrays["seed"] = np.uint64(noise.seed)
        if plan.products:
            arrays["products"] = memory.empty((rows, plan.products, size), dtype)
            own = weights.bias is not None and plan.own
            arrays["bias"] = weights.bias.reshape(-1, size) if own else np.empty((0, size), dtype)
        if plan.inputs:
            arrays["inputs"] = memory.empty((rows, plan.inputs, size), dtype)
        if plan.sums:
            arrays["sums"] = memory.empty((rows, plan.sums), dtype)
        if noise.mask is not None:
            self._source = arrays["source"] = memory.empty((batch + rows, size), dtype)
            self._source[:batch] = state
        if weights.weight_hr is not None:
            arrays["hidden"] = memory.empty((batch, size), dtype)
        self._work = float(rows) * size * (plan.recurrent * (width + 8) + plan.inputs * size + 8 * plan.gates)
        self._run(self._forward, True)

    def _run(self, kernel: Kernel, forward: bool) -> None:
        arrays, batch, size, dtype, room = self._arrays, self._steps.batch, self._size, self._dtype, kernel.room
        most = batch
        if room.scratch:
            count = threads.get_num_threads()
            most, arrays["scratches"] = min(batch, count), np.empty((count, room.scratch, size), dtype)
        if room.carry:
            arrays["carry"] = memory.empty((batch, room.carry, size), dtype)
        if room.rows:
            arrays["row_carry"] = memory.empty((batch, room.rows), dtype)
        for number, part in enumerate(self._by_run(self._weights.weight_hh)):
            arrays[f"panels{number}"] = tile.pack(part, forward)
        for number, weight in enumerate(self._weights.inner):
            arrays[f"inner{number}"] = tile.pack(weight, forward)
        if self._weights.weight_hr is not None:
            arrays["projection"] = tile.pack(self._weights.weight_hr, forward)
        threads.run(kernel.compiled, self._work, most, *kernel.pick(arrays))

    def _by_run(self, weight_hh: Any) -> list[Any]:
        """The rows of each matrix product with weight_hh."""
        runs, size = self._plan.runs, self._size
        if len(runs) == 1:
            return [weight_hh]
        return [weight_hh[run.first * size : (run.first + run.count) * size] for run in runs]

    def backward(self, dy: np.ndarray | None, d_states: list[np.ndarray]) -> tuple[list[np.ndarray], RecurrentWeights]:
        """Backpropagation through time: the gradients of the initial states and of the weights.

        The gradient of the input part takes the place of ``gates``.

        Args:
            dy: [S, W] gradient of every step's output, or None.
            d_states: gradients of the final states, like ``states``; overwritten.
        """
        plan, weights, arrays = self._plan, self._weights, self._arrays
        batch, rows, size, width, dtype = self._steps.batch, self._rows, self._size, self._width, self._dtype
        arrays["dy"] = np.empty((0, width), dtype) if dy is None else dy
        arrays["state"] = d_states[0]
        for number in range(1, len(d_states)):
            arrays[f"d_state{number}"] = d_states[number]
        if plan.inputs:
            arrays["d_inputs"] = memory.empty((batch, plan.inputs, size), dtype)
        if weights.vectors is not None:
            arrays["d_vectors"] = memory.zeros((batch, len(weights.vectors), size), dtype)
        if weights.weight_hr is not None:
            arrays["hidden"], arrays["d_hidden"] = memory.empty((rows, size), dtype), memory.empty((batch, size), dtype)
            arrays["d_projected"] = memory.empty((rows, width), dtype)
        if self._mask is not None:
            arrays["d_source"] = memory.zeros((batch, size), dtype)
        self._run(self._backward, False)
        if self._mask is not None:
            d_states[0] += arrays["d_source"] * self._mask
        return d_states, self._weight_gradients()

    def _weight_gradients(self) -> RecurrentWeights:
        plan, weights, arrays, size, result = self._plan, self._weights, self._arrays, self._size, RecurrentWeights()
        flat = {"gates": self._gates}
        if plan.products:
            flat["products"] = arrays["products"].reshape(self._rows, plan.products * size)
        if plan.runs:
            result.weight_hh = memory.empty(weights.weight_hh.shape, self._dtype)
        for run, out in zip(plan.runs, self._by_run(result.weight_hh), strict=True):
            a, at = flat[run.array], run.index * size
            gemm(a, self._source, out=out, transpose_a=True, rows=self._steps.previous, column=at)
        if plan.own and weights.bias is not None:
            result.bias = column_sums(flat["products"])[: plan.own * size]
        for number, weight in enumerate(weights.inner):
            if all(node.key[0] != number for node in plan.forward.products):  # evaluation left it out
                result.inner.append(np.zeros_like(weight))
                continue
            operand, column = np.ascontiguousarray(arrays["inputs"][:, number]), (plan.own + number) * size
            out = memory.empty(weight.shape, weight.dtype)
            result.inner.append(gemm(flat["products"], operand, out=out, transpose_a=True, column=column))
        if weights.vectors is not None:
            sums = column_sums(arrays["d_vectors"].reshape(self._steps.batch, weights.vectors.size))
            result.vectors = sums.reshape(weights.vectors.shape)
        if weights.weight_hr is not None:
            result.weight_hr = gemm(arrays["d_projected"], arrays["hidden"], transpose_a=True)
        return result
