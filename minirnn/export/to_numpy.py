"""A model as one file of Python: its cell, its layers and its task as functions on NumPy arrays, its weights."""

from __future__ import annotations

import ast
import base64
import importlib
import inspect
import keyword
import pprint
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from minirnn.cells._text import assignments
from minirnn.data.vocabulary import SPECIALS
from minirnn.data.windows import Preprocessor
from minirnn.errors import OptionError
from minirnn.export.network import Layer, Layers, Network
from minirnn.export.record import Record
from minirnn.kernels.graph import Node, ancestors
from minirnn.tasks import TASKS
from minirnn.tasks.tagger import MAX_WORD_LENGTH

_PARTS = "minirnn.export.numpy_program"
_MODELS = {"char_lm": "many_to_many", "tagger": "tagger_model"}
_TASKS = {"music": "composer"}
_MODEL_ONLY = {"speech", "words"}  # tasks whose programs are that of their models: features or tokens to logits
_CLASSES = {"CharLm": "CharLM", "Tagger": "TaggerModel"}
_BOUNDS = {"float32": 1e-5, "float64": 1e-10}
_COLUMNS = 110
_USES = {
    "char": ('sample("The ", 200, seed=1)', "logits, state = step(token, state)"),
    "classifier": ('predict("a text")',),
    "tagger": ('predict("words with spaces between them")',),
    "translator": ('translate("a sentence")',),
    "forecaster": ("predict(rows)",),
    "series": ("predict(rows)",),
    "music": ("sample([[60, 64, 67]], 32, seed=1)", "predict([[60, 64, 67]])"),
    "encoder_decoder": ("greedy(source)",),
    "tagger_model": ("run(words, spellings)",),
    "one_to_many": ("run(first, length)",),
}
"""How the functions of a program are called, by task or by kind of model."""

_FUNCTIONS = {"tanh": "np.tanh", "exp": "np.exp", "log": "np.log", "log1p": "np.log1p", "sqrt": "np.sqrt"}
_FUNCTIONS |= {"abs": "np.abs", "minimum": "np.minimum", "maximum": "np.maximum", "where": "np.where", "sum": "np.sum"}
_RESERVED = {"np", "w", "x", "state", "recurrent", "sigmoid", "erf"}

# ---------------------------------------------------------------------------------------------------- functions


def _is_kept(line: str, features: set[str]) -> tuple[bool, str]:
    """Whether a line belongs to a program with these features, and the line without its mark."""
    mark = re.search(r"  # (if|unless) ([\w ]+)$", line)
    if mark is None:
        return True, line
    return bool(features & {*mark[2].split()}) == (mark[1] == "if"), line[: mark.start()]


class _Parts:
    """Definitions and imports of the modules that a program is made of.

    Attributes:
        sources: text of each definition, by name. uses: names that stand in it. imports: the line of each name.
        roots: functions that are there for the person who uses the program.
    """

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self.uses: dict[str, set[str]] = {}
        self.imports: dict[str, str] = {}
        self.roots: list[str] = []

    def read(self, module: str, public: bool, features: set[str]) -> None:
        """Add what a module has for a program with these features; ``public``: all its functions are roots."""
        text = inspect.getsource(importlib.import_module(f"{_PARTS}.{module}"))
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._read_imports(node)
            elif isinstance(node, (ast.FunctionDef, ast.Assign)):
                first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
                own = [_is_kept(line, features) for line in lines[first - 1 : node.end_lineno]]
                if own[node.lineno - first][0]:
                    self.add("\n".join(line for kept, line in own if kept), public)

    def _read_imports(self, node: ast.Import | ast.ImportFrom) -> None:
        start = "import " if isinstance(node, ast.Import) else f"from {node.module} import "
        if not start.startswith(("from minirnn", "from __future__")):
            self.imports |= {one.asname or one.name: start + ast.unparse(one) for one in node.names}

    def add(self, source: str, public: bool = False) -> None:
        """Add a definition, in place of an earlier one of its name."""
        (node,) = ast.parse(source).body
        names = [node.name] if isinstance(node, ast.FunctionDef) else []
        self.roots += names if public else []
        if isinstance(node, ast.Assign):
            names = [one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        for name in names:
            self.sources.pop(name, None)
            self.sources[name] = source
            self.uses[name] = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}

    def program(self) -> str:
        """Imports and definitions that the roots need, in the order in which they were added."""
        waiting, found = self.roots.copy(), set[str]()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.uses.get(name, ())
        sources = list(dict.fromkeys(source for name, source in self.sources.items() if name in found))
        return "\n\n\n".join(
            ["\n".join(_imports(line for name, line in self.imports.items() if name in found)), *sources]
        )


