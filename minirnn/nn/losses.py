"""The losses as modules; each calls the function of its name in :mod:`minirnn.nn.functional`."""

from __future__ import annotations

from typing import Any

from minirnn.autograd.tensor import Tensor
from minirnn.nn import functional as F
from minirnn.nn.module import Module


class CrossEntropyLoss(Module):
    """See :func:`minirnn.nn.functional.cross_entropy`."""

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        self.options = {
            "weight": weight, "ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing,
        }  # fmt: skip

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.cross_entropy(input, target, **self.options)


class NLLLoss(Module):
    """See :func:`minirnn.nn.functional.nll_loss`."""

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        self.options = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.nll_loss(input, target, **self.options)


class BCEWithLogitsLoss(Module):
    """See :func:`minirnn.nn.functional.binary_cross_entropy_with_logits`."""

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        self.options = {"weight": weight, "reduction": reduction, "pos_weight": pos_weight}

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(input, target, **self.options)


class BCELoss(Module):
    """See :func:`minirnn.nn.functional.binary_cross_entropy`."""

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        self.options = {"weight": weight, "reduction": reduction}

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.binary_cross_entropy(input, target, **self.options)


class MSELoss(Module):
    """See :func:`minirnn.nn.functional.mse_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.mse_loss(input, target, self.reduction)


class L1Loss(Module):
    """See :func:`minirnn.nn.functional.l1_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.l1_loss(input, target, self.reduction)


class HuberLoss(Module):
    """See :func:`minirnn.nn.functional.huber_loss`."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        self.reduction, self.delta = reduction, delta

    def forward(self, input: Any, target: Any) -> Tensor:
        return F.huber_loss(input, target, self.reduction, self.delta)
