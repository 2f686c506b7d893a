"""Recurrent layers, linear layers and attention as nodes of an ONNX graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minirnn import cells
from minirnn.export.network import Layer, Layers, Linear
from minirnn.kernels.equations import input_gates, recurrent_gates
from minirnn.kernels.graph import Node, ancestors
from minirnn.nn.unrolled import Merge

OPSET, IR_VERSION = 18, 8

_STANDARD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lstm": ("LSTM", "iofg", {}),
    "peephole_lstm": ("LSTM", "iofg", {}),
    "gru": ("GRU", "zrn", {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", "zrn", {"linear_before_reset": 0}),
    "rnn": ("RNN", "a", {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", "a", {"activations": ["Relu"]}),
}
"""Cells that ONNX has as an operator, the order of its gates, and what it needs besides."""

_OPERATORS = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "lt": "Less", "le": "LessOrEqual",
    "where": "Where", "minimum": "Min", "maximum": "Max", "abs": "Abs", "relu": "Relu", "sqrt": "Sqrt", "exp": "Exp",
    "log": "Log", "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf", "softplus": "Softplus",
}  # fmt: skip

Value = str
"""The name of a value in the graph."""
States = list[list[list[Value]]]
"""For every layer and direction, each state of the cell, [N, H]."""


class GraphBuilder:
    """A graph in the making: a call adds a node, and returns the names of its outputs.

    Args:
        onnx: the package. dtype: of weights and of values that are not integers.
    """

    def __init__(self, onnx: Any, dtype: np.dtype) -> None:
        self.helper, self.numpy_helper, self.dtype = onnx.helper, onnx.numpy_helper, dtype
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self._names: Counter[str] = Counter()

    def name(self, hint: str) -> Value:
        """Return a name that nothing else has; the graph's inputs and outputs have no dot in theirs."""
        self._names[hint] += 1
        return hint if "." in hint and self._names[hint] == 1 else f"{hint}.{self._names[hint]}"

    def __call__(self, op: str, *inputs: Value | np.ndarray | float | int, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return the name of its output, or a list of them.

        Args:
            inputs: names, "" for one that is left out; arrays are stored, numbers in the dtype of the weights.
        """
        names = [value if isinstance(value, str) else self.weight(op.lower(), value) for value in inputs]
        results = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(self.helper.make_node(op, names, results, **attributes))
        return results if outputs > 1 else results[0]

    def weight(self, hint: str, value: np.ndarray | float | int) -> Value:
        """Store an array; one that is there already is not stored again."""
        array = value if isinstance(value, np.ndarray) else np.array(value, self.dtype)
        for name, known in self.weights.items():
            same = known.size <= 8 and (known.dtype, known.shape) == (array.dtype, array.shape)
            if known is array or (same and np.array_equal(known, array)):
                return name
        name = self.name(hint)
        self.weights[name] = array
        return name

    def info(self, name: Value, dims: Sequence[str | int | None], dtype: Any = None) -> Any:
        """Return the type of a value."""
        return self.helper.make_tensor_value_info(name, self.kind(dtype), dims)

    def kind(self, dtype: Any = None) -> int:
        """Return ONNX's number of a dtype, that of the weights where None."""
        return self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))

    def cast(self, x: Value, dtype: Any = None) -> Value:
        """Return ``x`` in a dtype, that of the weights where None."""
        return self("Cast", x, to=self.kind(dtype))

    def input(self, name: Value, *dims: str | int, dtype: Any = None) -> Value:
        """Declare an input of the graph."""
        self.inputs.append(self.info(name, dims, dtype))
        return name

    def output(self, value: Value, name: Value, *dims: str | int) -> None:
        """Declare an output of the graph."""
        self.nodes.append(self.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self.info(name, dims))

    def graph(self, name: str) -> Any:
        """Return the graph, without nodes and weights that no output needs."""
        read, kept = {output.name for output in self.outputs}, []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                kept.append(node)
                read |= _read(node)
        stored = [self.numpy_helper.from_array(array, key) for key, array in self.weights.items() if key in read]
        return self.helper.make_graph(kept[::-1], name, self.inputs, self.outputs, stored)

    @contextmanager
    def body(self) -> Iterator[list[Any]]:
        """Within, nodes are added to a graph of its own, of a Scan or a Loop."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def size(self, x: Value, axis: int) -> Value:
        """Return the size [1] of an axis."""
        return self("Shape", x, start=axis, end=axis + 1)

    def valid_steps(self, x: Value, lengths: Value) -> Value:
        """Return which steps of ``x`` [T, N, ...] are a sequence's own: bool [T, N, 1]; lengths [N]."""
        numbers = self("Range", np.array(0), self("Squeeze", self.size(x, 0)), np.array(1))
        return self("Less", self.unsqueezed(numbers, 1, 2), self.unsqueezed(lengths, 0, 2))

    def unsqueezed(self, x: Value, *axes: int) -> Value:
        """Return ``x`` with axes of size 1 at these positions."""
        return self("Unsqueeze", x, np.array(axes))

    def zeros(self, *sizes: Value | int) -> Value:
        """Return zeros of these sizes, [1] or numbers."""
        shape = [np.array([size]) if isinstance(size, int) else size for size in sizes]
        value = self.numpy_helper.from_array(np.zeros(1, self.dtype))
        return self("ConstantOfShape", self("Concat", *shape, axis=0), value=value)

    def linear(self, name: str, x: Value, part: Linear) -> Value:
        """Return x W^T + b."""
        y = self("MatMul", x, self.weight(f"{name}.weight", np.ascontiguousarray(part.weight.T)))
        return y if part.bias is None else self("Add", y, self.weight(f"{name}.bias", part.bias))

    def rows(self, name: str, table: np.ndarray, tokens: Value) -> Value:
        """Return the rows [..., E] of a table that stand for tokens; ones and zeros are made, not stored."""
        if table.shape[0] == table.shape[1] and np.array_equal(table, np.eye(len(table))):
            return self.cast(self("Equal", self.unsqueezed(tokens, -1), np.arange(len(table))))
        return self("Gather", self.weight(f"{name}.embedding", table), tokens)

    def merged(self, values: Sequence[Value], merge: Merge) -> Value:
        """Return the values of one direction, or those of two as one."""
        if len(values) == 1:
            return values[0]
        if merge == "concat":
            return self("Concat", *values, axis=-1)
        both = self("Mul" if merge == "mul" else "Add", *values)
        return self("Mul", both, 0.5) if merge == "ave" else both

    # -------------------------------------------------------------------------------------------- recurrent layers

    def layers(
        self, name: str, layers: Layers, x: Value, lengths: Value | None = None, initial: States | None = None
    ) -> tuple[Value, States]:
        """Run recurrent layers.

        Args:
            name: what their weights are called. x: tokens [T, N] or vectors [T, N, I].
            lengths: [N] int64; all T where None. initial: states, zeros where None.

        Returns:
            The outputs of the top layer [T, N, O], zero past a sequence's length, and the final states.
        """
        x = x if layers.embedding is None else self.rows(name, layers.embedding, x)
        mask = None if lengths is None else self.valid_steps(x, lengths)
        finals: States = []
        for number, directions in enumerate(layers.layers):
            below, states = x, None if initial is None else initial[number]
            prefix = f"{name}.l{number}"
            if _has_operator(directions[0], self.dtype):
                outputs, final = self._standard(prefix, directions, x, lengths, states)
            else:
                runs = [
                    self._scan(f"{prefix}{'_reverse' * layer.reverse}", layer, x, mask, states[d] if states else None)
                    for d, layer in enumerate(directions)
                ]
                outputs, final = [y for y, _ in runs], [one for _, one in runs]
            top = number + 1 == len(layers.layers)
            x = self.merged(outputs, layers.merge if top else "concat")
            if layers.residual and number > 0:
                x = self("Add", x, below)
            finals.append(final)
        return x, finals

    def _standard(
        self, name: str, directions: list[Layer], x: Value, lengths: Value | None, initial: list[list[Value]] | None
    ) -> tuple[list[Value], list[list[Value]]]:
        """One layer as a node LSTM, GRU or RNN: the outputs [T, N, H] and the final states of each direction."""
        first = directions[0]
        equations, size, two = first.equations, first.hidden_size, len(directions) > 1
        op, order, attributes = _STANDARD[equations.name]
        if "activations" in attributes:
            attributes = {"activations": attributes["activations"] * len(directions)}
        weights = zip(*(_standard_weights(layer, order) for layer in directions), strict=True)
        W, R, B = [self.weight(f"{name}.{letter}", np.stack(both)) for letter, both in zip("WRB", weights, strict=True)]
        states = ["" for _ in equations.states]
        if initial is not None:
            unsqueezed = [[self.unsqueezed(s, 0) for s in both] for both in zip(*initial, strict=True)]
            states = [self("Concat", *both, axis=0) if two else both[0] for both in unsqueezed]
        vectors = [np.stack([_peepholes(layer) for layer in directions])] if equations.vectors else []
        counts = "" if lengths is None else self.cast(lengths, np.int32)
        node = self(
            op, x, W, R, B, counts, *states, *vectors, outputs=1 + len(states), hidden_size=size,
            direction="bidirectional" if two else "forward", **attributes,
        )  # fmt: skip
        pick = [np.array(d) for d in range(len(directions))]
        outputs = [self("Gather", node[0], d, axis=1) for d in pick]
        finals = [[self("Gather", final, d, axis=0) for final in node[1:]] for d in pick]
        if lengths is not None and initial is not None:  # onnxruntime gives zeros for an empty sequence
            some = self("Greater", self.unsqueezed(lengths, 1), np.array(0))
            pairs = [zip(new, old, strict=True) for new, old in zip(finals, initial, strict=True)]
            finals = [[self("Where", some, *pair) for pair in both] for both in pairs]
        return outputs, finals

    def _scan(
        self, name: str, layer: Layer, x: Value, mask: Value | None, initial: list[Value] | None
    ) -> tuple[Value, list[Value]]:
        """One layer in one direction as a Scan over its equations: the outputs [T, N, H] and the final states."""
        equations, H = layer.equations, layer.hidden_size
        sizes = [H if layer.weight_hr is None else len(layer.weight_hr), *(H for _ in equations.states[1:])]
        gates = self.linear(f"{name}.input", x, Linear(layer.weight_ih, layer.bias_ih))
        initial = initial or [self.zeros(self.size(x, 1), size) for size in sizes]
        old, part, valid = [self.name(state) for state in equations.states], self.name("gates"), self.name("valid")
        with self.body() as nodes:
            new = self._step(name, layer, part, old)
            output = new[0]
            if mask is not None:
                output = self("Where", valid, new[0], 0.0)
                new = [self("Where", valid, *pair) for pair in zip(new, old, strict=True)]
            new = [self("Identity", value) for value in new]  # a value may not be two outputs
            y = self("Identity", output)
        inputs = [self.info(n, ["N", size]) for n, size in zip(old, sizes, strict=True)]
        inputs.append(self.info(part, ["N", len(layer.weight_ih)]))
        if mask is not None:
            inputs.append(self.info(valid, ["N", 1], bool))
        outputs = [self.info(n, ["N", size]) for n, size in zip([*new, y], [*sizes, sizes[0]], strict=True)]
        body, count = self.helper.make_graph(nodes, f"{name}.step", inputs, outputs), len(inputs) - len(old)
        results = self(
            "Scan", *initial, gates, *([] if mask is None else [mask]), outputs=1 + len(old), body=body,
            num_scan_inputs=count, scan_input_directions=[int(layer.reverse)] * count,
            scan_output_directions=[int(layer.reverse)],
        )  # fmt: skip
        return results[-1], results[:-1]

    def _step(self, name: str, layer: Layer, gates: Value, states: list[Value]) -> list[Value]:
        """One step of a layer: its new states [N, H]."""
        equations = layer.equations
        inputs = self._split(gates, input_gates(equations.gates))
        recurrent = {}
        if layer.weight_hh is not None:
            product = self.linear(f"{name}.recurrent", states[0], Linear(layer.weight_hh, layer.bias_hh))
            recurrent = self._split(product, recurrent_gates(equations.gates))
        values: dict[Node, Value] = {}
        for node in ancestors(equations.new):
            operands = [values[operand] for operand in node.operands]
            match node.op:
                case "gate":
                    parts = [part[node.key] for part in (inputs, recurrent) if node.key in part]
                    value = self("Add", *parts) if len(parts) > 1 else parts[0]
                case "state":
                    value = states[equations.states.index(node.key)]
                case "vector":
                    value = self.weight(f"{name}.{node.key}", layer.vectors[node.key])
                case "constant":
                    value = self.weight("constant", node.key)
                case "scalar":
                    value = self.weight(node.key, {"size": layer.hidden_size, "zoneout": layer.zoneout}[node.key])
                case "product":
                    value = self.linear(f"{name}.product", operands[0], Linear(layer.products[node.key[0]], None))
                case "sum":
                    value = self("ReduceSum", operands[0], np.array([-1]))
                case "spread":
                    value = self._spread(operands[0], states[-1], layer)
                case "log1p":
                    value = self._log1p(operands[0])
                case op:
                    value = self(_OPERATORS[op], *operands)
            values[node] = value
        new = []
        for node in equations.new:
            full = any(one.op in ("gate", "state") for one in ancestors([node]))
            new.append(values[node] if full else self._spread(values[node], states[-1], layer))
        if layer.weight_hr is not None:
            new[0] = self.linear(f"{name}.projection", new[0], Linear(layer.weight_hr, None))
        return new

    def _split(self, x: Value, gates: Sequence[str]) -> dict[str, Value]:
        """The parts [N, H] of [N, G H] by the names of the gates."""
        parts = self("Split", x, axis=-1, num_outputs=len(gates), outputs=len(gates)) if len(gates) > 1 else [x]
        return dict(zip(gates, parts, strict=True))

    def _spread(self, x: Value, state: Value, layer: Layer) -> Value:
        """``x`` as [N, H]; N is that of the state."""
        return self("Expand", x, self("Concat", self.size(state, 0), np.array([layer.hidden_size]), axis=0))

    def _log1p(self, x: Value) -> Value:
        """log(1 + x) = x log(u) / (u - 1) with u = 1 + x as rounded (Kahan; Higham 2002, problem 1.5)."""
        u = self("Add", x, 1.0)
        quotient = self("Div", self("Mul", x, self("Log", u)), self("Sub", u, 1.0))
        return self("Where", self("Equal", u, 1.0), x, quotient)

    # --------------------------------------------------------------------------------------------------- attention

    def attend(
        self, query: Value, keys: Value, values: Value, valid: Value, score: np.ndarray | None, scale: float = 1.0
    ) -> Value:
        """Return the mean of the values, weighted by softmax(scores) over the valid rows.

        Args:
            query: [N, T, A]. keys: [N, S, A]. values: [N, S, M]. valid: bool [N, 1, S].
            score: v [A] of scores v^T tanh(q + k); where None, they are q^T k ``scale``.

        Returns:
            [N, T, M], zeros where no row is valid.
        """
        if score is None:
            scores = self("Mul", self("MatMul", query, self("Transpose", keys, perm=[0, 2, 1])), scale)
        else:
            pairs = self("Add", self.unsqueezed(query, 2), self.unsqueezed(keys, 1))
            scores = self("MatMul", self("Tanh", pairs), score)
        lowest = float(np.finfo(self.dtype).min)
        weights = self("Softmax", self("Where", valid, scores, lowest), axis=-1)
        return self("MatMul", self("Where", valid, weights, 0.0), values)


