"""Rows of tables: embeddings, and gathering and scattering of distinct rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.ops.operands import as_rows
from minirnn.autograd.tensor import Tensor, as_array, record
from minirnn.errors import DTypeError, IndexRangeError


def check_range(name: str, index: Any, count: int) -> None:
    """Raise :class:`IndexRangeError` where an index is below 0 or not below ``count``."""
    if index.size and (index.min() < 0 or index.max() >= count):
        bad = index[(index < 0) | (index >= count)].flat[0]
        raise IndexRangeError(f"{name}: index {bad} is out of range; the table has {count} rows, 0 to {count - 1}")


def as_index(name: str, values: Any) -> np.ndarray:
    """Integers as a contiguous int64 array on the host, where they are checked; a device's are waited for."""
    array = values.numpy() if isinstance(values, Tensor) else as_array(name, values)
    if array.size and array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: expected integers, got {array.dtype}")
    return np.asarray(array, dtype=np.int64, order="C")


def embedding(table: Tensor, tokens: Any, padding_idx: int | None = None) -> Tensor:
    """Rows of a table: table [V, E], tokens any shape [...] to [..., E].

    Args:
        padding_idx: a row that gets no gradient.

    Raises:
        IndexRangeError: a token is not from 0 to V - 1.
    """
    index = as_index("embedding", tokens)
    check_range("embedding", index, table.shape[0])
    K = kernels.on(table.device)
    rows = K.asarray(index.reshape(-1))
    count, width = table.shape

    def gradients(g: Any) -> tuple[Any]:
        d_table = K.scatter_add_rows(as_rows(K, g), rows, count)
        if padding_idx is not None:
            d_table[padding_idx] = 0
        return (d_table,)

    data = K.take_rows(table.data, rows).reshape(*index.shape, width)
    return record("embedding", (table,), data, gradients)


def take_rows(x: Tensor, rows: np.ndarray) -> Tensor:
    """x[rows] for distinct rows, [R, H] to [S, H]."""
    K = kernels.on(x.device)
    return record("take_rows", (x,), K.take_rows(x.data, rows), lambda g: (_scattered(K, g, rows, x.shape[0]),))


def scatter_rows(x: Tensor, rows: np.ndarray, count: int) -> Tensor:
    """[count, H], zero but for out[rows] = x, [S, H] with distinct rows."""
    K = kernels.on(x.device)
    return record("scatter_rows", (x,), _scattered(K, x.data, rows, count), lambda g: (K.take_rows(g, rows),))


def _scattered(K: Any, values: Any, rows: np.ndarray, count: int) -> Any:
    out = K.zeros((count, *values.shape[1:]), values.dtype)
    out[rows] = values
    return out
