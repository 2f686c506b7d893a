"""The kernel contract on a card, through Numba."""

from minirnn.kernels.cuda.array import (
    abs,
    add,
    add_at,
    argmax,
    argmin,
    asarray,
    clip,
    concatenate,
    divide,
    empty,
    equal,
    exp,
    greater,
    greater_equal,
    has_nan,
    less,
    less_equal,
    log,
    log_softmax,
    matmul,
    maximum,
    multiply,
    negative,
    not_equal,
    ones_like,
    power,
    put_along_axis,
    sigmoid,
    sign,
    softmax,
    softplus,
    sqrt,
    stack,
    subtract,
    take_along_axis,
    tanh,
    where,
    zeros_like,
)
from minirnn.kernels.cuda.device import to_numpy, zeros
from minirnn.kernels.cuda.loss import cross_entropy
from minirnn.kernels.cuda.matrix import product
from minirnn.kernels.cuda.optimizer import adagrad, adam, rmsprop, sgd, square_sum
from minirnn.kernels.cuda.rows import add_rows_at, column_sums, dropout, put_rows, take_rows
