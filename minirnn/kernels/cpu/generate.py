"""Sampling from a token model in one compiled loop: embed, all layers, softmax, draw, feed back.

The layers are the very kernels of training, called for one step. Streams are dealt out to threads as rows are in
training; each has its own counter-based random numbers, so a stream's text depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn.kernels import threads, tile
from minirnn.kernels.cpu import gru, lstm, rnn
from minirnn.kernels.cpu.walk import own_places
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast, exp, random_uniform
from minirnn.kernels.tile import multiply_add


@jit(inline=True)
def _sort_by_probability(order: Any, probability: Any) -> None:
    """Shell's sort of token numbers, most probable first, equals by number."""
    for i in range(order.size):
        order[i] = i
    gap = 1
    while gap < order.size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, order.size):
            token, j = order[i], i
            while j >= gap and (
                probability[order[j - gap]] < probability[token]
                or (probability[order[j - gap]] == probability[token] and order[j - gap] > token)
            ):
                order[j] = order[j - gap]
                j -= gap
            order[j] = token
        gap //= 3


@jit(inline=True)
def _draw(logits: Any, probability: Any, order: Any, temperature: float, top_k: int, top_p: float, u: float) -> int:
    """One token from logits [V]; u in [0, 1) decides which. Temperature 0 takes the most probable."""
    best = 0
    for j in range(logits.size):
        if logits[j] > logits[best]:
            best = j
    if temperature == 0:
        return best
    scale, largest = cast(1 / temperature, logits[0]), logits[best]
    for j in range(logits.size):
        probability[j] = exp((logits[j] - largest) * scale)
    total = 0.0
    for j in range(logits.size):
        total += probability[j]
    kept = logits.size
    sort = top_k < kept or top_p < 1
    if sort:
        _sort_by_probability(order, probability)
        kept = min(kept, top_k)
        mass, reached = 0.0, 0.0
        for i in range(kept):
            mass += probability[order[i]]
        for i in range(kept):
            reached += probability[order[i]]
            if reached >= top_p * mass:
                kept = i + 1
                break
        total = min(reached, mass)
    target, reached = u * total, 0.0
    for i in range(kept):
        token = order[i] if sort else i
        reached += probability[token]
        if reached > target:
            return token
    return best


Layer = Callable[..., None]
"""One step of one layer for the rows of a share; the three below have one signature."""


@jit(inline=True)
def _lstm_layer(
    share: int, shares: int, loads: Any, gates: Any, table: Any, tokens: Any, hh: Any, hh_n: Any, bias_n: Any,
    starts: Any, previous: Any, h: Any, c: Any, state: Any,
) -> None:  # fmt: skip
    batch = state.shape[0]
    lstm.step_rows(
        share, shares, loads, gates, table, tokens, hh, hh_n[:0], starts, previous, False, h, c, state, state
    )
    first, last = own_places(loads, share, shares)
    for r in range(first, last):
        for j in range(state.shape[1]):
            c[r, j] = c[batch + r, j]


@jit(inline=True)
def _gru_layer(
    share: int, shares: int, loads: Any, gates: Any, table: Any, tokens: Any, hh: Any, hh_n: Any, bias_n: Any,
    starts: Any, previous: Any, h: Any, c: Any, state: Any,
) -> None:  # fmt: skip
    gru.step_rows(share, shares, loads, gates, table, tokens, hh, hh_n, bias_n, starts, False, h, state, c)


@jit(inline=True)
def _rnn_layer(
    share: int, shares: int, loads: Any, gates: Any, table: Any, tokens: Any, hh: Any, hh_n: Any, bias_n: Any,
    starts: Any, previous: Any, h: Any, c: Any, state: Any,
) -> None:  # fmt: skip
    rnn.step_rows(share, shares, loads, gates, table, tokens, hh, False, starts, False, h, state)


def _make_kernel(layer_step: Layer) -> Any:
    @jit
    def generate(
        share: int, shares: int, loads: Any, table: Any, ih: Any, bias_ih: Any, hh: Any, hh_n: Any, bias_n: Any,
        head: Any, head_bias: Any, h: Any, c: Any, state: Any, gates: Any, logits: Any, probability: Any, order: Any,
        no_tokens: Any, given: Any, tokens: Any, out: Any, temperature: float, top_k: int, top_p: float, seeds: Any,
        position: int, starts: Any, previous: Any,
    ) -> None:  # fmt: skip
        layers, size = state.shape[0], state.shape[2]
        width, panel_columns = gates.shape[1] * size, hh.shape[3]
        first, last = own_places(loads, share, shares)
        for step in range(given.shape[0] + out.shape[0] - 1):
            if step < given.shape[0]:
                for r in range(first, last):
                    tokens[r] = given[step, r]
            for layer in range(layers):
                if layer == 0:
                    fed = tokens
                else:
                    fed = no_tokens
                    for r in range(first, last):
                        for k in range(gates.shape[1]):
                            for j in range(size):
                                gates[r, k, j] = bias_ih[layer, k, j]
                    multiply_add(
                        state[layer - 1], first * size, size, 1, last - first, ih[layer - 1], 0, size * panel_columns,
                        size, gates, first * width, width, width,
                    )  # fmt: skip
                layer_step(
                    share, shares, loads, gates, table, fed, hh[layer], hh_n[layer], bias_n[layer], starts, previous,
                    h, c[layer], state[layer],
                )  # fmt: skip
            if step < given.shape[0] - 1:
                continue
            classes = logits.shape[1]
            for r in range(first, last):
                for j in range(classes):
                    logits[r, j] = head_bias[j]
            multiply_add(
                state[layers - 1], first * size, size, 1, last - first, head, 0, size * panel_columns, size,
                logits, first * classes, classes, classes,
            )  # fmt: skip
            made = step - given.shape[0] + 1
            for r in range(first, last):
                u = random_uniform(seeds[r], position + made)
                token = _draw(logits[r], probability[r], order[r], temperature, top_k, top_p, u)
                tokens[r] = token
                out[made, r] = token

    return generate


