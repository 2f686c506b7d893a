"""Layers without a state: linear, embedding, normalisation, dropout, activations."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.nn import functional as F
from minirnn.nn import init
from minirnn.nn.module import Module, Parameter


def positive(name: str, value: int) -> int:
    """``value`` where it is an int of at least 1, else :class:`OptionError`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} must be an int of at least 1, got {value!r}")
    return int(value)


class Linear(Module):
    """y = x W^T + b; x [..., in_features], y [..., out_features].

    W [out, in] and b [out] start in U(-1/sqrt(in), 1/sqrt(in)).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: DType = "float32") -> None:
        self.in_features = positive("Linear: in_features", in_features)
        self.out_features = positive("Linear: out_features", out_features)
        bound = 1 / math.sqrt(in_features)
        self.weight = init.uniform((out_features, in_features), bound, dtype)
        self.bias: Parameter | None = init.uniform((out_features,), bound, dtype) if bias else None

    def forward(self, x: Any) -> Tensor:
        return ops.linear(ops.as_tensor(x, self.weight), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A trainable row for each token; tokens of any shape [...] to [..., embedding_dim].

    Args:
        padding_idx: a row that starts at zero and is never trained.

    Rows start in N(0, 1).
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: DType = "float32"
    ) -> None:
        self.num_embeddings = positive("Embedding: num_embeddings", num_embeddings)
        self.embedding_dim = positive("Embedding: embedding_dim", embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise OptionError(f"Embedding: padding_idx {padding_idx} is out of range for {num_embeddings} rows")
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = init.normal((num_embeddings, embedding_dim), 1.0, dtype)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Self:
        """An embedding with given rows [V, E], not trained unless ``freeze`` is off."""
        rows = np.asarray(embeddings)
        if rows.ndim != 2:
            raise ShapeError(f"Embedding.from_pretrained: expected rows [V, E], got shape {list(rows.shape)}")
        dtype = rows.dtype if rows.dtype == np.float64 else np.dtype(np.float32)
        embedding = cls(rows.shape[0], rows.shape[1], padding_idx, dtype)
        embedding.weight.data[...] = rows
        embedding.weight.requires_grad = not freeze
        return embedding

    def forward(self, tokens: Any) -> Tensor:
        return ops.embedding(self.weight, tokens, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class LayerNorm(Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimensions (Ba, Kiros & Hinton 2016)."""

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
        self.normalized_shape = tuple(positive("LayerNorm: normalized_shape", size) for size in shape)
        self.eps = eps
        self.weight: Parameter | None = init.constant(shape, 1.0, dtype) if elementwise_affine else None
        self.bias: Parameter | None = init.constant(shape, 0.0, dtype) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{list(self.normalized_shape)}, eps={self.eps}"


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise OptionError(f"Dropout: p must be from 0 to 1, got {p}")
        self.p = p

    def forward(self, x: Any) -> Tensor:
        return ops.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Tanh(Module):
    """Hyperbolic tangent of each element."""

    def forward(self, x: Any) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + e^-x) of each element."""

    def forward(self, x: Any) -> Tensor:
        return ops.sigmoid(x)


class ReLU(Module):
    """max(x, 0) of each element."""

    def forward(self, x: Any) -> Tensor:
        return ops.relu(x)
