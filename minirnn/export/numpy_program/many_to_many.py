"""An output at every step."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import DTYPE, WEIGHTS
from minirnn.export.numpy_program.layers import State, linear, merge, run_layers


def embed(x: Any) -> np.ndarray:
    """What the layers read of the inputs: tokens [T] or vectors [T, I]."""
    return WEIGHTS["embedding"]["rnn"][x]  # if tokens
    return np.asarray(x, DTYPE)  # unless tokens


def step(x: Any, state: State | None = None) -> tuple[np.ndarray, State]:  # unless bidirectional
    """Read one more input: the output [O] at this step, and the state to go on from (None: the beginning)."""
    y, state = run_layers("rnn", embed([x]), state)
    return linear("head", y[0]), state


def run(x: Any, state: State | None = None) -> tuple[np.ndarray, State]:
    """Read a sequence: the outputs [T, O] of all steps, and the state after the last."""
    y, state = run_layers("rnn", embed(x), state)
    y = merge(y)  # if merge
    return linear("head", y), state


def replay(record: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs for the recorded inputs."""
    return run(record["input"])[0]
