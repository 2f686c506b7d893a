"""What the kernels of a cell keep in which array: the plan both devices generate their code from.

Shapes: S packed rows (see :mod:`minirnn.kernels.steps`), N sequences, H units, G gates with an input part, K recurrent
products that are kept by themselves, M products inside the step, R sums over the units, V vectors.

=========== ============ ===============================================================================================
array       shape        holds
=========== ============ ===============================================================================================
gates       [S, G, H]    input parts of the pre-activations; after forward what backward needs; then their gradients
products    [S, K, H]    recurrent parts that are kept apart, and the results of ``product``; then their gradients
inputs      [S, M, H]    what each ``product`` multiplies
sums        [S, R]       sums over the units
history0..  [N + S, H]   the states: initial ones, then every step's
state       [N, H]       forward: h of each sequence; backward: the gradient of h
d_state1..  [N, H]       backward: gradients of the other states
vectors     [V, H]       learnt vectors; ``d_vectors`` [N, V, H] their gradients, by sequence
d_inputs    [N, M, H]    backward: W^T times the gradients of the products inside the step
mask        [N, H]       where a mask is used: what h is multiplied by before the recurrent weights; then ``source``
                         [N + S, H] holds h times the mask, ``d_source`` [N, H] the gradient of that
=========== ============ ===============================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from minirnn.kernels.differentiate import gradients
from minirnn.kernels.graph import COMPARISONS, OPERATIONS, Equations, Node, Run, ancestors


@dataclass(frozen=True)
class Place:
    """An element of an array for each unit j: ``array[row, index, j]``.

    Attributes:
        row: "s" packed row, "r" sequence, "p" and "n" state rows before and after the step, "" for no row.
        index: of the middle axis; None where there is none.
        per_row: one number a row: ``array[row, index]``.
    """

    array: str
    row: str
    index: int | None = None
    per_row: bool = False


@dataclass(frozen=True)
class Store:
    """``place = node``, or ``place += node``."""

    node: Node
    place: Place
    adds: bool = False


@dataclass(frozen=True)
class Pass:
    """What one direction through a step reads and writes.

    Attributes:
        given: where the values of nodes lie that are there before the step.
        stores: what is written.
        products: for each product inside the step, where its operand and its result lie.
    """

    given: dict[Node, Place]
    stores: list[Store]
    products: dict[Node, tuple[Place, Place]]


@dataclass(eq=False)
class Plan:
    """The plan of a cell.

    Attributes:
        gates, products, inputs, sums: G, K, M and R.
        kept: what lies in the places of gates and products between forward and backward.
    """

    equations: Equations
    gates: int
    products: int
    inputs: int
    sums: int
    kept: dict[Node, Place]
    forward: Pass
    backward: Pass

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The matrix products with weight_hh."""
        return self.equations.runs

    @cached_property
    def recurrent(self) -> int:
        """R, gates with a recurrent part."""
        return sum(run.count for run in self.runs)

    @cached_property
    def own(self) -> int:
        """Recurrent parts of gates that are kept apart; their biases are added in the kernel."""
        return self.products - self.inputs


