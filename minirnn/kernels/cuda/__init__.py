"""The kernel contract (:class:`minirnn.kernels.contract.Backend`) on a GPU, by numba.cuda; see docs/gpu.md."""

from minirnn.kernels.cpu.rows import all_below
from minirnn.kernels.cuda.array import empty
from minirnn.kernels.cuda.attention import attention_backward, attention_forward
from minirnn.kernels.cuda.creation import asarray, ones_like, to_numpy, zeros, zeros_like
from minirnn.kernels.cuda.ctc import ctc_loss
from minirnn.kernels.cuda.elementwise import (
    abs,
    add,
    clip,
    divide,
    equal,
    erf,
    exp,
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
    power,
    scaled,
    sigmoid,
    sign,
    softplus,
    sqrt,
    subtract,
    tanh,
    where,
)
from minirnn.kernels.cuda.generate import Sampler
from minirnn.kernels.cuda.indexing import add_at, put_along_axis, take_along_axis
from minirnn.kernels.cuda.loss import cross_entropy
from minirnn.kernels.cuda.matrix import gemm, matmul
from minirnn.kernels.cuda.optimizer import adagrad, adam, rmsprop, scale, sgd, square_sum
from minirnn.kernels.cuda.recurrence import Recurrence
from minirnn.kernels.cuda.reductions import argmax, argmin, cumsum, has_nan, log_softmax, softmax
from minirnn.kernels.cuda.rows import column_sums, dropout, scatter_add_rows, take_rows
from minirnn.kernels.cuda.stepping import gemv, recurrent_step
from minirnn.kernels.cuda.strided import broadcast_to, concatenate, contiguous, flip, split, stack, unstack
