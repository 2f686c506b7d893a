"""Optimiser updates and norms over flat parameter buffers, one kernel each."""

from __future__ import annotations

import math

import numpy as np

from minirnn.kernels import threads
from minirnn.kernels.jit import chunk_of, jit
from minirnn.kernels.pointwise import cast

_BLOCK = 16384
_ABSENT = {dtype: np.empty(0, dtype) for dtype in (np.dtype(np.float32), np.dtype(np.float64))}


@jit
def _sgd(thread_id, num_threads, p, g, velocity, lr, momentum, dampening, weight_decay, nesterov, first):
    rate, mu, decay = cast(lr, p[0]), cast(momentum, p[0]), cast(weight_decay, p[0])
    fresh = cast(1 if first else 1 - dampening, p[0])
    keep = cast(0 if first else momentum, p[0])
    lo, hi = chunk_of(p.size, thread_id, num_threads)
    p, g = p[lo:hi], g[lo:hi]
    if velocity.size == 0:
        for i in range(p.size):
            p[i] -= rate * (g[i] + decay * p[i])
        return
    velocity = velocity[lo:hi]
    if nesterov:
        for i in range(p.size):
            step = g[i] + decay * p[i]
            velocity[i] = keep * velocity[i] + fresh * step
            p[i] -= rate * (step + mu * velocity[i])
    else:
        for i in range(p.size):
            velocity[i] = keep * velocity[i] + fresh * (g[i] + decay * p[i])
            p[i] -= rate * velocity[i]


@jit
def _rmsprop(thread_id, num_threads, p, g, square, mean, velocity, lr, alpha, eps, weight_decay, momentum):
    rate, a, tiny, decay = cast(lr, p[0]), cast(alpha, p[0]), cast(eps, p[0]), cast(weight_decay, p[0])
    b, mu = cast(1 - alpha, p[0]), cast(momentum, p[0])
    centered, moving = mean.size > 0, velocity.size > 0  # known before the loop, so that each case vectorises
    lo, hi = chunk_of(p.size, thread_id, num_threads)
    p, g, square, mean, velocity = p[lo:hi], g[lo:hi], square[lo:hi], mean[lo:hi], velocity[lo:hi]
    for i in range(p.size):
        grad = g[i] + decay * p[i]
        square[i] = a * square[i] + b * grad * grad
        variance = square[i]
        if centered:
            mean[i] = a * mean[i] + b * grad
            variance -= mean[i] * mean[i]
        step = grad / (np.sqrt(variance) + tiny)
        if moving:
            velocity[i] = mu * velocity[i] + step
            step = velocity[i]
        p[i] -= rate * step


@jit
def _adagrad(thread_id, num_threads, p, g, total, lr, eps, weight_decay):
    rate, tiny, decay = cast(lr, p[0]), cast(eps, p[0]), cast(weight_decay, p[0])
    lo, hi = chunk_of(p.size, thread_id, num_threads)
    p, g, total = p[lo:hi], g[lo:hi], total[lo:hi]
    for i in range(p.size):
        grad = g[i] + decay * p[i]
        total[i] += grad * grad
        p[i] -= rate * grad / (np.sqrt(total[i]) + tiny)


@jit
def _adam(thread_id, num_threads, p, g, m, v, beta1, beta2, step_size, root, eps, weight_decay, shrink):
    a1, b1 = cast(beta1, p[0]), cast(1 - beta1, p[0])
    a2, b2 = cast(beta2, p[0]), cast(1 - beta2, p[0])
    rate, inverse_root, tiny = cast(step_size, p[0]), cast(1 / root, p[0]), cast(eps, p[0])
    decay, keep = cast(weight_decay, p[0]), cast(shrink, p[0])
    lo, hi = chunk_of(p.size, thread_id, num_threads)
    p, g, m, v = p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]
    for i in range(p.size):
        weight = p[i] * keep
        grad = g[i] + decay * p[i]
        m[i] = a1 * m[i] + b1 * grad
        v[i] = a2 * v[i] + b2 * grad * grad
        p[i] = weight - rate * m[i] / (np.sqrt(v[i]) * inverse_root + tiny)


@jit(reassociate=True)
def _square_sums(thread_id, num_threads, x, sums):
    first, last = chunk_of(sums.size, thread_id, num_threads)
    for block in range(first, last):
        piece = x[block * _BLOCK : min((block + 1) * _BLOCK, x.size)]
        total = cast(0, x[0])
        for i in range(piece.size):
            total += piece[i] * piece[i]
        sums[block] = total


@jit
def _scale(thread_id, num_threads, x, factor):
    by = cast(factor, x[0])
    lo, hi = chunk_of(x.size, thread_id, num_threads)
    x = x[lo:hi]
    for i in range(x.size):
        x[i] *= by


def sgd(
    p: np.ndarray,
    g: np.ndarray,
    velocity: np.ndarray | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    velocity = _ABSENT[p.dtype] if velocity is None else velocity
    threads.run(_sgd, 4.0 * p.size, p.size, p, g, velocity, lr, momentum, dampening, weight_decay, nesterov, first)


def rmsprop(
    p: np.ndarray,
    g: np.ndarray,
    square: np.ndarray,
    mean: np.ndarray | None,
    velocity: np.ndarray | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
) -> None:
    mean, velocity = (_ABSENT[p.dtype] if buffer is None else buffer for buffer in (mean, velocity))
    threads.run(_rmsprop, 8.0 * p.size, p.size, p, g, square, mean, velocity, lr, alpha, eps, weight_decay, momentum)


def adagrad(p: np.ndarray, g: np.ndarray, total: np.ndarray, lr: float, eps: float, weight_decay: float) -> None:
    threads.run(_adagrad, 8.0 * p.size, p.size, p, g, total, lr, eps, weight_decay)


def adam(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
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
    threads.run(_adam, 8.0 * p.size, p.size, p, g, m, v, beta1, beta2, step_size, root, eps, decay, shrink)


def square_sum(x: np.ndarray) -> float:
    if x.size == 0:
        return 0.0
    sums = np.empty(-(-x.size // _BLOCK))
    threads.run(_square_sums, 1.0 * x.size, sums.size, x, sums)
    try:
        return math.fsum(sums.tolist())
    except OverflowError:  # all of them are finite, their sum is not
        return math.inf


def scale(x: np.ndarray, factor: float) -> None:
    if x.size and x.flags.c_contiguous:
        threads.run(_scale, 1.0 * x.size, x.size, x.reshape(-1), factor)
    else:
        x *= factor
