"""What the recurrent kernels of both devices take; arrays are of the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minirnn.kernels.graph import Equations


@dataclass
class RecurrentWeights:
    """What the recurrent part of a layer is computed with; None, or empty, where a cell has no such thing.

    Attributes:
        input_bias: [G H], added to the input part of the gates by who computes it.
        weight_hh: [R H, W], for R gates with a recurrent part; W is the width of h.
        bias: [K, H], of the gates whose recurrent part is kept apart.
        vectors: [V, H].
        inner: [H, H] for each product inside the step.
        weight_hr: [W, H], a projection of h.
    """

    input_bias: Any = None
    weight_hh: Any = None
    bias: Any = None
    vectors: Any = None
    inner: list[Any] = field(default_factory=list)
    weight_hr: Any = None

    def map(self, function: Callable[[Any], Any]) -> RecurrentWeights:
        """The same with ``function`` of everything that is there."""
        made = RecurrentWeights()
        for name, value in vars(self).items():
            if name == "inner":
                made.inner = [function(weight) for weight in value]
            elif value is not None:
                setattr(made, name, function(value))
        return made


@dataclass
class Noise:
    """What training adds: the seed of all draws, their rates, and the mask [N, H] of the recurrent weights' input."""

    seed: int = 0
    zoneout: float = 0.0
    dropout: float = 0.0
    mask: Any = None


@dataclass(frozen=True)
class TokenModel:
    """The weights of a token model: embedding, L equal layers of one cell, a linear head.

    Attributes:
        equations: the cell's, resolved for evaluation.
        table: [V, G H] input part of the first layer for each token, biases included.
        weight_ih, bias_ih: for each layer above the first [G H, H], and its biases [G H] (those of ``table``'s kind).
        recurrent: of each layer.
        head, head_bias: [V, H], [V].
        zoneout: rate of the cell's zoneout.
    """

    equations: Equations
    table: Any
    weight_ih: list[Any]
    bias_ih: list[Any]
    recurrent: list[RecurrentWeights]
    head: Any
    head_bias: Any
    zoneout: float = 0.0
