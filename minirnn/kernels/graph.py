"""A cell's equations as a graph: symbolic scalars, simplification, and the graph as JSON data.

A cell's function is called once with symbols; every operation makes a :class:`Node`, and equal nodes are one. A node
is created after its operands, so nodes in the order of their numbers can be computed one after the other. A node has
one value per unit, or, where ``per_row`` is set, one value per sequence: a sum over the units, and what is computed
from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from minirnn.errors import CellError

MAX_DATA_NODES = 512
"""A description of more nodes is refused: a file can ask for any size."""
MAX_NODES = 8 * MAX_DATA_NODES
"""Of a graph, gradients included."""


@dataclass(frozen=True)
class Operation:
    """What is known of an operation: its number of operands, what it costs beside an addition, its value on floats."""

    operands: int
    cost: float = 1
    evaluate: Callable[..., float] | None = None


OPERATIONS: dict[str, Operation] = {
    "add": Operation(2, 1, lambda a, b: a + b),
    "sub": Operation(2, 1, lambda a, b: a - b),
    "mul": Operation(2, 1, lambda a, b: a * b),
    "div": Operation(2, 4, lambda a, b: a / b),
    "neg": Operation(1, 1, lambda a: -a),
    "lt": Operation(2),
    "le": Operation(2),
    "where": Operation(3),
    "minimum": Operation(2, 1, lambda a, b: b if b < a else a),
    "maximum": Operation(2, 1, lambda a, b: b if a < b else a),
    "abs": Operation(1, 1, abs),
    "relu": Operation(1, 1, lambda a: max(a, 0.0)),
    "sqrt": Operation(1, 4, math.sqrt),
    "exp": Operation(1, 10, math.exp),
    "log": Operation(1, 10, math.log),
    "log1p": Operation(1, 14, math.log1p),
    "tanh": Operation(1, 10, math.tanh),
    "sigmoid": Operation(1, 10, lambda a: 0.5 + 0.5 * math.tanh(0.5 * a)),
    "erf": Operation(1, 12, math.erf),
    "softplus": Operation(1, 24, lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a)))),
    "sum": Operation(1),  # over the units of a row
    "spread": Operation(1, 0),  # one value per sequence as a value per unit; put in by resolve()
    "product": Operation(1, 100),  # with a weight matrix; of key (number, transposed)
    "zoneout": Operation(3),  # of (new, old, probability); removed by resolve()
    "dropout": Operation(1),  # marks the update that recurrent_dropout drops; removed by resolve()
}
SLOW = ("tanh", "sigmoid", "exp", "log", "log1p", "erf", "softplus")
COMPARISONS = ("lt", "le")


def _operator(op: str, reflected: bool = False) -> Callable[[Node, Any], Node]:
    def method(self: Node, other: Any) -> Node:
        return self.graph.make(op, other, self) if reflected else self.graph.make(op, self, other)

    return method


class Node:
    """An operation on other nodes, or a leaf.

    Attributes:
        op: a name of :data:`OPERATIONS`, or of a leaf: "gate", "state", "vector", "gradient" (of a state), "mask",
            "scalar" (one number for all rows), "constant", "random" (from U(0, 1)).
        operands: the nodes it is computed from.
        key: what tells a leaf from others of its kind: a name, a value, a number.
        number: its place in the graph, after those of its operands.
        per_row: one value per sequence instead of one per unit.
    """

    __slots__ = ("graph", "key", "number", "op", "operands", "per_row")
    __array_ufunc__ = None  # NumPy's functions refuse symbols

    def __init__(self, graph: Graph, op: str, operands: tuple[Node, ...], key: Any, number: int, per_row: bool) -> None:
        self.graph, self.op, self.operands, self.key = graph, op, operands, key
        self.number, self.per_row = number, per_row

    __add__, __radd__ = _operator("add"), _operator("add", True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", True)
    __truediv__, __rtruediv__ = _operator("div"), _operator("div", True)
    __lt__, __gt__ = _operator("lt"), _operator("lt", True)
    __le__, __ge__ = _operator("le"), _operator("le", True)

    def __neg__(self) -> Node:
        return self.graph.make("neg", self)

    def __pow__(self, exponent: Any) -> Node:
        if exponent == 0.5:
            return self.graph.make("sqrt", self)
        if isinstance(exponent, Node):
            raise CellError("x ** y of traced values; write exp(y * log(x))")
        if not isinstance(exponent, int) or not 1 <= abs(exponent) <= 8:
            raise CellError(
                f"x ** {exponent}: expected an exponent of 0.5 or an int from -8 to 8; write exp(y * log(x))"
            )
        result = self
        for _ in range(abs(exponent) - 1):
            result = result * self
        return result if exponent > 0 else 1 / result

    def __bool__(self) -> NoReturn:
        raise CellError("an `if`, `and`, `or` or `not` on a traced value; write where(condition, a, b) for a choice")

    def __float__(self) -> NoReturn:
        raise CellError("a traced value used as a number (by `math` or NumPy?); use the functions of minirnn.cells")

    __int__ = __index__ = __float__

    def __matmul__(self, other: Any) -> NoReturn:
        raise CellError("a matrix product with @: equations are of one unit; product(x) is W x with weights of its own")

    __rmatmul__ = __matmul__

    def __iter__(self) -> NoReturn:
        raise CellError("a traced value is one scalar, not a sequence: it cannot be unpacked or indexed")

    def __getitem__(self, index: Any) -> NoReturn:
        iter(self)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CellError(f"a traced value has no .{name}; use the functions of minirnn.cells, such as {name}(x)")


class Graph:
    """Nodes, each of them once."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Node] = {}
        self.products = 0
        self.draws = 0

    def leaf(self, op: str, key: Any) -> Node:
        """A node without operands."""
        return self._intern(op, (), key, op in ("scalar", "constant"))

    def constant(self, value: float) -> Node:
        return self.leaf("constant", _finite(value))

    def random(self) -> Node:
        """A number from U(0, 1), another one for every unit, step and call."""
        self.draws += 1
        return self.leaf("random", self.draws - 1)

    def product(self, x: Node, number: int | None = None, transposed: bool = False) -> Node:
        """W x, or W^T x, with the weights of the product ``number``; a new one unless given."""
        if number is None:
            number, self.products = self.products, self.products + 1
        return self._intern("product", (self.node(x),), (number, transposed), False)

    def spread(self, x: Node) -> Node:
        """``x`` itself, or a node with one value per unit of it where it has one value per sequence."""
        return self._intern("spread", (x,), None, False) if x.per_row else x

    def node(self, value: Any) -> Node:
        """``value`` itself, or a constant.

        Raises:
            CellError: it is neither a node nor a number.
        """
        if isinstance(value, Node):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self.constant(value)
        if isinstance(value, bool):
            raise CellError("expected a comparison by < <= > or >=, got a bool: == and != are not traced")
        kind = type(value).__name__
        raise CellError(
            f"expected a scalar (a gate, a state, a vector or a number), got {kind}: equations are of one unit"
        )

    def _intern(self, op: str, operands: tuple[Node, ...], key: Any, per_row: bool) -> Node:
        identity = (op, key, *operands)
        found = self._nodes.get(identity)
        if found is None:
            if len(self._nodes) >= MAX_NODES:
                raise CellError(f"the equations make more than {MAX_NODES} operations")
            found = self._nodes[identity] = Node(self, op, operands, key, len(self._nodes), per_row)
        return found

    def make(self, op: str, *values: Any) -> Node:
        """The node of an operation, or a simpler node that equals it."""
        args = tuple(self.node(value) for value in values)
        if op == "where" and args[0].op not in COMPARISONS:
            raise CellError("where(condition, a, b): expected a comparison such as x > 0 as the condition")
        if any(arg.op in COMPARISONS for arg in (args[1:] if op == "where" else args)):
            raise CellError("a comparison is neither a number nor a state: it belongs into where(condition, a, b)")
        simpler = self._simpler(op, args)
        return self._intern(op, args, None, op == "sum" or all(a.per_row for a in args)) if simpler is None else simpler

    def _simpler(self, op: str, args: tuple[Node, ...]) -> Node | None:
        values = [arg.key if arg.op == "constant" else None for arg in args]
        evaluate = OPERATIONS[op].evaluate
        if evaluate is not None and None not in values:
            try:
                return self.constant(evaluate(*values))
            except (ValueError, ArithmeticError):
                raise CellError(f"{op} of {', '.join(str(v) for v in values)} is not a number") from None
        x, y, first, second = args[0], args[-1], values[0], values[-1]
        match op:
            case "add" | "sub":
                if second == 0:
                    return x
                if first == 0:
                    return y if op == "add" else -y
                if y.op == "neg":
                    return self.make("sub" if op == "add" else "add", x, y.operands[0])
                if op == "add" and x.op == "neg":
                    return y - x.operands[0]
            case "mul":
                if 0 in values:
                    return self.constant(0)
                if 1 in values:
                    return y if first == 1 else x
                if "neg" in (x.op, y.op):
                    inner = (x.operands[0] if x.op == "neg" else x) * (y.operands[0] if y.op == "neg" else y)
                    return inner if x.op == y.op else -inner
            case "div":
                if second is not None:
                    if second == 0:
                        raise CellError("division by zero")
                    return x * (1 / second)
                if first == 0:
                    return x
            case "neg" if x.op == "neg":
                return x.operands[0]
            case "where" if args[1] is args[2]:
                return args[1]
            case "zoneout" if second == 0:
                return x
            case "sum" if x.per_row:
                return x * self.leaf("scalar", "size")
        return None


