"""One vector from the steps of a sequence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.autograd.attention import attend
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError
from minirnn.nn import init
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module
from minirnn.nn.recurrent import check_lengths

POOLINGS = ("mean", "max", "attention")


class Pooling(Module):
    """The mean, the largest value, or a learned weighted mean over the valid steps; zeros where there are none.

    "attention": e_t = v^T tanh(W y_t + b), weights softmax(e) over the valid steps (Yang et al. 2016, section 2.2).

    Args:
        kind: "mean", "max" or "attention".
        size: H.
    """

    def __init__(self, kind: str, size: int, dtype: DType = "float32") -> None:
        if kind not in POOLINGS:
            raise OptionError(f"pooling must be 'last' or one of {', '.join(POOLINGS)}, got {kind!r}")
        self.kind = kind
        if kind == "attention":
            self.memory = Linear(size, size, bias=False, dtype=dtype)
            self.bias = init.constant((size,), 0.0, dtype)
            self.score = init.uniform((size,), 1 / math.sqrt(size), dtype)

    def forward(self, y: Tensor, lengths: Any = None) -> Tensor:
        """y [T, N, H], zero past the lengths [N] (all T where None), to [N, H]."""
        steps, batch, size = y.shape
        counts = check_lengths("pooling", lengths, steps, batch)
        if self.kind == "attention":
            query = self.bias + np.zeros((1, batch, 1), y.dtype)
            context, _ = attend(query, self.memory(y), y, self.score, counts, 1.0)
            return context.reshape(batch, size)
        if self.kind == "mean":
            return y.sum(0) * (1 / np.maximum(counts, 1)).astype(y.dtype)[:, None]
        past = np.arange(steps)[:, None] >= counts
        largest = y.masked_fill(past[:, :, None], -math.inf).max(0).values
        return largest.masked_fill((counts == 0)[:, None], 0.0)

    def extra_repr(self) -> str:
        return self.kind
