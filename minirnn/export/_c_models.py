"""Each kind of model as C: the struct that the caller owns, its functions, and the program's test of itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from minirnn.data.vocabulary import END, PAD, START
from minirnn.errors import OptionError
from minirnn.export._c_layers import Writer, merged, output_size, state_size, total_state, width
from minirnn.export.network import Kind, Layers, Network
from minirnn.export.record import Record

MAX_STEPS = 64
"""Steps of a sequence for which a workspace has room, where MODEL_MAX_STEPS is not defined."""


def _record(writer: Writer, record: Record, **constants: np.ndarray) -> int:
    """Write the recorded outputs, and inputs by their names; returns the number of outputs."""
    outputs: int = record["output"].shape[-1]
    writer.define("OUTPUTS", outputs)
    for name, values in {"output": record["output"], **constants}.items():
        if values.dtype.kind == "f":
            writer.vector(f"test_{name}", values, recorded=True)
        else:
            writer.array(f"test_{name}", values, "int", recorded=True)
    return outputs


def _workspace(writer: Writer, widths: Sequence[int], steps: int = 0) -> None:
    """A struct with room for sequences: two arrays of rows, which layers of these widths write in turn."""
    writer.struct, writer.max_steps = "model_workspace", max(MAX_STEPS, steps)
    for field, sizes in zip("ab", (widths[::2], widths[1::2]), strict=True):
        if sizes:
            writer.field(field, max(sizes), writer.max_steps)


def _widths(layers: Layers) -> list[int]:
    """Numbers in the outputs of every layer, both directions together."""
    return [sum(map(width, row)) for row in layers.layers]


def _test(writer: Writer, outputs: int, text: str) -> None:
    """Begin the test; ``text`` computes outputs y, and COMPARE(at) compares them with those recorded at ``at``."""
    compare = rf"largest = model_difference(y, model_test_output + (\1), {outputs}, largest);"
    body = re.sub(r"COMPARE\((.*?)\)", compare, text)
    writer.test = f"""
