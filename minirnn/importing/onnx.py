"""ONNX files: their nodes LSTM, GRU and RNN, linear layers and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minirnn.errors import CheckpointError, OptionError
from minirnn.importing.parts import Arrays, Part, reorder

_ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where minirnn's gates i, f, g, o and r, z, n are among ONNX's i, o, f, c and z, r, h."""
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def read(path: Path) -> list[Part]:
    """Return the layers of a file, in the order of its nodes.

    Raises:
        CheckpointError: it is damaged, or computes what no cell of minirnn does. OptionError: onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise OptionError(f"{path}: reading .onnx needs the package onnx: pip install 'minirnn[onnx]'") from None
    try:
        return _parts(onnx, onnx.load_model(str(path), load_external_data=False).graph)
    except CheckpointError:
        raise
    except (DecodeError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise CheckpointError(f"it is damaged, or no ONNX file: {error}") from None


def _parts(onnx: Any, graph: Any) -> list[Part]:
    """The layers of a graph."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t

    def array(name: str) -> np.ndarray | None:
        """A stored array, None where it is computed or left out."""
        if name not in stored:
            return None
        if stored[name].data_location == onnx.TensorProto.EXTERNAL:
            raise CheckpointError(f"{name} is in another file; save the model as a single file")
        return onnx.numpy_helper.to_array(stored[name])

    parts: list[Part] = []
    products: dict[str, Arrays] = {}
    for node in graph.node:
        inputs = [array(name) for name in node.input] + [None] * 8  # those that are left out
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type in _ORDERS:
            parts.append(_recurrent(node, inputs, options))
        elif node.op_type in ("Gemm", "MatMul") and (weight := inputs[1]) is not None and weight.ndim == 2:
            arrays = {"weight": weight if options.get("transB") else weight.T}
            if inputs[2] is not None:
                arrays["bias"] = inputs[2]
            products[node.output[0]] = arrays
            parts.append(Part(node.name or node.output[0], "linear", [arrays]))
        elif node.op_type == "Add":
            for result, bias in zip(node.input, inputs[1::-1], strict=True):
                if result in products and bias is not None and bias.shape == products[result]["weight"].shape[:1]:
                    products[result]["bias"] = bias
        elif node.op_type == "Gather" and (table := inputs[0]) is not None and table.ndim == 2:
            parts.append(Part(node.name or node.output[0], "embedding", [{"weight": table}]))
    if not parts:
        raise CheckpointError("it has no LSTM, GRU or RNN, no linear layer and no embedding")
    return parts


def _recurrent(node: Any, inputs: list[np.ndarray | None], options: dict[str, Any]) -> Part:
    """A node with W [D, G H, I], R [D, G H, H], B [D, 2 G H] and, of an LSTM with peepholes, P [D, 3 H]."""
    name, op, order = node.name or node.output[0] or node.op_type, node.op_type, _ORDERS[node.op_type]
    W, R, B, P = inputs[1], inputs[2], inputs[3], inputs[7]
    if (
        W is None
        or R is None
        or W.ndim != 3
        or R.ndim != 3
        or len(W) != len(R)
        or (node.input[3:4] > [""] and B is None)
    ):
        raise CheckpointError(f"{name}: expected weights W [D, G H, I], R [D, G H, H] and B stored in the file")
    functions = [one.decode().lower() for one in options.get("activations", [])] or _ACTIVATIONS[op] * len(W)
    relu = op == "RNN" and functions == ["relu"] * len(W)
    refused = [option for option in ("clip", "input_forget") if options.get(option)]
    if options.get("direction", b"forward") == b"reverse":
        refused.append("direction reverse")
    if functions != _ACTIVATIONS[op] * len(W) and not relu:
        refused.append(f"activations {', '.join(functions)}")
    if refused:
        raise CheckpointError(f"{name}: {refused[0]} is what no layer of minirnn computes")
    made = []
    for direction in range(len(W)):
        arrays = {"weight_ih": reorder(W[direction], order), "weight_hh": reorder(R[direction], order)}
        if B is not None:
            both = zip(("bias_ih", "bias_hh"), np.split(B[direction], 2), strict=True)
            arrays |= {bias: reorder(values, order) for bias, values in both}
        if P is not None:
            arrays |= {f"p_{gate}": one for gate, one in zip("iof", np.split(P[direction], 3), strict=True)}
        made.append(arrays)
    cells = {"LSTM": "lstm" if P is None else "peephole_lstm", "RNN": "rnn_relu" if relu else "rnn"}
    cells["GRU"] = "gru" if options.get("linear_before_reset") else "gru_reset_before"
    return Part(name, "recurrent", made, (cells[op],))
