"""Source code from a plan: which loop over the units computes what, and the text of these loops.

What a pass computes of a row is cut into *levels*, each one loop over the units:

- a sum over the units is complete only after its loop, and what uses it belongs to a later one;
- so does what uses the result of a matrix product, which needs the operands of all rows: the rows' loop ends there;
- of two slow functions (tanh, exp, ...) in a chain the second is left to the next loop, or it would wait for the first;
- a cheap value is computed in the loop that uses it, where its operands are at hand anyway.

A loop reads everything before it writes, and a place is overwritten in the last loop that reads its old content. The
generated source has no name from a cell in it: parts of cells are known by numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minirnn.kernels.graph import OPERATIONS, SLOW, Node, ancestors
from minirnn.kernels.plan import Pass, Place, Store

MAX_LENGTH = 200
"""Characters of an expression that stands inside another: Python does not compile deeply nested ones."""

POINTWISE = (
    "tanh", "sigmoid", "relu", "exp", "log", "log1p", "sqrt", "erf", "softplus", "minimum", "maximum", "where",
    "random_uniform",
)  # fmt: skip
"""Functions of :mod:`minirnn.kernels.pointwise` that generated source calls."""

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<="}


@dataclass
class Level:
    """One loop over the units of a row.

    Attributes:
        stores: what it writes.
        sums: sums it completes.
        at: where the values lie that are there before it.
        row_stores: sums, and what is computed from them, that are written once for the row, after it.
        products: those whose operands are complete for all rows after this loop.
    """

    stores: list[Store]
    sums: list[Node]
    at: dict[Node, Place]
    row_stores: list[Store] = field(default_factory=list)
    products: list[Node] = field(default_factory=list)


def expression(node: Node, names: dict[Node, str]) -> str:
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


def assignments(targets: list[Node], names: dict[Node, str], prefix: str = "v") -> list[str]:
    """Lines ``v7 = a * b`` for all the targets need that has no name yet; ``names`` grows by what they name.

    A value that is used once stands inside the expression that uses it.
    """
    lines: list[str] = []
    needed = [node for node in ancestors(targets, names) if node not in names]
    uses = {node: sum(other.operands.count(node) for other in needed) + (node in targets) for node in needed}
    for node in needed:
        text = expression(node, names)
        if uses[node] > 1 or node.op == "constant" or node in targets or len(text) > MAX_LENGTH:
            names[node] = f"{prefix}{node.number}"
            lines.append(f"{names[node]} = {text}")
        else:
            names[node] = f"({text})" if node.op in _INFIX or node.op == "neg" else text
    return lines


def _levels(needed: list[Node], given: set[Node], stored: set[Node], vectorized: bool) -> dict[Node, int]:
    """The level of each node: that of its loop, of a sum or product the first loop that can use it."""
    level: dict[Node, int] = {}
    slow: dict[Node, bool] = {}
    for node in needed:
        if node in given:
            level[node], slow[node] = 0, False
            continue
        level[node] = max([level[operand] for operand in node.operands], default=0)
        slow[node] = any(slow[operand] for operand in node.operands if level[operand] == level[node])
        if node.op in ("sum", "product") or (vectorized and node.op in SLOW and slow[node]):
            level[node], slow[node] = level[node] + 1, False
        slow[node] = slow[node] or node.op in SLOW
    fixed = stored | given | {node for node in needed if node.op == "product"}
    cheap: set[Node] = set()
    for node in needed:
        is_cheap = node not in fixed and not node.per_row and (node.op == "random" or _cost(node) <= 1)
        if is_cheap and all(o in fixed or o in cheap or o.per_row for o in node.operands):
            cheap.add(node)
    for node in reversed(needed):
        if node in cheap:
            users = [user for user in needed if user not in given and node in user.operands]
            latest = min((level[user] - (user.op in ("sum", "product")) for user in users), default=0)
            level[node] = max(level[node], latest)
    return level


def _cost(node: Node) -> float:
    return OPERATIONS[node.op].cost if node.operands else 0


@dataclass
class Room:
    """Places for what a loop leaves to later ones.

    Attributes:
        scratch: values for a loop of the same row, [scratch, H] of each thread.
        carry: values that are used after a matrix product, [N, carry, H].
        rows: sums that are used after a matrix product, [N, rows].
    """

    scratch: int = 0
    carry: int = 0
    rows: int = 0

    def scratch_place(self) -> Place:
        self.scratch += 1
        return Place("scratch", "", self.scratch - 1)

    def carry_place(self) -> Place:
        self.carry += 1
        return Place("carry", "r", self.carry - 1)

    def row_place(self) -> Place:
        self.rows += 1
        return Place("row_carry", "r", self.rows - 1, True)


def _last_reads(step: Pass, needed: list[Node], level: dict[Node, int]) -> dict[Node, int]:
    """The last level that reads each node; -1 for none."""
    last = dict.fromkeys(needed, -1)
    for node in reversed(needed):
        if node in step.given:
            continue
        here = level[node] - (node.op in ("sum", "product"))
        if node.per_row and node.op != "sum":  # computed again wherever it is used
            here = max(here, last[node])
        for operand in node.operands:
            last[operand] = max(last[operand], here)
    return last


def _store_levels(
    step: Pass, stores: list[Store], needed: list[Node], level: dict[Node, int], last_read: dict[Node, int]
) -> dict[Store, int]:
    """The level at which each store is made: the last that reads what its place held before, or a later one.

    The operand of a product is written at once, for the product follows; what its place held is copied if it is needed.
    """
    operands = {(node.operands[0], places[0]) for node, places in step.products.items()}
    when: dict[Store, int] = {}
    for s in stores:
        readers = [last_read[node] for node in needed if step.given.get(node) == s.place]
        readers += [max(level[n], last_read[n]) for n, (_, result) in step.products.items() if result == s.place]
        at_once = (s.node, s.place) in operands
        when[s] = level[s.node] if at_once else max(level[s.node], *readers, 0)
        last_read[s.node] = max(last_read[s.node], when[s])
    return when


def schedule(step: Pass, vectorized: bool = True) -> tuple[list[Level], Room]:
    """The loops of a pass in their order, and the places they need for what they leave to one another.

    Args:
        vectorized: chains of slow functions are cut, as loops over vectors need it; threads of a GPU do not.
    """
    stores = [s for s in step.stores if s.adds or step.given.get(s.node) != s.place]
    needed = ancestors([*(s.node for s in stores), *step.products], step.given)
    level = _levels(needed, set(step.given), {s.node for s in stores}, vectorized)
    last_read = _last_reads(step, needed, level)
    when = _store_levels(step, stores, needed, level, last_read)
    breaks = {level[node] - 1 for node in step.products}  # the loops after which all rows must be there

    def crosses(node: Node, k: int) -> bool:
        return any(k <= b < last_read[node] for b in breaks)

    room, at, result = Room(), dict(step.given), []
    for k in range(max([*when.values(), *breaks], default=-1) + 1):
        here = [s for s in stores if when[s] == k and not s.place.per_row]
        overwritten = {s.place for s in here if not s.adds}
        for node in needed:  # what later loops read must have a place
            computed = node not in at and level[node] == k and not node.per_row and node.op not in ("sum", "product")
            lost = node in at and at[node] in overwritten
            stored = any(s.node is node and not s.adds for s in here)
            if last_read[node] > k and (computed or lost) and not stored and node.op != "constant":
                here.append(Store(node, room.carry_place() if crosses(node, k) else room.scratch_place()))
        sums = [n for n in needed if n.op == "sum" and n not in step.given and level[n] == k + 1]
        products = [n for n in step.products if level[n] == k + 1]
        if not here and not sums and not products:
            continue
        row_stores = [s for s in stores if when[s] == k + 1 and s.place.per_row]
        row_stores += [Store(node, room.row_place()) for node in sums if crosses(node, k)]
        result.append(Level(here, sums, dict(at), row_stores, products))
        at |= {node: Place("local", "", node.number, True) for node in sums}
        written = {s.place for s in here}
        at = {node: place for node, place in at.items() if place not in written}
        at |= {s.node: s.place for s in here if not s.adds and s.node.op != "constant" and s.node not in at}
        at |= {node: step.products[node][1] for node in products}
        if products:  # local variables end with the loop over the rows
            at |= {s.node: s.place for level_before in result for s in level_before.row_stores}
    return result, room


def loop_body(level: Level, element: dict[Place, str], scalars: dict[Node, str]) -> tuple[list[str], list[str]]:
    """Lines before the loop over the units (of values per row) and inside it.

    Args:
        element: the source of every place's element, for the unit j.
        scalars: the names of per-row values that are given.
    """
    targets = [s.node for s in level.stores] + [node.operands[0] for node in level.sums]
    inner = ancestors(targets, level.at)
    names = {node: scalars[node] for node in inner if node in scalars}
    before = assignments([n for n in inner if n.per_row and n not in names and n.op != "constant"], names, "r")
    body = []
    for node in inner:
        if node in level.at and not node.per_row:
            names[node] = f"v{node.number}"
            body.append(f"{names[node]} = {element[level.at[node]]}")
    body += assignments(targets, names)
    body += [f"{element[s.place]} {'+=' if s.adds else '='} {names[s.node]}" for s in level.stores]
    body += [f"t{node.number} += {names[node.operands[0]]}" for node in level.sums]
    return before, body
