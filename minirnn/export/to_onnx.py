"""A model as an ONNX file, for onnxruntime and every other program that reads the format.

Cells that ONNX has as an operator (LSTM, with or without peepholes; GRU of both kinds; RNN) become one, other cells a
Scan over their equations; so do all cells in float64, for which onnxruntime does not implement these operators.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

from minirnn.errors import OptionError
from minirnn.export._onnx_graph import IR_VERSION, OPSET, GraphBuilder, States
from minirnn.export.network import Layers, Linear, Network, arrays
from minirnn.export.record import Record

_TN = ("T", "N")
MAX_BYTES = (1 << 31) - (1 << 26)
"""Limit on the weights: a file is a protocol buffer, of less than 2 GiB."""


def program(network: Network, record: Record, name: str = "model") -> bytes:
    """Return the contents of an ``.onnx`` file.

    Axes are in minirnn's order; T steps and N sequences are free at every call. Inputs and outputs of each kind, float
    in the dtype of the weights, int64 otherwise:

    =================  =========================================================  ===================================
    kind               inputs                                                     outputs
    =================  =========================================================  ===================================
    char_lm            tokens [T, N], states                                      y [T, N, V] logits, states
    many_to_many       x [T, N, I] or tokens [T, N], lengths [N], states          y [T, N, O], states
    many_to_one        x [T, N, I] or tokens [T, N], lengths [N], states          y [N, O], states
    one_to_many        first [N, I], length (a scalar)                            y [T, N, O]
    one_to_one         x [N, I]                                                   y [N, O]
    encoder_decoder    source [S, N], source_lengths [N], target [T, N]           log_probs [T, N, V] of what follows
    tagger             tokens [T, N], forms [T, N], characters [C, K],            y [T, N, tags] logits
                       sizes [K], lengths [N]
    =================  =========================================================  ===================================

    States are ``h_0`` and ``h_n`` [L, N, H], and likewise of every other state of the cell; they are left out where the
    layers have two directions or sizes that differ, or where all steps are pooled. Past a sequence's length y has the
    bias of the head. Words of a tagger are given as by :class:`minirnn.tasks.tagger.Batch`.

    The metadata has ``kind`` and, as JSON, ``options``, ``task`` (what a checkpoint says of the vocabulary, labels and
    tokenizer) and ``record`` (inputs and outputs of one sequence, to test a runtime with).

    Args:
        network: the model. record: what it computes, see :func:`minirnn.export.record.record`. name: of the graph.

    Raises:
        OptionError: the package onnx is not installed, or the weights do not fit into one file.
    """
    try:
        import onnx
    except ImportError:
        raise OptionError("export to ONNX needs the package onnx: pip install 'minirnn[onnx]'") from None
    weights = arrays(network)
    if sum(array.nbytes for array in weights.values()) > MAX_BYTES:
        raise OptionError(f"onnx: expected weights of at most {MAX_BYTES:,} bytes, which a file can hold")
    dtype = next(iter(weights.values())).dtype
    g = GraphBuilder(onnx, dtype)
    _KINDS[network.kind](g, network)
    opsets = [g.helper.make_opsetid("", OPSET)]
    model = g.helper.make_model(g.graph(name), opset_imports=opsets, ir_version=IR_VERSION, producer_name="minirnn")
    example = json.dumps({key: _rounded(array).tolist() for key, array in record.items()})
    metadata = {"kind": network.kind, "options": json.dumps(network.options), "record": example}
    if network.task is not None:
        metadata["task"] = json.dumps(network.task, ensure_ascii=False)
    g.helper.set_model_props(model, metadata)
    return model.SerializeToString()


def _rounded(array: np.ndarray) -> np.ndarray:
    """Float numbers with as many digits as their dtype has, and no more."""
    return np.round(array.astype(float), 7 if array.dtype == np.float32 else 15) if array.dtype.kind == "f" else array


def _state_sizes(layers: Layers) -> dict[str, int]:
    """The size of each state by its name; none where the states of all layers are not one array each."""
    rows = [row[0] for row in layers.layers]
    widths = {(row.hidden_size, row.hidden_size if row.weight_hr is None else len(row.weight_hr)) for row in rows}
    if layers.bidirectional or len(widths) > 1:
        return {}
    [(size, projected)] = widths
    first, *others = rows[0].equations.states
    return {first: projected, **dict.fromkeys(others, size)}


def _rnn(g: GraphBuilder, layers: Layers, lengths: str | None, sizes: dict[str, int]) -> tuple[str, States]:
    """Outputs and final states of layers that read the graph's input and, of these sizes, its initial states."""
    tokens = layers.embedding is not None
    x = g.input("tokens", *_TN, dtype=np.int64) if tokens else g.input("x", *_TN, layers.input_size)
    if lengths is not None:
        g.input(lengths, "N", dtype=np.int64)
    count = len(layers.layers)
    given = [g.input(f"{state}_0", count, "N", size) for state, size in sizes.items()]
    initial = [[[g("Gather", state, np.array(k), axis=0) for state in given]] for k in range(count)]
    return g.layers("rnn", layers, x, lengths, initial if sizes else None)


