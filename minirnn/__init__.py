"""minirnn: small, fast recurrent networks on NumPy and Numba.

>>> import minirnn as mr
>>> x = mr.tensor([1.0, 2.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

from __future__ import annotations

from collections.abc import Sequence as _Sequence

import numpy as _np

from minirnn import cells, errors, kernels, models, nn, optim, random
from minirnn.autograd.gradcheck import gradcheck
from minirnn.autograd.operation import operation
from minirnn.autograd.ops import (
    abs,
    argmax,
    argmin,
    cat,
    chunk,
    clip,
    concatenate,
    dropout,
    erf,
    exp,
    flip,
    gather,
    log,
    log1p,
    log_softmax,
    masked_fill,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    permute,
    relu,
    reshape,
    sigmoid,
    softmax,
    softplus,
    split,
    sqrt,
    squeeze,
    stack,
    sum,
    tanh,
    transpose,
    unsqueeze,
    where,
)
from minirnn.autograd.ops.operands import flat_ints as _flat_ints
from minirnn.autograd.recompute import recompute
from minirnn.autograd.tape import detect_anomaly, no_grad
from minirnn.autograd.tensor import DType, Tensor, tensor
from minirnn.cells import cell
from minirnn.kernels import get_num_threads, set_num_threads
from minirnn.random import manual_seed

__version__ = "0.1.0"


def _shape(values: tuple[int | _Sequence[int], ...]) -> tuple[int, ...]:
    shape = _flat_ints(values)
    if any(extent < 0 for extent in shape):
        raise errors.ShapeError(f"expected a shape of numbers of at least 0, got {list(shape)}")
    return shape


def zeros(
    *shape: int | _Sequence[int], dtype: DType = "float32", requires_grad: bool = False, device: str = "cpu"
) -> Tensor:
    """A tensor of zeros; the shape as numbers or as one tuple, as for the next two."""
    return tensor(_np.zeros(_shape(shape)), requires_grad, dtype, device)


def ones(
    *shape: int | _Sequence[int], dtype: DType = "float32", requires_grad: bool = False, device: str = "cpu"
) -> Tensor:
    """A tensor of ones."""
    return tensor(_np.ones(_shape(shape)), requires_grad, dtype, device)


def randn(
    *shape: int | _Sequence[int], dtype: DType = "float32", requires_grad: bool = False, device: str = "cpu"
) -> Tensor:
    """A tensor drawn from N(0, 1)."""
    return tensor(random.generator().standard_normal(_shape(shape)), requires_grad, dtype, device)


__all__ = [
    "Tensor", "abs", "argmax", "argmin", "cat", "cell", "cells", "chunk", "clip", "concatenate", "detect_anomaly",
    "dropout", "erf", "errors", "exp", "flip", "gather", "get_num_threads", "gradcheck", "kernels", "log", "log1p",
    "log_softmax", "manual_seed", "masked_fill", "matmul", "max", "maximum", "mean", "min", "minimum", "models",
    "nn", "no_grad", "ones", "operation", "optim", "permute", "randn", "random", "recompute", "relu", "reshape",
    "set_num_threads", "sigmoid", "softmax", "softplus", "split", "sqrt", "squeeze", "stack", "sum", "tanh",
    "tensor", "transpose", "unsqueeze", "where", "zeros",
]  # fmt: skip
