"""What holds for every task: checkpoints, resuming, evaluation, batches, predictions, and the checks of options."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import close, perturb, run
from tiny import TASKS, VECTORS, other_value

import minirnn as mr
from minirnn import checkpoint, tasks
from minirnn.data.text import Characters
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.runs import LAST
from minirnn.tasks import Line, classifier
from minirnn.tasks.char import DROPOUT_PER_PASS, CharConfig, Corpus, TextGenerator
from minirnn.tasks.classifier import Classifier
from minirnn.tasks.music import ComposeConfig
from minirnn.tasks.translator import TranslateConfig
from minirnn.training import Trainer, TrainingConfig

WITH_VECTORS = ("classifier", "tagger")
LINES = {
    "classifier": ["a good film", "", "not unknown"],
    "tagger": ["The dog barks", "", "Zoe barks ."],
    "translator": ["He runs.", "", "Zoe goes."],
    "forecaster": TASKS["forecaster"].data.splitlines(),
    "series": TASKS["series"].data.splitlines(),
    "speech": ["clips/0.wav", "clips/5.wav"],
    "music": ["60,64", "", "[[62], [65]]"],
}
OTHER_MODELS: dict[str, dict[str, Any]] = {
    "char": {"cell": "gru", "num_layers": 1},
    "words": {"cell": "gru", "num_layers": 2, "tie_weights": False, "lower": True, "min_count": 13},
    "classifier": {
        "cell": "gru",
        "num_layers": 2,
        "bidirectional": False,
        "pooling": "last",
        "lower": False,
        "max_length": 3,
    },
    "tagger": {"cell": "gru", "num_layers": 2, "bidirectional": False, "column": 3},
    "translator": {"cell": "gru", "bidirectional": False, "attention": "none", "level": "char", "lower": True},
    "forecaster": {"cell": "gru", "bidirectional": True, "horizon": 2},
    "series": {"cell": "gru", "bidirectional": False, "every_step": True},
    "speech": {
        "cell": "gru",
        "target": "transcript",
        "deltas": True,
        "stack": 1,
        "hop": 0.01,
        "speed": 0.0,
        "noise": 0.0,
    },
    "music": {"cell": "rnn"},
}


def made(name: str, folder: Path, **changed: Any) -> tasks.Task[Any, Any]:
    return TASKS[name].make(TASKS[name].write(folder), **changed)


def described(task: tasks.Task[Any, Any]) -> Any:
    return json.loads(json.dumps(task.config()))


def results(task: tasks.Task[Any, Any], name: str) -> Any:
    """What it makes of ``LINES``, or the text it writes."""
    if name in ("char", "words"):
        return task.sample("to", 20, seed=1)
    return task.predict_lines(
        [Line(text) for text in LINES[name]], ComposeConfig(length=5, seed=1) if name == "music" else None
    )


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("changed", [{}, OTHER_MODELS], ids=["tiny", "other"])
@pytest.mark.parametrize("name", TASKS)
def test_a_loaded_task_gives_the_results_of_the_trained_one(
    name: str, changed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = made(name, tmp_path, **changed.get(name, {}))
    run(Trainer(task, TrainingConfig(steps=2, lr=0.1, evaluations=1), tmp_path / "run"))
    loaded = tasks.load(tmp_path / "run" / LAST)
    assert type(loaded) is type(task)
    assert not loaded.model.training
    assert described(loaded) == described(task)
    source = [str(tmp_path / TASKS[name].name)]
    assert loaded.measure(source) == task.measure(source)
    assert results(loaded, name) == results(task, name)


@pytest.mark.parametrize("name", TASKS)
def test_damaged_descriptions_are_refused(name: str, tmp_path: Path) -> None:
    task, path = made(name, tmp_path), tmp_path / "x.safetensors"
    config = described(task)
    arrays = {f"model.{key}": array for key, array in task.model.state_dict().items()}
    needed = {*config} - {"task"} - ({"data"} if name != "forecaster" else set())
    damaged = [{key: value for key, value in config.items() if key != gone} for gone in sorted(needed)]
    damaged += [config | {key: None} for key in sorted(needed)] + [config | {"model": 5}]
    damaged += [
        config | {"model": config["model"] | change} for change in ({"cell": "qrnn"}, {"cell": 4}, {"color": 1})
    ]
    for description in damaged:
        checkpoint.save(path, arrays, description)
        with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged: "):
            tasks.load(path)
    checkpoint.save(path, arrays, config | {"task": "poet"})
    with pytest.raises(CheckpointError, match="holds a 'poet' model, which this version does not know"):
        tasks.load(path)
    with pytest.raises(CheckpointError, match=f"holds a 'poet' model; expected {task.description}"):
        type(task).load(path)


TOKENS, NAMES = {"tokens": ["a"]}, {"names": ["A"]}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classifier", {"labels": NAMES}, r"head.weight has shape \[2, 12\], expected \[1, 12\]"),
        ("classifier", {"vocabulary": TOKENS}, r"embedding.weight has shape .*, expected \[5, 3\]"),
        ("classifier", {"vocabulary": 3}, "is damaged: vocabulary"),
        ("classifier", {"tokenizer": {}}, "is damaged: tokenizer"),
        ("tagger", {"labels": NAMES}, "is damaged: its model is not one of"),
        ("tagger", {"characters": TOKENS}, "is damaged: its model is not one of"),
        ("translator", {"tokenizer": None}, "is damaged: tokenizer: expected a rule"),
        ("translator", {"source": TOKENS}, r"encoder.embedding.weight has shape .*, expected \[5, 5\]"),
        ("translator", {"target": {"tokens": "a"}}, "is damaged: vocabulary: expected a description"),
        ("forecaster", {"series": {"spread": [1.0, 2.0]}}, "is damaged"),
        ("forecaster", {"series": {"spread": [0.0]}}, "is damaged"),
        ("forecaster", {"series": {"base": "none"}}, "is damaged"),
        ("forecaster", {"series": {"season": 0}}, "is damaged"),
        ("forecaster", {"series": {"horizon": "1"}}, "is damaged"),
        ("forecaster", {"series": {"inputs": []}}, "is damaged"),
        ("forecaster", {"series": {"scaler": {"mean": [0.0, 0.0]}}}, "is damaged"),
        ("music", {"starts": 3}, "is damaged"),
        ("music", {"chords": {"shapes": [], "frequency": 0.1}}, "is damaged"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(name: str, change: dict, message: str, tmp_path: Path) -> None:
    task, path = made(name, tmp_path), tmp_path / "x.safetensors"
    config = described(task)
    if name == "forecaster":
        change = {"series": config["series"] | change["series"]}
    checkpoint.save(path, {f"model.{key}": array for key, array in task.model.state_dict().items()}, config | change)
    with pytest.raises(CheckpointError, match=message):
        tasks.load(path)


# --------------------------------------------------------------------------------------------------- resuming


OTHER_DATA = "the data is not the one the run started with"
REPORTED: dict[tuple[str, str], str | None] = {
    **{(name, "freeze"): r'frozen was null, now it is \["(tagging\.)?head.weight"' for name in TASKS},
    ("char", "as_bytes"): OTHER_DATA,
    ("char", "recompute_every"): None,  # the numbers stay the same
    ("words", "recompute_every"): None,
    ("words", "freeze"): r'frozen was null, now it is \["embedding.weight", "head.bias"',
    ("classifier", "embeddings"): "the embeddings file is not the one",
    ("classifier", "level"): 'level was "word", now it is "char"',
    ("tagger", "embeddings"): "the embeddings file is not the one",
    ("tagger", "val"): "the val file is not the one",
    ("tagger", "column"): OTHER_DATA,
    ("translator", "attention"): 'attention was "additive", now it is "dot"',
    ("forecaster", "inputs"): "no column 'c'",
    ("forecaster", "future"): "no column 'c'",
    ("forecaster", "id"): "no column 'x'",
    ("forecaster", "horizon"): "output_size was 1, now it is 2",
    ("forecaster", "quantiles"): "output_size was 1, now it is 2",
    ("forecaster", "val_fraction"): "train_rows was 48, now it is 45",
    ("forecaster", "season"): "season was 11",
    ("forecaster", "column"): "column 'b' is named twice",
    ("forecaster", "log"): "expected a number above 0",
    ("series", "id"): "id '0' comes back: line 2 has it too",
    ("series", "label"): "column 'kind': expected a number, or nothing, got 'a'",
    ("series", "inputs"): "no column 'c'",
    ("series", "target"): "expected a number as label, got 'a'",
    ("series", "seq_length"): "seq_length: a label is for a whole sequence",
    ("series", "anomalies"): "column 'kind': expected a number, or nothing, got 'a'",
    ("series", "every_step"): OTHER_DATA,
    ("speech", "target"): 'target was "label", now it is "transcript"',
    **{("speech", option): "input_size was 10, now it is " for option in ("bands", "deltas", "stack")},
    ("music", "val_fraction"): OTHER_DATA,
    ("music", "seed"): OTHER_DATA,
}
"""How another value of an option is reported, where it is not by the option's name; None where it is accepted."""


