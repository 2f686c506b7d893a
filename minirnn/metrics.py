"""Metrics as they are usually reported: accuracy, F1, span F1, AUC, exact match, CER, RMSE, MAE, pinball loss, BLEU.

Knows NumPy only.

Every metric raises :class:`~minirnn.errors.ShapeError` if predictions and targets differ in shape or number, and
:class:`~minirnn.errors.DataError` if there is nothing to compare.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from minirnn.errors import DataError, DTypeError, IndexRangeError, ShapeError
from minirnn.validation import check_int

T = TypeVar("T")
_SPAN_PREFIXES = {"O", "B", "I", "E", "S"}


def accuracy(predicted: ArrayLike, target: ArrayLike) -> float:
    """The fraction of ``predicted`` that is equal to ``target``; arrays of one shape."""
    p, t = _flat("accuracy", predicted, target)
    return float((p == t).mean())


def macro_f1(predicted: ArrayLike, target: ArrayLike, classes: int) -> float:
    """The mean over the classes of F1, the harmonic mean of precision and recall.

    ::

        F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)

    Only classes that occur count, predicted or as targets: scikit-learn's ``f1_score(average="macro")``.

    Args:
        predicted, target: class numbers of one shape, below ``classes``.
        classes: how many there are.

    Raises:
        DTypeError: the class numbers are not integers.
        IndexRangeError: a class number is out of range.
        OptionError: ``classes`` is below 1.
    """
    p, t = _classes("macro_f1", predicted, target, classes)
    total = np.bincount(p, minlength=classes) + np.bincount(t, minlength=classes)  # 2 TP + FP + FN
    correct = np.bincount(p[p == t], minlength=classes)
    occurs = total > 0
    return float((2 * correct[occurs] / total[occurs]).mean())


def confusion_matrix(predicted: ArrayLike, target: ArrayLike, classes: int) -> np.ndarray:
    """How often each class was predicted for each: [classes, classes] integers, a row for each class of ``target``.

    Args:
        predicted, target, classes: as for :func:`macro_f1`, which says what is raised too.
    """
    p, t = _classes("confusion_matrix", predicted, target, classes)
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def roc_auc(scores: ArrayLike, target: ArrayLike) -> float:
    """The area under the ROC curve: how likely a positive example has a higher score than a negative one.

    ::

        AUC = (sum of the ranks of the positive scores - P (P + 1) / 2) / (P N)

    for P positive and N negative examples; equal scores share their mean rank, so each pair of them counts one half
    (Hanley & McNeil 1982). 0.5 is chance.

    Args:
        scores, target: arrays of one shape; ``target`` is true for positive examples.

    Raises:
        DataError: all examples are positive, or all negative.

    >>> roc_auc([0.1, 0.4, 0.4, 0.9], [False, False, True, True])
    0.875
    """
    s, t = _flat("roc_auc", scores, target)
    t = t.astype(bool)
    positive, negative = int(t.sum()), int((~t).sum())
    if not positive or not negative:
        raise DataError(f"roc_auc: expected positive and negative examples, got {positive} and {negative}")
    _, group, counts = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group.reshape(-1)]
    return float((ranks[t].sum() - positive * (positive + 1) / 2) / (positive * negative))


class SpanScores(NamedTuple):
    """Precision, recall and F1 of spans, from 0 to 1; see :func:`span_f1`."""

    precision: float
    recall: float
    f1: float


def span_f1(predicted: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> SpanScores:
    """Precision, recall and F1 of the spans (chunks, names) that tags mark, counted as ``conlleval`` does.

    A predicted span is correct if a span of the same type begins and ends at the same words (Tjong Kim Sang & De
    Meulder 2003); all sentences are counted together::

        precision = correct / predicted,  recall = correct / target,  F1 = 2 precision recall / (precision + recall)

    Each is 0 where its denominator is.

    Args:
        predicted, target: for each sentence its tags, which :func:`spans` reads.

    Raises:
        ShapeError: two sentences differ in length.

    >>> span_f1([["B-NP", "I-NP", "O", "B-VP"]], [["B-NP", "O", "O", "B-VP"]])
    SpanScores(precision=0.5, recall=0.5, f1=0.5)
    """
    _check_same_number("span_f1", predicted, target)
    correct = found = expected = 0
    for number, (p, t) in enumerate(zip(predicted, target, strict=True)):
        if len(p) != len(t):
            raise ShapeError(f"span_f1: sentence {number} has {len(t)} target tags, but {len(p)} predicted ones")
        p_spans, t_spans = spans(p), spans(t)
        correct, found, expected = correct + len(p_spans & t_spans), found + len(p_spans), expected + len(t_spans)
    return SpanScores(correct / (found or 1), correct / (expected or 1), 2 * correct / (found + expected or 1))


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the spans ``(type, first, last)`` of a sentence's tags: IOB1, IOB2 (BIO) or IOBES.

    ``O`` is outside of all spans. A span begins at ``B-type`` (beginning) and ``S-type`` (single), and at ``I-type``
    (inside) and ``E-type`` (end) after ``O``, ``E`` and ``S``, after another type, or as first of the sentence; it
    goes on to the last word before ``O`` or the next one. These are the rules of ``conlleval`` for ``B`` and ``I``.
    Tags without a type have the type ``""``; a tag of another form is read as ``I`` of a type of its own.

    >>> sorted(spans(["B-NP", "I-NP", "B-NP", "I-VP", "O"]))
    [('NP', 0, 1), ('NP', 2, 2), ('VP', 3, 3)]
    """
    found = set()
    before, before_type, first = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, type = tag.partition("-")
        if prefix not in _SPAN_PREFIXES:
            prefix, type = "I", tag
        begins = prefix in ("B", "S") or before in ("O", "E", "S") or type != before_type
        if before != "O" and (begins or prefix == "O"):
            found.add((before_type, first, place - 1))
        if begins:
            first = place
        before, before_type = prefix, type
    return found


