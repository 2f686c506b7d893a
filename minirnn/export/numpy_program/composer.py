"""Music, chord by chord."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from minirnn.export.numpy_program.data import FREQUENCY, SHAPES, STARTS
from minirnn.export.numpy_program.layers import sigmoid
from minirnn.export.numpy_program.many_to_many import run

KEYS, LOWEST_PITCH = 88, 21


def roll(piece: Sequence[Sequence[int]]) -> np.ndarray:
    """Steps of MIDI pitches as 0 and 1 [T, 88]."""
    keys = np.zeros((len(piece), KEYS))
    for row, pitches in zip(keys, piece, strict=True):
        if any(not 0 <= pitch - LOWEST_PITCH < KEYS for pitch in pitches):
            raise ValueError(f"expected pitches from {LOWEST_PITCH} to {LOWEST_PITCH + KEYS - 1}, got {pitches}")
        row[[pitch - LOWEST_PITCH for pitch in pitches]] = 1
    return keys


@functools.cache
def chords() -> tuple[np.ndarray, np.ndarray]:
    """The keys [C, K] of all chords of the training pieces in every transposition (88: no key), and log-priors [C]."""
    width = max(len(shape) for shape, _ in SHAPES)
    keys, counts = list[list[int]](), list[int]()
    for shape, count in SHAPES:
        for lowest in range(KEYS - shape[-1] if shape else 1):
            keys.append([lowest + key for key in shape] + [KEYS] * (width - len(shape)))
            counts.append(count)
    usual = math.log(FREQUENCY / (1 - FREQUENCY)) if 0 < FREQUENCY < 1 else 0.0
    found = np.array(keys, np.int64).reshape(-1, width)
    return found, np.log(counts) - usual * (found < KEYS).sum(1)


def predict(piece: Sequence[Sequence[int]]) -> dict[int, float]:
    """The probability of every pitch at the step after a piece, a list of steps of MIDI pitches."""
    logits, _ = run(roll(piece))
    return {LOWEST_PITCH + key: float(p) for key, p in enumerate(sigmoid(logits[-1].astype(np.float64)))}


def sample(
    start: Sequence[Sequence[int]] = (), length: int = 32, temperature: float = 1.0, seed: int | None = None
) -> list[list[int]]:
    """A piece: ``start`` and so many steps after it; without a start so many steps, the first drawn.

    Every step is a chord of the training pieces, drawn by the probabilities of its keys. The same seed gives the piece
    that minirnn composes; temperature 0 takes the most likely chord.
    """
    rng = np.random.default_rng(seed)
    if not start:
        start = [STARTS[rng.integers(len(STARTS))] if STARTS else []]
        length -= 1
    (keys, priors), fed, state = chords(), roll(start), None
    piece = [sorted({*pitches}) for pitches in start]
    for _ in range(length):
        logits, state = run(fed, state)
        scores = priors + np.append(logits[-1].astype(np.float64), 0)[keys].sum(1)
        scores -= scores.max()
        if temperature < 1e-6:
            chosen = int(scores.argmax())
        else:
            cumulative = np.exp(scores / temperature).cumsum()
            chosen = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        piece.append([int(key) + LOWEST_PITCH for key in keys[chosen] if key < KEYS])
        fed = roll(piece[-1:])
    return piece


def example() -> str:
    """Some output."""
    return str(sample(length=6, seed=0))