static inline int model_test(void) {{
    static float y[{outputs}];
    float largest = 0.0f;
    int t = 0;
    {body}
    (void)t;"""


# ------------------------------------------------------------------------------------------------ sequences


def sequences(writer: Writer, network: Network, record: Record) -> str:
    """Character models, one output per step, and one output for all steps, of one and of two directions."""
    layers, steps, is_one = network.layers["rnn"], len(record["input"]), network.kind == "many_to_one"
    outputs, tokens = _record(writer, record, input=record["input"]), layers.embedding is not None
    inputs, size, both = layers.input_size, output_size(layers), layers.bidirectional
    writer.define("TOKENS" if tokens else "INPUTS", len(layers.embedding) if layers.embedding is not None else inputs)
    if both:
        _workspace(writer, _widths(layers), (network.task or {}).get("series", {}).get("seq_length", 0))
    writer.field("rnn", total_state(layers))
    starts, out = writer.stack_run("rnn", layers) if both else (writer.stack_step("rnn", layers), "")
    head = writer.linear("head", network.linear["head"])
    pool = _pooling(writer, network, starts, head) if is_one else ""
    if not both:
        kind, given = (
            ("int ", "model_test_input[t]") if tokens else ("const float *", f"model_test_input + t * {inputs}")
        )
        wide = max(_widths(layers))
        writer.write(
            f"""
static inline void model_init(model_state *state) {{ memset(state, 0, sizeof *state); }}
static inline void model_step(model_state *state, {kind}x, float *y) {{
    float h[{wide}];
    model_rnn(x, state->rnn, h);
    {pool.format(w="state", h="h")}
    if (y) {{ {"model_output(state, y);" if is_one else head("h", "y")} }}
}}""",
            wide + size * is_one,
        )
        end = f"COMPARE({'0' if is_one else f't * {outputs}'})"
        step = f"model_step(&state, {given}, y);"
        body = f"{{ {step} }} {end}" if is_one else f"{{ {step} {end} }}"
        _test(writer, outputs, f"model_state state; model_init(&state); for (t = 0; t < {steps}; t++) {body}")
        what = "the logits of the next symbol" if network.kind == "char_lm" else "its outputs"
        later = "\n   model_output(&state, y) gives them at any time." if is_one else ""
        what = "the outputs for all steps so far" if is_one else what
        return f"""   model_state state; float y[MODEL_OUTPUTS]; model_init(&state); then for each step
   model_step(&state, x, y): y becomes {what}; it may be NULL.{later}"""
    row = f"w->{out} + t * {size}"
    reset = "w->steps = 0; memset(w->pooled, 0, sizeof w->pooled);" if pool else ""
    reset += " w->total = 0.0f;" if network.attention else ""
    each = pool.format(w="w", h=row) if is_one else head(row, f"(y + t * {outputs})")
    writer.write(f"""
static inline int model_run(model_workspace *w, const {"int" if tokens else "float"} *x, int length, float *y) {{
    int t;
    if (length < 0 || length > MODEL_MAX_STEPS) return -1;
    model_rnn(w, x, length);
    {reset}
    for (t = 0; t < length; t++) {{ {each} }}
    {"model_output(w, y);" if is_one else ""}
    return 0;
}}""")
    count = outputs if is_one else outputs * steps
    _test(writer, count, f"static model_workspace w; model_run(&w, model_test_input, {steps}, y); COMPARE(0)")
    return f"""   model_workspace w; float y[{"" if is_one else "length * "}MODEL_OUTPUTS]; model_run(&w, x, length, y):
   x holds the {"tokens" if tokens else "vectors"} of all steps; returns -1 where they are more than MODEL_MAX_STEPS."""


def _pooling(writer: Writer, network: Network, starts: list[list[int]], head: Callable[[str, str], str]) -> str:
    """Write ``model_output(w, y)``; returns the statement, with {w} and {h}, that adds one more step's output."""
    layers, kind, struct = network.layers["rnn"], network.options["pooling"], writer.struct
    size, top, local = output_size(layers), layers.layers[-1], output_size(layers)
    each = f"for (i = 0; i < {size}; i++)"
    if kind == "last":
        last = [f"w->rnn[{start} + i]" for start in starts[-1]]
        if layers.bidirectional and layers.merge == "concat":
            half = width(top[0])
            features = f"for (i = 0; i < {half}; i++) {{ f[i] = {last[0]}; f[{half} + i] = {last[1]}; }}"
        else:
            features = f"{each} f[i] = {merged(layers.merge, *last) if layers.bidirectional else last[0]};"
    else:
        writer.field("pooled", size)
        writer.field("steps", 0, kind="int")
        add, scale = {
            "mean": (f"{each} w->pooled[i] += h[i];", "1.0f / (float)(w->steps ? w->steps : 1)"),
            "max": (f"{each} w->pooled[i] = w->steps ? model_maximum(w->pooled[i], h[i]) : h[i];", "1.0f"),
            "attention": ("", "w->total > 0.0f ? 1.0f / w->total : 0.0f"),
        }[kind]
        if kind == "attention":
            writer.field("largest", 0)
            writer.field("total", 0)
            memory = writer.linear("memory", network.linear["memory"])
            score, local = writer.vector("score", network.linear["score"].weight), 2 * size
            add = f"""float a[{size}], e = 0.0f, old = 1.0f, now = 1.0f; /* a softmax in units of the largest score */
    {memory("h", "a")}
    {each} e += {score}[i] * model_tanh(a[i]);
    if (!w->steps || e > w->largest) {{
        old = w->steps ? model_exp(w->largest - e) : 0.0f;
        w->largest = e;
    }} else
        now = model_exp(e - w->largest);
    w->total = w->total * old + now;
    {each} w->pooled[i] = w->pooled[i] * old + now * h[i];"""
        features = f"const float scale = {scale};\n    {each} f[i] = w->pooled[i] * scale;"
        writer.write(f"""
static inline void model_pool({struct} *w, const float *h) {{
    int i;
    {add}
    w->steps++;
}}""")
    text = f"{{\n    float f[{size}];\n    int i;\n    {features}\n    {head('f', 'y')}\n}}"
    writer.write(f"static inline void model_output(const {struct} *w, float *y) {text}", local)
    return "" if kind == "last" else "model_pool({w}, {h});"


def one_to_many(writer: Writer, network: Network, record: Record) -> str:
    if network.options["condition"] != "start":
        raise OptionError('export to C: condition="every_step" of OneToMany is not supported; use numpy or onnx')
    layers, outputs = network.layers["rnn"], _record(writer, record, input=record["input"])
    writer.define("INPUTS", len(record["input"]))
    tokens = layers.embedding is not None
    writer.field("rnn", total_state(layers))
    writer.field("next", 0 if tokens else outputs, kind="int" if tokens else "float")
    starts = writer.stack_step("rnn", layers)
    start, head = (writer.linear(name, network.linear[name]) for name in ("start", "head"))
    units, wide = layers.layers[0][0].hidden_size, max(_widths(layers))
    first = [f"state->rnn[{at} + i] = model_tanh(h[{n * units} + i]);" for n, (at,) in enumerate(starts)]
    fed_back = "model_sigmoid(y[i])" if network.options["activation"] == "sigmoid" else "y[i]"
    each = f"for (i = 0; i < {outputs}; i++) state->next[i] = {fed_back};"
    best = f"(void)i;\n    state->next = model_argmax(y, {outputs});"
    writer.write(
        f"""
static inline void model_init(model_state *state, const float *x) {{
    float h[{len(starts) * units}];
    int i;
    memset(state, 0, sizeof *state);
    {start("x", "h")}
    for (i = 0; i < {units}; i++) {{ {" ".join(first)} }}
    {f"state->next = {outputs};" if tokens else ""}
}}
static inline void model_step(model_state *state, float *y) {{
    float h[{wide}];
    int i;
    model_rnn(state->next, state->rnn, h);
    {head("h", "y")}
    {best if tokens else each}
}}""",
        max(len(starts) * units, wide),
    )
    again = f"state.next = model_argmax(model_test_output + t * {outputs}, {outputs});" if tokens else ""
    each = f"for (t = 0; t < {len(record['output'])}; t++) {{ model_step(&state, y); COMPARE(t * {outputs}) {again} }}"
    _test(writer, outputs, f"model_state state; model_init(&state, model_test_input); {each}")
    return """   model_state state; float y[MODEL_OUTPUTS]; model_init(&state, x), MODEL_INPUTS numbers; for each step
   model_step(&state, y). The next one reads state.next: the output, or its most likely token."""


def one_to_one(writer: Writer, network: Network, record: Record) -> str:
    outputs = _record(writer, record, input=record["input"])
    writer.define("INPUTS", len(record["input"]))
    activation = {"relu": "model_maximum({}, 0.0f)", "tanh": "model_tanh({})", "sigmoid": "model_sigmoid({})"}
    (*hidden, head), lines, given, local = network.linear, [], "x", 0
    for name in hidden:
        size = len(network.linear[name].weight)
        text = activation[network.options["activation"]].format(f"{name}[i]")
        lines += [f"float {name}[{size}];", writer.linear(name, network.linear[name])(given, name)]
        lines += [f"for (i = 0; i < {size}; i++) {name}[i] = {text};"]
        given, local = name, local + size
    lines += [writer.linear(head, network.linear[head])(given, "y"), "(void)i;"]
    writer.function("void model_run(const float *x, float *y)", ["int i;", *lines], local)
    _test(writer, outputs, "model_run(model_test_input, y); COMPARE(0)")
    return "   float y[MODEL_OUTPUTS]; model_run(x, y) with MODEL_INPUTS numbers x."


def tagger(writer: Writer, network: Network, record: Record) -> str:
    layers, spelling, words, steps = (
        network.layers["rnn"],
        network.layers["spelling"],
        network.embedding,
        len(record["input"]),
    )
    assert words is not None
    spelled = [column[:size] for column, size in zip(record["characters"].T, record["sizes"], strict=True)]
    outputs = _record(writer, record, input=record["input"], characters=np.concatenate(spelled), sizes=record["sizes"])
    (forward, backward), inputs, widths = spelling.layers[0], layers.input_size, _widths(layers)
    _workspace(writer, [*widths[:1], max([inputs, *widths[1:2]]), *widths[2:]])
    writer.field("rnn", total_state(layers))
    ((first, second),) = writer.layers("spelling", spelling)
    row, (_, out) = writer.table("words", words), writer.stack_run("rnn", layers, "b")
    head, size = writer.linear("head", network.linear["head"]), output_size(layers)
    states, embedded, units = state_size(forward) + state_size(backward), words.shape[1], width(forward)
    writer.write(
        f"""
static inline void model_spell(int word, const int *characters, int size, float *x) {{
    float s[{states}];
    int c;
    memset(x, 0, {inputs} * sizeof(float));
    memset(s, 0, sizeof s);
    {row("word", "x")}
    for (c = 0; c < size; c++) model_spelling_0_0(characters[c], s + {first});
    for (c = size - 1; c >= 0; c--) model_spelling_0_1(characters[c], s + {second});
    memcpy(x + {embedded}, s + {first}, {units} * sizeof(float));
    memcpy(x + {embedded + units}, s + {second}, {units} * sizeof(float));
}}
static inline int model_run(model_workspace *w, const int *words, const int *characters, const int *sizes, int length,
                            float *y) {{
    int t;
    if (length < 0 || length > MODEL_MAX_STEPS) return -1;
    for (t = 0; t < length; characters += sizes[t++]) model_spell(words[t], characters, sizes[t], w->b + t * {inputs});
    model_rnn(w, length);
    for (t = 0; t < length; t++) {{ {head(f"w->{out} + t * {size}", f"(y + t * {outputs})")} }}
    return 0;
}}""",
        states,
    )
    given = f"model_test_input, model_test_characters, model_test_sizes, {steps}"
    _test(writer, outputs * steps, f"static model_workspace w; model_run(&w, {given}, y); COMPARE(0)")
    return """   model_workspace w; float y[length * MODEL_OUTPUTS]; model_run(&w, words, characters, sizes, length, y):
   the words of a sentence in lower case, the characters of all of them as they are, and how many each has; returns -1
   where there are more words than MODEL_MAX_STEPS."""


# ------------------------------------------------------------------------------------------ encoder-decoder


def encoder_decoder(writer: Writer, network: Network, record: Record) -> str:
    encoder, decoder, target = network.layers["encoder"], network.layers["decoder"], record["target"]
    outputs = _record(writer, record, input=record["input"], target=np.array([START, *target]))
    hidden, size, attends = decoder.layers[0][0].hidden_size, output_size(encoder), network.attention is not None
    _workspace(writer, _widths(encoder))
    for name, count in {"encoder": total_state(encoder), "decoder": total_state(decoder), "y": outputs}.items():
        writer.field(name, count)
    encoder_starts, out = writer.stack_run("encoder", encoder)
    bridge = _bridge(writer, network, encoder_starts, writer.stack_step("decoder", decoder))
    keys, attend = _attention(writer, network, out) if attends else ("", "")
    head = writer.linear("head", network.linear["head"])
    writer.write(
        f"""
static inline int model_encode(model_workspace *w, const int *x, int length) {{
    float both[{2 * hidden}];
    int i;
    if (length < 0 || length > MODEL_MAX_STEPS) return -1;
    model_encoder(w, x, length);
    {bridge}
    {keys}
    (void)both, (void)i;
    return 0;
}}
static inline void model_decode_step(model_workspace *w, int token, float *y) {{
    float joined[{size + hidden}], total = 0.0f, largest, *h = joined + {size};
    int i;
    model_decoder(token, w->decoder, h);
    {attend}
    {head("h", "y")}
    largest = y[model_argmax(y, {outputs})];
    for (i = 0; i < {outputs}; i++) total += model_exp(y[i] - largest);
    largest += logf(total);
    for (i = 0; i < {outputs}; i++) y[i] -= largest;
}}
static inline int model_translate(model_workspace *w, const int *x, int length, int *out, int *from, int max) {{
    int token = {START}, count = 0;
    if (model_encode(w, x, length) < 0) return -1;
    while (count < max) {{
        model_decode_step(w, token, w->y);
        w->y[{PAD}] = w->y[{START}] = -3e38f;
        token = model_argmax(w->y, {outputs});
        if (token == {END}) break;
        if (from) from[count] = {"model_argmax(w->weights, length)" if attends else "-1"};
        out[count++] = token;
    }}
    return count;
}}""",
        size + 3 * hidden,
    )
    each = f"{{ model_decode_step(&w, model_test_target[t], y); COMPARE(t * {outputs}) }}"
    encode = f"static model_workspace w; model_encode(&w, model_test_input, {len(record['input'])});"
    _test(writer, outputs, f"{encode} for (t = 0; t < {len(target) + 1}; t++) {each}")
    return """   model_workspace w; model_translate(&w, x, length, out, from, max): greedy search, `length` tokens x
   to at most `max` tokens out; returns how many, -1 where the source has more than MODEL_MAX_STEPS. `from`, if not
   NULL, becomes the place in x that each one attends to most, which may replace 3 (<unk>); -1 without attention. Or
   model_encode(&w, x, length), then model_decode_step(&w, token, y): log-probabilities of what follows a token,
   1 (<start>) at first, up to 2 (<end>)."""


def _bridge(writer: Writer, network: Network, starts: list[list[int]], targets: list[list[int]]) -> str:
    """Statements that make the decoder's first state of the encoder's last."""
    encoder = network.layers["encoder"]
    if not encoder.bidirectional:
        return "memcpy(w->decoder, w->encoder, sizeof w->decoder);"
    hidden, states = encoder.layers[0][0].hidden_size, encoder.layers[0][0].equations.states
    bridged = [number for number, state in enumerate(states) if number == 0 or state == "c"]
    each, lines = f"for (i = 0; i < {hidden}; i++)", []
    for number in range(len(states)):
        for layer in range(len(encoder.layers)):
            one, other = (f"w->encoder + {start + number * hidden}" for start in starts[layer])
            out = f"(w->decoder + {targets[layer][0] + number * hidden})"
            if number not in bridged:
                lines.append(f"{each} {out}[i] = {merged('ave', f'({one})[i]', f'({other})[i]')};")
                continue
            name = f"bridge{bridged.index(number) * len(encoder.layers) + layer}"
            lines += [f"memcpy(both, {one}, {hidden} * sizeof(float));"]
            lines += [f"memcpy(both + {hidden}, {other}, {hidden} * sizeof(float));"]
            lines += [writer.linear(name, network.linear[name])("both", out)]
            lines += [f"{each} {out}[i] = model_tanh({out}[i]);"] if number == 0 else []
    return "\n    ".join(lines)


def _attention(writer: Writer, network: Network, out: str) -> tuple[str, str]:
    """Write ``model_attend(w, h, context)``; returns statements that compute the keys, and that attend to them."""
    size, hidden = output_size(network.layers["encoder"]), network.layers["decoder"].layers[0][0].hidden_size
    query, combine = (writer.linear(name, network.linear[name]) for name in ("query", "combine"))
    width, each, keys = len(network.linear["query"].weight), "for (t = 0; t < w->length; t++)", "w->length = length;"
    term = f"(q[i] * w->{out}[t * {width} + i]) * {1 / math.sqrt(size):.9g}f"
    writer.field("weights", 1, writer.max_steps)
    writer.field("length", 0, kind="int")
    if network.attention == "additive":
        writer.field("keys", width, writer.max_steps)
        memory = writer.linear("memory", network.linear["memory"])
        term = (
            f"{writer.vector('score', network.linear['score'].weight)}[i] * model_tanh(q[i] + w->keys[t * {width} + i])"
        )
        key = memory(f"w->{out} + i * {size}", f"(w->keys + i * {width})")
        keys += f"\n    for (i = 0; i < length; i++) {{ {key} }}"
    writer.write(
        f"""
static inline void model_attend(model_workspace *w, const float *h, float *context) {{
    float q[{width}], largest = -3e38f, total = 0.0f;
    int t, i;
    {query("h", "q")}
    {each} {{
        w->weights[t] = 0.0f;
        for (i = 0; i < {width}; i++) w->weights[t] += {term};
        largest = model_maximum(largest, w->weights[t]);
    }}
    {each} total += w->weights[t] = model_exp(w->weights[t] - largest);
    memset(context, 0, {size} * sizeof(float));
    {each} {{
        w->weights[t] /= total;
        for (i = 0; i < {size}; i++) context[i] += w->weights[t] * w->{out}[t * {size} + i];
    }}
}}""",
        width,
    )
    attend = f"""float combined[{hidden}];
    model_attend(w, h, joined);
    {combine("joined", "combined")}
    for (i = 0; i < {hidden}; i++) h[i] = model_tanh(combined[i]);"""
    return keys, attend


WRITERS: dict[Kind, Callable[[Writer, Network, Record], str]] = {
    "char_lm": sequences,
    "many_to_many": sequences,
    "many_to_one": sequences,
    "one_to_many": one_to_many,
    "one_to_one": one_to_one,
    "encoder_decoder": encoder_decoder,
    "tagger": tagger,
}
"""Of each kind, what writes it; returns lines of the header's first comment that say how it is used."""
