"""Each kind of model as C: the struct that the caller owns, its functions, and the program's test of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from minirnn.data.vocabulary import END, PAD, START
from minirnn.export._c_layers import Writer, merged, output_size, state_size, total_state, width
from minirnn.export.network import Kind, Layers, Network
from minirnn.export.record import STEPS, Record

MAX_STEPS = 64
"""Steps of a sequence for which a workspace has room, where MODEL_MAX_STEPS is not defined."""

_STEPS_CHECK = "if (length < 0 || length > MODEL_MAX_STEPS) return -1;"


def _declare(writer: Writer, network: Network, record: Record) -> tuple[int, str, str]:
    """Write sizes and recorded outputs; returns the number of outputs, the type of an input, and that at step t."""
    size = len(network.linear["head"].weight)
    writer.define("OUTPUTS", size)
    writer.array("test_output", record["output"].astype(np.float32), recorded=True)
    layers = next(iter(network.layers.values()), None)
    if layers is not None and layers.embedding is not None:
        writer.define("TOKENS", len(layers.embedding))
        writer.array("test_input", record["input"], "int", recorded=True)
        return size, "int ", "model_test_input[t]"
    inputs = record["input"].shape[-1]
    writer.define("INPUTS", inputs)
    writer.array("test_input", record["input"].astype(np.float32), recorded=True)
    return size, "const float *", f"model_test_input + t * {inputs}"


def _workspace(writer: Writer, widths: Sequence[int], steps: int = 0) -> None:
    """A struct with room for sequences: two arrays of rows, which layers of these widths write in turn."""
    writer.struct, writer.max_steps = "model_workspace", max(MAX_STEPS, steps)
    for field, sizes in zip("ab", (widths[::2], widths[1::2]), strict=True):
        if sizes:
            writer.field(field, max(sizes), writer.max_steps)


def _widths(layers: Layers) -> list[int]:
    """Numbers in the outputs of every layer, both directions together."""
    return [sum(map(width, row)) for row in layers.layers]


def _test(writer: Writer, lines: Sequence[str], outputs: int, holder: str = "") -> None:
    """Begin the test, which lets ``lines`` compute ``largest``."""
    holder = holder or f"static {writer.struct} w;"
    begin = ["static inline int model_test(void) {", holder, f"static float y[{outputs}];", "float largest = 0.0f;"]
    writer.recorded.append("\n    ".join([*begin, "int t;", *lines]))


def _compare(outputs: int, at: str = "") -> str:
    return f"largest = model_difference(y, model_test_output{at}, {outputs}, largest);"


# ------------------------------------------------------------------------------------------- one direction


def _streaming(writer: Writer, layers: Layers, kind: str) -> list[list[int]]:
    """Layers of one direction and their state, zero at first."""
    writer.field("rnn", total_state(layers))
    starts = writer.stack_step("rnn", layers)
    writer.function("void model_init(model_state *state)", ["memset(state, 0, sizeof *state);"])
    return starts


def _step_lines(layers: Layers) -> list[str]:
    return [f"float h[{max(_widths(layers))}];", "model_rnn(x, state->rnn, h);"]


def many_to_many(writer: Writer, network: Network, record: Record) -> str:
    layers, (outputs, kind, given) = network.layers["rnn"], _declare(writer, network, record)
    steps = len(record["input"])
    if layers.bidirectional:
        return _run(writer, network, steps)
    _streaming(writer, layers, kind)
    head = writer.linear("head", network.linear["head"])
    lines = [*_step_lines(layers), f"if (y) {{ {head('h', 'y')} }}"]
    writer.function(f"void model_step(model_state *state, {kind}x, float *y)", lines, max(_widths(layers)))
    loop = f"for (t = 0; t < {steps}; t++) {{ model_step(&w, {given}, y); {_compare(outputs, f' + t * {outputs}')} }}"
    _test(writer, ["model_init(&w);", loop], outputs)
    return f"""   model_state state; float y[MODEL_OUTPUTS]; model_init(&state); then for each step
   model_step(&state, {"token" if kind == "int " else "x"}, y): y becomes {"the logits of the next symbol" if network.kind == "char_lm" else "its outputs"}; it may be NULL."""


def many_to_one(writer: Writer, network: Network, record: Record) -> str:
    layers, (outputs, kind, given) = network.layers["rnn"], _declare(writer, network, record)
    steps, size = len(record["input"]), output_size(layers)
    if layers.bidirectional:
        return _run(writer, network, steps)
    starts = _streaming(writer, layers, kind)
    _pooling(writer, network, starts)
    step = "if (y) model_output(state, y);"
    pool = "" if network.options["pooling"] == "last" else "model_pool(state, h);"
    lines = [*_step_lines(layers), *([pool] if pool else []), step]
    writer.function(f"void model_step(model_state *state, {kind}x, float *y)", lines, max(_widths(layers)) + size)
    loop = f"for (t = 0; t < {steps}; t++) model_step(&w, {given}, NULL);"
    _test(writer, ["model_init(&w);", loop, "model_output(&w, y);", _compare(outputs)], outputs)
    return f"""   model_state state; float y[MODEL_OUTPUTS]; model_init(&state); then for each step
   model_step(&state, {"token" if kind == "int " else "x"}, y): y becomes the outputs for the sequence so far; it may be NULL.
   model_output(&state, y) gives them at any time."""


def _pooling(writer: Writer, network: Network, starts: list[list[int]]) -> None:
    """Write ``model_pool(w, h)`` for one more step, and ``model_output(w, y)``."""
    layers, kind = network.layers["rnn"], network.options["pooling"]
    size, struct, top = output_size(layers), writer.struct, layers.layers[-1]
    head = writer.linear("head", network.linear["head"])
    output, local = f"void model_output(const {struct} *w, float *y)", size
    if kind == "last":
        directions = [f"w->rnn[{start} + i]" for start in starts[-1]]
        lines = [f"float f[{size}];", "int i;", f"for (i = 0; i < {width(top[0])}; i++) "]
        if layers.bidirectional and layers.merge == "concat":
            lines[-1] += f"{{ f[i] = {directions[0]}; f[{width(top[0])} + i] = {directions[1]}; }}"
        else:
            lines[-1] += f"f[i] = {merged(layers.merge, *directions) if layers.bidirectional else directions[0]};"
        writer.function(output, [*lines, head("f", "y")], local)
        return
    writer.field("pooled", size)
    writer.field("steps", 0, kind="int")
    each = f"for (i = 0; i < {size}; i++)"
    pool, scale = {
        "mean": ([f"{each} w->pooled[i] += h[i];"], "1.0f / (float)(w->steps ? w->steps : 1)"),
        "max": ([f"{each} w->pooled[i] = w->steps ? model_maximum(w->pooled[i], h[i]) : h[i];"], "1.0f"),
        "attention": ([], "w->total > 0.0f ? 1.0f / w->total : 0.0f"),
    }[kind]
    if kind == "attention":  # a softmax over the steps so far, in units of the largest score
        writer.field("largest", 0)
        writer.field("total", 0)
        memory = writer.linear("memory", network.linear["memory"])
        score, local = writer.vector("score", network.linear["score"].weight), 2 * size
        pool = [
            f"float a[{size}], e = 0.0f, old, now;",
            memory("h", "a"),
            f"{each} e += {score}[i] * model_tanh(a[i]);",
        ]
        pool += ["if (!w->steps || e > w->largest) { old = w->steps ? model_exp(w->largest - e) : 0.0f; now = 1.0f; }"]
        pool += ["else { old = 1.0f; now = model_exp(e - w->largest); }"]
        pool += ["if (now == 1.0f) w->largest = e;", "w->total = w->total * old + now;"]
        pool += [f"{each} w->pooled[i] = w->pooled[i] * old + now * h[i];"]
    writer.function(f"void model_pool({struct} *w, const float *h)", ["int i;", *pool, "w->steps++;"], local)
    lines = [f"const float scale = {scale};", f"float f[{size}];", "int i;", f"{each} f[i] = w->pooled[i] * scale;"]
    writer.function(output, [*lines, head("f", "y")], local)


def one_to_many(writer: Writer, network: Network, record: Record) -> str:
    layers, size = network.layers["rnn"], len(network.linear["head"].weight)
    writer.define("OUTPUTS", size)
    writer.define("INPUTS", len(record["input"]))
    writer.array("test_output", record["output"].astype(np.float32), recorded=True)
    writer.array("test_input", record["input"].astype(np.float32), recorded=True)
    tokens = layers.embedding is not None
    writer.field("rnn", total_state(layers))
    writer.field("next", 0 if tokens else size, kind="int" if tokens else "float")
    starts = writer.stack_step("rnn", layers)
    start, head = (writer.linear(name, network.linear[name]) for name in ("start", "head"))
    units = [layer.hidden_size for (layer,) in layers.layers]
    lines = [f"float h[{sum(units)}];", "int i;", "memset(state, 0, sizeof *state);", start("x", "h")]
    at = 0
    for (begin,), count in zip(starts, units, strict=True):
        lines.append(f"for (i = 0; i < {count}; i++) state->rnn[{begin} + i] = model_tanh(h[{at} + i]);")
        at += count
    lines += [f"state->next = {size};"] if tokens else []
    writer.function("void model_init(model_state *state, const float *x)", lines, sum(units))
    lines = [f"float h[{max(_widths(layers))}];"] + ([] if tokens else ["int i;"])
    lines += ["model_rnn(state->next, state->rnn, h);", head("h", "y")]
    fed_back = "model_sigmoid(y[i])" if network.options["activation"] == "sigmoid" else "y[i]"
    each = f"for (i = 0; i < {size}; i++) state->next[i] = {fed_back};"
    lines.append(f"state->next = model_argmax(y, {size});" if tokens else each)
    writer.function("void model_step(model_state *state, float *y)", lines, max(_widths(layers)))
    again = f" w.next = model_argmax(model_test_output + t * {size}, {size});" if tokens else ""
    steps = len(record["output"])
    loop = f"for (t = 0; t < {steps}; t++) {{ model_step(&w, y); {_compare(size, f' + t * {size}')}{again} }}"
    _test(writer, ["model_init(&w, model_test_input);", loop], size)
    return """   model_state state; float y[MODEL_OUTPUTS]; model_init(&state, x) with the first input, of MODEL_INPUTS numbers;
   then model_step(&state, y) for each step. The next one reads state.next, the output (or its most likely token)."""


def one_to_one(writer: Writer, network: Network, record: Record) -> str:
    outputs, _, _ = _declare(writer, network, record)
    activation = {"relu": "model_maximum({}, 0.0f)", "tanh": "model_tanh({})", "sigmoid": "model_sigmoid({})"}
    lines, given, local = ["int i;"], "x", 0
    *hidden, head = network.linear
    for name in hidden:
        size = len(network.linear[name].weight)
        lines += [f"float {name}[{size}];", writer.linear(name, network.linear[name])(given, name)]
        text = activation[network.options["activation"]].format(f"{name}[i]")
        lines.append(f"for (i = 0; i < {size}; i++) {name}[i] = {text};")
        given, local = name, local + size
    lines += [writer.linear(head, network.linear[head])(given, "y"), "(void)i;"]
    writer.function("void model_run(const float *x, float *y)", lines, local)
    _test(
        writer, ["t = 0;", f"model_run({'model_test_input'}, y);", _compare(outputs), "(void)t;"], outputs, "(void)0;"
    )
    return "   float y[MODEL_OUTPUTS]; model_run(x, y)."


# ------------------------------------------------------------------------------------------ whole sequences


def _run(writer: Writer, network: Network, steps: int) -> str:
    """Layers of two directions, which need the sequence: ``model_run(w, x, length, y)``."""
    layers, outputs = network.layers["rnn"], len(network.linear["head"].weight)
    tokens, size = layers.embedding is not None, output_size(layers)
    _workspace(writer, _widths(layers), (network.task or {}).get("series", {}).get("seq_length", 0))
    writer.field("rnn", total_state(layers))
    starts, out = writer.stack_run("rnn", layers)
    lines = ["int t;", _STEPS_CHECK, "model_rnn(w, x, length);"]
    if network.kind == "many_to_one":
        _pooling(writer, network, starts)
        if network.options["pooling"] != "last":
            lines += ["w->steps = 0;", "memset(w->pooled, 0, sizeof w->pooled);"]
            lines += ["w->total = 0.0f;"] if network.options["pooling"] == "attention" else []
            lines.append(f"for (t = 0; t < length; t++) model_pool(w, w->{out} + t * {size});")
        lines += ["model_output(w, y);", "(void)t;"]
        shape, count = "MODEL_OUTPUTS", outputs
    else:
        head = writer.linear("head", network.linear["head"])
        lines.append(f"for (t = 0; t < length; t++) {{ {head(f'w->{out} + t * {size}', f'(y + t * {outputs})')} }}")
        shape, count = "length * MODEL_OUTPUTS", outputs * steps
    kind = "int" if tokens else "float"
    writer.function(f"int model_run(model_workspace *w, const {kind} *x, int length, float *y)", [*lines, "return 0;"])
    _test(writer, [f"t = model_run(&w, model_test_input, {steps}, y);", "(void)t;", _compare(count)], count)
    each = "tokens" if tokens else "vectors"
    return f"""   model_workspace w; float y[{shape}]; model_run(&w, x, length, y): x holds the {each} one after the other;
   returns -1 where they are more than MODEL_MAX_STEPS."""


def tagger(writer: Writer, network: Network, record: Record) -> str:
    layers, spelling, words = network.layers["rnn"], network.layers["spelling"], network.embedding
    assert words is not None and spelling.embedding is not None
    outputs, steps = len(network.linear["head"].weight), len(record["input"])
    (forward, backward), inputs = spelling.layers[0], layers.input_size
    writer.define("OUTPUTS", outputs)
    writer.define("TOKENS", len(words))
    characters = np.concatenate(
        [column[:size] for column, size in zip(record["characters"].T, record["sizes"], strict=True)]
    )
    for name, values in {"input": record["input"], "characters": characters, "sizes": record["sizes"]}.items():
        writer.array(f"test_{name}", values, "int", recorded=True)
    writer.array("test_output", record["output"].astype(np.float32), recorded=True)
    widths = _widths(layers)
    _workspace(writer, [*widths[:1], max([inputs, *widths[1:2]]), *widths[2:]])
    writer.field("rnn", total_state(layers))
    (starts,) = writer.layers("spelling", spelling)
    table = writer.table("words", words)
    local, ends = state_size(forward) + state_size(backward), [words.shape[1], words.shape[1] + width(forward)]
    lines = [f"float s[{local}];", "int c;", f"memset(x, 0, {inputs} * sizeof(float));", "memset(s, 0, sizeof s);"]
    lines += [table("word", "x"), f"for (c = 0; c < size; c++) model_spelling_0_0(characters[c], s + {starts[0]});"]
    lines += [f"for (c = size - 1; c >= 0; c--) model_spelling_0_1(characters[c], s + {starts[1]});"]
    for start, end, one in zip(starts, ends, (forward, backward), strict=True):
        lines.append(f"memcpy(x + {end}, s + {start}, {width(one)} * sizeof(float));")
    writer.function("void model_spell(int word, const int *characters, int size, float *x)", lines, local)
    _, out = writer.stack_run("rnn", layers, "b")
    head, size = writer.linear("head", network.linear["head"]), output_size(layers)
    lines = ["int t;", _STEPS_CHECK, "for (t = 0; t < length; t++) {"]
    lines += [
        f"    model_spell(words[t], characters, sizes[t], w->b + t * {inputs});",
        "    characters += sizes[t];",
        "}",
    ]
    lines.append("model_rnn(w, length);")
    lines.append(f"for (t = 0; t < length; t++) {{ {head(f'w->{out} + t * {size}', f'(y + t * {outputs})')} }}")
    declared = "const int *words, const int *characters, const int *sizes, int length, float *y"
    writer.function(f"int model_run(model_workspace *w, {declared})", [*lines, "return 0;"])
    given = f"model_test_input, model_test_characters, model_test_sizes, {steps}"
    _test(writer, [f"t = model_run(&w, {given}, y);", "(void)t;", _compare(outputs * steps)], outputs * steps)
    return """   model_workspace w; float y[length * MODEL_OUTPUTS]; model_run(&w, words, characters, sizes, length, y): the words of
   a sentence in lower case, the characters of all of them as they are, one after the other, and how many each has;
   returns -1 where there are more than MODEL_MAX_STEPS."""


def encoder_decoder(writer: Writer, network: Network, record: Record) -> str:
    encoder, decoder = network.layers["encoder"], network.layers["decoder"]
    outputs, _, _ = _declare(writer, network, record)
    hidden, size, target = decoder.layers[0][0].hidden_size, output_size(encoder), record["target"]
    writer.array("test_target", np.array([START, *target]), "int", recorded=True)
    _workspace(writer, _widths(encoder))
    writer.field("encoder", total_state(encoder))
    writer.field("decoder", total_state(decoder))
    writer.field("y", outputs)
    encoder_starts, out = writer.stack_run("encoder", encoder)
    decoder_starts = writer.stack_step("decoder", decoder)
    encode = [_STEPS_CHECK, "model_encoder(w, x, length);", *_bridge(writer, network, encoder_starts, decoder_starts)]
    step, given, local = [f"float h[{hidden}];", "int i;"], "h", hidden
    if network.attention:
        encode += _attention(writer, network, out)
        joined = size + hidden
        step = [
            f"float joined[{joined}], h[{hidden}];",
            "int i;",
            f"model_decoder(token, w->decoder, joined + {size});",
        ]
        step += [
            f"model_attend(w, joined + {size}, joined);",
            writer.linear("combine", network.linear["combine"])("joined", "h"),
        ]
        step += [f"for (i = 0; i < {hidden}; i++) h[i] = model_tanh(h[i]);"]
        local += joined
    else:
        step.append("model_decoder(token, w->decoder, h);")
    step += ["float largest, total = 0.0f;", writer.linear("head", network.linear["head"])(given, "y")]
    step += [
        f"largest = y[model_argmax(y, {outputs})];",
        f"for (i = 0; i < {outputs}; i++) total += model_exp(y[i] - largest);",
    ]
    step += ["largest += logf(total);", f"for (i = 0; i < {outputs}; i++) y[i] -= largest;"]
    writer.function(
        "int model_encode(model_workspace *w, const int *x, int length)", [*encode, "return 0;"], 2 * hidden
    )
    writer.function("void model_decode_step(model_workspace *w, int token, float *y)", step, local)
    lines = [
        f"int token = {START}, count = 0;",
        "if (model_encode(w, x, length) < 0) return -1;",
        "while (count < max) {",
    ]
    lines += ["    model_decode_step(w, token, w->y);", f"    w->y[{PAD}] = w->y[{START}] = -3e38f;"]
    lines += [
        f"    token = model_argmax(w->y, {outputs});",
        f"    if (token == {END}) break;",
        "    out[count++] = token;",
    ]
    declared = "model_workspace *w, const int *x, int length, int *out, int max"
    writer.function(f"int model_translate({declared})", [*lines, "}", "return count;"])
    loop = f"for (t = 0; t < {len(target) + 1}; t++) {{ model_decode_step(&w, model_test_target[t], y); "
    encoded = f"t = model_encode(&w, model_test_input, {len(record['input'])});"
    _test(writer, [encoded, loop + _compare(outputs, f" + t * {outputs}") + " }"], outputs)
    return """   model_workspace w; model_translate(&w, x, length, out, max): greedy search, from `length` tokens x to at most `max`
   tokens out; returns how many, -1 where the source has more than MODEL_MAX_STEPS. Or model_encode(&w, x, length), then
   model_decode_step(&w, token, y): log-probabilities of what follows a token, 1 (<start>) at first, until 2 (<end>)."""


def _bridge(writer: Writer, network: Network, starts: list[list[int]], targets: list[list[int]]) -> list[str]:
    """Statements that make the decoder's first state of the encoder's last."""
    encoder = network.layers["encoder"]
    if not encoder.bidirectional:
        return ["memcpy(w->decoder, w->encoder, sizeof w->decoder);"]
    hidden, states = encoder.layers[0][0].hidden_size, encoder.layers[0][0].equations.states
    bridged = [number for number, state in enumerate(states) if number == 0 or state == "c"]
    lines = [f"float both[{2 * hidden}];", "int i;"]
    for number in range(len(states)):
        for layer in range(len(encoder.layers)):
            one, other = (f"w->encoder + {start + number * hidden}" for start in starts[layer])
            out = f"(w->decoder + {targets[layer][0] + number * hidden})"
            each = f"for (i = 0; i < {hidden}; i++)"
            if number not in bridged:
                lines.append(f"{each} {out}[i] = {merged('ave', f'({one})[i]', f'({other})[i]')};")
                continue
            name = f"bridge{bridged.index(number) * len(encoder.layers) + layer}"
            lines += [f"memcpy(both, {one}, {hidden} * sizeof(float));"]
            lines += [f"memcpy(both + {hidden}, {other}, {hidden} * sizeof(float));"]
            lines.append(writer.linear(name, network.linear[name])("both", out))
            lines += [f"{each} {out}[i] = model_tanh({out}[i]);"] if number == 0 else []
    return [*lines, "(void)i;"]


def _attention(writer: Writer, network: Network, out: str) -> list[str]:
    """Write ``model_attend(w, h, context)``; returns statements that compute the keys."""
    size = output_size(network.layers["encoder"])
    query, keys, prepare = writer.linear("query", network.linear["query"]), out, ["w->length = length;"]
    width = len(network.linear["query"].weight)
    term = f"(q[i] * w->{keys}[t * {width} + i]) * {1 / math.sqrt(size):.9g}f"
    writer.field("weights", 1, writer.max_steps)
    writer.field("length", 0, kind="int")
    if network.attention == "additive":
        writer.field("keys", width, writer.max_steps)
        memory, score = (
            writer.linear("memory", network.linear["memory"]),
            writer.vector("score", network.linear["score"].weight),
        )
        term = f"{score}[i] * model_tanh(q[i] + w->keys[t * {width} + i])"
        prepare.append(
            f"for (length = 0; length < w->length; length++) {{ {memory(f'w->{out} + length * {size}', f'(w->keys + length * {width})')} }}"
        )
    lines = [
        f"float q[{width}], largest = -3e38f, total = 0.0f;",
        "int t, i;",
        query("h", "q"),
        "for (t = 0; t < w->length; t++) {",
    ]
    lines += ["    float e = 0.0f;", f"    for (i = 0; i < {width}; i++) e += {term};", "    w->weights[t] = e;"]
    lines += ["    largest = model_maximum(largest, e);", "}"]
    lines += ["for (t = 0; t < w->length; t++) total += w->weights[t] = model_exp(w->weights[t] - largest);"]
    lines += [
        f"memset(context, 0, {size} * sizeof(float));",
        "for (t = 0; t < w->length; t++) {",
        "    w->weights[t] /= total;",
    ]
    lines += [f"    for (i = 0; i < {size}; i++) context[i] += w->weights[t] * w->{out}[t * {size} + i];", "}"]
    writer.function("void model_attend(model_workspace *w, const float *h, float *context)", lines, width)
    return prepare


WRITERS: dict[Kind, Callable[[Writer, Network, Record], str]] = {
    "char_lm": many_to_many,
    "many_to_many": many_to_many,
    "many_to_one": many_to_one,
    "one_to_many": one_to_many,
    "one_to_one": one_to_one,
    "encoder_decoder": encoder_decoder,
    "tagger": tagger,
}
"""Of each kind, what writes it: returns lines for the header's first comment that say how it is used."""
