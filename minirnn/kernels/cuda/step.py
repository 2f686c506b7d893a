"""One step of a cell as device functions, generated from its plan: what the recurrence calls between its products.

Most cells become one function of one unit, whose pre-activations come in registers. A cell with sums over the units, or
with products inside the step, runs in *stages*: its pre-activations are written to ``gates`` and ``products``, then all
threads of a block, which computes all units, run one loop after the other (:mod:`minirnn.kernels.codegen`), with a
barrier where a loop needs what other threads computed. A thread has the same units of the same rows in each.

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
from minirnn.kernels.cuda.block import divmod_u32, make_multiply, total
from minirnn.kernels.cuda.jit import Array, Kernel, cuda, device_function
from minirnn.kernels.cuda.launch_plan import Stages
from minirnn.kernels.equations import Equations
from minirnn.kernels.graph import Node, ancestors
from minirnn.kernels.plan import D_HIDDEN, HIDDEN, STATE, Location, Pass, Plan, Store, make_plan

_COMMON = "gates, products, inputs, sums, h, states, vectors, mask, scratch"
FORWARD = f"{_COMMON}, bias, source"
BACKWARD = f"{_COMMON}, d_states, d_vectors, d_inputs, hidden"
"""The arrays a step works on, in the order of the tuple ``arrays``; shapes in :mod:`minirnn.kernels.plan`.

``h`` is the first state's history, [N + S, W], ``states`` [C - 1, N + S, H] those of the others, ``d_states``
[C - 1, N, H] their gradients; ``source`` is ``h`` where there is no mask; ``hidden`` [S, H] is h before a projection;
``scratch`` [N, ..., H] holds values for later stages.
"""


@device_function
def _sync() -> None:
    """Wait for all threads of the block."""
    cuda.syncthreads()


@device_function
def _thread() -> tuple[int, int]:
    """This thread's index in its block, and how many there are."""
    return cuda.threadIdx.x, cuda.blockDim.x


@device_function
def _add_partial(shared: Array, at: int, count: int, width: int, to: int) -> None:
    """shared[to + i] = shared[at + i width] + ... + shared[at + i width + width - 1] for i < count, by halves."""
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
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


_NAMES: dict[str, Any] = {name: getattr(pointwise, name) for name in POINTWISE}
_NAMES |= {"index": np.uintp, "sync": _sync, "thread_in_block": _thread}
_NAMES |= {"add_partial": _add_partial, "divmod_u32": divmod_u32, "total": total}


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


