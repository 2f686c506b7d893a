"""The tagger: what a batch holds, that padding changes nothing, what is learnt, kept, resumed and refused."""

import json
import os
from collections import Counter
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
from minirnn.data.vocabulary import PAD, UNK, Labels, Vocabulary
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.nn import functional as F
from minirnn.runs import BEST, LAST
from minirnn.tasks import Line, load, tagger
from minirnn.tasks.tagger import EncodedSentences, Sentences, TaggedData, Tagger, TaggerConfig, TaggerModel, evaluate
from minirnn.training import Trainer, TrainingConfig

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
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


def test_a_batch_holds_every_different_word_once() -> None:
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


def test_of_a_long_word_both_ends_are_spelled() -> None:
    characters = Vocabulary("abc")
    word = "a" * 20 + "c" * 5 + "b" * 20
    long, short = EncodedSentences([[word, "ab" * 20]], Vocabulary([]), characters).spellings
    assert long.tolist() == characters.encode("a" * 20 + "b" * 20).tolist()
    assert short.tolist() == characters.encode("ab" * 20).tolist()


def test_words_are_known_from_the_training_part_alone(tmp_path: Path) -> None:
    """Words count lower-cased, characters once in each different word."""
    train = Sentences.read([write(tmp_path / "t", [[("The", "D"), ("the", "D"), ("xx", "N"), ("Tx", "N")]])])
    held = Sentences.read([write(tmp_path / "v", [[("zebra", "N"), ("zebra", "N")]])])
    both = task(train, held)
    assert both.words.tokens[4:] == ["the"]
    assert sorted(both.characters.tokens[4:]) == ["T", "e", "h", "x"]
    assert task(train, held, min_count=1).words.tokens[4:] == ["the", "xx", "tx"]


def test_the_split_keeps_rare_tags_for_training(tmp_path: Path) -> None:
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


def test_a_tag_that_was_never_seen_is_named_by_file_and_line(tmp_path: Path, data: Sentences) -> None:
    strange = write(tmp_path / "strange.tsv", [[("the", "DET")], [("a", "DET"), ("dog", "HUND"), ("x", "KATZE")]])
    message = r"strange\.tsv:4: label 'HUND' is none of the 7 known: ADV, AUX, DET"
    with pytest.raises(DataError, match=message):
        task(data, Sentences.read([strange]))
    with pytest.raises(DataError, match=message):
        task(data).measure([strange])
    picked = Sentences.read([strange]).pick(np.array([1]))
    with pytest.raises(DataError, match=message):
        picked.classes(task(data).labels)


def test_data_that_will_not_do(tmp_path: Path, data: Sentences) -> None:
    with pytest.raises(DataError, match="expected at least 2 examples"):
        task(Sentences.read([write(tmp_path / "one", [[("a", "A"), ("b", "B")]])]))
    with pytest.raises(DataError, match=r"same:1: every word has the tag 'A'; expected two or more"):
        task(Sentences.read([write(tmp_path / "same", [[("a", "A"), ("b", "A")]] * 3)]))
    with pytest.raises(
        DataError, match=r"long:3: a sentence of 5001 words, expected at most 5000; is a blank line miss"
    ):
        Sentences.read([write(tmp_path / "long", [[("a", "A")], [("a", "A")] * 5001])])
    with pytest.raises(OptionError, match="freeze: only pretrained vectors can be frozen"):
        task(data, freeze=True)


# ------------------------------------------------------------------------------------------------------ model


def small_model(cell: str, bidirectional: bool, layers: int) -> TaggerModel:
    return TaggerModel(
        9, 8, 5, 6, layers, cell, bidirectional, embedding_size=4, character_embedding_size=3,
        character_hidden_size=5, dtype="float64",
    )  # fmt: skip


WORDS, CHARACTERS = Vocabulary("abcde"), Vocabulary("abcd")
SENTENCES = [["a"], ["bb", "a", "ccc", "dddddd"], ["E", "bb", "bb"], ["a", "zz"]]
CLASSES = [np.array(c) for c in ([3], [0, 1, 2, 4], [1, 1, 0], [4, 3])]


