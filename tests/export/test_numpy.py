"""Programs exported to NumPy compute what minirnn does, in a process that has nothing but NumPy."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import close, invoke, json_of, refusal

import minirnn as mr
from minirnn import checkpoint, tasks
from minirnn.cells import (
    abs,
    erf,
    exp,
    layer_norm,
    log,
    log1p,
    maximum,
    minimum,
    product,
    relu,
    sigmoid,
    softplus,
    sqrt,
    sum,
    tanh,
    where,
    zoneout,
)
from minirnn.cells._cell import Cell
from minirnn.data.text import Characters, Words
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import Labels, Vocabulary
from minirnn.errors import OptionError
from minirnn.export.record import record
from minirnn.models import CharLM, EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne
from minirnn.nn import LSTM, Recurrent
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.classifier import Classifier
from minirnn.tasks.tagger import TaggerModel
from minirnn.tasks.translator import Translator
from minirnn.tasks.words import WordGenerator

DATA = Path(__file__).parents[1] / "data_0_1"
ALONE = """\
import importlib, json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"numpy", *sys.stdlib_module_names, *allowed}:
            raise ImportError(f"{name} is not NumPy")
sys.meta_path.insert(0, Blocker())
"""
NASTY = [
    "It's 3.14 (or so)!",
    "J'ai l\u2019e\u0301te\u0301 \uffed\uffed a\uffedb",
    "",
    " \t\u2028\x85 ",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0130I\u0307 \u00df \u1e9e \ufb03",
    "a'' ''b 'c' ' d'1 _x_ \u200db\u200c",
    "\U0001f468\u200d\U0001f469 \ud800 \x00 \u0600\u0301",
    '"quotes" \\n {braces} %s\n\nline',
    "x" * 50 + "\u0301" * 3,
]
HOSTILE = ['"', "'", '"""', "'''", "\\", '\\"""', "\n", "\r", "\0", "\u2028", "\u202e", "\ud800", "\ud800\udc00", "{x}"]
HOSTILE += ['"""\nopen("executed", "w")\n"""', "'+__import__('os').abort()+'", "#", "\ufeff", "\U0001f600"]


@mr.cell
def everything(a, b, n_h, d_x, /, h, s, *, u=0.3, v=-0.2):
    """All functions of equations, and all kinds of constants."""
    a = layer_norm(tanh(a), u) + where(h < 0.1, relu(b), -0.25 * abs(b)) - minimum(v, 2) * maximum(d_x, -1e-3)
    s = zoneout(0.5 * s + erf(a) / sqrt(1 + log1p(exp(-softplus(b)))), s, 0.3)
    return tanh((1 - sigmoid(n_h)) * product(a - s) + product(sum(b) / 9)) - log(2 + h * h) / 3, s


def renamed(cell: str, **names: str) -> Cell:
    """A cell of a file, whose parts have other names."""
    text = json.dumps(mr.cells.get(cell).to_data())
    for before, after in names.items():
        text = text.replace(f'"{before}"', f'"{after}"')
    return Cell.from_data(json.loads(text))


