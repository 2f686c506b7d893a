"""Fine-tuning: weights of known entries are kept, new ones are drawn, parts are frozen, and it pays."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import close, contents, needs_many_steps, perturb, run
from tiny import OTHER_DATA, TASKS

from minirnn import tasks
from minirnn.data.vocabulary import Labels, Vocabulary
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.runs import LAST
from minirnn.tasks import fine_tuning
from minirnn.training import Trainer, TrainingConfig

INDEXED: dict[str, dict[str, tuple[str, int]]] = {
    "char": dict.fromkeys(("embedding.weight", "head.weight", "head.bias"), ("symbols", 0)),
    "words": dict.fromkeys(("embedding.weight", "head.weight", "head.bias"), ("symbols", 0)),
    "classifier": {
        "body.embedding.weight": ("vocabulary", 0),
        "head.weight": ("labels", 0),
        "head.bias": ("labels", 0),
    },
    "tagger": {
        "embedding.weight": ("words", 0),
        "spelling.embedding.weight": ("characters", 0),
        "tagging.head.weight": ("labels", 0),
        "tagging.head.bias": ("labels", 0),
    },
    "translator": {
        "encoder.embedding.weight": ("source", 0),
        "decoder.embedding.weight": ("target", 0),
        "head.weight": ("target", 0),
        "head.bias": ("target", 0),
    },
    "forecaster": {},
    "series": dict.fromkeys(("head.weight", "head.bias"), ("labels", 0)),
    "speech": dict.fromkeys(("head.weight", "head.bias"), ("labels", 0)),
    "music": {},
}
"""The parameters that a vocabulary indexes: the task's attribute that holds it, and the axis."""
ONE_HOT = {
    "encoder.rnn.weight_ih_l0": ("source", 1),
    "encoder.rnn.weight_ih_l0_reverse": ("source", 1),
    "decoder.rnn.weight_ih_l0": ("target", 1),
    "head.weight": ("target", 0),
    "head.bias": ("target", 0),
}
PLAIN: dict[str, dict[str, Any]] = {"classifier": {"embeddings": None}, "tagger": {"embeddings": None, "min_count": 1}}
CASES = [*((name, {}, INDEXED[name]) for name in TASKS), ("translator", {"embedding_size": 0}, ONE_HOT)]
CASE = pytest.mark.parametrize(("name", "changed", "indexed"), CASES, ids=[*TASKS, "one-hot"])

Task = tasks.Task[Any, Any]


def make_source(name: str, folder: Path, **changed: Any) -> Task:
    """A task with weights unlike those of any new model."""
    return perturb(TASKS[name].make(TASKS[name].write(folder), **PLAIN.get(name, {}) | changed))


def fine_tuned(source: Task, folder: Path, **changed: Any) -> Task:
    path = folder / f"other-{TASKS[source.name].name}"
    path.write_text(OTHER_DATA[source.name], encoding="utf-8")
    config = TASKS[source.name].config(
        path, **PLAIN.get(source.name, {"inputs": ("x",)} if source.name == "forecaster" else {}) | changed
    )
    return type(source).build(type(source).read([str(path)], config), config, init_from=source)


# ---------------------------------------------------------------------------------------------------- weights


