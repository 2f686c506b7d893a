"""ONNX files: valid for ``onnx.checker``, and in onnxruntime equal to the model they were made of."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import tasks
from minirnn.cells import abs as magnitude
from minirnn.cells import (
    erf,
    exp,
    log,
    log1p,
    maximum,
    mean,
    minimum,
    product,
    relu,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    where,
)
from minirnn.cells import sum as total
from minirnn.data.vocabulary import END, PAD, START
from minirnn.errors import OptionError
from minirnn.export import to_onnx
from minirnn.export.network import describe
from minirnn.export.record import record
from minirnn.export.to_onnx import program
from minirnn.kernels.graph import OPERATIONS, ancestors
from minirnn.nn.state import pack_state, unpack_state
from minirnn.tasks.tagger import Batch

REASON = "is not installed (extra: peers)"
onnx = pytest.importorskip("onnx", reason=f"onnx {REASON}")
runtime = pytest.importorskip("onnxruntime", reason=f"onnxruntime {REASON}")

FOLDER = Path(__file__).parents[1] / "data_0_1"
LENGTHS = np.array([7, 0, 3, 1])
T, N = 7, 4
BOUND = {"float32": 1e-5, "float64": 1e-10}


def open_session(model: Any, task: dict[str, Any] | None = None) -> Any:
    """The model as a checked file, opened by onnxruntime."""
    data = program(replace(describe(model), task=task), record(model))
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def operators(session_or_model: Any) -> set[str]:
    data = program(describe(session_or_model), record(session_or_model))
    return {node.op_type for node in onnx.load_from_string(data).graph.node}


def run(session: Any, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def check(found: dict[str, np.ndarray], expected: dict[str, Any], bound: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        np.testing.assert_allclose(found[name], value.numpy(), atol=bound, rtol=bound, err_msg=name)


def perturbed(model: Any) -> Any:
    """Weights that are not zero anywhere, in evaluation."""
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data[...] += rng.normal(0, 0.3, parameter.shape)
    return model.eval()


def random_input(model: Any, body: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tokens or vectors, of other lengths than the recorded ones, and initial states where they are inputs."""
    dtype = next(model.parameters()).dtype
    x = rng.integers(0, body.input_size, (T, N)) if body.takes_tokens else rng.standard_normal((T, N, body.input_size))
    feed = {"tokens": x} if body.takes_tokens else {"x": x.astype(dtype)}
    if not body.layers.bidirectional and getattr(model, "pooling", None) is None:
        rnn = body.layers
        for name in rnn.cell.states:
            size = rnn.proj_size if name == "h" and rnn.proj_size else rnn.hidden_sizes[0]
            feed[f"{name}_0"] = rng.uniform(0.5, 1, (rnn.num_layers, N, size)).astype(dtype)
    return feed