class Step:
    """The forward or backward step of a cell.

    Attributes:
        recurrent: recurrent products of each unit, which the recurrence computes: rows of weight_hh by H.
        stages: shared memory of a cell that runs in stages; None for one that does not.
        scratch: arrays [H] in ``scratch`` for each sequence.
    """

    def __init__(self, plan: Plan, backward: bool, keep: bool = True) -> None:
        self.plan, self.is_backward = plan, backward
        self._rows = {Location(r.array, "s", r.index + k): r.first + k for r in plan.runs for k in range(r.count)}
        self.recurrent = len(self._rows)
        self._pass = self._backward_pass() if backward else self._forward_pass(keep)
        self._loops, temporaries = schedule(self._pass, vectorized=False)
        self.scratch, self._carry = temporaries.scratch + temporaries.carry, temporaries.scratch
        self._sums = [node for loop in self._loops for node in loop.sums]
        self._operands = list(dict.fromkeys(operand for operand, _ in self._pass.products.values()))
        self.stages, self._state = None, "dh" if backward else "value"
        if self._sums or self._operands:
            most = max(len(loop.sums) for loop in self._loops)
            self.stages, self._state = Stages(len(self._operands), most, len(self._sums)), "shared[index(state_at + j)]"

    # ------------------------------------------------------------------------------------------ what is computed

    def _forward_pass(self, keep: bool) -> Pass:
        """The forward pass, its pre-activations in registers where it does not run in stages.

        Args:
            keep: write what backward needs, not, as in sampling, the new states alone.
        """
        plan, step = self.plan, self.plan.forward
        loads = {node: Location("history0", "p") if at == STATE else at for node, at in step.loads.items()}
        stores = [s for s in step.stores if keep or s.location.array not in ("gates", "products", "sums")]
        if not step.products and not any(node.op == "sum" for node in ancestors(plan.equations.new)):
            gates = {node: at for node, at in step.loads.items() if node.op == "gate"}
            for node, at in gates.items():
                separate = at.array == "products"
                loads[node] = Location("u", "", self._rows[at]) if separate else Location("x", "", at.index)
            read = set(ancestors([s.node for s in plan.backward.stores], plan.backward.loads))
            saved = plan.saved.items() if keep else ()
            stores += [Store(node, at) for node, at in saved if node in gates and node in read]
        return Pass(loads, stores, step.products)

    def _backward_pass(self) -> Pass:
        """The backward pass. The gradient of h comes complete, including what passes through a mask."""
        equations, step = self.plan.equations, self.plan.backward
        loads = dict(step.loads)
        if equations.masked:
            graph = equations.graph
            seed, d_source = (graph.leaf("gradient", key) for key in (equations.states[0], ""))
            del loads[seed], loads[d_source]
            loads[seed + d_source * graph.leaf("mask", "")] = STATE
        return Pass(loads, step.stores, step.products)

    # ---------------------------------------------------------------------------------------------- source code

    def _element(self, location: Location) -> str:
        """The source of a location's element."""
        array, row, index = location.array, location.row.upper(), location.index
        numbered = re.fullmatch(r"(history|d_state)(\d+)", array)
        if location in (STATE, HIDDEN, D_HIDDEN):  # those before a projection are in the same register
            return self._state
        if array in ("x", "u"):
            return f"{array}[{index}]"
        if array == "history0":
            return f"h[{row}, J]"
        if numbered:
            return f"{'states' if numbered[1] == 'history' else 'd_states'}[{int(numbered[2]) - 1}, {row}, J]"
        if array in ("scratch", "carry"):
            array, row, index = "scratch", "R", (index or 0) + (self._carry if array == "carry" else 0)
        inside = [row, "" if index is None else str(index), "" if location.per_row else "J"]
        return f"{array}[{', '.join(part for part in inside if part)}]"

    def _copies(self) -> dict[Location, str]:
        """Where values are written in addition to their location: what products multiply."""
        fed = "fed[{}]" if self.stages is None else "shared[index(4 * at * stride + {} * size + j)]"
        copies = {at: fed.format(row) for at, row in self._rows.items()} if self.is_backward else {}
        for at in self._operands:
            copy = f"shared[index(4 * ({self._operand(at)} + at * (depth + 1)) + j)]"
            copies[at] = f"{copies[at]} = {copy}" if at in copies else copy
        return copies

    def _operand(self, location: Location) -> str:
        """The float4 in shared memory at which the operand of a product inside the step begins."""
        return f"stages_at + {self._operands.index(location)} * rows * (depth + 1)"

    def _sum(self, node: Node) -> str:
        return f"shared[index(sums_at + {self._sums.index(node)} * rows + at)]"

    def _body(self, loop: Loop) -> tuple[list[str], list[str]]:
        """Lines before the loop over the units, and inside it."""
        locations = [*loop.loads.values(), *(s.location for s in loop.stores)]
        element = {at: self._element(at) for at in locations}
        nodes = ancestors([s.node for s in loop.stores] + [n.operands[0] for n in loop.sums], loop.loads)
        before, scalars = list[str](), {}
        if any(node.op == "random" for node in nodes):
            before.append("counter = (row_numbers[S] if row_numbers.size else s) * size")
        for node in nodes:
            if node.op == "scalar" or (node.per_row and node in loop.loads):
                scalars[node] = f"s{node.number}"
                known = self._sum(node) if node in self._sums else element.get(loop.loads.get(node, STATE))
                before.append(f"s{node.number} = kind({node.key if node.op == 'scalar' else known})")
        rows, body = loop_body(loop, element, scalars)
        for at, copy in self._copies().items():
            text = f"{element.get(at)} = "
            body = [f"{copy} = {line}" if line.startswith(text) else line for line in body]
        return before + rows, body

    def _build(self, name: str, parameters: str, lines: list[str], **names: Any) -> Kernel:
        head = [f"{BACKWARD if self.is_backward else FORWARD} = arrays", "seed, row_numbers, zoneout, dropout = noise"]
        lines = _indented([*head, "kind, size = gates.dtype.type, gates.shape[2]", *lines])
        label = f"{self.plan.equations.name}_{'backward' if self.is_backward else 'forward'}_{name}"
        text = "\n".join([f"def {name}({parameters}):", *lines]) + "\n"
        return device_function(build_function(name, text, _NAMES | names, label))

    @functools.cached_property
    def unit(self) -> Kernel:
        """The device function of one unit.

        Forward it takes the input parts x [G] and the recurrent products u [recurrent], and returns what the next step
        multiplies; in stages, it writes the pre-activations. Backward it writes to fed [recurrent] the gradients of the
        products, and returns the gradient of h that reaches the step before other than through them; in stages, it does
        nothing.
        """
        lines = ["S, R, P, N, J = index(s), index(r), index(p), index(n), index(j)"]
        before, body = self._body(self._loops[0]) if self.stages is None else ([], [])
        if self.is_backward:
            return self._build("unit", "dh, fed, arrays, noise, s, r, p, n, j", [*lines, *before, *body, "return dh"])
        for at, row in self._rows.items():
            separate = at.array == "products"
            lines.append(f"u[{row}] += bias[{at.index}, J]" if separate else f"x[{at.index}] += u[{row}]")
            if separate and self.stages is not None:
                body.append(f"{self._element(at)} = u[{row}]")
        if self.stages is not None:
            body += [*(f"gates[S, {k}, J] = x[{k}]" for k in range(self.plan.gates)), "value = x[0]"]
        return self._build("unit", "x, u, arrays, noise, s, r, p, n, j", [*lines, *before, *body, "return value"])

    @functools.cache  # noqa: B019 - steps are kept as long as their cells
    def staged(self, tile: int) -> Kernel:
        """The device function of all stages for the ``active`` rows of a block: the new states, or the gradients.

        The state, in backward the gradient of h, lies in shared memory from ``state_to`` on, its rows ``state_stride``
        elements apart. Backward writes the gradients of the recurrent products to rows of ``stride`` float4s from 0 on.
        """
        lines = [
            "previous, begin, shift, first, active = step_rows",
            "rows, splits, products_at, stride, state_to, state_stride, stages_at = places",
            "thread, threads = thread_in_block()",
            "depth, width = (size + 3) // 4, max(1, threads // rows)",
            f"sums_at = 4 * (stages_at + {len(self._operands)} * rows * (depth + 1))",
            f"partial_at = sums_at + {len(self._sums)} * rows",
        ]
        for loop in self._loops if self.stages is not None else ():
            lines += self._stage(loop)
        parameters = "acc, shared, inner, arrays, noise, step_rows, places"
        return self._build("staged", parameters, lines, multiply=make_multiply(tile))

    def _stage(self, loop: Loop) -> list[str]:
        before, body = self._body(loop)
        before += [f"t{node.number} = kind(0)" for node in loop.sums]
        place = "shared[index(partial_at + ({} * rows + at) * width + thread % width)]"
        lines = _each_row(before, body, [f"{place.format(k)} = t{node.number}" for k, node in enumerate(loop.sums)])
        if loop.sums:
            to = f"sums_at + {self._sums.index(loop.sums[0])} * rows"
            lines.append(f"add_partial(shared, partial_at, {len(loop.sums)} * rows, width, {to})")
        kept = [s for s in loop.row_stores if s.location.array == "sums"]
        if kept:
            lines += _each_row([f"{self._element(s.location)} = {self._sum(s.node)}" for s in kept], [], [])
        shape = "(depth, rows, splits)"
        for node in loop.products:
            operand, result = self._pass.products[node]
            left = f"({self._operand(operand)}, depth + 1, active)"
            right = f"(inner, {node.key[0]} * 4 * depth * depth, 0, 0)"
            product = f"multiply(acc, shared, {left}, {right}, (0, depth), {shape}, products_at)"
            lines += ["sync()", product, "sync()"]
            value = f"total(shared, products_at, {shape}, at, j)"
            lines += _each_row([], [f"{self._element(result)} = {value}"], [])
        return lines


def _each_row(before: list[str], body: list[str], after: list[str]) -> list[str]:
    """A loop over this thread's units of a row, for its rows."""
    head = [
        "s, state_at = begin + at, state_to + at * state_stride",
        "S, R, P, N = index(s), index(first + at), index(previous[s]), index(shift + s)",
    ]
    inner = ["j = thread % width", "while j < size:", *_indented(["J = index(j)", *body, "j += width"])]
    lines = _indented([*head, *before, *inner, *after, "at += threads // width"])
    return ["at = thread // width", "while at < active:", *lines]


@functools.lru_cache(maxsize=256)
def steps_of(equations: Equations, projected: bool = False) -> tuple[Plan, Step, Step]:
    """A cell's plan, and its forward and backward step."""
    plan = make_plan(equations, projected)
    forward, backward = Step(plan, False), Step(plan, True)
    if projected and (forward.stages or backward.stages):
        raise DeviceError("device 'cuda': a projection of h needs a cell without sums and products inside the step")
    return plan, forward, backward
