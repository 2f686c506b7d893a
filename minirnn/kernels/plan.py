"""The memory plan of a cell: which array each value is loaded from and stored to, on either device.

Shapes: S packed rows (see :mod:`minirnn.kernels.steps`), N sequences, H units, W width of h, G gates with an input
part, K recurrent products that are stored separately, M products inside the step, R sums over the units, V vectors.

=========== ============ ===============================================================================================
array       shape        holds
=========== ============ ===============================================================================================
gates       [S, G, H]    input parts of the pre-activations; after forward what backward needs; then their gradients
products    [S, K, H]    separate recurrent parts, and results of products inside the step; then their gradients
inputs      [S, M, H]    operands of the products inside the step
sums        [S, R]       sums over the units
history0..  [N + S, H]   the states: initial ones, then every step's; history0, of h, has the width W
state       [N, W]       forward: h of each sequence; backward: the gradient of h
d_state1..  [N, H]       backward: gradients of the other states
vectors     [V, H]       learnt vectors; ``d_vectors`` [N, V, H] their gradients, per sequence
d_inputs    [N, M, H]    backward: W^T times the gradients of the products inside the step
mask        [N, H]       with a mask: what h is multiplied by before the recurrent weights; ``source`` [N + S, H] is h
                         times the mask, ``d_source`` [N, H] the gradient of that
hidden      [N, H]       with a projection: forward, what is projected to h; backward [S, H], the same for every row;
                         ``d_hidden`` [N, H] its gradient
=========== ============ ===============================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from minirnn.kernels.differentiate import gradients
from minirnn.kernels.equations import Equations, Run
from minirnn.kernels.graph import COMPARISONS, OPERATIONS, Node, ancestors


@dataclass(frozen=True)
class Location:
    """Where a value of each unit j is in memory: ``array[row, index, j]``.

    Attributes:
        row: "s" packed row, "r" sequence, "p" and "n" state rows before and after the step, "" for no row axis.
        index: on the middle axis; None if there is none.
        per_row: one number per row: ``array[row, index]``.
    """

    array: str
    row: str
    index: int | None = None
    per_row: bool = False


STATE, HIDDEN, D_HIDDEN = Location("state", "r"), Location("hidden", "r"), Location("d_hidden", "r")


@dataclass(frozen=True)
class Store:
    """``location = node``, or ``location += node`` if ``accumulate``."""

    node: Node
    location: Location
    accumulate: bool = False


@dataclass(frozen=True)
class Pass:
    """What the forward or backward pass of one step reads and writes.

    Attributes:
        loads: nodes whose values are in memory before the step.
        stores: what is written.
        products: operand and result of each product inside the step.
    """

    loads: dict[Node, Location]
    stores: list[Store]
    products: dict[Node, tuple[Location, Location]]


@dataclass(eq=False)
class Plan:
    """The plan of a cell.

    Attributes:
        projected: h is ``weight_hr`` times what the equations give.
        gates, products, inputs, sums: G, K, M and R.
        saved: what the arrays gates and products hold between the forward and the backward pass.
    """

    equations: Equations
    projected: bool
    gates: int
    products: int
    inputs: int
    sums: int
    saved: dict[Node, Location]
    forward: Pass
    backward: Pass

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The matrix products with weight_hh."""
        return self.equations.runs

    @cached_property
    def recurrent(self) -> int:
        """Number of gates with a recurrent part."""
        return sum(run.count for run in self.runs)

    @cached_property
    def separate(self) -> int:
        """Number of recurrent parts that are stored separately; the kernel adds their biases."""
        return self.products - self.inputs


