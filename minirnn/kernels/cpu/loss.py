"""Softmax cross-entropy: loss and gradient in one pass over the logits."""

from __future__ import annotations

import numpy as np

from minirnn.kernels import memory, threads
from minirnn.kernels.jit import chunk_of, jit
from minirnn.kernels.pointwise import cast, exp

_LANES = 64  # the maximum of a row is computed in so many independent parts, so that it vectorises


@jit(inline=True)
def _neg_log_p(log_total, x, largest):
    """-log p of logit x. A function, so that no reordering adds a big ``largest`` to a small logarithm."""
    return log_total - (x - largest)


@jit(reassociate=True)
def _cross_entropy(thread_id, num_threads, logits, targets, weight, smoothing, scale, losses, grad, scratch):
    rows, classes = logits.shape
    like = logits[0, 0]
    zero, one = cast(0, like), cast(1, like)
    spread = cast(smoothing / classes, like)  # target probability of every class
    kept = cast(1 - smoothing, like)  # and what the target has beside
    factor = cast(scale, like)
    row = scratch[thread_id, _LANES:]
    lanes = scratch[thread_id, :_LANES]
    weight_sum = zero
    for j in range(weight.size):
        weight_sum += weight[j]
    first, last = chunk_of(rows, thread_id, num_threads)
    for n in range(first, last):
        target = targets[n]
        if target < 0:  # an ignored row
            losses[n] = zero
            if grad.size > 0:
                for j in range(classes):
                    grad[n, j] = zero
            continue
        for j in range(_LANES):
            lanes[j] = logits[n, 0]
        blocks = classes // _LANES
        for b in range(blocks):
            for j in range(_LANES):
                x = logits[n, np.uintp(b * _LANES + j)]
                lanes[j] = x if x > lanes[j] else lanes[j]
        largest = lanes[0]
        for j in range(1, _LANES):
            largest = lanes[j] if lanes[j] > largest else largest
        for j in range(blocks * _LANES, classes):
            largest = logits[n, j] if logits[n, j] > largest else largest
        for j in range(classes):
            row[j] = exp(logits[n, j] - largest)
        total = zero
        for j in range(classes):
            total += row[j]
        log_total = np.log(total)
        w = weight[target] if weight.size > 0 else one
        loss = kept * w * _neg_log_p(log_total, logits[n, target], largest)
        mass = kept * w
        if smoothing > 0:
            if weight.size > 0:
                for j in range(classes):
                    loss += spread * weight[j] * _neg_log_p(log_total, logits[n, j], largest)
                mass += spread * weight_sum
            else:
                for j in range(classes):
                    loss += spread * _neg_log_p(log_total, logits[n, j], largest)
                mass += spread * cast(classes, like)
        losses[n] = loss * factor
        if grad.size > 0:
            # d loss / d logit_j = p_j (sum of target masses) - (target mass of j)
            common = factor * mass / total
            for j in range(classes):
                grad[n, j] = row[j] * common
            if smoothing > 0:
                if weight.size > 0:
                    for j in range(classes):
                        grad[n, j] -= factor * spread * weight[j]
                else:
                    for j in range(classes):
                        grad[n, j] -= factor * spread
            grad[n, target] -= factor * kept * w


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
    smoothing: float,
    scale: float,
    with_grad: bool,
    in_place: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    (rows, classes), dtype = logits.shape, logits.dtype
    losses = memory.empty((rows,), dtype)
    grad = (logits if in_place else memory.empty(logits.shape, dtype)) if with_grad else None
    if logits.size:
        scratch = memory.empty((threads.get_num_threads(), _LANES + classes), dtype)
        weights = np.empty(0, dtype) if weight is None else weight
        results = losses, np.empty((0, 0), dtype) if grad is None else grad
        options = logits, targets, weights, smoothing, scale
        threads.run(_cross_entropy, 12.0 * logits.size, min(rows, len(scratch)), *options, *results, scratch)
    return losses, grad
