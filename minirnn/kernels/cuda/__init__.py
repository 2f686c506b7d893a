"""The kernel contract on a GPU, through Numba."""

from minirnn.kernels.cuda.array import (
    abs,
    add,
    add_at,
    asarray,
    broadcast_to,
    clip,
    concatenate,
    contiguous,
    divide,
    empty,
    equal,
    erf,
    exp,
    flip,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    matmul,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    ones_like,
    power,
    put_along_axis,
    scaled,
    sigmoid,
    sign,
    softplus,
    split,
    sqrt,
    stack,
    subtract,
    take_along_axis,
    tanh,
    unstack,
    where,
    zeros_like,
)
from minirnn.kernels.cuda.attention import attention_backward, attention_forward
from minirnn.kernels.cuda.device import to_numpy, zeros
from minirnn.kernels.cuda.generate import Sampler
from minirnn.kernels.cuda.loss import cross_entropy
from minirnn.kernels.cuda.matrix import gemm
from minirnn.kernels.cuda.optimizer import adagrad, adam, rmsprop, sgd, square_sum
from minirnn.kernels.cuda.recurrence import Recurrence
from minirnn.kernels.cuda.reductions import argmax, argmin, has_nan, log_softmax, softmax
from minirnn.kernels.cuda.rows import column_sums, dropout, scatter_add_rows, take_rows
