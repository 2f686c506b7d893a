"""Connectionist temporal classification: loss and gradient in one kernel, with a block for each sequence.

The computation, and the arrays' layout, are those of :mod:`minirnn.kernels.cpu.ctc`: row 0 of [2, W] is about blank k,
row 1 about a label. Each thread computes blank k and the label beside it, for every THREADS-th k.
"""

from __future__ import annotations

import numpy as np

from minirnn.kernels.cuda.array import DeviceArray, empty
from minirnn.kernels.cuda.creation import asarray
from minirnn.kernels.cuda.jit import (
    THREADS,
    Array,
    Number,
    block_sum,
    cuda,
    device_function,
    kernel,
    larger,
    make_block_reduce,
)
from minirnn.kernels.cuda.launch import launch_blocks
from minirnn.kernels.pointwise import cast, exp, logaddexp

_block_max = make_block_reduce(larger)


@device_function
def _maximum(rows: Array, width: int, shared: Array) -> Number:
    """The largest element of ``rows`` [2, W], for every thread; 0 where that is -inf."""
    largest = cast(-np.inf, rows[0, 0])
    for k in range(cuda.threadIdx.x, width, THREADS):
        largest = larger(largest, larger(rows[0, k], rows[1, k]))
    largest = _block_max(largest, shared)
    return largest if largest > cast(-np.inf, largest) else cast(0, largest)


@device_function
def _link(labels: Array, size: int, links: Array) -> None:
    """``links[0, k]``: where label k occurs next, or S; ``links[1, k]``: whether it is the first of its kind."""
    for k in range(cuda.threadIdx.x, size, THREADS):
        following, first = size, 1
        for j in range(size - 1, k, -1):
            following = j if labels[j] == labels[k] else following
        for j in range(k):
            first = 0 if labels[j] == labels[k] else first
        links[0, k], links[1, k] = following, first


@device_function
def _may_follow(labels: Array, k: int) -> bool:
    """Whether label k may follow label k - 1 without a blank between them."""
    return k > 0 and labels[k] != labels[k - 1]


@kernel
def _ctc_loss(
    inputs: tuple, blank: int, zero_infinity: bool, losses: Array, grad: Array, buffers: tuple, links: Array
) -> None:
    log_probs, targets, input_lengths, target_lengths, scales = inputs
    all_alphas, all_shifts, all_work = buffers
    shared = cuda.shared.array(THREADS, log_probs.dtype)
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    steps, size, labels = input_lengths[n], target_lengths[n], targets[n]
    alphas, shifts, work = all_alphas[n], all_shifts[n], all_work[n]
    width, rows, classes = size + 1, alphas.shape[0], log_probs.shape[2]
    zero = cast(0, log_probs[0, 0, 0])
    impossible = cast(-np.inf, zero)
    for k in range(thread, width, THREADS):
        alphas[0, 0, k] = zero if k == 0 else impossible
        alphas[0, 1, k] = impossible
    _link(labels, size, links[n])
    cuda.syncthreads()
    shift = 0.0
    for t in range(steps):
        before, after, row = alphas[t % rows], alphas[(t + 1) % rows], log_probs[t, n]
        largest = _maximum(before, width, shared)
        if thread == 0:
            shifts[t] = shift
        shift += largest
        for k in range(thread, width, THREADS):
            entered = logaddexp(before[0, k], before[1, k])
            after[0, k] = entered + (row[blank] - largest)
            if k == 0:
                after[1, 0] = impossible
            if k < size:
                source = entered if _may_follow(labels, k) else before[0, k]
                after[1, k + 1] = logaddexp(before[1, k + 1], source) + (row[labels[k]] - largest)
        cuda.syncthreads()
    log_p = shift + logaddexp(alphas[steps % rows, 0, size], alphas[steps % rows, 1, size])
    infinite = log_p == -np.inf
    if thread == 0:
        shifts[steps] = shift
        losses[n] = zero if infinite and zero_infinity else cast((0.0 - log_p) * scales[n], zero)
    if grad.size == 0:
        return
    unused = zero if zero_infinity or not infinite else cast(np.nan, zero)
    for t in range(0 if infinite else steps, log_probs.shape[0]):
        for c in range(thread, classes, THREADS):
            grad[t, n, c] = unused if t < steps else zero
    if infinite:  # for all threads of the block
        return
    factor, shift = cast(scales[n], zero), 0.0
    beta, with_step, posterior = work[0:2], work[2:4], work[4]
    for k in range(thread, width, THREADS):
        beta[0, k] = zero if k == size else impossible
        beta[1, k] = zero if k == size - 1 else impossible
    cuda.syncthreads()
    for t in range(steps - 1, -1, -1):
        alpha, row, slope = alphas[t + 1], log_probs[t, n], grad[t, n]
        norm = cast(log_p - shifts[t + 1] - shift, zero)
        blank_sum, label_sum = zero, zero
        for k in range(thread, width, THREADS):
            blank_sum += exp(alpha[0, k] + beta[0, k] - norm)
            if k < size:
                posterior[k] = exp(alpha[1, k + 1] + beta[1, k] - norm)
                label_sum += posterior[k]
        blank_sum, label_sum = block_sum(blank_sum, shared), block_sum(label_sum, shared)
        scale = factor / (blank_sum + label_sum)  # the sum is 1, but for rounding
        for c in range(thread, classes, THREADS):
            slope[c] = exp(row[c]) * factor
            if c == blank:
                slope[c] -= blank_sum * scale
        largest = _maximum(beta, width, shared)
        shift += largest
        for k in range(thread, width, THREADS):
            with_step[0, k] = beta[0, k] + (row[blank] - largest)
            with_step[1, k] = beta[1, k] + (row[labels[k]] - largest) if k < size else impossible
        cuda.syncthreads()
        for k in range(thread, width, THREADS):
            beta[0, k] = logaddexp(with_step[0, k], with_step[1, k])
            if k < size:
                source = with_step[0, k + 1]
                if k + 1 < size and _may_follow(labels, k + 1):
                    source = logaddexp(source, with_step[1, k + 1])
                beta[1, k] = logaddexp(with_step[1, k], source)
                if links[n, 1, k] == 1:  # this thread has all labels like this one
                    total, j = zero, k
                    while j < size:
                        total += posterior[j]
                        j = links[n, 0, j]
                    slope[labels[k]] -= total * scale
        cuda.syncthreads()


def ctc_loss(
    log_probs: DeviceArray,
    targets: np.ndarray,
    input_lengths: np.ndarray,
    target_lengths: np.ndarray,
    blank: int,
    scale: np.ndarray,
    zero_infinity: bool,
    with_grad: bool,
) -> tuple[DeviceArray, DeviceArray | None]:
    (_, batch, _), dtype = log_probs.shape, log_probs.dtype
    losses = empty((batch,), dtype)
    grad = empty(log_probs.shape, dtype) if with_grad else None
    longest, width = int(input_lengths.max()), targets.shape[1] + 1
    rows = max(2, longest + 1) if with_grad else 2
    buffers = (
        empty((batch, rows, 2, width), dtype),
        empty((batch, longest + 1), np.float64),
        empty((batch, 5, width), dtype),
    )
    lists = asarray(targets, np.int64), asarray(input_lengths, np.int64), asarray(target_lengths, np.int64)
    inputs = log_probs, *lists, asarray(scale, np.float64)
    slopes = empty((0, 0, 0), dtype) if grad is None else grad
    links = empty((batch, 2, width), np.int64)
    launch_blocks(_ctc_loss, batch, inputs, blank, zero_infinity, losses, slopes, buffers, links)
    return losses, grad
