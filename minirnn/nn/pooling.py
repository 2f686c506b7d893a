"""Pooling over time: one vector from the outputs of a sequence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from minirnn.autograd import ops
from minirnn.autograd.attention import attend
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import ShapeError
from minirnn.nn import init
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module, as_input
from minirnn.nn.state import State, check_lengths, check_members, zero_state
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

    def update(self, y: Tensor, lengths: ArrayLike | None = None, state: State = None) -> tuple[Tensor, State]:
        """Pool a chunk of the outputs together with the chunks before it.

        With m the largest e_t so far, the state of "attention" is m, s = sum_t exp(e_t - m) and sum_t exp(e_t - m) y_t,
        of which the latter over s is the result: a running softmax (Milakov & Gimelshein 2018).

        Args:
            y, lengths: of this chunk, as for :meth:`forward`.
            state: what the call for the chunk before returned; None for the first.

        Returns:
            What :meth:`forward` gives for all chunks at once [N, H], and the new state: of "mean" the sum [N, H] and
            the number of steps [N, 1], of "max" the maximum [N, H], -inf before the first step, of "attention" m and s
            [N, 1] and the weighted sum [N, H].

        Raises:
            ShapeError: the state is that of another pooling or batch.
        """
        steps, batch, size = y.shape
        valid = np.arange(steps)[:, None] < check_lengths("Pooling", lengths, steps, batch)
        before = self._check_state(state, y, batch, size)
        if self.kind == "mean":
            total, count = before[0] + y.sum(0), before[1] + valid.sum(0).astype(y.dtype)[:, None]
            return total / count.clip(1.0), (total, count)
        if self.kind == "max":
            chunk = y.masked_fill(~valid[:, :, None], -math.inf)
            largest = ops.concatenate([before[0].unsqueeze(0), chunk]).max(0).values
            return largest.masked_fill(largest.detach() == -math.inf, 0.0), largest
        keys = (self.memory(y) + self.bias).tanh()
        scores = (keys * self.score).sum(2).masked_fill(~valid, -math.inf).unsqueeze(2)  # [T, N, 1]
        old, total, weighted = before
        largest = ops.concatenate([old.unsqueeze(0), scores]).detach().max(0).values
        shift = largest.masked_fill(largest == -math.inf, 0.0)  # any will do, so it needs no gradient
        weights, scale = (scores - shift).exp(), (old.detach() - shift).exp()
        total, weighted = total * scale + weights.sum(0), weighted * scale + (weights * y).sum(0)
        return weighted / total.masked_fill(total.detach() == 0, 1.0), (largest, total, weighted)

    def _check_state(self, state: State, y: Tensor, batch: int, size: int) -> list[Tensor]:
        """The members of a state; where it is None, those before the first step."""
        shapes = {
            "mean": {"sum": (batch, size), "count": (batch, 1)},
            "max": {"maximum": (batch, size)},
            "attention": {"maximum": (batch, 1), "total": (batch, 1), "weighted sum": (batch, size)},
        }[self.kind]
        if state is None:
            zeros = {name: zero_state(y, *shape) for name, shape in shapes.items()}
            return [zero - math.inf if name == "maximum" else zero for name, zero in zeros.items()]
        members = [ops.as_tensor(member, y) for member in check_members("Pooling", "state", state, list(shapes))]
        for (name, shape), member in zip(shapes.items(), members, strict=True):
            if member.shape != shape:
                raise ShapeError(f"Pooling: expected a {name} {list(shape)} in the state, got {list(member.shape)}")
        return members

    def extra_repr(self) -> str:
        return self.kind