def _outputs(
    g: GraphBuilder, y: str, dims: tuple[str, ...], head: Linear, finals: States, sizes: dict[str, int]
) -> None:
    """Declare the outputs: the head's, and the final states."""
    g.output(g.linear("head", y, head), "y", *dims, len(head.weight))
    for number, (state, size) in enumerate(sizes.items()):
        parts = [g.unsqueezed(final[0][number], 0) for final in finals]
        g.output(g("Concat", *parts, axis=0), f"{state}_n", len(finals), "N", size)


def _every_step(g: GraphBuilder, network: Network) -> None:
    layers = network.layers["rnn"]
    sizes = _state_sizes(layers)
    y, finals = _rnn(g, layers, None if network.kind == "char_lm" else "lengths", sizes)
    _outputs(g, y, _TN, network.linear["head"], finals, sizes)


def _many_to_one(g: GraphBuilder, network: Network) -> None:
    layers, pooling = network.layers["rnn"], network.options["pooling"]
    sizes = _state_sizes(layers) if pooling == "last" else {}
    y, finals = _rnn(g, layers, "lengths", sizes)
    last = [states[0] for states in finals[-1]]
    pooled = g.merged(last, layers.merge) if pooling == "last" else _pooled(g, network, pooling, y)
    _outputs(g, pooled, ("N",), network.linear["head"], finals, sizes)


def _pooled(g: GraphBuilder, network: Network, pooling: str, y: str) -> str:
    """The outputs [T, N, O] as one vector [N, O]."""
    valid, lengths = g.valid_steps(y, "lengths"), g.unsqueezed("lengths", 1)
    if pooling == "mean":
        return g("Div", g("ReduceSum", y, np.array([0]), keepdims=0), g.cast(g("Max", lengths, np.array(1))))
    if pooling == "max":
        largest = g("ReduceMax", g("Where", valid, y, -math.inf), np.array([0]), keepdims=0)
        return g("Where", g("Greater", lengths, np.array(0)), largest, 0.0)
    memory, score = network.linear["memory"], network.linear["score"].weight[0]
    values, query = g("Transpose", y, perm=[1, 0, 2]), g.weight("query", np.zeros((1, 1, len(score)), g.dtype))
    keys = g.linear("memory", values, memory)  # with the bias
    return g("Squeeze", g.attend(query, keys, values, g("Transpose", valid, perm=[1, 2, 0]), score), np.array([1]))


def _one_to_many(g: GraphBuilder, network: Network) -> None:
    """A Loop, each of whose steps reads what the step before gave: numbers, or the most likely token."""
    layers, start, head = network.layers["rnn"], network.linear["start"], network.linear["head"]
    rows, size = layers.layers, len(head.weight)
    first, length = g.input("first", "N", start.weight.shape[1]), g.input("length", dtype=np.int64)
    h = g("Tanh", g.linear("start", first, start))
    parts = g("Split", h, axis=-1, num_outputs=len(rows), outputs=len(rows)) if len(rows) > 1 else [h]
    zeros, N = g("Mul", h if len(rows) == 1 else parts[0], 0.0), g.size(first, 0)
    flat = [state for part in parts for state in (part, *(zeros for _ in rows[0][0].equations.states[1:]))]
    tokens = layers.embedding is not None
    token = np.array([[size]])  # <start>
    begin = g("Expand", token, g("Concat", np.array([1]), N, axis=0)) if tokens else g.zeros(1, N, size)
    width, kind = len(rows[0][0].equations.states), np.int64 if tokens else None
    x, step, go_on, carried = g.name("x"), g.name("step"), g.name("go_on"), [g.name("state") for _ in flat]
    with g.body() as nodes:
        states = [[carried[k * width : (k + 1) * width]] for k in range(len(rows))]
        read = x
        if network.options["condition"] == "every_step":
            own = x if layers.embedding is None else g.rows("rnn", layers.embedding, x)
            read, layers = g("Concat", own, g.unsqueezed(first, 0), axis=-1), replace(layers, embedding=None)
        y, finals = g.layers("rnn", layers, read, None, states)
        output = g.linear("head", y, head)
        if tokens:
            back = g("ArgMax", output, axis=-1, keepdims=0)
        else:
            back = g("Sigmoid" if network.options["activation"] == "sigmoid" else "Identity", output)
        new = [g("Identity", state) for final in finals for state in final[0]]
        ends = [g("Identity", go_on), back, *new, g("Squeeze", output, np.array([0]))]
    H = rows[0][0].hidden_size
    dims: list[str | int] = [1, "N"] if tokens else [1, "N", size]
    types = [g.info(x, dims, kind), *(g.info(state, ["N", H]) for state in carried)]
    inputs = [g.info(step, [], np.int64), g.info(go_on, [], bool), *types]
    outputs = [g.info(ends[0], [], bool), g.info(ends[1], dims, kind), *(g.info(n, ["N", H]) for n in new)]
    body = g.helper.make_graph(nodes, "step", inputs, [*outputs, g.info(ends[-1], ["N", size])])
    results = g("Loop", length, "", begin, *flat, outputs=2 + len(flat), body=body)
    g.output(results[-1], "y", "T", "N", size)


