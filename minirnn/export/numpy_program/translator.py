"""A sentence into another."""

from __future__ import annotations

from minirnn.export.numpy_program.data import SOURCE_NUMBERS, TOKENS
from minirnn.export.numpy_program.encoder_decoder import UNK, greedy
from minirnn.export.numpy_program.text import join, split


def translate(text: str, max_length: int | None = None) -> str:
    """The translation by the most likely token at every step: that of ``minirnn predict --beam 1``.

    An unknown token is replaced by the token of the source with the largest weight.
    """
    source = split(text)
    if not source:
        return ""
    tokens = []
    for token, weights in greedy([SOURCE_NUMBERS.get(one, UNK) for one in source], max_length):
        tokens.append(source[int(weights.argmax())] if weights is not None and token == UNK else TOKENS[token])
    return join(tokens)


def example() -> str:
    """Some output."""
    text = join(list(SOURCE_NUMBERS)[:4])
    return f"{text!r}: {translate(text)!r}"