def _imports(lines: Iterable[str]) -> list[str]:
    """Import statements in their usual order; names from one module on one line."""
    modules: dict[str, list[str]] = {}
    for line in sorted({*lines, "import base64", "import math", "import sys"} - {"import numpy as np"}):
        start, _, name = line.rpartition(" import ") if line.startswith("from") else (line, "", "")
        modules.setdefault(start, []).extend([name] if name else [])
    own = [f"{start} import {', '.join(names)}" if names else start for start, names in modules.items()]
    return [*sorted(own, key=lambda line: line.startswith("from")), "", "import numpy as np"]


# -------------------------------------------------------------------------------------------------------- cells


def _unique(name: str, taken: set[str]) -> str:
    """The name as Python reads it, with _ at its end where it is a keyword or taken; it is taken from then on."""
    name = unicodedata.normalize("NFKC", name)
    while name in taken or keyword.iskeyword(name):
        name += "_"
    taken.add(name)
    return name


def _atom(layer: Layer, h: str, node: Node, operands: list[str]) -> str:
    """A leaf or a function of a cell's graph in NumPy."""
    match node.op:
        case "constant":
            return repr(int(node.key) if float(node.key).is_integer() else node.key)
        case "scalar":
            return f"{h}.size" if node.key == "size" else repr(layer.zoneout)
        case "product":
            return f'(w["weight_product{node.key[0]}"] @ {operands[0]})'
        case "spread":
            return f"np.full_like({h}, {operands[0]})"
        case "relu":
            return f"np.maximum({operands[0]}, 0)"
        case "softplus":
            return f"np.logaddexp(0, {operands[0]})"
    return f"{_FUNCTIONS.get(node.op, node.op)}({', '.join(operands)})"


def _unpacked(names: list[str], value: str) -> str:
    """``a, b = (value).reshape(2, -1)``; or the value itself for one name."""
    if len(names) == 1:
        return f"{names[0]} = {value}"
    return f"{', '.join(names)} = {f'({value})' if ' ' in value else value}.reshape({len(names)}, -1)"


def _tuple(names: Iterable[str]) -> str:
    """Names with commas between them; one as a tuple."""
    text = ", ".join(names)
    return text if "," in text else f"({text},)"


def _gates(layer: Layer, names: dict[str, str], h: str) -> Iterator[str]:
    """The lines that compute the gates."""
    e, recurrent = layer.equations, f'w["weight_hh"] @ {h} + w["bias_hh"]'
    inputs, gates = [names[gate] for gate in e.input_gates], [gate for gate in e.gates if not gate.endswith("_x")]
    if e.input_gates == e.gates == tuple(gates):
        yield _unpacked(inputs, f"x + {recurrent}")
        return
    yield _unpacked(inputs, "x")
    if gates and len(gates) == len(e.separate_gates):
        yield _unpacked([names[gate] for gate in gates], recurrent)
    elif gates:
        yield f"recurrent = ({recurrent}).reshape({len(gates)}, -1)"
        values = [f"{'' if g.endswith('_h') else names[g] + ' + '}recurrent[{n}]" for n, g in enumerate(gates)]
        yield f"{', '.join(names[gate] for gate in gates)} = {', '.join(values)}"


def _cell(layer: Layer, function: str) -> str:
    """The source of a function that computes one step."""
    e, taken = layer.equations, set(_RESERVED)
    names = {part: _unique(part, taken) for part in (*e.states, *e.gates, *e.vectors)}
    new = {state: _unique(f"new_{state}", taken) for state in e.states}
    h = names[e.states[0]]
    lines = [f"{_tuple(names[state] for state in e.states)} = state", *_gates(layer, names, h)]
    if e.vectors:
        lines.append(f'{_tuple(names[vector] for vector in e.vectors)} = w["vectors"].values()')
    targets = {new[state]: node for state, node in zip(e.states, e.new, strict=True)}
    given = {node: names[node.key] for node in ancestors(e.new) if node.op in ("gate", "state", "vector")}
    lines += [f"{name} = {text}" for name, _, text in assignments(targets, given, taken, partial(_atom, layer, h))]
    if layer.weight_hr is not None:
        lines.append(f'{new[e.states[0]]} = w["weight_hr"] @ {new[e.states[0]]}')
    lines.append(f"return {_tuple(new.values())}")
    about = f"One step of the cell {e.name}: from x = W_ih x_t + b_ih and the old {', '.join(e.states)} to the new."
    body = "\n".join(f"    {line}" for line in [f'"""{about}"""', *map(_wrapped, lines)])
    arguments = "w: dict[str, Any], x: np.ndarray, state: tuple[np.ndarray, ...]"
    return f"def {function}({arguments}) -> tuple[np.ndarray, ...]:\n{body}"


