"""Connectionist temporal classification: loss and gradient by forward-backward in one kernel, for whole sequences.

A target of S labels has S + 1 blanks around them. With W = S + 1, row 0 of a [2, W] array is about blank k, row 1 about
a label. Both ways use that label k is entered from whatever enters blank k, unless the label before it is the same, so
every state takes one addition of logarithms. Rows are kept near zero by subtracting their maximum at each step; what
was subtracted is added up in float64, so a long sequence costs no precision.
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
def _maximum(pair, values):
    """The largest element of ``pair`` [2, W], 0 where that is -inf. By halves, which vectorises; in ``values`` [W]."""
    for k in range(values.size):
        values[k] = pair[0, k] if pair[0, k] > pair[1, k] else pair[1, k]
    count = values.size
    while count > 1:
        rest = count - count // 2
        upper = values[rest:count]
        for k in range(upper.size):
            values[k] = values[k] if values[k] > upper[k] else upper[k]
        count = rest
    return values[0] if values[0] > cast(-np.inf, values[0]) else cast(0, values[0])


@jit(inline=True)
def _forward(log_probs, n, steps, labels, blank, skip, alphas, shifts, work):
    """Fill ``alphas`` [R, 2, W], row t (modulo R) about the first t steps; the log-probability of the labels."""
    size, impossible = labels.size, cast(-np.inf, log_probs[0, n, 0])
    entered, values, chosen, emitted = work[0], work[1], work[2, :size], work[3, :size]
    alphas[0] = impossible
    alphas[0, 0, 0] = 0
    shift = 0.0
    for t in range(steps):
        before, alpha = alphas[t % len(alphas)], alphas[(t + 1) % len(alphas)]
        shifts[t] = shift
        largest = _maximum(before, values)
        shift += largest
        nothing = log_probs[t, n, blank] - largest
        for k in range(size):
            emitted[k] = log_probs[t, n, labels[k]] - largest
        _add(before[0], before[1], entered)
        _choose(skip, entered, before[0], chosen)
        labelled = alpha[1, 1:]
        _add(before[1, 1:], chosen, labelled)
        for k in range(size):
            labelled[k] += emitted[k]
        for k in range(size + 1):
            alpha[0, k] = entered[k] + nothing
        alpha[1, 0] = impossible
    shifts[steps] = shift
    final = alphas[steps % len(alphas)]
    return shift + logaddexp(final[0, size], final[1, size])


@jit(inline=True, reassociate=True)
def _posterior(alpha, beta, norm, blanks, labelled):
    """The probabilities of being in each blank and each label, up to a factor, and the sums of both."""
    for k in range(blanks.size):
        blanks[k] = exp(alpha[0, k] + beta[0, k] - norm)
    after = alpha[1, 1:]
    for k in range(labelled.size):
        labelled[k] = exp(after[k] + beta[1, k] - norm)
    blank_sum, label_sum = cast(0, norm), cast(0, norm)
    for k in range(blanks.size):
        blank_sum += blanks[k]
    for k in range(labelled.size):
        label_sum += labelled[k]
    return blank_sum, label_sum


@jit(inline=True)
def _backward(log_probs, n, steps, labels, blank, skip, alphas, shifts, log_p, factor, grad, work):
    """Fill ``grad`` [:steps, n] with ``factor`` times the gradient."""
    size, impossible = labels.size, cast(-np.inf, factor)
    entered, values, chosen, emitted = work[0], work[1], work[2, :size], work[3, :size]
    beta, emitting = work[4:6], work[6:8]  # of blank k and of label k: the steps after t, and with step t
    beta[:] = impossible
    beta[0, size] = 0
    if size > 0:
        beta[1, size - 1] = 0
    shift = 0.0
    for t in range(steps - 1, -1, -1):
        row, slope = log_probs[t, n], grad[t, n]
        norm = cast(log_p - shifts[t + 1] - shift, factor)
        blank_sum, label_sum = _posterior(alphas[t + 1], beta, norm, entered, chosen)
        scale = factor / (blank_sum + label_sum)  # exactly 1, but for rounding
        for c in range(row.size):
            slope[c] = exp(row[c]) * factor
        slope[blank] -= blank_sum * scale
        for k in range(size):
            slope[labels[k]] -= chosen[k] * scale
        largest = _maximum(beta, values)
        shift += largest
        nothing = row[blank] - largest
        for k in range(size):
            emitted[k] = row[labels[k]] - largest
        for k in range(size + 1):
            emitting[0, k] = beta[0, k] + nothing
        for k in range(size):
            emitting[1, k] = beta[1, k] + emitted[k]
        emitting[1, size] = impossible
        _add(emitting[0], emitting[1], beta[0])
        _choose(skip[1:], beta[0, 1:], emitting[0, 1:], chosen)
        _add(emitting[1], chosen, beta[1, :size])


@jit
def _ctc_loss(
    thread_id, num_threads, log_probs, targets, lengths, blank, scale, zero_infinity, losses, grad, history, scratch
):
    starts, target_lengths = lengths
    zero = cast(0, log_probs[0, 0, 0])
    shifts = np.empty(log_probs.shape[0] + 1, np.float64)  # what was subtracted from the alphas
    first, last = partition_sequences(starts, thread_id, num_threads)
    for n in range(first, last):
        steps, labels = starts[n + 1] - starts[n], targets[n, : target_lengths[n]]
        width = labels.size + 1
        alphas, work = history[thread_id, :, :, :width], scratch[thread_id, :, :width]
        skip = work[8]
        for k in range(width):  # whether label k may follow label k - 1 without a blank
            skip[k] = 1 if 0 < k < labels.size and labels[k] != labels[k - 1] else 0
        log_p = _forward(log_probs, n, steps, labels, blank, skip[: labels.size], alphas, shifts, work)
        infinite = log_p == -np.inf
        losses[n] = zero if infinite and zero_infinity else cast((0.0 - log_p) * scale[n], zero)
        if grad.size > 0:
            grad[:, n] = zero
            if not infinite:
                factor = cast(scale[n], zero)
                _backward(log_probs, n, steps, labels, blank, skip, alphas, shifts, log_p, factor, grad, work)
            elif not zero_infinity:
                grad[:steps, n] = cast(np.nan, zero)


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
