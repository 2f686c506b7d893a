"""The tagger: batches, vocabulary, word dropout, logits and metrics by hand, learning; see also test_tasks.py."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import needs_many_steps, run

import minirnn as mr
from minirnn.data.vocabulary import PAD, UNK, Vocabulary
from minirnn.errors import DataError
from minirnn.metrics import span_f1
from minirnn.runs import BEST
from minirnn.tasks import Line, load, tagger
from minirnn.tasks.tagger import EncodedSentences, Sentences, TaggedData, Tagger, TaggerConfig, TaggerModel, evaluate
from minirnn.training import Trainer, TrainingConfig

NOUNS, NAMES, ADVERBS = ("dog", "cat", "fish", "bird"), ("Ann", "Bob", "Eve"), ("slowly", "badly", "gladly")


def language(count: int, seed: int = 0) -> list[list[tuple[str, str]]]:
    """Sentences whose tags follow from the word ("the"), its ending ("-ly"), its case, or its neighbours ("can")."""
    rng = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        noun, name, adverb = rng.choice(NOUNS), rng.choice(NAMES), rng.choice(ADVERBS)
        subject = [(str(name), "PROPN")] if rng.random() < 0.5 else [("The", "DET"), (str(noun), "NOUN")]
        thing = ("can", "NOUN") if rng.random() < 0.5 else (str(rng.choice(NOUNS)), "NOUN")
        end = [(str(adverb), "ADV")] if rng.random() < 0.5 else []
        sentences.append([*subject, ("can", "AUX"), ("see", "VERB"), ("the", "DET"), thing, *end, (".", "PUNCT")])
    return sentences


def write(path: Path, sentences: Sequence[Sequence[tuple[str, str]]]) -> str:
    path.write_text("\n".join("".join(f"{w}\t{t}\n" for w, t in s) for s in sentences), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> Sentences:
    return Sentences.read([write(tmp_path / "language.tsv", language(40))])


def task(data: Sentences, validation: Sentences | None = None, **changed: Any) -> Tagger:
    settings: dict[str, Any] = {"hidden_size": 12, "embedding_size": 9, "batch_size": 7, "dropout": 0.3, "seed": 3}
    return Tagger.build(TaggedData(data, validation), TaggerConfig(**settings | changed))


# ------------------------------------------------------------------------------------------------------- data


def test_a_batch_spells_every_different_word_once() -> None:
    words, characters = Vocabulary(["the", "dog"]), Vocabulary("tehdog")
    text = EncodedSentences([["The", "dog"], [], ["the", "The", "cog"]], words, characters)
    assert text.lengths.tolist() == [2, 0, 3]
    batch = text.batch(np.array([2, 0]))
    the, dog = words.encode(["the", "dog"])
    assert batch.lengths.tolist() == [3, 2]
    assert batch.words.tolist() == [[the, the], [the, dog], [UNK, the]]  # the place past the second: a word again
    assert batch.valid.tolist() == [0, 1, 2, 3, 4]
    assert batch.characters.shape == (3, 4)  # The, dog, the, cog
    spelled = {0: "the", 1: "The", 2: "The", 3: "dog", 4: "cog"}
    for place, word in spelled.items():
        k = batch.forms.reshape(-1)[place]
        assert batch.characters[: batch.sizes[k], k].tolist() == characters.encode(word).tolist()
    assert (batch.characters[:, batch.forms[0, 0]] == characters.encode("the")).all()
    assert batch.forms[2, 1] in batch.forms[:2]
    assert [numbers.tolist() for numbers, _ in text.batches()] == [[0, 2]]


def test_both_ends_of_a_long_word_are_spelled() -> None:
    characters = Vocabulary("abc")
    word = "a" * 20 + "c" * 5 + "b" * 20
    long, short = EncodedSentences([[word, "ab" * 20]], Vocabulary([]), characters).spellings
    assert long.tolist() == characters.encode("a" * 20 + "b" * 20).tolist()
    assert short.tolist() == characters.encode("ab" * 20).tolist()


def test_vocabularies_come_from_the_training_set_alone(tmp_path: Path) -> None:
    """Words count lower-cased, characters once in each different word."""
    train = Sentences.read([write(tmp_path / "t", [[("The", "D"), ("the", "D"), ("xx", "N"), ("Tx", "N")]])])
    held = Sentences.read([write(tmp_path / "v", [[("zebra", "N"), ("zebra", "N")]])])
    both = task(train, held)
    assert both.words.tokens[4:] == ["the"]
    assert sorted(both.characters.tokens[4:]) == ["T", "e", "h", "x"]
    assert task(train, held, min_count=1).words.tokens[4:] == ["the", "xx", "tx"]


def test_the_split_keeps_tags_that_occur_once_for_training(tmp_path: Path) -> None:
    rare = [[(f"w{n}", f"T{n}" if n % 3 == 0 else "A"), ("x", "A")] for n in range(30)]
    data = Sentences.read([write(tmp_path / "rare", rare)])
    made = task(data, val_fraction=0.5)
    assert len(made.labels) == 11
    held = {words[0] for words in made.validation}
    assert held
    assert all(int(word[1:]) % 3 for word in held)
    assert made._train.lengths.size + len(held) == 30
    assert task(data, val_fraction=0.5, seed=4).validation != made.validation
    assert task(data, val_fraction=0.5).validation == made.validation
    lone = Sentences.read([write(tmp_path / "lone", [[(f"w{n}", f"T{n}")] for n in range(5)])])
    with pytest.raises(DataError, match=r"lone:1: no sentence is left .*expected more sentences than 5"):
        task(lone)


def test_a_tag_that_training_never_saw_is_an_error_and_named_once(
    tmp_path: Path, data: Sentences, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs accuracy and F1 (one more class, of F1 0); the loss is that of the other words."""
    known = [[("the", "DET"), ("dog", "NOUN")], [("a", "DET"), ("x", "PUNCT"), ("cat", "NOUN")]]
    foreign = [known[0], [known[1][0], ("x", "KATZE"), known[1][2]], [("dog", "HUND"), ("x", "KATZE")]]
    files = [write(tmp_path / name, part) for name, part in (("known.tsv", known), ("foreign.tsv", foreign))]
    made = task(data)
    before, after = made.measure(files[:1]), made.measure(files[1:])
    assert [m.partition("foreign.tsv")[2] for m in caplog.messages] == [
        ":5: training never saw 3 of the 7 labels, which count as errors: 'KATZE' (2), 'HUND' (1)"
    ]
    tags = made.tag([[w for w, _ in s] for s in foreign])
    pairs = [(p, t) for found, s in zip(tags, foreign, strict=True) for p, (_, t) in zip(found, s, strict=True)]
    assert after["accuracy"] == pytest.approx(sum(p == t for p, t in pairs) / 7)
    f1 = [
        2 * pairs.count((c, c)) / sum((p == c) + (t == c) for p, t in pairs)
        for c in {c for pair in pairs for c in pair}
    ]
    assert after["macro_f1"] == pytest.approx(np.mean(f1))
    with made.model.evaluating():
        logits = made.model(EncodedSentences([["a", "x", "cat"]], made.words, made.characters).batch(np.array([0])))
    x_loss = mr.nn.functional.cross_entropy(logits[1], made.labels.encode(["PUNCT"])[0]).item()
    assert after["loss"] * 4 == pytest.approx(before["loss"] * 5 - x_loss, rel=1e-5)

    caplog.clear()
    same = task(data, Sentences.read(files[1:]))
    assert (
        same.evaluate()
        == same.evaluate()
        == {"val_loss": after["loss"]} | {k: after[k] for k in ("accuracy", "macro_f1")}
    )
    assert len(caplog.messages) == 1