@pytest.mark.parametrize("name", TASKS)
def test_resuming_with_another_option_is_refused(name: str, tmp_path: Path) -> None:
    """Whatever changes the model, its data or the order of its batches is named, for every option there is."""
    plain = {"embeddings": None} if name in WITH_VECTORS else {}
    path, options, out = TASKS[name].write(tmp_path), TrainingConfig(steps=1), tmp_path / "run"
    run(Trainer(TASKS[name].make(path, **plain), options, out))
    config = TASKS[name].config(path, **plain)
    for option, info in config.options().items():
        value, other = getattr(config, option), other_value(option, info, getattr(config, option))
        saved = None if value is None else json.dumps(value)
        message = REPORTED.get((name, option), f"{option} was {saved or '.*'}, now it is {json.dumps(other)}")
        if message is None:
            Trainer(TASKS[name].make(path, **{option: other}), options, out, resume=True)
            continue
        with pytest.raises((CheckpointError, OptionError, DataError), match=message):
            Trainer(TASKS[name].make(path, **plain | {option: other}), options, out, resume=True)
    Trainer(TASKS[name].make(path, **plain), TrainingConfig(steps=2), out, resume=True)


EDITS: dict[str, list[tuple[str, str]]] = {
    "char": [("question", "quession")],
    "words": [("question", "quession"), ("question.\n", "question. ")],
    "classifier": [("very bad", "very very bad"), ("fine\tpos", "fine\tneg")],
    "tagger": [("dog", "cat"), ("DET", "PRON"), (".\tPUNCT\ty\n\nIt", ".\tPUNCT\ty\nIt")],
    "translator": [("Tom", "Tim"), ("Va !", "Va.")],
    "forecaster": [("d59,2", "d59,3")],
    "series": [("s0,0", "s0,1"), (",,a", ",0,a"), ("s2,3,1.0", "s2,3,")],
    "speech": [("0.wav", "2.wav"), ("yes", "no")],
    "music": [("60", "61"), ("[[[60, 64]", "[[[60]")],
}


