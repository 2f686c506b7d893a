"""Softmax cross-entropy: loss and gradient in one kernel, a block for each row of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn.kernels.cuda.device import DeviceArray, asarray, empty, launch_blocks, zeros
from minirnn.kernels.cuda.jit import THREADS, cuda, device_function, kernel, larger, log
from minirnn.kernels.pointwise import cast, exp


def _across(combine: Callable) -> Any:
    """A function that combines every thread's value, for every thread."""

    @device_function
    def across(value: Any, shared: Any) -> Any:
        thread = cuda.threadIdx.x
        shared[thread] = value
        half = THREADS // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                shared[thread] = combine(shared[thread], shared[thread + half])
            half //= 2
        cuda.syncthreads()
        combined = shared[0]
        cuda.syncthreads()  # before shared is written again
        return combined

    return across


_total, _largest = _across(device_function(lambda a, b: a + b)), _across(larger)


@kernel
def _cross_entropy(
    losses: Any, grad: Any, logits: Any, targets: Any, weight: Any, smoothing: float, scale: float
) -> None:
    shared = cuda.shared.array(THREADS, logits.dtype)
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    classes = logits.shape[1]
    like = logits[n, 0]
    zero, one = cast(0, like), cast(1, like)
    spread = cast(smoothing / classes, like)  # label smoothing's share of every class
    kept, factor = cast(1 - smoothing, like), cast(scale, like)
    target = targets[n]
    if target < 0:  # an ignored row, for every thread of the block
        if thread == 0:
            losses[n] = zero
        if grad.size > 0:
            for j in range(thread, classes, THREADS):
                grad[n, j] = zero
        return
    largest = like
    for j in range(thread, classes, THREADS):
        largest = logits[n, j] if logits[n, j] > largest else largest
    largest = _largest(largest, shared)
    total = zero
    for j in range(thread, classes, THREADS):
        total += exp(logits[n, j] - largest)
    total = _total(total, shared)
    log_total = log(total)
    w = weight[target] if weight.size > 0 else one
    # -log p of logit x is log_total - (x - largest): a big ``largest`` is never added to a small logarithm
    loss = kept * w * (log_total - (logits[n, target] - largest))
    mass = kept * w
    if smoothing > 0:
        smooth, weights = zero, zero
        for j in range(thread, classes, THREADS):
            v = weight[j] if weight.size > 0 else one
            smooth += v * (log_total - (logits[n, j] - largest))
            weights += v
        loss += spread * _total(smooth, shared)
        mass += spread * _total(weights, shared)
    if thread == 0:
        losses[n] = loss * factor
    if grad.size > 0:
        # d loss / d logit_j = p_j (sum of target masses) - (target mass of j)
        common = factor * mass / total
        for j in range(thread, classes, THREADS):
            slope = exp(logits[n, j] - largest) * common
            if smoothing > 0:
                slope -= factor * spread * (weight[j] if weight.size > 0 else one)
            if j == target:
                slope -= factor * kept * w
            grad[n, j] = slope


def cross_entropy(
    logits: DeviceArray, targets: Any, weight: DeviceArray | None, smoothing: float, scale: float, with_grad: bool
) -> tuple[DeviceArray, DeviceArray | None]:
    """Each row's loss [S] and the gradient [S, V] of their sum, both times ``scale``.

    Args:
        logits: [S, V].
        targets: [S] int64 class numbers; a row with a negative one is ignored.
        weight: [V] weight of each class, or None.
        smoothing: label smoothing in [0, 1].
    """
    losses = (empty if logits.size else zeros)((logits.shape[0],), logits.dtype)
    grad = empty(logits.shape, logits.dtype) if with_grad else None
    if logits.size:
        launch_blocks(
            _cross_entropy, logits.shape[0], losses, empty((0, 0), logits.dtype) if grad is None else grad, logits,
            asarray(targets, np.int64), empty((0,), logits.dtype) if weight is None else weight,
            float(smoothing), float(scale),
        )  # fmt: skip
    return losses, grad