def test_span_scores_are_those_of_the_predicted_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several batches of sentences of several lengths, one of them with a type that training never saw."""
    monkeypatch.setattr(tagger, "EVAL_BATCH_SIZE", 3)
    kinds = {
        "DET": "B-NP",
        "NOUN": "I-NP",
        "PROPN": "B-NP",
        "AUX": "B-VP",
        "VERB": "I-VP",
        "ADV": "B-ADVP",
        "PUNCT": "O",
    }
    chunks = [[(word, kinds[tag]) for word, tag in sentence] for sentence in language(30)]
    foreign = [*chunks[20:], [("Oh", "B-INTJ"), ("dear", "I-INTJ"), ("Ann", "B-NP")]]
    made = task(
        Sentences.read([write(tmp_path / "train", chunks[:20])]), Sentences.read([write(tmp_path / "v", foreign)])
    )
    assert (made.best_metric, made.best_mode) == ("span_f1", "max")
    for _ in Trainer(made, TrainingConfig(steps=8, lr=2e-2)).fit():
        pass
    found = made.evaluate()
    scores = span_f1(made.tag([[w for w, _ in s] for s in foreign]), [[t for _, t in s] for s in foreign])
    assert (found["span_precision"], found["span_recall"], found["span_f1"]) == scores
    assert 0 < scores.f1 < 1
    assert found.keys() == {"val_loss", "accuracy", "macro_f1", "span_precision", "span_recall", "span_f1"}


def test_tags_that_are_all_foreign_are_refused(tmp_path: Path, data: Sentences) -> None:
    strange = write(tmp_path / "strange.tsv", [[("the", "D")], [("dog", "N")]])
    message = r"strange\.tsv:1: label 'D' is none of the 7 known: ADV, AUX, DET, NOUN, .*; expected some that are"
    with pytest.raises(DataError, match=message):
        task(data).measure([strange])
    with pytest.raises(DataError, match=message):
        task(data, Sentences.read([strange]))


# ------------------------------------------------------------------------------------------------------ model


def small_model(cell: str, layers: int) -> TaggerModel:
    sizes = {"embedding_size": 4, "character_embedding_size": 3, "character_hidden_size": 5}
    return TaggerModel(9, 8, 5, 6, layers, cell, dtype="float64", **sizes)


WORDS, CHARACTERS = Vocabulary("abcde"), Vocabulary("abcd")
SENTENCES = [["a"], ["bb", "a", "ccc", "dddddd"], ["E", "bb", "bb"], ["a", "zz"]]
CLASSES = [np.array(c) for c in ([3], [0, 1, 2, 4], [1, 1, 0], [4, 3])]


def test_logits_match_a_computation_by_hand() -> None:
    """With one word spelled at a time, and one sentence read at a time."""
    model = small_model("lstm", 2)
    text = EncodedSentences(SENTENCES, WORDS, CHARACTERS)
    for n, sentence in enumerate(SENTENCES):
        rows = []
        for word in sentence:
            letters = model.spelling.embedding(CHARACTERS.encode(word))
            _, (h, _) = model.spelling.rnn(letters)
            vector = model.embedding.weight.numpy()[WORDS.encode([word.lower()])[0]]
            rows.append(np.concatenate([vector, h.numpy()[0], h.numpy()[1]]))
        y, _ = model.tagging.body.rnn(mr.tensor(rows, dtype="float64"))
        expected = y.numpy() @ model.tagging.head.weight.numpy().T + model.tagging.head.bias.numpy()
        np.testing.assert_allclose(model(text.batch(np.array([n]))).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_metrics_count_every_word_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three: the mean is over words, not over batches."""
    monkeypatch.setattr(tagger, "EVAL_BATCH_SIZE", 3)
    model = small_model("rnn", 1)
    text = EncodedSentences(SENTENCES, WORDS, CHARACTERS)
    logits = np.concatenate([model(text.batch(np.array([n]))).numpy() for n in range(4)])
    expected = np.concatenate(CLASSES)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    best, f1 = logits.argmax(1), []
    for c in sorted({*best.tolist(), *expected.tolist()}):
        right = ((best == c) & (expected == c)).sum()
        f1.append(2 * right / ((best == c).sum() + (expected == c).sum()))
    metrics = evaluate(model, text, CLASSES, list("VWXYZ"))
    assert metrics == {
        "loss": pytest.approx(-log_p[np.arange(10), expected].mean()),
        "accuracy": pytest.approx((best == expected).mean()),
        "macro_f1": pytest.approx(np.mean(f1)),
    }
    assert model.training


