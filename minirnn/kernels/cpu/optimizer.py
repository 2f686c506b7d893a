"""Optimiser updates and norms over flat parameter buffers. Formulas: PyTorch 2's, one kernel each."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.kernels import threads
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast

_BLOCK = 16384
_EMPTY: dict[str, np.ndarray] = {}


@jit
def _sgd(
    share: int, shares: int, p: Any, g: Any, velocity: Any, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    rate, mu, decay = cast(lr, p[0]), cast(momentum, p[0]), cast(weight_decay, p[0])
    fresh = cast(1 if first else 1 - dampening, p[0])
    keep = cast(0 if first else momentum, p[0])
    lo, hi = share * p.size // shares, (share + 1) * p.size // shares
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
def _rmsprop(
    share: int, shares: int, p: Any, g: Any, square: Any, mean: Any, velocity: Any, lr: float, alpha: float,
    eps: float, weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    rate, a, tiny, decay = cast(lr, p[0]), cast(alpha, p[0]), cast(eps, p[0]), cast(weight_decay, p[0])
    b, mu = cast(1 - alpha, p[0]), cast(momentum, p[0])
    centered, moving = mean.size > 0, velocity.size > 0  # known before the loop, so that each case vectorises
    lo, hi = share * p.size // shares, (share + 1) * p.size // shares
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
def _adagrad(share: int, shares: int, p: Any, g: Any, total: Any, lr: float, eps: float, weight_decay: float) -> None:
    rate, tiny, decay = cast(lr, p[0]), cast(eps, p[0]), cast(weight_decay, p[0])
    lo, hi = share * p.size // shares, (share + 1) * p.size // shares
    p, g, total = p[lo:hi], g[lo:hi], total[lo:hi]
    for i in range(p.size):
        grad = g[i] + decay * p[i]
        total[i] += grad * grad
        p[i] -= rate * grad / (np.sqrt(total[i]) + tiny)


@jit
def _adam(
    share: int, shares: int, p: Any, g: Any, m: Any, v: Any, beta1: float, beta2: float, step_size: float,
    root: float, eps: float, weight_decay: float, shrink: float,
) -> None:  # fmt: skip
    a1, b1 = cast(beta1, p[0]), cast(1 - beta1, p[0])
    a2, b2 = cast(beta2, p[0]), cast(1 - beta2, p[0])
    rate, inverse_root, tiny = cast(step_size, p[0]), cast(1 / root, p[0]), cast(eps, p[0])
    decay, keep = cast(weight_decay, p[0]), cast(shrink, p[0])
    lo, hi = share * p.size // shares, (share + 1) * p.size // shares
    p, g, m, v = p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]
    for i in range(p.size):
        weight = p[i] * keep
        grad = g[i] + decay * p[i]
        m[i] = a1 * m[i] + b1 * grad
        v[i] = a2 * v[i] + b2 * grad * grad
        p[i] = weight - rate * m[i] / (np.sqrt(v[i]) * inverse_root + tiny)


@jit(reassociate=True)
def _square_sums(share: int, shares: int, x: Any, sums: Any) -> None:
    for block in range(share * sums.size // shares, (share + 1) * sums.size // shares):
        piece = x[block * _BLOCK : min((block + 1) * _BLOCK, x.size)]
        total = cast(0, x[0])
        for i in range(piece.size):
            total += piece[i] * piece[i]
        sums[block] = total


def _none(like: np.ndarray) -> np.ndarray:
    return _EMPTY.setdefault(like.dtype.char, np.empty(0, like.dtype))


def sgd(
    p: np.ndarray, g: np.ndarray, velocity: np.ndarray | None, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, first: bool,
) -> None:  # fmt: skip
    """p -= lr v, v = momentum v + (1 - dampening) (g + weight_decay p); on the ``first`` step v = g."""
    v = _none(p) if velocity is None else velocity
    threads.run(
        _sgd, 4.0 * p.size, p.size, p, g, v, lr, momentum, dampening, weight_decay, nesterov, first
    )  # fmt: skip


def rmsprop(
    p: np.ndarray, g: np.ndarray, square: np.ndarray, mean: np.ndarray | None, velocity: np.ndarray | None,
    lr: float, alpha: float, eps: float, weight_decay: float, momentum: float,
) -> None:  # fmt: skip
    """p -= lr g / (sqrt(s - mean^2) + eps), s = alpha s + (1 - alpha) g^2; mean only when centred."""
    mean = _none(p) if mean is None else mean
    velocity = _none(p) if velocity is None else velocity
    threads.run(_rmsprop, 8.0 * p.size, p.size, p, g, square, mean, velocity, lr, alpha, eps, weight_decay, momentum)


def adagrad(p: np.ndarray, g: np.ndarray, total: np.ndarray, lr: float, eps: float, weight_decay: float) -> None:
    """p -= lr g / (sqrt(s) + eps), s += g^2."""
    threads.run(_adagrad, 8.0 * p.size, p.size, p, g, total, lr, eps, weight_decay)


def adam(
    p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """p -= lr m' / (sqrt(v') + eps) with m', v' the bias-corrected moments; AdamW where ``decoupled``."""
    shrink, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    step_size, root = lr / (1 - beta1**step), float(np.sqrt(1 - beta2**step))
    threads.run(_adam, 8.0 * p.size, p.size, p, g, m, v, beta1, beta2, step_size, root, eps, decay, shrink)


def square_sum(x: np.ndarray) -> float:
    """Sum of squares of a flat array, in an order that does not depend on the threads."""
    if x.size == 0:
        return 0.0
    sums = np.empty(-(-x.size // _BLOCK))
    threads.run(_square_sums, 1.0 * x.size, sums.size, x, sums)
    return float(sums.sum())
