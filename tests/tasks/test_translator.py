"""The translator: what a batch holds, padding, unknown words, metrics by hand, what is learnt, kept and refused."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import run

import minirnn as mr
from minirnn import checkpoint
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import END, START, UNK, Vocabulary
from minirnn.decode import Hypothesis
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.metrics import bleu
from minirnn.models import EncoderDecoder
from minirnn.models.encoder_decoder import teacher_forcing_ratio
from minirnn.runs import BEST, LAST
from minirnn.tasks import Line, load, translator
from minirnn.tasks.translator import EncodedPairs, Pairs, TranslateConfig, Translator, TranslatorConfig
from minirnn.training import Trainer, TrainingConfig

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
WORDS = {"one": "un", "two": "deux", "three": "trois", "four": "quatre", "five": "cinq"}


def pairs(count: int, seed: int = 0) -> Pairs:
    """Numbers in English, and backwards in French."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list(WORDS), rng.integers(1, 6))) + "." for _ in range(count)]
    translations = [" ".join(WORDS[word] for word in reversed(text[:-1].split())) + "." for text in texts]
    return Pairs(texts, translations, [f"numbers.tsv:{n + 1}" for n in range(count)])


def task(count: int = 40, **changed: Any) -> Translator:
    settings: dict[str, Any] = {
        "hidden_size": 12, "embedding_size": 7, "batch_size": 8, "dropout": 0.3, "min_count": 1, "seed": 3,
    }  # fmt: skip
    return Translator.build(pairs(count), TranslatorConfig(**settings | changed))


def lines(texts: Sequence[str]) -> list[Line]:
    return [Line(text, f"line {n}") for n, text in enumerate(texts)]


# ------------------------------------------------------------------------------------------------------- data


def test_a_batch_by_hand() -> None:
    source, target = Vocabulary("ab"), Vocabulary("xyz")
    data = EncodedPairs(source, target, [["a"], ["b", "a", "q"], ["b", "b"]], [["x", "y"], ["z"], ["q", "z", "y", "x"]])
    assert (len(data), data.num_targets) == (3, 3 + 2 + 5)
    assert [side.tolist() for side in data.lengths] == [[1, 3, 2], [4, 3, 6]]
    tokens, expected, source_lengths, target_lengths = data.batch(np.array([1, 0]))
    assert tokens.T.tolist() == [[5, 4, UNK], [4, 0, 0]]
    assert expected.T.tolist() == [[START, 6, END, 0], [START, 4, 5, END]]
    assert (source_lengths.tolist(), target_lengths.tolist()) == ([3, 1], [3, 4])


def test_a_batch_holds_pairs_of_like_lengths() -> None:
    """Cut from pairs sorted by the length of the source, then of the target; every pair once, in another order."""
    data, config = (
        Pairs(*pairs(60, seed=1)[:1], *pairs(60, seed=2)[1:]),
        TranslatorConfig(hidden_size=2, min_count=1, batch_size=7),
    )
    made = Translator.build(data, config)
    lengths = list(zip(*(side.tolist() for side in made._train.lengths), strict=True))
    orders = []
    for epoch in (0, 1):
        made.start_epoch(epoch)
        batches = [sorted(lengths[n] for n in batch) for batch in made._order]
        assert [pair for batch in sorted(batches) for pair in batch] == sorted(lengths)
        orders.append(batches)
    assert orders[0] != orders[1]
    assert [len(batch) for batch in sorted(orders[0])] == [7] * 7 + [5]