@CASE
def test_known_rows_keep_their_weights_and_new_ones_are_those_of_a_new_model(
    name: str, changed: Any, indexed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(name, tmp_path, **changed)
    task = fine_tuned(source, tmp_path)
    monkeypatch.setattr(fine_tuning, "transfer", lambda *given: None)
    old, new, drawn = (one.model.state_dict() for one in (source, task, fine_tuned(source, tmp_path)))
    assert old.keys() == new.keys() == drawn.keys()
    for parameter in old.keys() - indexed.keys():
        np.testing.assert_array_equal(new[parameter], old[parameter], parameter)
    for parameter, (vocabulary, axis) in indexed.items():
        known, entries = (list(getattr(one, vocabulary).entries()) for one in (source, task))
        assert {*known} < {*entries}
        assert new[parameter].shape[axis] == len(entries)
        for number, entry in enumerate(entries):
            expected, at = (old, known.index(entry)) if entry in known else (drawn, number)
            row = expected[parameter].take(at, axis)
            np.testing.assert_array_equal(new[parameter].take(number, axis), row, f"{parameter} of {entry!r}")


@CASE
def test_a_model_that_is_fine_tuned_begins_with_what_it_knew(
    name: str, changed: Any, indexed: Any, tmp_path: Path
) -> None:
    """On the same data it is the trained model; on the old data too, once new entries are made impossible."""
    source, path = make_source(name, tmp_path, **changed), tmp_path / TASKS[name].name
    config = TASKS[name].config(path, **PLAIN.get(name, {}))
    same = type(source).build(type(source).read([str(path)], config), config, init_from=source)
    before = source.measure([str(path)])
    assert same.measure([str(path)]) == before
    if not indexed:
        return
    task = fine_tuned(source, tmp_path)
    [head] = (key for key in indexed if key.endswith("head.bias"))
    known, entries = (list(getattr(one, indexed[head][0]).entries()) for one in (source, task))
    bias = dict(task.model.named_parameters())[head]
    bias.data[[entry not in known for entry in entries]] = -1e9
    assert task.measure([str(path)]) == close(before, rel=1e-5)


def test_numbers_of_entries_in_another_vocabulary() -> None:
    """A token that is spelled like a special is not the special."""
    old, new = Vocabulary(["<unk>", "a", "b"]), Vocabulary(["a", "c", "<unk>"])
    assert fine_tuning.numbers_in(old, new).tolist() == [0, 1, 2, 3, 5, -1, 4]
    assert fine_tuning.numbers_in(new, old.union(new)).tolist() == [0, 1, 2, 3, 6, 4, -1, 5]
    assert fine_tuning.count_new(old, new) == (1, 2)
    assert fine_tuning.numbers_in(Labels(["b", "d"]), Labels(["a", "b", "c", "d"])).tolist() == [-1, 0, -1, 1]


def test_labels_are_replaced_where_none_of_them_is_known(tmp_path: Path) -> None:
    source = make_source("classifier", tmp_path)
    assert fine_tuned(source, tmp_path).labels.names == ["grim", "meh", "neg", "pos"]  # neg does not occur
    path = tmp_path / "grades.tsv"
    path.write_text("a film\tA\na good film\tB\nbad\tC\n" * 5)
    config = TASKS["classifier"].config(path, embeddings=None)
    task = type(source).build(type(source).read([str(path)], config), config, init_from=source)
    assert task.labels.names == ["A", "B", "C"]
    assert task.model.head.weight.shape == (3, 12)


# ------------------------------------------------------------------------------------------ options and errors


def test_the_trained_model_decides_the_architecture(tmp_path: Path) -> None:
    changed = {"hidden_size": 5, "num_layers": 2, "cell": "gru", "bidirectional": False, "level": "char", "lower": True}
    source = make_source("translator", tmp_path, attention="none", embedding_size=0, **changed)
    assert source.architecture() == changed | {"attention": "none", "embedding_size": 0}
    task = fine_tuned(source, tmp_path, dropout=0.4, zoneout=0.3)
    assert task.architecture() == source.architecture()
    assert (task.model.config["dropout"], task.model.config["zoneout"]) == (0.4, 0.3)
    assert make_source("char", tmp_path, as_bytes=True).architecture()["as_bytes"]
    forecaster = make_source("forecaster", tmp_path, horizon=2, base="season").architecture()
    assert (forecaster["horizon"], forecaster["base"]) == (2, "season")
    classifier = make_source("classifier", tmp_path, pooling="mean").architecture()
    assert (classifier["level"], classifier["lower"], classifier["pooling"]) == ("word", True, "mean")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"inputs: expected 2 columns, as the trained model reads \(a, b\), got 1 \(c\)"
    ):
        fine_tuned(make_source("forecaster", tmp_path), tmp_path, inputs=None)
    source = make_source("classifier", tmp_path, embedding_size=4)
    with pytest.raises(CheckpointError, match=r"body\.embedding\.weight: expected rows of 4 numbers, .* got 3"):
        fine_tuned(source, tmp_path, embeddings="vectors.txt")
    letters = make_source("char", tmp_path)
    config = TASKS["char"].config(tmp_path / "corpus.txt", as_bytes=True)
    data = type(letters).read([str(tmp_path / "corpus.txt")], config)
    with pytest.raises(DataError, match="vocabulary: expected characters, as the trained model reads, got bytes"):
        type(letters).build(data, config, init_from=letters)


def test_new_words_get_their_pretrained_vectors_and_known_ones_keep_theirs(tmp_path: Path) -> None:
    source = make_source("tagger", tmp_path, embedding_size=3)
    (tmp_path / "vectors.txt").write_text("dogs 1 2 3\nbarks 4 5 6\n")
    task = fine_tuned(source, tmp_path, embeddings="vectors.txt")
    table, old = task.model.embedding.weight.numpy(), source.model.embedding.weight.numpy()
    np.testing.assert_array_equal(table[task.words.encode(["dogs"])], [[1, 2, 3]])
    np.testing.assert_array_equal(table[task.words.encode(["barks"])], old[source.words.encode(["barks"])])


# ----------------------------------------------------------------------------------------------- frozen parts

PARTS = [
    ("char", ("embedding", "rnn"), ("embedding.", "rnn.")),
    ("words", ("embedding", "rnn"), ("embedding.", "head.weight", "rnn.")),
    ("words", ("head",), ("embedding.", "head.")),  # their weights are tied
    ("classifier", ("embedding,rnn",), ("body.",)),
    ("classifier", "pooling", ("pooling.",)),
    ("tagger", ("embedding", "rnn"), ("embedding.", "spelling.rnn.", "tagging.body.rnn.")),
    ("tagger", ["spelling"], ("spelling.",)),
    ("translator", ("embedding", "rnn"), ("encoder.", "decoder.")),
    ("translator", ("encoder.rnn", "attention"), ("encoder.rnn.", "attention.")),
    ("forecaster", ("rnn",), ("body.",)),
    ("music", ("head",), ("head.",)),
]


