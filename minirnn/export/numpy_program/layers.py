"""Recurrent layers and the functions between them."""

from __future__ import annotations

import math

import numpy as np

from minirnn.export.numpy_program.data import CELLS, DTYPE, SIZES, WEIGHTS

State = list[tuple[np.ndarray, ...]]
"""The states of a cell, (h, c) of an LSTM, for every layer and direction."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def erf(x: np.ndarray) -> np.ndarray:
    """Error function of every element."""
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def softmax(x: np.ndarray) -> np.ndarray:
    """e^x / sum(e^x)."""
    e = np.exp(x - x.max())
    return e / e.sum()


def log_softmax(x: np.ndarray) -> np.ndarray:
    """log(softmax(x)) over the last axis."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def linear(name: str, x: np.ndarray) -> np.ndarray:
    """y = x W^T + b."""
    w = WEIGHTS["linear"][name]
    return x @ w["weight"].T + w["bias"]


def initial_state(name: str = "rnn") -> State:
    """Zeros: a tuple of states for every layer, and for both directions of a layer that has two."""
    return [tuple(np.zeros(size, DTYPE) for size in sizes) for sizes in SIZES[name]]


def run_layer(
    cell: str, w: dict[str, np.ndarray], x: np.ndarray, state: tuple[np.ndarray, ...], reverse: bool = False
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """One layer over x [T, I]: its outputs [T, H], and the state after the last step."""
    gates = x @ w["weight_ih"].T + w["bias_ih"]
    y = np.zeros((len(x), len(state[0])), DTYPE)
    for t in range(len(x))[::-1] if reverse else range(len(x)):
        state = CELLS[cell](w, gates[t], state)
        y[t] = state[0]
    return y, state


def run_layers(name: str, x: np.ndarray, states: State | None = None) -> tuple[np.ndarray, State]:  # if two_way
    """Layers over x [T, I]: the outputs [T, H] of the top one, and the states of all after the last step.

    A layer of two directions has two states, and 2 H outputs.
    """
    old, new = iter(states or initial_state(name)), State()
    for layer in WEIGHTS["layers"][name].values():
        below, outputs = x, []
        for direction, w in layer.items():
            y, state = run_layer(name, w, below, next(old), direction == "reverse")
            outputs.append(y)
            new.append(state)
        x = np.concatenate(outputs, 1)
        x = x + below if len(new) > len(layer) else x  # if residual
    return x, new


def merge(y: np.ndarray) -> np.ndarray:
    """The outputs of both directions as one."""
    ahead, back = np.split(y, 2, -1)
    return ahead + back  # if sum
    return ahead * back  # if mul
    return (ahead + back) / 2  # if ave