def test_vocabularies_come_from_the_training_part_alone() -> None:
    texts, translations, where = pairs(30)
    texts = [f"{text} w{n}" for n, text in enumerate(texts)]
    config = TranslatorConfig(min_count=1, hidden_size=4, val_fraction=0.3, seed=5)
    made = Translator.build(Pairs(texts, translations, where), config)
    held = set(made._validation[0])
    assert len(held) == 9
    assert len(made._train) == 21
    known = {int(token[1:]) for token in made.source.tokens if token[:1] == "w"}
    assert known == {n for n in range(30) if texts[n] not in held}
    for text, translation, at in zip(*made._validation, strict=True):
        n = texts.index(text)
        assert (translation, at) == (translations[n], where[n])
    assert set(task(seed=4)._validation[0]) != set(task(seed=5)._validation[0])


def test_of_a_large_validation_part_evenly_spread_pairs_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = task(40, val_fraction=0.5)._validation[2]
    assert len(whole) == 20
    monkeypatch.setattr(translator, "MAX_EVAL_PAIRS", 6)
    assert task(40, val_fraction=0.5)._validation[2] == whole[::4]


def test_levels_cases_and_limits() -> None:
    def made(**options: Any) -> tuple[list[str], list[str]]:
        where = [f"line {n}" for n in range(12)]
        data = Pairs(["Ab cd", "cd ef", "cd"] * 4, ["X y", "y.", "y Z"] * 4, where)
        both = Translator.build(data, TranslatorConfig(hidden_size=2, seed=0, **options))
        return both.source.tokens[4:], both.target.tokens[4:]

    assert {frozenset(side) for side in made()} == {frozenset(["Ab", "cd", "ef"]), frozenset(["X", "y", "￭.", "Z"])}
    assert set(made(lower=True)[0]) == {"ab", "cd", "ef"}
    assert set(made(level="char")[0]) == set("Abcdef ")
    assert made(max_words=1) == (["cd"], ["y"])
    assert made(min_count=5) == (["cd"], ["y"])


# ------------------------------------------------------------------------------------------------- translating


@pytest.mark.parametrize("attention", ["additive", "dot", "none"])
def test_padding_changes_nothing(attention: str) -> None:
    """A batch of ragged pairs has the loss and the gradients of each alone; every line its own translation."""
    made = task(attention=attention, dropout=0.0, num_layers=2)
    made.model.to("float64")
    examples = np.array([3, 0, 17, 8, 21])
    assert len(set(made._train.lengths[0][examples])) > 2
    loss, count = made.batch_loss(examples, 0.0)
    loss.backward()
    together = {name: p.grad.numpy().copy() for name, p in made.model.named_parameters()}
    made.model.zero_grad()
    total, tokens = 0.0, 0
    for n in examples:
        one, expected = made.batch_loss(np.array([n]), 0.0)
        (one * (expected / count)).backward()
        total += one.item() * expected
        tokens += expected
    assert count == tokens
    assert loss.item() == pytest.approx(total / count, rel=1e-12)
    for name, parameter in made.model.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), together[name], rtol=1e-9, atol=1e-13, err_msg=name)

    texts = ["one two three four five.", "one.", "six", "five five five", "two. two", "one."]
    together = made.predict(lines(texts), TranslateConfig(beam=3))
    assert [p.facts["source"] for p in together] == texts
    for line, prediction in zip(lines(texts), together, strict=True):
        (alone,) = made.predict([line], TranslateConfig(beam=3))
        assert alone.text == prediction.text
        assert alone.facts["score"] == pytest.approx(prediction.facts["score"], rel=1e-10)
        assert alone.facts["attention"] == prediction.facts["attention"]


def fixed(monkeypatch: pytest.MonkeyPatch, made: Translator, answers: dict[tuple[str, ...], Hypothesis]) -> list[Any]:
    """Let the model answer from a table; returns what it was asked."""
    asked: list[Any] = []

    def generate(source: np.ndarray, lengths: np.ndarray, *options: Any) -> list[Hypothesis]:
        asked.append((source.shape, lengths.tolist(), options))
        return [answers[tuple(made.source.decode(source[:n, k]))] for k, n in enumerate(lengths)]

    monkeypatch.setattr(made.model, "generate", generate)
    return asked


