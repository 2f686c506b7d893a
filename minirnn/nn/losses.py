"""Losses as modules: ``loss(input, target)``, or what it takes, calls a function of :mod:`minirnn.nn.functional`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, dataclass_transform

from numpy.typing import ArrayLike

from minirnn.autograd.tensor import Tensor
from minirnn.nn import functional as F
from minirnn.nn.functional import Reduction
from minirnn.nn.module import Module


@dataclass_transform(eq_default=False)
class _Loss(Module):
    """A dataclass of the options of ``function``, with the function's documentation."""

    _function: ClassVar[Callable[..., Tensor]]
    _options: ClassVar[list[str]]

    def __init_subclass__(cls, function: Callable[..., Tensor]) -> None:
        cls._function = staticmethod(function)
        name = f"minirnn.nn.functional.{function.__name__}"
        cls._options = list(cls.__annotations__)
        inputs = ", ".join(one for one in inspect.signature(function).parameters if one not in cls._options)
        cls.__doc__ = f"``loss({inputs})`` by :func:`{name}`.\n\n{inspect.getdoc(function)}"
        dataclass(eq=False, repr=False)(cls)

    def forward(self, *inputs: ArrayLike, **named_inputs: ArrayLike) -> Tensor:
        return self._function(*inputs, **named_inputs, **{name: getattr(self, name) for name in self._options})


class CrossEntropyLoss(_Loss, function=F.cross_entropy):
    weight: ArrayLike | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0


class NLLLoss(_Loss, function=F.nll_loss):
    weight: ArrayLike | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"


class BCEWithLogitsLoss(_Loss, function=F.binary_cross_entropy_with_logits):
    weight: ArrayLike | None = None
    reduction: Reduction = "mean"
    pos_weight: ArrayLike | None = None


class BCELoss(_Loss, function=F.binary_cross_entropy):
    weight: ArrayLike | None = None
    reduction: Reduction = "mean"


class MSELoss(_Loss, function=F.mse_loss):
    reduction: Reduction = "mean"


class L1Loss(_Loss, function=F.l1_loss):
    reduction: Reduction = "mean"


class HuberLoss(_Loss, function=F.huber_loss):
    reduction: Reduction = "mean"
    delta: float = 1.0


class CTCLoss(_Loss, function=F.ctc_loss):
    blank: int = 0
    reduction: Reduction = "mean"
    zero_infinity: bool = False
