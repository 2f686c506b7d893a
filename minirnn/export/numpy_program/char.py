"""Text, symbol by symbol."""

from __future__ import annotations

import numpy as np

from minirnn.export.numpy_program.data import CHARACTERS, NUMBERS
from minirnn.export.numpy_program.layers import softmax
from minirnn.export.numpy_program.many_to_many import run, step


def encode(text: str) -> list[int]:
    """The tokens of a text; characters that are not in the vocabulary are left out."""
    return [NUMBERS[character] for character in text if character in NUMBERS]  # unless bytes
    return list(text.encode("utf-8", "surrogateescape"))  # if bytes


def decode(tokens: list[int]) -> str:
    """The text of tokens."""
    return "".join(CHARACTERS[token] for token in tokens)  # unless bytes
    return bytes(tokens).decode("utf-8", "replace")  # if bytes


def sample(prime: str = "", length: int = 200, temperature: float = 0.8, seed: int | None = None) -> str:
    """A text that continues ``prime``, or begins at a line's beginning.

    Temperature 0 takes the most likely symbol: the text that minirnn writes. Above 0 NumPy draws, other numbers than
    minirnn, so the same seed gives another text than there.
    """
    tokens = encode(prime or "\n")
    if prime and not tokens:
        raise ValueError(f"no character of the prime {prime!r} is in the vocabulary")
    logits, state = run(tokens or [0])
    scores, rng, made = logits[-1], np.random.default_rng(seed), list[int]()
    for _ in range(length):
        if temperature == 0:
            token = int(scores.argmax())
        else:
            token = int(rng.choice(len(scores), p=softmax(scores.astype(np.float64) / temperature)))
        made.append(token)
        scores, state = step(token, state)
    return decode(made)


def example() -> str:
    """Some output."""
    return repr(sample(length=60, temperature=0))