# ------------------------------------------------------------------------------------------------------- task


def test_rare_words_are_unknown_more_often_in_training(data: Sentences, monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(data, min_count=1)
    total, held = (Counter(w.lower() for words in part for w in words) for part in (data.words, made.validation))
    for word in ("can", "dog", "the"):
        count = total[word] - held[word]
        assert made._unknown[made.words.encode([word])[0]] == pytest.approx(0.25 / (0.25 + count))

    made._unknown[:] = 0
    made.start_epoch(0)
    made.loss(0, 0.0)[0].backward()
    gradient = made.model.embedding.weight.grad.numpy()
    assert not gradient[[PAD, UNK]].any()
    assert gradient[made.words.encode(["can", "see", "."])].any(1).all()
    made.model.zero_grad()
    made._unknown[made.words.encode(["can"])] = 1
    made.loss(0, 0.0)[0].backward()
    gradient = made.model.embedding.weight.grad.numpy()
    assert gradient[UNK].any()
    assert not gradient[made.words.encode(["can"])].any()
    made._unknown[:] = 0.5
    seen = []
    monkeypatch.setattr(made.model, "forward", lambda batch: seen.append(batch) or mr.zeros(batch.valid.size, 7))
    for _ in range(50):
        made.loss(0, 0.0)
    fraction = np.mean([batch.words == UNK for batch in seen])
    assert fraction == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(50 * seen[0].words.size))