@pytest.mark.parametrize(("cell", "bidirectional", "layers"), [("lstm", True, 2), ("gru", False, 1), ("rnn", True, 1)])
def test_padding_changes_nothing(cell: str, bidirectional: bool, layers: int) -> None:
    """Every sentence has in a ragged batch the logits, loss and gradients it has alone."""
    model = small_model(cell, bidirectional, layers)
    text = EncodedSentences(SENTENCES, WORDS, CHARACTERS)
    alone, losses, gradients = [], 0.0, {name: 0.0 for name, _ in model.named_parameters()}
    for n in range(4):
        model.zero_grad()
        logits = model(text.batch(np.array([n])))
        loss = F.cross_entropy(logits, CLASSES[n], reduction="sum")
        loss.backward()
        alone.append(logits.numpy())
        losses += loss.item()
        for name, parameter in model.named_parameters():
            gradients[name] = gradients[name] + parameter.grad.numpy()
    model.zero_grad()
    order = np.array([2, 0, 1, 3])
    batch = text.batch(order)
    logits = model(batch)
    loss = F.cross_entropy(logits, tagger._targets(CLASSES, order, batch), reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(losses, rel=1e-12)
    steps = [(t, n) for t in range(4) for n in order if t < len(SENTENCES[n])]
    np.testing.assert_allclose(logits.numpy(), [alone[n][t] for t, n in steps], rtol=1e-12, atol=1e-14)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=1e-10, atol=1e-14, err_msg=name)
        assert np.abs(gradients[name]).max() > 0


def test_logits_are_those_of_the_parts_put_together_by_hand() -> None:
    """One word at a time is spelled, one sentence at a time is read."""
    model = small_model("lstm", True, 2)
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


SENTENCE = st.lists(st.text("abE", min_size=1, max_size=4), max_size=5)


@given(st.lists(SENTENCE, max_size=9), st.randoms(use_true_random=False))
def test_a_sentence_is_tagged_alike_in_any_company(sentences: list[list[str]], random: Any) -> None:
    mr.manual_seed(0)
    tags = Tagger(small_model("gru", True, 1), WORDS, CHARACTERS, Labels("VWXYZ"))
    alone = {tuple(sentence): tags.tag([sentence])[0] for sentence in sentences}
    assert [len(found) for found in alone.values()] == [len(sentence) for sentence in alone]
    random.shuffle(sentences)
    assert tags.tag(sentences) == [alone[tuple(sentence)] for sentence in sentences]


