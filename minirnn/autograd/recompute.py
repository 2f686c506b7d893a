"""Memory for time: a part of the graph that is computed again on the way back instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minirnn import kernels, random
from minirnn.autograd import tape
from minirnn.autograd.tape import record_many
from minirnn.autograd.tensor import Tensor
from minirnn.errors import OptionError


def recompute(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """``function(*inputs)``, of which the tape keeps the inputs alone; all else is computed again in backward.

    A sequence cut into segments, each under ``recompute``, needs the memory of one segment and of the states between
    them, and up to twice the forward time (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). The
    gradients are those of the same segments without it, to the last bit: random draws (dropout) are repeated.

    Args:
        function: takes tensors and returns a tensor or a tuple of them. It may use other tensors, such as a module's
            parameters, which get their gradients too; they must be the same in backward.

    Returns:
        what ``function`` returns.

    Raises:
        OptionError: an input or an output is no tensor, or there is no output.

    >>> import minirnn as mr
    >>> x = mr.tensor([0.5, 2.0], requires_grad=True)
    >>> mr.recompute(lambda x: (x * x).exp(), x).sum().backward()
    >>> x.grad
    tensor([  1.2840254, 218.3926   ])
    """
    _check("input", inputs)
    draws_before = random.generator().bit_generator.state
    with tape.no_grad():
        made = function(*inputs)
    outputs = _as_tuple(made)
    _check("output", outputs)

    def gradients(*given: Any) -> list[Any]:
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in inputs]
        draws = random.generator().bit_generator
        draws_now, draws.state = draws.state, draws_before
        with tape.enable_grad():
            again = function(*leaves)
        draws.state = draws_now
        both = zip(_as_tuple(again), given, strict=True)
        tape.backward([(output, g) for output, g in both if g is not None and output.requires_grad])
        return [None, *(leaf.grad.data if leaf.grad is not None else None for leaf in leaves)]

    # what else the function uses is not known here: the anchor has it recorded where no input needs a gradient
    device = outputs[0].device
    anchor = Tensor(kernels.on(device).zeros((), np.float32), True, device)
    recorded = record_many("recompute", (anchor, *inputs), [o.data for o in outputs], gradients)
    return recorded[0] if isinstance(made, Tensor) else recorded


def _as_tuple(made: Any) -> tuple[Any, ...]:
    return tuple(made) if isinstance(made, (tuple, list)) else (made,)


def _check(kind: str, tensors: tuple[Any, ...]) -> None:
    if kind == "output" and not tensors:
        raise OptionError("recompute: the function returned no tensor")
    for number, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise OptionError(f"recompute: expected tensors, {kind} {number} is a {type(t).__name__}")