def make_plan(equations: Equations) -> Plan:
    """Differentiate a cell's (resolved) equations and decide what is stored where."""
    graph, new, states = equations.graph, equations.new, equations.states
    own = equations.own_gates
    gates = {graph.leaf("gate", name): Place("gates", "s", k) for k, name in enumerate(equations.input_gates)}
    gates |= {graph.leaf("gate", name): Place("products", "s", k) for k, name in enumerate(own)}
    inner = [node for node in ancestors(new) if node.op == "product"]
    results = {node: Place("products", "s", len(own) + node.key[0]) for node in inner}
    before = [graph.leaf("state", state) for state in states]
    vectors = [graph.leaf("vector", vector) for vector in equations.vectors]

    seeds = [graph.leaf("gradient", state) for state in states]
    d_places = [Place("state", "r"), *(Place(f"d_state{k}", "r") for k in range(1, len(states)))]
    arriving = dict(zip(seeds, d_places, strict=True))
    mask, masks = graph.leaf("mask", ""), {}
    outer = list(seeds)
    if equations.masked:  # the recurrent weights give the gradient of h times the mask
        d_source = graph.leaf("gradient", "")
        arriving[d_source], masks = Place("d_source", "r"), {mask: Place("mask", "r")}
        outer[0] = seeds[0] + d_source * mask
    groups = (list(gates), before, vectors, inner)
    back = iter(gradients(graph, new, outer, [node for group in groups for node in group]))
    d_gates, d_before, d_vectors, d_inner = ([next(back) for _ in group] for group in groups)
    d_all = [*d_gates, *d_before, *d_vectors, *d_inner]

    # what is kept: values that gradients are multiplied by, and that do not depend on gradients themselves
    moving = set(arriving)
    for node in ancestors(d_all):
        if any(operand in moving for operand in node.operands):
            moving.add(node)
    needed = [n for node in ancestors(d_all) if node in moving for n in node.operands if n not in moving]
    forward_nodes = set(ancestors(new))
    sums = [node for node in ancestors(needed, gates) if node.op == "sum" and node in forward_nodes]
    history = {node: Place(f"history{k}", "p") for k, node in enumerate(before)}
    history |= {node: Place(f"history{k}", "n") for k, node in enumerate(new) if node not in before}
    known = {node: Place("vectors", "", k) for k, node in enumerate(vectors)}
    operands = {node: Place("inputs", "s", node.key[0]) for node in inner}
    inputs = {node.operands[0]: place for node, place in operands.items()}
    sum_places = {node: Place("sums", "s", k, True) for k, node in enumerate(sums)}
    free = {*history, *known, *masks, *sum_places, *inputs}
    kept = _assign(_choose(new, needed, free, [*gates, *results]), gates | results)

    h_new = new[0] * mask if equations.masked else new[0]
    forward = Pass(
        gates | known | masks | {node: history[node] for node in before}
        | ({} if equations.masked else {before[0]: Place("state", "r")}),
        [
            *(Store(node, place) for node, place in (kept | sum_places).items() if node not in gates | results),
            *(Store(node.operands[0], place) for node, place in operands.items()),
            *(Store(node, Place(f"history{k}", "n")) for k, node in enumerate(new)),
            *(Store(h_new, place) for place in (Place("state", "r"), *([Place("source", "n")] if masks else []))),
        ],
        {node: (operands[node], place) for node, place in results.items()},
    )  # fmt: skip
    backward = Pass(
        inputs | history | known | masks | sum_places | kept | arriving,
        [
            *(Store(node, place) for node, place in zip(d_gates, gates.values(), strict=True)),
            *(Store(node, place) for node, place in zip(d_inner, results.values(), strict=True)),
            *(Store(node, place) for node, place in zip(d_before, d_places, strict=True)),
            *(Store(node, Place("d_vectors", "r", k), True) for k, node in enumerate(d_vectors)),
        ],
        {
            node: (Place("products", "s", len(own) + node.key[0]), Place("d_inputs", "r", node.key[0]))
            for node in ancestors(d_all) if node.op == "product" and node.key[1]
        },
    )  # fmt: skip
    return Plan(
        equations, len(equations.input_gates), len(own) + equations.products, equations.products, len(sums), kept,
        forward, backward,
    )  # fmt: skip


def _cost(roots: list[Node], given: set[Node]) -> float:
    nodes = ancestors(roots, given)
    return sum(OPERATIONS[n.op].cost for n in nodes if n.operands and n not in given) + 0.1 * len(given & set(nodes))


def _choose(new: list[Node], needed: list[Node], free: set[Node], leaves: list[Node]) -> list[Node]:
    """The values, one per place, from which backward computes what it needs at the least cost.

    A search that swaps one value at a time, starting from the pre-activations themselves.
    """
    kept = list(leaves)
    candidates = [
        n for n in ancestors(new) if n.operands and not n.per_row and n not in free and n.op not in COMPARISONS
    ]

    def price(choice: list[Node]) -> tuple[float, int]:
        given = free | set(choice)
        missing = any(node in leaves and node not in given for node in ancestors(needed, given))
        return math.inf if missing else _cost(needed, given), len(set(choice) - set(leaves))

    while True:
        others = [
            [*kept[:k], node, *kept[k + 1 :]] for k in range(len(kept)) for node in candidates if node not in kept
        ]
        best = min(others, key=price, default=kept)
        if price(best) >= price(kept):
            return kept
        kept = best


def _assign(kept: list[Node], places: dict[Node, Place]) -> dict[Node, Place]:
    """Each value's place: its own, or that of a pre-activation it was computed from."""
    found = {node: places[node] for node in kept if node in places}
    left = [leaf for leaf in places if leaf not in found]
    for node in sorted((node for node in kept if node not in found), key=lambda node: node.number):
        below = set(ancestors([node]))
        leaf = next((leaf for leaf in left if leaf in below), left[0])
        left.remove(leaf)
        found[node] = places[leaf]
    return found
