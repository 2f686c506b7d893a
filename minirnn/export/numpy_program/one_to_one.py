"""A feed-forward network."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import DTYPE, WEIGHTS
from minirnn.export.numpy_program.layers import linear, sigmoid


def run(x: Any) -> np.ndarray:
    """The output [O] for x [I]; or [N, O] for [N, I]."""
    y = np.asarray(x, DTYPE)
    for name in list(WEIGHTS["linear"])[:-1]:
        y = linear(name, y)
        y = np.maximum(y, 0)  # if relu
        y = np.tanh(y)  # if tanh
        y = sigmoid(y)  # if sigmoid
    return linear("head", y)


def replay(record: dict[str, np.ndarray]) -> np.ndarray:
    """The output for the recorded input."""
    return run(record["input"])