def _one_to_one(g: GraphBuilder, network: Network) -> None:
    head, linear = network.linear["head"], [name for name in network.linear if name != "head"]
    first = network.linear[linear[0]] if linear else head
    x = g.input("x", "N", first.weight.shape[1])
    for name in linear:
        x = g(network.options["activation"].capitalize(), g.linear(name, x, network.linear[name]))
    g.output(g.linear("head", x, head), "y", "N", len(head.weight))


def _encoder_decoder(g: GraphBuilder, network: Network) -> None:
    """Teacher forcing: log-probabilities of what follows each prefix of the target."""
    encoder, decoder, linear = network.layers["encoder"], network.layers["decoder"], network.linear
    source = g.input("source", "S", "N", dtype=np.int64)
    lengths, target = g.input("source_lengths", "N", dtype=np.int64), g.input("target", *_TN, dtype=np.int64)
    memory, finals = g.layers("encoder", encoder, source, lengths)
    h, _ = g.layers("decoder", decoder, target, None, _bridged(g, network, finals))
    if network.attention is not None:
        values = g("Transpose", memory, perm=[1, 0, 2])
        query = g.linear("query", g("Transpose", h, perm=[1, 0, 2]), linear["query"])
        keys = g.linear("memory", values, linear["memory"]) if network.attention == "additive" else values
        score = linear["score"].weight[0] if network.attention == "additive" else None
        valid = g("Transpose", g.valid_steps(source, lengths), perm=[1, 2, 0])
        size = len(linear["query"].weight) if score is None else 1
        context = g("Transpose", g.attend(query, keys, values, valid, score, 1 / math.sqrt(size)), perm=[1, 0, 2])
        h = g("Tanh", g.linear("combine", g("Concat", context, h, axis=-1), linear["combine"]))
    logits = g.linear("head", h, linear["head"])
    g.output(g("LogSoftmax", logits, axis=-1), "log_probs", "T", "N", len(linear["head"].weight))


def _bridged(g: GraphBuilder, network: Network, finals: States) -> States:
    """The final states of the encoder as initial ones of the decoder; see :class:`minirnn.models.EncoderDecoder`."""
    encoder = network.layers["encoder"]
    if not encoder.bidirectional:
        return finals
    names, count = encoder.layers[0][0].equations.states, len(finals)
    bridged = [name for number, name in enumerate(names) if number == 0 or name == "c"]
    states: States = []
    for layer, (forward, backward) in enumerate(finals):
        row = []
        for number, both in enumerate(zip(forward, backward, strict=True)):
            if names[number] not in bridged:
                row.append(g.merged(both, "ave"))
                continue
            name = f"bridge{bridged.index(names[number]) * count + layer}"
            part = g.linear(name, g.merged(both, "concat"), network.linear[name])
            row.append(g("Tanh", part) if number == 0 else part)
        states.append([row])
    return states


def _tagger(g: GraphBuilder, network: Network) -> None:
    spelling, layers, head = network.layers["spelling"], network.layers["rnn"], network.linear["head"]
    assert network.embedding is not None
    tokens, forms = (g.input(name, "T", "N", dtype=np.int64) for name in ("tokens", "forms"))
    characters, sizes = g.input("characters", "C", "K", dtype=np.int64), g.input("sizes", "K", dtype=np.int64)
    lengths = g.input("lengths", "N", dtype=np.int64)
    _, finals = g.layers("spelling", spelling, characters, sizes)
    spelled = g.merged([states[0] for states in finals[-1]], spelling.merge)
    words = g.rows("words", network.embedding, tokens)
    y, _ = g.layers("rnn", layers, g("Concat", words, g("Gather", spelled, forms), axis=-1), lengths)
    g.output(g.linear("head", y, head), "y", "T", "N", len(head.weight))


_KINDS: dict[str, Any] = {
    "char_lm": _every_step,
    "many_to_many": _every_step,
    "many_to_one": _many_to_one,
    "one_to_many": _one_to_many,
    "one_to_one": _one_to_one,
    "encoder_decoder": _encoder_decoder,
    "tagger": _tagger,
}
