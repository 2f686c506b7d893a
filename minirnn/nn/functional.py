"""Functions of layers and losses, under PyTorch's names: ``import minirnn.nn.functional as F``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.ops import dropout, linear, log_softmax, relu, sigmoid, softmax, softplus, tanh
from minirnn.autograd.tape import record
from minirnn.autograd.tensor import Tensor
from minirnn.errors import DTypeError, IndexRangeError, OptionError, ShapeError

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dropout", "embedding",
    "huber_loss", "l1_loss", "layer_norm", "linear", "log_softmax", "mse_loss", "nll_loss", "one_hot", "relu",
    "sigmoid", "smooth_l1_loss", "softmax", "softplus", "tanh",
]  # fmt: skip


def embedding(tokens: Any, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of ``weight`` [V, E] for tokens of any shape; row ``padding_idx`` gets no gradient."""
    if padding_idx is not None and not -weight.shape[0] <= padding_idx < weight.shape[0]:
        raise OptionError(f"embedding: padding_idx {padding_idx} is out of range for {weight.shape[0]} rows")
    return ops.embedding(weight, tokens, padding_idx)


def one_hot(tokens: Any, num_classes: int = -1) -> Tensor:
    """Integers [...] to 0/1 integers [..., num_classes]; by default one class more than the largest token."""
    index = ops.as_index("one_hot", tokens)
    count = (int(index.max()) + 1 if index.size else 0) if num_classes == -1 else num_classes
    ops.check_range("one_hot", index, count)
    out = np.zeros((*index.shape, count), np.int64)
    np.put_along_axis(out, index[..., None], 1, axis=-1)
    device = tokens.device if isinstance(tokens, Tensor) else "cpu"
    return Tensor(kernels.on(device).asarray(out), device=device)


