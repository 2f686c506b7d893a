"""The recurrent kernels of a cell on the CPU: source generated from its plan, one forward and one backward function.

Each thread has consecutive sequences, the same at every step. At every step the kernel gathers the inputs of its rows,
adds the recurrent products of all its rows by one matrix product, and then runs over the rows, each by loops over the
units. ``docs/internals/one_kernel.md`` explains the source of one cell line by line.
"""

from __future__ import annotations

import functools
import operator
import re
from typing import Any

from minirnn.kernels import pointwise, tile
from minirnn.kernels.build import build_function
from minirnn.kernels.codegen import POINTWISE, Loop, loop_body, schedule
from minirnn.kernels.cpu import step as step_functions
from minirnn.kernels.equations import Equations
from minirnn.kernels.jit import jit
from minirnn.kernels.plan import Location, Plan, make_plan

FUNCTIONS: dict[str, Any] = {
    **{name: getattr(step_functions, name) for name in step_functions.__all__},
    **{name: getattr(pointwise, name) for name in POINTWISE},
    "multiply_add": tile.multiply_add,
}
"""What generated source may call."""

_ARGUMENTS = re.compile(
    r"\b(?:cumulative_steps|starts|previous|reverse|gates|table|tokens|products|bias|inputs|sums|state|vectors|d_vectors|"
    r"d_inputs|mask|source|d_source|carry|row_carry|dy|hidden|d_hidden|d_projected|projection|seed|row_numbers|zoneout|"
    r"dropout|team|(?:history|d_state|panels|inner)\d+)\b"
)
_STATE = "state, first * width, width"


def set_noalias(function: Any) -> Any:
    """Let the compiler assume that the array arguments do not overlap, as Numba does for its own parallel loops."""

    def customize(flags: Any) -> Any:
        flags.noalias = True
        return flags

    if hasattr(function, "_compiler"):
        function._compiler._customize_flags = customize
    return function


def _row(location: Location) -> str:
    """The source of a location's row of units."""
    parts = [location.row, "" if location.index is None else str(location.index)]
    return f"{location.array}[{', '.join(part for part in parts if part)}]"


def _view(location: Location) -> str:
    """The name of a location's row of units: ``gates_s_0`` for ``gates[s, 0]``."""
    return "_".join(re.findall(r"\w+", _row(location)))