def has_spans(tags: Iterable[str]) -> bool:
    """Whether a set of tags marks spans: all are ``O``, or ``B``, ``I``, ``E``, ``S``, alone or with a type (``B-NP``).

    There must be ``B`` and ``I``, or ``O`` and one of the two with a type, so that few other sets look alike.

    >>> has_spans(["B-PER", "I-PER", "O"]), has_spans(["I-NP", "O"]), has_spans(["NOUN", "VERB"]), has_spans(["B", "O"])
    (True, True, False, False)
    """
    names = set(tags)
    prefixes = {name.partition("-")[0] for name in names}
    if not prefixes <= _SPAN_PREFIXES:
        return False
    return prefixes >= {"B", "I"} or ("O" in names and any(name.startswith(("B-", "I-")) for name in names))


def exact_match(predicted: Sequence[T], target: Sequence[T]) -> float:
    """The fraction of ``predicted`` sequences (texts, lists of tokens) equal to their ``target`` as a whole."""
    _check_same_number("exact_match", predicted, target)
    return sum(p == t for p, t in zip(predicted, target, strict=True)) / len(target)


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements of items that make ``b`` of ``a`` (Levenshtein 1966).

    >>> edit_distance("kitten", "sitting")
    3
    """
    numbers: dict[Hashable, int] = {}
    items = np.array([numbers.setdefault(item, len(numbers)) for item in b], np.int64)
    at = np.arange(len(items) + 1)
    row = at
    for item in a:
        kept = np.append(row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (items != numbers.get(item, -1))))
        row = np.minimum.accumulate(kept - at) + at  # insertions, one after the other
    return int(row[-1])


def char_error_rate(predicted: Sequence[str], target: Sequence[str]) -> float:
    """The edit distances of ``predicted`` texts to their ``target``, summed, per character of the targets: CER."""
    return _error_rate("char_error_rate", predicted, target)


def word_error_rate(predicted: Sequence[str], target: Sequence[str]) -> float:
    """As :func:`char_error_rate`, of words, which white space separates: WER."""
    return _error_rate("word_error_rate", [text.split() for text in predicted], [text.split() for text in target])


def _error_rate(name: str, predicted: Sequence[Sequence[Hashable]], target: Sequence[Sequence[Hashable]]) -> float:
    _check_same_number(name, predicted, target)
    count = sum(map(len, target))
    if not count:
        raise DataError(f"{name}: every target is empty")
    return sum(edit_distance(p, t) for p, t in zip(predicted, target, strict=True)) / count


def rmse(predicted: ArrayLike, target: ArrayLike) -> float:
    """Root mean squared error, ``sqrt(mean((predicted - target)^2))``; arrays of one shape.

    Finite wherever a double can hold it, even if a square or a difference overflows.
    """
    p, t = _flat("rmse", predicted, target)
    halves = p.astype(np.float64) / 2 - t.astype(np.float64) / 2
    largest = float(np.abs(halves).max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return 2 * (largest * math.sqrt(np.mean((halves / largest) ** 2)))


def mae(predicted: ArrayLike, target: ArrayLike) -> float:
    """Mean absolute error, ``mean(|predicted - target|)``; arrays of one shape."""
    p, t = _flat("mae", predicted, target)
    return float(np.mean(np.abs(p.astype(np.float64) - t)))


def pinball_loss(predicted: ArrayLike, target: ArrayLike, quantiles: Sequence[float]) -> float:
    """The mean pinball loss (quantile loss) of forecasts of quantiles (Koenker & Bassett 1978).

    ::

        L_q(y, t) = max(q (t - y), (q - 1) (t - y))

    The q-quantile of t minimises the expectation of L_q.

    Args:
        predicted, target: [..., Q] and [...]; the last axis of ``predicted`` is that of the ``quantiles``.
    """
    p, t, q = np.asarray(predicted, np.float64), np.asarray(target, np.float64), np.asarray(quantiles, np.float64)
    if p.shape != (*t.shape, *q.shape):
        raise ShapeError(f"pinball_loss: expected predicted {[*t.shape, *q.shape]}, got {list(p.shape)}")
    if p.size == 0:
        raise DataError("pinball_loss: there is nothing to compare")
    e = t[..., None] - p
    return float(np.mean(np.maximum(q * e, (q - 1) * e)))


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002), with the choices of sacreBLEU (Post 2018).

    ::

        p_n  = sum over sentences of min(count in hypothesis, count in reference) over the n-grams of the hypothesis
               / sum over sentences of the n-grams of the hypothesis
        BP   = min(1, exp(1 - reference words / hypothesis words))
        BLEU = 100 BP (p_1 p_2 p_3 p_4)^(1/4)

    Words are those of :func:`words_13a`, case kept. The k-th n without any match, counted from n = 1, counts as half a
    match for k = 1, a quarter for k = 2, and so on (method 3 of Chen & Cherry 2014). BLEU is 0 if no word matches, or
    no hypothesis has four words.

    Args:
        hypotheses, references: texts, one reference for each hypothesis.

    Raises:
        DTypeError: a text was given instead of a list of texts.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise DTypeError("bleu: expected lists of texts, got one text")
    _check_same_number("bleu", hypotheses, references)
    matches, totals = [0] * _MAX_N, [0] * _MAX_N
    hypothesis_words = reference_words = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        h, r = words_13a(hypothesis), words_13a(reference)
        hypothesis_words += len(h)
        reference_words += len(r)
        for n in range(1, _MAX_N + 1):
            counts = _ngrams(h, n)
            matches[n - 1] += (counts & _ngrams(r, n)).total()
            totals[n - 1] += counts.total()
    if matches[0] == 0 or totals[-1] == 0:
        return 0.0
    log_precisions, smoothed = 0.0, 1.0
    for matched, total in zip(matches, totals, strict=True):
        if matched == 0:
            smoothed /= 2
        log_precisions += math.log((matched or smoothed) / total)
    log_penalty = min(0.0, 1 - reference_words / hypothesis_words)
    return 100 * math.exp(log_penalty + log_precisions / _MAX_N)


_MAX_N = 4
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SEPARATORS = (
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),  # ASCII punctuation except ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words_13a(text: str) -> list[str]:
    """The words of ``text`` that BLEU compares: NIST's mteval-v13a tokenizer, as sacreBLEU applies it.

    Punctuation is separated, except apostrophes; a period or comma unless it has digits on both sides; a hyphen only
    after a digit. Four HTML entities are resolved, and a hyphen at the end of a line joins the lines.
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _SEPARATORS:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[k:] for k in range(n)), strict=False))