def every_model() -> dict[str, Callable[[], Any]]:
    """Every cell in every kind of model, and every option of the kinds."""
    made: dict[str, Callable[[], Any]] = {}
    awkward = renamed("lstm", lstm="np", i="lambda", f="np", g="state", o="x", h="w", c="recurrent")
    clash = renamed("peephole_lstm", i="new_h", f="t1", g="\u210c", o="H", p_i="sigmoid", p_f="weight", p_o="def")
    for cell in [*mr.cells.names(), everything, awkward, clash]:
        name = cell if isinstance(cell, str) else f"own_{cell.gates[0]}"
        made[f"{name}_char"] = partial(CharLM, 7, 5, 2, cell)
        made[f"{name}_many_to_many"] = partial(ManyToMany, 3, 5, 4, 2, cell)
        made[f"{name}_many_to_one"] = partial(ManyToOne, 3, 5, 2, 2, cell, bidirectional=True, pooling="mean")
        made[f"{name}_one_to_many"] = partial(OneToMany, 3, 5, 4, 2, cell)
        made[f"{name}_encoder_decoder"] = partial(EncoderDecoder, 9, 8, 5, 2, cell)
        made[f"{name}_tagger"] = partial(TaggerModel, 9, 8, 4, 5, 1, cell, embedding_size=3)
    for pooling in ("last", "max", "attention"):
        model = partial(ManyToOne, 6, 5, 3, 2, pooling=pooling, embedding_size=4)
        for merge in ("concat", "sum", "mul", "ave"):
            made[f"{pooling}_{merge}"] = partial(model, bidirectional=True, merge=merge)
        made[f"{pooling}"] = partial(model, embedding_size=0)
    for attention in ("additive", "dot", None):
        model = partial(EncoderDecoder, 9, 8, 5, attention=attention)
        for merge in ("concat", "ave"):
            made[f"{attention}_{merge}"] = partial(model, merge=merge, embedding_size=0, zoneout=0.2)
        made[f"{attention}_one_way"] = partial(model, 2, "gru", bidirectional=False)
    for activation in ("relu", "tanh", "sigmoid"):
        made[f"one_to_one_{activation}"] = partial(OneToOne, 4, 6, 3, 2, activation)
    residual = partial(Recurrent, "gru", 7, 5, residual=True)
    return made | {
        "linear": partial(OneToOne, 4, 6, 3, 0),
        "tokens": partial(OneToMany, 3, 5, 4, embedding_size=3),
        "caption": partial(OneToMany, 3, 5, 4, 2, embedding_size=3, condition="every_step", end=1),
        "conditioned": partial(OneToMany, 3, 5, 4, 2, "gru", activation="sigmoid", condition="every_step"),
        "probabilities": partial(OneToMany, 3, 5, 4, activation="sigmoid", dtype="float64"),
        "zoneout": partial(TaggerModel, 9, 8, 4, 5, zoneout=0.3, bidirectional=False),
        "float64": partial(ManyToMany, 3, 5, 4, 2, everything, dtype="float64"),
        "both": partial(ManyToMany, 3, 5, 4, 2, bidirectional=True, merge="mul", zoneout=0.1),
        "projection": lambda: CharLM(7, 3, cell=LSTM(3, 5, 2, proj_size=3), embedding_size=3),
        "uneven": lambda: ManyToOne(7, 4, 2, cell=Recurrent("gru", 7, [3, 4], 2)),
        "residual": lambda: ManyToMany(7, 10, 2, cell=residual(num_layers=2, bidirectional=True)),
        "no_bias": lambda: ManyToMany(7, 5, 2, cell=residual(num_layers=3, bias=False)),
    }


def alone(folder: Path, code: str, *arguments: str, code_of_exit: int = 0, allowed: Sequence[str] = ()) -> str:
    """Run code in a process that can import modules of a folder, NumPy and the standard library only."""
    code = f"allowed = {list(allowed)}\n{ALONE}sys.path.insert(0, '')\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == code_of_exit, done.stderr
    return done.stdout


def asked(folder: Path, module: str, expression: str, values: Any = None) -> Any:
    """The value of an expression of an exported module ``m`` and of plain ``values``."""
    code = f"values = {values!a}\nm = importlib.import_module({module!r})\nprint(ascii({expression}))"
    return ast.literal_eval(alone(folder, code, allowed=[module]))


def made_different(task: Any) -> Any:
    """Replace all weights by larger random ones, so that outputs depend on inputs."""
    for number, parameter in enumerate(task.model.parameters()):
        parameter.data[...] = np.random.default_rng(number).normal(0, 1.5, parameter.shape)
    return task


def saved(task: Any, path: Path) -> Path:
    """The path of a checkpoint, beside which the exported program lies as ``<stem>_model.py``."""
    arrays = {f"model.{key}": np.asarray(value) for key, value in task.model.state_dict().items()}
    checkpoint.save(path, arrays, task.config())
    mr.export(task, path.with_name(f"{path.stem}_model.py"))
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every task, with weights that make a difference."""
    folder = tmp_path_factory.mktemp("checkpoints")
    loaded = {path.parent.name: tasks.load(path / "last.safetensors") for path in DATA.glob("*/run")}
    return {name: saved(made_different(task), folder / f"{name}.safetensors") for name, task in loaded.items()}


def test_every_cell_in_every_model(tmp_path: Path) -> None:
    """Outputs for another input than the recorded one, and of the whole file by its own test."""
    expected, inputs = {}, {}
    for name, make in every_model().items():
        model = make()
        for parameter in model.parameters():
            parameter.data[...] += np.random.default_rng(1).normal(0, 0.3, parameter.shape)
        mr.export(model, tmp_path / f"{name}.py")
        made = record(model, seed=1)
        expected[name] = made["output"]
        inputs |= {f"{name}.{key}": value for key, value in made.items()}
    np.savez(tmp_path / "inputs.npz", **inputs)
    code = """\
