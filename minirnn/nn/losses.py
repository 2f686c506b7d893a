"""Losses as modules: ``loss(input, target)`` calls a function of :mod:`minirnn.nn.functional`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from minirnn.autograd.tensor import Tensor
from minirnn.nn import functional as F
from minirnn.nn.functional import Reduction
from minirnn.nn.module import Module


@dataclass(eq=False, repr=False)
class _Loss(Module):
    """A loss whose fields are the options of ``function``, and whose documentation goes on with the function's."""

    _function: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, function: Callable[..., Tensor], **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._function = staticmethod(function)
        cls.__doc__ = f"{cls.__doc__}\n\n{inspect.getdoc(function)}"

    def forward(self, input: ArrayLike, target: ArrayLike) -> Tensor:
        return self._function(input, target, **{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(eq=False, repr=False)
class CrossEntropyLoss(_Loss, function=F.cross_entropy):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.cross_entropy`."""

    weight: ArrayLike | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0


@dataclass(eq=False, repr=False)
class NLLLoss(_Loss, function=F.nll_loss):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.nll_loss`."""

    weight: ArrayLike | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"


@dataclass(eq=False, repr=False)
class BCEWithLogitsLoss(_Loss, function=F.binary_cross_entropy_with_logits):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.binary_cross_entropy_with_logits`."""

    weight: ArrayLike | None = None
    reduction: Reduction = "mean"
    pos_weight: ArrayLike | None = None


@dataclass(eq=False, repr=False)
class BCELoss(_Loss, function=F.binary_cross_entropy):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.binary_cross_entropy`."""

    weight: ArrayLike | None = None
    reduction: Reduction = "mean"


@dataclass(eq=False, repr=False)
class MSELoss(_Loss, function=F.mse_loss):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.mse_loss`."""

    reduction: Reduction = "mean"


@dataclass(eq=False, repr=False)
class L1Loss(_Loss, function=F.l1_loss):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.l1_loss`."""

    reduction: Reduction = "mean"


@dataclass(eq=False, repr=False)
class HuberLoss(_Loss, function=F.huber_loss):
    """``loss(input, target)`` by :func:`minirnn.nn.functional.huber_loss`."""

    reduction: Reduction = "mean"
    delta: float = 1.0
