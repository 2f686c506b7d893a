"""The translator: batches, vocabularies, unknown words, metrics by hand, learning; see also test_tasks.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import needs_many_steps, run

from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import END, START, UNK, Vocabulary
from minirnn.decode import Hypothesis
from minirnn.metrics import bleu
from minirnn.models import EncoderDecoder
from minirnn.models.encoder_decoder import teacher_forcing_ratio
from minirnn.runs import BEST
from minirnn.tasks import Line, load, translator
from minirnn.tasks.translator import EncodedPairs, Pairs, TranslateConfig, Translator, TranslatorConfig
from minirnn.training import Trainer, TrainingConfig

WORDS = {"one": "un", "two": "deux", "three": "trois", "four": "quatre", "five": "cinq"}


def pairs(count: int, seed: int = 0) -> Pairs:
    """Numbers in English, and backwards in French."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list(WORDS), rng.integers(1, 6))) + "." for _ in range(count)]
    translations = [" ".join(WORDS[word] for word in reversed(text[:-1].split())) + "." for text in texts]
    return Pairs(texts, translations, [f"numbers.tsv:{n + 1}" for n in range(count)])


def task(count: int = 40, **changed: Any) -> Translator:
    options = {"hidden_size": 12, "embedding_size": 7, "batch_size": 8, "dropout": 0.3, "min_count": 1, "seed": 3}
    return Translator.build(pairs(count), TranslatorConfig.from_dict(options | changed))


def lines(texts: Sequence[str]) -> list[Line]:
    return [Line(text, f"line {n}") for n, text in enumerate(texts)]


# ------------------------------------------------------------------------------------------------------- data


def test_a_batch_has_start_end_and_padding() -> None:
    source, target = Vocabulary("ab"), Vocabulary("xyz")
    data = EncodedPairs(source, target, [["a"], ["b", "a", "q"], ["b", "b"]], [["x", "y"], ["z"], ["q", "z", "y", "x"]])
    assert (len(data), data.num_targets) == (3, 3 + 2 + 5)
    assert [side.tolist() for side in data.lengths] == [[1, 3, 2], [4, 3, 6]]
    tokens, expected, source_lengths, target_lengths = data.batch(np.array([1, 0]))
    assert tokens.T.tolist() == [[5, 4, UNK], [4, 0, 0]]
    assert expected.T.tolist() == [[START, 6, END, 0], [START, 4, 5, END]]
    assert (source_lengths.tolist(), target_lengths.tolist()) == ([3, 1], [3, 4])


def test_a_batch_has_pairs_of_similar_length() -> None:
    """Cut from pairs sorted by the length of the source, then of the target; every pair once, in another order."""
    data = Pairs(*pairs(60, seed=1)[:1], *pairs(60, seed=2)[1:])
    made = Translator.build(data, TranslatorConfig(hidden_size=2, min_count=1, batch_size=7))
    lengths = list(zip(*(side.tolist() for side in made._train.lengths), strict=True))
    orders = []
    for epoch in (0, 1):
        made.start_epoch(epoch)
        batches = [sorted(lengths[n] for n in batch) for batch in made._order]
        assert [pair for batch in sorted(batches) for pair in batch] == sorted(lengths)
        orders.append(batches)
    assert orders[0] != orders[1]
    assert [len(batch) for batch in sorted(orders[0])] == [7] * 7 + [5]


def test_vocabularies_come_from_the_training_set_alone() -> None:
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


def test_evenly_spaced_pairs_of_a_large_validation_set_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = task(40, val_fraction=0.5)._validation[2]
    assert len(whole) == 20
    monkeypatch.setattr(translator, "MAX_EVAL_PAIRS", 6)
    assert task(40, val_fraction=0.5)._validation[2] == whole[::4]


def test_level_lower_max_words_and_min_count_make_the_vocabularies() -> None:
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


def fixed(monkeypatch: pytest.MonkeyPatch, made: Translator, answers: dict[tuple[str, ...], Hypothesis]) -> list[Any]:
    """Let the model answer from a table; returns what it was asked."""
    asked: list[Any] = []

    def generate(source: np.ndarray, lengths: np.ndarray, *options: Any) -> list[Hypothesis]:
        asked.append((source.shape, lengths.tolist(), options))
        return [answers[tuple(made.source.decode(source[:n, k]))] for k, n in enumerate(lengths)]

    monkeypatch.setattr(made.model, "generate", generate)
    return asked


