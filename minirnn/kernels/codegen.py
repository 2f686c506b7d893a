"""Code generation: the schedule of a pass as loops over the units, and the source text of these loops.

What a pass computes for a row is divided into loops over the units:

- A sum over the units is complete only after its loop; what uses it belongs to a later one.
- So does what uses the result of a matrix product, which needs the operands of all rows: the loop over rows ends there.
- Of two slow functions (tanh, exp, ...) in a chain the second is left to the next loop, so that loops vectorise well.
- A cheap value is computed in the loop that uses it, where its operands are loaded anyway.

A loop loads everything before it stores, and a location is overwritten in the last loop that reads its old content. The
generated source contains no name from a cell: parts of cells are known by numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minirnn.kernels.graph import OPERATIONS, SLOW_OPERATIONS, Node, ancestors
from minirnn.kernels.plan import Location, Pass, Store

MAX_EXPRESSION = 200
"""Longer expressions get a name of their own: Python does not compile deeply nested ones."""

POINTWISE = (*SLOW_OPERATIONS, "relu", "sqrt", "minimum", "maximum", "where", "random_uniform")
"""Functions of :mod:`minirnn.kernels.pointwise` that generated source calls."""

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<="}


@dataclass
class Loop:
    """One loop over the units of a row.

    Attributes:
        stores: what it writes.
        sums: sums it completes.
        loads: where values are that were computed before it.
        row_stores: sums, and what is computed from them, that are written once for the row, after the loop.
        products: matrix products whose operands are complete for all rows after this loop.
    """

    stores: list[Store]
    sums: list[Node]
    loads: dict[Node, Location]
    row_stores: list[Store] = field(default_factory=list)
    products: list[Node] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        """All nodes of the loop, those it loads included."""
        return ancestors([s.node for s in self.stores] + [n.operands[0] for n in self.sums], self.loads)


@dataclass
class Temporaries:
    """Buffers for what a loop leaves to later ones.

    Attributes:
        scratch: values for a loop of the same row, [scratch, H] per thread.
        carry: values that are used after a matrix product, [N, carry, H].
        rows: sums that are used after a matrix product, [N, rows].
    """

    scratch: int = 0
    carry: int = 0
    rows: int = 0

    def new(self, carried: bool, per_row: bool = False) -> Location:
        """Allocate one; ``carried`` ones live on after a matrix product."""
        if per_row:
            self.rows += 1
            return Location("row_carry", "r", self.rows - 1, True)
        if carried:
            self.carry += 1
            return Location("carry", "r", self.carry - 1)
        self.scratch += 1
        return Location("scratch", "", self.scratch - 1)


# ------------------------------------------------------------------------------------------------- schedule


def schedule(step: Pass, vectorized: bool = True) -> tuple[list[Loop], Temporaries]:
    """The loops of a pass in order, and the temporaries they pass to one another.

    Args:
        vectorized: divide chains of slow functions, for loops over vectors; the threads of a GPU do not need it.
    """
    stores = [s for s in step.stores if s.accumulate or step.loads.get(s.node) != s.location]
    needed = ancestors([*(s.node for s in stores), *step.products], step.loads)
    level = _levels(needed, set(step.loads), {s.node for s in stores}, vectorized)
    last_use = _last_uses(step, needed, level)
    when = _store_levels(step, stores, needed, level, last_use)
    breaks = {level[node] - 1 for node in step.products}  # the loops after which the loop over rows ends

    def is_carried(node: Node, k: int) -> bool:
        return any(k <= b < last_use[node] for b in breaks)

    temporaries, loads = Temporaries(), dict(step.loads)
    loops: list[Loop] = []
    for k in range(max([*when.values(), *breaks], default=-1) + 1):
        here = [s for s in stores if when[s] == k and not s.location.per_row]
        overwritten = {s.location for s in here if not s.accumulate}
        for node in needed:  # what later loops use must be stored
            computed = node not in loads and level[node] == k and not node.per_row and node.op not in ("sum", "product")
            lost = node in loads and loads[node] in overwritten
            stored = any(s.node is node and not s.accumulate for s in here)
            if last_use[node] > k and (computed or lost) and not stored and node.op != "constant":
                here.append(Store(node, temporaries.new(is_carried(node, k))))
        sums = [n for n in needed if n.op == "sum" and n not in step.loads and level[n] == k + 1]
        products = [n for n in step.products if level[n] == k + 1]
        if not here and not sums and not products:
            continue
        row_stores = [s for s in stores if when[s] == k + 1 and s.location.per_row]
        row_stores += [Store(node, temporaries.new(True, per_row=True)) for node in sums if is_carried(node, k)]
        loops.append(Loop(here, sums, dict(loads), row_stores, products))
        loads |= {node: Location("local", "", node.number, True) for node in sums}
        written = {s.location for s in here}
        loads = {node: location for node, location in loads.items() if location not in written}
        loads |= {
            s.node: s.location for s in here if not s.accumulate and s.node.op != "constant" and s.node not in loads
        }
        loads |= {node: step.products[node][1] for node in products}
        if products:  # local variables end with the loop over rows
            loads |= {s.node: s.location for loop in loops for s in loop.row_stores}
    return loops, temporaries


def _levels(needed: list[Node], given: set[Node], stored: set[Node], vectorized: bool) -> dict[Node, int]:
    """The number of the loop that computes each node; for a sum or product, of the first loop that can use it."""
    level: dict[Node, int] = {}
    slow: dict[Node, bool] = {}
    for node in needed:
        if node in given:
            level[node], slow[node] = 0, False
            continue
        level[node] = max([level[operand] for operand in node.operands], default=0)
        slow[node] = any(slow[operand] for operand in node.operands if level[operand] == level[node])
        if node.op in ("sum", "product") or (vectorized and node.op in SLOW_OPERATIONS and slow[node]):
            level[node], slow[node] = level[node] + 1, False
        slow[node] = slow[node] or node.op in SLOW_OPERATIONS
    fixed = stored | given | {node for node in needed if node.op == "product"}
    cheap: set[Node] = set()
    for node in needed:
        cost = OPERATIONS[node.op].cost if node.operands else 0
        is_cheap = node not in fixed and not node.per_row and (node.op == "random" or cost <= 1)
        if is_cheap and all(o in fixed or o in cheap or o.per_row for o in node.operands):
            cheap.add(node)
    for node in reversed(needed):
        if node in cheap:
            users = [user for user in needed if user not in given and node in user.operands]
            latest = min((level[user] - (user.op in ("sum", "product")) for user in users), default=0)
            level[node] = max(level[node], latest)
    return level


def _last_uses(step: Pass, needed: list[Node], level: dict[Node, int]) -> dict[Node, int]:
    """Liveness: the last loop that reads each node; -1 for none."""
    last = dict.fromkeys(needed, -1)
    for node in reversed(needed):
        if node in step.loads:
            continue
        here = level[node] - (node.op in ("sum", "product"))
        if node.per_row and node.op != "sum":  # computed again wherever it is used
            here = max(here, last[node])
        for operand in node.operands:
            last[operand] = max(last[operand], here)
    return last


def _store_levels(
    step: Pass, stores: list[Store], needed: list[Node], level: dict[Node, int], last_use: dict[Node, int]
) -> dict[Store, int]:
    """The loop that makes each store: the last one that reads what the location held before, or a later one.

    The operand of a product is stored at once, as the product follows; the old content is copied if it is needed.
    """
    operands = {(node.operands[0], locations[0]) for node, locations in step.products.items()}
    when: dict[Store, int] = {}
    for s in stores:
        readers = [last_use[node] for node in needed if step.loads.get(node) == s.location]
        readers += [max(level[n], last_use[n]) for n, (_, result) in step.products.items() if result == s.location]
        at_once = (s.node, s.location) in operands
        when[s] = level[s.node] if at_once else max(level[s.node], *readers, 0)
        last_use[s.node] = max(last_use[s.node], when[s])
    return when


# ---------------------------------------------------------------------------------------------- source text


def _expression(node: Node, names: dict[Node, str]) -> str:
    """The node as an expression of its operands' names."""
    if node.op == "constant":
        return f"kind({node.key!r})"
    if node.op == "random":
        return f"kind(random_uniform(seed, counter + j + {node.key << 40}))"
    operands = [names[operand] for operand in node.operands]
    if node.op == "spread":
        return operands[0]
    if node.op in _INFIX:
        return f"{operands[0]} {_INFIX[node.op]} {operands[1]}"
    return f"-{operands[0]}" if node.op == "neg" else f"{node.op}({', '.join(operands)})"