def small(attention: str | None = "dot") -> Translator:
    source, target = Vocabulary(["go", "Tom", "￭!"]), Vocabulary(["va", "￭.", "l'"])
    model = EncoderDecoder(len(source), len(target), 3, embedding_size=2, attention=attention)
    return Translator(model, Tokenizer(), source, target)


def test_unknown_words_are_those_of_the_source_that_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    weights = np.array([[0.6, 0.3, 0.1], [0.12344, 0.5, 0.37656], [0.2, 0.2, 0.6]], np.float32)
    answer = Hypothesis(np.array([4, UNK, 5]), -1.5, -1.25, weights)
    fixed(monkeypatch, made, {("go", "<unk>", "￭!"): answer})
    (found,) = made.predict([Line("go Zoé!", "here")])
    assert found.text == "va Zoé."
    assert found.facts == {
        "source": "go Zoé!", "target": "va Zoé.", "score": -1.25, "tokens": ["va", "Zoé", "￭."],
        "source_tokens": ["go", "Zoé", "￭!"],
        "attention": [[0.6, 0.3, 0.1], [0.1234, 0.5, 0.3766], [0.2, 0.2, 0.6]],
    }  # fmt: skip
    json.dumps(found.facts, allow_nan=False)

    blind = small(None)
    fixed(monkeypatch, blind, {("go", "<unk>", "￭!"): Hypothesis(np.array([4, UNK, 5]), -1.5, -1.25, None)})
    (found,) = blind.predict([Line("go Zoé!", "here")])
    assert found.text == "va <unk>."
    assert found.facts["attention"] is None


def test_results_are_in_order_and_lines_without_a_token_give_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    monkeypatch.setattr(translator, "EVAL_BATCH_SIZE", 2)
    answers = {
        ("go",) * n: Hypothesis(np.array([4] * n), -float(n), -float(n), np.full((n, n), 1 / n)) for n in range(1, 5)
    }
    asked = fixed(monkeypatch, made, answers)
    texts = ["go go go", "", "go", "go go go go", " ￭ ", "go go", "go"]
    found = made.predict(lines(texts), TranslateConfig(beam=7, length_penalty=0.5, max_length=9))
    assert [p.text for p in found] == ["va va va", "", "va", "va va va va", "", "va va", "va"]
    assert [p.facts["score"] for p in found] == [-3, 0, -1, -4, 0, -2, -1]
    assert found[1].facts["attention"] == found[1].facts["tokens"] == found[1].facts["source_tokens"] == []
    assert [(shape, lengths) for shape, lengths, _ in asked] == [((1, 2), [1, 1]), ((3, 2), [2, 3]), ((4, 1), [4])]
    assert {options for _, _, options in asked} == {(9, 7, 0.5)}
    assert made.predict([]) == []


def test_greedy_and_beam_are_the_models_own() -> None:
    made = task()
    text = "three one five."
    source = made.source.encode(made.tokenizer.split(text))[:, None]
    for beam, penalty, limit in [(1, 1.0, None), (4, 0.0, None), (2, 2.0, 3)]:
        (expected,) = made.model.generate(source, None, limit, beam, penalty)
        (found,) = made.predict([Line(text)], TranslateConfig(beam=beam, length_penalty=penalty, max_length=limit))
        assert found.facts["score"] == pytest.approx(expected.score)
        assert len(found.facts["tokens"]) == len(expected.tokens)
        assert np.shape(found.facts["attention"]) == (len(expected.tokens), 4)


# -------------------------------------------------------------------------------------------------- measuring