class Kernel:
    """The generated forward or backward kernel of a cell; ``product`` is how the call of a matrix product begins.

    Attributes:
        sources: the text of its functions by name, the kernel itself last.
        arguments: the names of what it takes after ``thread_id, num_threads``.
        reductions: names of the loops that compute sums.
        temporaries: the buffers it needs.
        pick: selects the arguments from a dictionary.
    """

    def __init__(self, plan: Plan, backward: bool, product: str = "multiply_add(") -> None:
        self.plan, self._product = plan, product
        step = plan.backward if backward else plan.forward
        loops, self.temporaries = schedule(step)
        self.name = "backward" if backward else "forward"
        self.sources: dict[str, str] = {}
        self.reductions: set[str] = set()
        self._lines: list[str] = []
        self._views: dict[str, str] = {}
        self._row_views: set[Location] = set()
        self._begin_step("not reverse" if backward else "reverse")
        self._begin_backward() if backward else self._begin_forward()
        self._in_rows = False
        for number, loop in enumerate(loops):
            self._add_loop(f"loop{number}", loop)
            for node in loop.products:
                self._add_inner_product(*step.products[node], *node.key)
        self._end_backward() if backward else self._end_forward()
        text = "\n".join([*(f"    {name} = {view}" for name, view in self._views.items()), *self._lines]) + "\n"
        self.arguments = sorted(set(_ARGUMENTS.findall(text)))
        if self.temporaries.scratch:
            self.arguments.append("scratches")
            text = "    scratch = scratches[thread_id]\n" + text
        self.sources[self.name] = f"def {self.name}(thread_id, num_threads, {', '.join(self.arguments)}):\n{text}"
        self.pick = operator.itemgetter(*self.arguments)

    @functools.cached_property
    def compiled(self) -> Any:
        """The kernel as a jitted function, compiled at its first call."""
        return self.compile(FUNCTIONS, f"{self.plan.equations.name}_{self.name}")

    @functools.cached_property
    def compiled_bfloat16(self) -> Any:
        """The same with products of bfloat16: its panels are packed as pairs."""
        functions = FUNCTIONS | {"multiply_add": tile.multiply_add_bfloat16}
        return self.compile(functions, f"{self.plan.equations.name}_{self.name}_bfloat16")

    def compile(self, functions: dict[str, Any], label: str) -> Any:
        """The kernel as a jitted function that calls ``functions``; ``label`` is its name in messages and the cache."""
        names = dict(functions)
        for name, text in self.sources.items():
            if name != self.name:
                function = build_function(name, text, names, f"{label}_{name}")
                names[name] = set_noalias(jit(function, inline=True, reassociate=name in self.reductions))
        return jit(build_function(self.name, self.sources[self.name], names, label))

    def _add(self, text: str, indent: int = 2) -> None:
        self._lines.append("    " * indent + text)

    def _add_gemm(self, a: str, panels: str, depth: str, c: str, columns: str) -> None:
        """C += A B for all rows of this thread; ``a`` and ``c`` are "array, first element, elements between rows"."""
        panel = f"{panels}, 0, {depth} * {panels}.shape[2], {depth}"
        self._add(f"{self._product}{a}, 1, stop - first, {panel}, {c}, {columns})")

    def _operand(self, array: str, index: int) -> str:
        """``array[row, index]`` of this thread's rows as an operand of :meth:`_add_gemm`."""
        counts = {"gates": self.plan.gates, "products": self.plan.products}
        count, row = counts.get(array, self.plan.inputs), "first" if array == "d_inputs" else "(start + first)"
        return f"{array}, ({row} * {count} + {index}) * size, {count} * size"

    def _begin_step(self, backwards: str) -> None:
        self._add("batch, width, size = state.shape[0], state.shape[1], gates.shape[2]", 1)
        self._add("first, last = partition_sequences(cumulative_steps, thread_id, num_threads)", 1)
        self._add("for step in range(starts.size - 1):", 1)
        self._add(f"start, stop = rows_of_step(starts, step, {backwards}, first, last)")
        self._add("if stop <= first:")
        self._add("continue", 3)

    def _begin_forward(self) -> None:
        self._add("gather_inputs(gates, table, tokens, start, first, stop)")
        if self.plan.products:
            self._add("init_products(products, bias, start + first, start + stop)")
        for k, run in enumerate(self.plan.runs):
            self._add_gemm(_STATE, f"panels{k}", "width", self._operand(run.array, run.index), f"{run.count} * size")

    def _end_forward(self) -> None:
        if self.plan.projected:
            self._add("clear_rows(state, first, stop)")
            self._add_gemm("hidden, first * size, size", "projection", "size", _STATE, "width")
            self._add("copy_rows(history0, batch + start + first, state, first, stop - first)")

    def _begin_backward(self) -> None:
        self._add("add_output_gradients(state, dy, start, first, stop)")
        if self.plan.projected:
            self._add("copy_rows(d_projected, start + first, state, first, stop - first)")
            self._add("clear_rows(d_hidden, first, stop)")
            self._add_gemm(_STATE, "projection", "width", "d_hidden, first * size, size", "size")

    def _end_backward(self) -> None:
        masked = self.plan.equations.masked
        target = "d_source" if masked else "state"
        if self.plan.projected or masked:
            self._add(f"clear_rows({target}, first, stop)")
        for k, run in enumerate(self.plan.runs):
            operand, depth = self._operand(run.array, run.index), f"{run.count} * size"
            self._add_gemm(operand, f"panels{k}", depth, f"{target}, first * width, width", "width")

    def _add_inner_product(self, operand: Location, result: Location, number: int, transposed: bool) -> None:
        """result += W operand, or W^T operand; in the forward pass the results are zero already."""
        if transposed:
            self._add(f"clear_inner({result.array}, {result.index}, first, stop)")
        a, c = (self._operand(location.array, location.index or 0) for location in (operand, result))
        self._add_gemm(a, f"inner{number}", "size", c, "size")
        self._in_rows = False

    def _add_loop(self, name: str, loop: Loop) -> None:
        """A function of one loop over the units, and its call for a row."""
        stored = {s.location for s in loop.stores}
        inner = loop.nodes
        loaded = [loop.loads[node] for node in inner if node in loop.loads and not node.per_row]
        arrays = list(dict.fromkeys([*loaded, *(s.location for s in loop.stores)]))
        arrays.sort(key=lambda location: location not in stored)  # a stored one first: its size is that of the loop
        element = {location: f"a{k}[j]" for k, location in enumerate(arrays)}
        arguments = {f"a{k}": _view(location) for k, location in enumerate(arrays)}
        scalars = {}
        for node in inner:
            if node.op == "scalar" or (node.per_row and node in loop.loads):
                scalars[node] = f"s{node.number}"
                if node.op == "scalar":
                    value = node.key
                else:
                    local = node.op == "sum" and loop.loads[node].array == "local"
                    value = f"t{node.number}" if local else _row(loop.loads[node])
                arguments[scalars[node]] = value
        if any(node.op == "random" for node in inner):
            arguments |= {"seed": "seed", "counter": "row_numbers[s] * size"}
        before, body = loop_body(loop, element, scalars)
        sums = [f"t{node.number}" for node in loop.sums]
        lines = [
            f"def {name}({', '.join(arguments)}):",
            "    kind = a0.dtype.type",
            *(f"    {scalar} = kind({scalar})" for node, scalar in scalars.items() if node.op == "scalar"),
            *(f"    {total} = kind(0)" for total in sums),
            *(f"    {line}" for line in before),
            "    for j in range(a0.size):",
            *(f"        {line}" for line in body),
            *([f"    return {', '.join(sums)}"] if sums else []),
        ]
        self.sources[name] = "\n".join(lines) + "\n"
        if sums:
            self.reductions.add(name)
        if not self._in_rows:
            self._add("for r in range(first, stop):")
            self._add("s = start + r", 3)
            self._add("p, n = previous[s], batch + s", 3)
            self._in_rows, self._row_views = True, set()
        for location in arrays:  # each is made once, before the loops over rows or in the first loop that uses it
            if not location.row:
                self._views[_view(location)] = _row(location)
            elif location not in self._row_views:
                self._add(f"{_view(location)} = {_row(location)}", 3)
                self._row_views.add(location)
        results = f"{', '.join(sums)} = " if sums else ""
        self._add(f"{results}{name}({', '.join(arguments.values())})", 3)
        for s in loop.row_stores:
            self._add(f"{_row(s.location)} = t{s.node.number}", 3)


@functools.lru_cache(maxsize=256)
def kernels_of(equations: Equations, projected: bool) -> tuple[Plan, Kernel, Kernel]:
    """A cell's plan, and its forward and backward kernel."""
    plan = make_plan(equations, projected)
    return plan, Kernel(plan, False), Kernel(plan, True)
