"""Attention of a whole sequence of queries as one operation: no array over queries, rows and width is ever made."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.tape import record_many
from minirnn.autograd.tensor import Tensor
from minirnn.errors import DTypeError


def attend(
    query: Tensor, keys: Tensor, values: Tensor, score: Tensor | None, lengths: np.ndarray, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """weights = softmax over s of score . tanh(query_t + keys_s), or of scale query_t . keys_s without ``score``.

    Args:
        query: [T, N, A].
        keys, values: [S, N, A], [S, N, M].
        score: [A] or None.
        lengths: [N] int64 rows of each sequence that are there, 0 to S; those past are not read.

    Returns:
        context [T, N, M], sum_s weights_ts values_s, and weights [T, N, S]; both are 0 for a sequence without rows.

    Raises:
        DTypeError: the inputs differ in type, or are not floating-point.
    """
    inputs = (query, keys, values, score)
    kinds = [t.dtype for t in inputs if t is not None]
    if len(set(kinds)) > 1 or query.dtype.kind != "f":
        raise DTypeError(
            "attention: expected query, keys, values and score of one floating-point type, got "
            f"{', '.join(map(str, kinds))}; convert with .to(...)"
        )
    K = kernels.on(query.device)
    arrays = [None if t is None else K.contiguous(t.data) for t in inputs]
    context, weights = K.attention_forward(*arrays, lengths, scale)

    def gradients(dcontext: Any, dweights: Any) -> tuple[Any, ...]:
        given = (None if g is None else K.contiguous(g) for g in (dcontext, dweights))
        return K.attention_backward(*arrays, lengths, scale, weights, *given)

    both = record_many("attention", inputs, (context, weights), gradients)
    return both[0], both[1]
