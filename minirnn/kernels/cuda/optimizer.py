"""Optimiser updates and norms over flat parameter buffers. Formulas: PyTorch 2's, one kernel each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.kernels.cuda.device import DeviceArray, empty, launch, launch_blocks
from minirnn.kernels.cuda.jit import THREADS, cuda, kernel, sqrt
from minirnn.kernels.pointwise import cast

_BLOCK = 16384  # elements whose squares one block adds up


@kernel
def _sgd(
    p: Any, g: Any, velocity: Any, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
    first: bool,
) -> None:  # fmt: skip
    rate, mu, decay = cast(lr, p[0]), cast(momentum, p[0]), cast(weight_decay, p[0])
    fresh = cast(1 if first else 1 - dampening, p[0])
    keep = cast(0 if first else momentum, p[0])
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        step = g[i] + decay * p[i]
        if velocity.size > 0:
            velocity[i] = keep * velocity[i] + fresh * step
            step = step + mu * velocity[i] if nesterov else velocity[i]
        p[i] -= rate * step


@kernel
def _rmsprop(
    p: Any, g: Any, square: Any, mean: Any, velocity: Any, lr: float, alpha: float, eps: float, weight_decay: float,
    momentum: float,
) -> None:  # fmt: skip
    rate, a, tiny, decay = cast(lr, p[0]), cast(alpha, p[0]), cast(eps, p[0]), cast(weight_decay, p[0])
    b, mu = cast(1 - alpha, p[0]), cast(momentum, p[0])
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        grad = g[i] + decay * p[i]
        square[i] = a * square[i] + b * grad * grad
        variance = square[i]
        if mean.size > 0:
            mean[i] = a * mean[i] + b * grad
            variance -= mean[i] * mean[i]
        step = grad / (sqrt(variance) + tiny)
        if velocity.size > 0:
            velocity[i] = mu * velocity[i] + step
            step = velocity[i]
        p[i] -= rate * step


@kernel
def _adagrad(p: Any, g: Any, total: Any, lr: float, eps: float, weight_decay: float) -> None:
    rate, tiny, decay = cast(lr, p[0]), cast(eps, p[0]), cast(weight_decay, p[0])
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        grad = g[i] + decay * p[i]
        total[i] += grad * grad
        p[i] -= rate * grad / (sqrt(total[i]) + tiny)


@kernel
def _adam(
    p: Any, g: Any, m: Any, v: Any, beta1: float, beta2: float, step_size: float, root: float, eps: float,
    weight_decay: float, shrink: float,
) -> None:  # fmt: skip
    a1, b1 = cast(beta1, p[0]), cast(1 - beta1, p[0])
    a2, b2 = cast(beta2, p[0]), cast(1 - beta2, p[0])
    rate, inverse_root, tiny = cast(step_size, p[0]), cast(1 / root, p[0]), cast(eps, p[0])
    decay, keep = cast(weight_decay, p[0]), cast(shrink, p[0])
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        weight = p[i] * keep
        grad = g[i] + decay * p[i]
        m[i] = a1 * m[i] + b1 * grad
        v[i] = a2 * v[i] + b2 * grad * grad
        p[i] = weight - rate * m[i] / (sqrt(v[i]) * inverse_root + tiny)


@kernel
def _square_sums(sums: Any, x: Any) -> None:
    """sums[b], float64, of the squares of x's b-th block."""
    totals = cuda.shared.array(THREADS, sums.dtype)
    block, thread = cuda.blockIdx.x, cuda.threadIdx.x
    total = cast(0, x[0])
    for i in range(block * _BLOCK + thread, min((block + 1) * _BLOCK, x.size), THREADS):
        total += x[i] * x[i]
    totals[thread] = total
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            totals[thread] += totals[thread + half]
        half //= 2
    if thread == 0:
        sums[block] = totals[0]


def _present(array: DeviceArray | None, like: DeviceArray) -> DeviceArray:
    return empty((0,), like.dtype) if array is None else array


def sgd(
    p: DeviceArray, g: DeviceArray, velocity: DeviceArray | None, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    """p -= lr v, v = momentum v + (1 - dampening) (g + weight_decay p); on the ``first`` step v = g."""
    launch(_sgd, p.size, p, g, _present(velocity, p), lr, momentum, dampening, weight_decay, nesterov, first)


def rmsprop(
    p: DeviceArray, g: DeviceArray, square: DeviceArray, mean: DeviceArray | None, velocity: DeviceArray | None,
    lr: float, alpha: float, eps: float, weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    """p -= lr g / (sqrt(s - mean^2) + eps), s = alpha s + (1 - alpha) g^2; mean only when centred."""
    mean, velocity = _present(mean, p), _present(velocity, p)
    launch(_rmsprop, p.size, p, g, square, mean, velocity, lr, alpha, eps, weight_decay, momentum)


def adagrad(p: DeviceArray, g: DeviceArray, total: DeviceArray, lr: float, eps: float, weight_decay: float) -> None:
    """p -= lr g / (sqrt(s) + eps), s += g^2."""
    launch(_adagrad, p.size, p, g, total, lr, eps, weight_decay)


def adam(
    p: DeviceArray, g: DeviceArray, m: DeviceArray, v: DeviceArray, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """p -= lr m' / (sqrt(v') + eps) with m', v' the bias-corrected moments; AdamW where ``decoupled``."""
    shrink, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    step_size, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    launch(_adam, p.size, p, g, m, v, beta1, beta2, step_size, root, eps, decay, shrink)


def square_sum(x: DeviceArray) -> float:
    """Sum of squares of a flat array, in a fixed order; waits for the GPU."""
    if x.size == 0:
        return 0.0
    sums = empty((-(-x.size // _BLOCK),), np.float64)
    launch_blocks(_square_sums, sums.size, sums, x)
    return sums.sum().item()
