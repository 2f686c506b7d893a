"""What the page of ``minirnn look`` computes in a real browser: minirnn's values, within the differences it states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perturb

import minirnn as mr
from minirnn import cells, tasks
from minirnn.autograd import ops
from minirnn.cells import dropout, erf, layer_norm, product, relu, sigmoid, softplus, tanh, where
from minirnn.data.text import Bytes, Characters
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import END, UNK, Labels, Vocabulary
from minirnn.export.page import look, rank
from minirnn.models import CharLM, EncoderDecoder, ManyToOne
from minirnn.nn import Recurrent
from minirnn.nn.state import unpack_state
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.classifier import Classifier
from minirnn.tasks.tagger import Tagger, TaggerModel
from minirnn.tasks.translator import Translator

DATA = Path(__file__).parents[1] / "data_0_1"
TEXT = "to be, or not to be:\nthat is the question; whether it is nobler" * 3
Open = Callable[..., Any]


@mr.cell
def everything(a, g_x, g_h, /, h, s, *, p=0.5):  # type: ignore[no-untyped-def]
    """All that a cell can have, and the functions that no built-in cell uses."""
    s = s + sigmoid(layer_norm(g_x * g_h)) * (dropout(tanh(product(relu(a + p * h)))) - s)
    return tanh(s) + 0.1 * where(h < 0.1, erf(2 * h), softplus(-h)), s


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Open:
    """Return a function that opens the page of a task and runs a script there, with ``model`` and its ``json``."""

    def run(task: Any, script: str, *arguments: Any, text: str | None = TEXT, int8: bool = False) -> Any:
        file = tmp_path / "page.html"
        file.write_bytes(look(task, text, int8=int8))
        browser.get(file.as_uri())
        plain = (
            "JSON.stringify({about: json.about, found}, (key, value) => ArrayBuffer.isView(value) ? [...value] : value)"
        )
        start = 'const json = JSON.parse(document.getElementById("model").textContent), model = makeModel(json);'
        found = json.loads(
            browser.execute_script(f"{start} const found = (() => {{{script}}})(); return {plain};", *arguments)
        )
        assert browser.get_log("browser") == []
        return found["found"], found["about"]

    return run


# ---------------------------------------------------------------------------------------------- character models

READ = """
let state = model.start();
const states = [state], {tokens, pieces, unknown} = model.encode(json.text), {layers} = model;
for (const token of tokens) states.push(state = model.step(state, token));
return {tokens, pieces, unknown, layers, states};
"""


def char_task(cell: Any, dtype: Any = "float32", layers: int = 2, **options: Any) -> TextGenerator:
    mr.manual_seed(3)
    symbols = Characters.of(TEXT)
    task = perturb(TextGenerator(CharLM(len(symbols), 13, layers, cell, 7, dtype=dtype, **options), symbols))
    if cell in ("rnn_relu", "indrnn"):  # or their states grow without bound
        for parameter in task.model.parameters():
            parameter.data[...] *= 0.4
    return task


def step_by_step(model: CharLM, tokens: np.ndarray) -> tuple[np.ndarray, list[list[dict[str, np.ndarray]]]]:
    """Log-probabilities [T, V] and states, computed by the readable cells in primitive operations."""
    rnn = model.layers
    rows = [step.squeeze(0) for step in ops.embedding(model.table(), tokens[:, None]).split(1)]
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in rows]
    for layer in range(rnn.num_layers):
        cell = mr.nn.RecurrentCell(rnn.cell, rows[0].shape[-1], rnn.hidden_sizes[layer], dtype=rnn.dtype)
        for name in dict(cell.named_parameters()):
            setattr(cell, name, getattr(rnn, f"{name}_l{layer}"))
        state, below = None, rows
        rows = []
        for t, row in enumerate(below):
            new, old = unpack_state(cell(row, state)), None if state is None else unpack_state(state)
            new = [n + rnn.zoneout * ((0 if old is None else old[k]) - n) for k, n in enumerate(new)]
            state = tuple(new) if len(new) > 1 else new[0]
            found[t].append({name: n.numpy()[0] for name, n in zip(rnn.cell.states, new, strict=True)})
            rows.append(new[0] + row if rnn.residual and layer else new[0])
    return model.head(ops.stack(rows)).log_softmax(-1).numpy()[:, 0], found


def check_char(task: TextGenerator, found: Any, about: Any) -> None:
    """States and log-probabilities are those of the readable cells, as near as the page says."""
    tokens = np.concatenate([task.start(), task.symbols.encode(TEXT)])
    with task.model.evaluating():
        log_probs, states = step_by_step(task.model, tokens)
    assert found["tokens"] == tokens[1:].tolist()
    stated = about["differences"]
    assert stated["symbols"] == len(tokens)
    assert np.abs(np.array([s["logProbs"] for s in found["states"]]) - log_probs).max() < stated["log_probs"] + 1e-5
    for page, expected in zip(found["states"], states, strict=True):
        for layer, (values, own) in enumerate(zip(page["values"], expected, strict=True)):
            assert list(values) == found["layers"][layer]["values"]
            for name, value in own.items():
                np.testing.assert_allclose(values[name], value, rtol=1e-5, atol=stated["values"] + 1e-5)


@pytest.mark.parametrize("cell", [*cells.names(), everything], ids=lambda cell: getattr(cell, "name", cell))
def test_states_and_log_probabilities_of_every_cell(cell: Any, open_page: Open) -> None:
    task = char_task(cell)
    found, about = open_page(task, READ)
    check_char(task, found, about)
    assert 0 < about["differences"]["values"] < 0.1


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("options", [{"zoneout": 0.2}, {"dtype": "float64"}, {"layers": 1}], ids=str)
def test_zoneout_float64_and_int8(options: dict[str, Any], int8: bool, open_page: Open) -> None:
    task = char_task("gru", **options)
    found, about = open_page(task, READ, int8=int8)
    check_char(task, found, about)
    assert about["weights"] == ("int8" if int8 else "float16")
    assert about["differences"]["values"] < (0.2 if int8 else 0.01)


def test_residual_layers_of_different_cells(open_page: Open) -> None:
    task = char_task(Recurrent("lstm", 7, 13, 3, residual=True))
    found, about = open_page(task, READ)
    check_char(task, found, about)


def test_gates_are_recorded_after_their_activation(open_page: Open) -> None:
    """Against the equations of an LSTM and a GRU, written out here."""

    def pre_activations(task: TextGenerator, below: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = {name: value.numpy() for name, value in task.model.rnn.named_parameters()}
        x, r = p["weight_ih_l0"] @ below + p["bias_ih_l0"], p["weight_hh_l0"] @ h + p["bias_hh_l0"]
        return x.reshape(-1, 13), r.reshape(-1, 13)

    for cell in ("lstm", "gru"):
        task = char_task(cell)
        found, about = open_page(task, READ)
        before, after = (found["states"][t]["values"][0] for t in (40, 41))
        below = task.model.table().numpy()[found["tokens"][40]]
        x, r = pre_activations(task, below, np.array(before["h"]))
        sigma = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
        if cell == "lstm":
            i, f, g, o = x + r
            expected = {"i": sigma(i), "f": sigma(f), "g": np.tanh(g), "o": sigma(o)}
        else:
            reset = sigma(x[0] + r[0])
            expected = {"r": reset, "z": sigma(x[1] + r[1]), "n": np.tanh(x[2] + reset * r[2])}
        assert found["layers"][0]["values"] == ["h", *(["c"] if cell == "lstm" else []), *expected]
        kinds = {name: "tanh" if name in "gn" else "sigmoid" for name in expected}
        assert {name: found["layers"][0]["activations"][name] for name in expected} == kinds
        for name, value in expected.items():
            np.testing.assert_allclose(after[name], value, rtol=0, atol=2 * about["differences"]["values"] + 1e-5)


def test_bytes_and_unknown_characters(open_page: Open) -> None:
    mr.manual_seed(1)
    text = "Äh \U0001f600!"
    task = TextGenerator(CharLM(256, 5, 1), Bytes())
    found, _ = open_page(task, READ, text=text)
    assert found["tokens"] == list(text.encode())
    assert found["pieces"][:3] == ["\\xc3", "\\x84", "h"]
    found, _ = open_page(char_task("rnn"), READ, text="t\U0001f600o Q!b")
    assert ("".join(found["pieces"]), found["unknown"]) == ("to b", [1, 5, 6])  # counted as JavaScript counts
    found, _ = open_page(char_task("rnn"), READ, text="")
    assert len(found["states"]) == 1


def test_ranking_is_that_of_the_values_in_the_page(open_page: Open) -> None:
    found, _ = open_page(char_task(everything), READ.replace("return {", "return {ranking: json.ranking, "))
    values = [
        {name: np.array([state["values"][k][name] for state in found["states"][1:]]) for name in layer["values"]}
        for k, layer in enumerate(found["layers"])
    ]
    expected = rank(values, TEXT, [["h", "s"]] * 2)
    assert {one["measure"] for one in expected} >= {"variance", "memory", "position in line"}
    for page, own in zip(found["ranking"], expected, strict=True):
        assert (page["measure"], page["score"]) == (own["measure"], pytest.approx(own["score"], rel=1e-3))


# ----------------------------------------------------------------------------------------------------- word models

REVIEW = "Don't see this film: it's not a good one, NOT even... for Élodie!"
LABELS = Labels(["bad", "fine", "good"])


def classifier(tokenizer: Tokenizer, pooling: str, **options: Any) -> Classifier:
    mr.manual_seed(5)
    tokens = Vocabulary.of([tokenizer.split(REVIEW)[4:], ["a"]])
    size = 0 if options.pop("one_hot", False) else 6
    model = ManyToOne(len(tokens), 7, 3, pooling=pooling, embedding_size=size, **options)
    return perturb(Classifier(model, tokenizer, tokens, LABELS, 25))


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2},
        {"bidirectional": True, "num_layers": 2},
        {"bidirectional": True, "merge": "mul", "one_hot": True},
    ],
    ids=str,
)
def test_probabilities_of_labels_after_every_word(options: dict[str, Any], pooling: str, open_page: Open) -> None:
    task = classifier(Tokenizer("word" if pooling == "max" else "char", lower=pooling != "last"), pooling, **options)
    found, about = open_page(task, "return model.read(json.text);", text=REVIEW)
    tokens = task.encode(REVIEW)
    assert len(found["words"]) == len(tokens) == len(found["values"]) == len(found["probabilities"])
    logits = task.logits([tokens[: n + 1] for n in range(len(tokens))])
    expected = mr.nn.functional.softmax(logits, 1).numpy()
    assert np.abs(np.array(found["probabilities"]) - expected).max() < 3 * about["output_difference"] + 1e-5
    assert found["result"] == task.predict(REVIEW)["label"]
    assert 0 < about["output_difference"] < 0.01


def test_blank_empty_and_long_texts_of_a_classifier(open_page: Open) -> None:
    task = classifier(Tokenizer(), "max", bidirectional=True)
    script = "return arguments[0].map((text) => model.read(text));"
    texts = [" \n\x1f\x85", "\uffed", "\ufeff", "a " * 3000]
    found, about = open_page(task, script.replace("arguments", "[" + json.dumps(texts) + "]"), text=None)
    assert [one["result"] for one in found] == [task.predict(text)["label"] for text in texts]
    assert found[0]["result"] is None
    assert [len(one["words"]) for one in found] == [0, 0, 1, 25]
    task.max_length = 400
    long, about = open_page(task, "return model.read(json.text);", text="a good film " * 100)
    tokens = task.encode("a good film " * 100)
    assert long["spacing"] == 6
    for n in (6, 150, 300):
        expected = mr.nn.functional.softmax(task.logits([tokens[:n]]), 1).numpy()[0]
        np.testing.assert_allclose(long["probabilities"][n - 1], expected, atol=3 * about["output_difference"] + 1e-5)


@pytest.mark.parametrize("options", [{}, {"bidirectional": False, "num_layers": 2, "cell": "gru"}], ids=str)
def test_tags(options: dict[str, Any], open_page: Open) -> None:
    mr.manual_seed(4)
    words, characters = Vocabulary(["the", "dog", "barks"]), Vocabulary(list("Tedogbarks"))
    task = perturb(Tagger(TaggerModel(7, 14, 3, 9, **options), words, characters, LABELS))
    text = "The dog\u2003barks at \x1c Élodie " + "dog" * 40
    found, about = open_page(task, "return model.read(json.text);", text=text)
    expected = task.predict(text)
    assert found["words"] == expected["tokens"]
    assert found["result"] == expected["tags"]
    best = [max(row) for row in found["probabilities"]]
    assert np.abs(np.array(best) - expected["probabilities"]).max() < 3 * about["output_difference"] + 1e-5
    layers, _ = open_page(task, "return model.layers;")
    directions = ["forward", "backward"] if task.model.tagging.body.layers.bidirectional else [None, None]
    assert [layer.get("direction") for layer in layers] == directions
    assert all(list(v) == l["values"] for v, l in zip(found["values"][0], layers, strict=True))


SOURCE = "Tom doesn't see it, I see Élodie."


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("options", [
    {},
    {"attention": "dot", "bidirectional": False, "num_layers": 2, "cell": "gru"},
    {"attention": None, "embedding_size": 0},
    {"cell": "slstm", "num_layers": 2, "merge": "ave"},
], ids=str)  # fmt: skip
def test_translations_and_attention(options: dict[str, Any], width: int, open_page: Open) -> None:
    mr.manual_seed(8)
    tokenizer = Tokenizer()
    source = Vocabulary(tokenizer.split(SOURCE)[2:-3])
    target = Vocabulary(["Tom", "ne", "l'", "voit", "\uffed,", "pas", "\uffed."])
    task = perturb(Translator(EncoderDecoder(len(source), len(target), 9, **options), tokenizer, source, target))
    task.model.head.bias.data[[END, UNK]] += [-2, 1]
    found, about = open_page(task, f"return model.translate(json.text, {width});", text=SOURCE)
    expected = task.predict(SOURCE, beam=width)
    assert (found["text"], found["target"]) == (expected["target"], expected["tokens"])
    assert found["source"] == expected["source_tokens"]
    assert len(found["probabilities"]) == len(found["target"]) > 0
    if options.get("attention", "") is None:
        assert found["attention"] is None
    else:
        assert (
            np.abs(np.array(found["attention"]) - expected["attention"]).max() < 3 * about["output_difference"] + 1e-4
        )


def test_checkpoints_of_version_0_1(open_page: Open) -> None:
    """Trained runs: a GRU of two layers, attention pooling, a tagger of one direction, dot attention of two layers."""
    task = tasks.load(DATA / "char/run/last.safetensors")
    found, about = open_page(task, READ, text="to be")
    row = mr.nn.functional.softmax(np.array(found["states"][-1]["logProbs"]), 0).numpy()
    expected = task.predict("\nto be")["probabilities"]
    np.testing.assert_allclose(
        row, [expected[s] for s in task.symbols.characters], atol=about["differences"]["log_probs"] + 1e-5
    )
    uses = {
        "classifier": ("read", "a good film"),
        "tagger": ("read", "The dog sees"),
        "translator": ("translate", "He runs."),
    }
    for name, (method, text) in uses.items():
        task = tasks.load(DATA / name / "run/last.safetensors")
        found, about = open_page(task, f"return model.{method}(json.text);", text=text)
        expected = task.predict(text)
        if name == "classifier":
            page = dict(zip(found["labels"], found["probabilities"][-1], strict=True))
            assert page == pytest.approx(expected["probabilities"], abs=3 * about["output_difference"] + 1e-5)
        elif name == "tagger":
            assert found["result"] == expected["tags"]
        else:
            assert found["target"] == expected["tokens"]


# --------------------------------------------------------------------------------------------------- words of a text

TEXTS = [
    "It's 3.14 (or so)! J\u2019ai \uffedx\uffed ... don't''t 'tis '",
    "ΟΔΟΣ ΟΔΟΣ. İstanbul STRASSE \u1e9e \u0130 \U00010400",
    "e\u0301 \u1100\u1161 क्\u200dष न\u093f \u0300a \u2460 x\u00b2 \u216b _a_ \U0001d7d8 \u4e09",
    "a\x1cb\x85c\u2028d\ufeffe\u180ef\u200bg\xa0h\x00i\u3000",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u05d0\u05d1 \u202eabc",
    "",
    " ",
]


@pytest.mark.parametrize("rule", ["word", "char", "space"])
def test_texts_are_split_and_joined_as_in_python(rule: str, open_page: Open) -> None:
    rng = np.random.default_rng(0)
    alphabet = [
        *"aB'\u2019 .,\uffed\t-é_3",
        "e\u0301",
        "\u0300",
        "\u200d",
        "\U0001f600",
        "ß",
        "Σ",
        "\u4e2d",
        "\x1f",
        "\u00bd",
    ]
    texts = [*TEXTS, *("".join(rng.choice(alphabet, 12)) for _ in range(300))]
    for lower in (False, True):
        tokenizer = Tokenizer(rule, lower)
        task = classifier(tokenizer, "mean")
        script = "const t = model.tokenizer; return arguments.map((text) => [t.split(text), t.join(t.split(text))]);"
        found, _ = open_page(task, script.replace("arguments", json.dumps(texts)))
        assert found == [[tokenizer.split(text), tokenizer.join(tokenizer.split(text))] for text in texts]