def check_sequence(model: Any, body: Any) -> None:
    """Compare a model with its file, on ragged sequences; twice, to see that nothing is kept from call to call."""
    session, rng = open_session(model), np.random.default_rng(2)
    for _ in range(2):
        feed = random_input(model, body, rng)
        x = feed.get("tokens", feed.get("x"))
        state = pack_state([mr.tensor(v, dtype=str(v.dtype)) for name, v in feed.items() if name.endswith("_0")])
        with model.evaluating():
            if isinstance(model, mr.models.CharLM):
                y, final = model(x, state)
            else:
                feed["lengths"] = LENGTHS
                outputs, final = body(x, LENGTHS, state)
                if isinstance(model, mr.models.ManyToOne):
                    pooling = model.pooling
                    outputs = body.last(final) if pooling is None else pooling(outputs, LENGTHS)
                y = model.head(outputs)
        stepping = isinstance(state, (tuple, mr.Tensor))
        finals = zip(body.layers.cell.states, unpack_state(final), strict=True) if stepping else ()
        expected = {"y": y} | {f"{name}_n": value for name, value in finals}
        check(run(session, feed), expected, BOUND[str(y.dtype)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", mr.cells.names())
def test_every_cell(cell: str, dtype: Any) -> None:
    """Two layers from given states, and two directions."""
    for options in ({}, {"bidirectional": True}):
        model = perturbed(mr.models.ManyToMany(3, 5, 4, 2, cell, dtype=dtype, **options))
        check_sequence(model, model.body)


def test_cells_that_onnx_knows_are_one_node() -> None:
    """Others, those with zoneout and those in float64 are a Scan."""
    expected = {"lstm": "LSTM", "peephole_lstm": "LSTM", "gru": "GRU", "gru_reset_before": "GRU", "rnn": "RNN"}
    recurrent = {"LSTM", "GRU", "RNN", "Scan"}
    for cell in mr.cells.names():
        found = operators(mr.models.ManyToMany(2, 3, 2, cell=cell)) & recurrent
        assert found == {expected.get(cell.removesuffix("_relu"), "Scan")}
        assert operators(mr.models.ManyToMany(2, 3, 2, cell=cell, dtype="float64")) & recurrent == {"Scan"}
        zoneout = perturbed(mr.models.ManyToMany(2, 3, 2, cell=cell, zoneout=0.3))
        assert operators(zoneout) & recurrent == {"Scan"}
        check_sequence(zoneout, zoneout.body)


def test_every_operation_of_equations() -> None:
    """In float32: onnxruntime has no erf in float64."""

    @mr.cell
    def cell(a, g_x, n_h, /, h, c, k, *, u=0.5, w=1.0):  # type: ignore[no-untyped-def]
        low = where(a > g_x, log1p(exp(-magnitude(a))), where(a <= n_h, log(1 + a * a), erf(g_x)))
        inner = product(minimum(tanh(n_h), u)) + product(tanh(mean(g_x)) + w) - softplus(a)
        new = tanh(low + inner) / sqrt(1 + total(h * h)) + maximum(a, 0.1) - mean(h) + 0.1 * total(u)
        return tanh(new), sigmoid(-mean(a)), relu(w) * 0.5

    resolved = cell.equations.resolve(training=False)
    assert {node.op for node in ancestors(resolved.new)} >= OPERATIONS.keys() - {"zoneout", "dropout"}

    model = perturbed(mr.models.ManyToMany(3, 5, 4, 2, cell, bidirectional=True))
    check_sequence(model, model.body)
    model = perturbed(mr.models.CharLM(7, 5, 1, cell))
    check_sequence(model, model)


def test_a_cell_called_lstm_with_equations_of_its_own() -> None:
    @mr.cell
    def lstm(i, f, g, o, /, h, c):  # type: ignore[no-untyped-def]
        c = tanh(f) * c + tanh(i) * tanh(g)
        return tanh(o) * c, c

    model = perturbed(mr.models.ManyToMany(3, 5, 4, 1, lstm))
    assert "LSTM" not in operators(model)
    check_sequence(model, model.body)


SEQUENCES: dict[str, Callable[[], Any]] = {
    "merge by sum": lambda: mr.models.ManyToMany(3, 5, 4, 2, "lstm", True, "sum"),
    "merge by mul, tokens": lambda: mr.models.ManyToMany(9, 5, 4, 2, "mgu", True, "mul", embedding_size=3),
    "merge by ave, one-hot": lambda: mr.models.ManyToMany(9, 5, 4, 2, "gru", True, "ave", embedding_size=0),
    "one-hot, float64": lambda: mr.models.ManyToMany(9, 5, 4, embedding_size=0, dtype="float64"),
    "residual": lambda: mr.models.ManyToMany(3, 5, 4, cell=mr.nn.Recurrent("gru", 3, 5, 3, residual=True)),
    "without biases": lambda: mr.models.ManyToMany(3, 5, 4, cell=mr.nn.LSTM(3, 5, 2, bias=False)),
    "Scan without biases": lambda: mr.models.ManyToMany(3, 5, 4, cell=mr.nn.Recurrent("ugrnn", 3, 5, bias=False)),
    "projection": lambda: mr.models.ManyToMany(3, 2, 4, cell=mr.nn.LSTM(3, 5, 2, proj_size=2)),
    "projection, two directions": lambda: mr.models.ManyToMany(
        3, 4, 4, cell=mr.nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True)
    ),
    "characters": lambda: mr.models.CharLM(9, 5, 2, "peephole_lstm", 4),
    "last": lambda: mr.models.ManyToOne(3, 5, 4, 2, "lstm"),
    "last of two": lambda: mr.models.ManyToOne(3, 5, 4, 2, "coupled_lstm", True, embedding_size=None),
    "last, mean of two": lambda: mr.models.ManyToOne(9, 5, 4, 2, "gru", True, "ave", embedding_size=3),
    "pooled by mean": lambda: mr.models.ManyToOne(9, 5, 4, 1, "lstm", True, pooling="mean", embedding_size=3),
    "pooled by max": lambda: mr.models.ManyToOne(9, 5, 4, 1, "lstm", True, pooling="max", embedding_size=3),
    "pooled by attention": lambda: mr.models.ManyToOne(9, 5, 4, 1, "lstm", True, pooling="attention", embedding_size=3),
    "attention, float64": lambda: mr.models.ManyToOne(3, 5, 4, pooling="attention", dtype="float64"),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_options_of_sequence_models(name: str) -> None:
    model = perturbed(SEQUENCES[name]())
    check_sequence(model, model if isinstance(model, mr.models.CharLM) else model.body)


def test_layers_that_differ_in_size_start_from_zeros() -> None:
    model = perturbed(mr.models.ManyToOne(3, 4, 2, cell=mr.nn.Recurrent("gru", 3, [5, 4], 2)))
    x = np.random.default_rng(0).standard_normal((T, N, 3)).astype("float32")
    with model.evaluating():
        check(run(open_session(model), {"x": x, "lengths": LENGTHS}), {"y": model(x, LENGTHS)})


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("cell", "dtype"), [("lstm", "float32"), ("slstm", "float32"), ("gru", "float64")])
@pytest.mark.parametrize("feedback", ["none", "sigmoid", "tokens", "one-hot"])
@pytest.mark.parametrize("condition", ["start", "every_step"])
def test_one_to_many(condition: str, feedback: str, cell: str, dtype: Any, layers: int) -> None:
    options: dict[str, Any] = {"condition": condition}
    options |= {"embedding_size": 0 if feedback == "one-hot" else 3} if feedback in ("tokens", "one-hot") else {}
    activation = "sigmoid" if feedback == "sigmoid" else "none"
    model = perturbed(mr.models.OneToMany(3, 5, 4, layers, cell, activation=activation, dtype=dtype, **options))
    first = np.random.default_rng(0).standard_normal((N, 3)).astype(dtype)
    with model.evaluating():
        expected = {"y": model(first, length=9)}
    check(run(open_session(model), {"first": first, "length": np.array(9)}), expected, BOUND[dtype])


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_one_to_one(activation: str) -> None:
    for layers in range(3):
        model = perturbed(mr.models.OneToOne(3, 5, 2, layers, activation))
        x = np.random.default_rng(0).standard_normal((N, 3)).astype("float32")
        with model.evaluating():
            check(run(open_session(model), {"x": x}), {"y": model(x)})


@pytest.mark.parametrize("attention", ["additive", "dot", None])
@pytest.mark.parametrize(("cell", "dtype"), [("lstm", "float32"), ("slstm", "float32"), ("gru", "float64")])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_encoder_decoder(bidirectional: bool, cell: str, dtype: Any, attention: str | None) -> None:
    options: dict[str, Any] = {"bidirectional": bidirectional, "attention": attention, "dtype": dtype}
    model = perturbed(mr.models.EncoderDecoder(9, 8, 5, 2, cell, merge="sum", **options))
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 9, (T, N)), rng.integers(0, 8, (5, N))
    with model.evaluating():
        logits = model(source, np.concatenate([target, target[:1]]), LENGTHS)
    feed = {"source": source, "source_lengths": LENGTHS, "target": target}
    check(run(open_session(model), feed), {"log_probs": logits.log_softmax(-1)}, BOUND[dtype])