@pytest.mark.parametrize("name", TASKS)
def test_resuming_with_other_data_is_refused(name: str, tmp_path: Path) -> None:
    """One word, label, number or line end is enough."""
    path = TASKS[name].write(tmp_path)
    run(Trainer(TASKS[name].make(path), TrainingConfig(steps=1), tmp_path / "run"))
    for old, new in EDITS[name]:
        assert old in TASKS[name].data
        path.write_text(TASKS[name].data.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"cannot resume .*: {OTHER_DATA}"):
            Trainer(TASKS[name].make(path), TrainingConfig(steps=2), tmp_path / "run", resume=True)


# ------------------------------------------------------------------------------------- batches and evaluation


@pytest.mark.parametrize("name", TASKS)
def test_evaluation_ignores_dropout_and_changes_nothing(name: str, tmp_path: Path) -> None:
    task = perturb(made(name, tmp_path, dropout=0.5, zoneout=0.3))
    task.model.train()
    state = mr.random.generator().bit_generator.state
    metrics = task.evaluate()
    assert mr.random.generator().bit_generator.state == state
    assert all(module.training for module in task.model.modules())
    task.model.eval()
    assert task.evaluate() == metrics


POOLINGS = ("last", "mean", "max", "attention")
CELLS = [{"cell": "lstm", "num_layers": 2}, {"cell": "gru", "bidirectional": False}, {"cell": "rnn"}]
BATCHES = [
    *(("classifier", {"pooling": pooling, **cell}) for pooling in POOLINGS for cell in CELLS),
    *(("tagger", cell) for cell in CELLS),
    *(("translator", {"attention": attention, "num_layers": 2}) for attention in ("additive", "dot", "none")),
    *(("music", {"cell": cell}) for cell in ("rnn", "lstm", "gru")),
    ("forecaster", {"horizon": 2, "penalty": 0.0}),
    ("forecaster", {"horizon": 2, "penalty": 0.0, "quantiles": "0.1,0.6"}),
    *(("series", {"pooling": pooling}) for pooling in POOLINGS),
    ("series", {"every_step": True, "num_layers": 2}),
    ("series", {"anomalies": True, "seq_length": 3, "inputs": ("x", "y"), "label": "kind"}),
    ("series", {"label": "x", "inputs": ("y",), "target": "number", "every_step": True}),
    *(("speech", {"speed": speed, "num_layers": 2}) for speed in (0.0, 1e-9)),
    ("speech", {"target": "transcript", "stack": 1, "hop": 0.01, "speed": 0.0}),
]


