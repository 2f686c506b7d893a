"""One step of a cell as device functions, generated from its plan: what the recurrence calls between its products.

Most cells are one function of one unit, whose pre-activations come in registers. A cell with sums over the units, or
with products inside the step, runs in *stages* instead: its pre-activations are written to ``gates`` and ``products``
first, then all threads of a block, which owns all units, compute level after level (:mod:`minirnn.kernels.codegen`),
with a barrier where one needs what other threads computed. A thread has the same units of the same rows in each.

In the generated source s, r, p, n and j are the packed row, the sequence, the rows of the state before and after, and
the unit, all int64; S, R, P, N and J are the same, unsigned: an index that cannot be negative needs no check.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from minirnn.errors import DeviceError
from minirnn.kernels import pointwise
from minirnn.kernels.build import build_function
from minirnn.kernels.codegen import POINTWISE, Loop, loop_body, schedule
from minirnn.kernels.cuda.jit import cuda, device_function
from minirnn.kernels.cuda.planning import Stages
from minirnn.kernels.cuda.resident import divmod_u32, make_multiply, total
from minirnn.kernels.equations import Equations
from minirnn.kernels.graph import Node, ancestors
from minirnn.kernels.plan import D_HIDDEN, HIDDEN, STATE, Location, Pass, Plan, Store, make_plan

FORWARD = "gates, products, inputs, sums, bias, h, source, states, vectors, mask, scratch"
BACKWARD = "gates, products, inputs, sums, h, states, d_states, vectors, d_vectors, d_inputs, mask, hidden, scratch"
"""The arrays a step works on, as tuples in this order; shapes in :mod:`minirnn.kernels.plan`.

