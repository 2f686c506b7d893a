"""The functions of a cell's equations: of traced values they make nodes, of tensors they compute.

One definition of a cell serves both: traced it becomes fused kernels, called on tensors it is the readable cell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.errors import CellError
from minirnn.kernels.graph import OPERATIONS, Node


def _graph_of(*values: Any) -> Any:
    """The graph of the first traced value; None where all are tensors or numbers."""
    return next((value.graph for value in values if isinstance(value, Node)), None)


def _function(name: str, description: str) -> Callable[..., Any]:
    """The function ``name`` of traced values and of tensors."""
    on_tensors, on_numbers = getattr(ops, name), OPERATIONS[name].evaluate

    def function(*values: Any) -> Any:
        graph = _graph_of(*values)
        if on_numbers is not None and all(isinstance(value, (int, float)) for value in values):
            return on_numbers(*values)
        return on_tensors(*values) if graph is None else graph.make(name, *values)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = description
    return function


tanh = _function("tanh", "tanh(x): hyperbolic tangent.")
sigmoid = _function("sigmoid", "sigmoid(x): 1 / (1 + exp(-x)).")
relu = _function("relu", "relu(x): the larger one of x and 0.")
exp = _function("exp", "exp(x): exponential.")
log = _function("log", "log(x): natural logarithm.")
log1p = _function("log1p", "log1p(x): log(1 + x), precise for small x.")
sqrt = _function("sqrt", "sqrt(x): square root.")
abs = _function("abs", "abs(x): absolute value.")
erf = _function("erf", "erf(x): error function; the GELU is x * (1 + erf(x / 2**0.5)) / 2.")
softplus = _function("softplus", "softplus(x): log(1 + exp(x)).")
minimum = _function("minimum", "minimum(a, b): the smaller one of two values.")
maximum = _function("maximum", "maximum(a, b): the larger one of two values.")
where = _function("where", "where(condition, a, b): a where a comparison such as x > 0 holds, else b.")


def _is_single(x: Any) -> bool:
    return x.per_row if isinstance(x, Node) else isinstance(x, (int, float))


def sum(x: Any) -> Any:
    """The sum over the units of a layer: one number per sequence."""
    graph = _graph_of(x)
    if _is_single(x):
        raise CellError("sum(x) of a number, or of a sum over the units: it has one value, not one per unit")
    return ops.as_tensor(x).sum(-1, keepdim=True) if graph is None else graph.make("sum", x)


def mean(x: Any) -> Any:
    """The mean over the units of a layer: one number per sequence."""
    graph = _graph_of(x)
    if _is_single(x):
        return x
    return ops.as_tensor(x).mean(-1, keepdim=True) if graph is None else sum(x) / graph.leaf("scalar", "size")


def layer_norm(x: Any, gain: Any = 1.0, bias: Any = 0.0, eps: float = 1e-5) -> Any:
    """gain (x - mean(x)) / sqrt(var(x) + eps) + bias over the units of a layer (Ba, Kiros & Hinton 2016)."""
    centered = x - mean(x)
    return centered / sqrt(mean(centered * centered) + eps) * gain + bias


class _Products(threading.local):
    weights: Iterator[Any] | None = None


_products = _Products()


@contextmanager
def product_weights(weights: Iterable[Any]) -> Iterator[None]:
    """Inside, ``product(x)`` of tensors takes these weights [H, H], one after the other."""
    before, _products.weights = _products.weights, iter(weights)
    try:
        yield
    finally:
        _products.weights = before


def product(x: Any) -> Any:
    """W x, a matrix product inside the step, each with weights of its own (Pascanu et al. 2014 make a step deep so)."""
    graph = _graph_of(x)
    if graph is not None:
        return graph.product(x)
    weight = next(_products.weights, None) if _products.weights is not None else None
    if weight is None:
        raise CellError("product(x) of a tensor: expected its weights [H, H]; call the cell with weights=[...]")
    x = ops.as_tensor(x, weight)
    return ops.linear(spread(x, (*x.shape[:-1], weight.shape[-1])) if x.shape[-1:] in ((), (1,)) else x, weight)


def spread(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape, of a number, a vector [H], or one value per sequence [N, 1]."""
    return x if x.shape == shape else x + Tensor(kernels.on(x.device).zeros(shape, x.dtype), device=x.device)


def zoneout(new: Any, old: Any, probability: float) -> Any:
    """In training each unit keeps ``old`` with this probability, else takes ``new``; in evaluation the expected value.

    (Krueger et al. 2017.) Of tensors it is the expected value.
    """
    graph = _graph_of(new, old)
    return new + probability * (old - new) if graph is None else graph.make("zoneout", new, old, probability)


def dropout(x: Any) -> Any:
    """Marks the update that ``recurrent_dropout`` drops when it is to act on the update (Semeniuta et al. 2016)."""
    return x.graph.make("dropout", x) if isinstance(x, Node) else x