def _wrapped(line: str) -> str:
    """A long assignment in parentheses over several lines."""
    if len(line) <= _COLUMNS:
        return line
    name, value = line.split(" = ", 1)
    return "\n".join([f"{name} = (", *(f"        {part}" for part in textwrap.wrap(value, _COLUMNS)), "    )"])


# --------------------------------------------------------------------------------------------------------- data


def _features(network: Network) -> set[str]:
    """What decides which lines and functions of the parts a program gets."""
    main, options = network.layers.get("rnn", network.layers.get("encoder")), network.options
    found = {network.attention or "", options.get("activation", ""), options.get("condition", "")}
    found |= {"end"} if options.get("end") is not None else set()
    if network.task is None:
        found.add("bare")
    if any(layers.bidirectional for layers in network.layers.values()):
        found.add("two_way")
    if main is not None:
        found |= {"tokens"} if main.embedding is not None else set()
        found |= {"bidirectional", "bridge"} if main.bidirectional else set()
        found |= {"residual"} if main.residual else set()
        found |= {"merge", main.merge} if main.bidirectional and main.merge != "concat" else set()
    if options.get("pooling") == "last":
        assert main is not None
        sizes = {layer.hidden_size for row in main.layers for layer in row}
        one_way = "last" if len(sizes) == 1 else "last_row"
        found.add("merged_last" if "merge" in found else "last_of_both" if "bidirectional" in found else one_way)
        found.discard("merge")
    elif "pooling" in options:
        found.add(options["pooling"])
    task = network.task or {}
    if "tokenizer" in task:
        found |= {task["tokenizer"]["rule"], "lower" if task["tokenizer"]["lower"] else ""}
    if "symbols" in task:
        found.add(task["symbols"]["kind"])
    if "series" in task:
        base = task["series"]["base"]
        found |= {"last_value" if base == "last" else base, "log" if task["series"]["log"] else ""}
        found.add("quantiles" if "quantiles" in task["series"] else "")
    if "preprocessor" in task:
        made = task["preprocessor"]
        found |= {"missing" if made["missing"] else "", "steps" if made["every_step"] else "whole"}
        found.add("classes" if made["kind"] == "class" else "numbers")
    return found


def _modules(network: Network, features: set[str]) -> dict[str, bool]:
    """The modules that a program is made of, in its order, and whether they are there for the person who uses it."""
    task = network.task and _TASKS.get(network.task["task"], network.task["task"])
    model = _MODELS.get(network.kind, network.kind)
    found = {"layers": False, "one_way": False}
    found |= {"many_to_many": False} if model in ("many_to_one", "one_to_many") else {}
    found[model] = True
    found |= {"text": False} if features & {"word", "char", "space"} else {}
    return found | ({task: True} if task else {}) | {"self_test": True}


def _value(value: Any) -> str:
    """A value as Python reads it; repr writes any string so that it is one."""
    return pprint.pformat(value, width=_COLUMNS, compact=True, sort_dicts=False)


def _numbers(vocabulary: dict[str, Any]) -> str:
    tokens = _value(vocabulary["tokens"])
    return f"{{token: number for number, token in enumerate({tokens}, {len(SPECIALS)})}}"


