"""Gradient checkpointing: a part of the graph is computed again in the backward pass instead of being stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn import kernels, random
from minirnn.autograd import tape
from minirnn.autograd.tensor import Tensor
from minirnn.errors import OptionError
from minirnn.kernels.contract import Array


def recompute(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """``function(*inputs)``, storing only the inputs; everything else is computed again in the backward pass.

    A sequence cut into segments, each under ``recompute``, needs the memory of one segment and of the states between
    them, and up to twice the forward time (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). The
    gradients are those of the same segments without it, to the last bit: random draws (dropout) are repeated.

    Args:
        function: takes ``inputs`` and returns a tensor or a tuple of them. It may use other tensors, such as a module's
            parameters, which get their gradients too; they must not change before backward.

    Raises:
        OptionError: an input or an output is not a tensor, or there is no output.

    >>> import minirnn as mr
    >>> x = mr.tensor([0.5, 2.0], requires_grad=True)
    >>> mr.recompute(lambda x: x * x * x, x).sum().backward()
    >>> x.grad
    tensor([ 0.75, 12.  ])
    """
    _check_tensors("input", inputs)
    state_before, shard = random.generator().bit_generator.state, random.shard()
    with tape.no_grad():
        result = function(*inputs)
    outputs = _as_tuple(result)
    _check_tensors("output", outputs)

    def gradients(*given: Array | None) -> list[Array | None]:
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in inputs]
        generator = random.generator().bit_generator
        state_now, generator.state = generator.state, state_before
        with tape.enable_grad(), random.drawing_for(shard):
            again = _as_tuple(function(*leaves))
        generator.state = state_now
        pairs = zip(again, given, strict=True)
        tape.backward([(output, g) for output, g in pairs if g is not None and output.requires_grad])
        return [None, *(leaf.grad.data if leaf.grad is not None else None for leaf in leaves)]

    # the function's parameters are not known here: an anchor has it recorded even where no input requires a gradient
    device = outputs[0].device
    anchor = Tensor(kernels.on(device).zeros((), np.float32), True, device)
    recorded = tape.record_many("recompute", (anchor, *inputs), [o.data for o in outputs], gradients)
    return recorded[0] if isinstance(result, Tensor) else recorded


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _check_tensors(kind: str, tensors: Sequence[Any]) -> None:
    if kind == "output" and not tensors:
        raise OptionError("recompute: the function returned no tensor")
    for number, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise OptionError(f"recompute: expected tensors, {kind} {number} is a {type(t).__name__}")