def _flat(name: str, predicted: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as flat arrays of one size, at least 1."""
    p, t = np.asarray(predicted), np.asarray(target)
    if p.shape != t.shape:
        raise ShapeError(f"{name}: expected arrays of one shape, got predicted {list(p.shape)}, target {list(t.shape)}")
    if p.size == 0:
        raise DataError(f"{name}: there is nothing to compare")
    return p.reshape(-1), t.reshape(-1)


def _classes(name: str, predicted: ArrayLike, target: ArrayLike, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as flat arrays of class numbers below ``classes``."""
    check_int(f"{name}: classes", classes)
    for numbers in (both := _flat(name, predicted, target)):
        if numbers.dtype.kind not in "iub":
            raise DTypeError(f"{name}: expected class numbers, got {numbers.dtype}")
        outside = numbers[(numbers < 0) | (numbers >= classes)]
        if outside.size:
            raise IndexRangeError(f"{name}: class {outside[0]} is out of range; expected 0 to {classes - 1}")
    return both[0].astype(np.int64), both[1].astype(np.int64)


def _check_same_number(name: str, predicted: Sequence[T], target: Sequence[T]) -> None:
    if len(predicted) != len(target):
        raise ShapeError(f"{name}: expected as many targets as predictions, got {len(target)} and {len(predicted)}")
    if not len(target):
        raise DataError(f"{name}: there is nothing to compare")