@pytest.mark.parametrize(("name", "parts", "prefixes"), PARTS, ids=str)
def test_frozen_parts_do_not_change_and_all_others_do(
    name: str, parts: Any, prefixes: tuple[str, ...], tmp_path: Path
) -> None:
    task = fine_tuned(make_source(name, tmp_path), tmp_path, freeze=parts)
    before = task.model.state_dict()
    run(Trainer(task, TrainingConfig(steps=4, lr=0.1, weight_decay=0.1, evaluations=1), tmp_path / "run"))
    for parameter, value in task.model.state_dict().items():
        frozen = parameter.startswith(prefixes)
        assert np.array_equal(value, before[parameter]) == frozen, parameter
    again = fine_tuned(tasks.load(tmp_path / "run" / LAST), tmp_path)
    with pytest.raises(CheckpointError, match=r"frozen was \[.*, now it is null"):
        Trainer(again, TrainingConfig(steps=5), tmp_path / "run", resume=True)


def test_parts_that_a_model_does_not_have_are_refused(tmp_path: Path) -> None:
    names = "embedding, spelling, rnn, tagging, body, head"
    with pytest.raises(OptionError, match=f"freeze: expected one of {names}, got 'heads'; did you mean 'head'"):
        make_source("tagger", tmp_path, freeze=("heads",))
    with pytest.raises(OptionError, match="freeze: nothing is left to train beside body, head"):
        make_source("music", tmp_path, freeze=("body", "head"))
    with pytest.raises(OptionError, match="freeze: expected a list of strings, got 3"):
        make_source("music", tmp_path, freeze=3)


def test_freeze_is_understood_as_it_was_in_0_2() -> None:
    config = tasks.TASKS["tagger"].Config
    assert (config(freeze=False).freeze, config(freeze=True).freeze) == ((), ("embedding",))
    assert config(freeze="rnn, head").freeze == config(freeze=["rnn", "head"]).freeze == ("rnn", "head")


# ---------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", TASKS)
def test_a_fine_tuned_run_is_resumed_with_its_own_checkpoint(name: str, tmp_path: Path) -> None:
    """It ends with the same numbers as a run that was not interrupted."""
    source, config = make_source(name, tmp_path), TrainingConfig(steps=9, lr=1e-2, evaluations=3, log_every=2)
    freeze = ("head",) if name in ("char", "translator") else ()
    run(Trainer(fine_tuned(source, tmp_path, freeze=freeze), config, tmp_path / "whole"))
    for cut, steps in enumerate((4, 1, 4)):
        init_from = tasks.load(tmp_path / "cut" / LAST) if cut else source
        run(Trainer(fine_tuned(init_from, tmp_path, freeze=freeze), config, tmp_path / "cut", resume=cut > 0), steps)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def sentences(seed: int, count: int, nouns: str, verbs: str, ends: str) -> str:
    draw = random.Random(seed).choice
    pattern = "{the} {noun} {verb} {the} {noun}{end}\n"
    words = {"the": "the a this", "noun": nouns, "verb": verbs}
    found = []
    for _ in range(count):
        line = pattern
        for name, choices in words.items():
            while f"{{{name}}}" in line:
                line = line.replace(f"{{{name}}}", draw(choices.split()), 1)
        found.append(line.replace("{end}", draw(ends.split("|"))))
    return "".join(found)


@needs_many_steps
def test_fine_tuning_on_a_small_corpus_beats_training_a_new_model(tmp_path: Path) -> None:
    large = sentences(1, 1500, "king queen dog garden river letter", "sees finds loves follows", "| at night.|.")
    small = sentences(2, 60, "KING queen fox garden jewel", "sees hides loves", "| at noon.|!")
    assert 1500 < len(small) < 2500
    assert {*small} - {*large}
    (tmp_path / "large.txt").write_text(large)
    (tmp_path / "small.txt").write_text(small)
    task = tasks.TASKS["char"]
    config = task.Config(hidden_size=48, num_layers=1, dropout=0.0, batch_size=8, seq_length=32)

    def trained(file: str, steps: int, init_from: Task | None = None) -> tuple[Task, float]:
        made = task.build(task.read([str(tmp_path / file)], config), config, init_from)
        trainer = Trainer(
            made, TrainingConfig(steps=steps, lr=5e-3, evaluations=5), tmp_path / f"{file}{init_from is None}"
        )
        run(trainer)
        return made, trainer.position.best["val_loss"]

    source, _ = trained("large.txt", 300)
    _, new = trained("small.txt", 60)
    _, tuned = trained("small.txt", 60, source)
    assert tuned < new - 0.5
