"""The classifier: what is read, that padding changes nothing, what is learnt, kept, resumed and refused."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run

import minirnn as mr
from minirnn import checkpoint
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import UNK, Labels, Vocabulary
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.runs import BEST, LAST
from minirnn.tasks import Line, classifier, load
from minirnn.tasks.classifier import Classifier, ClassifierConfig, LabelledTexts, read_texts, tokenize
from minirnn.training import Trainer, TrainingConfig

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
GOOD, BAD, REST = ("good", "fine", "great"), ("bad", "poor", "dull"), ("the", "film", "was", "a", "plot", "and")


def reviews(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts whose label is that of their one telling word, or the other one where "not" stands before it."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        positive, turned = (rng.random(2) < 0.5).tolist()
        words = rng.choice(REST, rng.integers(1, 9)).tolist()
        telling = ["not"] * turned + [str(rng.choice(GOOD if positive else BAD))]
        at = rng.integers(len(words) + 1)
        texts.append(" ".join(words[:at] + telling + words[at:]))
        labels.append("pos" if positive != turned else "neg")
    return texts, labels


def places(count: int) -> list[str]:
    return [f"data.tsv:{n}" for n in range(1, count + 1)]


def task(texts: Sequence[str] | None = None, labels: Sequence[str] | None = None, **changed: Any) -> Classifier:
    if texts is None or labels is None:
        texts, labels = reviews(40)
    settings: dict[str, Any] = {"hidden_size": 9, "embedding_size": 7, "batch_size": 6, "dropout": 0.3, "seed": 3}
    return Classifier.build(LabelledTexts(texts, labels, places(len(texts))), ClassifierConfig(**settings | changed))


def write(path: Path, texts: Sequence[str], labels: Sequence[str]) -> str:
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(texts, labels, strict=True)), encoding="utf-8")
    return str(path)


# ------------------------------------------------------------------------------------------------------- data


def test_words_are_the_same_whatever_they_touch() -> None:
    words = tokenize(Tokenizer("word", True), "“Don't,” she said: it's (the) dogs' 3.14!!", 99)
    assert words == ["“", "don", "t", ",”", "she", "said", ":", "it", "s", "(", "the", ")", "dogs", "'", "3", ".", "14",
                     "!!"]  # fmt: skip
    assert tokenize(Tokenizer("word"), "a 'b' '' ￭ c", 99) == ["a", "'", "b", "'", "''", "c"]
    assert tokenize(Tokenizer("word"), "a, b, c", 3) == ["a", ",", "b"]
    assert tokenize(Tokenizer("char"), "d'A  b", 4) == ["d", "'", "A", " "]


def test_files_or_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "neg.txt").write_text("so bad\nworse\n")
    (folder / "pos.txt").write_text("good\n")
    texts, labels, where = read_texts([str(folder)])
    assert (texts, labels) == (["so bad", "worse", "good"], ["neg", "neg", "pos"])
    assert [where[n] for n in (1, 2)] == [f"{folder}/neg.txt:2", f"{folder}/pos.txt:1"]
    a, b = write(tmp_path / "a", ["x y"], ["pos"]), write(tmp_path / "b", ["z"], ["neg"])
    assert read_texts([a, b])[:2] == (["x y", "z"], ["pos", "neg"])
    with pytest.raises(DataError, match="folder is a folder; expected one folder alone, or files only"):
        read_texts([a, str(folder)])


@pytest.mark.parametrize(
    ("texts", "level"),
    [(["a b", "c d", "e f"], "word"), (["a b", "c", "d e f g"], "word"), (["Ann", "Bo Li", "Cy"], "char")],
)
def test_the_level_follows_from_the_average_text(texts: list[str], level: str) -> None:
    """Two words on average are words; fewer are characters."""
    made = task(texts * 10, ["A", "B", "C"] * 10, val_fraction=0.001)
    assert made.tokenizer.rule == level
    different = set("".join(texts) if level == "char" else " ".join(texts).split())
    assert made.model.config["input_size"] == 4 + len(different)
    for other in ("word", "char"):
        assert task(texts * 10, ["A", "B", "C"] * 10, level=other).tokenizer.rule == other


def test_the_level_is_that_of_the_training_part() -> None:
    """Texts that validate say nothing about it, nor do they give words or labels."""
    texts, labels = [f"w{n} x{n}" for n in range(20)], ["A", "B"] * 10
    known = task(texts, labels).vocabulary
    held = [n for n in range(20) if f"w{n}" not in known]
    assert len(held) == 2
    for n in held:
        texts[n] = "Z"
    assert task(texts, labels).tokenizer.rule == "word"
    assert "z" not in task(texts, labels).vocabulary
    texts = ["Z" if n not in held else "w x y z " * 40 for n in range(20)]
    made = task(texts, labels)
    assert made.vocabulary.tokens[4:] == ["Z"]
    assert made.summary == "20 texts of 2 classes, 1.0 words on average; read as characters, 1 different"


def test_case_is_kept_for_characters_only_unless_told() -> None:
    names, labels = ["Ann", "bo", "Cy", "aD"] * 5, ["A", "B"] * 10
    for level, lower, expected in [
        ("char", None, "Abo"), ("char", True, "abo"), ("word", None, ["ann"]), ("word", False, ["Ann"]),
    ]:  # fmt: skip
        vocabulary = task(names, labels, level=level, lower=lower).vocabulary
        assert all(token in vocabulary for token in expected)
        assert ("A" in vocabulary) == (expected == "Abo")


def test_vocabulary_options() -> None:
    texts, labels = ["a a a b b c"] * 6, ["A", "B"] * 3
    assert task(texts, labels).vocabulary.tokens[4:] == ["a", "b", "c"]
    assert task(texts, labels, max_words=2).vocabulary.tokens[4:] == ["a", "b"]
    assert task(texts, labels, min_count=6).vocabulary.tokens[4:] == ["a", "b"]
    cut = task(texts, labels, max_length=4)
    assert cut.vocabulary.tokens[4:] == ["a", "b"]
    assert cut.encode("c b a a b b").tolist() == [UNK, 5, 4, 4]


def test_the_split_keeps_lone_labels_for_training() -> None:
    texts, labels = [f"x w{n}" for n in range(30)], [f"L{n}" if n % 3 == 0 else "A" for n in range(30)]
    made = task(texts, labels, val_fraction=0.5)
    assert made.labels.names == ["A", *sorted(f"L{n}" for n in range(0, 30, 3))]
    held, classes = made._validation
    assert 0 < len(held) < 15
    assert classes.tolist() == [0] * len(held)
    assert len(made._train) + len(held) == 30
    with pytest.raises(DataError, match=r"data.tsv:1: no text is left to validate with, .*expected more texts than 3"):
        task(["a b", "c d", "e f"], ["A", "B", "C"])


def test_data_and_options_that_will_not_do() -> None:
    texts, labels = reviews(9)
    with pytest.raises(DataError, match=r"data.tsv:1: every text has the label 'A'; expected two or more"):
        task(texts, ["A"] * 9)
    with pytest.raises(DataError, match="expected at least 2 examples"):
        task([], [])
    for changed, message in [
        ({"level": "line"}, "level: expected one of auto, word, char, got 'line'"),
        ({"freeze": True}, "freeze: only pretrained vectors can be frozen"),
        ({"max_length": 0}, "max_length: expected an int of at least 1, got 0"),
        ({"pooling": "sum"}, "pooling: expected one of last, mean, max, attention, got 'sum'"),
        ({"val_fraction": 1.0}, "val_fraction: expected a number of at least 0.001 and at most 0.9, got 1.0"),
    ]:
        with pytest.raises(OptionError, match=message):
            task(texts, labels, **changed)


# ------------------------------------------------------------------------------------------------------ model

VOCABULARY, LABELS = Vocabulary("abcd"), Labels("XYZ")
TEXTS = ["a", "b a c d d a", "", "c c b", "zb", "d" * 9]
CLASSES = np.array([2, 0, 1, 1, 0, 2])


def small(pooling: str = "max", cell: str = "lstm", bidirectional: bool = True, layers: int = 1) -> Classifier:
    model = mr.models.ManyToOne(
        len(VOCABULARY), 5, 3, layers, cell, bidirectional, pooling=pooling, embedding_size=4, dtype="float64"
    )
    return Classifier(model.eval(), Tokenizer("char"), VOCABULARY, LABELS, 9)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize(("cell", "bidirectional", "layers"), [("lstm", True, 2), ("gru", False, 1), ("rnn", True, 1)])
def test_padding_changes_nothing(
    pooling: str, cell: str, bidirectional: bool, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text has in a ragged batch the loss and gradients it has alone, an empty one too."""
    monkeypatch.setattr(classifier, "TOKEN_DROPOUT", 0)
    made = task(TEXTS * 2, [LABELS.names[c] for c in CLASSES] * 2, level="char")
    mr.manual_seed(1)
    trained = made.model = small(pooling, cell, bidirectional, layers).model.train()
    made._train, made._classes = [VOCABULARY.encode(list(text)) for text in TEXTS], CLASSES
    losses, gradients = [], {name: 0.0 for name, _ in trained.named_parameters()}
    for n in range(6):
        trained.zero_grad()
        loss, count = made.batch_loss(np.array([n]), 0.0)
        assert count == 1
        loss.backward()
        losses.append(loss.item())
        for name, parameter in trained.named_parameters():
            gradients[name] = gradients[name] + parameter.grad.numpy() / 6
    trained.zero_grad()
    loss, count = made.batch_loss(np.array([3, 0, 5, 2, 1, 4]), 0.0)
    loss.backward()
    assert count == 6
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-12)
    for name, parameter in trained.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-9, atol=1e-14, err_msg=name)
        assert np.abs(gradients[name]).max() > 0


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@given(texts=st.lists(st.text("abcd ", max_size=12), max_size=9), random=st.randoms(use_true_random=False))
def test_a_text_is_classified_alike_in_any_company(pooling: str, texts: list[str], random: Any) -> None:
    mr.manual_seed(0)
    made = small(pooling)
    alone = {text: made.logits([made.encode(text)])[0] for text in texts}
    random.shuffle(texts)
    together = made.logits([made.encode(text) for text in texts])
    assert together.shape == (len(texts), 3)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(row, alone[text], rtol=1e-12, atol=1e-14)


