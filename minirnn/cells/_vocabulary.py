"""The functions of a cell's equations: traced values become nodes of a graph, tensors are computed with.

So one definition of a cell serves both: traced it becomes fused kernels, called on tensors it is the readable cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from minirnn import kernels
from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.errors import CellError
from minirnn.kernels.graph import OPERATIONS, Graph, Node

__all__ = ["abs", "dropout", "erf", "exp", "layer_norm", "log", "log1p", "maximum", "mean", "minimum", "product"]
__all__ += ["relu", "sigmoid", "softplus", "sqrt", "sum", "tanh", "where", "zoneout"]

Value: TypeAlias = Any
"""A traced value (a Node), a tensor [N, H] or a number. A union cannot stand here: no operator takes a pair of each."""


def _graph_of(*values: Value) -> Graph | None:
    """The graph of the first traced value; None where all are tensors or numbers."""
    return next((value.graph for value in values if isinstance(value, Node)), None)


def _function(name: str, description: str) -> Callable[..., Value]:
    """The function ``name`` of traced values, of tensors, and of numbers."""
    on_tensors, on_numbers = getattr(ops, name), OPERATIONS[name].evaluate

    def function(*values: Value) -> Value:
        if on_numbers is not None and all(isinstance(value, (int, float)) for value in values):
            return on_numbers(*values)
        graph = _graph_of(*values)
        return on_tensors(*values) if graph is None else graph.make(name, *values)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = description
    return function


tanh = _function("tanh", "tanh(x): hyperbolic tangent.")
sigmoid = _function("sigmoid", "sigmoid(x): 1 / (1 + exp(-x)).")
relu = _function("relu", "relu(x): the larger of x and 0.")
exp = _function("exp", "exp(x): exponential.")
log = _function("log", "log(x): natural logarithm.")
log1p = _function("log1p", "log1p(x): log(1 + x), precise for small x.")
sqrt = _function("sqrt", "sqrt(x): square root.")
abs = _function("abs", "abs(x): absolute value.")
erf = _function("erf", "erf(x): error function; the GELU is x * (1 + erf(x / 2**0.5)) / 2.")
softplus = _function("softplus", "softplus(x): log(1 + exp(x)).")
minimum = _function("minimum", "minimum(a, b): the smaller of two values.")
maximum = _function("maximum", "maximum(a, b): the larger of two values.")
where = _function("where", "where(condition, a, b): a where a comparison such as x > 0 holds, else b.")


def _is_single(x: Value) -> bool:
    return x.per_row if isinstance(x, Node) else isinstance(x, (int, float))


def sum(x: Value) -> Value:
    """The sum over the units of a layer: one number per sequence."""
    if _is_single(x):
        raise CellError("sum(x) of a number, or of a sum over the units: it has one value, not one per unit")
    graph = _graph_of(x)
    return ops.as_tensor(x).sum(-1, keepdim=True) if graph is None else graph.make("sum", x)


def mean(x: Value) -> Value:
    """The mean over the units of a layer: one number per sequence."""
    if _is_single(x):
        return x
    graph = _graph_of(x)
    return ops.as_tensor(x).mean(-1, keepdim=True) if graph is None else sum(x) / graph.leaf("scalar", "size")


def layer_norm(x: Value, gain: Value = 1.0, bias: Value = 0.0, eps: float = 1e-5) -> Value:
    """gain (x - mean(x)) / sqrt(var(x) + eps) + bias over the units of a layer (Ba, Kiros & Hinton 2016)."""
    centered = x - mean(x)
    return centered / sqrt(mean(centered * centered) + eps) * gain + bias


_product_weights: ContextVar[Iterator[Any] | None] = ContextVar("product_weights", default=None)


@contextmanager
def product_weights(weights: Iterable[Any]) -> Iterator[None]:
    """Within, each ``product(x)`` of tensors takes the next of these weights [H, H]."""
    token = _product_weights.set(iter(weights))
    try:
        yield
    finally:
        _product_weights.reset(token)


def product(x: Value) -> Value:
    """W x, a matrix product inside the step; each has its own weights W (deep transitions: Pascanu et al. 2014)."""
    graph = _graph_of(x)
    if graph is not None:
        return graph.product(x)
    weights = _product_weights.get()
    weight = None if weights is None else next(weights, None)
    if weight is None:
        raise CellError("product(x) of a tensor: expected its weights [H, H]; call the cell with weights=[...]")
    x = ops.as_tensor(x, weight)
    if x.shape[-1:] in ((), (1,)):
        x = expand(x, (*x.shape[:-1], weight.shape[-1]))
    return ops.linear(x, weight)


def expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Broadcast a number, a vector [H] or one value per sequence [N, 1] to a tensor of this shape."""
    return x if x.shape == shape else x + Tensor(kernels.on(x.device).zeros(shape, x.dtype), device=x.device)


def zoneout(new: Value, old: Value, probability: float) -> Value:
    """In training each unit keeps ``old`` with this probability, else takes ``new`` (Krueger et al. 2017).

    In evaluation, and of tensors, it is the expected value.
    """
    graph = _graph_of(new, old)
    return new + probability * (old - new) if graph is None else graph.make("zoneout", new, old, probability)


def dropout(x: Value) -> Value:
    """Marks what ``recurrent_dropout`` drops with ``recurrent_dropout_on="update"`` (Semeniuta et al. 2016); else x."""
    return x.graph.make("dropout", x) if isinstance(x, Node) else x