def answer(tokens: Sequence[int], source_length: int) -> Hypothesis:
    return Hypothesis(np.array(tokens), 0.0, 0.0, np.eye(len(tokens), source_length))


def small(attention: str | None = "dot") -> Translator:
    source, target = Vocabulary(["go", "Tom", "￭!"]), Vocabulary(["va", "￭.", "l'"])
    model = EncoderDecoder(len(source), len(target), 3, embedding_size=2, attention=attention)
    return Translator(model, Tokenizer(), source, target)


def test_unknown_words_are_copied_from_the_source_by_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    weights = np.array([[0.6, 0.3, 0.1], [0.12344, 0.5, 0.37656], [0.2, 0.2, 0.6]], np.float32)
    fixed(monkeypatch, made, {("go", "<unk>", "￭!"): Hypothesis(np.array([4, UNK, 5]), -1.5, -1.25, weights)})
    (found,) = made.predict_lines([Line("go Zoé!", "here")])
    assert found.text == "va Zoé."
    assert found.facts == {
        "source": "go Zoé!",
        "target": "va Zoé.",
        "score": -1.25,
        "tokens": ["va", "Zoé", "￭."],
        "source_tokens": ["go", "Zoé", "￭!"],
        "attention": [[0.6, 0.3, 0.1], [0.1234, 0.5, 0.3766], [0.2, 0.2, 0.6]],
    }
    json.dumps(found.facts, allow_nan=False)

    blind = small(None)
    fixed(monkeypatch, blind, {("go", "<unk>", "￭!"): Hypothesis(np.array([4, UNK, 5]), -1.5, -1.25, None)})
    (found,) = blind.predict_lines([Line("go Zoé!", "here")])
    assert found.text == "va <unk>."
    assert found.facts["attention"] is None


def test_lines_are_batched_by_length_and_results_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    monkeypatch.setattr(translator, "EVAL_BATCH_SIZE", 2)
    answers = {("go",) * n: Hypothesis(np.array([4] * n), -n, -n, np.full((n, n), 1 / n)) for n in range(1, 5)}
    asked = fixed(monkeypatch, made, answers)
    texts = ["go go go", "", "go", "go go go go", " ￭ ", "go go", "go"]
    found = made.predict_lines(lines(texts), TranslateConfig(beam=7, length_penalty=0.5, max_length=9))
    assert [p.text for p in found] == ["va va va", "", "va", "va va va va", "", "va va", "va"]
    assert [p.facts["score"] for p in found] == [-3, 0, -1, -4, 0, -2, -1]
    assert found[1].facts["attention"] == found[1].facts["tokens"] == found[1].facts["source_tokens"] == []
    assert [(shape, lengths) for shape, lengths, _ in asked] == [((1, 2), [1, 1]), ((3, 2), [2, 3]), ((4, 1), [4])]
    assert {options for _, _, options in asked} == {(9, 7, 0.5)}
    assert made.predict_lines([]) == []


def test_options_of_the_search_reach_the_model() -> None:
    made = task()
    text = "three one five."
    source = made.source.encode(made.tokenizer.split(text))[:, None]
    for beam, penalty, limit in [(1, 1.0, None), (4, 0.0, None), (2, 2.0, 3)]:
        (expected,) = made.model.generate(source, None, limit, beam, penalty)
        (found,) = made.predict_lines(
            [Line(text)], TranslateConfig(beam=beam, length_penalty=penalty, max_length=limit)
        )
        assert found.facts["score"] == pytest.approx(expected.score)
        assert len(found.facts["tokens"]) == len(expected.tokens)
        assert np.shape(found.facts["attention"]) == (len(expected.tokens), 4)


# -------------------------------------------------------------------------------------------------- measuring


