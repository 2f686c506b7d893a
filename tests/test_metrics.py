"""Metrics by hand, and BLEU against sacreBLEU: recorded scores, and the library itself where it is installed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.errors import DataError, DTypeError, IndexRangeError, OptionError, ShapeError
from minirnn.metrics import (
    accuracy,
    bleu,
    char_error_rate,
    edit_distance,
    exact_match,
    has_spans,
    macro_f1,
    mae,
    rmse,
    roc_auc,
    span_f1,
    spans,
    word_error_rate,
    words_13a,
)

CAT = "the cat sat on the mat today"
PAIRS = [
    ("Tom's dog isn't here, is it?", "Tom's dog is not here, is it?"),
    ("I paid $3.50 for 1,000 of them.", "I paid $3.50 for 1000 of them."),
    ("Il a dit\u00a0: «\u00a0Non\u00a0!\u00a0»", "Il a dit : « Non ! »"),
    ("L\u2019homme a vu l'homme.", "L'homme a vu l'homme."),
    ("R&amp;D costs &lt; 5%", "R&D costs < 5%"),
    ("", "Nothing was said."),
    ("state-of-the-art in 2010-2020", "state-of-the-art in 2010 - 2020"),
]


def test_accuracy_and_exact_match_by_hand() -> None:
    assert accuracy([1, 2, 3, 4], [1, 0, 3, 0]) == 0.5
    assert accuracy(np.array([[1, 2], [3, 4], [5, 6]])[:, ::-1], [[2, 1], [4, 0], [6, 5]]) == 5 / 6
    assert accuracy(["a", "b"], ["a", "b"]) == 1.0
    assert exact_match(["abc", "", "x", "ab"], ["abc", "", "y", "abc"]) == 0.5
    assert exact_match([["a", "b"], []], [["a", "b"], ["a"]]) == 0.5


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_roc_auc_is_the_fraction_of_pairs_in_order(examples: list[tuple[int, bool]]) -> None:
    scores, target = zip(*examples, strict=True)
    if len({*target}) < 2:
        with pytest.raises(DataError, match=r"roc_auc: expected positive and negative examples, got \d+ and \d+"):
            roc_auc(scores, target)
        return
    pairs = [(p > n) + (p == n) / 2 for p, a in examples if a for n, b in examples if not b]
    assert roc_auc(scores, target) == pytest.approx(np.mean(pairs))


def test_edit_distance_is_that_of_its_definition() -> None:
    @cache
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        kept = distance(a[1:], b[1:]) + (a[0] != b[0])
        return min(kept, 1 + distance(a[1:], b), 1 + distance(a, b[1:]))

    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 8))) for _ in range(2))
        assert edit_distance(a, b) == distance(a, b), (a, b)
    assert edit_distance([5, "x", None], ["x", None, 7]) == 2


def test_error_rates_by_hand() -> None:
    """Characters: 1 replaced, 3 missing, 3 too many, of 8; words: 1, 1 and 1 of 3."""
    predicted, target = ["a cat", "", "axy"], ["a bat", "ab ", ""]
    assert char_error_rate(predicted, target) == (1 + 3 + 3) / 8
    assert word_error_rate(predicted, target) == 3 / 3
    with pytest.raises(DataError, match="char_error_rate: every target is empty"):
        char_error_rate(["a"], [""])
    with pytest.raises(ShapeError, match="word_error_rate: expected as many targets as predictions"):
        word_error_rate(["a"], [])


def test_macro_f1_by_hand() -> None:
    """Class 0: TP 2, FP 1, FN 0: 4/5. Class 1: TP 1, FP 0, FN 2: 2/4. Class 2 (predicted only): 0. Class 3: nowhere."""
    predicted, target = [0, 0, 0, 1, 2], [0, 0, 1, 1, 1]
    assert macro_f1(predicted, target, 4) == pytest.approx((4 / 5 + 2 / 4 + 0) / 3, abs=1e-15)
    assert macro_f1(np.array(predicted, np.uint64), np.array(target, np.int8), 3) == macro_f1(predicted, target, 99)
    assert macro_f1([2, 2], [2, 2], 5) == 1.0
    assert macro_f1([0, 0], [1, 1], 2) == 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_macro_f1_from_precision_and_recall(pairs: list[tuple[int, int]]) -> None:
    scores = []
    for c in {c for pair in pairs for c in pair}:
        right = pairs.count((c, c))
        precision = right / max(1, sum(p == c for p, _ in pairs))
        recall = right / max(1, sum(w == c for _, w in pairs))
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    predicted, target = zip(*pairs, strict=True)
    assert macro_f1(predicted, target, 5) == pytest.approx(sum(scores) / len(scores), abs=1e-12)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B-NP I-NP O B-NP B-NP", {("NP", 0, 1), ("NP", 3, 3), ("NP", 4, 4)}),
        ("I-NP I-NP B-NP I-NP", {("NP", 0, 1), ("NP", 2, 3)}),  # IOB1: B where two of a type meet
        ("I-NP I-VP B-PP I-NP", {("NP", 0, 0), ("VP", 1, 1), ("PP", 2, 2), ("NP", 3, 3)}),  # a change of type begins
        ("O I-NP O I-NP", {("NP", 1, 1), ("NP", 3, 3)}),  # I without B begins a span
        ("B-NP I-NP E-NP S-NP S-NP B-VP E-VP", {("NP", 0, 2), ("NP", 3, 3), ("NP", 4, 4), ("VP", 5, 6)}),
        ("E-NP E-NP I-NP S-NP I-NP", {("NP", 0, 0), ("NP", 1, 1), ("NP", 2, 2), ("NP", 3, 3), ("NP", 4, 4)}),
        ("B I O S", {("", 0, 1), ("", 3, 3)}),
        ("B-A-B I-A-B I-A", {("A-B", 0, 1), ("A", 2, 2)}),  # a type may have hyphens
        ("LST LST B-LST X", {("LST", 0, 1), ("LST", 2, 2), ("X", 3, 3)}),
        ("O-x B- I-", {("", 1, 2)}),
    ],
)
def test_spans_by_hand(tags: str, expected: set[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == expected


def test_span_f1_by_hand() -> None:
    """Target: NP 0-1, VP 2, NP 3; PER 0-1. Predicted: NP 0-1, VP 2-3; PER 0, ORG 1, LOC 2. One of 5, of 4 is right."""
    target = [["B-NP", "I-NP", "B-VP", "B-NP"], ["B-PER", "I-PER", "O"], []]
    predicted = [["B-NP", "I-NP", "B-VP", "I-VP"], ["B-PER", "I-ORG", "B-LOC"], []]
    scores = span_f1(predicted, target)
    assert scores == (1 / 5, 1 / 4, pytest.approx(2 * (1 / 5) * (1 / 4) / (1 / 5 + 1 / 4), rel=1e-15))
    assert (scores.precision, scores.recall) == (1 / 5, 1 / 4)
    assert span_f1(target, target) == (1, 1, 1)
    assert span_f1([["O", "O"]], [["B-X", "O"]]) == span_f1([["B-X", "O"]], [["O", "O"]]) == (0, 0, 0)
    assert span_f1([["O"]], [["O"]]) == (0, 0, 0)
    assert span_f1([["B-X"], ["I-X"]], [["I-X"], ["B-X"]]) == (1, 1, 1)  # no span goes from sentence to sentence
    with pytest.raises(ShapeError, match="span_f1: sentence 1 has 2 target tags, but 1 predicted ones"):
        span_f1([["O"], ["O"]], [["O"], ["O", "O"]])


BEGINS = {"BB", "IB", "OB", "EB", "SB", "BS", "IS", "OS", "ES", "SS", "OI", "EI", "SI", "OE", "EE", "SE"}
ENDS = {"BB", "BS", "BO", "IB", "IS", "IO", "EB", "EI", "EE", "ES", "EO", "SB", "SI", "SE", "SS", "SO"}


def conlleval(sentences: list[list[tuple[str, str]]]) -> tuple[float, float, float]:
    """The one pass over pairs of tags, predicted and target, of the script ``conlleval``, by its tables of pairs."""
    correct = found = expected = 0
    before, inside = (("O", ""), ("O", "")), False  # inside of a predicted and a target span that began together
    for sentence in sentences:
        for pair in [*sentence, ("O", "O")]:
            now = tuple((tag.partition("-")[0], tag.partition("-")[2]) for tag in pair)
            step = [(b[0] + n[0], b[1] != n[1]) for b, n in zip(before, now, strict=True)]
            ends = [kinds in ENDS or (kinds[0] != "O" and changes) for kinds, changes in step]
            begins = [kinds in BEGINS or (kinds[1] != "O" and changes) for kinds, changes in step]
            if inside and any(ends):
                correct += all(ends)
                inside = False
            inside = inside or (all(begins) and now[0][1] == now[1][1])
            found, expected, before = found + begins[0], expected + begins[1], now
    precision, recall = correct / max(1, found), correct / max(1, expected)
    return precision, recall, 2 * precision * recall / (precision + recall) if correct else 0.0


_TAGS = st.sampled_from(["O", *(f"{prefix}-{type}" for prefix in "BIES" for type in "xy"), "B", "I"])


@given(st.lists(st.lists(st.tuples(_TAGS, _TAGS, st.booleans()), max_size=9), min_size=1, max_size=4))
def test_span_f1_matches_conlleval(drawn: list[list[tuple[str, str, bool]]]) -> None:
    pairs = [[(t if copied else p, t) for p, t, copied in sentence] for sentence in drawn]
    predicted, target = ([[pair[n] for pair in sentence] for sentence in pairs] for n in (0, 1))
    assert span_f1(predicted, target) == pytest.approx(conlleval(pairs), abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from(["", "x", "y"]), st.integers(1, 4)), max_size=8))
def test_spans_are_the_same_in_every_scheme(parts: list[tuple[str, int]]) -> None:
    """Of parts of a type and a length, those without a type outside of all spans."""
    expected, start = set(), 0
    tags: dict[str, list[str]] = {"IOB1": [], "IOB2": [], "IOBES": []}
    for n, (type, length) in enumerate(parts):
        same = n > 0 and parts[n - 1][0] == type
        long = "B" + "I" * (length - 2) + "E" if length > 1 else "S"
        prefixes = {"IOB1": "BI"[not same] + "I" * (length - 1), "IOB2": "B" + "I" * (length - 1), "IOBES": long}
        for scheme, found in tags.items():
            found += [f"{prefix}-{type}" if type else "O" for prefix in prefixes[scheme]]
        if type:
            expected.add((type, start, start + length - 1))
        start += length
    assert [spans(found) for found in tags.values()] == [expected] * 3
    assert span_f1([tags["IOB2"]], [tags["IOBES"]]) == ((1, 1, 1) if expected else (0, 0, 0))


@pytest.mark.parametrize(
    "tags", ["B-NP I-NP O", "I-NP O", "B-PER O", "B I O", "B-X I-X", "B-X I-X E-X S-X O", "B I E S"]
)
def test_tags_of_spans_are_recognised(tags: str) -> None:
    assert has_spans(tags.split())
    assert not has_spans([*tags.split(), "NOUN"])


@pytest.mark.parametrize(
    "tags", ["", "O", "B O", "I", "B-X", "S O", "S-X E-X", "NOUN VERB", "Band Item O", "x y", "B-X L-X O"]
)
def test_other_tags_are_none_of_spans(tags: str) -> None:
    assert not has_spans(tags.split())


def test_rmse_and_mae_by_hand() -> None:
    predicted, target = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 4.0], [0.0, 4.0]]
    assert rmse(predicted, target) == pytest.approx(math.sqrt(13 / 4), rel=1e-15)
    assert mae(predicted, target) == 5 / 4
    assert mae(np.array([1, 2], np.uint8), np.array([3, 2], np.uint8)) == 1.0  # no wrapping
    assert rmse(np.array([1, 2], np.uint8), np.array([3, 2], np.uint8)) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert rmse(np.full(3, 3e38, np.float32), np.full(3, -3e38, np.float32)) == pytest.approx(6e38, rel=1e-6)
    assert math.isnan(rmse([math.nan, 1], [1, 1]))
    assert rmse([math.inf, 1], [1, 1]) == math.inf
    assert rmse([0.5, 2], [0.5, 2]) == 0


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e155, 1e300, 4e307])
def test_rmse_does_not_overflow_where_its_result_is_finite(scale: float) -> None:
    """Differences 1, 3, 1 and 1 times ``scale``, whose squares underflow or overflow; a difference that overflows."""
    predicted, target = np.array([1, -1.5, 2, 0]) * scale, np.array([0, 1.5, 3, 1]) * scale
    assert rmse(predicted, target) == pytest.approx(math.sqrt(3) * scale, rel=1e-15, abs=0)
    assert rmse([1.5e308, 0, 0, 0], [-1.5e308, 0, 0, 0]) == pytest.approx(1.5e308, rel=1e-15)
    assert rmse([1.5e308], [-1.5e308]) == math.inf


@pytest.mark.parametrize("metric", [accuracy, rmse, mae, lambda p, t: macro_f1(p, t, 3), exact_match, span_f1, bleu])
def test_what_cannot_be_compared_is_refused(metric: Any) -> None:
    with pytest.raises(DataError, match="there is nothing to compare"):
        metric([], [])
    with pytest.raises(ShapeError, match=r"predicted \[2\], target \[1\]|targets as predictions, got 1 and 2"):
        metric(["1", "2"], ["1"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: macro_f1([0, 3], [0, 1], 3), IndexRangeError, "macro_f1: class 3 is out of range; expected 0 to 2"),
        (lambda: macro_f1([0, 1], [0, -1], 3), IndexRangeError, "class -1 is out of range"),
        (lambda: macro_f1([0.0], [0], 3), DTypeError, "expected class numbers, got float64"),
        (lambda: macro_f1([0], [0], 0), OptionError, "classes: expected an int of at least 1, got 0"),
        (lambda: bleu(CAT, CAT), DTypeError, "expected lists of texts, got one text"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Hello, world.", ["Hello", ",", "world", "."]),
        ("don't l'eau 'x'", ["don't", "l'eau", "'x'"]),
        ("3.14 1,000 5. .5 a.b e.g.", ["3.14", "1,000", "5", ".", ".", "5", "a", ".", "b", "e", ".", "g", "."]),
        ("well-known 1990-95 -3", ["well-known", "1990", "-", "95", "-3"]),
        ("(a/b) [c] {d} x=y_z", [*"(a/b)[c]{d}x=y_z"]),
        ("&quot;A&amp;lt;B&gt;", ['"', "A", "<", "B", ">"]),
        ("&amp;quot;", ["&", "quot", ";"]),  # entities are resolved once, in order
        ("to-\nday\nno<skipped>w -\n", ["today", "now", "-"]),
        ("a\u00a0b\u2019c «d»…", ["a", "b\u2019c", "«d»…"]),
        ("٣.٤", ["٣", ".", "٤"]),
        ("wait...", ["wait", ".", ".", "."]),
    ],
)
def test_words_are_those_of_mteval(text: str, words: list[str]) -> None:
    assert words_13a(text) == words


def test_bleu_by_hand() -> None:
    """7 words, one wrong at the end: 6/7 words, 5/6 pairs, 4/5 triples, 3/4 fours match; no penalty."""
    assert bleu([CAT], [CAT]) == pytest.approx(100, abs=1e-12)
    assert bleu([CAT.replace("today", "now")], [CAT]) == pytest.approx(
        100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25, abs=1e-12
    )
    # "the" counts only as often as the reference has it: 2/4 words, no pair, triple, or four: 1/2, 1/4, 1/8 of a match
    assert bleu(["the the the the"], [CAT]) == pytest.approx(
        100 * math.exp(1 - 7 / 4) * (2 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** 0.25, abs=1e-12
    )
    # the corpus is counted as one: 4 + 1 words of 7 + 1, each sentence for itself would have no fours
    assert bleu(["the cat sat on", "yes"], [CAT, "yes"]) == pytest.approx(100 * math.exp(1 - 8 / 5), abs=1e-12)
    assert bleu([CAT.upper()], [CAT]) == bleu(["", "a b c"], ["x", "a b c"]) == bleu([""], [CAT]) == 0.0


def test_bleu_matches_recorded_scores_of_sacrebleu() -> None:
    """sacreBLEU 2.6.0, nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp: the pairs one by one, and all together."""
    figures = [52.47357977607325, 59.694917920196445, 100, 66.87403049764218, 100, 0, 100]
    assert [bleu([h], [r]) for h, r in PAIRS] == pytest.approx(figures, abs=1e-9)
    hypotheses, references = zip(*PAIRS, strict=True)
    assert bleu(hypotheses, references) == pytest.approx(70.98159172522902, abs=1e-9)


_WORDS = ["Tom", "23", "-\n", "&amp;", "&quot;", "&amp;quot;", "&lt;", "<skipped>", "...", "日本"]
_PIECES = st.sampled_from([*"ab1   \u00a0\n-.,'\u2019«$_/é٣\t\u200b", *_WORDS])
_TEXTS = st.lists(_PIECES, max_size=14).map("".join)


@given(st.lists(st.tuples(_TEXTS, _TEXTS, st.booleans()), min_size=1, max_size=5))
def test_bleu_matches_sacrebleu(pairs: list[tuple[str, str, bool]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacreBLEU is not installed (extra: peers)")
    hypotheses = [reference + " " + text if copies else text for text, reference, copies in pairs]
    references = [reference for _, reference, _ in pairs]
    assert bleu(hypotheses, references) == pytest.approx(
        sacrebleu.corpus_bleu(hypotheses, [references]).score, abs=1e-9
    )
