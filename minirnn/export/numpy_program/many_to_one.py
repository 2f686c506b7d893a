"""One output for a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import DTYPE, WEIGHTS
from minirnn.export.numpy_program.layers import linear, merge, run_layers, softmax
from minirnn.export.numpy_program.many_to_many import embed


def pool(y: np.ndarray) -> np.ndarray:  # if mean max attention
    """One vector [H] for the outputs y [T, H] of all steps; zeros where there is none."""
    if len(y) == 0:
        return np.zeros(y.shape[1], DTYPE)
    return y.mean(0)  # if mean
    return y.max(0)  # if max
    weights = softmax(np.tanh(linear("memory", y)) @ WEIGHTS["linear"]["score"]["weight"][0])  # if attention
    return weights @ y  # if attention


def run(x: Any) -> np.ndarray:
    """Read a sequence, tokens [T] or vectors [T, I]: the output [O]."""
    y, states = run_layers("rnn", embed(x))
    y = merge(y)  # if merge
    y = pool(y)  # if mean max attention
    y = states[-1][0]  # if last
    y = y[-1]  # if last_row
    y = np.concatenate([states[-2][0], states[-1][0]])  # if last_of_both
    y = merge(np.concatenate([states[-2][0], states[-1][0]]))  # if merged_last
    return linear("head", y)


def replay(record: dict[str, np.ndarray]) -> np.ndarray:
    """The output for the recorded inputs."""
    return run(record["input"])