def layer_norm(
    x: Any, normalized_shape: tuple[int, ...], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias over the last ``len(normalized_shape)`` dimensions."""
    x = ops.as_tensor(x, weight)
    count = len(normalized_shape)
    if x.shape[x.ndim - count :] != tuple(normalized_shape):
        raise ShapeError(f"layer_norm: expected [..., {list(normalized_shape)}], got {list(x.shape)}")
    dims = tuple(range(-count, 0))
    centred = x - x.mean(dims, keepdim=True)
    y = centred / ((centred * centred).mean(dims, keepdim=True) + eps).sqrt()
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


# -------------------------------------------------------------------------------------------------- losses


def _reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.mean()
    return losses.sum() if _check_reduction(name, reduction) == "sum" else losses


def _check_reduction(name: str, reduction: str) -> str:
    if reduction not in ("none", "mean", "sum"):
        raise OptionError(f"{name}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    return reduction


def _class_rows(name: str, input: Tensor, target: Any, ignore_index: int) -> tuple[Tensor, np.ndarray, tuple[int, ...]]:
    """Scores as rows [S, C], targets [S] with ignored ones at -1, and the shape of the losses."""
    if input.dtype.kind != "f":
        raise DTypeError(f"{name}: scores must be floating-point, got {input.dtype}")
    expected = ops.as_index(f"{name} target", target)
    fitting = input.shape[:1] * (input.ndim > 1) + input.shape[2:]
    if input.ndim == 0 or expected.shape != fitting:
        raise ShapeError(
            f"{name}: scores {list(input.shape)} want targets {list(fitting)} "
            f"([N, C] and [N], or [N, C, d...] and [N, d...]), got {list(expected.shape)}"
        )
    classes = input.shape[min(1, input.ndim - 1)]
    if input.ndim > 2:
        input = input.permute(0, *range(2, input.ndim), 1)
    rows, flat = input.reshape(-1, classes), expected.reshape(-1)
    outside = bool(flat.size) and (flat.min() < 0 or flat.max() >= classes)
    if not outside and not 0 <= ignore_index < classes:
        return rows, flat, expected.shape
    ignored = flat == ignore_index
    bad = flat[((flat < 0) | (flat >= classes)) & ~ignored]
    if bad.size:
        raise IndexRangeError(f"{name}: target {bad[0]} is out of range for {classes} classes")
    return rows, np.where(ignored, -1, flat), expected.shape


def _class_weight(name: str, weight: Any, like: Tensor) -> np.ndarray | None:
    """The weights on the host, where they are added up."""
    if weight is None:
        return None
    array = np.ascontiguousarray(ops.as_tensor(weight).numpy(), dtype=like.dtype)
    if array.shape != like.shape[1:]:
        raise ShapeError(f"{name}: expected a weight for each of {like.shape[1]} classes, got {list(array.shape)}")
    return array


def _target_mass(targets: np.ndarray, weight: np.ndarray | None) -> float:
    """What the mean divides by: the number, or the weight, of the targets that count."""
    counted = targets >= 0
    return float(np.count_nonzero(counted) if weight is None else weight[targets[counted]].sum(dtype=np.float64))


def cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """-log softmax(input)[target], in nats; loss and gradient in one pass over the logits.

    Args:
        input: logits [N, C], [C] or [N, C, d...].
        target: integer classes [N], [] or [N, d...].
        weight: [C] weight of each class; the mean divides by the weights' sum.
        ignore_index: targets with this value count for nothing.
        label_smoothing: this share of each target is spread over all classes (Szegedy et al. 2016).

    Raises:
        ShapeError, IndexRangeError, DTypeError, OptionError: what does not fit.
    """
    _check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise OptionError(f"cross_entropy: label_smoothing must be from 0 to 1, got {label_smoothing}")
    rows, targets, shape = _class_rows("cross_entropy", ops.as_tensor(input), target, ignore_index)
    class_weight = _class_weight("cross_entropy", weight, rows)
    scale = 1.0
    if reduction == "mean":
        mass = _target_mass(targets, class_weight)
        scale = 1 / mass if mass else math.nan
    K = kernels.on(rows.device)
    losses, slope = K.cross_entropy(
        K.contiguous(rows.data), targets, None if class_weight is None else K.asarray(class_weight), label_smoothing,
        scale, rows.requires_grad,
    )  # fmt: skip
    if reduction == "none":
        return record("cross_entropy", (rows,), losses.reshape(shape), lambda g: (slope * g.reshape(-1, 1),))
    total = K.asarray(scale if math.isnan(scale) else losses.sum(dtype=np.float64), losses.dtype)

    def gradients(g: Any) -> tuple[Any]:
        return (K.scaled(slope, g),)

    return record("cross_entropy", (rows,), total, gradients)


def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-input[target] for log-probabilities [N, C] or [N, C, d...]; see :func:`cross_entropy` for the rest."""
    _check_reduction("nll_loss", reduction)
    rows, targets, shape = _class_rows("nll_loss", ops.as_tensor(input), target, ignore_index)
    class_weight = _class_weight("nll_loss", weight, rows)
    counted = targets >= 0
    factor = counted.astype(rows.dtype)
    if class_weight is not None:
        factor *= class_weight[np.where(counted, targets, 0)]
    picked = rows.gather(1, np.where(counted, targets, 0)[:, None]).squeeze(1)
    losses = where_counted(picked, counted) * -factor
    if reduction == "none":
        return losses.reshape(shape)
    total = losses.sum()
    return total if reduction == "sum" else total / _target_mass(targets, class_weight)


def where_counted(x: Tensor, counted: np.ndarray) -> Tensor:
    """x, but 0 at rows that do not count, whatever they hold (even infinities)."""
    return ops.where(counted, x, x.dtype.type(0))


def _same_shape(name: str, input: Any, target: Any) -> tuple[Tensor, Tensor]:
    x = ops.as_tensor(input)
    y = ops.as_tensor(target, x)
    if x.shape != y.shape:
        raise ShapeError(f"{name}: input {list(x.shape)} and target {list(y.shape)} must have one shape")
    if y.dtype.kind != "f":
        y = ops.cast(y, x.dtype)
    return x, y


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """-(w_p y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))) = (1 - y) x + (1 + (w_p - 1) y) softplus(-x)."""
    name = "binary_cross_entropy_with_logits"
    x, y = _same_shape(name, input, target)
    spread = softplus(-x)
    losses = (1 - y) * x + (spread if pos_weight is None else (1 + (ops.as_tensor(pos_weight, x) - 1) * y) * spread)
    return _reduced(name, losses if weight is None else losses * weight, reduction)


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
    """-(y log p + (1 - y) log(1 - p)) for probabilities; each logarithm at least -100, as in PyTorch."""
    name = "binary_cross_entropy"
    p, y = _same_shape(name, input, target)
    if p.numel() and not (float(p.data.min()) >= 0 and float(p.data.max()) <= 1):
        raise OptionError(f"{name}: probabilities must be from 0 to 1; for logits use ..._with_logits")
    ops.same_device(name, p, y)
    K = kernels.on(p.device)
    with np.errstate(divide="ignore"):
        log_p, log_q = K.maximum(K.log(p.data), -100), K.maximum(K.log1p(-p.data), -100)
    values = -(y.data * log_p + (1 - y.data) * log_q)
    slope = (p.data - y.data) / K.maximum(p.data * (1 - p.data), 1e-12)

    def gradients(g: Any) -> tuple[Any, Any]:
        return (g * slope).astype(p.dtype), (g * (log_q - log_p)).astype(y.dtype) if y.requires_grad else None

    losses = record(name, (p, y), values.astype(p.dtype), gradients)
    return _reduced(name, losses if weight is None else losses * weight, reduction)


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(x - y)^2."""
    x, y = _same_shape("mse_loss", input, target)
    difference = x - y
    return _reduced("mse_loss", difference * difference, reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """|x - y|."""
    x, y = _same_shape("l1_loss", input, target)
    return _reduced("l1_loss", (x - y).abs(), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """(x - y)^2 / 2 where |x - y| < delta, else delta (|x - y| - delta / 2) (Huber 1964)."""
    if not delta > 0:
        raise OptionError(f"huber_loss: delta must be above 0, got {delta}")
    x, y = _same_shape("huber_loss", input, target)
    distance = (x - y).abs()
    near = distance.clip(max=delta)  # d = near + far; the loss is near^2 / 2 + delta far
    return _reduced("huber_loss", near * near * 0.5 + (distance - near) * delta, reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """The Huber loss over beta: (x - y)^2 / (2 beta) where |x - y| < beta, else |x - y| - beta / 2."""
    return l1_loss(input, target, reduction) if beta == 0 else huber_loss(input, target, reduction, beta) / beta