def test_metrics_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is that of every token of every pair alone, without smoothing; texts are compared as people see them."""
    made = small()
    texts, expected = ["go", "Tom go!", "Tom Tom Tom"], ["va", "Tom  va.", "l'￭va va va va"]
    total, tokens = 0.0, 0
    for text, translation in zip(texts, expected, strict=True):
        source = made.source.encode(made.tokenizer.split(text))[:, None]
        target = np.array([START, *made.target.encode(made.tokenizer.split(translation)), END])[:, None]
        log_probs = made.model(source, target).log_softmax(2).numpy()[:, 0].astype(np.float64)
        total -= sum(log_probs[t, token] for t, token in enumerate(target[1:, 0]))
        tokens += len(target) - 1
    fixed(monkeypatch, made, {
        ("go",): Hypothesis(np.array([4]), 0.0, 0.0, np.ones((1, 1))),
        ("Tom", "go", "￭!"): Hypothesis(np.array([UNK, 4, 5]), 0.0, 0.0, np.eye(3)),
        ("Tom", "Tom", "Tom"): Hypothesis(np.array([6, 4, 4, 4, 4]), 0.0, 0.0, np.eye(5, 3)),
    })  # fmt: skip
    metrics = made.metrics(Pairs(texts, expected, texts))
    assert metrics.keys() == {"loss", "exact_match", "bleu"}
    assert metrics["loss"] == pytest.approx(total / tokens, rel=1e-6)
    assert metrics["exact_match"] == pytest.approx(2 / 3)  # a second space does not count
    assert metrics["bleu"] == pytest.approx(bleu(["va", "Tom va.", "l'va va va va"], expected))
    assert metrics["bleu"] > 0


@pytest.mark.parametrize(("longest", "meant"), [("va va va", False), ("va va.", False), ("va va va.", True)])
def test_no_bleu_where_no_wanted_translation_has_four_words(
    longest: str, meant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perfect ones would have 0; a period is a word, and one long enough translation will do."""
    made = small()
    written = made.target.encode(made.tokenizer.split(longest))
    fixed(monkeypatch, made, {
        ("go",): Hypothesis(np.array([4]), 0.0, 0.0, np.ones((1, 1))),
        ("go", "go"): Hypothesis(written, 0.0, 0.0, np.eye(len(written), 2)),
    })  # fmt: skip
    metrics = made.metrics(Pairs(["go", "go go"], ["va", longest], ["x:1", "x:2"]))
    assert metrics["exact_match"] == 1
    assert metrics.keys() == ({"loss", "exact_match", "bleu"} if meant else {"loss", "exact_match"})
    assert not meant or metrics["bleu"] == pytest.approx(100)


def test_no_bleu_of_words_alone(tmp_path: Path) -> None:
    """While training as in eval, by characters too, of which each has more than four."""
    texts, where = ["three", "seven", "eight", "forty"] * 3, [f"x:{n}" for n in range(12)]
    config = TranslatorConfig(level="char", hidden_size=3, val_fraction=0.5)
    made = Translator.build(Pairs(texts, [text[::-1] for text in texts], where), config)
    assert made.evaluate().keys() == {"val_loss", "exact_match"}
    (tmp_path / "x").write_text("three\teerht\n", encoding="utf-8")
    assert made.measure([str(tmp_path / "x")]).keys() == {"loss", "exact_match"}


def test_evaluation_while_training_is_that_of_eval(tmp_path: Path) -> None:
    """But for the beam, which is 1; without smoothing or dropout, and without touching what is drawn next."""
    made = task(dropout=0.5, label_smoothing=0.3)
    made.model.train()
    state = mr.random.generator().bit_generator.state
    metrics = made.evaluate()
    assert mr.random.generator().bit_generator.state == state
    assert all(module.training for module in made.model.modules())
    texts, translations, where = made._validation
    path = tmp_path / "validation.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(texts, translations, strict=True)), encoding="utf-8")
    measured = made.measure([str(path)])
    assert measured == made.metrics(Pairs(texts, translations, where), beam=4)
    assert metrics["val_loss"] == measured["loss"]
    greedy = made.metrics(Pairs(texts, translations, where), beam=1)
    assert metrics == {"val_loss": greedy["loss"], "exact_match": greedy["exact_match"], "bleu": greedy["bleu"]}
    assert math.isfinite(metrics["bleu"])


