"""The kernel contract on the CPU: NumPy's functions where they are fast, compiled kernels for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import pointwise, recording
from minirnn.kernels.cpu.attention import attention_backward, attention_forward
from minirnn.kernels.cpu.ctc import ctc_loss
from minirnn.kernels.cpu.generate import Sampler
from minirnn.kernels.cpu.loss import cross_entropy
from minirnn.kernels.cpu.matrix import gemm
from minirnn.kernels.cpu.optimizer import adagrad, adam, rmsprop, scale, sgd, square_sum
from minirnn.kernels.cpu.recurrence import Recurrence
from minirnn.kernels.cpu.rows import all_below, column_sums, dropout, scatter_add_rows, take_rows
from minirnn.kernels.cpu.stepping import gemv, recurrent_step
from minirnn.kernels.jit import jit
from minirnn.kernels.memory import empty, zeros
from minirnn.kernels.recording import Traced

abs, negative, sign, sqrt, exp, log, log1p, tanh = (
    np.abs,
    np.negative,
    np.sign,
    np.sqrt,
    np.exp,
    np.log,
    np.log1p,
    np.tanh,
)
add, subtract, multiply, divide, power = np.add, np.subtract, np.multiply, np.divide, np.power
equal, not_equal, less, less_equal = np.equal, np.not_equal, np.less, np.less_equal
greater, greater_equal, maximum, minimum = np.greater, np.greater_equal, np.maximum, np.minimum
where, clip, argmax, argmin, take_along_axis = np.where, np.clip, np.argmax, np.argmin, np.take_along_axis
broadcast_to, concatenate, stack, split, flip = np.broadcast_to, np.concatenate, np.stack, np.split, np.flip
zeros_like, ones_like = np.zeros_like, np.ones_like

_MIN_GEMM = 32 * 32 * 32  # under this many multiply-adds packing costs more than it saves


def asarray(values: object, dtype: np.dtype | type | None = None) -> np.ndarray:
    if isinstance(values, Traced):
        return values if dtype is None else values.astype(dtype, copy=False)
    return np.asarray(values, dtype)


def contiguous(x: np.ndarray) -> np.ndarray:
    if isinstance(x, Traced):
        return x if x.flags.c_contiguous else x.copy()
    return np.asarray(x, order="C")


def to_numpy(x: np.ndarray) -> np.ndarray:
    return x


def scaled(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return x if recording.holds(_is_one, factor) else x * factor


def _is_one(factor: np.ndarray) -> bool:
    return factor.item() == 1


def unstack(x: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(x, axis, 0)


def has_nan(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" and bool(np.isnan(x).any())


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@jit
def _erf(x, out):
    for i in range(x.size):
        out[i] = pointwise.erf(x[i])


def erf(x: np.ndarray) -> np.ndarray:
    flat = contiguous(x).reshape(-1)
    out = empty(flat.shape, x.dtype)
    recording.call(_erf, flat, out)
    return out.reshape(x.shape)


def cumsum(x: np.ndarray, axis: int) -> np.ndarray:
    """Floating-point numbers are added up in float64."""
    if x.dtype.kind != "f":
        return np.cumsum(x, axis)
    return np.cumsum(x, axis, np.float64).astype(x.dtype, copy=False)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def add_at(out: np.ndarray, index: Any, values: np.ndarray) -> None:
    np.add.at(out, index, values)


def put_along_axis(out: np.ndarray, index: np.ndarray, values: np.ndarray, axis: int) -> None:
    grid: list[Any] = list(np.indices(index.shape, sparse=True))
    grid[axis] = index
    np.add.at(out, tuple(grid), values)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b``; plain matrices above a certain size go to :func:`gemm`."""
    if b.ndim != 2 or a.ndim < 2 or a.dtype != b.dtype or a.size * b.shape[1] < _MIN_GEMM:
        return np.matmul(a, b)
    transpose_b = not b.flags.c_contiguous and b.T.flags.c_contiguous
    right = b.T if transpose_b else np.ascontiguousarray(b)
    if a.ndim == 2 and not transpose_b and not a.flags.c_contiguous and a.T.flags.c_contiguous:
        return gemm(a.T, right, transpose_a=True)
    left = np.ascontiguousarray(a).reshape(-1, a.shape[-1])
    return gemm(left, right, transpose_b=transpose_b).reshape(*a.shape[:-1], b.shape[1])