def test_evaluate_measures_the_validation_set(data: Sentences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = write(tmp_path / "held.tsv", language(9, seed=5))
    made = task(data, Sentences.read([held]))
    metrics = made.measure([held])
    assert made.evaluate() == {"val_loss": metrics["loss"]} | {k: metrics[k] for k in ("accuracy", "macro_f1")}
    assert metrics["accuracy"] < 0.8  # nothing is learnt yet, so the numbers say something
    monkeypatch.setattr(tagger, "MAX_EVAL_WORDS", 30)
    words = sum(len(sentence) for sentence in language(9, seed=5))
    assert 30 < words <= 90
    every = -(-words // 30)
    fewer = task(data, Sentences.read([held]))
    assert fewer.validation == [[w for w, _ in s] for s in language(9, seed=5)][::every]
    part = write(tmp_path / "part.tsv", language(9, seed=5)[::every])
    assert fewer.evaluate()["val_loss"] == pytest.approx(fewer.measure([part])["loss"], rel=1e-6)


@needs_many_steps
@pytest.mark.parametrize(
    "cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow), pytest.param("rnn", marks=pytest.mark.slow)]
)
def test_it_learns_words_endings_capitals_and_neighbours(cell: str, tmp_path: Path) -> None:
    data = Sentences.read([write(tmp_path / "language.tsv", language(80))])
    steps = run(Trainer(task(data, cell=cell), TrainingConfig(steps=250, lr=1e-2, evaluations=1), tmp_path / "run"))
    assert steps[-1].metrics is not None
    assert steps[-1].metrics["accuracy"] == steps[-1].metrics["macro_f1"] == 1
    assert steps[-1].metrics["val_loss"] < 0.05
    trained = load(tmp_path / "run" / BEST)
    lines = [Line("The bird can see the can  happily .", "x:1"), Line("", "x:2"), Line("\tZoe can see .\u2003", "x:3")]
    found = trained.predict_lines(lines)
    assert found[0].text == "The/DET bird/NOUN can/AUX see/VERB the/DET can/NOUN happily/ADV ./PUNCT"
    assert found[1].text == ""
    assert found[1].facts == {"tokens": [], "tags": [], "probabilities": []}
    assert found[2].facts["tokens"] == ["Zoe", "can", "see", "."]
    assert found[2].facts["tags"][0] == "PROPN"


def test_a_line_is_split_at_white_space_only(data: Sentences) -> None:
    found = task(data).predict_lines([Line("I'm 1/2 here.", "x:1")])[0]
    assert found.facts["tokens"] == ["I'm", "1/2", "here."]
    assert found.text.split()[1] == f"1/2/{found.facts['tags'][1]}"
    assert task(data).predict_lines([]) == []
    with pytest.raises(
        DataError, match="x:7: a sentence of 5001 words, expected at most 5000; expected a line for each"
    ):
        task(data).predict_lines([Line("a " * 5001, "x:7")])