import numpy as np
data, outputs = np.load("inputs.npz"), {}
for name in sys.argv[1:]:
    m = importlib.import_module(name)
    assert m.self_test(), name
    assert isinstance(m.example(), str)
    outputs[name] = m.replay({key.partition(".")[2]: data[key] for key in data if key.startswith(name + ".")})
np.savez("outputs.npz", **outputs)
"""
    alone(tmp_path, code, *expected, allowed=list(expected))
    outputs = np.load(tmp_path / "outputs.npz")
    for name, output in expected.items():
        assert outputs[name].dtype == output.dtype, name
        bound = 1e-5 if output.dtype == np.float32 else 1e-12
        difference = np.abs(outputs[name] - output).max() / max(1, np.abs(output).max())
        assert difference <= bound, (name, difference)


def test_steps_give_what_a_whole_sequence_gives(tmp_path: Path) -> None:
    mr.export(ManyToMany(3, 5, 4, 2, "gru", embedding_size=3), tmp_path / "model_steps.py")
    code = "[(s := m.step(t, s and s[1]))[0].tolist() for t in values], m.run(values)[0].tolist()"
    steps, whole = asked(tmp_path, "model_steps", f"(lambda s: [{code}])(None)", [0, 2, 1, 1])
    np.testing.assert_allclose(steps, whole, 1e-5, 1e-6)
    going_on = "[*m.run(values[:3])[0].tolist(), *m.run(values[3:], m.run(values[:3])[1])[0].tolist()]"
    np.testing.assert_allclose(asked(tmp_path, "model_steps", going_on, [0, 2, 1, 1]), whole, 1e-5, 1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_a_sequence_without_steps(pooling: str, tmp_path: Path) -> None:
    model = ManyToOne(6, 5, 3, bidirectional=True, pooling=pooling, embedding_size=4)
    expected = model.eval()([[0]], lengths=[0]).numpy()[0]
    mr.export(model, tmp_path / "model_empty.py")
    np.testing.assert_allclose(asked(tmp_path, "model_empty", "m.run(m.np.zeros(0, int)).tolist()"), expected, 1e-5)


def test_character_model_samples_the_same_text(checkpoints: dict[str, Path]) -> None:
    """Greedy; and with a seed its own text again."""
    path = checkpoints["char"]
    for prime in ("", "to be", "\u00fcbe"):
        text = json_of("sample", str(path), "--prime", prime, "--length", "300", "--temperature", "0", "--quiet")[
            "text"
        ]
        assert asked(path.parent, "char_model", "m.sample(values, 300, 0)", prime) == text
        assert len({*text}) > 1
    texts = asked(path.parent, "char_model", "[m.sample('to', 100, 1.0, seed) for seed in (1, 1, 2)]")
    assert texts[0] == texts[1] != texts[2]
    counts = asked(path.parent, "char_model", "[m.sample('t', 1, 0.5, seed) for seed in range(3000)]")
    generator = TextGenerator.load(path)
    logits = generator.model(generator.symbols.encode("t"))[0].numpy()[-1]
    p = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    frequency = np.bincount(generator.symbols.encode("".join(counts)), minlength=len(p)) / 3000
    assert (np.abs(frequency - p) < 5 * np.sqrt(p * (1 - p) / 3000) + 1e-3).all()


def test_word_model_with_tied_weights(tmp_path: Path) -> None:
    """The program is that of the model: tokens in, logits out."""
    symbols = Words.of(["to be, or not"])
    task = made_different(WordGenerator(CharLM(len(symbols), 5, 1, tie_weights=True).eval(), symbols))
    task._data = {}
    mr.export(task, tmp_path / "word_model.py")
    tokens = symbols.encode("or to be").tolist()
    found = asked(tmp_path, "word_model", "m.run(m.np.array(values))[0].tolist()", tokens)
    np.testing.assert_allclose(found, task.model(tokens)[0].numpy(), rtol=1e-4, atol=1e-5)


def test_byte_model(tmp_path: Path) -> None:
    Path(tmp_path, "text.txt").write_text("\u00e9t\u00e9 " * 40)
    invoke("train-char", f"{tmp_path}/text.txt", "--bytes", "--hidden", "4", "--steps", "1", "--out", f"{tmp_path}/run")
    invoke("export", f"{tmp_path}/run", "-o", f"{tmp_path}/model_bytes.py")
    options = ("--prime", "\u00e9", "--length", "40", "--temperature", "0", "--quiet")
    text = json_of("sample", f"{tmp_path}/run", *options)["text"]
    assert asked(tmp_path, "model_bytes", "m.sample('\u00e9', 40, 0)") == text


def test_classifier_and_tagger_and_translator_predict_the_same(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    lines = [text.replace("\n", " ").replace("\x85", " ").replace("\ud800", "?") for text in NASTY]
    lines += ["a good film", "so BAD, not good!", "The dog barks .", "He runs.", "Zoe goes Tom."]
    Path(tmp_path, "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def predicted(name: str, expression: str, *options: str) -> tuple[list[Any], list[Any]]:
        done = invoke("predict", str(checkpoints[name]), f"{tmp_path}/lines.txt", "--json", *options)
        found = asked(checkpoints[name].parent, f"{name}_model", f"[{expression} for text in values]", lines)
        return found, [json.loads(line) for line in done.stdout.split("\n")[:-1]]

    for found, expected in zip(*predicted("classifier", "m.predict(text)"), strict=True):
        assert found == close(expected.get("probabilities", {}), 1e-5)
        assert next(iter(found), None) == expected["label"]
    for found, expected in zip(*predicted("tagger", "m.predict(text)"), strict=True):
        assert found == list(zip(expected["tokens"], expected["tags"], strict=True))
    found, expected = predicted("translator", "m.translate(text)", "--beam", "1")
    assert found == [one["target"] for one in expected]
    assert len({*found}) > 3


@pytest.mark.parametrize(
    "options",
    [{"base": "trend", "season": 4}, {"base": "season", "log": True}, {"base": "last", "bidirectional": True}],
)
def test_forecaster_forecasts_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    table = "b,a\n" + "".join(f"{n * 53 % 7 - 3},{12 + n * 37 % 11 + n / 8}\n" for n in range(60))
    Path(tmp_path, "series.csv").write_text(table)
    kind = tasks.TASKS["forecaster"]
    config = kind.Config.from_dict({"inputs": ("b",), "horizon": 3, "seq_length": 6, "hidden_size": 4, **options})
    task = kind.build(kind.read([f"{tmp_path}/series.csv"], config), config)
    saved(made_different(task), tmp_path / "run.safetensors")
    expected = json_of("predict", f"{tmp_path}/run.safetensors", f"{tmp_path}/series.csv")["horizon"]
    rows = [[float(cell) for cell in reversed(line.split(","))] for line in table.splitlines()[1:]]
    assert asked(tmp_path, "run_model", "m.predict(values)", rows) == close(expected, 1e-5)


def test_captions_end(tmp_path: Path) -> None:
    """``greedy``, for a vector and for a label, is a beam search of width 1."""
    model = OneToMany(3, 5, 6, 2, embedding_size=3, condition="every_step", end=1)
    for number, parameter in enumerate(model.parameters()):
        parameter.data[...] = np.random.default_rng(number).normal(0, 1.5, parameter.shape)
    mr.export(model, tmp_path / "caption.py")
    firsts = np.random.default_rng(0).standard_normal((20, 3)).round(3)
    expected = [one.tokens.tolist() for one in model.generate(firsts, 7, beam_width=1)]
    assert len({*map(len, expected)}) > 1
    assert asked(tmp_path, "caption", "[m.greedy(first, 7) for first in values]", firsts.tolist()) == expected
    expected = [one.tokens.tolist() for one in model.generate([0, 2], 7, beam_width=1)]
    assert asked(tmp_path, "caption", "[m.greedy(first, 7) for first in values]", [0, 2]) == expected


def test_composer_composes_the_same_piece(checkpoints: dict[str, Path]) -> None:
    path = checkpoints["music"]
    for start, text, seed in (([], "", 3), ([[64, 60], [62]], "[[64, 60], [62]]", 4)):
        options = ("--length", "40", "--seed", str(seed))
        piece = json_of("predict", str(path), *([text] if text else []), *options, input="")["piece"]
        assert asked(path.parent, "music_model", f"m.sample(values, 40, 1.0, {seed})", start) == piece
    likely = asked(path.parent, "music_model", "list(m.predict(values).values())", [[60], [64]])
    roll = np.zeros((2, 1, 88), np.float32)
    roll[[0, 1], 0, [60 - 21, 64 - 21]] = 1
    np.testing.assert_allclose(likely, tasks.load(path).model(roll)[0].sigmoid().numpy()[-1, 0], 1e-5)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("rule", ["space", "char", "word"])
def test_tokens_are_identical(rule: str, lower: bool, tmp_path: Path) -> None:
    tokenizer = Tokenizer(rule, lower)
    words = Vocabulary(dict.fromkeys(token for text in NASTY for token in tokenizer.split(text)))
    task = Translator(EncoderDecoder(len(words), len(words), 3), tokenizer, words, words)
    task._data = {}
    mr.export(task, tmp_path / "model_tokens.py")
    split, joined = asked(
        tmp_path, "model_tokens", "[[m.split(t) for t in values], [m.join(m.split(t)) for t in values]]", NASTY
    )
    assert split == [tokenizer.split(text) for text in NASTY]
    assert joined == [tokenizer.normalize(text) for text in NASTY]
    assert asked(tmp_path, "model_tokens", "[list(m.SOURCE_NUMBERS), m.TOKENS]") == [words.tokens[4:], words.tokens]


def test_hostile_strings_stay_strings(tmp_path: Path) -> None:
    """In vocabularies, labels, names of columns and of the file."""
    words, labels = Vocabulary(HOSTILE), Labels.of(HOSTILE)
    classifier = Classifier(ManyToOne(len(words), 3, len(labels), embedding_size=2), Tokenizer(), words, labels, 9)
    characters = "".join(sorted({*"".join(HOSTILE)}))
    generator = TextGenerator(CharLM(len(characters), 3, 1), Characters(characters))
    forecaster: Any = tasks.load(DATA / "forecaster" / "run" / "last.safetensors")
    forecaster.preprocessor = replace(forecaster.preprocessor, column=HOSTILE[14], inputs=(HOSTILE[15],))
    for name, task in {"texts": classifier, "chars": generator, "columns": forecaster}.items():
        task._data = {**getattr(task, "_data", {})}
        mr.export(task, tmp_path / f"model_{name}.py")
        ast.parse(Path(tmp_path, f"model_{name}.py").read_bytes())
        alone(tmp_path, f"m = importlib.import_module('model_{name}')\nassert m.self_test()", allowed=[f"model_{name}"])
    assert asked(tmp_path, "model_texts", "[list(m.NUMBERS), m.LABELS]") == [HOSTILE, labels.names]
    assert asked(tmp_path, "model_chars", "[m.CHARACTERS, m.encode(values)]", characters) == [
        characters,
        list(range(len(characters))),
    ]
    assert asked(tmp_path, "model_columns", "m.COLUMNS") == HOSTILE[14:16]
    path = mr.export(CharLM(5, 3), tmp_path / 'a"""\\.py')
    assert subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True).returncode == 0
    assert not Path(tmp_path, "executed").exists()


