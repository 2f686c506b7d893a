"""Connectionist temporal classification: loss and gradient by forward-backward in one kernel, for whole sequences.

A target of S labels has S + 1 blanks around them. With W = S + 1, row 0 of a [2, W] array is about blank k, row 1 about
a label. Both ways use that label k is entered from whatever enters blank k, unless the label before it is the same, so
every state takes one addition of logarithms. Rows are kept near zero by subtracting their maximum at each step; what
was subtracted is added up in float64, so float32 does not lose digits to the size of the loss.
"""

from __future__ import annotations

import numpy as np

from minirnn.kernels import memory, threads
from minirnn.kernels.cpu.step import partition_sequences
from minirnn.kernels.jit import jit
from minirnn.kernels.pointwise import cast, exp, logaddexp
from minirnn.kernels.steps import cumulative_steps

_STATE_COST, _CLASS_COST = 40.0, 10.0  # multiply-adds per step and state, and per step and class


@jit(inline=True)
def _add(a, b, out):
    """out = log(exp(a) + exp(b))."""
    for k in range(out.size):
        out[k] = logaddexp(a[k], b[k])


@jit(inline=True)
def _choose(skip, a, b, out):
    """out = a where ``skip`` is not zero, else b."""
    for k in range(out.size):
        out[k] = a[k] if skip[k] > 0 else b[k]


@jit(inline=True)
def _maximum(a, b, values):
    """The largest element of ``a`` and ``b``, 0 where that is -inf. By halves, which vectorises; in ``values``."""
    for k in range(values.size):
        values[k] = a[k] if a[k] > b[k] else b[k]
    count = values.size
    while count > 1:
        rest = count - count // 2
        upper = values[rest:count]
        for k in range(upper.size):
            values[k] = values[k] if values[k] > upper[k] else upper[k]
        count = rest
    return values[0] if values[0] > cast(-np.inf, values[0]) else cast(0, values[0])


@jit(inline=True)
def _shifted(x, shift, out):
    """out = x + shift."""
    for k in range(out.size):
        out[k] = x[k] + shift


@jit(inline=True)
def _forward(log_probs, n, steps, labels, blank, skip, alphas, shifts, work):
    """Fill ``alphas`` [R, 2, W], row t (modulo R) about the first t steps; the log-probability of the labels."""
    size, width, rows = labels.size, labels.size + 1, len(alphas)
    impossible = cast(-np.inf, log_probs[0, n, 0])
    entered, values, chosen, emitted = work[0, :width], work[1, :width], work[2, :size], work[3, :size]
    for k in range(width):
        alphas[0, 0, k] = alphas[0, 1, k] = impossible
    alphas[0, 0, 0] = 0
    shift = 0.0
    for t in range(steps):
        blanks, after = alphas[t % rows, 0, :width], alphas[(t + 1) % rows]
        shifts[t] = shift
        largest = _maximum(blanks, alphas[t % rows, 1, :width], values)
        shift += largest
        for k in range(size):
            emitted[k] = log_probs[t, n, labels[k]] - largest
        _add(blanks, alphas[t % rows, 1, :width], entered)
        _choose(skip, entered, blanks, chosen)
        _add(alphas[t % rows, 1, 1:width], chosen, values[:size])  # not in place: loops on one array stay scalar
        _shifted(entered, log_probs[t, n, blank] - largest, after[0, :width])
        after[1, 0] = impossible
        after_label = after[1, 1:width]
        for k in range(size):
            after_label[k] = values[k] + emitted[k]
    shifts[steps] = shift
    return shift + logaddexp(alphas[steps % rows, 0, size], alphas[steps % rows, 1, size])


@jit(inline=True, reassociate=True)
def _posterior(alpha, beta, norm, out):
    """out = exp(alpha + beta - norm); returns its sum."""
    for k in range(out.size):
        out[k] = exp(alpha[k] + beta[k] - norm)
    total = cast(0, norm)
    for k in range(out.size):
        total += out[k]
    return total