def test_a_sample_shows_validation_pairs() -> None:
    made = task()
    shown = made.sample_output().splitlines()
    assert [line.split(" -> ")[0] for line in shown] == made._validation[0][:4]
    assert shown[0] == f"{made._validation[0][0]} -> {made.predict(lines(made._validation[0][:1]))[0].text}"


# --------------------------------------------------------------------------------------------------- training


@pytest.mark.skipif(SMALL, reason="needs hundreds of steps")
@pytest.mark.parametrize(("cell", "level", "attention"), [("lstm", "word", "additive"), ("gru", "char", "dot")])
def test_it_learns_numbers_backwards(cell: str, level: str, attention: str, tmp_path: Path) -> None:
    made = task(
        800, cell=cell, level=level, attention=attention, hidden_size=48, embedding_size=24, dropout=0.0, batch_size=32,
        label_smoothing=0.0,
    )  # fmt: skip
    steps = run(Trainer(made, TrainingConfig(steps=400, lr=8e-3, evaluations=2), tmp_path))
    assert steps[-1].metrics is not None
    assert steps[-1].metrics["exact_match"] > 0.9
    assert steps[-1].metrics["bleu"] > 90
    predictor = load(tmp_path / BEST)
    assert isinstance(predictor, Translator)
    assert [p.text for p in predictor.predict(lines(["one two three.", "five."]))] == ["trois deux un.", "cinq."]


def test_the_share_of_teacher_forcing_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(teacher_forcing=0.9, teacher_forcing_end=0.3, schedule="linear", draw="sequence", label_smoothing=0.2)
    seen: list[Any] = []
    loss = made.model.loss

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[4:])
        return loss(*arguments)

    monkeypatch.setattr(made.model, "loss", watched)
    for progress in (0.0, 0.5, 1.0):
        made.batch_loss(np.array([0, 1]), progress)
    assert seen == [(pytest.approx(ratio), "sequence", 0.2) for ratio in (0.9, 0.6, 0.3)]
    free = task(schedule="inverse-sigmoid")
    loss = free.model.loss
    monkeypatch.setattr(free.model, "loss", watched)
    free.batch_loss(np.array([0]), 1.0)
    assert seen[-1] == (pytest.approx(teacher_forcing_ratio("inverse-sigmoid", 1.0, 0.0, 1.0)), "step", 0.1)


def contents(folder: Path) -> list[Any]:
    """All that a run kept, but the times."""
    files: list[Any] = []
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(folder / name)
        config["position"].pop("seconds")
        files.append(({key: (a.shape, a.tobytes()) for key, a in arrays.items()}, config))
    return files


