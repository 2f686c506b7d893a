"""A cell as text: its equations, what the backward pass needs of them, the backward equations, the generated source."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from minirnn.kernels.equations import Equations, recurrent_gates
from minirnn.kernels.graph import Node, ancestors
from minirnn.kernels.plan import Location, Plan

_INFIX = {"add": ("+", 2), "sub": ("-", 2), "mul": ("*", 3), "div": ("/", 3), "lt": ("<", 1), "le": ("<=", 1)}
"""The sign of an operation, and its precedence."""
_LOWEST, _SUM, _PRODUCT, _ATOM = 0, 2, 3, 4


def _text(node: Node, names: Mapping[Node, str], precedence: int = _LOWEST) -> str:
    """The node as an expression of named nodes, in parentheses where its precedence is below ``precedence``."""
    text, own = _expression(node, names)
    return text if own >= precedence else f"({text})"


def _expression(node: Node, names: Mapping[Node, str]) -> tuple[str, int]:
    """The node as an expression, and its precedence."""
    if node in names:
        return names[node], _ATOM
    if node.op in _INFIX:
        sign, own = _INFIX[node.op]
        left, right = node.operands
        return f"{_text(left, names, own)} {sign} {_text(right, names, own + (sign in '-/'))}", own
    match node.op:
        case "constant":
            return f"{node.key:g}", _ATOM if node.key >= 0 else _SUM
        case "gradient":
            return f"d{node.key}'", _ATOM
        case "random":
            return "random()", _ATOM
        case "neg":
            return f"-{_text(node.operands[0], names, _PRODUCT)}", _SUM
        case "product":
            number, transposed = node.key
            return f"W{number}{'^T' if transposed else ''} @ {_text(node.operands[0], names, _ATOM)}", _SUM
    if not node.operands:
        return str(node.key), _ATOM
    return f"{node.op}({', '.join(_text(operand, names) for operand in node.operands)})", _ATOM


def _lines(targets: Mapping[str, Node], given: Mapping[Node, str], equations: Equations) -> list[str]:
    """``name = expression`` for each target; values that are used more than once come first, as t1, t2, ..."""
    nodes = ancestors(targets.values(), given)
    inner = [node for node in nodes if node.operands and node not in given]
    uses = [operand for node in inner for operand in node.operands]
    taken = {*equations.gates, *equations.states, *equations.vectors}
    unused = (name for name in (f"t{number}" for number in itertools.count(1)) if name not in taken)
    names, lines = dict(given), []
    for node in nodes:
        assigned = [name for name, target in targets.items() if target is node]
        if node in inner and not assigned and uses.count(node) > 1:
            assigned = [next(unused)]
        for name in assigned:
            lines.append(f"{name} = {_text(node, names)}")
            if node in inner:
                names.setdefault(node, name)
    return lines


def equations_text(equations: Equations) -> list[str]:
    """The new states, one line each: ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)``."""
    plain = equations.resolve(training=False)
    return _lines({f"{state}'": node for state, node in zip(plain.states, plain.new, strict=True)}, {}, plain)


def _name_at(equations: Equations, location: Location) -> str:
    """The gate, state or vector that is stored there; sums and products have numbers."""
    array, index = location.array, location.index or 0
    if array.startswith(("history", "d_state")):
        return equations.states[int(array.removeprefix("history").removeprefix("d_state"))]
    if array == "state":
        return equations.states[0]
    if array in ("sums", "inputs"):
        return f"{array.removesuffix('s')}{index}"
    products = (*equations.separate_gates, *(f"product{number}" for number in range(equations.products)))
    return {"gates": equations.input_gates, "products": products, "d_vectors": tuple(equations.vectors)}[array][index]


def _saved(plan: Plan) -> dict[Node, str]:
    """The names of computed values that are in memory when the backward pass reaches a step."""
    names = {}
    for node, location in plan.backward.loads.items():
        if node.operands:
            before = "saved_" if location.array in ("gates", "products") else ""
            after = "'" if location.array.startswith("history") else ""
            names[node] = f"{before}{_name_at(plan.equations, location)}{after}"
    return names


def explain(equations: Equations) -> str:
    """What is derived from a cell's equations: saved values, backward equations, generated loops."""
    from minirnn.kernels.cpu.kernel import kernels_of

    resolved = equations.resolve(training=True)
    plan, forward, backward = kernels_of(resolved, False)
    saved = _saved(plan)
    states = {node: name for node, name in saved.items() if name.endswith("'")}
    computed = {name: node for node, name in saved.items() if node not in states}
    unchanged = [node.key for node in plan.saved if not node.operands]
    gradients = {f"d{_name_at(resolved, store.location)}": store.node for store in plan.backward.stores}
    h, recurrent = resolved.states[0], ", ".join(f"d{gate}" for gate in recurrent_gates(resolved.gates))
    through_weights = [f"d{h} += weight_hh^T @ ({recurrent})"] if recurrent else []
    title = f"backward: d{h}' is the gradient of the new {h}, d{h} that of the old one"
    sections = {
        f"{resolved.name}: equations": equations_text(resolved),
        "saved for the backward pass, besides the states": [*unchanged, *_lines(computed, states, resolved)],
        title: [*_lines(gradients, saved, resolved), *through_weights],
        "generated source, forward": ["\n".join(forward.sources.values()).strip()],
        "generated source, backward": ["\n".join(backward.sources.values()).strip()],
    }
    return "\n\n".join("\n".join([f"# {title}", *lines]) for title, lines in sections.items())
