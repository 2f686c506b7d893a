"""Graphs as lines of text, in the notation of mathematics or in the syntax of a language."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from minirnn.kernels.graph import Node, ancestors

Atom = Callable[[Node, list[str]], str]
"""Writes what has no sign of its own: a leaf that is not named, or a function of operands that are written already."""

_INFIX = {"add": ("+", 2), "sub": ("-", 2), "mul": ("*", 3), "div": ("/", 3), "lt": ("<", 1), "le": ("<=", 1)}
"""The sign of an operation, and its precedence."""
_LOWEST, _SUM, _PRODUCT, _ATOM = 0, 2, 3, 4


def mathematics(node: Node, operands: list[str]) -> str:
    """The notation of documentation: ``W0 @ (r * h)``, ``tanh(g)``, constants with six digits."""
    match node.op:
        case "constant":
            return f"{node.key:g}"
        case "gradient":
            return f"d{node.key}'"
        case "random":
            return "random()"
        case "product":
            number, transposed = node.key
            return f"W{number}{'^T' if transposed else ''} @ {operands[0]}"
    return f"{node.op}({', '.join(operands)})" if operands else str(node.key)


def _text(node: Node, names: Mapping[Node, str], atom: Atom, precedence: int = _LOWEST) -> str:
    """The node as an expression of named nodes, in parentheses where its precedence is below ``precedence``."""
    text, own = _expression(node, names, atom)
    return text if own >= precedence else f"({text})"


def _expression(node: Node, names: Mapping[Node, str], atom: Atom) -> tuple[str, int]:
    """The node as an expression, and its precedence."""
    if node in names:
        return names[node], _ATOM
    if node.op in _INFIX:
        sign, own = _INFIX[node.op]
        left, right = node.operands
        return f"{_text(left, names, atom, own)} {sign} {_text(right, names, atom, own + (sign in '-/'))}", own
    if node.op == "neg":
        return f"-{_text(node.operands[0], names, atom, _PRODUCT)}", _SUM
    inside = _ATOM if node.op == "product" else _LOWEST
    text = atom(node, [_text(operand, names, atom, inside) for operand in node.operands])
    return text, _SUM if text.startswith("-") else _ATOM


def assignments(
    targets: Mapping[str, Node], given: Mapping[Node, str], taken: Iterable[str] = (), atom: Atom = mathematics
) -> list[tuple[str, Node, str]]:
    """Name, node and expression of each target, in an order in which they can be computed.

    Values that are used more than once come first, as t1, t2, ...

    Args:
        targets: what is to be computed, by name. given: values that have a name already.
        taken: names that must not be used again. atom: how functions and leaves are written.
    """
    nodes = ancestors(targets.values(), given)
    inner = [node for node in nodes if node.operands and node not in given]
    uses = [operand for node in inner for operand in node.operands]
    taken = set(taken)
    unused = (name for name in (f"t{number}" for number in itertools.count(1)) if name not in taken)
    names, lines = dict(given), []
    for node in nodes:
        assigned = [name for name, target in targets.items() if target is node]
        if node in inner and not assigned and uses.count(node) > 1:
            assigned = [next(unused)]
        for name in assigned:
            lines.append((name, node, _text(node, names, atom)))
            if node in inner:
                names.setdefault(node, name)
    return lines
