"""Optimiser updates, and the sum of squares for clipping, over flat parameter buffers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.jit import THREADS, Array, Kernel, block_sum, cuda, device_function, kernel, sqrt
from minirnn.kernels.cuda.launch import launch, launch_blocks
from minirnn.kernels.pointwise import cast

_BLOCK = 16384  # elements whose squares one block adds up


def _update_kernel(update: Callable) -> Kernel:
    """A kernel that calls ``update(i, p, g, buffers, numbers)`` for each element; an array not used has size 0."""
    update = device_function(update)

    @kernel
    def run(p: Array, g: Array, buffers: tuple, numbers: tuple) -> None:
        for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
            update(i, p, g, buffers, numbers)

    return run


@_update_kernel
def _sgd(i: int, p: Array, g: Array, buffers: tuple, numbers: tuple) -> None:
    (velocity, _), (lr, momentum, keep, fresh, nesterov, decay) = buffers, numbers
    step = g[i] + decay * p[i]
    if velocity.size > 0:
        velocity[i] = keep * velocity[i] + fresh * step
        step = step + momentum * velocity[i] if nesterov > 0 else velocity[i]
    p[i] -= lr * step


@_update_kernel
def _rmsprop(i: int, p: Array, g: Array, buffers: tuple, numbers: tuple) -> None:
    (square, mean, velocity), (lr, alpha, one_minus_alpha, eps, decay, momentum) = buffers, numbers
    grad = g[i] + decay * p[i]
    square[i] = alpha * square[i] + one_minus_alpha * grad * grad
    variance = square[i]
    if mean.size > 0:
        mean[i] = alpha * mean[i] + one_minus_alpha * grad
        variance -= mean[i] * mean[i]
    step = grad / (sqrt(variance) + eps)
    if velocity.size > 0:
        velocity[i] = momentum * velocity[i] + step
        step = velocity[i]
    p[i] -= lr * step


@_update_kernel
def _adagrad(i: int, p: Array, g: Array, buffers: tuple, numbers: tuple) -> None:
    (total, _), (lr, eps, decay) = buffers, numbers
    grad = g[i] + decay * p[i]
    total[i] += grad * grad
    p[i] -= lr * grad / (sqrt(total[i]) + eps)


@_update_kernel
def _adam(i: int, p: Array, g: Array, buffers: tuple, numbers: tuple) -> None:
    (m, v), (beta1, rest1, beta2, rest2, step_size, inverse_root, eps, decay, shrink) = buffers, numbers
    weight = p[i] * shrink
    grad = g[i] + decay * p[i]
    m[i] = beta1 * m[i] + rest1 * grad
    v[i] = beta2 * v[i] + rest2 * grad * grad
    p[i] = weight - step_size * m[i] / (sqrt(v[i]) * inverse_root + eps)


def _launch(
    update: Kernel, p: DeviceArray, g: DeviceArray, buffers: tuple[DeviceArray | None, ...], *numbers: float
) -> None:
    nothing = empty((0,), p.dtype)
    arrays = tuple(nothing if buffer is None else buffer for buffer in buffers)
    launch(update, p.size, p, g, arrays, tuple(map(p.dtype.type, numbers)))


def sgd(
    p: DeviceArray,
    g: DeviceArray,
    velocity: DeviceArray | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    keep, fresh = (0, 1) if first else (momentum, 1 - dampening)
    _launch(_sgd, p, g, (velocity, None), lr, momentum, keep, fresh, nesterov, weight_decay)


def rmsprop(
    p: DeviceArray,
    g: DeviceArray,
    square: DeviceArray,
    mean: DeviceArray | None,
    velocity: DeviceArray | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
) -> None:
    _launch(_rmsprop, p, g, (square, mean, velocity), lr, alpha, 1 - alpha, eps, weight_decay, momentum)


def adagrad(p: DeviceArray, g: DeviceArray, total: DeviceArray, lr: float, eps: float, weight_decay: float) -> None:
    _launch(_adagrad, p, g, (total, None), lr, eps, weight_decay)


def adam(
    p: DeviceArray,
    g: DeviceArray,
    m: DeviceArray,
    v: DeviceArray,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    shrink, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    step_size, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    _launch(_adam, p, g, (m, v), beta1, 1 - beta1, beta2, 1 - beta2, step_size, 1 / root, eps, decay, shrink)


@kernel
def _square_sums(sums: Array, x: Array) -> None:
    """sums[b], float64, of the squares of x's b-th block."""
    shared = cuda.shared.array(THREADS, sums.dtype)
    block, thread = cuda.blockIdx.x, cuda.threadIdx.x
    total = cast(0, x[0])
    for i in range(block * _BLOCK + thread, min((block + 1) * _BLOCK, x.size), THREADS):
        total += x[i] * x[i]
    whole = block_sum(total, shared)
    if thread == 0:
        sums[block] = whole


def square_sum(x: DeviceArray) -> float:
    if x.size == 0:
        return 0.0
    sums = empty((-(-x.size // _BLOCK),), np.float64)
    launch_blocks(_square_sums, sums.size, sums, x)
    return sums.sum().item()


def scale(x: DeviceArray, factor: float) -> None:
    x *= factor
