"""How good predictions are, as people report it; knows NumPy only."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.errors import DataError, DTypeError, IndexRangeError, OptionError, ShapeError


def accuracy(predicted: Any, expected: Any) -> float:
    """The share of predictions that are equal to what was expected; both of one shape.

    Raises:
        ShapeError: the shapes differ.
        DataError: there is nothing to compare; likewise in every metric below.
    """
    p, w = _alike("accuracy", predicted, expected)
    return float((p == w).mean())


def macro_f1(predicted: Any, expected: Any, classes: int) -> float:
    """The mean over the classes of F1, the harmonic mean of precision and recall.

    ::

        F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)

    Only classes that occur count, whether predicted or expected: scikit-learn's ``f1_score(average="macro")``.

    Args:
        predicted, expected: class numbers of one shape, below ``classes``.

    Raises:
        ShapeError: the shapes differ.
        DTypeError: the class numbers are no integers.
        IndexRangeError: a class number is out of range.
        OptionError: ``classes`` is below 1.
    """
    p, w = _alike("macro_f1", predicted, expected)
    if classes < 1:
        raise OptionError(f"macro_f1: there must be at least 1 class, got {classes}")
    for numbers in (p, w):
        if numbers.dtype.kind not in "iub":
            raise DTypeError(f"macro_f1: expected class numbers, got {numbers.dtype}")
        outside = numbers[(numbers < 0) | (numbers >= classes)]
        if outside.size:
            raise IndexRangeError(f"macro_f1: class {outside[0]} is out of range; expected 0 to {classes - 1}")
    p, w = p.astype(np.int64), w.astype(np.int64)
    found = np.bincount(p, minlength=classes) + np.bincount(w, minlength=classes)  # 2 TP + FP + FN
    right = np.bincount(p[p == w], minlength=classes)
    occurs = found > 0
    return float((2 * right[occurs] / found[occurs]).mean())


def exact_match(predicted: Sequence[Any], expected: Sequence[Any]) -> float:
    """The share of predicted sequences (texts, lists of tokens) that are what was expected from end to end.

    Raises:
        ShapeError: there are not as many of one as of the other.
    """
    _as_many("exact_match", predicted, expected)
    return sum(p == w for p, w in zip(predicted, expected, strict=True)) / len(expected)


def rmse(predicted: Any, expected: Any) -> float:
    """Root mean squared error, ``sqrt(mean((predicted - expected)^2))``; both of one shape.

    Finite wherever a double can hold it, though a square, or a difference, may be beyond all doubles.

    Raises:
        ShapeError: the shapes differ.
    """
    p, w = _alike("rmse", predicted, expected)
    halves = p.astype(np.float64) / 2 - w.astype(np.float64) / 2
    largest = float(np.abs(halves).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return 2 * (largest * math.sqrt(np.mean((halves / largest) ** 2)))


def mae(predicted: Any, expected: Any) -> float:
    """Mean absolute error, ``mean(|predicted - expected|)``; both of one shape.

    Raises:
        ShapeError: the shapes differ.
    """
    p, w = _alike("mae", predicted, expected)
    return float(np.mean(np.abs(p.astype(np.float64) - w)))


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU from 0 to 100, one reference each (Papineni et al. 2002), with the choices of sacreBLEU (Post 2018).

    ::

        p_n  = sum over sentences of min(count in hypothesis, count in reference) over the n-grams of the hypothesis
               / sum over sentences of the n-grams of the hypothesis
        BP   = min(1, exp(1 - reference words / hypothesis words))
        BLEU = 100 BP (p_1 p_2 p_3 p_4)^(1/4)

    Words are those of NIST's mteval-v13a, case kept. The k-th n without any match, counted from n = 1, takes half a
    match for k = 1, a quarter for k = 2, and so on (method 3 of Chen and Cherry 2014). BLEU is 0 where no word
    matches, or no hypothesis has four words.

    Raises:
        ShapeError: there are not as many hypotheses as references.
        DTypeError: one text came in the place of a list of texts.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise DTypeError("bleu: expected lists of texts, got one text")
    _as_many("bleu", hypotheses, references)
    matches, totals = [0] * _ORDERS, [0] * _ORDERS
    hypothesis_words = reference_words = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        h, r = words_13a(hypothesis), words_13a(reference)
        hypothesis_words += len(h)
        reference_words += len(r)
        for n in range(1, _ORDERS + 1):
            counts = _ngrams(h, n)
            matches[n - 1] += (counts & _ngrams(r, n)).total()
            totals[n - 1] += counts.total()
    if matches[0] == 0 or totals[-1] == 0:
        return 0.0
    log_precisions, part = 0.0, 1.0
    for matched, total in zip(matches, totals, strict=True):
        if matched == 0:
            part /= 2
        log_precisions += math.log((matched or part) / total)
    log_penalty = min(0.0, 1 - reference_words / hypothesis_words)
    return 100 * math.exp(log_penalty + log_precisions / _ORDERS)


_ORDERS = 4
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_CUTS = (
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),  # ASCII punctuation but ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words_13a(text: str) -> list[str]:
    """The words BLEU compares, by the rules of NIST's mteval-v13a, as sacreBLEU applies them.

    Punctuation stands alone, except apostrophes; a period or comma where a digit is missing on one of its sides; a
    hyphen only after a digit. Four HTML entities are resolved, a hyphen at a line end joins the lines.
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _CUTS:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[k:] for k in range(n)), strict=False))


def _alike(name: str, predicted: Any, expected: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as flat arrays of one size, at least 1."""
    p, w = np.asarray(predicted), np.asarray(expected)
    if p.shape != w.shape:
        raise ShapeError(f"{name}: predicted is {list(p.shape)} and expected {list(w.shape)}; they must be alike")
    if p.size == 0:
        raise DataError(f"{name}: there is nothing to compare")
    return p.reshape(-1), w.reshape(-1)


def _as_many(name: str, predicted: Sequence[Any], expected: Sequence[Any]) -> None:
    if len(predicted) != len(expected):
        raise ShapeError(
            f"{name}: {len(predicted)} predicted but {len(expected)} expected; there must be as many of both"
        )
    if not len(expected):
        raise DataError(f"{name}: there is nothing to compare")
