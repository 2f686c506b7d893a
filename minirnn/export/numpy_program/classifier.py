"""A label for a text."""

from __future__ import annotations

import numpy as np

from minirnn.export.numpy_program.data import LABELS, MAX_LENGTH, NUMBERS
from minirnn.export.numpy_program.layers import softmax
from minirnn.export.numpy_program.many_to_one import run
from minirnn.export.numpy_program.text import GLUE, split

UNK = 3


def encode(text: str) -> list[int]:
    """The numbers of a text's tokens, without the marks that say what they touch."""
    tokens = split(text)[:MAX_LENGTH]
    tokens = [token.strip(GLUE) for token in tokens]  # if word
    tokens = [token.rstrip("'\u2019") or token for token in tokens]  # if word
    return [NUMBERS.get(token, UNK) for token in tokens]


def predict(text: str) -> dict[str, float]:
    """The probability of every label, the most likely first; nothing for a blank text."""
    if not text.strip():
        return {}
    probabilities = softmax(run(encode(text)).astype(np.float64))
    return {LABELS[n]: float(probabilities[n]) for n in np.argsort(-probabilities, kind="stable")}


def example() -> str:
    """Some output."""
    text = " ".join(list(NUMBERS)[:5])
    return f"{text!r}: {predict(text)}"
