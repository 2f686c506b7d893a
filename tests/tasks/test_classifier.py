"""The classifier: data, splits, vocabulary, probabilities and metrics by hand, learning; see also test_tasks.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import needs_many_steps, run

import minirnn as mr
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import UNK, Labels, Vocabulary
from minirnn.errors import DataError
from minirnn.runs import BEST
from minirnn.tasks import Line, classifier, load
from minirnn.tasks.classifier import Classifier, ClassifierConfig, LabelledTexts, read_texts, tokenize
from minirnn.training import Trainer, TrainingConfig

GOOD, BAD, REST = ("good", "fine", "great"), ("bad", "poor", "dull"), ("the", "film", "was", "a", "plot", "and")


def reviews(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts with one word that decides the label, and "not" before it, which reverses it."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        positive, negated = (rng.random(2) < 0.5).tolist()
        words = rng.choice(REST, rng.integers(1, 9)).tolist()
        deciding = ["not"] * negated + [str(rng.choice(GOOD if positive else BAD))]
        at = rng.integers(len(words) + 1)
        texts.append(" ".join(words[:at] + deciding + words[at:]))
        labels.append("pos" if positive != negated else "neg")
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


def test_tokens_do_not_depend_on_adjacent_punctuation() -> None:
    words = tokenize(Tokenizer("word", True), "“Don't,” she said: it's (the) dogs' 3.14!!", 99)
    assert " ".join(words) == "“ don t ,” she said : it s ( the ) dogs ' 3 . 14 !!"
    assert tokenize(Tokenizer("word"), "a 'b' '' ￭ c", 99) == ["a", "'", "b", "'", "''", "c"]
    assert tokenize(Tokenizer("word"), "a, b, c", 3) == ["a", ",", "b"]
    assert tokenize(Tokenizer("char"), "d'A  b", 4) == ["d", "'", "A", " "]


def test_reads_files_or_one_folder(tmp_path: Path) -> None:
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
def test_auto_level_reads_words_where_texts_have_two_on_average(texts: list[str], level: str) -> None:
    made = task(texts * 10, ["A", "B", "C"] * 10, val_fraction=0.001)
    assert made.tokenizer.rule == level
    different = set("".join(texts) if level == "char" else " ".join(texts).split())
    assert made.model.config["input_size"] == 4 + len(different)
    for other in ("word", "char"):
        assert task(texts * 10, ["A", "B", "C"] * 10, level=other).tokenizer.rule == other


def test_level_vocabulary_and_labels_come_from_the_training_set_alone() -> None:
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


def test_words_are_lower_cased_by_default_but_characters_are_not() -> None:
    names, labels = ["Ann", "bo", "Cy", "aD"] * 5, ["A", "B"] * 10
    cases = [("char", None, "Abo"), ("char", True, "abo"), ("word", None, ["ann"]), ("word", False, ["Ann"])]
    for level, lower, expected in cases:
        vocabulary = task(names, labels, level=level, lower=lower).vocabulary
        assert all(token in vocabulary for token in expected)
        assert ("A" in vocabulary) == (expected == "Abo")


def test_max_words_min_count_and_max_length_limit_the_vocabulary() -> None:
    texts, labels = ["a a a b b c"] * 6, ["A", "B"] * 3
    assert task(texts, labels).vocabulary.tokens[4:] == ["a", "b", "c"]
    assert task(texts, labels, max_words=2).vocabulary.tokens[4:] == ["a", "b"]
    assert task(texts, labels, min_count=6).vocabulary.tokens[4:] == ["a", "b"]
    cut = task(texts, labels, max_length=4)
    assert cut.vocabulary.tokens[4:] == ["a", "b"]
    assert cut.encode("c b a a b b").tolist() == [UNK, 5, 4, 4]


def test_the_split_keeps_labels_that_occur_once_for_training() -> None:
    texts, labels = [f"x w{n}" for n in range(30)], [f"L{n}" if n % 3 == 0 else "A" for n in range(30)]
    made = task(texts, labels, val_fraction=0.5)
    assert made.labels.names == ["A", *sorted(f"L{n}" for n in range(0, 30, 3))]
    held, classes = made._validation
    assert 0 < len(held) < 15
    assert classes.tolist() == [0] * len(held)
    assert len(made._train) + len(held) == 30
    with pytest.raises(DataError, match=r"data.tsv:1: no text is left to validate with, .*expected more texts than 3"):
        task(["a b", "c d", "e f"], ["A", "B", "C"])
    with pytest.raises(DataError, match="expected at least 2 examples"):
        task([], [])


# ------------------------------------------------------------------------------------------------------ model

VOCABULARY, LABELS = Vocabulary("abcd"), Labels("XYZ")
TEXTS = ["a", "b a c d d a", "", "c c b", "zb", "d" * 9]
CLASSES = np.array([2, 0, 1, 1, 0, 2])


def small(pooling: str = "max", cell: str = "lstm") -> Classifier:
    size = len(VOCABULARY)
    model = mr.models.ManyToOne(size, 5, 3, 1, cell, True, pooling=pooling, embedding_size=4, dtype="float64")
    return Classifier(model.eval(), Tokenizer("char"), VOCABULARY, LABELS, 9)


def test_probabilities_match_a_computation_by_hand() -> None:
    made = small("mean", "gru")
    for text in ("b a c", "d"):
        y, _ = made.model.body.rnn(made.model.body.embedding(VOCABULARY.encode(list(text))))
        z = made.model.head.weight.numpy() @ y.numpy().mean(0) + made.model.head.bias.numpy()
        p = np.exp(z) / np.exp(z).sum()
        (found,) = made.predict_lines([Line(text, "x:1")])
        assert found.text == found.facts["label"] == "XYZ"[p.argmax()]
        assert found.facts["text"] == text
        assert found.facts["probabilities"] == pytest.approx(dict(zip("XYZ", p, strict=True)), rel=1e-12)
        assert found.facts["probability"] == max(found.facts["probabilities"].values())


def test_metrics_count_every_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


# ------------------------------------------------------------------------------------------------------- task


def test_a_tenth_of_the_tokens_is_unknown_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_initial_embeddings_and_dropout_depend_on_the_level() -> None:
    texts, labels = [f"w{n} v{n}" for n in range(200)], ["A", "B"] * 100
    for level, spread, dropout in (("word", 0.1, 0.6), ("char", 1.0, 0.3)):
        made = task(texts, labels, level=level, embedding_size=None, dropout=None)
        assert made.model.config["dropout"] == dropout
        rows = made.model.body.embedding.weight.numpy()
        assert rows.shape[1] == {"word": 100, "char": 32}[level]
        assert rows.std() == pytest.approx(spread, rel=0.1)


def test_evaluate_measures_the_validation_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@needs_many_steps
@pytest.mark.parametrize(
    ("pooling", "cell"),
    [
        ("max", "lstm"),
        ("attention", "lstm"),
        pytest.param("mean", "gru", marks=pytest.mark.slow),
        pytest.param("last", "gru", marks=pytest.mark.slow),
        pytest.param("max", "rnn", marks=pytest.mark.slow),
    ],
)
def test_it_learns_negation_that_a_bag_of_words_cannot(pooling: str, cell: str, tmp_path: Path) -> None:
    made = task(*reviews(800), pooling=pooling, cell=cell, hidden_size=24, batch_size=32, dropout=0.1)
    steps = run(Trainer(made, TrainingConfig(steps=500, lr=1e-2, evaluations=2), tmp_path / "run"))
    assert steps[0].train_loss > 0.6
    trained = load(tmp_path / "run" / BEST)
    metrics = trained.measure([write(tmp_path / "new.tsv", *reviews(200, seed=1))])
    assert metrics["accuracy"] > 0.97
    assert metrics["macro_f1"] == pytest.approx(metrics["accuracy"], abs=0.02)
    lines = [Line(text, "x") for text in ("a film and not bad", "the plot was not good", "DULL film", "great")]
    assert [p.text for p in trained.predict_lines(lines)] == ["pos", "neg", "neg", "pos"]