_KERNELS = {"rnn": _make_kernel(_rnn_layer), "lstm": _make_kernel(_lstm_layer), "gru": _make_kernel(_gru_layer)}


@dataclass(frozen=True)
class TokenModel:
    """The weights of a token model: embedding, L equal layers of one cell, a linear head.

    Attributes:
        cell: "rnn", "lstm" or "gru"; G is 1, 4 or 3.
        table: [V, G H] input part of the first layer for each token, biases included.
        weight_ih, bias_ih: for each layer above the first [G H, H], and its biases [G H] (those of ``table``'s kind).
        weight_hh: for each layer [G H, H].
        bias_n: for each layer [H], the GRU's bias inside the reset product; else zeros.
        head, head_bias: [V, H], [V].
    """

    cell: str
    table: np.ndarray
    weight_ih: list[np.ndarray]
    bias_ih: list[np.ndarray]
    weight_hh: list[np.ndarray]
    bias_n: list[np.ndarray]
    head: np.ndarray
    head_bias: np.ndarray


class Sampler:
    """A token model ready to sample: weights packed, states kept from call to call.

    Args:
        model: the weights.
        h, c: [L, N, H] states to begin with; ``c`` is used by the LSTM only.
    """

    def __init__(self, model: TokenModel, h: np.ndarray, c: np.ndarray) -> None:
        layers, batch, size = h.shape
        dtype, vocabulary = h.dtype, model.table.shape[0]
        gates = model.table.shape[1] // size
        self._kernel = _KERNELS[model.cell]
        self._work = float(model.head.size + sum(w.size for w in (*model.weight_ih, *model.weight_hh)))

        def packed(weights: list[np.ndarray], columns: int) -> np.ndarray:
            panels = [tile.pack(weight, True) for weight in weights]
            return np.stack(panels) if panels else np.empty((0, *tile.empty_panels(size, columns, dtype).shape), dtype)

        recurrent = gates if model.cell != "gru" else 2
        self._weights = (
            model.table.reshape(vocabulary, gates, size),
            packed(model.weight_ih, gates * size),
            np.stack([np.zeros(gates * size, dtype), *model.bias_ih]).reshape(layers, gates, size),
            packed([weight[: recurrent * size] for weight in model.weight_hh], recurrent * size),
            packed([weight[(gates - 1) * size :] for weight in model.weight_hh], size),
            np.stack(model.bias_n),
            tile.pack(model.head, True),
            model.head_bias,
        )
        states = np.zeros((layers, 2 * batch, size), dtype)
        states[:, :batch] = c
        self._state = (np.zeros((2 * batch, size), dtype), states, np.ascontiguousarray(h).copy())
        self._scratch = (
            np.zeros((batch, gates, size), dtype),
            np.zeros((batch, vocabulary), dtype),
            np.zeros((batch, vocabulary), dtype),
            np.zeros((batch, vocabulary), np.int64),
            np.zeros(0, np.int64),
        )
        self._starts = np.array([0, batch], np.int64)
        self._previous = np.arange(batch, dtype=np.int64)
        self._loads = np.arange(batch + 1, dtype=np.int64)

    def run(
        self, given: np.ndarray, count: int, temperature: float, top_k: int, top_p: float, seeds: np.ndarray,
        position: int,
    ) -> np.ndarray:  # fmt: skip
        """Feed ``given`` [P, N] (P at least 1), then sample ``count`` tokens a stream; returns [count, N].

        Args:
            temperature: divides the logits; 0 takes the most probable token.
            top_k, top_p: keep the k most probable; then the smallest set with this share of their mass.
            seeds: [N] uint64, a stream's random numbers.
            position: number of the first draw, so that chunks of one text continue each other.
        """
        batch = given.shape[1]
        out = np.empty((count, batch), np.int64)
        tokens = np.empty(batch, np.int64)
        threads.run(
            self._kernel, self._work * batch * count, batch, self._loads, *self._weights, *self._state, *self._scratch,
            given, tokens, out, temperature, top_k, top_p, seeds, position, self._starts, self._previous,
        )  # fmt: skip
        return out