``h`` is the first state's history, [N + S, W], ``states`` [C - 1, N + S, H] those of the others, ``d_states``
[C - 1, N, H] their gradients; ``source`` is ``h`` where there is no mask; ``hidden`` [S, H] is h before a projection;
``scratch`` [N, ..., H] holds what a stage leaves to later ones.
"""


@device_function
def sync() -> None:
    """Wait for all threads of the block."""
    cuda.syncthreads()


@device_function
def add_parts(thread: int, threads: int, shared: Any, at: int, count: int, width: int, to: int) -> None:
    """shared[to + i] = shared[at + i width] + ... + shared[at + i width + width - 1] for i < count, by halves."""
    cuda.syncthreads()
    left = width
    while left > 1:
        half = (left + 1) // 2
        i = thread
        while i < count * (left - half):
            row, k = divmod_u32(i, left - half)
            place = np.uintp(at + row * width + k)
            shared[place] += shared[place + np.uintp(half)]
            i += threads
        left = half
        cuda.syncthreads()
    i = thread
    while i < count:
        shared[np.uintp(to + i)] = shared[np.uintp(at + i * width)]
        i += threads
    cuda.syncthreads()


_NAMES: dict[str, Any] = {
    **{name: getattr(pointwise, name) for name in POINTWISE},
    "index": np.uintp, "sync": sync, "add_parts": add_parts, "divmod_u32": divmod_u32, "total": total,
}  # fmt: skip


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


class Step:
    """The forward or backward step of a cell.

    Attributes:
        recurrent: rows of weight_hh by H, the products that the recurrence makes for each unit.
        stages: what shared memory a cell that runs in stages needs; None for one that does not.
        scratch: places of ``scratch``.
    """

    def __init__(self, plan: Plan, backward: bool, keep: bool = True) -> None:
        self.plan, self.is_backward = plan, backward
        self._rows = _rows(plan)
        self.recurrent = len(self._rows)
        self._pass = _backward(plan) if backward else _forward(plan, keep)
        self._levels, temporaries = schedule(self._pass, vectorized=False)
        self.scratch, self._carry = temporaries.scratch + temporaries.carry, temporaries.scratch
        self._sums = [node for level in self._levels for node in level.sums]
        self._operands = list(dict.fromkeys(operand for operand, _ in self._pass.products.values()))
        self.stages, self._state = None, "dh" if backward else "value"
        if self._sums or self._operands:
            most = max(len(level.sums) for level in self._levels)
            self.stages, self._state = Stages(len(self._operands), most, len(self._sums)), "shared[index(state_at + j)]"

    def _element(self, place: Location) -> str:
        """The source of a place's element."""
        array, row, index = place.array, place.row.upper(), place.index
        numbered = re.fullmatch(r"(history|d_state)(\d+)", array)
        if place in (STATE, HIDDEN, D_HIDDEN):  # those before a projection are in the same register
            return self._state
        if array in ("x", "u"):
            return f"{array}[{index}]"
        if array == "history0":
            return f"h[{row}, J]"
        if numbered:
            return f"{'states' if numbered[1] == 'history' else 'd_states'}[{int(numbered[2]) - 1}, {row}, J]"
        if array in ("scratch", "carry"):
            array, row, index = "scratch", "R", (index or 0) + (self._carry if array == "carry" else 0)
        inside = [row, "" if index is None else str(index), "" if place.per_row else "J"]
        return f"{array}[{', '.join(part for part in inside if part)}]"

    def _copies(self) -> dict[Location, str]:
        """Where values have to be written beside their place: what products multiply."""
        fed = "fed[{}]" if self.stages is None else "shared[index(4 * at * stride + {} * size + j)]"
        copies = {place: fed.format(row) for place, row in self._rows.items()} if self.is_backward else {}
        for place in self._operands:
            copy = f"shared[index(4 * ({self._operand(place)} + at * (depth + 1)) + j)]"
            copies[place] = f"{copies[place]} = {copy}" if place in copies else copy
        return copies

    def _operand(self, place: Location) -> str:
        """The quad in shared memory where the operand of a product inside the step begins."""
        return f"stages_at + {self._operands.index(place)} * rows * (depth + 1)"

    def _sum(self, node: Node) -> str:
        return f"shared[index(sums_at + {self._sums.index(node)} * rows + at)]"

    def _body(self, level: Loop) -> tuple[list[str], list[str]]:
        """Lines before the loop over the units, and inside it."""
        places = [*level.loads.values(), *(s.location for s in level.stores)]
        element = {place: self._element(place) for place in places}
        before, scalars = [], {}
        for node in ancestors([s.node for s in level.stores] + [n.operands[0] for n in level.sums], level.loads):
            if node.op == "scalar" or (node.per_row and node in level.loads):
                scalars[node] = f"s{node.number}"
                known = self._sum(node) if node in self._sums else element.get(level.loads.get(node, STATE))
                before.append(f"s{node.number} = kind({node.key if node.op == 'scalar' else known})")
        rows, body = loop_body(level, element, scalars)
        for place, copy in self._copies().items():
            text = f"{element.get(place)} = "
            body = [f"{copy} = {line}" if line.startswith(text) else line for line in body]
        return before + rows, body

    def _built(self, name: str, parameters: str, lines: list[str], **names: Any) -> Any:
        head = [f"{BACKWARD if self.is_backward else FORWARD} = arrays", "seed, zoneout, dropout = noise"]
        lines = _indented([*head, "kind, size = gates.dtype.type, gates.shape[2]", *lines])
        label = f"{self.plan.equations.name}_{'backward' if self.is_backward else 'forward'}_{name}"
        text = "\n".join([f"def {name}({parameters}):", *lines]) + "\n"
        return device_function(build_function(name, text, _NAMES | names, label))

    @functools.cached_property
    def unit(self) -> Any:
        """The device function of one unit.

        Forward it takes the input parts x [G] and the recurrent products u [recurrent], and returns what the next step
        multiplies; in stages, it writes the pre-activations. Backward it writes to fed [recurrent] the gradients of the
        products, and returns the gradient of h that goes to the step before past them; in stages, it does nothing.
        """
        lines = ["S, R, P, N, J = index(s), index(r), index(p), index(n), index(j)", "counter = s * size"]
        before, body = self._body(self._levels[0]) if self.stages is None else ([], [])
        if self.is_backward:
            return self._built("unit", "dh, fed, arrays, noise, s, r, p, n, j", [*lines, *before, *body, "return dh"])
        for place, row in self._rows.items():
            own = place.array == "products"
            lines.append(f"u[{row}] += bias[{place.index}, J]" if own else f"x[{place.index}] += u[{row}]")
            if own and self.stages is not None:
                body.append(f"{self._element(place)} = u[{row}]")
        if self.stages is not None:
            body += [*(f"gates[S, {k}, J] = x[{k}]" for k in range(self.plan.gates)), "value = x[0]"]
        return self._built("unit", "x, u, arrays, noise, s, r, p, n, j", [*lines, *before, *body, "return value"])

    @functools.cache  # noqa: B019 - steps are kept as long as their cells
    def staged(self, tile: int) -> Any:
        """The device function of all stages: the new states, or the gradients, of ``active`` rows.

        What h is multiplied with lies in shared memory from ``state_to`` on, rows ``state_stride`` elements apart, in
        backward the gradient of h; there those of the recurrent products go to rows of ``stride`` quads from 0 on.
        """
        lines = [
            "depth, width = (size + 3) // 4, max(1, threads // rows)",
            f"sums_at = 4 * (stages_at + {len(self._operands)} * rows * (depth + 1))",
            f"parts_at = sums_at + {len(self._sums)} * rows",
        ]
        for level in self._levels if self.stages is not None else ():
            lines += self._stage(level)
        parameters = (
            "thread, threads, acc, shared, inner, arrays, noise, previous, begin, shift, first, active, rows, parts, "
            "products_at, stride, state_to, state_stride, stages_at"
        )
        return self._built("staged", parameters, lines, multiply=make_multiply(tile))

    def _stage(self, level: Loop) -> list[str]:
        before, body = self._body(level)
        before += [f"t{node.number} = kind(0)" for node in level.sums]
        place = "shared[index(parts_at + ({} * rows + at) * width + thread % width)]"
        lines = _each_row(before, body, [f"{place.format(k)} = t{node.number}" for k, node in enumerate(level.sums)])
        if level.sums:
            to = f"sums_at + {self._sums.index(level.sums[0])} * rows"
            lines.append(f"add_parts(thread, threads, shared, parts_at, {len(level.sums)} * rows, width, {to})")
        kept = [s for s in level.row_stores if s.location.array == "sums"]
        if kept:
            lines += _each_row([f"{self._element(s.location)} = {self._sum(s.node)}" for s in kept], [], [])
        for node in level.products:
            operand, result = self._pass.products[node]
            lines += [
                "sync()",
                f"multiply(thread, threads, acc, shared, {self._operand(operand)}, depth + 1, active, 0, 0, inner, "
                f"{node.key[0]} * 4 * depth * depth, 0, depth, depth, rows, parts, products_at)",
                "sync()",
            ]  # fmt: skip
            value = "total(shared, products_at, depth, rows, parts, at, j)"
            lines += _each_row([], [f"{self._element(result)} = {value}"], [])
        return lines


