"""Attention of a whole sequence of queries as one operation: no array over queries, rows and width is ever made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minirnn import kernels
from minirnn.autograd.tape import record_many
from minirnn.errors import DTypeError
from minirnn.kernels.contract import Array

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor


def attend(
    query: Tensor, keys: Tensor, values: Tensor, score: Tensor | None, lengths: np.ndarray, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """weights = softmax over s of score . tanh(query_t + keys_s), or of scale query_t . keys_s without ``score``.

    Args:
        query, keys, values, score: [T, N, A], [S, N, A], [S, N, M], and [A] or None.
        lengths: [N] int64, the rows of each sequence, 0 to S; later ones are not read.

    Returns:
        context [T, N, M], sum_s weights_ts values_s, and weights [T, N, S]; both are 0 for a sequence without rows.

    Raises:
        DTypeError: the inputs differ in type, or are not floating-point.
    """
    inputs = (query, keys, values, score)
    dtypes = [t.dtype for t in inputs if t is not None]
    if len(set(dtypes)) > 1 or query.dtype.kind != "f":
        expected = "query, keys, values and score of one floating-point type"
        raise DTypeError(f"attention: expected {expected}, got {', '.join(map(str, dtypes))}; convert with .to(...)")
    K = kernels.on(query.device)
    q, k, v = (K.contiguous(t.data) for t in (query, keys, values))
    w = None if score is None else K.contiguous(score.data)
    context, weights = K.attention_forward(q, k, v, w, lengths, scale)

    def gradients(*given: Array | None) -> tuple[Array | None, ...]:
        dcontext, dweights = (None if g is None else K.contiguous(g) for g in given)
        return K.attention_backward(q, k, v, w, lengths, scale, weights, dcontext, dweights)

    outputs = record_many("attention", inputs, (context, weights), gradients)
    return outputs[0], outputs[1]
