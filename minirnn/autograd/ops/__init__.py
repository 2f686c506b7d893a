"""The primitive operations. Each is declared once: what it computes, and the gradients of its inputs.

``K`` is always the kernels of the inputs' device, ``g`` the gradient of the result. Inputs may be tensors,
numbers, lists or NumPy arrays; what is not a tensor is a constant.
"""

from minirnn.autograd.ops.arithmetic import (
    abs,
    add,
    clip,
    clone,
    compare,
    divide,
    dropout,
    erf,
    exp,
    linear,
    log,
    log1p,
    log_softmax,
    masked_fill,
    matmul,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    sigmoid,
    softmax,
    softplus,
    sqrt,
    subtract,
    tanh,
    where,
)
from minirnn.autograd.ops.operands import as_tensor, cast, move
from minirnn.autograd.ops.reductions import Extreme, argmax, argmin, max, mean, min, sum
from minirnn.autograd.ops.rows import as_index, check_range, embedding, scatter_rows, take_rows
from minirnn.autograd.ops.shapes import (
    cat,
    chunk,
    concatenate,
    flatten,
    flip,
    gather,
    index,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from minirnn.autograd.tensor import same_device