def _assignments(targets: list[Node], names: dict[Node, str], prefix: str = "v") -> list[str]:
    """Lines ``v7 = a * b`` for all the targets need that has no name yet, and its names added to ``names``.

    A value that is used once stands inside the expression that uses it.
    """
    lines: list[str] = []
    needed = [node for node in ancestors(targets, names) if node not in names]
    uses = {node: sum(other.operands.count(node) for other in needed) + (node in targets) for node in needed}
    for node in needed:
        text = _expression(node, names)
        if uses[node] > 1 or node.op == "constant" or node in targets or len(text) > MAX_EXPRESSION:
            names[node] = f"{prefix}{node.number}"
            lines.append(f"{names[node]} = {text}")
        else:
            names[node] = f"({text})" if node.op in _INFIX or node.op == "neg" else text
    return lines


def loop_body(loop: Loop, element: dict[Location, str], scalars: dict[Node, str]) -> tuple[list[str], list[str]]:
    """Lines before the loop over the units (values per row) and inside it.

    Args:
        element: the source of every location's element for the unit j.
        scalars: the names of per-row values that are loaded.
    """
    inner = loop.nodes
    names = {node: scalars[node] for node in inner if node in scalars}
    before = _assignments([n for n in inner if n.per_row and n not in names and n.op != "constant"], names, "r")
    body = []
    for node in inner:
        if node in loop.loads and not node.per_row:
            names[node] = f"v{node.number}"
            body.append(f"{names[node]} = {element[loop.loads[node]]}")
    body += _assignments([s.node for s in loop.stores] + [node.operands[0] for node in loop.sums], names)
    body += [f"{element[s.location]} {'+=' if s.accumulate else '='} {names[s.node]}" for s in loop.stores]
    body += [f"t{node.number} += {names[node.operands[0]]}" for node in loop.sums]
    return before, body
