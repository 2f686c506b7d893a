"""A cell's equations: its gates, states and vectors, the graph of its new states, and both as JSON data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from minirnn.errors import CellError
from minirnn.kernels.graph import (
    COMPARISONS,
    OPERATIONS,
    Graph,
    Node,
    ancestors,
    check_finite,
    copy_node,
    prune,
    rebuild,
)

MAX_DATA_NODES = 512
"""Limit on the nodes of a graph from a file, which could ask for any size."""


@dataclass(frozen=True)
class Run:
    """Consecutive gates of weight_hh whose results go to consecutive rows of one array: one matrix product.

    Attributes:
        first, count: gates of weight_hh.
        array: "gates" (added to the input part) or "products" (stored separately).
        index: the first position in that array.
    """

    first: int
    count: int
    array: str
    index: int


@dataclass(frozen=True, eq=False)
class Equations:
    """The equations of a cell.

    Attributes:
        name: of the cell.
        gates: in the order of its parameters; ``n_x`` and ``n_h`` are the input and the recurrent part of a gate ``n``.
        states: the first one, h, is the output, and what the recurrent weights multiply.
        vectors: learnt vectors with one number per unit, and their initial values.
        new: the node of each new state.
        masked: the recurrent weights multiply h times a mask [N, H].
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    vectors: dict[str, float]
    graph: Graph
    new: list[Node]
    masked: bool = False
    variants: dict[tuple[bool, ...], Equations] = field(default_factory=dict, repr=False)

    @cached_property
    def input_gates(self) -> tuple[str, ...]:
        """Gates with an input part, in the order of weight_ih."""
        return input_gates(self.gates)

    @cached_property
    def separate_gates(self) -> tuple[str, ...]:
        """Recurrent parts ``n_h``, which are stored separately from the input part."""
        return tuple(gate for gate in self.gates if gate.endswith("_h"))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The matrix products with weight_hh."""
        runs: list[Run] = []
        for row, gate in enumerate(recurrent_gates(self.gates)):
            separate = gate in self.separate_gates
            array, names = ("products", self.separate_gates) if separate else ("gates", self.input_gates)
            index, last = names.index(gate), runs[-1] if runs else None
            if last is not None and last.array == array and last.index + last.count == index:
                runs[-1] = Run(last.first, last.count + 1, array, last.index)
            else:
                runs.append(Run(row, 1, array, index))
        return tuple(runs)

    @property
    def products(self) -> int:
        """Number of products with weights inside the step, beside weight_hh."""
        return self.graph.products

    @cached_property
    def has_zoneout(self) -> bool:
        """Whether zoneout is part of the equations themselves."""
        return any(node.op == "zoneout" for node in ancestors(self.new))

    @cached_property
    def has_dropout(self) -> bool:
        """Whether the equations mark an update to drop, by ``dropout``."""
        return any(node.op == "dropout" for node in ancestors(self.new))

    def resolve(
        self, training: bool, zoneout: bool = False, update_dropout: bool = False, mask: bool = False
    ) -> Equations:
        """These equations with regularisation written out for training, or removed for evaluation.

        Args:
            training: in evaluation, zoneout gives its expected value and dropout does nothing.
            zoneout: every state keeps its old value with probability ``zoneout`` (Krueger et al. 2017).
            update_dropout: what the cell marks by ``dropout(x)`` is dropped with probability ``dropout``, drawn at
                every step (Semeniuta, Severyn & Barth 2016).
            mask: the recurrent weights multiply h times a mask (Gal & Ghahramani 2016).
        """
        update_dropout, mask = update_dropout and training, mask and training
        draws = zoneout or self.has_zoneout or update_dropout
        choice = (training and draws, zoneout, update_dropout, mask)
        if choice not in self.variants:
            graph = Graph()
            new = rebuild(graph, self.new, _Resolver(training, update_dropout))
            if zoneout:
                rate = graph.leaf("scalar", "zoneout")
                old = [graph.leaf("state", state) for state in self.states]
                new = [_zoneout(graph, training, *pair, rate) for pair in zip(new, old, strict=True)]
            new, graph.products = [graph.spread(one) for one in new], self.graph.products
            self.variants[choice] = Equations(self.name, self.gates, self.states, self.vectors, graph, new, mask)
        return self.variants[choice]

    def to_data(self) -> dict[str, Any]:
        """The equations as JSON-able data: the nodes that the new states need, operands by their number in the list."""
        nodes = ancestors(self.new)
        number = {node: index for index, node in enumerate(nodes)}

        def values(node: Node) -> list[Any]:
            key = [] if node.key is None else [node.key[0] if node.op == "product" else node.key]
            return [*(number[operand] for operand in node.operands), *key]

        return {
            "name": self.name,
            "gates": list(self.gates),
            "states": list(self.states),
            "vectors": dict(self.vectors),
            "nodes": [[node.op, *values(node)] for node in nodes],
            "new": [number[node] for node in self.new],
        }

    @classmethod
    def from_data(cls, data: Any) -> Equations:
        """The equations that :meth:`to_data` described.

        Raises:
            CellError: the data, which may be anything, does not describe a cell.
        """
        try:
            name, gates, states = data["name"], tuple(data["gates"]), tuple(data["states"])
            vectors = {key: check_finite(value) for key, value in data["vectors"].items()}
            check_names(name, gates, states, tuple(vectors))
            new = _read_nodes(data, {"gate": gates, "state": states, "vector": tuple(vectors)})
        except CellError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CellError(f"the description of a cell is damaged: {error}") from None
        return cls(name, gates, states, vectors, *prune(new))


class _Resolver:
    """Replaces regularisation in a graph; see :meth:`Equations.resolve`."""

    def __init__(self, training: bool, update_dropout: bool) -> None:
        self.training, self.update_dropout = training, update_dropout

    def __call__(self, graph: Graph, node: Node, operands: tuple[Node, ...]) -> Node:
        if node.op == "zoneout":
            return _zoneout(graph, self.training, *operands)
        if node.op == "dropout":
            return _dropout(graph, operands[0]) if self.update_dropout else operands[0]
        if node.op == "product":
            operands = (graph.spread(operands[0]),)
        return copy_node(graph, node, operands)


def _zoneout(graph: Graph, training: bool, new: Node, old: Node, probability: Node) -> Node:
    if training:
        return graph.make("where", graph.random() < probability, old, new)
    return new + probability * (old - new)


def _dropout(graph: Graph, x: Node) -> Node:
    rate = graph.leaf("scalar", "dropout")
    scale = graph.make("where", rate < 1, 1 / (1 - rate), 0)
    return graph.make("where", graph.random() < rate, 0, x * scale)


def _read_nodes(data: Any, parts: dict[str, tuple[str, ...]]) -> list[Node]:
    """The nodes of the new states from a description, whose leaves must be ``parts`` of the cell."""
    if len(data["nodes"]) > MAX_DATA_NODES:
        raise CellError(f"the description of a cell has more than {MAX_DATA_NODES} nodes")
    graph = Graph()
    made: list[Node] = []

    def earlier(index: Any) -> Node:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(made):
            raise CellError(f"the description of a cell refers to node {index!r} before it is there")
        return made[index]

    for op, *values in data["nodes"]:
        if op in parts:
            if values[0] not in parts[op]:
                raise CellError(f"the description of a cell has no {op} {values[0]!r}")
            made.append(graph.leaf(op, values[0]))
        elif op == "scalar" and values == ["size"]:
            made.append(graph.leaf(op, "size"))
        elif op == "constant":
            made.append(graph.constant(values[0]))
        else:
            count = OPERATIONS[op].operands if op != "spread" else -1  # only resolve() makes it
            if len(values) != count + (op == "product"):
                raise CellError(f"the description of a cell has {len(values)} values with {op}")
            operands = [earlier(value) for value in values[:count]]
            made.append(graph.product(operands[0]) if op == "product" else graph.make(op, *operands))
    new = [earlier(index) for index in data["new"]]
    if len(new) != len(parts["state"]) or any(node.op in COMPARISONS for node in new):
        raise CellError("the description of a cell does not have one new value per state")
    used = {node.key for node in ancestors(new) if node.op in parts}
    if unused := [part for part in (*parts["gate"], *parts["vector"]) if part not in used]:
        raise CellError(f"the description of a cell never uses {unused[0]}")
    return new


def input_gates(gates: tuple[str, ...]) -> tuple[str, ...]:
    """Gates with an input part, in the order of weight_ih."""
    return tuple(gate for gate in gates if not gate.endswith("_h"))


def recurrent_gates(gates: tuple[str, ...]) -> tuple[str, ...]:
    """Gates with a recurrent part, in the order of weight_hh."""
    return tuple(gate for gate in gates if not gate.endswith("_x"))


def check_names(name: str, gates: tuple[str, ...], states: tuple[str, ...], vectors: tuple[str, ...]) -> None:
    """Check that these can be the parts of a cell.

    Raises:
        CellError: a name is not an identifier, occurs twice or is reserved, or a part is missing.
    """
    parts = (*gates, *states, *vectors)
    for one in (name, *parts):
        if not isinstance(one, str) or not one.isidentifier() or len(one) > 64:
            raise CellError(f"expected the name of a cell, gate, state or vector, got {one!r}")
    if not gates or not states:
        raise CellError(f"{name}: expected at least one gate (before the /) and one state (after it)")
    if len(set(parts)) != len(parts):
        raise CellError(f"{name}: two of {', '.join(parts)} have one name")
    for vector in vectors:
        if vector.startswith(("weight_", "bias_")):
            raise CellError(f"{name}: a vector cannot be called {vector}: weight_ and bias_ begin parameters of layers")
    if not input_gates(gates):
        raise CellError(f"{name}: expected at least one gate that reads the input")