def _each_row(before: list[str], body: list[str], after: list[str]) -> list[str]:
    """A loop over this thread's units of a row, for its rows."""
    head = ["s, state_at = begin + at, state_to + at * state_stride", "counter = s * size",
            "S, R, P, N = index(s), index(first + at), index(previous[s]), index(shift + s)"]  # fmt: skip
    inner = ["j = thread % width", "while j < size:", *_indented(["J = index(j)", *body, "j += width"])]
    lines = _indented([*head, *before, *inner, *after, "at += threads // width"])
    return ["at = thread // width", "while at < active:", *lines]


# ----------------------------------------------------------------------------------------------- the passes


def _rows(plan: Plan) -> dict[Location, int]:
    """Which row of weight_hh, counted in H, feeds which place."""
    return {Location(run.array, "s", run.index + k): run.first + k for run in plan.runs for k in range(run.count)}


def _forward(plan: Plan, keep: bool) -> Pass:
    """The forward pass, its pre-activations in registers where it does not run in stages.

    Args:
        keep: what backward needs is written; else, in sampling, the new states alone.
    """
    step = plan.forward
    staged = step.products or any(node.op == "sum" for node in ancestors(plan.equations.new))
    leaves = {node: place for node, place in step.loads.items() if node.op == "gate"}
    given = {node: Location("history0", "p") if place == STATE else place for node, place in step.loads.items()}
    stores = [s for s in step.stores if keep or s.location.array not in ("gates", "products", "sums")]
    if not staged:
        for node, place in leaves.items():
            own = place.array == "products"
            given[node] = Location("u", "", _rows(plan)[place]) if own else Location("x", "", place.index)
        read = set(ancestors([s.node for s in plan.backward.stores], plan.backward.loads))
        stores += [Store(node, place) for node, place in plan.saved.items() if keep and node in leaves and node in read]
    return Pass(given, stores, step.products)


def _backward(plan: Plan) -> Pass:
    """The backward pass. The gradient of h arrives complete, that through a mask included."""
    step = plan.backward
    given = dict(step.loads)
    if plan.equations.masked:
        graph = plan.equations.graph
        seed, d_source = (graph.leaf("gradient", key) for key in (plan.equations.states[0], ""))
        del given[seed], given[d_source]
        given[seed + d_source * graph.leaf("mask", "")] = STATE
    return Pass(given, step.stores, step.products)


@functools.lru_cache(maxsize=256)
def steps_of(equations: Equations, projected: bool = False) -> tuple[Plan, Step, Step]:
    """A cell's plan, and its forward and backward step."""
    plan = make_plan(equations, projected)
    forward, backward = Step(plan, False), Step(plan, True)
    if projected and (forward.stages or backward.stages):
        raise DeviceError("device 'cuda': a projection of h needs a cell without sums and products inside the step")
    return plan, forward, backward