def ancestors(roots: Iterable[Node], given: Iterable[Node] = ()) -> list[Node]:
    """All nodes the roots need, in an order they can be computed in, down to those that are given."""
    stop, found, waiting = set(given), set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(() if node in stop else node.operands)
    return sorted(found, key=lambda node: node.number)


def rebuild(
    graph: Graph, roots: Iterable[Node], replace: Callable[[Graph, Node, tuple[Node, ...]], Node]
) -> list[Node]:
    """The roots made again in another graph, each node by ``replace(graph, node, its new operands)``."""
    roots = list(roots)
    made: dict[Node, Node] = {}
    for node in ancestors(roots):
        made[node] = replace(graph, node, tuple(made[operand] for operand in node.operands))
    return [made[root] for root in roots]


def copied(graph: Graph, node: Node, operands: tuple[Node, ...]) -> Node:
    """The same node in another graph."""
    if node.op == "product":
        graph.products = max(graph.products, node.key[0] + 1)
        return graph.product(operands[0], *node.key)
    if node.op == "random":
        return graph.random()
    return graph.make(node.op, *operands) if operands else graph.leaf(node.op, node.key)


def cleaned(roots: Iterable[Node]) -> tuple[Graph, list[Node]]:
    """The roots in a graph that holds nothing else, its products numbered from 0."""
    graph = Graph()
    return graph, rebuild(
        graph, roots, lambda g, node, o: g.product(o[0]) if node.op == "product" else copied(g, node, o)
    )


