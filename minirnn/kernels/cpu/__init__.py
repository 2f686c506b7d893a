"""The kernel contract on the CPU: NumPy for what it does well, compiled kernels for the rest."""

from minirnn.kernels.cpu.array import (
    abs,
    add,
    add_at,
    argmax,
    argmin,
    asarray,
    broadcast_to,
    clip,
    concatenate,
    contiguous,
    divide,
    empty,
    equal,
    exp,
    flip,
    greater,
    greater_equal,
    has_nan,
    less,
    less_equal,
    log,
    log1p,
    log_softmax,
    matmul,
    maximum,
    multiply,
    negative,
    not_equal,
    ones_like,
    power,
    put_along_axis,
    scaled,
    sigmoid,
    sign,
    softmax,
    softplus,
    split,
    sqrt,
    stack,
    subtract,
    take_along_axis,
    tanh,
    to_numpy,
    unstack,
    where,
    zeros,
    zeros_like,
)
from minirnn.kernels.cpu.attention import attention_backward, attention_forward
from minirnn.kernels.cpu.generate import Sampler, TokenModel
from minirnn.kernels.cpu.gru import gru_backward, gru_forward
from minirnn.kernels.cpu.loss import cross_entropy
from minirnn.kernels.cpu.lstm import lstm_backward, lstm_forward
from minirnn.kernels.cpu.matrix import product
from minirnn.kernels.cpu.optimizer import adagrad, adam, rmsprop, sgd, square_sum
from minirnn.kernels.cpu.rnn import rnn_backward, rnn_forward
from minirnn.kernels.cpu.rows import add_rows_at, column_sums, dropout, take_rows
