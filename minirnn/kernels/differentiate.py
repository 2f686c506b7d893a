"""Symbolic reverse-mode differentiation of a cell's graph: the gradients are nodes of the same graph.

(Griewank & Walther 2008, "Evaluating Derivatives", chapter 3.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from minirnn.kernels.graph import Graph, Node, ancestors

Rule = Callable[..., tuple[Node | float, ...]]

# The gradients of a node's operands, from the graph G, the gradient g of the node, the node y itself and its operands
RULES: dict[str, Rule] = {
    "add": lambda G, g, y, a, b: (g, g),
    "sub": lambda G, g, y, a, b: (g, -g),
    "mul": lambda G, g, y, a, b: (g * b, g * a),
    "div": lambda G, g, y, a, b: (g / b, -(g / b * y)),
    "neg": lambda G, g, y, a: (-g,),
    "lt": lambda G, g, y, a, b: (0, 0),
    "le": lambda G, g, y, a, b: (0, 0),
    "where": lambda G, g, y, c, a, b: (0, G.make("where", c, g, 0), G.make("where", c, 0, g)),
    "minimum": lambda G, g, y, a, b: (G.make("where", b < a, 0, g), G.make("where", b < a, g, 0)),
    "maximum": lambda G, g, y, a, b: (G.make("where", a < b, 0, g), G.make("where", a < b, g, 0)),
    "abs": lambda G, g, y, a: (G.make("where", a < 0, -g, G.make("where", a > 0, g, 0)),),
    "relu": lambda G, g, y, a: (G.make("where", y > 0, g, 0),),
    "sqrt": lambda G, g, y, a: (0.5 * g / y,),
    "exp": lambda G, g, y, a: (g * y,),
    "log": lambda G, g, y, a: (g / a,),
    "log1p": lambda G, g, y, a: (g / (1 + a),),
    "tanh": lambda G, g, y, a: (g * (1 - y * y),),
    "sigmoid": lambda G, g, y, a: (g * (y * (1 - y)),),
    "erf": lambda G, g, y, a: (g * (2 / math.sqrt(math.pi)) * G.make("exp", -(a * a)),),
    "softplus": lambda G, g, y, a: (g * G.make("sigmoid", a),),
    "sum": lambda G, g, y, a: (g,),
    "spread": lambda G, g, y, a: (g,),
    "product": lambda G, g, y, a: (G.product(g, y.key[0], not y.key[1]),),
}


def gradients(graph: Graph, outputs: list[Node], seeds: list[Node], of: list[Node]) -> list[Node]:
    """Gradients with respect to the nodes ``of``, for output gradients ``seeds``: of the sum of outputs times seeds."""
    total: dict[Node, Node] = {}
    for output, seed in zip(outputs, seeds, strict=True):
        total[output] = total[output] + seed if output in total else seed
    for node in reversed(ancestors(outputs)):
        if not node.operands or node not in total:
            continue
        for operand, part in zip(node.operands, RULES[node.op](graph, total[node], node, *node.operands), strict=True):
            if operand.op == "constant":
                continue
            part = graph.node(part)
            if operand.per_row and not node.per_row:  # one value was broadcast to every unit
                part = graph.make("sum", part)
            total[operand] = total[operand] + part if operand in total else part
    return [total[node] if node in total else graph.constant(0) for node in of]