def checkpoint(name: str) -> Any:
    return tasks.load(FOLDER / name / "run" / "last.safetensors")


def recorded(session: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs of the record in a file, and the output it has for them."""
    made = {name: np.array(value) for name, value in json.loads(metadata(session)["record"]).items()}
    x = made["input"]
    ones = {"lengths": np.array([len(x)]), "forms": np.arange(len(x))[:, None], "tokens": x[:, None], "x": x[:, None]}
    target = np.array([START, *made.get("target", ())], np.int64)[:, None]
    ones = made | ones | {"source": x[:, None], "source_lengths": ones["lengths"], "target": target}
    feed = {}
    for one in session.get_inputs():
        if one.name.endswith("_0"):
            ones[one.name] = np.zeros([1 if isinstance(size, str) else size for size in one.shape])
        feed[one.name] = ones[one.name].astype({"tensor(float)": "f", "tensor(double)": "d"}.get(one.type, "int64"))
    return feed, made["output"]


def metadata(session: Any) -> dict[str, str]:
    return session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FOLDER.glob("*/run")))
def test_checkpoints_of_every_task(name: str) -> None:
    """Their record is computed again, and the vocabulary is in the file."""
    task = checkpoint(name)
    session = open_session(task.model, task.config())
    assert json.loads(metadata(session)["task"]) == json.loads(json.dumps(task.config()))
    assert metadata(session)["kind"] == describe(task.model).kind
    feed, output = recorded(session)
    found = session.run(None, feed)[0]
    np.testing.assert_allclose(np.squeeze(found), np.squeeze(output), atol=1e-5)


def test_greedy_text_by_steps() -> None:
    """One symbol in, the states from call to call: what ``minirnn sample --temperature 0`` writes."""
    generator = checkpoint("char")
    session = open_session(generator.model)
    feed, _ = recorded(session)
    token, written = int(generator.symbols.encode("t")[0]), []
    for _ in range(50):
        y, *states = session.run(None, feed | {"tokens": np.array([[token]])})
        feed = dict(zip(list(feed), [feed["tokens"], *states], strict=True))
        token = int(y[-1, 0].argmax())
        written.append(token)
    text = "".join(generator.sample("t", 50, temperature=0))
    assert text == generator.symbols.decoder()(np.array(written))


def test_greedy_translation_by_prefixes() -> None:
    model = checkpoint("translator").model
    session, source = open_session(model), np.array([[5], [4], [7], [4]])
    best = model.generate(source)[0].tokens
    target = [START]
    while len(target) <= len(best):
        feed = {"source": source, "source_lengths": np.array([4]), "target": np.array(target)[:, None]}
        log_probs = session.run(None, feed)[0][-1, 0]
        log_probs[[PAD, START]] = -np.inf
        target.append(int(log_probs.argmax()))
    assert target[1:] == list(best)
    assert END in best or len(best) == 2 * len(source) + 10


def test_tags_of_several_sentences() -> None:
    tagger = checkpoint("tagger")
    rng, words = np.random.default_rng(0), tagger.model.embedding.num_embeddings
    tokens, forms = rng.integers(0, words, (T, N)), rng.integers(0, 5, (T, N))
    characters, sizes = rng.integers(0, len(tagger.characters), (6, 5)), np.array([6, 1, 3, 2, 5])
    batch = Batch(tokens, forms, characters, sizes, LENGTHS)
    with tagger.model.evaluating():
        expected = tagger.model(batch).numpy()
    feed = {"tokens": tokens, "forms": forms, "characters": characters, "sizes": sizes, "lengths": LENGTHS}
    found = open_session(tagger.model).run(None, feed)[0]
    np.testing.assert_allclose(found.reshape(T * N, -1)[batch.valid], expected, atol=1e-5)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    model = mr.models.OneToOne(2, 2, 2)
    with pytest.raises(OptionError, match=r"minirnn\[onnx\]"):
        program(describe(model), record(model))


def test_weights_that_no_file_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mr.models.OneToOne(2, 2, 2, 0)  # 6 numbers
    monkeypatch.setattr(to_onnx, "MAX_BYTES", 23)
    with pytest.raises(OptionError, match="at most 23 bytes"):
        open_session(model)
    monkeypatch.setattr(to_onnx, "MAX_BYTES", 24)
    open_session(model)


def test_a_module_as_cell_is_refused() -> None:
    model = mr.models.ManyToMany(3, 4, 2, cell=mr.nn.Recurrent([mr.nn.GRUCell(3, 4)]))
    with pytest.raises(OptionError, match="Unrolled"):
        describe(model)
