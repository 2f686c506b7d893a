"""Expression graphs: symbolic scalars, common subexpressions stored once, algebraic simplification.

A cell's function is called once with symbols; every operation makes a :class:`Node`, and equal nodes are one. A node is
created after its operands, so nodes in the order of their numbers can be computed one after the other. A node has one
value per unit, or, if ``per_row`` is set, one value per sequence: a sum over the units, and what is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from minirnn.errors import CellError

MAX_NODES = 4096
"""Nodes of a graph, gradients included."""


@dataclass(frozen=True)
class Operation:
    """An operation: its number of operands, its cost relative to an addition, its value on Python floats."""

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
    "spread": Operation(1, 0),  # broadcasts one value per sequence to the units; inserted by resolve()
    "product": Operation(1, 100),  # with a weight matrix; its key is (number, transposed)
    "zoneout": Operation(3),  # of (new, old, probability); removed by resolve()
    "dropout": Operation(1),  # marks the update that recurrent_dropout drops; removed by resolve()
}
SLOW_OPERATIONS = ("tanh", "sigmoid", "exp", "log", "log1p", "erf", "softplus")
COMPARISONS = ("lt", "le")


def _operator(op: str, reflected: bool = False) -> Callable[[Node, Any], Node]:
    def method(self: Node, other: Any) -> Node:
        return self.graph.make(op, other, self) if reflected else self.graph.make(op, self, other)

    return method


def _unsupported(message: str) -> Callable[..., NoReturn]:
    def method(self: Node, *args: Any) -> NoReturn:
        raise CellError(message)

    return method


class Node:
    """An operation on other nodes, or a leaf.

    Attributes:
        op: a name of :data:`OPERATIONS`, or of a leaf: "gate", "state", "vector", "gradient" (of a state), "mask",
            "scalar" (one number for all rows), "constant", "random" (from U(0, 1)).
        operands: the nodes it is computed from.
        key: tells leaves of one kind apart: a name, a value, a number.
        number: position in the graph, after the operands'.
        per_row: one value per sequence instead of one per unit.
    """

    __slots__ = ("graph", "key", "number", "op", "operands", "per_row")
    __array_ufunc__ = None  # makes NumPy's functions refuse symbols

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

    __bool__ = _unsupported(
        "an `if`, `and`, `or` or `not` on a traced value; write where(condition, a, b) for a choice"
    )
    __float__ = __int__ = __index__ = _unsupported(
        "a traced value used as a number (by `math` or NumPy?); use the functions of minirnn.cells"
    )
    __matmul__ = __rmatmul__ = _unsupported(
        "a matrix product with @: equations are of one unit; product(x) is W x with weights of its own"
    )
    __iter__ = __getitem__ = _unsupported(
        "a traced value is one scalar, not a sequence: it cannot be unpacked or indexed"
    )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CellError(f"a traced value has no .{name}; use the functions of minirnn.cells, such as {name}(x)")


class Graph:
    """A set of nodes in which equal nodes are one object."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Node] = {}
        self.products = 0
        self.draws = 0

    def leaf(self, op: str, key: Any) -> Node:
        """A node without operands."""
        return self._intern(op, (), key, op in ("scalar", "constant"))

    def constant(self, value: float) -> Node:
        return self.leaf("constant", check_finite(value))

    def random(self) -> Node:
        """A number from U(0, 1), drawn for every unit, step and call."""
        self.draws += 1
        return self.leaf("random", self.draws - 1)

    def product(self, x: Node, number: int | None = None, transposed: bool = False) -> Node:
        """W x, or W^T x, with the weights of product ``number``; new weights if None."""
        if number is None:
            number, self.products = self.products, self.products + 1
        return self._intern("product", (self.node(x),), (number, transposed), False)

    def spread(self, x: Node) -> Node:
        """``x`` with one value per unit, broadcast if it has one value per sequence."""
        return self._intern("spread", (x,), None, False) if x.per_row else x

    def node(self, value: Any) -> Node:
        """``value`` as a node; a number becomes a constant.

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
        """The node of an operation, simplified where its value is known or equal to another node's."""
        args = tuple(self.node(value) for value in values)
        if op == "where" and args[0].op not in COMPARISONS:
            raise CellError("where(condition, a, b): expected a comparison such as x > 0 as the condition")
        if any(arg.op in COMPARISONS for arg in (args[1:] if op == "where" else args)):
            raise CellError("a comparison is neither a number nor a state: it belongs into where(condition, a, b)")
        simplified = self._simplify(op, args)
        if simplified is not None:
            return simplified
        return self._intern(op, args, None, op == "sum" or all(a.per_row for a in args))

    def _simplify(self, op: str, args: tuple[Node, ...]) -> Node | None:
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


def check_finite(value: Any) -> float:
    """``value`` as a float.

    Raises:
        CellError: it is not finite.
    """
    number = float(value)
    if not math.isfinite(number):
        raise CellError(f"expected a finite number, got {number}")
    return number


def ancestors(roots: Iterable[Node], given: Iterable[Node] = ()) -> list[Node]:
    """All nodes the roots depend on, in an order they can be computed in; those of ``given`` need no operands."""
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
    """Build the roots again in another graph, each node by ``replace(graph, node, new_operands)``."""
    roots = list(roots)
    made: dict[Node, Node] = {}
    for node in ancestors(roots):
        made[node] = replace(graph, node, tuple(made[operand] for operand in node.operands))
    return [made[root] for root in roots]


def copy_node(graph: Graph, node: Node, operands: tuple[Node, ...]) -> Node:
    """The same node in another graph."""
    if node.op == "product":
        graph.products = max(graph.products, node.key[0] + 1)
        return graph.product(operands[0], *node.key)
    if node.op == "random":
        return graph.random()
    return graph.make(node.op, *operands) if operands else graph.leaf(node.op, node.key)


def prune(roots: Iterable[Node]) -> tuple[Graph, list[Node]]:
    """The roots in a new graph without unused nodes, its products numbered from 0."""

    def replace(graph: Graph, node: Node, operands: tuple[Node, ...]) -> Node:
        return graph.product(operands[0]) if node.op == "product" else copy_node(graph, node, operands)

    graph = Graph()
    return graph, rebuild(graph, roots, replace)
