"""Gradient clipping (Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from minirnn import kernels
from minirnn.autograd.tensor import Tensor
from minirnn.errors import GradientError
from minirnn.kernels.contract import Array
from minirnn.optim.flat import gradient_arrays
from minirnn.validation import check_float

Parameters = Iterable[Tensor] | Tensor


def clip_grad_norm_(
    parameters: Parameters, max_norm: float, norm_type: float | str = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients in place so that their norm, taken as one vector, is at most ``max_norm``.

    ::

        norm = (sum |g|^norm_type)^(1 / norm_type),   g = g min(1, max_norm / (norm + 1e-6))

    As in PyTorch, an infinite norm makes the factor 0 and a NaN makes it NaN.

    Args:
        parameters, max_norm: one tensor or several, of which those without a gradient are skipped; at least 0.
        norm_type: above 0; ``float("inf")`` or ``"inf"`` for the largest absolute value.
        error_if_nonfinite: raise an error if the norm is not finite.

    Returns:
        The norm before clipping; 0 if there is no gradient.

    Raises:
        GradientError: the norm is not finite and ``error_if_nonfinite`` is set; no gradient has been changed.
        OptionError: ``max_norm`` is negative or ``norm_type`` not above 0.
    """
    max_norm = check_float("clip_grad_norm_: max_norm", max_norm)
    norm_type = check_float("clip_grad_norm_: norm_type", float(norm_type), exclude_minimum=True)
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = gradient_arrays(parameters)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in the result
        norm = _norm(gradients, norm_type)
        if error_if_nonfinite and not math.isfinite(norm):
            raise GradientError(f"clip_grad_norm_: the norm of the gradients is {norm}, expected a finite one")
        scale = max_norm / (norm + 1e-6)
        if math.isnan(scale):  # without the padding between parameters, which would stay NaN
            gradients = [(p.grad.data, p.device) for p in parameters if p.grad is not None]
        if not scale >= 1:  # also true of NaN
            for g, device in gradients:
                kernels.on(device).scale(g, scale)
    return norm


def clip_grad_value_(parameters: Parameters, clip_value: float) -> None:
    """Clip every gradient in place: ``g = min(max(g, -clip_value), clip_value)``. NaN stays NaN.

    Args:
        parameters: one tensor or several; those without a gradient are skipped.
        clip_value: at least 0, else an :class:`OptionError`.
    """
    clip_value = check_float("clip_grad_value_: clip_value", clip_value)
    for g, device in gradient_arrays([parameters] if isinstance(parameters, Tensor) else parameters):
        g[...] = kernels.on(device).clip(g, -clip_value, clip_value)


def _norm(gradients: list[tuple[Array, str]], norm_type: float) -> float:
    if norm_type == math.inf:
        largest = [float(kernels.on(device).abs(g).max()) for g, device in gradients if g.size]
        return float(np.max(largest, initial=0.0))  # Python's max would lose a NaN
    total = np.float64(sum(_power_sum(g, device, norm_type) for g, device in gradients))
    return float(total ** (1 / norm_type))


def _power_sum(g: Array, device: str, norm_type: float) -> float:
    K = kernels.on(device)
    return float(K.square_sum(g.reshape(-1)) if norm_type == 2 else K.power(K.abs(g), norm_type).sum())
