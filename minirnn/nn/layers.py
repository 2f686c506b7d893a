"""Layers without a state: linear, embedding, layer normalization, dropout, activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from minirnn import random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn import functional as F
from minirnn.nn import init
from minirnn.nn.module import Module, Parameter, as_input
from minirnn.validation import check_float, check_int


class Linear(Module):
    """y = x W^T + b: x [..., I] to y [..., O].

    Args:
        in_features, out_features, bias: I and O; if ``bias`` is False, there is no b.
        dtype: of the parameters, float32 or float64.

    Parameters: ``weight`` W [O, I] and ``bias`` b [O], drawn from U(-1/sqrt(I), 1/sqrt(I)).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: DType = "float32") -> None:
        self.in_features = check_int("Linear: in_features", in_features)
        self.out_features = check_int("Linear: out_features", out_features)
        bound = 1 / math.sqrt(in_features)
        self.weight = init.uniform((out_features, in_features), bound, dtype)
        self.bias: Parameter | None = init.uniform((out_features,), bound, dtype) if bias else None

    def forward(self, x: ArrayLike) -> Tensor:
        return ops.linear(ops.as_tensor(x, self.weight), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A table with a trainable row for each token: integers [...] to rows [..., E].

    Args:
        num_embeddings, embedding_dim: V rows of E numbers.
        padding_idx: a row that is zero at first and gets no gradient.
        dtype: of the parameter, float32 or float64.

    Parameter: ``weight`` [V, E], drawn from N(0, 1).
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: DType = "float32"
    ) -> None:
        self.num_embeddings = check_int("Embedding: num_embeddings", num_embeddings)
        self.embedding_dim = check_int("Embedding: embedding_dim", embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise OptionError(f"Embedding: padding_idx {padding_idx} is out of range for {num_embeddings} rows")
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = init.normal((num_embeddings, embedding_dim), 1.0, dtype)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: ArrayLike, freeze: bool = True, padding_idx: int | None = None) -> Self:
        """Return an embedding with a copy of the given rows.

        Args:
            embeddings: [V, E]; float64 makes a float64 layer, anything else float32.
            freeze, padding_idx: if True, the rows are not trained; a row that gets no gradient, but is not zeroed.
        """
        rows = np.asarray(embeddings)
        if rows.ndim != 2:
            raise ShapeError(f"Embedding.from_pretrained: expected rows [V, E], got shape {list(rows.shape)}")
        dtype = rows.dtype if rows.dtype == np.float64 else np.dtype(np.float32)
        embedding = cls(rows.shape[0], rows.shape[1], padding_idx, dtype)
        embedding.weight.data[...] = rows
        embedding.weight.requires_grad = not freeze
        return embedding

    def forward(self, tokens: ArrayLike) -> Tensor:
        return ops.embedding(self.weight, tokens, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class LayerNorm(Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimensions (Ba, Kiros & Hinton 2016).

    Args:
        normalized_shape: sizes of the last dimensions of x, whose mean and biased variance are taken; an int: the last.
        eps: added to the variance.
        elementwise_affine, bias: if the first is False, there is neither weight nor bias; if the second, no bias.
        dtype: of the parameters, float32 or float64.

    Parameters: ``weight``, ones, and ``bias``, zeros, of ``normalized_shape``.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: DType = "float32",
    ) -> None:
        sizes = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else normalized_shape
        shape = self.normalized_shape = tuple(check_int("LayerNorm: normalized_shape", size) for size in sizes)
        self.eps = eps
        self.weight: Parameter | None = init.constant(shape, 1.0, dtype) if elementwise_affine else None
        self.bias: Parameter | None = init.constant(shape, 0.0, dtype) if elementwise_affine and bias else None

    def forward(self, x: ArrayLike) -> Tensor:
        return F.layer_norm(as_input(self, x), self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{list(self.normalized_shape)}, eps={self.eps}"


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p) (Srivastava et al. 2014).

    Args:
        p: probability of an element to be zeroed, from 0 to 1.

    Where several processes compute a batch, an input [T, N, H] or [N, H] gets the mask of its N sequences in it.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_float("Dropout: p", p, 0, 1)

    def forward(self, x: ArrayLike) -> Tensor:
        x, shard, numbers = as_input(self, x), random.shard(), None
        if shard is not None and x.ndim > 1 and x.shape[-2] == shard.last - shard.first:
            numbers = shard.row_numbers(x.numel() // max(1, x.shape[-1] * x.shape[-2]))
        return ops.dropout(x, self.p, self.training, numbers)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Tanh(Module):
    """tanh(x), elementwise."""

    def forward(self, x: ArrayLike) -> Tensor:
        return ops.tanh(as_input(self, x))


class Sigmoid(Module):
    """1 / (1 + exp(-x)), elementwise."""

    def forward(self, x: ArrayLike) -> Tensor:
        return ops.sigmoid(as_input(self, x))


class ReLU(Module):
    """max(x, 0), elementwise."""

    def forward(self, x: ArrayLike) -> Tensor:
        return ops.relu(as_input(self, x))
