"""A sequence from one vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import DTYPE, END, SIZES, WEIGHTS
from minirnn.export.numpy_program.layers import State, linear, run_layers, sigmoid
from minirnn.export.numpy_program.many_to_many import embed


def state_of(first: Any) -> State:
    """The state that the first input sets: a vector [I], or the number of a label."""
    w = WEIGHTS["linear"]["start"]
    x = np.eye(w["weight"].shape[1], dtype=DTYPE)[first] if np.ndim(first) == 0 else np.asarray(first, DTYPE)
    h = np.tanh(linear("start", x)).reshape(len(SIZES["rnn"]), -1)
    zeros = [[np.zeros(size, DTYPE) for size in sizes[1:]] for sizes in SIZES["rnn"]]
    state = [(row, *others) for row, others in zip(h, zeros, strict=True)]
    state.append((x,))  # if every_step
    return state


def feedback(output: np.ndarray) -> Any:
    """What the next step reads."""
    return int(output.argmax())  # if tokens
    return sigmoid(output)  # if sigmoid
    return output  # unless tokens sigmoid


def step(x: Any, state: State) -> tuple[np.ndarray, State]:
    """Read what was fed back: the output [O] at this step, and the state to go on from."""
    read = embed([x])
    *state, (first,) = state  # if every_step
    read = np.concatenate([read, first[None]], 1)  # if every_step
    y, state = run_layers("rnn", read, state)
    state.append((first,))  # if every_step
    return linear("head", y[0]), state


def run(first: Any, length: int) -> np.ndarray:
    """The outputs [T, O] of so many steps, each of which reads the output of the one before."""
    state, outputs, size = state_of(first), [], len(WEIGHTS["linear"]["head"]["bias"])
    x: Any = size  # if tokens
    x = np.zeros(size, DTYPE)  # unless tokens
    for _ in range(length):
        output, state = step(x, state)
        outputs.append(output)
        x = feedback(output)
    return np.array(outputs)


def greedy(first: Any, length: int) -> list[int]:  # if end
    """The most likely token after each other, at most so many, up to END."""
    state, tokens = state_of(first), list[int]()
    x = len(WEIGHTS["linear"]["head"]["bias"])
    for _ in range(length):
        output, state = step(x, state)
        x = feedback(output)
        if x == END:
            break
        tokens.append(x)
    return tokens


def replay(record: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs for the recorded input."""
    return run(record["input"], len(record["output"]))
