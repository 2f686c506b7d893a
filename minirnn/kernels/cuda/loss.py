"""Softmax cross-entropy: loss and gradient in one kernel, with a block for each row of logits."""

from __future__ import annotations

import numpy as np

from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray, zeros
from minirnn.kernels.cuda.jit import THREADS, Array, block_sum, cuda, kernel, larger, log, make_block_reduce
from minirnn.kernels.cuda.launch import launch_blocks
from minirnn.kernels.pointwise import cast, exp

_block_max = make_block_reduce(larger)


@kernel
def _cross_entropy(
    losses: Array, grad: Array, logits: Array, targets: Array, weight: Array, smoothing: float, scale: float
) -> None:
    shared = cuda.shared.array(THREADS, logits.dtype)
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    classes = logits.shape[1]
    like = logits[n, 0]
    zero, one = cast(0, like), cast(1, like)
    spread = cast(smoothing / classes, like)  # label smoothing's target mass of every class
    kept, factor = cast(1 - smoothing, like), cast(scale, like)
    target = targets[n]
    if target < 0:  # an ignored row, for all threads of the block
        if thread == 0:
            losses[n] = zero
        if grad.size > 0:
            for j in range(thread, classes, THREADS):
                grad[n, j] = zero
        return
    largest = like
    for j in range(thread, classes, THREADS):
        largest = logits[n, j] if logits[n, j] > largest else largest
    largest = _block_max(largest, shared)
    total = zero
    for j in range(thread, classes, THREADS):
        total += exp(logits[n, j] - largest)
    at_target = logits[n, target]  # before the other threads, past block_sum, overwrite it where grad is logits
    total = block_sum(total, shared)
    log_total = log(total)
    w = weight[target] if weight.size > 0 else one
    # -log p of logit x is log_total - (x - largest): a big ``largest`` is never added to a small logarithm
    loss = kept * w * (log_total - (at_target - largest))
    mass = kept * w
    if smoothing > 0:
        smooth, weights = zero, zero
        for j in range(thread, classes, THREADS):
            v = weight[j] if weight.size > 0 else one
            smooth += v * (log_total - (logits[n, j] - largest))
            weights += v
        loss += spread * block_sum(smooth, shared)
        mass += spread * block_sum(weights, shared)
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
    logits: DeviceArray,
    targets: object,
    weight: DeviceArray | None,
    smoothing: float,
    scale: float,
    with_grad: bool,
    in_place: bool = False,
) -> tuple[DeviceArray, DeviceArray | None]:
    losses = (empty if logits.size else zeros)((logits.shape[0],), logits.dtype)
    grad = (logits if in_place else empty(logits.shape, logits.dtype)) if with_grad else None
    if logits.size:
        slopes = empty((0, 0), logits.dtype) if grad is None else grad
        classes = asarray(targets, np.int64)
        weights = empty((0,), logits.dtype) if weight is None else weight
        blocks = logits.shape[0]
        launch_blocks(_cross_entropy, blocks, losses, slopes, logits, classes, weights, float(smoothing), float(scale))
    return losses, grad