def test_metrics_match_a_computation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the mean over the tokens of all pairs, without smoothing; texts are compared after normalisation."""
    made = small()
    texts, expected = ["go", "Tom go!", "Tom Tom Tom"], ["va", "Tom  va.", "l'￭va va va va"]
    total, tokens = 0.0, 0
    for text, translation in zip(texts, expected, strict=True):
        source = made.source.encode(made.tokenizer.split(text))[:, None]
        target = np.array([START, *made.target.encode(made.tokenizer.split(translation)), END])[:, None]
        log_probs = made.model(source, target).log_softmax(2).numpy()[:, 0].astype(np.float64)
        total -= sum(log_probs[t, token] for t, token in enumerate(target[1:, 0]))
        tokens += len(target) - 1
    answers = {("go",): [4], ("Tom", "go", "￭!"): [UNK, 4, 5], ("Tom", "Tom", "Tom"): [6, 4, 4, 4, 4]}
    fixed(monkeypatch, made, {words: answer(tokens, len(words)) for words, tokens in answers.items()})
    metrics = made.metrics(Pairs(texts, expected, texts))
    assert metrics.keys() == {"loss", "exact_match", "bleu"}
    assert metrics["loss"] == pytest.approx(total / tokens, rel=1e-6)
    assert metrics["exact_match"] == pytest.approx(2 / 3)  # a second space does not count
    assert metrics["bleu"] == pytest.approx(bleu(["va", "Tom va.", "l'va va va va"], expected))
    assert metrics["bleu"] > 0


@pytest.mark.parametrize(("longest", "has_bleu"), [("va va va", False), ("va va.", False), ("va va va.", True)])
def test_bleu_is_left_out_where_no_target_has_four_words(
    longest: str, has_bleu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even perfect translations would have 0; a period counts as a word."""
    made = small()
    written = made.target.encode(made.tokenizer.split(longest))
    fixed(monkeypatch, made, {("go",): answer([4], 1), ("go", "go"): answer(written, 2)})
    metrics = made.metrics(Pairs(["go", "go go"], ["va", longest], ["x:1", "x:2"]))
    assert metrics["exact_match"] == 1
    assert metrics.keys() == ({"loss", "exact_match", "bleu"} if has_bleu else {"loss", "exact_match"})
    assert not has_bleu or metrics["bleu"] == pytest.approx(100)


def test_bleu_is_left_out_for_single_words(tmp_path: Path) -> None:
    """In training as in eval; with characters too, of which each text has more than four."""
    texts, where = ["three", "seven", "eight", "forty"] * 3, [f"x:{n}" for n in range(12)]
    config = TranslatorConfig(level="char", hidden_size=3, val_fraction=0.5)
    made = Translator.build(Pairs(texts, [text[::-1] for text in texts], where), config)
    assert made.evaluate().keys() == {"val_loss", "exact_match"}
    (tmp_path / "x").write_text("three\teerht\n", encoding="utf-8")
    assert made.measure([str(tmp_path / "x")]).keys() == {"loss", "exact_match"}


def test_evaluate_measures_the_validation_set_with_beam_1(tmp_path: Path) -> None:
    """Without label smoothing."""
    made = task(dropout=0.5, label_smoothing=0.3)
    metrics = made.evaluate()
    texts, translations, where = made._validation
    path = tmp_path / "validation.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(texts, translations, strict=True)), encoding="utf-8")
    measured = made.measure([str(path)])
    assert measured == made.metrics(Pairs(texts, translations, where), beam=4)
    assert metrics["val_loss"] == measured["loss"]
    greedy = made.metrics(Pairs(texts, translations, where), beam=1)
    assert metrics == {"val_loss": greedy["loss"], "exact_match": greedy["exact_match"], "bleu": greedy["bleu"]}
    assert math.isfinite(metrics["bleu"])


def test_sample_output_translates_the_validation_set() -> None:
    made = task()
    shown = made.sample_output().splitlines()
    assert [line.split(" -> ")[0] for line in shown] == made._validation[0][:4]
    assert shown[0] == f"{made._validation[0][0]} -> {made.predict_lines(lines(made._validation[0][:1]))[0].text}"


# --------------------------------------------------------------------------------------------------- training


@needs_many_steps
@pytest.mark.parametrize(
    ("cell", "level", "attention"),
    [("lstm", "word", "additive"), pytest.param("gru", "char", "dot", marks=pytest.mark.slow)],
)
def test_it_learns_to_translate_and_reverse_numbers(cell: str, level: str, attention: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 48, "embedding_size": 24, "batch_size": 32}
    made = task(800, cell=cell, level=level, attention=attention, dropout=0.0, label_smoothing=0.0, **sizes)
    steps = run(Trainer(made, TrainingConfig(steps=400, lr=8e-3, evaluations=2), tmp_path))
    assert steps[-1].metrics is not None
    assert steps[-1].metrics["exact_match"] > 0.9
    assert steps[-1].metrics["bleu"] > 90
    predictor = load(tmp_path / BEST)
    assert isinstance(predictor, Translator)
    assert [p.text for p in predictor.predict_lines(lines(["one two three.", "five."]))] == ["trois deux un.", "cinq."]


def test_teacher_forcing_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
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
