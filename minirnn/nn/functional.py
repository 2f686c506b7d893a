"""Functions of layers and losses, under PyTorch's names: ``import minirnn.nn.functional as F``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.ops import dropout, linear, log_softmax, relu, sigmoid, softmax, softplus, tanh
from minirnn.autograd.tape import record
from minirnn.autograd.tensor import Tensor
from minirnn.errors import DTypeError, IndexRangeError, OptionError, ShapeError
from minirnn.kernels import recording
from minirnn.kernels.contract import Array, Kernels
from minirnn.nn.state import check_lengths
from minirnn.validation import check_choice, check_float, check_int

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "ctc_loss", "dropout"]
__all__ += ["embedding", "huber_loss", "l1_loss", "layer_norm", "linear", "linear_cross_entropy", "log_softmax"]
__all__ += ["mse_loss", "nll_loss", "one_hot", "relu", "sigmoid", "smooth_l1_loss", "softmax", "softplus", "tanh"]

Reduction = Literal["mean", "sum", "none"]


def embedding(tokens: ArrayLike, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Return rows of a table: tokens [...] to [..., E].

    Args:
        tokens, weight: integers from 0 to V - 1, and the table [V, E].
        padding_idx: a row that gets no gradient.

    Raises:
        IndexRangeError, OptionError: a token, or padding_idx, is out of range.
        DTypeError: tokens are not integers.
    """
    if padding_idx is not None and not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise OptionError(f"embedding: padding_idx {padding_idx} is out of range for {weight.shape[0]} rows")
    return ops.embedding(weight, tokens, padding_idx)


def one_hot(tokens: ArrayLike, num_classes: int = -1) -> Tensor:
    """Return int64 vectors that are 1 at the token and 0 elsewhere: integers [...] to [..., num_classes].

    Tokens are from 0 to ``num_classes`` - 1; where that is -1, it is one more than the largest token.
    """
    index = ops.as_index("one_hot", tokens)
    count = (int(index.max()) + 1 if index.size else 0) if num_classes == -1 else num_classes
    ops.check_range("one_hot", index, count)
    out = np.zeros((*index.shape, count), np.int64)
    np.put_along_axis(out, index[..., None], 1, axis=-1)
    device = tokens.device if isinstance(tokens, Tensor) else "cpu"
    return Tensor(kernels.on(device).asarray(out), device=device)


