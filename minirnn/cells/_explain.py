"""A cell as text: its equations, what the backward pass needs of them, the backward equations, the generated source."""

from __future__ import annotations

from collections.abc import Mapping

from minirnn.cells._text import assignments
from minirnn.kernels.equations import Equations, recurrent_gates
from minirnn.kernels.graph import Node
from minirnn.kernels.plan import Location, Plan


def _lines(targets: Mapping[str, Node], given: Mapping[Node, str], equations: Equations) -> list[str]:
    """``name = expression`` for each target, and before them for what is used more than once."""
    taken = (*equations.gates, *equations.states, *equations.vectors)
    return [f"{name} = {text}" for name, _, text in assignments(targets, given, taken)]


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