@dataclass(frozen=True)
class Run:
    """Neighbouring rows of weight_hh whose results go to neighbouring places: one matrix product.

    Attributes:
        first, count: gates of weight_hh.
        array: "gates" (added to the input part) or "products" (kept apart).
        index: the first place in that array.
    """

    first: int
    count: int
    array: str
    index: int


@dataclass(frozen=True, eq=False)
class Equations:
    """A cell: its gates, states and vectors, and the nodes of its new states.

    Attributes:
        name: of the cell.
        gates: in the order of its parameters; ``n_x`` and ``n_h`` are the input and the recurrent part of a gate ``n``.
        states: the first one, h, is the output, and what the recurrent weights multiply.
        vectors: learnt vectors with one number per unit, and their initial values.
        new: one node per state.
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
    def own_gates(self) -> tuple[str, ...]:
        """Recurrent parts that are kept apart from the input part."""
        return tuple(gate for gate in self.gates if gate.endswith("_h"))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The matrix products with weight_hh."""
        runs: list[Run] = []
        for row, gate in enumerate(recurrent_gates(self.gates)):
            array, names = ("products", self.own_gates) if gate in self.own_gates else ("gates", self.input_gates)
            index, last = names.index(gate), runs[-1] if runs else None
            if last is not None and last.array == array and last.index + last.count == index:
                runs[-1] = Run(last.first, last.count + 1, array, last.index)
            else:
                runs.append(Run(row, 1, array, index))
        return tuple(runs)

    def resolve(
        self, training: bool, zoneout: bool = False, update_dropout: bool = False, mask: bool = False
    ) -> Equations:
        """These equations as they are computed: what regularises them written out, or left out.

        Args:
            training: in evaluation, zoneout gives its expected value and dropout does nothing.
            zoneout: every state keeps its old value with probability ``zoneout`` (Krueger et al. 2017).
            update_dropout: what the cell marks by ``dropout(x)`` is dropped with probability ``dropout``, drawn at
                every step (Semeniuta, Severyn & Barth 2016).
            mask: the recurrent weights multiply h times a mask (Gal & Ghahramani 2016).
        """
        update_dropout, mask = update_dropout and training, mask and training
        random = zoneout or self.has_zoneout or update_dropout
        choice = (training and random, zoneout, update_dropout, mask)
        if choice not in self.variants:
            graph = Graph()

            def replaced(graph: Graph, node: Node, operands: tuple[Node, ...]) -> Node:
                if node.op == "zoneout":
                    return zoned_out(graph, *operands)
                if node.op == "dropout":
                    return dropped(graph, operands[0]) if update_dropout else operands[0]
                if node.op == "product":
                    operands = (graph.spread(operands[0]),)
                return copied(graph, node, operands)

            def zoned_out(graph: Graph, new: Node, old: Node, probability: Node) -> Node:
                if training:
                    return graph.make("where", graph.random() < probability, old, new)
                return new + probability * (old - new)

            def dropped(graph: Graph, x: Node) -> Node:
                rate = graph.leaf("scalar", "dropout")
                scale = graph.make("where", rate < 1, 1 / (1 - rate), 0)
                return graph.make("where", graph.random() < rate, 0, x * scale)

            new = rebuild(graph, self.new, replaced)
            if zoneout:
                rate = graph.leaf("scalar", "zoneout")
                before = [graph.leaf("state", state) for state in self.states]
                new = [zoned_out(graph, one, old, rate) for one, old in zip(new, before, strict=True)]
            new, graph.products = [graph.spread(one) for one in new], self.graph.products
            self.variants[choice] = Equations(self.name, self.gates, self.states, self.vectors, graph, new, mask)
        return self.variants[choice]

    def _marks(self, op: str) -> bool:
        return any(node.op == op for node in ancestors(self.new))

    @cached_property
    def has_zoneout(self) -> bool:
        """Whether zoneout is part of the equations themselves."""
        return self._marks("zoneout")

    @cached_property
    def has_dropout(self) -> bool:
        """Whether the cell marks an update that ``dropout`` drops."""
        return self._marks("dropout")

    @property
    def products(self) -> int:
        """Recurrent products inside the step, beside weight_hh."""
        return self.graph.products

    # ---------------------------------------------------------------------------------------------------- as data

    def to_data(self) -> dict[str, Any]:
        """JSON-able: the nodes the states need, operands by their place in the list."""
        nodes = ancestors(self.new)
        place = {node: number for number, node in enumerate(nodes)}
        listed = [
            [node.op, *(place[operand] for operand in node.operands), *([] if node.key is None else [_key_data(node)])]
            for node in nodes
        ]
        return {
            "name": self.name, "gates": list(self.gates), "states": list(self.states), "vectors": dict(self.vectors),
            "nodes": listed, "new": [place[node] for node in self.new],
        }  # fmt: skip

    @classmethod
    def from_data(cls, data: Any) -> Equations:
        """The reverse of :meth:`to_data`, of data that may be anything.

        Raises:
            CellError: the data does not describe a cell.
        """
        try:
            return cls._from_data(data)
        except CellError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CellError(f"the description of a cell is damaged: {error}") from None

    @classmethod
    def _from_data(cls, data: Mapping[str, Any]) -> Equations:
        name, gates, states = data["name"], tuple(data["gates"]), tuple(data["states"])
        vectors = {key: _finite(value) for key, value in data["vectors"].items()}
        check_names(name, gates, states, tuple(vectors))
        known = {"gate": gates, "state": states, "vector": tuple(vectors)}
        graph = Graph()
        made: list[Node] = []
        if len(data["nodes"]) > MAX_DATA_NODES:
            raise CellError(f"the description of a cell has more than {MAX_DATA_NODES} nodes")
        for op, *values in data["nodes"]:
            if op in known:
                if values[0] not in known[op]:
                    raise CellError(f"the description of a cell has no {op} {values[0]!r}")
                made.append(graph.leaf(op, values[0]))
            elif op == "scalar" and values == ["size"]:
                made.append(graph.leaf(op, "size"))
            elif op == "constant":
                made.append(graph.constant(values[0]))
            else:
                count = OPERATIONS[op].operands if op != "spread" else -1  # which only resolve() makes
                if len(values) != count + (op == "product"):
                    raise CellError(f"the description of a cell has {len(values)} values with {op}")
                operands = [made[_index(value, len(made))] for value in values[:count]]
                made.append(graph.product(operands[0]) if op == "product" else graph.make(op, *operands))
        new = [made[_index(value, len(made))] for value in data["new"]]
        if len(new) != len(states) or any(node.op in COMPARISONS for node in new):
            raise CellError("the description of a cell does not have one new value per state")
        used = {node.key for node in ancestors(new) if node.op in known}
        if unused := [part for part in (*gates, *vectors) if part not in used]:
            raise CellError(f"the description of a cell never uses {unused[0]}")
        return cls(name, gates, states, vectors, *cleaned(new))


