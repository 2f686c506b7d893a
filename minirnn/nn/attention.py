"""Attention over encoder states, with masks for ragged sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn.layers import Linear, positive
from minirnn.nn.module import Module

KINDS = ("additive", "dot")


class Attention(Module):
    """A weighted mean of memory rows, weights from how well each fits the query.

    score_n = v^T tanh(W_q q + W_m m_n)  ("additive", Bahdanau, Cho & Bengio 2015), or
    score_n = (W_q q)^T m_n / sqrt(M)    ("dot", Luong, Pham & Manning 2015, scaled as by Vaswani et al. 2017);
    weights = softmax(score) over the valid rows, context = sum_n weights_n m_n.

    Args:
        query_size: Q, size of the decoder's state.
        memory_size: M, size of the encoder's outputs.
        kind: "additive" or "dot".
        attention_size: width of the additive layer; ``query_size`` unless given.
    """

    def __init__(
        self, query_size: int, memory_size: int, kind: str = "additive", attention_size: int | None = None,
        dtype: DType = "float32",
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise OptionError(f"Attention: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.memory_size = kind, positive("Attention: memory_size", memory_size)
        if kind == "dot":
            self.query = Linear(query_size, memory_size, bias=False, dtype=dtype)
        else:
            width = query_size if attention_size is None else positive("Attention: attention_size", attention_size)
            self.query = Linear(query_size, width, dtype=dtype)
            self.memory = Linear(memory_size, width, bias=False, dtype=dtype)
            self.score = Linear(width, 1, bias=False, dtype=dtype)

    def forward(self, query: Tensor, memory: Tensor, lengths: Any = None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: [N, Q].
            memory: [S, N, M], S rows for each of N sequences.
            lengths: [N] valid rows, each from 1 to S; all where None.

        Returns:
            context [N, M] and weights [N, S], zero at rows past the length.
        """
        if query.ndim != 2 or memory.ndim != 3 or memory.shape[1:] != (len(query), self.memory_size) or not len(memory):
            raise ShapeError(
                f"Attention: wanted query [N, Q] and memory [S, N, {self.memory_size}] with S at least 1, "
                f"got {list(query.shape)} and {list(memory.shape)}"
            )
        rows = memory.transpose(0, 1)
        if self.kind == "dot":
            scores = (rows @ self.query(query).unsqueeze(2)).squeeze(2) / math.sqrt(self.memory_size)
        else:
            scores = self.score((self.query(query).unsqueeze(1) + self.memory(rows)).tanh()).squeeze(2)
        if lengths is not None:
            counts = ops.as_index("Attention lengths", lengths)
            if counts.shape != query.shape[:1]:
                raise ShapeError(f"Attention: wanted {len(query)} lengths, got {list(counts.shape)}")
            if counts.size and not 1 <= counts.min() <= counts.max() <= len(memory):
                raise OptionError(f"Attention: lengths must be from 1 to {len(memory)}, got {counts}")
            scores = scores.masked_fill(np.arange(memory.shape[0]) >= counts[:, None], -math.inf)
        weights = scores.softmax(1)
        return (weights.unsqueeze(1) @ rows).squeeze(1), weights
