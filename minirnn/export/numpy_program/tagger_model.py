"""Words, each embedded and spelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import WEIGHTS
from minirnn.export.numpy_program.layers import linear, run_layers


def spell(characters: Any) -> np.ndarray:
    """A word by its characters [C]: the final states of a layer that reads forwards and one that reads backwards."""
    _, (ahead, back) = run_layers("spelling", WEIGHTS["embedding"]["spelling"][characters])
    return np.concatenate([ahead[0], back[0]])


def run(words: Any, spellings: Sequence[Any]) -> np.ndarray:
    """Logits [T, tags] of T words, each given by its number and by those of its characters."""
    x = np.concatenate([WEIGHTS["embedding"]["words"][words], [spell(one) for one in spellings]], 1)
    y, _ = run_layers("rnn", x)
    return linear("head", y)


def replay(record: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of the recorded words."""
    columns = zip(record["characters"].T, record["sizes"], strict=True)
    return run(record["input"], [characters[:size] for characters, size in columns])
