"""Elementwise arithmetic, reductions and shapes: NumPy's own functions under the contract's names."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy import (
    abs,
    add,
    argmax,
    argmin,
    broadcast_to,
    clip,
    concatenate,
    divide,
    equal,
    exp,
    flip,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    ones_like,
    power,
    sign,
    split,
    sqrt,
    stack,
    subtract,
    take_along_axis,
    tanh,
    where,
    zeros_like,
)

from minirnn.kernels import memory, pointwise
from minirnn.kernels.cpu.matrix import gemm
from minirnn.kernels.jit import jit

empty, zeros = memory.empty, memory.zeros
contiguous = functools.partial(np.asarray, order="C")

_SMALL_PRODUCT = 32 * 32 * 32  # under this many multiply-adds packing costs more than it saves


def asarray(values: object, dtype: np.dtype | type | None = None) -> np.ndarray:
    """Host values as this device's array."""
    return np.asarray(values, dtype)


def to_numpy(x: np.ndarray) -> np.ndarray:
    """This device's array on the host."""
    return x


def scaled(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """x times one number that is 1 more often than not."""
    return x if factor == 1 else x * factor


def unstack(x: np.ndarray, axis: int) -> np.ndarray:
    """The pieces of extent 1 along ``axis``, without it."""
    return np.moveaxis(x, axis, 0)


def has_nan(x: np.ndarray) -> bool:
    """Whether any element is not a number."""
    return x.dtype.kind == "f" and bool(np.isnan(x).any())


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow, with full relative precision at both ends."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@jit
def _erf(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = pointwise.erf(x[i])


def erf(x: np.ndarray) -> np.ndarray:
    """Error function, which NumPy does not have."""
    flat = contiguous(x).reshape(-1)
    out = empty(flat.shape, x.dtype)
    _erf(flat, out)
    return out.reshape(x.shape)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """x - log(sum(exp(x))) along ``axis``; a row of -inf alone gives NaN, as it must."""
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x)) along ``axis``."""
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def add_at(out: np.ndarray, index: Any, values: np.ndarray) -> None:
    """out[index] += values, every repeated index counted."""
    np.add.at(out, index, values)


def put_along_axis(out: np.ndarray, index: np.ndarray, values: np.ndarray, axis: int) -> None:
    """out += values at ``index`` along ``axis``, every repeated index counted."""
    grid: list[Any] = list(np.indices(index.shape, sparse=True))
    grid[axis] = index
    np.add.at(out, tuple(grid), values)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b with NumPy's rules for shapes; plain matrices of some size go to the project's own kernel."""
    if b.ndim != 2 or a.ndim < 2 or a.dtype != b.dtype or a.size * b.shape[1] < _SMALL_PRODUCT:
        return np.matmul(a, b)
    transpose_b = not b.flags.c_contiguous and b.T.flags.c_contiguous
    right = b.T if transpose_b else np.ascontiguousarray(b)
    if a.ndim == 2 and not transpose_b and not a.flags.c_contiguous and a.T.flags.c_contiguous:
        return gemm(a.T, right, transpose_a=True)
    left = np.ascontiguousarray(a).reshape(-1, a.shape[-1])
    return gemm(left, right, transpose_b=transpose_b).reshape(*a.shape[:-1], b.shape[1])
