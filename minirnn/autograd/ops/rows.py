"""Rows of tables: embeddings, and gathering and scattering of distinct rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minirnn import kernels
from minirnn.autograd import tape
from minirnn.autograd.ops.operands import TensorLike, as_array, as_rows
from minirnn.autograd.tape import record
from minirnn.errors import DTypeError, IndexRangeError
from minirnn.kernels import recording
from minirnn.kernels.contract import Array, Kernels
from minirnn.kernels.recording import Traced

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor


def check_range(name: str, index: Array, count: int) -> None:
    """Raise :class:`IndexRangeError` unless every index is from 0 to ``count`` - 1."""
    recording.call(_check_range, name, index, count)


def _check_range(name: str, index: np.ndarray, count: int) -> None:
    if not all_below(index, count):
        bad = index[(index < 0) | (index >= count)].flat[0]
        raise IndexRangeError(f"{name}: index {bad} is out of range; the table has {count} rows, 0 to {count - 1}")


def all_below(index: np.ndarray, count: int) -> bool:
    """Whether all int64 indices are from 0 to ``count`` - 1."""
    return kernels.on("cpu").all_below(index.reshape(-1), count)


def as_index(name: str, values: TensorLike) -> np.ndarray:
    """Integers as a contiguous int64 array on the host, where they can be checked; this waits for a GPU."""
    array = values.numpy() if isinstance(values, tape.tensor_class) else as_array(name, values)
    if array.size and array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: expected integers, got {array.dtype}")
    if isinstance(array, Traced):
        return array.astype(np.int64, copy=False)
    return np.asarray(array, np.int64, order="C")


def embedding(table: Tensor, tokens: TensorLike, padding_idx: int | None = None) -> Tensor:
    """Rows [..., E] of a table [V, E], for tokens [...] from 0 to V - 1; the row ``padding_idx`` gets no gradient."""
    index, K = as_index("embedding", tokens), kernels.on(table.device)
    count, width = table.shape
    check_range("embedding", index, count)
    rows = K.asarray(index.reshape(-1))

    def gradients(g: Array) -> tuple[Array]:
        d_table = K.scatter_add_rows(as_rows(K, g), rows, count, table.grad_out())
        if padding_idx is not None:
            d_table[padding_idx] = 0
        return (d_table,)

    data = K.take_rows(table.data, rows).reshape(*index.shape, width)
    return record("embedding", (table,), data, gradients)


def take_rows(input: Tensor, rows: np.ndarray) -> Tensor:
    """x[rows] for distinct rows, [R, H] to [S, H]."""
    K = kernels.on(input.device)
    data = K.take_rows(input.data, rows)
    return record("take_rows", (input,), data, lambda g: (_scattered(K, g, rows, input.shape[0]),))


def scatter_rows(input: Tensor, rows: np.ndarray, count: int) -> Tensor:
    """y [count, H], zero but for y[rows] = x, [S, H], with distinct rows."""
    K = kernels.on(input.device)
    data = _scattered(K, input.data, rows, count)
    return record("scatter_rows", (input,), data, lambda g: (K.take_rows(g, rows),))


def _scattered(K: Kernels, values: Array, rows: np.ndarray, count: int) -> Array:
    out = K.zeros((count, *values.shape[1:]), values.dtype)
    out[rows] = values
    return out
