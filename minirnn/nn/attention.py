"""Attention over encoder states, with masks for ragged sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.autograd import ops
from minirnn.autograd.attention import attend
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn.layers import Linear, positive
from minirnn.nn.module import Module
from minirnn.nn.recurrent import check_lengths

KINDS = ("additive", "dot")


class Attention(Module):
    """A weighted mean of memory rows, weights from how well each fits the query.

    score_s = v^T tanh(W_q q + W_m m_s)  ("additive", Bahdanau, Cho & Bengio 2015), or
    score_s = (W_q q)^T m_s / sqrt(M)    ("dot", Luong, Pham & Manning 2015, scaled as by Vaswani et al. 2017);
    weights = softmax(score) over the valid rows, context = sum_s weights_s m_s.

    A decoder that has all its queries at once (teacher forcing) gives them as one sequence; one that goes step by
    step computes :meth:`keys` once and hands them in at every step.

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

    def keys(self, memory: Tensor, lengths: Any = None) -> Tensor:
        """What queries are compared with: W_m m, [S, N, A]; for "dot" the memory [S, N, M] itself.

        Args:
            memory, lengths: as for :meth:`forward`.
        """
        memory = self._checked_memory(memory)
        extent, batch, size = memory.shape
        if self.kind == "dot":
            return memory
        counts = self._counts(memory, lengths)
        if not counts.size or counts.min() == extent:
            return self.memory(memory)
        there = np.flatnonzero(np.arange(extent)[:, None] < counts)  # padding is not worth a product
        rows = ops.take_rows(memory.reshape(extent * batch, size), there)
        return ops.scatter_rows(self.memory(rows), there, extent * batch).reshape(
            extent, batch, self.query.out_features
        )

    def forward(
        self, query: Tensor, memory: Tensor, lengths: Any = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: [T, N, Q], or [N, Q] for a single step.
            memory: [S, N, M], S rows for each of N sequences.
            lengths: [N] valid rows, each from 0 to S; all where None. Rows past them are not read.
            keys: what :meth:`keys` made of ``memory``; computed where None.

        Returns:
            context [T, N, M] and weights [T, N, S], zero at rows past the length; [N, M] and [N, S] for a single
            step. A sequence of length 0 has a context of zeros.

        Raises:
            ShapeError, OptionError: inputs that do not fit together, lengths out of range.
            DTypeError: inputs of another type than the parameters.
        """
        query, memory = ops.as_tensor(query, self.query.weight), self._checked_memory(memory)
        extent, batch, _ = memory.shape
        if query.ndim not in (2, 3) or query.shape[-2:] != (batch, self.query.in_features):
            raise ShapeError(
                f"Attention: expected query [T, N, {self.query.in_features}], or [N, {self.query.in_features}] for a "
                f"single step, and memory [S, N, {self.memory_size}], got {list(query.shape)} and {list(memory.shape)}"
            )
        counts = self._counts(memory, lengths)
        keys = self.keys(memory, counts) if keys is None else keys
        if keys.shape != (extent, batch, self.query.out_features):
            raise ShapeError(
                f"Attention: expected keys [{extent}, {batch}, {self.query.out_features}], as keys(memory) returns "
                f"them, got {list(keys.shape)}"
            )
        queries = self.query(query if query.ndim == 3 else query.unsqueeze(0))
        score = self.score.weight.reshape(-1) if self.kind == "additive" else None
        context, weights = attend(queries, keys, memory, score, counts, 1 / math.sqrt(self.memory_size))
        return (context, weights) if query.ndim == 3 else (context.squeeze(0), weights.squeeze(0))

    def _checked_memory(self, memory: Any) -> Tensor:
        memory = ops.as_tensor(memory, self.query.weight)
        if memory.ndim != 3 or memory.shape[2] != self.memory_size or not len(memory):
            raise ShapeError(
                f"Attention: expected memory [S, N, {self.memory_size}] with S at least 1, got {list(memory.shape)}"
            )
        return memory

    @staticmethod
    def _counts(memory: Tensor, lengths: Any) -> np.ndarray:
        extent, batch, _ = memory.shape
        return check_lengths("Attention", lengths, extent, batch)