@pytest.mark.parametrize(("name", "changed"), BATCHES, ids=str)
def test_a_ragged_batch_has_the_mean_loss_and_gradients_of_its_examples(
    name: str, changed: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding changes nothing."""
    monkeypatch.setattr(classifier, "TOKEN_DROPOUT", 0)
    no_randomness = {
        "music": {"transpose": 0},
        "series": {"noise": 0.0},
        "speech": {"noise": 0.0, "mask": 0.0, "warp": 0.0},
        "translator": {"schedule": "constant"},
    }.get(name, {})
    task = perturb(made(name, tmp_path, dropout=0.0, weight_drop=0.0, **no_randomness, **changed))
    task.model.to("float64")
    if name == "classifier":
        task._train[0] = task._train[0][:0]  # an empty text
    if name == "tagger":
        task._unknown[:] = 0
    examples = np.array([3, 0, 17, 8, 21])

    def gradients(batch: np.ndarray) -> tuple[float, int, dict[str, np.ndarray]]:
        task.model.zero_grad()
        loss, count = task.batch_loss(batch, 0.0)
        (loss * count).backward()
        grads = {n: p.grad.numpy().copy() for n, p in task.model.named_parameters() if p.grad is not None}
        return loss.item() * count, count, grads

    total, count, together = gradients(examples)
    alone = [gradients(examples[n : n + 1]) for n in range(5)]
    assert count == sum(one[1] for one in alone)
    assert total == pytest.approx(sum(one[0] for one in alone), rel=1e-12)
    for key, gradient in together.items():
        expected = sum(one[2].get(key, 0) for one in alone)
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12, err_msg=key)
        assert np.abs(gradient).max() > 0, key


# ------------------------------------------------------------------------------------------------ predictions

BLANK = {
    "classifier": {"label": None, "probability": None, "probabilities": {}},
    "tagger": {"tokens": [], "tags": [], "probabilities": []},
    "translator": {"target": "", "tokens": [], "source_tokens": [], "attention": []},
}
VARIANTS = [
    *(("classifier", {"pooling": pooling}) for pooling in ("last", "mean", "max", "attention")),
    ("tagger", {}),
    *(("translator", {"attention": attention}) for attention in ("additive", "dot")),
]
WORDS = st.sampled_from(["a", "good", "film", "Tom", "runs.", "He", "barks", "￭x", "the", "unknown!"])


@pytest.mark.parametrize(("name", "changed"), VARIANTS, ids=str)
def test_predictions_do_not_depend_on_the_other_lines(name: str, changed: dict, tmp_path: Path) -> None:
    """A blank line has an empty result."""
    task = perturb(made(name, tmp_path, **changed))
    task.model.to("float64")
    options = TranslateConfig(beam=2, max_length=4) if name == "translator" else None

    @given(st.lists(st.lists(WORDS, max_size=5).map(" ".join) | st.just(" \t"), max_size=7))
    def check(texts: list[str]) -> None:
        lines = [Line(text, "x") for text in texts]
        found = task.predict_lines(lines, options)
        assert len(found) == len(lines)
        for line, prediction in zip(lines, found, strict=True):
            (alone,) = task.predict_lines([line], options)
            assert prediction.text == alone.text
            assert prediction.facts == close(alone.facts)
            if not line.text.strip():
                assert prediction.text == ""
                assert prediction.facts.items() >= BLANK[name].items()

    check()


# ------------------------------------------------------------------------------------- options and embeddings


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("classifier", {"level": "line"}, "level: expected one of auto, word, char, got 'line'"),
        ("classifier", {"max_length": 0}, "max_length: expected an int of at least 1, got 0"),
        ("classifier", {"pooling": "sum"}, "pooling: expected one of last, mean, max, attention, got 'sum'"),
        ("translator", {"level": "byte"}, "level: expected one of word, char, got 'byte'"),
        ("translator", {"schedule": "cosine"}, "schedule: expected one of constant, linear, inverse-sigmoid"),
        ("translator", {"teacher_forcing": 1.5}, "teacher_forcing: expected a number of at least 0 and"),
        ("translator", {"schedule": "constant", "teacher_forcing_end": 0.5}, "a constant schedule has no end"),
        ("translator", {"attention": "loud"}, "attention: expected one of additive, dot, none, got 'loud'"),
        ("translator", {"min_count": 0}, "min_count: expected an int of at least 1"),
        ("forecaster", {"horizon": 0}, "horizon: expected an int of at least 1, got 0"),
        ("forecaster", {"season": 0}, "season: expected an int of at least 1, got 0"),
        ("forecaster", {"base": "mean"}, "base: expected one of last, season, trend, got 'mean'"),
        ("forecaster", {"penalty": -1.0}, "penalty: expected a number of at least 0, got -1.0"),
        *(
            (
                "forecaster",
                {"quantiles": text},
                "quantiles: expected increasing numbers between 0 and 1, with commas, got",
            )
            for text in ("", "0.5,0.5", "0,0.5", "0.5,1", "0.9,0.1", "0.5;0.9", "a", "nan", "0.1,,0.9")
        ),
        ("music", {"transpose": -1}, "transpose: expected an int from 0 to 87, got -1"),
        ("music", {"seq_length": 0}, "seq_length: expected an int of at least 1, got 0"),
        *((name, {"batch_size": 0}, "batch_size: expected an int of at least 1, got 0") for name in TASKS),
        *((name, {"val_fraction": 1.0}, "at least 0.001 and at most 0.9, got 1.0") for name in TASKS),
    ],
)
def test_bad_options_are_refused_by_name(name: str, changed: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        made(name, tmp_path, **changed)


@pytest.mark.parametrize("freeze", [(), ("embedding",)], ids=["", "frozen"])
@pytest.mark.parametrize(("name", "word"), [("classifier", "good"), ("tagger", "dog")])
def test_pretrained_vectors_are_trained_unless_frozen(name: str, word: str, freeze: Any, tmp_path: Path) -> None:
    def table(task: tasks.Task[Any, Any]) -> tuple[np.ndarray, int]:
        if isinstance(task, Classifier):
            return task.model.body.embedding.weight.numpy().copy(), task.vocabulary.encode([word])[0]
        return task.model.embedding.weight.numpy().copy(), task.words.encode([word])[0]

    task = made(name, tmp_path, freeze=freeze)
    assert task.model.config["embedding_size"] == 3
    assert "vectors for 2 of" in task.summary
    before, row = table(task)
    vector = next(line.split()[1:] for line in VECTORS.splitlines() if line.startswith(word))
    np.testing.assert_allclose(before[row], [float(number) for number in vector], rtol=1e-6)
    run(Trainer(task, TrainingConfig(steps=3), tmp_path / "run"))
    assert np.array_equal(before, table(task)[0]) == bool(freeze)
    np.testing.assert_array_equal(table(tasks.load(tmp_path / "run" / LAST))[0], table(task)[0])
    again = made(name, tmp_path, freeze=freeze)
    run(Trainer(again, TrainingConfig(steps=5), tmp_path / "run", resume=True))
    assert np.array_equal(before, table(again)[0]) == bool(freeze)


@pytest.mark.parametrize(("cell", "drops_weights"), [("rnn", True), ("indrnn", False)])  # it has no matrix to drop
def test_dropout_of_a_character_model_follows_from_the_passes_over_its_text(cell: str, drops_weights: bool) -> None:
    """Until they are known, from what is likely for a text of its size."""
    corpus = Corpus(np.zeros(280_000, np.uint8), Characters("ab"))
    task = TextGenerator.build(corpus, CharConfig(cell=cell, hidden_size=3))

    def rates() -> tuple[float, float]:
        return task.model.config["dropout"], task.model.config["weight_drop"]

    assert rates() == (0.5, 0.5 * drops_weights)  # so small a model reads it very often in 3 minutes
    passes = 0.2 / DROPOUT_PER_PASS * math.sqrt(252_000 / task.model.num_parameters())
    for factor, rate in ((1, 0.2), (0, 0), (100, 0.5)):
        told = f"dropout{' and weight-drop' * drops_weights} {rate:g}" if rate else "no dropout"
        assert task.expect_passes(factor * passes) == told
        assert rates() == (rate, rate * drops_weights)
    task = TextGenerator.build(corpus, CharConfig(cell=cell, hidden_size=3, dropout=0.0, weight_drop=0.0))
    assert task.expect_passes(passes) == ""
    assert rates() == (0, 0)
