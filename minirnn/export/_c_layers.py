"""Constants, linear and recurrent layers as C: one function per layer, made from the equations of its cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minirnn.cells._text import assignments
from minirnn.errors import OptionError
from minirnn.export.network import Layer, Layers, Linear
from minirnn.kernels.equations import Equations, recurrent_gates
from minirnn.kernels.graph import Node, ancestors

_FUNCTIONS = {
    "sqrt": "sqrtf",
    "log": "logf",
    "log1p": "log1pf",
    "erf": "erff",
    "abs": "fabsf",
}  # others are the header's
_CUTS = ("sum", "product")

Apply = Callable[[str, str], str]
"""From the C expressions of an input (or the number of a row) and an output to a statement."""


class Writer:
    """A program while it is written.

    Attributes:
        int8: matrices are stored as integers.
        defines, constants, code, recorded: its parts, in this order; ``recorded`` is for the test alone.
        fields: of the struct that the caller owns: type and count (0 for none) by name. struct: name of its type.
        flash, ram: bytes of the constants, and of the struct. stack, layer_stack: floats of the local arrays of all
            functions but layers, and of the largest layer; together no less than what is in use at any time.
        max_steps: for which the struct has room. test: the beginning of the program's test of itself.
    """

    def __init__(self, int8: bool) -> None:
        self.int8, self.struct = int8, "model_state"
        self.defines: list[str] = []
        self.constants: list[str] = []
        self.code: list[str] = []
        self.recorded: list[str] = []
        self.fields: dict[str, tuple[str, str]] = {}
        self.test = ""
        self.flash = self.ram = self.stack = self.layer_stack = self.max_steps = 0

    def define(self, name: str, value: int) -> None:
        self.defines.append(f"#define MODEL_{name} {value}")

    def field(self, name: str, size: int, steps: int = 0, kind: str = "float") -> None:
        """Add an array to the struct, of ``size`` numbers for each of ``steps``; with size 0 a single number."""
        self.fields[name] = kind, f"MODEL_MAX_STEPS * {size}" if steps else str(size or "")
        self.ram += 4 * (size or 1) * (steps or 1)

    def array(self, name: str, values: np.ndarray, kind: str = "float", recorded: bool = False) -> str:
        """Write a constant; returns its name.

        Raises:
            OptionError: a number is not finite.
        """
        if not np.isfinite(values).all():
            raise OptionError(f"export to C: {name} holds a number that is not finite in {kind}")
        flat = values.ravel()
        text = list(map(_decimal if values.dtype == np.float32 else repr, flat.tolist())) or ["0"]
        lines = [", ".join(text[at : at + 12]) for at in range(0, len(text), 12)]
        (self.recorded if recorded else self.constants).append(
            f"static const {kind} model_{name}[{len(text)}] = {{\n    " + ",\n    ".join(lines) + "};"
        )
        self.flash += 0 if recorded else max(1, flat.size) * values.itemsize
        return f"model_{name}"

    def vector(self, name: str, values: np.ndarray, recorded: bool = False) -> str:
        """Write a constant of floats."""
        with np.errstate(over="ignore"):
            return self.array(name, values.astype(np.float32), recorded=recorded)

    def _quantized(self, name: str, weight: np.ndarray, transposed: bool) -> str:
        """Write a matrix; returns the first arguments of the functions that read it."""
        if not self.int8:
            return self.vector(name, weight.T if transposed else weight)
        from minirnn.kernels.rounding import quantize_rows  # loads Numba

        rounded, scale = quantize_rows(weight)
        factors = self.vector(f"{name}_scale", scale)  # refuses what is not finite
        return f"{self.array(name, rounded.T if transposed else rounded, 'int8_t')}, {factors}"

    def matrix(self, name: str, weight: np.ndarray) -> Apply:
        """Write W [O, I]; the statement adds W x to y."""
        arguments, (rows, columns), suffix = self._quantized(name, weight, True), weight.shape, "8" * self.int8
        return lambda x, y: f"model_add{suffix}({arguments}, {x}, {y}, {rows}, {columns});"

    def table(self, name: str, weight: np.ndarray) -> Apply:
        """Write rows [V, E]; the statement adds one of them to y."""
        arguments, columns, suffix = self._quantized(name, weight, False), weight.shape[1], "8" * self.int8
        return lambda row, y: f"model_row{suffix}({arguments}, {row}, {y}, {columns});"

    def linear(self, name: str, part: Linear) -> Apply:
        """Write a linear layer; the statement sets y to W x + b."""
        add = self.matrix(name, part.weight)
        size = f"{len(part.weight)} * sizeof(float)"
        begin = "memset({y}, 0, " if part.bias is None else f"memcpy({{y}}, {self.vector(f'{name}_bias', part.bias)}, "
        return lambda x, y: f"{begin.format(y=y)}{size}); {add(x, y)}"

    def write(self, text: str, local: int = 0) -> None:
        """Write functions with ``local`` floats of local arrays; lines without text are left out."""
        self.code.append("\n".join(line for line in text.splitlines() if line.strip()))
        self.stack += local

    def function(self, head: str, lines: Iterable[str], local: int = 0) -> None:
        """Write one function, given line by line."""
        self.write("\n".join([f"static inline {head} {{", *(f"    {line}" for line in lines), "}"]), local)

    # ---------------------------------------------------------------------------------------- recurrent layers

    def layer(self, name: str, layer: Layer, embedding: np.ndarray | None = None, folds: bool = False) -> None:
        """Write ``model_NAME(x, s)``, one step of a layer whose states stand in ``s``, h first.

        Args:
            embedding: x is the number of one of these rows; with ``folds`` they are stored times ``weight_ih``.
        """
        equations, size = layer.equations, layer.hidden_size
        gates = sorted(equations.gates, key=lambda gate: (not gate.endswith("_x"), gate.endswith("_h")))
        inputs, recurrent = (tuple(g for g in gates if not g.endswith(end)) for end in ("_h", "_x"))
        first_recurrent = (len(gates) - len(recurrent)) * size
        bias, source = np.zeros((len(gates) * size, 1)), f"{name}_"
        weight_ih = _pick(layer.weight_ih, equations.input_gates, inputs)
        if layer.bias_ih is not None:
            bias[: len(weight_ih)] += _pick(layer.bias_ih, equations.input_gates, inputs)
        if layer.bias_hh is not None:
            bias[first_recurrent:] += _pick(layer.bias_hh, recurrent_gates(equations.gates), recurrent)
        lines = [f"float g[{len(bias)}];", "int i;"]
        steps = [f"memcpy(g, {self.vector(source + 'bias', bias)}, sizeof g);"]
        local = len(bias)
        if embedding is not None and folds:
            steps.append(self.table(source + "ih", embedding.astype(np.float64) @ weight_ih.T)("token", "g"))
        elif embedding is not None:
            lines.append(f"float x[{embedding.shape[1]}] = {{0.0f}};")
            local += embedding.shape[1]
            steps.append(self.table(source + "embedding", embedding)("token", "x"))
        if not folds:
            steps.append(self.matrix(source + "ih", weight_ih)("x", "g"))
        if layer.weight_hh is not None:
            weight_hh = _pick(layer.weight_hh, recurrent_gates(equations.gates), recurrent)
            steps.append(self.matrix(source + "hh", weight_hh)("s", f"g + {first_recurrent}"))
        begin, body, used = self._equations(source, layer, gates)
        declared = "const float *x" if embedding is None else "int token"
        head = f"void model_{name}({declared}, float *MODEL_RESTRICT s)"
        self.function(head, [*lines, *begin, *steps, *body])
        self.layer_stack = max(self.layer_stack, local + used)

    def _equations(self, name: str, layer: Layer, gates: Sequence[str]) -> tuple[list[str], list[str], int]:
        """Declarations, statements and floats of arrays that compute the new states from ``g`` and ``s``."""
        equations, size = layer.equations, layer.hidden_size
        width = size if layer.weight_hr is None else len(layer.weight_hr)
        phases, level = _phases(equations)
        vectors = {key: self.vector(name + f"v{n}", values) for n, (key, values) in enumerate(layer.vectors.items())}
        products = [self.matrix(name + f"product{n}", weight) for n, weight in enumerate(layer.products)]
        states = [f"s[{f'{width + (n - 1) * size} + ' if n else ''}i]" for n in range(len(equations.states))]
        if layer.weight_hr is not None:
            states[0] = "hidden[i]"
        project = None if layer.weight_hr is None else self.matrix(name + "hr", layer.weight_hr)

        def atom(node: Node, operands: list[str]) -> str:
            match node.op:
                case "gate":
                    return f"g[{gates.index(node.key) * size} + i]"
                case "state":
                    return states[equations.states.index(node.key)]
                case "vector":
                    return f"{vectors[node.key]}[i]"
                case "constant":
                    return _literal(node.key)
                case "scalar":
                    return _literal({"size": size, "zoneout": layer.zoneout}[node.key])
                case "spread":
                    return operands[0]
                case "where":
                    return f"({operands[0]} ? {operands[1]} : {operands[2]})"
                case "relu":
                    return f"model_maximum({operands[0]}, 0.0f)"
            return f"{_FUNCTIONS.get(node.op, f'model_{node.op}')}({', '.join(operands)})"

        names: dict[Node, str] = {}
        begin, lines, arrays = [], [], 1 if project else 0
        for number, (computed, kept) in enumerate(phases):
            ended = {op: [n for n in level if n.op == op and level[n] == number + 1] for op in _CUTS}
            scalars = {f"r{node.number}": node for node in computed if node.per_row}
            for target, node, text in assignments(scalars, names, (), atom):
                lines.append(f"const float {target} = {text};")
                names[node] = target
            targets = {f"a{node.number}": node.operands[0] for op in _CUTS for node in ended[op]}
            targets |= {f"k{node.number}": node for node in kept}
            if number == len(phases) - 1:
                targets |= {f"n{index}": node for index, node in enumerate(equations.new)}
            begin += [f"float s{node.number} = 0.0f;" for node in ended["sum"]]
            stored = [f"in{node.number}[i] = a{node.number};" for node in ended["product"]]
            stored += [f"b{node.number}[i] = k{node.number};" for node in kept]
            stored += [f"s{node.number} += a{node.number};" for node in ended["sum"]]
            stored += [f"{state} = n{index};" for index, state in enumerate(states) if f"n{index}" in targets]
            body = [f"const float {target} = {text};" for target, _, text in assignments(targets, names, (), atom)]
            lines += [f"for (i = 0; i < {size}; i++) {{", *(f"    {line}" for line in [*body, *stored]), "}"]
            for node in ended["product"]:
                result = f"out{node.number}"
                lines += [f"memset({result}, 0, sizeof {result});", products[node.key[0]](f"in{node.number}", result)]
            used = [*(f"{kind}{node.number}" for node in ended["product"] for kind in ("in", "out"))]
            used += [f"b{node.number}" for node in kept]
            begin += [f"float {buffer}[{size}];" for buffer in used]
            arrays += len(used)
            names |= {node: f"s{node.number}" for node in ended["sum"]}
            names |= {node: f"out{node.number}[i]" for node in ended["product"]}
            names |= {node: f"b{node.number}[i]" for node in kept}
        if project:
            begin.append(f"float hidden[{size}];")
            lines += [f"memset(s, 0, {width} * sizeof(float));", project("hidden", "s")]
        return begin, lines, arrays * size

    def layers(self, name: str, layers: Layers) -> list[list[int]]:
        """Write all layers as functions ``model_NAME_K_D``; returns where the states of each begin."""
        table, folds = layers.embedding, False
        if table is not None:
            gates, directions = len(layers.layers[0][0].weight_ih), len(layers.layers[0])
            folds = len(table) * gates * directions <= table.size + gates * table.shape[1] * directions
        starts: list[list[int]] = []
        size = 0
        for number, row in enumerate(layers.layers):
            starts.append([])
            for direction, layer in enumerate(row):
                self.layer(f"{name}_{number}_{direction}", layer, None if number else table, folds and not number)
                starts[-1].append(size)
                size += state_size(layer)
        return starts

    def stack_step(self, name: str, layers: Layers) -> list[list[int]]:
        """Write ``model_NAME(x, s, y)``, one step of layers of one direction; ``y`` has room for the widest."""
        starts, lines = self.layers(name, layers), []
        given, declared = ("x", "const float *x") if layers.embedding is None else ("token", "int token")
        for number, ((layer,), (start,)) in enumerate(zip(layers.layers, starts, strict=True)):
            lines.append(f"model_{name}_{number}_0({'y' if number else given}, s + {start});")
            if layers.residual and number:
                lines.append(f"for (i = 0; i < {width(layer)}; i++) y[i] += s[{start} + i];")
            else:
                lines.append(f"memcpy(y, s + {start}, {width(layer)} * sizeof(float));")
        begin = ["int i;"] if layers.residual and len(starts) > 1 else []
        self.function(f"void model_{name}({declared}, float *s, float *y)", begin + lines)
        return starts

    def stack_run(self, name: str, layers: Layers, source: str = "") -> tuple[list[list[int]], str]:
        """Write ``model_NAME(w, x, length)``: layers over a whole sequence, of each direction one after the other.

        States stand in the field NAME of the workspace ``w``, outputs [T, W] in turn in its fields ``a`` and ``b``.

        Args:
            source: the field in which the input stands already; then there is no ``x``.

        Returns:
            Where the states begin, and the field with the outputs of the top layer.
        """
        starts, tokens = self.layers(name, layers), layers.embedding is not None
        lines, below, size = [f"float *s = w->{name};", "int t, i;"], "x", layers.input_size
        if source:
            lines.append(f"const float *x = w->{source};")
        out = "a"
        for number, row in enumerate(layers.layers):
            out, total = "ab"[number % 2], sum(map(width, row))
            at = 0
            for direction, layer in enumerate(row):
                start = starts[number][direction]
                given = "x[t]" if tokens and not number else f"{below} + t * {size}"
                loop = "t = length - 1; t >= 0; t--" if layer.reverse else "t = 0; t < length; t++"
                lines += [f"memset(s + {start}, 0, {state_size(layer)} * sizeof(float));", f"for ({loop}) {{"]
                lines.append(f"    model_{name}_{number}_{direction}({given}, s + {start});")
                copy = f"memcpy(w->{out} + t * {total} + {at}, s + {start}, {width(layer)} * sizeof(float));"
                lines += [f"    {copy}", "}"]
                at += width(layer)
            if layers.residual and number:
                lines.append(f"for (i = 0; i < length * {total}; i++) w->{out}[i] += {below}[i];")
            below, size = f"w->{out}", total
        if layers.bidirectional and layers.merge != "concat":
            half = size // 2
            text = merged(layers.merge, f"w->{out}[t * {size} + i]", f"w->{out}[t * {size} + {half} + i]")
            each = f"for (i = 0; i < {half}; i++) w->{out}[t * {half} + i] = {text};"
            lines += ["for (t = 0; t < length; t++)", f"    {each}"]
        lines.append("(void)i;")
        declared = "" if source else f"const {'int' if tokens else 'float'} *x, "
        self.function(f"void model_{name}(model_workspace *w, {declared}int length)", lines)
        return starts, out


def width(layer: Layer) -> int:
    """Numbers in the output h of a layer."""
    return layer.hidden_size if layer.weight_hr is None else len(layer.weight_hr)


def state_size(layer: Layer) -> int:
    """Numbers in all states of a layer."""
    return width(layer) + (len(layer.equations.states) - 1) * layer.hidden_size


def total_state(layers: Layers) -> int:
    return sum(state_size(layer) for row in layers.layers for layer in row)


def output_size(layers: Layers) -> int:
    """Numbers in the merged outputs of the top layer."""
    total = sum(map(width, layers.layers[-1]))
    return total // 2 if layers.bidirectional and layers.merge != "concat" else total


def merged(merge: str, a: str, b: str) -> str:
    """How two directions become one, as an expression."""
    return {"sum": f"{a} + {b}", "mul": f"{a} * {b}", "ave": f"0.5f * ({a} + {b})"}[merge]


def _pick(array: np.ndarray, names: Sequence[str], order: Sequence[str]) -> np.ndarray:
    """The rows [G H, ...] of gates ``names`` in another order, in float64."""
    rows = array.astype(np.float64).reshape(len(names), -1, array.shape[1] if array.ndim > 1 else 1)
    return rows[[names.index(name) for name in order]].reshape(-1, rows.shape[2])


def _literal(value: float) -> str:
    """A constant of C.

    Raises:
        OptionError: it is not finite as a float.
    """
    if abs(value) > float(np.finfo(np.float32).max):
        raise OptionError(f"export to C: a constant of the cell, {value:g}, is not finite as a float")
    return _decimal(value)


def _decimal(value: float) -> str:
    """A float as a constant of C, with the nine digits that tell every float from its neighbours."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _phases(equations: Equations) -> tuple[list[tuple[list[Node], list[Node]]], dict[Node, int]]:
    """Divide a step into loops over the units: a sum, or a product, is complete only after the loop of its operand.

    Returns:
        For each loop the nodes that are computed in it, as late as possible, and those of them that later loops need;
        and the first loop that can use each node.
    """
    nodes = ancestors(equations.new)
    level: dict[Node, int] = {}
    for node in nodes:
        level[node] = max([level[operand] for operand in node.operands], default=0) + (node.op in _CUTS)
    last = max(level.values())
    phase = dict.fromkeys(equations.new, last)
    needed = dict.fromkeys(equations.new, last)
    for node in reversed(nodes):
        here = level[node] - 1 if node.op in _CUTS else phase[node]
        for operand in node.operands:
            phase[operand] = min(phase.get(operand, last), here)
            needed[operand] = max(needed.get(operand, 0), here)
    inner = [node for node in nodes if node.operands and node.op not in _CUTS]
    phases = []
    for number in range(last + 1):
        computed = [node for node in inner if phase[node] == number]
        phases.append((computed, [node for node in computed if needed[node] > number and not node.per_row]))
    return phases, level