def _constants(task: dict[str, Any]) -> dict[str, str]:
    """What a task has besides its model, under the names that its functions use."""
    values: dict[str, Any] = {}
    numbers: dict[str, str] = {}
    match task["task"]:
        case "char" if task["symbols"]["kind"] == "characters":
            values = {"CHARACTERS": task["symbols"]["characters"]}
            numbers = {"NUMBERS": "{character: number for number, character in enumerate(CHARACTERS)}"}
        case "classifier":
            values = {"LABELS": task["labels"]["names"], "MAX_LENGTH": task["max_length"]}
            numbers = {"NUMBERS": _numbers(task["vocabulary"])}
        case "tagger":
            values = {"LABELS": task["labels"]["names"], "MAX_WORD_LENGTH": MAX_WORD_LENGTH}
            numbers = {"NUMBERS": _numbers(task["words"]), "CHARACTER_NUMBERS": _numbers(task["characters"])}
        case "translator":
            values = {"TOKENS": [*SPECIALS, *task["target"]["tokens"]]}
            numbers = {"SOURCE_NUMBERS": _numbers(task["source"])}
        case "forecaster":
            series = task["series"]
            if "future" in series or "id" in series:
                raise OptionError("export: numpy has no forecasters with future or id; expected onnx")
            values = {"COLUMNS": [series["column"], *series["inputs"]], "MEAN": series["scaler"]["mean"]}
            values |= {"STD": series["scaler"]["std"], "SPREAD": series["spread"]}
            values |= {name.upper(): series[name] for name in ("seq_length", "horizon", "season")}
            values["FIRST_ROW"] = Preprocessor.from_config(series).first_row
        case "series":
            made = task["preprocessor"]
            values = {"COLUMNS": made["names"], "MEAN": made["scaler"]["mean"], "STD": made["scaler"]["std"]}
            values |= {f"TARGET_{name.upper()}": made["target_scaler"][name][0] for name in ("mean", "std")}
            values |= {"LABELS": task["labels"]["names"]} if "labels" in task else {}
        case "music":
            values = {"STARTS": task["starts"], "SHAPES": task["chords"]["shapes"]}
            values["FREQUENCY"] = task["chords"]["frequency"]
    return {name: _value(value) for name, value in values.items()} | numbers


def _weights(network: Network) -> dict[str, np.ndarray]:
    """Every weight by its path in WEIGHTS; biases that a model does not have are zeros."""
    found: dict[str, np.ndarray] = {}
    for name, layers in network.layers.items():
        for number, row in enumerate(layers.layers):
            for layer in row:
                found |= _layer_weights(layer, f"layers.{name}.{number}.{'reverse' if layer.reverse else 'forward'}.")
        if layers.embedding is not None and not _is_one_hot(layers):
            found[f"embedding.{name}"] = layers.embedding
    if network.embedding is not None:
        found["embedding.words"] = network.embedding
    for name, linear in network.linear.items():
        path = f"linear.{_bridge(network, name) if name.startswith('bridge') else name}"
        found[f"{path}.weight"] = linear.weight
        found[f"{path}.bias"] = np.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias
    return found


def _bridge(network: Network, name: str) -> str:
    """The name of a linear layer between encoder and decoder, numbered by states, by its layer and its state."""
    layers = network.layers["decoder"].layers
    state, layer = divmod(int(name.removeprefix("bridge")), len(layers))
    return f"bridge_{layer}_{layers[0][0].equations.states.index('c') if state else 0}"


