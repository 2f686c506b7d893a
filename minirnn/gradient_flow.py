"""How much of the gradient of the last step's loss reaches earlier states: vanishing and exploding gradients, measured.

>>> import minirnn as mr
>>> from minirnn.gradient_flow import gradient_flow
>>> flow = gradient_flow(mr.nn.RNN(8, 8, dtype="float64"), mr.randn(30, 4, 8, dtype="float64"))
>>> len(flow.norms), flow.memory_length is not None
(31, True)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minirnn.autograd import ops
from minirnn.autograd.tape import no_grad
from minirnn.autograd.tensor import Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.models import CharLM
from minirnn.models.body import Body
from minirnn.nn import functional as F
from minirnn.nn.module import Module
from minirnn.nn.recurrent import Recurrent
from minirnn.nn.state import State
from minirnn.validation import check_float, check_int


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """The gradient of the loss after the last step T with respect to the states before it.

    Attributes:
        norms: [T + 1] float64: element k is the norm of d loss_T / d state_{T-k}, the mean over the sequences; infinite
            from where it overflows. The state is all that a step passes on, of an LSTM (h, c), of all layers together.
        weight_norm: norm of d loss_T / d parameters of the layers, which clipping compares with its maximum.
    """

    norms: np.ndarray
    weight_norm: float

    @property
    def relative(self) -> np.ndarray:
        """The norms relative to that at k = 0."""
        return self.norms / (self.norms[0] or 1.0)

    @property
    def memory_length(self) -> int | None:
        """Steps until the norm has fallen to 1/e; None where it has not after T steps.

        Counted from k = 1: the first step back leads from h_T alone to the whole state, and can change the norm once.
        """
        below = np.flatnonzero(np.isfinite(self.norms[1:]) & (self.norms[1:] <= self.norms[1] / math.e))
        return int(below[0]) if below.size else None

    @property
    def factor(self) -> float:
        """What a step back multiplies the norm by, the geometric mean over the steps from k = 1 on."""
        first, last = self.norms[1], self.norms[-1]
        return float((last / first) ** (1 / max(1, len(self.norms) - 2))) if first > 0 else 0.0


@np.errstate(over="ignore", invalid="ignore")
def gradient_flow(layer: Recurrent, x: ArrayLike, direction: ArrayLike | None = None, seed: int = 0) -> GradientFlow:
    """Measure the gradient flow of recurrent layers, in evaluation mode: exactly, one step at a time.

    ::

        loss_T = v . h_T                                             h_T the top layer's output after the last step
        d loss_T / d state_{t-1} = (d state_t / d state_{t-1})^T d loss_T / d state_t

    Each line of the recursion is one step forwards and backwards from the stored state, so time and memory grow with T.
    The gradients of the layer's parameters are cleared.

    Args:
        layer: of any cell, in one direction; best in float64, as norms become small.
        x: inputs [T, N, I] of at least one step.
        direction: v, d loss_T / d h_T [N, H]; random vectors of length 1 where None.
        seed: of those.

    Raises:
        OptionError: the layer has two directions, or its states overflow.
        ShapeError, DTypeError: ``x`` or ``direction`` does not fit.
    """
    if layer.bidirectional:
        raise OptionError("gradient_flow: expected layers of one direction; the second runs from the last step back")
    x = ops.as_tensor(x, layer.weight_ih_l0)
    if x.ndim != 3 or 0 in x.shape:
        raise ShapeError(f"gradient_flow: expected x [T, N, {layer.input_size}], got {list(x.shape)}")
    length, batch = x.shape[:2]
    inputs = [x[t : t + 1] for t in range(length)]
    training = layer.training
    layer.eval().zero_grad()
    with no_grad():
        y, state = layer(inputs[0])
        states: list[State] = [_rebuilt(state, iter([leaf * 0.0 for leaf in _leaves(state)])), state]
        for step in inputs[1:]:
            y, state = layer(step, states[-1])
            states.append(state)
    if not all(np.isfinite(leaf.numpy()).all() for leaf in _leaves(state)):
        raise OptionError(
            f"gradient_flow: the states overflow within {length} steps; use smaller weights, or fewer steps"
        )
    v = _directions(y, seed) if direction is None else np.asarray(direction, np.float64)
    if v.shape != y.shape[1:]:
        raise ShapeError(f"gradient_flow: expected a direction {list(y.shape[1:])}, got {list(v.shape)}")

    norms = np.zeros(length + 1)
    norms[0] = np.linalg.norm(v, axis=1).mean()
    gradients: list[np.ndarray] = []
    for k in range(1, length + 1):
        leaves = [Tensor(leaf.data, requires_grad=True, device=leaf.device) for leaf in _leaves(states[length - k])]
        y, state = layer(inputs[length - k], _rebuilt(states[length - k], iter(leaves)))
        if k == 1:
            total = (y[0] * ops.as_tensor(v, y)).sum()
        else:
            pairs = zip(_leaves(state), gradients, strict=True)
            total = ops.stack([(leaf * ops.as_tensor(g, leaf)).sum() for leaf, g in pairs]).sum()
        total.backward()
        gradients = [np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for leaf in leaves]
        rows = [np.moveaxis(g, -2, 0).reshape(batch, -1) for g in gradients]
        norms[k] = np.mean([_norm(row) for row in np.concatenate(rows, 1).astype(np.float64)])
        if not np.isfinite(norms[k]):
            norms[k:] = math.inf
            break
    parts = [p.grad.numpy().astype(np.float64).ravel() for p in layer.parameters() if p.grad is not None]
    layer.train(training).zero_grad()
    weight_norm = _norm(np.concatenate(parts)) / batch
    return GradientFlow(norms, weight_norm if math.isfinite(norms[-1]) else math.inf)


def _norm(vector: np.ndarray) -> float:
    """The Euclidean norm, without overflow and underflow of squares."""
    largest = float(np.abs(vector).max())
    return largest * float(np.linalg.norm(vector / largest)) if 0 < largest < math.inf else largest


def model_flows(
    model: Module, length: int = 200, batch_size: int = 16, scale: float = 1.0, seed: int = 0
) -> dict[str, GradientFlow]:
    """Measure the gradient flow of every body of recurrent layers in a model, by its name: ``""``, "encoder", ...

    The inputs are random tokens or N(0, 1) vectors, and the loss is v . h_T with random v of length 1; but of a
    :class:`~minirnn.models.CharLM` text that it writes, and the cross-entropy of the last symbol. Of a body of two
    directions the forward direction of the first layer is measured. Everything is computed in float64.

    Args:
        model: is not changed. length, batch_size: T and N.
        scale: factor of the recurrent weight matrices. seed: of the inputs.

    Raises:
        OptionError: the model has no recurrent layers, or a module in place of a cell; a number is out of range.
    """
    length, batch_size = check_int("length", length), check_int("batch_size", batch_size)
    scale = check_float("scale", scale, finite=True)
    bodies = dict(_bodies(model))
    if not bodies:
        raise OptionError(f"model_flows: expected a model with recurrent layers, got {type(model).__name__}")
    return {
        name: _body_flow(body, length, batch_size, scale, np.random.default_rng(seed)) for name, body in bodies.items()
    }


def _body_flow(body: Body, length: int, batch: int, scale: float, rng: np.random.Generator) -> GradientFlow:
    layer = _scaled_copy(body.layers, scale)
    if not body.takes_tokens:
        return gradient_flow(layer, rng.normal(size=(length, batch, body.input_size)))
    tokens = rng.integers(body.input_size, size=(length, batch))
    if isinstance(body, CharLM):
        tokens = np.concatenate([tokens[:1], body.generate(tokens[:1], length, seed=int(rng.integers(1 << 30)))])
    x = body.table().numpy().astype(np.float64)[tokens[:length]]
    if not isinstance(body, CharLM):
        return gradient_flow(layer, x)
    with layer.evaluating():
        h = layer(x)[0].numpy()[-1]
    weight = body.head.weight.numpy().astype(np.float64)
    bias = 0.0 if body.head.bias is None else body.head.bias.numpy()
    error = F.softmax(h @ weight.T + bias, 1).numpy()
    error[np.arange(batch), tokens[length]] -= 1  # d cross-entropy / d logits
    return gradient_flow(layer, x, error @ weight)


def _bodies(model: Module, name: str = "") -> Iterator[tuple[str, Body]]:
    if isinstance(model, Body):
        yield name.removesuffix(".body"), model
        return
    for child_name, child in model.named_children():
        yield from _bodies(child, f"{name}.{child_name}".lstrip("."))


def _scaled_copy(rnn: Recurrent, scale: float) -> Recurrent:
    """The layers in float64 and one direction: of two the forward direction of the first layer."""
    sizes = rnn.hidden_sizes[:1] if rnn.bidirectional else rnn.hidden_sizes
    copy = Recurrent(
        rnn.cell, rnn.input_size, sizes, len(sizes), rnn.bias, zoneout=rnn.zoneout, residual=rnn.residual,
        dtype="float64",
    )  # fmt: skip
    copy.load_state_dict({name: rnn.state_dict()[name] for name in copy.state_dict()})
    for name, parameter in copy.named_parameters():
        if name.startswith(("weight_hh", "weight_product")):
            parameter.data *= scale
    return copy


def _directions(y: Tensor, seed: int) -> np.ndarray:
    """Random vectors of length 1, one for each sequence of y [1, N, H]."""
    v = np.random.default_rng(seed).normal(size=y.shape[1:])
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _leaves(state: Any) -> list[Tensor]:
    """The tensors of a state, which may lie in nested tuples."""
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in _leaves(part)]


def _rebuilt(state: Any, leaves: Iterator[Tensor]) -> State:
    """A state of the same form with other tensors."""
    return next(leaves) if isinstance(state, Tensor) else tuple([_rebuilt(part, leaves) for part in state])
