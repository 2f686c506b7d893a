"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minirnn import kernels
from minirnn.autograd.ops.operands import TensorLike, as_rows, as_tensor, promote, unbroadcast
from minirnn.autograd.tape import record, same_device
from minirnn.errors import DTypeError, ShapeError
from minirnn.kernels.contract import Array

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor

__all__ = ["matmul"]


def matmul(input: TensorLike, other: TensorLike) -> Tensor:
    """Matrix product with NumPy's rules: vectors, matrices, and stacks of matrices that broadcast.

    [..., M, K] or [K] times [..., K, N] or [K] is [..., M, N], without M or N where a factor is a vector.
    """
    x, y = promote((input, other))
    fits = x.ndim > 0 and y.ndim > 0 and x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0]
    if fits:
        try:
            np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        except ValueError:
            fits = False
    if not fits:
        raise ShapeError(
            f"matmul: cannot multiply {list(x.shape)} by {list(y.shape)}; the last dimension of the first must equal "
            "the last but one of the second, and leading ones must broadcast"
        )
    K = kernels.on(x.device)

    def gradients(g: Array) -> tuple[Array | None, Array | None]:
        left = x.data if x.ndim > 1 else x.data[None, :]
        right = y.data if y.ndim > 1 else y.data[:, None]
        if x.ndim == y.ndim == 1:
            g = g.reshape(1, 1)
        elif x.ndim == 1:
            g = g[..., None, :]
        elif y.ndim == 1:
            g = g[..., None]
        dx = dy = None
        if x.requires_grad:
            dx = unbroadcast(K.matmul(g, right.swapaxes(-1, -2)), left).reshape(x.shape)
        if y.requires_grad and right.ndim == 2 and left.ndim > 2:  # one product over all leading dimensions
            dy = K.matmul(as_rows(K, left).T, as_rows(K, g)).reshape(y.shape)
        elif y.requires_grad:
            dy = unbroadcast(K.matmul(left.swapaxes(-1, -2), g), right).reshape(y.shape)
        return dx, dy

    return record("matmul", (x, y), K.matmul(x.data, y.data), gradients)


def linear(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """y = x W^T + b over the last dimension: x [..., I], W [O, I] and b [O] or None to y [..., O]."""
    weight = as_tensor(weight)
    x, bias = as_tensor(input, weight), None if bias is None else as_tensor(bias, weight)
    if weight.ndim != 2:
        raise ShapeError(f"linear: expected a weight [O, I], got {list(weight.shape)}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: expected input [..., {weight.shape[1]}], got {list(x.shape)}")
    if x.dtype != weight.dtype:
        raise DTypeError(f"linear: the input is {x.dtype}, the weight {weight.dtype}; convert one with .to(...)")
    K = kernels.on(same_device("linear", x, weight, bias))
    rows, w, b = as_rows(K, x.data), weight.data, None if bias is None else bias.data
    y = K.gemm(rows, w, b, transpose_b=True)

    def gradients(g: Array) -> tuple[Array | None, Array | None, Array | None]:
        g = as_rows(K, g)
        dx = K.gemm(g, w).reshape(x.shape) if x.requires_grad else None
        dw = K.gemm(g, rows, transpose_a=True) if weight.requires_grad else None
        return dx, dw, K.column_sums(g) if bias is not None and bias.requires_grad else None

    return record("linear", (x, weight, bias), y.reshape(*x.shape[:-1], w.shape[0]), gradients)
