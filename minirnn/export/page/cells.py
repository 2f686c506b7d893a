"""A cell's equations as JavaScript that computes one step, and the values that are recorded."""

from __future__ import annotations

import json
from functools import cache

from minirnn.cells._text import assignments
from minirnn.kernels.equations import Equations, recurrent_gates
from minirnn.kernels.graph import Node, ancestors

SQUASHING = ("sigmoid", "tanh", "relu")
_MATH = ("tanh", "exp", "log", "log1p", "sqrt", "abs")

Value = tuple[Node, str | None]
"""A value that is recorded, and its activation: "sigmoid", "tanh", "relu" or None."""


# ---------------------------------------------------------------------------------------------------- recorded values


@cache
def recorded(equations: Equations) -> dict[str, Value]:
    """Return what is recorded at every step, by name: the new states, then the gates.

    A gate is recorded after its activation: the one sigmoid, tanh or relu that its pre-activation reaches, other
    activations aside, as ``sigmoid(f + p_f * c)`` for a gate f. Where there is none, or more than one, the
    pre-activation is recorded. Both parts of a gate, ``n_x`` and ``n_h``, are one value n; a gate that is a new state
    itself is not repeated.
    """
    found: dict[str, Value] = dict(zip(equations.states, ((node, None) for node in equations.new), strict=True))
    nodes = ancestors(equations.new)
    for gate in equations.gates:
        leaf = next(node for node in nodes if node.op == "gate" and node.key == gate)
        squashed = _squashed(leaf, nodes)
        value = (squashed[0], squashed[0].op) if len(squashed) == 1 else (leaf, None)
        base = gate.removesuffix("_x").removesuffix("_h")
        name = base if base not in equations.gates + equations.states and found.get(base, value) == value else gate
        if value[0] not in {node for node, _ in found.values()}:
            found[name] = value
    return found


def _squashed(gate: Node, nodes: list[Node]) -> list[Node]:
    """The activations that a gate reaches without passing through another; ``nodes`` in an order of computing."""
    reached, found = {gate}, []
    for node in nodes:
        if reached.intersection(node.operands):
            if node.op in SQUASHING:
                found.append(node)
            else:
                reached.add(node)
    return found


# --------------------------------------------------------------------------------------------------------- JavaScript


def _atom(node: Node, operands: list[str]) -> str:
    """A leaf or a function in JavaScript."""
    match node.op:
        case "constant":
            return repr(node.key)
        case "scalar":
            return "size" if node.key == "size" else "layer.zoneout"
        case "spread":
            return f"({operands[0]})"
        case "where":
            return "({} ? {} : {})".format(*operands)
        case "minimum" | "maximum":
            return f"Math.{node.op[:3]}({', '.join(operands)})"
        case "relu":
            return f"Math.max({operands[0]}, 0)"
    return f"{'Math.' if node.op in _MATH else ''}{node.op}({operands[0]})"


def _levels(nodes: list[Node]) -> dict[Node, int]:
    """How many sums over the units and products with matrices have to be done before each node is known."""
    levels: dict[Node, int] = {}
    for node in nodes:
        before = max((levels[operand] for operand in node.operands), default=0)
        levels[node] = before + (node.op in ("sum", "product"))
    return levels


def _leaves(e: Equations) -> dict[Node, str]:
    """Gates, states and vectors as elements of arrays."""
    hidden, inputs = recurrent_gates(e.gates), e.input_gates
    named = {}
    for node in ancestors(e.new):
        if node.op == "gate":
            parts = [
                f"{array}[{names.index(node.key)} * size + j]"
                for array, names in (("input", inputs), ("recurrent", hidden))
                if node.key in names
            ]
            named[node] = f"({' + '.join(parts)})" if len(parts) > 1 else parts[0]
        elif node.op in ("state", "vector"):
            names, array = (e.states, "old") if node.op == "state" else (tuple(e.vectors), "vectors")
            named[node] = f"{array}[{names.index(node.key)}][j]"
    return named


def javascript(e: Equations) -> str:
    """Return an object with the cell's names and ``step(layer, input, recurrent, state)``, which gives new values.

    A step is one loop over the units, and one more before each level of sums or products that it needs.
    """
    values = recorded(e)
    nodes = ancestors([*e.new, *(node for node, _ in values.values())])
    levels, leaves = _levels(nodes), _leaves(e)
    given, body = dict(leaves), list[str]()
    for level in range(max(levels.values()) + 1):
        singles = [n for n in nodes if n.per_row and n.operands and n.op != "sum" and levels[n] == level]
        lines = assignments({f"s{n.number}": n for n in singles}, given, atom=_atom)
        body += [f"const {name} = {text};" for name, _, text in lines]
        given |= {node: name for name, node, _ in lines}
        cuts = [n for n in nodes if n.op in ("sum", "product") and levels[n] == level + 1]
        targets = {f"x{n.number}": n.operands[0] for n in cuts}
        last = level == max(levels.values())
        if last:
            targets = {f"y{number}": node for number, (node, _) in enumerate(values.values())}
        lines = assignments(targets, given, atom=_atom)
        inside = [f"const {name} = {text};" for name, _, text in lines]
        for n in cuts:
            kept, zero = (f"sum{n.number}", "0") if n.op == "sum" else (f"in{n.number}", "new Float32Array(size)")
            body.append(f"{'let' if n.op == 'sum' else 'const'} {kept} = {zero};")
            inside.append(f"{kept} += x{n.number};" if n.op == "sum" else f"{kept}[j] = x{n.number};")
        inside += [f"new{number}[j] = y{number};" for number in range(len(values)) if last]
        body += ["for (let j = 0; j < size; j++) {", *(f"  {line}" for line in inside), "}"]
        for n in cuts:
            if n.op == "product":
                body.append(f"const product{n.number} = product(layer.products[{n.key[0]}], in{n.number});")
            given[n] = f"sum{n.number}" if n.op == "sum" else f"product{n.number}[j]"
    arrays = ", ".join(f"new{number} = new Float32Array(size)" for number in range(len(values)))
    result = ", ".join(f"[{json.dumps(name)}]: new{number}" for number, name in enumerate(values))
    names = {"states": e.states, "values": list(values), "vectors": list(e.vectors), "products": e.products}
    old = ", ".join(f"state[{json.dumps(state)}]" for state in e.states)
    start = [f"const {{size, vectors}} = layer, old = [{old}];", f"const {arrays};"]
    activations = ", ".join(f"[{json.dumps(name)}]: {json.dumps(kind)}" for name, (_, kind) in values.items())
    head = [f"  {key}: {json.dumps(value)}," for key, value in names.items()] + [f"  activations: {{{activations}}},"]
    step = "\n".join(f"    {line}" for line in [*start, *body, f"return {{{result}}};"])
    return "\n".join(["{", *head, f"  step(layer, input, recurrent, state) {{\n{step}\n  }},", "}"])