def test_command_writes_a_program_that_tests_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(DATA / "char" / "run")
    facts = json_of("export", run)
    assert facts["file"] == "run.py"
    assert facts["bytes"] == Path("run.py").stat().st_size
    done = invoke("export", run, "-o", "deep/model.py")
    assert done.stdout == ""
    assert "deep/model.py" in done.stderr
    assert "python deep/model.py" in done.stderr
    assert Path("deep/model.py").read_text().split('"""', 2)[2] == Path("run.py").read_text().split('"""', 2)[2]
    shown = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout.startswith("largest difference from the recorded outputs: ")
    assert shown.stdout.count("\n") == 2
    text = Path("run.py").read_text()
    at = text.index('b64decode("""') + 40
    Path("run.py").write_text(text[:at] + "////" + text[at + 4 :])
    assert subprocess.run([sys.executable, "run.py"], capture_output=True).returncode == 1


def test_what_cannot_be_exported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(DATA / "char" / "run")
    assert "'model.txt'" in refusal("export", run, "-o", "model.txt")
    assert "did you mean 'onnx'" in refusal("export", run, "--to", "onx")
    assert "--int8" in refusal("export", run, "--int8")
    assert "no checkpoint" in refusal("export", "missing")
    Path("folder").mkdir()
    assert "cannot write folder" in refusal("export", run, "--to", "numpy", "-o", "folder")
    assert not [path for path in tmp_path.rglob("*") if path.name != "folder"]
    with pytest.raises(OptionError, match="numpy has no option 'int8'"):
        mr.export(CharLM(5, 3), "model.py", int8=True)
    with pytest.raises(OptionError, match="got a module"):
        mr.export(CharLM(5, 3, cell=mr.nn.GRUCell(3, 3), embedding_size=3), "model.py")
    with pytest.raises(OptionError, match=r"expected a trained task or a model of minirnn\.models, got Linear"):
        mr.export(mr.nn.Linear(2, 3), "model.py")
    assert not Path("model.py").exists()