def test_probabilities_are_those_of_the_parts_put_together_by_hand() -> None:
    made = small("mean", "gru")
    for text in ("b a c", "d"):
        y, _ = made.model.body.rnn(made.model.body.embedding(VOCABULARY.encode(list(text))))
        z = made.model.head.weight.numpy() @ y.numpy().mean(0) + made.model.head.bias.numpy()
        p = np.exp(z) / np.exp(z).sum()
        (found,) = made.predict([Line(text, "x:1")])
        assert found.text == found.facts["label"] == "XYZ"[p.argmax()]
        assert found.facts["text"] == text
        assert found.facts["probabilities"] == pytest.approx(dict(zip("XYZ", p, strict=True)), rel=1e-12)
        assert found.facts["probability"] == max(found.facts["probabilities"].values())


def test_metrics_are_those_of_every_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four: the mean is over texts, not over batches."""
    monkeypatch.setattr(classifier, "EVAL_BATCH_SIZE", 4)
    made = small()
    texts = [made.encode(text) for text in TEXTS]
    logits = np.concatenate([made.logits([text]) for text in texts])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    best, f1 = logits.argmax(1), []
    for c in sorted({*best.tolist(), *CLASSES.tolist()}):
        predicted, expected = best == c, np.equal(CLASSES, c)
        f1.append(2 * (predicted & expected).sum() / (predicted.sum() + expected.sum()))
    assert made.metrics(texts, CLASSES) == {
        "loss": pytest.approx(-log_p[np.arange(6), CLASSES].mean()),
        "accuracy": pytest.approx((best == CLASSES).mean()),
        "macro_f1": pytest.approx(np.mean(f1)),
    }


def test_blank_lines_give_nothing_and_keep_the_others_in_place() -> None:
    made = small()
    blank, texts = ["", " \t"], ["", "b a c", " \t", "d", "a"]
    found = made.predict([Line(text, "x") for text in texts])
    for text, one in zip(texts, found, strict=True):
        if text in blank:
            assert (one.text, one.facts) == ("", {"text": text, "label": None})
        else:
            (alone,) = made.predict([Line(text, "x")])
            assert one.text == one.facts["label"] == alone.text
            assert one.facts["text"] == text
            assert one.facts["probabilities"] == pytest.approx(alone.facts["probabilities"], rel=1e-12)
    assert [one.facts for one in made.predict([Line(" ", "x")])] == [{"text": " ", "label": None}]
    assert made.predict([]) == []


def test_an_unknown_label_is_named(tmp_path: Path) -> None:
    made = small()
    with pytest.raises(DataError, match=r"bad.tsv:2: label 'Q' is none of the 3 known: X, Y, Z"):
        made.measure([write(tmp_path / "bad.tsv", ["a", "b", "c"], ["X", "Q", "R"])])


# ------------------------------------------------------------------------------------------------------- task


def test_a_tenth_of_all_tokens_is_unknown_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(["a a a b", "a c c d"] * 6, ["A", "B"] * 6, val_fraction=0.001)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(made.model, "forward", lambda x, lengths: seen.append(x) or mr.zeros(len(lengths), 2))
    for _ in range(200):
        made.batch_loss(np.arange(11), 0.0)
    tokens, whole = np.stack(seen), np.stack(made._train, 1)
    kept = tokens == whole
    assert (tokens[~kept] == UNK).all()
    for token in range(4, 8):
        drawn = kept[:, whole == token]
        assert drawn.mean() == pytest.approx(0.9, abs=4 * 0.3 / np.sqrt(drawn.size))


def test_embeddings_begin_small_for_words_and_wide_for_characters() -> None:
    texts, labels = [f"w{n} v{n}" for n in range(200)], ["A", "B"] * 100
    for level, spread, dropout in (("word", 0.1, 0.6), ("char", 1.0, 0.3)):
        made = task(texts, labels, level=level, embedding_size=None, dropout=None)
        assert made.model.config["dropout"] == dropout
        rows = made.model.body.embedding.weight.numpy()
        assert rows.shape[1] == {"word": 100, "char": 32}[level]
        assert rows.std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("freeze", [False, True])
def test_vectors_from_a_file(tmp_path: Path, freeze: bool) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("film 1 2 3 4\nnot -1 0.5 0.25 0\nunheard 9 9 9 9\n", encoding="utf-8")
    made = task(embeddings=str(path), freeze=freeze)
    assert made.model.config["embedding_size"] == 4
    assert made.summary.endswith(", vectors for 2 of them")
    rows = made.vocabulary.encode(["film", "not"])
    before = made.model.body.embedding.weight.numpy().copy()
    assert before[rows].tolist() == [[1, 2, 3, 4], [-1, 0.5, 0.25, 0]]
    run(Trainer(made, TrainingConfig(steps=3), tmp_path / "run"))
    after = made.model.body.embedding.weight.numpy()
    assert np.array_equal(before, after) == freeze
    trained = Classifier.load(tmp_path / "run" / LAST)
    np.testing.assert_array_equal(trained.model.body.embedding.weight.numpy(), after)
    again = task(embeddings=str(path), freeze=freeze)
    run(Trainer(again, TrainingConfig(steps=5), tmp_path / "run", resume=True))
    assert np.array_equal(before, again.model.body.embedding.weight.numpy()) == freeze


def test_training_evaluates_as_eval_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = reviews(60)
    made = task(texts, labels, val_fraction=0.3)
    encoded = [made.encode(text).tolist() for text in texts]
    held, classes = made._validation
    assert len(held) == 18
    numbers = [encoded.index(text.tolist()) for text in held]
    assert [labels[n] for n in numbers] == made.labels.decode(classes)
    path = write(tmp_path / "held.tsv", [texts[n] for n in numbers], [labels[n] for n in numbers])
    metrics = made.measure([path])
    assert made.evaluate() == {"val_loss": metrics.pop("loss")} | metrics
    assert made.model.training
    monkeypatch.setattr(classifier, "MAX_EVAL_TEXTS", 7)
    fewer = task(texts, labels, val_fraction=0.3)._validation[0]
    assert [text.tolist() for text in fewer] == [text.tolist() for text in held[::3]]


@pytest.mark.skipif(SMALL, reason="needs some hundred steps")
@pytest.mark.parametrize(
    ("pooling", "cell"), [("max", "lstm"), ("attention", "lstm"), ("mean", "gru"), ("last", "gru"), ("max", "rnn")]
)
def test_it_learns_what_a_bag_of_words_cannot(pooling: str, cell: str, tmp_path: Path) -> None:
    made = task(*reviews(800), pooling=pooling, cell=cell, hidden_size=24, batch_size=32, dropout=0.1)
    steps = run(Trainer(made, TrainingConfig(steps=500, lr=1e-2, evaluations=2), tmp_path / "run"))
    assert steps[0].train_loss > 0.6
    trained = load(tmp_path / "run" / BEST)
    metrics = trained.measure([write(tmp_path / "new.tsv", *reviews(200, seed=1))])
    assert metrics["accuracy"] > 0.97
    assert metrics["macro_f1"] == pytest.approx(metrics["accuracy"], abs=0.02)
    lines = [Line(text, "x") for text in ("a film and not bad", "the plot was not good", "DULL film", "great")]
    assert [p.text for p in trained.predict(lines)] == ["pos", "neg", "neg", "pos"]


def contents(folder: Path) -> list:
    files = []
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(folder / name)
        config["position"].pop("seconds")
        files.append(({key: (a.shape, a.tobytes()) for key, a in arrays.items()}, config))
    return files


def test_a_cut_run_goes_on_as_if_uncut(tmp_path: Path) -> None:
    options = TrainingConfig(steps=15, evaluations=3)
    whole = run(Trainer(task(), options, tmp_path / "whole"))
    assert whole[-1].epoch > 2
    run(Trainer(task(), options, tmp_path / "cut"), 5)
    run(Trainer(task(), options, tmp_path / "cut", resume=True))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    other = run(Trainer(task(seed=4), options))
    assert other[-1].train_loss != whole[-1].train_loss


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"level": "char"}, 'level was "word", now it is "char"'),
        ({"lower": False}, "lower was true, now it is false"),
        ({"min_count": 2}, "min_count was 1, now it is 2"),
        ({"max_words": 5}, "max_words was null, now it is 5"),
        ({"max_length": 9}, "max_length was 500, now it is 9"),
        ({"pooling": "mean"}, 'pooling was "max", now it is "mean"'),
        ({"hidden_size": 13}, "hidden_size was 9, now it is 13"),
        ({"embedding_size": 4}, "embedding_size was 7, now it is 4"),
        ({"dropout": 0.1}, r"dropout was 0\.3, now it is 0\.1"),
        ({"batch_size": 5}, "batch_size was 6, now it is 5"),
        ({"val_fraction": 0.3}, r"val_fraction was 0\.1, now it is 0\.3"),
        ({"seed": 4}, "seed was 3, now it is 4"),
    ],
)
def test_resume_refuses_other_settings(tmp_path: Path, changed: dict, message: str) -> None:
    run(Trainer(task(), TrainingConfig(steps=1), tmp_path))
    with pytest.raises(CheckpointError, match=message):
        Trainer(task(**changed), TrainingConfig(steps=2), tmp_path, resume=True)


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    """One text or one label is enough, and where a text ends counts too."""
    texts, labels = reviews(40)
    run(Trainer(task(texts, labels), TrainingConfig(steps=1), tmp_path))
    turned = {"pos": "neg", "neg": "pos"}[labels[7]]
    for other in ([texts[7] + " the"], labels[7:8]), (texts[7:8], [turned]):
        changed = task(texts[:7] + other[0] + texts[8:], labels[:7] + other[1] + labels[8:])
        with pytest.raises(CheckpointError, match=r"cannot resume .*: the data is not the one"):
            Trainer(changed, TrainingConfig(steps=2), tmp_path, resume=True)


def test_a_checkpoint_brings_all_it_needs(tmp_path: Path) -> None:
    made = task(num_layers=2, bidirectional=False, cell="gru", pooling="attention", lower=False, max_length=3)
    assert json.loads(json.dumps(made.config())) == made.config()
    run(Trainer(made, TrainingConfig(steps=2), tmp_path))
    trained = Classifier.load(tmp_path / LAST)
    held = write(tmp_path / "held", *reviews(9, seed=9))
    assert trained.measure([held]) == made.measure([held])
    assert trained.encode("The film was a plot").tolist() == made.encode("The film was a plot").tolist()
    assert trained.encode("The film was a plot").size == 3
    arrays, config = checkpoint.load(tmp_path / LAST)
    bad = [
        ("labels", {"names": ["A"]}, r"head.weight has shape \[2, 9\], expected \[1, 9\]"),
        ("vocabulary", {"tokens": ["a"]}, r"embedding.weight has shape .*, expected \[5, 7\]"),
        ("vocabulary", 3, "bad is damaged: vocabulary"), ("tokenizer", {}, "bad is damaged: tokenizer"),
        ("max_length", None, "bad is damaged"), ("model", {"cell": 4}, "bad is damaged"),
        ("model", 5, "bad is damaged"),
    ]  # fmt: skip
    for name, value, message in bad:
        checkpoint.save(tmp_path / "bad", arrays, config | {name: value})
        with pytest.raises(CheckpointError, match=message):
            Classifier.load(tmp_path / "bad")
    checkpoint.save(tmp_path / "bad", arrays, config | {"task": "char"})
    with pytest.raises(CheckpointError, match="bad holds a 'char' model; expected a classifier"):
        Classifier.load(tmp_path / "bad")
