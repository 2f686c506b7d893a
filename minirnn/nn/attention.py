"""Attention over encoder outputs of different lengths."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from minirnn.autograd import ops
from minirnn.autograd.attention import attend
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import ShapeError
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module
from minirnn.nn.state import check_lengths
from minirnn.validation import check_choice, check_int


class Attention(Module):
    """Attention: a mean of memory rows, weighted by how well each row fits the query.

    "additive": score_s = v^T tanh(W_q q + b + W_m m_s) (Bahdanau, Cho & Bengio 2015, appendix A.1.2);
    "dot": score_s = (W_q q)^T m_s / sqrt(M) (Luong, Pham & Manning 2015, section 3.1, there "general"; scaled as by
    Vaswani et al. 2017, section 3.2.1).
    weights = softmax(score) over a sequence's valid rows, context = sum_s weights_s m_s.

    A decoder that has all its queries at once (teacher forcing) gives them as one sequence; one that runs step by step
    computes :meth:`keys` once and passes them at every step.

    Args:
        query_size, memory_size: features Q of a query (a decoder's state) and M of a memory row (an encoder's output).
        kind: "additive" or "dot".
        attention_size: features A of the additive layer; Q where None.
        dtype: of the parameters, float32 or float64.

    Parameters: ``query.weight`` [A, Q], ``query.bias`` [A], ``memory.weight`` [A, M] and ``score.weight`` [1, A]; with
    "dot" only ``query.weight`` [M, Q].

    >>> import minirnn as mr
    >>> attention = mr.nn.Attention(query_size=4, memory_size=6)
    >>> context, weights = attention(mr.zeros(3, 2, 4), mr.zeros(5, 2, 6), lengths=[5, 2])
    >>> context.shape, weights.shape
    ((3, 2, 6), (3, 2, 5))
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        kind: str = "additive",
        attention_size: int | None = None,
        dtype: DType = "float32",
    ) -> None:
        self.kind = check_choice("Attention: kind", kind, ("additive", "dot"))
        self.memory_size = check_int("Attention: memory_size", memory_size)
        if kind == "dot":
            self.query = Linear(query_size, memory_size, bias=False, dtype=dtype)
        else:
            width = query_size if attention_size is None else check_int("Attention: attention_size", attention_size)
            self.query = Linear(query_size, width, dtype=dtype)
            self.memory = Linear(memory_size, width, bias=False, dtype=dtype)
            self.score = Linear(width, 1, bias=False, dtype=dtype)

    def keys(self, memory: ArrayLike, lengths: ArrayLike | None = None) -> Tensor:
        """Return what queries are compared with: W_m m [S, N, A], or m [S, N, M] for "dot"; see :meth:`forward`."""
        memory, counts = self._check_memory(memory, lengths)
        extent, batch, size = memory.shape
        if self.kind == "dot":
            return memory
        if counts.min(initial=extent) == extent:
            return self.memory(memory)
        valid = np.flatnonzero(np.arange(extent)[:, None] < counts)  # no products for padding
        rows = self.memory(ops.take_rows(memory.reshape(extent * batch, size), valid))
        return ops.scatter_rows(rows, valid, extent * batch).reshape(extent, batch, self.query.out_features)

    def forward(
        self, query: ArrayLike, memory: ArrayLike, lengths: ArrayLike | None = None, keys: ArrayLike | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend to the memory.

        Args:
            query: [T, N, Q], or [N, Q] for a single step.
            memory: [S, N, M], S rows for each of N sequences.
            lengths: [N] valid rows, from 0 to S; all S where None. Rows past them are not read.
            keys: the result of :meth:`keys` for ``memory``; computed where None.

        Returns:
            context [T, N, M] and weights [T, N, S], zero at rows past the length and for a sequence of length 0;
            [N, M] and [N, S] for a single step.

        Raises:
            ShapeError, OptionError, DTypeError: shapes, lengths or dtypes do not fit.
        """
        query = ops.as_tensor(query, self.query.weight)
        memory, counts = self._check_memory(memory, lengths)
        size, expected = self.query.in_features, [*memory.shape[:2], self.query.out_features]
        if query.ndim not in (2, 3) or query.shape[-2:] != (memory.shape[1], size):
            raise ShapeError(
                f"Attention: expected query [T, N, {size}], or [N, {size}] for a single step, and memory "
                f"[S, N, {self.memory_size}], got {list(query.shape)} and {list(memory.shape)}"
            )
        keys = self.keys(memory, counts) if keys is None else ops.as_tensor(keys, memory)
        if list(keys.shape) != expected:
            got = list(keys.shape)
            raise ShapeError(f"Attention: expected keys {expected}, as keys(memory) returns them, got {got}")
        queries = self.query(query if query.ndim == 3 else query.unsqueeze(0))
        score = self.score.weight.reshape(-1) if self.kind == "additive" else None
        context, weights = attend(queries, keys, memory, score, counts, 1 / math.sqrt(self.memory_size))
        return (context, weights) if query.ndim == 3 else (context.squeeze(0), weights.squeeze(0))

    def _check_memory(self, memory: ArrayLike, lengths: ArrayLike | None) -> tuple[Tensor, np.ndarray]:
        """The memory as a tensor, and the number of valid rows [N]."""
        memory = ops.as_tensor(memory, self.query.weight)
        if memory.ndim != 3 or memory.shape[2] != self.memory_size or not len(memory):
            expected = f"[S, N, {self.memory_size}] with S at least 1"
            raise ShapeError(f"Attention: expected memory {expected}, got {list(memory.shape)}")
        return memory, check_lengths("Attention", lengths, memory.shape[0], memory.shape[1])