@pytest.mark.parametrize("draw", ["step", "sequence"])
def test_a_cut_run_goes_on_as_if_uncut(draw: str, tmp_path: Path) -> None:
    """With dropout and scheduled sampling, over the end of an epoch."""
    changed = {"schedule": "linear", "teacher_forcing_end": 0.2, "draw": draw}
    options = TrainingConfig(steps=12, lr=1e-2, evaluations=3)
    assert task(**changed).num_batches == 5
    run(Trainer(task(**changed), options, tmp_path / "whole"))
    run(Trainer(task(**changed), options, tmp_path / "cut"), 5)
    trainer = Trainer(task(**changed), options, tmp_path / "cut", resume=True)
    assert trainer.position.step == 5
    assert len(run(trainer)) == 7
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    run(Trainer(task(**changed), options, tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_resume_refuses_what_has_changed(tmp_path: Path) -> None:
    run(Trainer(task(), TrainingConfig(steps=2, evaluations=1), tmp_path))
    for changed, message in [
        ({"count": 41}, "the data is not the one"),
        ({"hidden_size": 13}, "hidden_size was 12, now it is 13"),
        ({"attention": "dot"}, 'attention was "additive", now it is "dot"'),
        ({"lower": True}, "lower was false, now it is true"),
        ({"min_count": 2}, "min_count was 1, now it is 2"),
        ({"schedule": "linear"}, 'schedule was "constant", now it is "linear"'),
        ({"label_smoothing": 0.2}, "label_smoothing was 0.1, now it is 0.2"),
        ({"batch_size": 4}, "batch_size was 8, now it is 4"),
        ({"seed": 4}, "seed was 3, now it is 4"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            Trainer(task(**changed), TrainingConfig(steps=4), tmp_path, resume=True)
    Trainer(task(), TrainingConfig(steps=4), tmp_path, resume=True)


def test_a_loaded_translator_is_the_trained_one(tmp_path: Path) -> None:
    made = task(attention="none", bidirectional=False, cell="gru", level="char", lower=True)
    run(Trainer(made, TrainingConfig(steps=2, evaluations=1), tmp_path))
    again = Translator.load(tmp_path / BEST)
    assert not again.model.training
    assert again.tokenizer == Tokenizer("char", True)
    texts = ["One two", "four."]
    assert [p.facts for p in again.predict(lines(texts))] == [p.facts for p in made.predict(lines(texts))]


def test_checkpoints_that_will_not_do(tmp_path: Path) -> None:
    made = task()
    arrays = {f"model.{name}": array for name, array in made.model.state_dict().items()}
    config = json.loads(json.dumps(made.config()))
    for changed, message in [
        ({"task": "tagger"}, "holds a 'tagger' model; expected a translator"),
        ({"tokenizer": None}, "is damaged: tokenizer: expected a rule"),
        ({"source": {"tokens": ["a"]}}, "encoder.embedding.weight has shape .10, 7., expected .5, 7."),
        ({"target": {"tokens": "a"}}, "is damaged: vocabulary: expected a description"),
        ({"model": config["model"] | {"cell": "qrnn"}}, "is damaged: cell must be one of"),
        ({"model": config["model"] | {"color": 1}}, "is damaged: .*unexpected keyword argument 'color'"),
    ]:
        checkpoint.save(tmp_path / "x.safetensors", arrays, config | changed)
        with pytest.raises(CheckpointError, match=message):
            Translator.load(tmp_path / "x.safetensors")
    del config["source"]
    checkpoint.save(tmp_path / "x.safetensors", arrays, config)
    with pytest.raises(CheckpointError, match="is damaged: 'source'"):
        Translator.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"level": "byte"}, OptionError, "level: expected one of word, char, got 'byte'"),
        ({"schedule": "cosine"}, OptionError, "schedule: expected one of constant, linear, inverse-sigmoid"),
        (
            {"teacher_forcing": 1.5},
            OptionError,
            "teacher_forcing: expected a number of at least 0 and at most 1, got 1.5",
        ),
        (
            {"teacher_forcing_end": 0.5},
            OptionError,
            "teacher_forcing_end: a constant schedule has no end; choose another schedule",
        ),
        ({"attention": "loud"}, OptionError, "got 'loud'"),
        ({"batch_size": 0}, OptionError, "batch_size: expected an int of at least 1"),
        ({"val_fraction": 0}, OptionError, "val_fraction: expected a number of at least 0.001"),
        ({"min_count": 0}, OptionError, "min_count: expected an int of at least 1"),
        ({"count": 1}, DataError, "expected at least 2 examples"),
    ],
)
def test_mistakes_are_named(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        task(**changed)


def test_a_pair_without_a_token_is_named_by_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="b:3: there is no token in '￭'"):
        Translator.build(Pairs(["a", "b", "c"], ["x", "y", "￭"], ["b:1", "b:2", "b:3"]), TranslatorConfig())
    path = tmp_path / "data.tsv"
    path.write_text("go\tva\n￭\tva\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.tsv:2: there is no token in '￭'"):
        small().measure([str(path)])
