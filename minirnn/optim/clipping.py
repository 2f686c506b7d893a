"""Keeping gradients within bounds (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor
from minirnn.errors import GradientError, OptionError
from minirnn.optim.flat import gradient_arrays


def _gradients(parameters: Iterable[Tensor] | Tensor) -> list[tuple[Any, str]]:
    return list(gradient_arrays([parameters] if isinstance(parameters, Tensor) else parameters))


def _power_sum(gradient: Any, device: str, norm_type: float) -> float:
    on = kernels.on(device)
    if norm_type == 2:
        return float(on.square_sum(gradient.reshape(-1)))
    return float(on.power(on.abs(gradient), norm_type).sum())


def _norm(gradients: list[tuple[Any, str]], norm_type: float) -> float:
    if norm_type == math.inf:
        largest = [float(kernels.on(device).abs(g).max()) for g, device in gradients if g.size]
        return float(np.max(largest, initial=0.0))  # Python's max would lose a NaN
    total = np.float64(sum(_power_sum(g, device, norm_type) for g, device in gradients))
    return float(total ** (1 / norm_type))


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients in place so that their norm, taken as one vector, is at most ``max_norm``.

    ::

        norm = (sum |g|^norm_type)^(1 / norm_type),   g = g min(1, max_norm / (norm + 1e-6))

    As in PyTorch, an infinite norm makes the scale 0 and a NaN makes it NaN.

    Args:
        norm_type: above 0; ``float("inf")`` or ``"inf"`` takes the largest absolute value.

    Returns:
        The norm before clipping; 0 where nothing has a gradient.

    Raises:
        GradientError: the norm is not finite and ``error_if_nonfinite`` is set; no gradient has been changed then.
        OptionError: ``max_norm`` is negative or ``norm_type`` not above 0.
    """
    max_norm, norm_type = float(max_norm), float(norm_type)
    if not max_norm >= 0:
        raise OptionError(f"clip_grad_norm_: max_norm must be at least 0, got {max_norm}")
    if not norm_type > 0:
        raise OptionError(f"clip_grad_norm_: norm_type must be above 0, got {norm_type}")
    gradients = _gradients(parameters)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in the result
        norm = _norm(gradients, norm_type)
        if error_if_nonfinite and not math.isfinite(norm):
            raise GradientError(f"clip_grad_norm_: the norm of the gradients is {norm}, expected a finite one")
        scale = max_norm / (norm + 1e-6)
        if not scale >= 1:  # so written that NaN scales too
            for g, _ in gradients:
                g *= scale
    return norm


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Clip every gradient in place: ``g = min(max(g, -clip_value), clip_value)``. NaN stays.

    Raises:
        OptionError: ``clip_value`` is negative.
    """
    clip_value = float(clip_value)
    if not clip_value >= 0:
        raise OptionError(f"clip_grad_value_: clip_value must be at least 0, got {clip_value}")
    for g, device in _gradients(parameters):
        g[...] = kernels.on(device).clip(g, -clip_value, clip_value)
