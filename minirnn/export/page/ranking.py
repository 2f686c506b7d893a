"""Which units of a character model are worth looking at: they vary, they remember, they tell properties of the text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIN_CASES = 10  # symbols for which a property holds, and does not
MIN_STD = 0.01  # of a unit that is ranked by its memory: others hardly move

_SPANS = re.compile(
    r'(?P<quotes>"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'|"(?:[^"\\\n]|\\.|\n(?!\n))*"|“[^”]*”|«[^»]*»'
    r"|(?<!\w)'(?:[^'\\\n]|\\.)*'(?!\w))|(?P<comment>#[^\n]*|(?<!:)//[^\n]*|/\*.*?\*/)",
    re.DOTALL,
)


def properties(text: str) -> dict[str, np.ndarray]:
    """Return properties of the place after each symbol of a text, [T] booleans or integers.

    ``inside quotes``: from an opening quotation mark to before the closing one; triple quotes of Python too; an
    apostrophe in a word is none. ``inside a comment``: after ``#`` or ``//`` in a line, or between ``/*`` and ``*/``.
    ``inside brackets``: of any kind. ``indentation``: white space at the beginning of the line so far. ``position in
    line``: symbols of the line so far. ``after a capital``: the last symbol is one.
    """
    spans = {"quotes": np.zeros(len(text), bool), "comment": np.zeros(len(text), bool)}
    for found in _SPANS.finditer(text):
        assert found.lastgroup is not None
        spans[found.lastgroup][found.start() : found.end() - (found.lastgroup == "quotes")] = True
    depth, position, indentation = 0, 0, 0
    rows = []
    for symbol in text:
        depth = max(0, depth + (symbol in "([{") - (symbol in ")]}"))
        indented = indentation == position and symbol in " \t"
        position = 0 if symbol == "\n" else position + 1
        indentation = 0 if symbol == "\n" else indentation + indented
        rows.append((depth, indentation, position, symbol.isupper()))
    depths, indentations, positions, capitals = np.array(rows, np.int64).reshape(-1, 4).T
    return {
        "inside quotes": spans["quotes"],
        "inside a comment": spans["comment"],
        "inside brackets": depths > 0,
        "indentation": indentations,
        "position in line": positions,
        "after a capital": capitals > 0,
    }


def ranks(x: np.ndarray) -> np.ndarray:
    """Return the ranks of each column of ``x`` [T, N], 1 for the smallest, equal values the mean of theirs."""
    rows = np.ascontiguousarray(x.T)
    order = rows.argsort(1)
    ordered = np.take_along_axis(rows, order, 1)
    found = np.empty(rows.shape, np.float32)
    np.put_along_axis(found, order, np.arange(1, len(x) + 1, dtype=np.float32)[None], 1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(1)):
        _, which, counts = np.unique(rows[row], return_inverse=True, return_counts=True)
        found[row] = (counts.cumsum() - (counts - 1) / 2)[which]
    return found.T


def separation(ranked: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the rank correlation, from -1 to 1, of each column of :func:`ranks` [T, N] with ``values`` [T].

    Of numbers Spearman's: the correlation of the ranks. Of booleans the rank-biserial one, 2 AUC - 1, with AUC the
    probability that a unit is larger where the property holds than where it does not (Cureton 1956).
    """
    if values.dtype == bool:
        holds = int(values.sum())
        above = values.astype(np.float32) @ ranked - holds * (holds + 1) / 2
        return 2 * above / (holds * (len(values) - holds)) - 1
    centered, own = ranked - ranked.mean(0), ranks(values[:, None])[:, 0]
    own = own - own.mean()
    norms = np.sqrt((centered**2).sum(0) * (own**2).sum())
    return np.divide(own @ centered, norms, out=np.zeros(ranked.shape[1]), where=norms > 0)


def memory(x: np.ndarray) -> np.ndarray:
    """Return the lag at which the autocorrelation of each column of ``x`` [T, N] first falls below 1/e; T if never."""
    centered = x - x.mean(0)
    spectrum = np.fft.rfft(centered, 2 * len(x), axis=0)
    covariance = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, axis=0)[: len(x)]
    below = covariance < covariance[0] / math.e
    return np.where(below.any(0), below.argmax(0), len(x))


def rank(
    values: Sequence[Mapping[str, np.ndarray]], text: str, states: Sequence[Sequence[str]], best: int = 5
) -> list[dict[str, Any]]:
    """Rank the units of a character model by measures of how they follow a text.

    ``variance``: of the output h over the text. ``memory``: of the states, the symbols until the autocorrelation has
    fallen below 1/e. And for each of :func:`properties`: how well the unit tells it, by :func:`separation`.

    Args:
        values: of each layer, values [T, H] by name, after each symbol.
        text: of T symbols.
        states: names of the states of each layer, the output first.
        best: how many units to return for each measure.

    Returns:
        ``layer``, ``value``, ``unit``, ``measure``, ``score`` (the size of a rank correlation) and ``sign`` (-1 where
        the unit is small when the property holds or is large), the best of each measure first.
    """
    if len(text) < 2:
        return []
    names = [(layer, name) for layer, named in enumerate(values) for name in named]
    x = np.concatenate([values[layer][name] for layer, name in names], axis=1)
    columns = [(layer, name, unit) for layer, name in names for unit in range(values[layer][name].shape[1])]
    outputs = np.array([name == states[layer][0] for layer, name, _ in columns])
    is_state = np.array([name in states[layer] for layer, name, _ in columns])
    std, ranked = x.std(0), ranks(x)
    scores = {"variance": np.where(outputs, std**2, 0), "memory": np.zeros(len(columns))}
    moving = np.flatnonzero(is_state & (std > MIN_STD))
    scores["memory"][moving] = memory(x[:, moving])
    for name, property in properties(text).items():
        cases = min(property.sum(), (~property).sum()) if property.dtype == bool else len(set(property.tolist()))
        if cases >= (MIN_CASES if property.dtype == bool else 2):
            scores[name] = separation(ranked, property)
    found = []
    for measure, score in scores.items():
        for index in np.argsort(-np.abs(score), kind="stable")[:best]:
            if score[index] != 0:
                layer, name, unit = columns[index]
                size, sign = float(abs(score[index])), -1 if score[index] < 0 else 1
                found.append(
                    {"layer": layer, "value": name, "unit": unit, "measure": measure, "score": size, "sign": sign}
                )
    return found