def layer_norm(
    x: ArrayLike,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalization, (x - mean) / sqrt(var + eps) * weight + bias (Ba, Kiros & Hinton 2016).

    Args:
        x: [..., *normalized_shape]; mean and variance are those of the last ``len(normalized_shape)`` dimensions.
        weight, bias: of ``normalized_shape``, or None.

    Raises:
        ShapeError: x does not end in ``normalized_shape``.
    """
    x = ops.as_tensor(x, weight)
    count = len(normalized_shape)
    if x.shape[x.ndim - count :] != tuple(normalized_shape):
        raise ShapeError(f"layer_norm: expected [..., {list(normalized_shape)}], got {list(x.shape)}")
    dims = tuple(range(-count, 0))
    centred = x - x.mean(dims, keepdim=True)
    y = centred / ((centred * centred).mean(dims, keepdim=True) + eps).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _check_reduction(name: str, reduction: str) -> None:
    check_choice(f"{name}: reduction", reduction, ("mean", "sum", "none"))


def _reduce(name: str, losses: Tensor, reduction: str, weight: ArrayLike | None = None) -> Tensor:
    _check_reduction(name, reduction)
    losses = losses if weight is None else losses * ops.as_tensor(weight, losses)
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _class_inputs(
    name: str, input: Tensor, target: ArrayLike, weight: ArrayLike | None, ignore_index: int
) -> tuple[Tensor, np.ndarray, int, tuple[int, ...], np.ndarray | None]:
    """Scores as rows [S, C], targets [S] and how many count, the losses' shape, class weights on the host."""
    if input.dtype.kind != "f":
        raise DTypeError(f"{name}: expected floating-point input, got {input.dtype}")
    targets = ops.as_index(f"{name} target", target)
    shape = input.shape[:1] * (input.ndim > 1) + input.shape[2:]
    if input.ndim == 0 or targets.shape != shape:
        raise ShapeError(
            f"{name}: for input {list(input.shape)}, expected targets {list(shape)} "
            f"([N, C] takes [N], and [N, C, d...] takes [N, d...]), got {list(targets.shape)}"
        )
    classes = input.shape[min(1, input.ndim - 1)]
    if input.ndim > 2:
        input = input.permute(0, *range(2, input.ndim), 1)
    rows = input if input.ndim == 2 else input.reshape(-1, classes)
    targets, counted = _class_targets(name, targets, classes, ignore_index)
    return rows, targets, counted, shape, _class_weight(name, weight, classes, rows.dtype)


def _class_targets(name: str, targets: np.ndarray, classes: int, ignore_index: int) -> tuple[np.ndarray, int]:
    """Flat targets, ignored ones at -1, and how many count."""
    targets = targets.reshape(-1)
    counted = targets.size
    if not recording.holds(ops.all_below, targets, classes) or 0 <= ignore_index < classes:
        ignored = targets == ignore_index
        bad = targets[((targets < 0) | (targets >= classes)) & ~ignored]
        if bad.size:
            raise IndexRangeError(f"{name}: target {bad[0]} is out of range for {classes} classes")
        targets, counted = np.where(ignored, -1, targets), counted - int(np.count_nonzero(ignored))
    return targets, counted


def _class_weight(name: str, weight: ArrayLike | None, classes: int, dtype: np.dtype) -> np.ndarray | None:
    """The weights of the classes on the host."""
    if weight is None:
        return None
    class_weight = np.ascontiguousarray(ops.as_tensor(weight).numpy(), dtype=dtype)
    if class_weight.shape != (classes,):
        raise ShapeError(f"{name}: expected a weight for each of {classes} classes, got {list(class_weight.shape)}")
    return class_weight


def _total_weight(targets: np.ndarray, counted: int, weight: np.ndarray | None) -> float:
    """What the mean divides by: the number, or the weight, of the targets that count."""
    return float(counted if weight is None else weight[targets[targets >= 0]].sum(dtype=np.float64))


def _loss_scale(reduction: str, targets: np.ndarray, counted: int, weight: np.ndarray | None) -> float:
    """The factor of every loss: 1, or for the mean 1 / total weight, NaN where there is nothing to average."""
    total_weight = _total_weight(targets, counted, weight) if reduction == "mean" else 1.0
    return 1 / total_weight if total_weight else math.nan


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits, -log softmax(input)[target], in nats; loss and gradient in one pass over the logits.

    Args:
        input: logits [N, C], [C] or [N, C, d...].
        target: integer classes [N], [] or [N, d...].
        weight: [C], the weight of each class; the mean divides by the sum of the targets' weights.
        ignore_index: targets of this value do not contribute to the loss.
        reduction: "mean" or "sum" of the losses, or "none", the loss of each target.
        label_smoothing: from 0 to 1, how much of each target is spread evenly over all classes (Szegedy et al. 2016).

    Raises:
        ShapeError, IndexRangeError, DTypeError, OptionError: an input does not fit.
    """
    _check_reduction("cross_entropy", reduction)
    check_float("cross_entropy: label_smoothing", label_smoothing, 0, 1)
    scores = ops.as_tensor(input)
    rows, targets, counted, shape, class_weight = _class_inputs("cross_entropy", scores, target, weight, ignore_index)
    scale = _loss_scale(reduction, targets, counted, class_weight)
    K = kernels.on(rows.device)
    weights = None if class_weight is None else K.asarray(class_weight)
    logits = K.contiguous(rows.data)
    losses, slope = K.cross_entropy(logits, targets, weights, label_smoothing, scale, rows.requires_grad)

    def gradients(g: Array) -> tuple[Array]:
        assert slope is not None  # the logits require a gradient
        return (slope * g.reshape(-1, 1) if reduction == "none" else K.scaled(slope, g),)

    if reduction == "none":
        return record("cross_entropy", (rows,), losses.reshape(shape), gradients)
    return record("cross_entropy", (rows,), _total_loss(K, losses, scale), gradients)


def _total_loss(K: Kernels, losses: Array, scale: float) -> Array:
    return K.asarray(scale if math.isnan(scale) else losses.sum(dtype=np.float64), losses.dtype)


_MAX_LOGITS = 1 << 23
"""Logits that :func:`linear_cross_entropy` holds at once, unless they belong to one row."""


def linear_cross_entropy(
    input: ArrayLike,
    linear_weight: ArrayLike,
    target: ArrayLike,
    *,
    linear_bias: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of the logits of a linear layer: cross_entropy(input linear_weight^T + linear_bias, target).

    The gradient of the logits takes their place in memory. Where they are more than some millions they are never there
    all at once: logits, losses and gradients are computed a block of rows at a time, and the backward pass only scales
    the gradients (Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989). With ``reduction="none"`` there is one block.

    Args:
        input: [..., H].
        linear_weight, linear_bias: of the layer, [C, H], and [C] or None.
        target: integer classes [...].
        weight, reduction, ignore_index, label_smoothing: as for :func:`cross_entropy`.

    Raises:
        ShapeError, IndexRangeError, DTypeError, OptionError: an input does not fit.

    >>> import minirnn as mr
    >>> h, head = mr.tensor([[1.0, 0.0], [0.0, 1.0]]), mr.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> linear_cross_entropy(h, head, [2, 0])
    tensor(2.1429195)
    """
    name = "linear_cross_entropy"
    _check_reduction(name, reduction)
    check_float(f"{name}: label_smoothing", label_smoothing, 0, 1)
    x, head, bias = ops.linear_operands(name, input, linear_weight, linear_bias)
    shape, classes, target = x.shape[:-1], head.shape[0], ops.as_index(f"{name} target", target)
    if target.shape != shape:
        raise ShapeError(f"{name}: for input {list(x.shape)}, expected targets {list(shape)}, got {list(target.shape)}")
    targets, counted = _class_targets(name, target, classes, ignore_index)
    class_weight = _class_weight(name, weight, classes, x.dtype)
    scale = _loss_scale(reduction, targets, counted, class_weight)
    K = kernels.on(x.device)
    weights = None if class_weight is None else K.asarray(class_weight)
    rows, w, b = ops.as_rows(K, x.data), K.contiguous(head.data), None if bias is None else K.contiguous(bias.data)

    needed = [t is not None and t.requires_grad for t in (x, head, bias)]
    with_grad, count = ops.needs_gradient(x, head, bias), len(rows)
    blocks = max(1, -(-count * classes // _MAX_LOGITS))
    keep = with_grad and (blocks == 1 or reduction == "none")
    size = max(1, count if keep else -(-count // blocks))

    def products(slope: Array, rows: Array, out: Array | None, accumulate: bool) -> list[Array | None]:
        """The gradients of the input's rows, of the weight and of the bias, from that of the logits."""
        return [
            K.gemm(slope, w) if needed[0] else None,
            K.gemm(slope, rows, out=out, transpose_a=True, accumulate=accumulate) if needed[1] else None,
            K.column_sums(slope) if needed[2] else None,
        ]

    losses, parts, slope, d_head = [], [], None, None
    for start in range(0, max(1, count), size):
        part = rows[start : start + size]
        logits = K.gemm(part, w, b, transpose_b=True)
        options = weights, label_smoothing, scale, with_grad, with_grad
        loss, slope = K.cross_entropy(logits, targets[start : start + size], *options)
        losses.append(loss)
        if slope is not None and not keep:
            parts.append(products(slope, part, d_head, d_head is not None))
            d_head = parts[-1][1]

    def gradients(g: Array) -> list[Array | None]:
        if keep:
            assert slope is not None
            scaled = slope * g.reshape(-1, 1) if reduction == "none" else K.scaled(slope, g)
            found = products(scaled, rows, None if x is head else head.grad_out(), False)
        else:
            d_rows, _, d_bias = zip(*parts, strict=True)
            found = [
                K.scaled(K.concatenate(d_rows, 0), g) if needed[0] else None,
                None if d_head is None else K.scaled(d_head, g),
                K.scaled(K.stack(d_bias, 0).sum(0), g) if needed[2] else None,
            ]
        return [None if found[0] is None else found[0].reshape(x.shape), *found[1:]]

    each = losses[0] if len(losses) == 1 else K.concatenate(losses, 0)
    value = each.reshape(shape) if reduction == "none" else _total_loss(K, each, scale)
    return record(name, (x, head, bias), value, gradients)


def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative log-likelihood, -input[target], in nats.

    Args:
        input: log-probabilities [N, C], [C] or [N, C, d...].
        target, weight, ignore_index, reduction: as for :func:`cross_entropy`.
    """
    _check_reduction("nll_loss", reduction)
    scores = ops.as_tensor(input)
    rows, targets, counted, shape, class_weight = _class_inputs("nll_loss", scores, target, weight, ignore_index)
    valid = targets >= 0
    index = np.where(valid, targets, 0)
    factor = valid.astype(rows.dtype)
    if class_weight is not None:
        factor *= class_weight[index]
    picked = rows.gather(1, index[:, None]).squeeze(1)
    losses = ops.where(valid, picked, rows.dtype.type(0)) * -factor  # an ignored row may hold infinities
    if reduction == "none":
        return losses.reshape(shape)
    total = losses.sum()
    return total if reduction == "sum" else total / _total_weight(targets, counted, class_weight)


def ctc_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = 0,
    reduction: Reduction = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Connectionist temporal classification: -log p(target | input), summed over all alignments, in nats.

    An alignment gives each of the T steps a label or the blank; the target is what remains when repeated labels are
    merged and blanks removed, so between two equal labels there is a blank. Loss and gradient are computed together, by
    forward-backward on logarithms (Graves, Fernández, Gomez & Schmidhuber 2006). As in PyTorch the gradient is
    exp(log_probs) - posterior, which is that of the logits where ``log_probs`` are their log-softmax; NaN where the
    loss is infinite. Unlike PyTorch's it is 0, not NaN, for a class whose probability is 0.

    Args:
        log_probs: [T, N, C] log-probabilities of the classes, or [T, C] of one sequence.
        targets: labels [N, S], those past a target's length not read; or all targets one after the other, [sum of
            target_lengths].
        input_lengths, target_lengths: [N] integers from 0 to T and from 0 to S; for [T, C] one integer each.
        blank: the class that stands for no label.
        reduction: "mean" divides each loss by the target's length (at least 1), and takes the mean; "sum"; or "none",
            the loss of each sequence.
        zero_infinity: whether the infinite loss of a target that is too long for its input, and its gradient, are zero.

    Raises:
        ShapeError, IndexRangeError, DTypeError, OptionError: an input does not fit.

    >>> import minirnn as mr
    >>> log_probs = mr.tensor([[0.4, 0.6], [0.3, 0.7]]).log()  # of the blank and one label
    >>> ctc_loss(log_probs, [1], 2, 1).exp()  # 1 / (0.6 * 0.7 + 0.6 * 0.3 + 0.4 * 0.7)
    tensor(1.1363636)
    """
    _check_reduction("ctc_loss", reduction)
    scores = ops.as_tensor(log_probs)
    ops.check_floating("ctc_loss", scores)
    if scores.ndim not in (2, 3) or not scores.numel():
        raise ShapeError(f"ctc_loss: expected log_probs [T, N, C] or [T, C], not empty, got {list(scores.shape)}")
    x = scores if scores.ndim == 3 else scores.unsqueeze(1)
    steps, batch, classes = x.shape
    check_int("ctc_loss: blank", blank, 0, classes - 1)
    labels = ops.as_index("ctc_loss targets", targets)
    inputs, sizes = (
        check_lengths(f"ctc_loss {name}", ops.as_index(f"ctc_loss {name}_lengths", lengths).reshape(-1), limit, batch)
        for name, lengths, limit in (
            ("input", input_lengths, steps),
            ("target", target_lengths, labels.shape[-1] if labels.ndim else 0),
        )
    )
    used = np.arange(sizes.max()) < sizes[:, None]
    if labels.ndim == 1 and labels.size == sizes.sum():
        padded = np.zeros(used.shape, np.int64)
        padded[used] = labels
    elif labels.ndim == 2 and len(labels) == batch:
        padded = np.ascontiguousarray(labels[:, : sizes.max()])
    else:
        raise ShapeError(
            f"ctc_loss: expected targets [{batch}, S], or [{sizes.sum()}], the sum of their lengths, "
            f"got {list(labels.shape)}"
        )
    bad = padded[used & ((padded < 0) | (padded >= classes) | (padded == blank))]
    if bad.size:
        raise IndexRangeError(f"ctc_loss: expected targets from 0 to {classes - 1} but the blank {blank}, got {bad[0]}")
    scale = 1 / (np.maximum(sizes, 1.0) * batch) if reduction == "mean" else np.ones(batch)
    K = kernels.on(x.device)
    options = padded, inputs, sizes, blank, scale, bool(zero_infinity)
    losses, slope = K.ctc_loss(K.contiguous(x.data), *options, x.requires_grad)

    def gradients(g: Array) -> tuple[Array]:
        assert slope is not None  # the input requires a gradient
        return (slope * g.reshape(1, batch, 1) if reduction == "none" else K.scaled(slope, g),)

    if reduction == "none":
        return record("ctc_loss", (x,), losses.reshape(scores.shape[1:-1]), gradients)
    return record("ctc_loss", (x,), K.asarray(losses.sum(dtype=np.float64), losses.dtype), gradients)


def _same_shape(name: str, input: ArrayLike, target: ArrayLike) -> tuple[Tensor, Tensor]:
    """``input`` and ``target`` as tensors of one shape and of floating-point types; an array takes the other's."""
    x = ops.as_tensor(input, target if isinstance(target, Tensor) else None)
    y = ops.as_tensor(target, x)
    if x.shape != y.shape:
        raise ShapeError(f"{name}: expected input and target of one shape, got {list(x.shape)} and {list(y.shape)}")
    return x, y if y.dtype.kind == "f" else ops.cast(y, x.dtype)


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    pos_weight: ArrayLike | None = None,
) -> Tensor:
    """Binary cross-entropy of logits x with targets y: -(p y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))).

    Computed as (1 - y) x + (1 + (p - 1) y) softplus(-x), which does not overflow.

    Args:
        input, target: x and y of one shape; y from 0 to 1.
        weight, pos_weight: factor of each element's loss; p, of positive targets, 1 where None; both broadcast.
        reduction: "mean" or "sum" of the losses, or "none", the loss of each element.
    """
    name = "binary_cross_entropy_with_logits"
    x, y = _same_shape(name, input, target)
    spread = softplus(-x)
    losses = (1 - y) * x + (spread if pos_weight is None else (1 + (ops.as_tensor(pos_weight, x) - 1) * y) * spread)
    return _reduce(name, losses, reduction, weight)


def binary_cross_entropy(
    input: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross-entropy of probabilities p with targets y: -(y log p + (1 - y) log(1 - p)).

    Each logarithm is at least -100, as in PyTorch.

    Args:
        input, target: p and y of one shape, from 0 to 1.
        weight, reduction: as for :func:`binary_cross_entropy_with_logits`.

    Raises:
        OptionError: a probability is not from 0 to 1.
    """
    name = "binary_cross_entropy"
    p, y = _same_shape(name, input, target)
    if p.numel() and not (float(p.data.min()) >= 0 and float(p.data.max()) <= 1):
        raise OptionError(f"{name}: expected probabilities from 0 to 1; for logits use {name}_with_logits")
    ops.same_device(name, p, y)
    K = kernels.on(p.device)
    with np.errstate(divide="ignore"):
        log_p, log_q = K.maximum(K.log(p.data), -100), K.maximum(K.log1p(-p.data), -100)
    values = -(y.data * log_p + (1 - y.data) * log_q)
    slope = (p.data - y.data) / K.maximum(p.data * (1 - p.data), 1e-12)

    def gradients(g: Array) -> tuple[Array, Array | None]:
        return (g * slope).astype(p.dtype), (g * (log_q - log_p)).astype(y.dtype) if y.requires_grad else None

    losses = record(name, (p, y), values.astype(p.dtype), gradients)
    return _reduce(name, losses, reduction, weight)


def mse_loss(input: ArrayLike, target: ArrayLike, reduction: Reduction = "mean") -> Tensor:
    """Squared error (x - y)^2 of input x and target y, of one shape; reduction: "mean", "sum" or "none"."""
    x, y = _same_shape("mse_loss", input, target)
    difference = x - y
    return _reduce("mse_loss", difference * difference, reduction)


def l1_loss(input: ArrayLike, target: ArrayLike, reduction: Reduction = "mean") -> Tensor:
    """Absolute error abs(x - y) of input x and target y, of one shape; reduction: "mean", "sum" or "none"."""
    x, y = _same_shape("l1_loss", input, target)
    return _reduce("l1_loss", (x - y).abs(), reduction)


def huber_loss(input: ArrayLike, target: ArrayLike, reduction: Reduction = "mean", delta: float = 1.0) -> Tensor:
    """(x - y)^2 / 2 where abs(x - y) < delta, else delta * (abs(x - y) - delta / 2) (Huber 1964).

    ``reduction``: "mean", "sum" or "none"; ``delta``: above 0, the error from which the loss grows linearly.
    """
    check_float("huber_loss: delta", delta, exclude_minimum=True)
    x, y = _same_shape("huber_loss", input, target)
    distance = (x - y).abs()
    near = distance.clip(max=delta)  # distance = near + far; the loss is near^2 / 2 + delta far
    return _reduce("huber_loss", near * near * 0.5 + (distance - near) * delta, reduction)


def smooth_l1_loss(input: ArrayLike, target: ArrayLike, reduction: Reduction = "mean", beta: float = 1.0) -> Tensor:
    """(x - y)^2 / (2 beta) where abs(x - y) < beta, else abs(x - y) - beta / 2: the Huber loss divided by beta.

    ``reduction``: "mean", "sum" or "none"; ``beta``: where the loss becomes linear; 0 is :func:`l1_loss`.
    """
    return l1_loss(input, target, reduction) if beta == 0 else huber_loss(input, target, reduction, beta) / beta
