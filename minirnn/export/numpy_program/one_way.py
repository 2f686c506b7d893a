"""Layers of one direction."""

from __future__ import annotations

import numpy as np

from minirnn.export.numpy_program.data import WEIGHTS
from minirnn.export.numpy_program.layers import State, initial_state, run_layer


def run_layers(name: str, x: np.ndarray, states: State | None = None) -> tuple[np.ndarray, State]:  # unless two_way
    """Layers over x [T, I]: the outputs [T, H] of the top one, and the states of all after the last step."""
    new = State()
    for w, state in zip(WEIGHTS["layers"][name].values(), states or initial_state(name), strict=True):
        y, state = run_layer(name, w["forward"], x, state)
        y = y + x if new else y  # if residual
        new.append(state)
        x = y
    return x, new
