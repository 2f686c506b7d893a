"""Metrics by hand, and BLEU against sacreBLEU: recorded scores, and the library itself where it is installed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.errors import DataError, DTypeError, IndexRangeError, OptionError, ShapeError
from minirnn.metrics import accuracy, bleu, exact_match, macro_f1, mae, rmse, words_13a

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


@pytest.mark.parametrize("metric", [accuracy, rmse, mae, lambda p, t: macro_f1(p, t, 3), exact_match, bleu])
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