def make_plan(equations: Equations, projected: bool = False) -> Plan:
    """Differentiate a cell's (resolved) equations and decide what is stored where."""
    graph, new, states = equations.graph, equations.new, equations.states
    separate = equations.separate_gates
    gates = {graph.leaf("gate", name): Location("gates", "s", k) for k, name in enumerate(equations.input_gates)}
    gates |= {graph.leaf("gate", name): Location("products", "s", k) for k, name in enumerate(separate)}
    inner = [node for node in ancestors(new) if node.op == "product"]
    results = {node: Location("products", "s", len(separate) + node.key[0]) for node in inner}
    before = [graph.leaf("state", state) for state in states]
    vectors = [graph.leaf("vector", vector) for vector in equations.vectors]

    seeds = [graph.leaf("gradient", state) for state in states]
    d_locations = [STATE, *(Location(f"d_state{k}", "r") for k in range(1, len(states)))]
    arriving = dict(zip(seeds, d_locations, strict=True))
    mask, masks = graph.leaf("mask", ""), {}
    outer = list(seeds)
    if equations.masked:  # the recurrent weights give the gradient of h times the mask
        d_source = graph.leaf("gradient", "")
        arriving[d_source], masks = Location("d_source", "r"), {mask: Location("mask", "r")}
        outer[0] = seeds[0] + d_source * mask
    groups = (list(gates), before, vectors, inner)
    in_order = iter(gradients(graph, new, outer, [node for group in groups for node in group]))
    d_gates, d_before, d_vectors, d_inner = ([next(in_order) for _ in group] for group in groups)
    d_all = [*d_gates, *d_before, *d_vectors, *d_inner]

    needed = _saved_candidates(d_all, set(arriving))
    forward_nodes = set(ancestors(new))
    sums = [node for node in ancestors(needed, gates) if node.op == "sum" and node in forward_nodes]
    history = {node: Location(f"history{k}", "p") for k, node in enumerate(before)}
    history |= {node: Location(f"history{k}", "n") for k, node in enumerate(new) if node not in before}
    known = {node: Location("vectors", "", k) for k, node in enumerate(vectors)}
    operands = {node: Location("inputs", "s", node.key[0]) for node in inner}
    inputs = {node.operands[0]: location for node, location in operands.items()}
    sum_locations = {node: Location("sums", "s", k, True) for k, node in enumerate(sums)}
    free = {*history, *known, *masks, *sum_locations, *inputs}
    leaves = gates | results
    saved = _assign(_choose_saved(new, needed, free, list(leaves)), leaves)

    forward_loads = gates | known | masks | {node: history[node] for node in before}
    if not equations.masked:
        forward_loads[before[0]] = STATE
    h = new[0] * mask if equations.masked else new[0]
    forward = Pass(
        forward_loads,
        [
            *(Store(node, location) for node, location in (saved | sum_locations).items() if node not in leaves),
            *(Store(node.operands[0], location) for node, location in operands.items()),
            *(Store(node, Location(f"history{k}", "n")) for k, node in enumerate(new)),
            *(Store(h, location) for location in (STATE, *([Location("source", "n")] if masks else []))),
        ],
        {node: (operands[node], location) for node, location in results.items()},
    )
    transposed = [node for node in ancestors(d_all) if node.op == "product" and node.key[1]]
    backward = Pass(
        inputs | history | known | masks | sum_locations | saved | arriving,
        [
            *(Store(node, location) for node, location in zip(d_gates, gates.values(), strict=True)),
            *(Store(node, location) for node, location in zip(d_inner, results.values(), strict=True)),
            *(Store(node, location) for node, location in zip(d_before, d_locations, strict=True)),
            *(Store(node, Location("d_vectors", "r", k), True) for k, node in enumerate(d_vectors)),
        ],
        {
            node: (Location("products", "s", len(separate) + node.key[0]), Location("d_inputs", "r", node.key[0]))
            for node in transposed
        },
    )
    if projected:
        forward, backward = _project(new[0], forward, backward)
    counts = len(equations.input_gates), len(separate) + equations.products, equations.products, len(sums)
    return Plan(equations, projected, *counts, saved, forward, backward)


def _project(h: Node, forward: Pass, backward: Pass) -> tuple[Pass, Pass]:
    """The passes of a cell whose h is projected: what its equations give is ``hidden`` instead."""
    stores = [*(s for s in forward.stores if s.node is not h), Store(h, HIDDEN)]
    loads = {node: D_HIDDEN if at == STATE else at for node, at in backward.loads.items() if node is not h}
    d_stores = [*(s for s in backward.stores if s.location != STATE), Store(h, Location("hidden", "s"))]
    return Pass(forward.loads, stores, forward.products), Pass(loads, d_stores, backward.products)


def _saved_candidates(d_all: list[Node], arriving: set[Node]) -> list[Node]:
    """Values that gradients are multiplied by, and that do not depend on gradients themselves."""
    dependent = set(arriving)
    nodes = ancestors(d_all)
    for node in nodes:
        if any(operand in dependent for operand in node.operands):
            dependent.add(node)
    return [n for node in nodes if node in dependent for n in node.operands if n not in dependent]


def _cost(roots: list[Node], given: set[Node]) -> float:
    nodes = ancestors(roots, given)
    return sum(OPERATIONS[n.op].cost for n in nodes if n.operands and n not in given) + 0.1 * len(given & set(nodes))


def _choose_saved(new: list[Node], needed: list[Node], free: set[Node], leaves: list[Node]) -> list[Node]:
    """The values, as many as there are leaves, from which the backward pass computes what it needs at the least cost.

    A search that exchanges one value at a time, starting from the leaves, the pre-activations themselves.
    """
    saved = list(leaves)
    candidates = [
        n for n in ancestors(new) if n.operands and not n.per_row and n not in free and n.op not in COMPARISONS
    ]

    def cost(choice: list[Node]) -> tuple[float, int]:
        given = free | set(choice)
        missing = any(node in leaves and node not in given for node in ancestors(needed, given))
        return math.inf if missing else _cost(needed, given), len(set(choice) - set(leaves))

    while True:
        others = [
            [*saved[:k], node, *saved[k + 1 :]] for k in range(len(saved)) for node in candidates if node not in saved
        ]
        best = min(others, key=cost, default=saved)
        if cost(best) >= cost(saved):
            return saved
        saved = best


def _assign(saved: list[Node], leaves: dict[Node, Location]) -> dict[Node, Location]:
    """The location of each saved value: its own if it is a leaf, or that of a leaf it was computed from."""
    found = {node: leaves[node] for node in saved if node in leaves}
    unused = [leaf for leaf in leaves if leaf not in found]
    for node in sorted((node for node in saved if node not in found), key=lambda node: node.number):
        below = set(ancestors([node]))
        leaf = next((leaf for leaf in unused if leaf in below), unused[0])
        unused.remove(leaf)
        found[node] = leaves[leaf]
    return found
