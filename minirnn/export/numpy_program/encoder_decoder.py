"""A sequence from a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import WEIGHTS
from minirnn.export.numpy_program.layers import State, linear, log_softmax, merge, run_layers, softmax

PAD, START, END, UNK = 0, 1, 2, 3
Memory = tuple[np.ndarray, np.ndarray]


def encode(source: Any) -> tuple[Memory, State]:
    """Read the source [S]: what the decoder attends to, and the state it begins with."""
    values, states = run_layers("encoder", WEIGHTS["embedding"]["encoder"][source])
    values = merge(values)  # if merge
    keys = values  # unless additive
    keys = linear("memory", values)  # if additive
    states = bridge(states)  # if bridge
    return (values, keys), states


def bridge(states: State) -> State:  # if bridge
    """The states of both directions of each layer as one: by a linear layer where there is one, else their mean."""
    bridged = State()
    for layer, pair in enumerate(zip(states[::2], states[1::2], strict=True)):
        members = []
        for number, both in enumerate(zip(*pair, strict=True)):
            name = f"bridge_{layer}_{number}"
            member = linear(name, np.concatenate(both)) if name in WEIGHTS["linear"] else (both[0] + both[1]) / 2
            members.append(np.tanh(member) if number == 0 else member)
        bridged.append(tuple(members))
    return bridged


def attend(h: np.ndarray, memory: Memory) -> tuple[np.ndarray, np.ndarray]:  # if additive dot
    """The mean [M] of the encoder's outputs, weighted by how well each fits h, and the weights [S]."""
    (values, keys), query = memory, linear("query", h)
    scores = np.tanh(keys + query) @ WEIGHTS["linear"]["score"]["weight"][0]  # if additive
    scores = keys @ query / keys.shape[1] ** 0.5  # if dot
    weights = softmax(scores)
    return weights @ values, weights


def step(token: int, state: State, memory: Memory) -> tuple[np.ndarray, np.ndarray | None, State]:
    """Read one more token: log-probabilities [V] of the next one, weights [S] on the source (or None), the state."""
    y, state = run_layers("decoder", WEIGHTS["embedding"]["decoder"][[token]], state)
    h, weights = y[0], None
    context, weights = attend(h, memory)  # if additive dot
    h = np.tanh(linear("combine", np.concatenate([context, h])))  # if additive dot
    return log_softmax(linear("head", h)), weights, state


def greedy(source: Any, max_length: int | None = None) -> list[tuple[int, np.ndarray | None]]:
    """The most likely token at every step, up to <end>, each with its weights on the source."""
    memory, state = encode(source)
    found: list[tuple[int, np.ndarray | None]] = []
    token = START
    for _ in range(2 * len(source) + 10 if max_length is None else max_length):
        scores, weights, state = step(token, state, memory)
        scores[[PAD, START]] = -np.inf
        token = int(scores.argmax())
        if token == END:
            break
        found.append((token, weights))
    return found


def replay(record: dict[str, np.ndarray]) -> np.ndarray:
    """Log-probabilities of the recorded target's tokens."""
    memory, state = encode(record["input"])
    outputs = []
    for token in [START, *record["target"]]:
        scores, _, state = step(int(token), state, memory)
        outputs.append(scores)
    return np.array(outputs)