def input_gates(gates: tuple[str, ...]) -> tuple[str, ...]:
    """Gates with an input part, in the order of weight_ih."""
    return tuple(gate for gate in gates if not gate.endswith("_h"))


def recurrent_gates(gates: tuple[str, ...]) -> tuple[str, ...]:
    """Gates with a recurrent part, in the order of weight_hh."""
    return tuple(gate for gate in gates if not gate.endswith("_x"))


def _key_data(node: Node) -> Any:
    return node.key[0] if node.op == "product" else node.key


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise CellError(f"expected a finite number, got {number}")
    return number


def _index(value: Any, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise CellError(f"the description of a cell refers to node {value!r} before it is there")
    return value


def check_names(name: str, gates: tuple[str, ...], states: tuple[str, ...], vectors: tuple[str, ...]) -> None:
    """Raise :class:`CellError` unless these can be the parts of a cell."""
    every = (*gates, *states, *vectors)
    for one in (name, *every):
        if not isinstance(one, str) or not one.isidentifier() or len(one) > 64:
            raise CellError(f"expected the name of a cell, gate, state or vector, got {one!r}")
    if not gates or not states:
        raise CellError(f"{name}: expected at least one gate (before the /) and one state (after it)")
    if len(set(every)) != len(every):
        raise CellError(f"{name}: two of {', '.join(every)} have one name")
    for one in vectors:
        if re.fullmatch(r"weight_(ih|hh|hr|product\d+)|bias_(ih|hh)", one):
            raise CellError(f"{name}: a vector cannot be called {one}, which is a parameter of every layer")
    if any(vector.startswith(("weight_", "bias_")) for vector in vectors):
        raise CellError(f"{name}: the names of vectors must not begin with weight_ or bias_")
    if not input_gates(gates):
        raise CellError(f"{name}: expected at least one gate that reads the input")