@jit(inline=True)
def _backward(log_probs, n, steps, labels, blank, skip, alphas, shifts, log_p, factor, grad, work):
    """Fill ``grad`` [:steps, n] with ``factor`` times the gradient."""
    size, width = labels.size, labels.size + 1
    entered, values, chosen, emitted = work[0, :width], work[1, :width], work[2, :size], work[3, :size]
    beta, beta_label = work[4, :width], work[5, :width]  # of the steps after t, from blank k and from label k
    with_step, with_step_label = work[6, :width], work[7, :width]  # of these and step t
    for k in range(width):
        beta[k] = beta_label[k] = with_step_label[k] = cast(-np.inf, factor)
    beta[size] = 0
    if size > 0:
        beta_label[size - 1] = 0
    shift = 0.0
    for t in range(steps - 1, -1, -1):
        row, slope = log_probs[t, n], grad[t, n]
        norm = cast(log_p - shifts[t + 1] - shift, factor)
        blank_sum = _posterior(alphas[t + 1, 0, :width], beta, norm, entered)
        label_sum = _posterior(alphas[t + 1, 1, 1:width], beta_label, norm, chosen)
        scale = factor / (blank_sum + label_sum)  # the sum is 1, but for rounding
        for c in range(row.size):
            slope[c] = exp(row[c]) * factor
        slope[blank] -= blank_sum * scale
        for k in range(size):
            slope[labels[k]] -= chosen[k] * scale
        largest = _maximum(beta, beta_label, values)
        shift += largest
        for k in range(size):
            emitted[k] = row[labels[k]] - largest
        _shifted(beta, row[blank] - largest, with_step)
        for k in range(size):
            with_step_label[k] = beta_label[k] + emitted[k]
        _add(with_step, with_step_label, beta)
        _choose(skip[1:], beta[1:], with_step[1:], chosen)
        _add(with_step_label, chosen, beta_label[:size])


@jit
def _ctc_loss(
    thread_id, num_threads, log_probs, targets, lengths, blank, scale, zero_infinity, losses, grad, history, scratch
):
    starts, target_lengths = lengths
    zero = cast(0, log_probs[0, 0, 0])
    alphas, work = history[thread_id], scratch[thread_id]
    shifts = np.empty(log_probs.shape[0] + 1, np.float64)  # what was subtracted from the alphas
    first, last = partition_sequences(starts, thread_id, num_threads)
    for n in range(first, last):
        steps, labels = starts[n + 1] - starts[n], targets[n, : target_lengths[n]]
        size = labels.size
        skip = work[8, : size + 1]
        for k in range(size + 1):  # whether label k may follow label k - 1 without a blank
            skip[k] = 1 if 0 < k < size and labels[k] != labels[k - 1] else 0
        log_p = _forward(log_probs, n, steps, labels, blank, skip, alphas, shifts, work)
        infinite = log_p == -np.inf
        losses[n] = zero if infinite and zero_infinity else cast((0.0 - log_p) * scale[n], zero)
        if grad.size == 0:
            continue
        grad[steps:, n] = zero
        if infinite:
            grad[:steps, n] = zero if zero_infinity else cast(np.nan, zero)
        else:
            factor = cast(scale[n], zero)
            _backward(log_probs, n, steps, labels, blank, skip, alphas, shifts, log_p, factor, grad, work)


def ctc_loss(
    log_probs: np.ndarray,
    targets: np.ndarray,
    input_lengths: np.ndarray,
    target_lengths: np.ndarray,
    blank: int,
    scale: np.ndarray,
    zero_infinity: bool,
    with_grad: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    (_, batch, classes), dtype = log_probs.shape, log_probs.dtype
    losses = np.empty(batch, dtype)
    grad = memory.empty(log_probs.shape, dtype) if with_grad else None
    count, width = min(threads.get_num_threads(), batch), targets.shape[1] + 1
    rows = int(input_lengths.max()) + 1 if with_grad else 2
    history, work = memory.empty((count, max(rows, 2), 2, width), dtype), np.empty((count, 9, width), dtype)
    steps = cumulative_steps(input_lengths)
    cost = float(steps[-1]) * (_STATE_COST * 2 * width + _CLASS_COST * classes)
    results = losses, np.empty((0, 0, 0), dtype) if grad is None else grad
    options = log_probs, targets, (steps, target_lengths), blank, scale, zero_infinity
    threads.run(_ctc_loss, cost, count, *options, *results, history, work)
    return losses, grad
