"""Pooling over time: one vector from the outputs of a sequence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from minirnn.autograd.attention import attend
from minirnn.autograd.tensor import DType, Tensor
from minirnn.nn import init
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module, as_input
from minirnn.nn.state import check_lengths
from minirnn.validation import check_choice

POOLINGS = ("mean", "max", "attention")


class Pooling(Module):
    """Pool the valid steps of each sequence: y [T, N, H] to [N, H]; zeros for a sequence of length 0.

    "mean" and "max" are taken elementwise; "attention" is the mean weighted by softmax(e) over the valid steps, with
    e_t = v^T tanh(W y_t + b) (Yang et al. 2016, section 2.2).

    Args:
        kind: "mean", "max" or "attention".
        size: H.
        dtype: of the parameters, float32 or float64.

    Parameters of "attention": ``memory.weight`` W [H, H], ``bias`` b [H] and ``score`` v [H].
    """

    def __init__(self, kind: str, size: int, dtype: DType = "float32") -> None:
        self.kind = check_choice("Pooling: kind", kind, POOLINGS)
        if kind == "attention":
            self.memory = Linear(size, size, bias=False, dtype=dtype)
            self.bias = init.constant((size,), 0.0, dtype)
            self.score = init.uniform((size,), 1 / math.sqrt(size), dtype)

    def forward(self, y: ArrayLike, lengths: ArrayLike | None = None) -> Tensor:
        """Pool y [T, N, H], zero past the lengths [N] (all T where None), to [N, H]."""
        y = as_input(self, y)
        steps, batch, size = y.shape
        counts = check_lengths("Pooling", lengths, steps, batch)
        if self.kind == "attention":
            query = self.bias + np.zeros((1, batch, 1), y.dtype)
            return attend(query, self.memory(y), y, self.score, counts)[0].reshape(batch, size)
        if self.kind == "mean":
            return y.sum(0) * (1 / np.maximum(counts, 1)).astype(y.dtype)[:, None]
        padding = np.arange(steps)[:, None] >= counts
        largest = y.masked_fill(padding[:, :, None], -math.inf).max(0).values
        return largest.masked_fill((counts == 0)[:, None], 0.0)

    def extra_repr(self) -> str:
        return self.kind
