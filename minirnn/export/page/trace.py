"""The values of a character model at every symbol of a text, computed in NumPy from the arrays that a page holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minirnn.export.network import Layer, Network
from minirnn.export.page.cells import recorded
from minirnn.kernels.graph import Node, ancestors

Arrays = Mapping[str, np.ndarray]

_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "lt": np.less,
    "le": np.less_equal, "where": np.where, "minimum": np.minimum, "maximum": np.maximum, "abs": np.abs,
    "relu": lambda x: np.maximum(x, 0), "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "log1p": np.log1p,
    "tanh": np.tanh, "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), "softplus": lambda x: np.logaddexp(0, x),
    "erf": np.vectorize(math.erf, otypes=[np.float32]), "sum": np.sum,
}  # fmt: skip


class Trace(NamedTuple):
    """What a model computed at T symbols.

    Attributes:
        tokens: [T]. log_probs: [T, V], of the symbol after each.
        values: of each layer, the recorded values [T, H] by name, see :func:`~minirnn.export.page.cells.recorded`.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    values: list[dict[str, np.ndarray]]


class _Steps:
    """One layer, step by step."""

    def __init__(self, layer: Layer, arrays: Arrays) -> None:
        self.layer, self.arrays, e = layer, arrays, layer.equations
        self.state = {state: np.zeros(layer.hidden_size, np.float32) for state in e.states}
        self.shown = {name: node for name, (node, _) in recorded(e).items()}
        self.nodes = ancestors([*e.new, *self.shown.values()])

    @cached_property
    def constants(self) -> dict[Node, Any]:
        """The leaves that are the same at every step."""
        layer, found = self.layer, dict[Node, Any]()
        for node in self.nodes:
            if node.op == "constant":
                found[node] = node.key
            elif node.op == "vector":
                found[node] = self.arrays[f"vectors.{node.key}"]
            elif node.op == "scalar":
                found[node] = float(layer.hidden_size) if node.key == "size" else layer.zoneout
        return found

    def step(self, x: np.ndarray | int) -> dict[str, np.ndarray]:
        """Return the values after reading a vector, or a token where the layer has a table."""
        e, arrays, size = self.layer.equations, self.arrays, self.layer.hidden_size
        inputs = arrays["table"][x] if "table" in arrays else arrays["weight_ih"] @ x + arrays.get("bias_ih", 0)
        parts = dict(zip(e.input_gates, inputs.reshape(-1, size), strict=True))
        if "weight_hh" in arrays:
            hidden = arrays["weight_hh"] @ self.state[e.states[0]] + arrays.get("bias_hh", 0)
            names = [gate for gate in e.gates if not gate.endswith("_x")]
            for gate, part in zip(names, hidden.reshape(-1, size), strict=True):
                parts[gate] = parts[gate] + part if gate in parts else part
        found: dict[Node, Any] = dict(self.constants)
        for node in self.nodes:
            if node.op == "gate":
                found[node] = parts[node.key]
            elif node.op == "state":
                found[node] = self.state[node.key]
            elif node.op == "product":
                found[node] = arrays[f"products.{node.key[0]}"] @ found[node.operands[0]]
            elif node.op == "spread":
                found[node] = np.full(size, found[node.operands[0]], np.float32)
            elif node.operands:
                found[node] = _NUMPY[node.op](*(found[operand] for operand in node.operands))
        values = {name: found[node] for name, node in self.shown.items()}
        self.state = {state: values[state] for state in e.states}
        return values


def trace(network: Network, arrays: Arrays, tokens: np.ndarray, draw: int = 0, seed: int = 0) -> Trace:
    """Compute what a character model computes at ``tokens`` [P], P at least 1, and at more that are drawn from it.

    Args:
        arrays: by the names that :func:`minirnn.export.network.arrays` gives them; where the first layer has a table of
            the input parts for every token, that table.
        draw, seed: how many tokens to draw, with temperature 0.8 as ``minirnn sample`` does.
    """
    layers = network.layers["rnn"]
    own = [f"layers.rnn.layers.{number}.0." for number in range(len(layers.layers))]
    parts = [{key.removeprefix(name): a for key, a in arrays.items() if key.startswith(name)} for name in own]
    steps = [_Steps(row[0], part) for row, part in zip(layers.layers, parts, strict=True)]
    rng, found = np.random.default_rng(seed), [int(token) for token in tokens]
    rows, log_probs = list[list[dict[str, np.ndarray]]](), list[np.ndarray]()
    for t in range(len(found) + draw):
        if t == len(found):
            found.append(int((log_probs[-1] / _TEMPERATURE + rng.gumbel(size=log_probs[-1].size)).argmax()))
        x: Any = arrays["layers.rnn.embedding"][found[t]] if "layers.rnn.embedding" in arrays else found[t]
        rows.append([])
        for number, layer in enumerate(steps):
            rows[-1].append(layer.step(x))
            y = rows[-1][-1][layer.layer.equations.states[0]]
            x = x + y if number and layers.residual else y
        logits = arrays["linear.head.weight"] @ x + arrays["linear.head.bias"]
        log_probs.append(logits - np.logaddexp.reduce(logits))
    values = [
        {name: np.array([row[number][name] for row in rows]) for name in layer.shown}
        for number, layer in enumerate(steps)
    ]
    return Trace(np.array(found), np.array(log_probs), values)


_TEMPERATURE = 0.8