def test_metrics_are_those_of_every_word_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of three: the mean is over words, not over batches."""
    monkeypatch.setattr(tagger, "EVAL_BATCH_SIZE", 3)
    model = small_model("rnn", True, 1)
    text = EncodedSentences(SENTENCES, WORDS, CHARACTERS)
    logits = np.concatenate([model(text.batch(np.array([n]))).numpy() for n in range(4)])
    expected = np.concatenate(CLASSES)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    best, f1 = logits.argmax(1), []
    for c in sorted({*best.tolist(), *expected.tolist()}):
        right = ((best == c) & (expected == c)).sum()
        f1.append(2 * right / ((best == c).sum() + (expected == c).sum()))
    metrics = evaluate(model, text, CLASSES)
    assert metrics == {
        "loss": pytest.approx(-log_p[np.arange(10), expected].mean()),
        "accuracy": pytest.approx((best == expected).mean()),
        "macro_f1": pytest.approx(np.mean(f1)),
    }
    assert model.training


# ------------------------------------------------------------------------------------------------------- task


def test_rare_words_are_now_and_then_unknown(data: Sentences, monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(data, min_count=1)
    whole, held = (Counter(w.lower() for words in part for w in words) for part in (data.words, made.validation))
    for word in ("can", "dog", "the"):
        count = whole[word] - held[word]
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
    share = np.mean([batch.words == UNK for batch in seen])
    assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(50 * seen[0].words.size))


def test_the_loss_is_the_mean_over_words_and_tells_how_many(data: Sentences) -> None:
    made = task(data, dropout=0.0)
    made._unknown[:] = 0
    examples = np.array([0, 5, 3])
    loss, words = made.batch_loss(examples, 0.0)
    tokens = [made._train.lengths[i] for i in examples]
    assert words == sum(tokens)
    alone = [made.batch_loss(np.array([i]), 0.0)[0].item() for i in examples]
    assert loss.item() == pytest.approx(np.average(alone, weights=tokens), rel=1e-5)


def test_training_evaluates_as_eval_does(data: Sentences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.skipif(SMALL, reason="needs some hundred steps")
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_it_learns_words_endings_capitals_and_neighbours(cell: str, tmp_path: Path) -> None:
    data = Sentences.read([write(tmp_path / "language.tsv", language(80))])
    steps = run(Trainer(task(data, cell=cell), TrainingConfig(steps=250, lr=1e-2, evaluations=1), tmp_path / "run"))
    assert steps[-1].metrics is not None
    assert steps[-1].metrics["accuracy"] == steps[-1].metrics["macro_f1"] == 1
    assert steps[-1].metrics["val_loss"] < 0.05
    trained = load(tmp_path / "run" / BEST)
    lines = [Line("The bird can see the can  happily .", "x:1"), Line("", "x:2"), Line("\tZoe can see .\u2003", "x:3")]
    found = trained.predict(lines)
    assert found[0].text == "The/DET bird/NOUN can/AUX see/VERB the/DET can/NOUN happily/ADV ./PUNCT"
    assert found[1].text == ""
    assert found[1].facts == {"tokens": [], "tags": []}
    assert found[2].facts["tokens"] == ["Zoe", "can", "see", "."]
    assert found[2].facts["tags"][0] == "PROPN"


def test_a_line_is_cut_at_white_space_alone(data: Sentences) -> None:
    found = task(data).predict([Line("I'm 1/2 here.", "x:1")])[0]
    assert found.facts["tokens"] == ["I'm", "1/2", "here."]
    assert found.text.split()[1] == f"1/2/{found.facts['tags'][1]}"
    assert task(data).predict([]) == []
    with pytest.raises(
        DataError, match="x:7: a sentence of 5001 words, expected at most 5000; expected a line for each"
    ):
        task(data).predict([Line("a " * 5001, "x:7")])


# ------------------------------------------------------------------------------------- embeddings, checkpoints


def vectors(path: Path) -> str:
    path.write_text("the 1 2 3 4\nunheard 9 9 9 9\ncan -1 0.5 0.25 0\nThe 7 7 7 7\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("freeze", [False, True])
def test_vectors_from_a_file(data: Sentences, tmp_path: Path, freeze: bool) -> None:
    made = task(data, embeddings=vectors(tmp_path / "v.txt"), freeze=freeze)
    assert made.summary.endswith("; vectors for 2 of 18 words")
    assert made.model.config["embedding_size"] == 4
    the, can = made.words.encode(["the", "can"])
    before = made.model.embedding.weight.numpy().copy()
    assert before[[the, can]].tolist() == [[1, 2, 3, 4], [-1, 0.5, 0.25, 0]]
    run(Trainer(made, TrainingConfig(steps=3), tmp_path / "run"))
    after = made.model.embedding.weight.numpy()
    assert np.array_equal(before, after) == freeze
    trained = Tagger.load(tmp_path / "run" / LAST)
    np.testing.assert_array_equal(trained.model.embedding.weight.numpy(), after)
    again = task(data, embeddings=vectors(tmp_path / "v.txt"), freeze=freeze)
    run(Trainer(again, TrainingConfig(steps=5), tmp_path / "run", resume=True))
    assert np.array_equal(before, again.model.embedding.weight.numpy()) == freeze


def contents(folder: Path) -> list:
    files = []
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(folder / name)
        config["position"].pop("seconds")
        files.append(({key: (a.shape, a.tobytes()) for key, a in arrays.items()}, config))
    return files


def test_a_cut_run_goes_on_as_if_uncut(data: Sentences, tmp_path: Path) -> None:
    options = TrainingConfig(steps=15, evaluations=3)
    whole = run(Trainer(task(data), options, tmp_path / "whole"))
    assert whole[-1].epoch > 2
    run(Trainer(task(data), options, tmp_path / "cut"), 5)
    run(Trainer(task(data), options, tmp_path / "cut", resume=True))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    other = run(Trainer(task(data, seed=4), options))
    assert other[-1].train_loss != whole[-1].train_loss


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_count": 3}, "min_count was 2, now it is 3"),
        ({"hidden_size": 13}, "hidden_size was 12, now it is 13"),
        ({"dropout": 0.1}, r"dropout was 0\.3, now it is 0\.1"),
        ({"val_fraction": 0.3}, r"val_fraction was 0\.1, now it is 0\.3"),
        ({"seed": 4}, "seed was 3, now it is 4"),
        ({"embeddings": "v.txt"}, "the embeddings file is not"),
    ],
)
def test_resume_refuses_other_settings(
    data: Sentences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    vectors(Path("v.txt"))
    run(Trainer(task(data), TrainingConfig(steps=1), tmp_path / "run"))
    with pytest.raises(CheckpointError, match=message):
        Trainer(task(data, **changed), TrainingConfig(steps=2), tmp_path / "run", resume=True)


def test_resume_refuses_other_data(data: Sentences, tmp_path: Path) -> None:
    """One word or tag is enough, in the training set or in the other."""
    held = Sentences.read([write(tmp_path / "held", language(3, seed=5))])
    run(Trainer(task(data, held), TrainingConfig(steps=1), tmp_path / "run"))
    sentences = language(40)
    sentences[7][0] = ("Cat", "NOUN")
    other = Sentences.read([write(tmp_path / "other", sentences)])
    with pytest.raises(CheckpointError, match=r"cannot resume .*: the data is not the one"):
        Trainer(task(other, held), TrainingConfig(steps=2), tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="the val file is not"):
        Trainer(task(data), TrainingConfig(steps=2), tmp_path / "run", resume=True)
    moved = [["a", "b"], ["c"]], [["a"], ["b", "c"]]
    prints = {Sentences(words, words, data.where, range(2)).fingerprint() for words in moved}
    assert len(prints) == 2


def test_a_checkpoint_brings_all_it_needs(data: Sentences, tmp_path: Path) -> None:
    made = task(data, num_layers=2, bidirectional=False, cell="gru", column=2)
    assert json.loads(json.dumps(made.config())) == made.config()
    run(Trainer(made, TrainingConfig(steps=2), tmp_path))
    trained = Tagger.load(tmp_path / LAST)
    held = write(tmp_path / "held", language(5, seed=9))
    assert trained.measure([held]) == made.measure([held])
    arrays, config = checkpoint.load(tmp_path / LAST)
    fewer = "bad is damaged: its model is not one of"
    for name, value, message in [
        ("labels", {"names": ["A"]}, fewer), ("characters", {"tokens": ["a"]}, fewer), ("words", 3, "bad is damaged"),
        ("column", None, "bad is damaged"), ("model", {"words": 4}, "bad is damaged"), ("model", 5, "described by 5"),
    ]:  # fmt: skip
        checkpoint.save(tmp_path / "bad", arrays, config | {name: value})
        with pytest.raises(CheckpointError, match=message):
            Tagger.load(tmp_path / "bad")
    checkpoint.save(tmp_path / "bad", arrays, config | {"task": "char"})
    with pytest.raises(CheckpointError, match="bad holds a 'char' model; expected a tagger"):
        Tagger.load(tmp_path / "bad")