def _layer_weights(layer: Layer, path: str) -> dict[str, np.ndarray]:
    found = {name: getattr(layer, name) for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh", "weight_hr")}
    for side in ("ih", "hh"):
        weight, bias = found[f"weight_{side}"], found[f"bias_{side}"]
        if weight is not None and bias is None:
            found[f"bias_{side}"] = np.zeros_like(weight[:, 0])
    found |= {f"weight_product{number}": product for number, product in enumerate(layer.products)}
    found |= {f"vectors.{name}": vector for name, vector in layer.vectors.items()}
    return {path + name: array for name, array in found.items() if array is not None}


def _is_one_hot(layers: Layers) -> bool:
    table = layers.embedding
    return table is not None and len(table) == table.shape[1] and np.array_equal(table, np.eye(len(table)))


def _sizes(layers: Layers) -> list[list[int]]:
    """The sizes of the states of every layer and direction."""
    return [
        [layer.hidden_size if layer.weight_hr is None else len(layer.weight_hr)]
        + [layer.hidden_size] * (len(layer.equations.states) - 1)
        for row in layers.layers
        for layer in row
    ]


_UNPACK = '''\
def unpack(data: bytes) -> dict[str, Any]:
    """The arrays of TABLE, a dotted name as a path in nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, (dtype, shape, start) in TABLE.items():
        *path, last = name.split(".")
        part = tree
        for key in path:
            part = part.setdefault(key, {})
        part[last] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
    return tree'''

_MAIN = """\
if __name__ == "__main__":
    passed = self_test()
    print(example())
    sys.exit(not passed)
"""


def _data(found: dict[str, np.ndarray]) -> str:
    """TABLE and DATA: dtype, shape and first byte of every array; and the bytes."""
    table, data = [], bytearray()
    for name, array in found.items():
        packed = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        table.append(f'    "{name}": ("{packed.dtype.str}", {packed.shape}, {len(data)}),\n')
        data += packed.tobytes()
    lines = base64.encodebytes(bytes(data)).decode()
    return (
        f'TABLE = {{  # name: dtype, shape, first byte\n{"".join(table)}}}\nDATA = base64.b64decode("""\n{lines}""")\n'
    )


def _about(network: Network, name: str) -> str:
    """The text that a program begins with."""
    task = network.task and network.task["task"]
    kind = network.kind.replace("_", " ").title().replace(" ", "")
    title = TASKS[task].description if task else f"the model {_CLASSES.get(kind, kind)}"
    sizes = [f"{one[0][0].equations.name} {len(one)}x{one[0][0].hidden_size}" for one in
             (layers.layers for layers in network.layers.values())]  # fmt: skip
    facts = ", ".join([*sizes, f"{network.num_parameters:,} parameters"])
    module = name if name.isascii() and name.isidentifier() and not keyword.iskeyword(name) else "model"
    uses = _USES.get(task or network.kind, ("run(x)",))
    lines = [
        f"{title[0].upper()}{title[1:]} ({facts}), as a program.",
        "",
        "Written by minirnn; needs NumPy alone.",
        "",
        f"    python {module}.py    # computes recorded outputs again and compares; shows an example",
        "",
        f"    import {module}",
        *(f"    {module}.{use}" for use in uses),
    ]
    return "\n".join(lines)


def program(network: Network, record: Record, name: str = "model") -> bytes:
    """Return the text of a Python module that computes what the network does, with NumPy alone.

    Only what this model needs is in it: the equations of its cell, its layers, its task, and at the end its vocabulary
    and its weights. Run as a program it computes the recorded outputs again and compares; the exit code is 1 if the
    largest difference, relative to outputs above 1, exceeds 1e-5 (float32) or 1e-10 (float64).

    Args:
        network, record: a model as data, and its outputs for some input.
        name: of the module, in its own documentation.
    """
    if network.task and network.task["task"] in _MODEL_ONLY:
        network = replace(network, task=None)
    features, parts, cells = _features(network), _Parts(), dict[str, str]()
    functions: dict[tuple[Any, float], str] = {}
    for key, layers in network.layers.items():
        layer = layers.layers[0][0]
        cell, taken = (layer.equations, layer.zoneout), set(functions.values())
        if cell not in functions:
            functions[cell] = _unique(f"{layer.equations.name}_cell", taken)
            parts.add(_cell(layer, functions[cell]), public=True)
        cells[key] = functions[cell]
    for module, public in _modules(network, features).items():
        parts.read(module, public, features)
    parts.add(_UNPACK, public=True)
    weights = _weights(network)
    dtype = next(iter(weights.values())).dtype.name
    constants = {"DTYPE": repr(dtype), "BOUND": repr(_BOUNDS[dtype])}
    if cells:
        constants["CELLS"] = f"{{{', '.join(f'{key!r}: {function}' for key, function in cells.items())}}}"
        constants["SIZES"] = _value({key: _sizes(layers) for key, layers in network.layers.items()})
    constants |= {"END": repr(network.options["end"])} if "end" in features else {}
    constants |= _constants(network.task) if network.task else {}
    text = [f'"""{_about(network, name)}\n"""', "", "from __future__ import annotations", "", parts.program(), "", ""]
    text += ["# The sizes, the vocabulary and the weights of this model.", ""]
    text += [*(f"{name} = {value}" for name, value in constants.items()), ""]
    text += [_data(weights | {f"record.{key}": array for key, array in record.items()}), ""]
    text += ["WEIGHTS = unpack(DATA)", 'RECORD = WEIGHTS.pop("record")']
    for key, layers in network.layers.items():
        if _is_one_hot(layers):
            size = layers.input_size
            text.append(f'WEIGHTS.setdefault("embedding", {{}})["{key}"] = np.eye({size}, dtype=DTYPE)  # one-hot')
    return "\n".join([*text, "", "", _MAIN]).encode()