def _has_operator(layer: Layer, dtype: np.dtype) -> bool:
    """Whether ONNX has an operator for the layer: onnxruntime has them in float32 only."""
    name = layer.equations.name
    if name not in _STANDARD or layer.weight_hr is not None or dtype != np.float32:
        return False
    return cells.get(name).equations.resolve(training=False).to_data() == layer.equations.to_data()


def _peepholes(layer: Layer) -> np.ndarray:
    return np.concatenate([layer.vectors[f"p_{gate}"] for gate in "iof"])


def _standard_weights(layer: Layer, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W [G H, I], R [G H, H] and B [2 G H] of a node, the gates in its order."""
    gates, H, G = layer.equations.gates, layer.hidden_size, len(order)
    assert layer.weight_hh is not None
    weight_hh = np.concatenate([layer.weight_hh, *layer.products])
    zeros = np.zeros(G * H, weight_hh.dtype)
    bias_hh = zeros if layer.bias_hh is None else np.concatenate([layer.bias_hh, zeros])[: G * H]

    def sort(array: np.ndarray, names: Sequence[str]) -> np.ndarray:
        parts = dict(zip((name[0] for name in names), np.split(array, G), strict=True))
        return np.concatenate([parts[gate] for gate in order])

    into, back = input_gates(gates), [*recurrent_gates(gates), *("n" for _ in layer.products)]
    bias_ih = zeros if layer.bias_ih is None else layer.bias_ih
    biases = np.concatenate([sort(bias_ih, into), sort(bias_hh, back)])
    return sort(layer.weight_ih, into), sort(weight_hh, back), biases


def _read(node: Any) -> set[Value]:
    """What a node reads, also in graphs of its own."""
    inner = [one for attribute in node.attribute for one in attribute.g.node]
    return set(node.input).union(*map(_read, inner))
