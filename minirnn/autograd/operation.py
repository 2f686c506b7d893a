"""Custom operations: a function of arrays that returns its result and the gradients of its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirnn import kernels
from minirnn.autograd.ops.operands import as_dtype
from minirnn.autograd.tape import Gradients, record_many, same_device
from minirnn.autograd.tensor import Tensor
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.kernels.contract import Array


def operation(function: Callable[..., tuple[Any, Callable[..., Any]]]) -> Callable[..., Any]:
    """Make a differentiable operation on tensors of a function on arrays that knows its own gradients.

    The decorated function is called with tensors; ``function`` gets their arrays and returns ``(result, gradients)``:

    - ``result``: an array, or a tuple of arrays for several outputs, each of which becomes a tensor.
    - ``gradients``: called in the backward pass with the gradient of each output, an array of its shape (zeros where
      nothing depends on it). It returns one array, of the argument's shape, or None for no gradient, for each tensor
      argument; for a single one the array alone is enough.

    Positional tensor arguments are differentiated. All other arguments, keywords included, pass as they are. Arrays are
    NumPy's, or on a CUDA device have ``__cuda_array_interface__``; they are C-contiguous, and neither those of the
    arguments nor those that ``gradients`` takes may be changed in place. See ``docs/own_operation.md`` for kernels
    compiled by Numba.

    Raises:
        OptionError: a tensor is given by keyword, or ``function`` does not return a result and a function.
        DTypeError: a result or a gradient is not an array of numbers on the arguments' device.
        ShapeError: in the backward pass: the number of gradients, or the shape of one, does not fit the arguments.

    >>> import numpy as np
    >>> import minirnn as mr
    >>> @mr.operation
    ... def swish(x, beta=1.0):
    ...     s = 1 / (1 + np.exp(-beta * x))
    ...     return x * s, lambda g: g * s * (1 + beta * x * (1 - s))
    >>> x = mr.tensor([-1.0, 2.0], requires_grad=True, dtype="float64")
    >>> mr.gradcheck(swish, [x])
    True
    >>> swish(x, beta=2.0).sum().backward()
    >>> x.grad
    tensor([-0.09078425,  1.05266461], dtype=float64)
    """
    name = function.__name__

    @functools.wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        for key, value in kwargs.items():
            if isinstance(value, Tensor):
                raise OptionError(f"{name}: {key} is a tensor given by keyword; tensor arguments are positional")
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        device = same_device(name, *tensors) or "cpu"
        contiguous = kernels.on(device).contiguous
        returned = function(*[contiguous(arg.data) if isinstance(arg, Tensor) else arg for arg in args], **kwargs)
        if not isinstance(returned, tuple) or len(returned) != 2 or not callable(returned[1]):
            got = _type_name(returned)
            raise OptionError(f"{name}: expected (result, gradients), an array and a function, got {got}")
        result, gradients = returned
        results = result if isinstance(result, tuple) else (result,)
        for array in results:
            _check_array(f"{name}: the result", array, device)
        outputs = record_many(name, tensors, results, _checked(name, gradients, tensors, results, device), device)
        for output in outputs:
            if output.dtype.kind != "f":  # such as indices: a leaf without a gradient
                output.requires_grad, output.node, output.output_nr = False, None, 0
        return outputs if isinstance(result, tuple) else outputs[0]

    return apply


def _checked(
    name: str, gradients: Callable[..., Any], tensors: Sequence[Tensor], results: Sequence[Array], device: str
) -> Gradients:
    """``gradients`` as the tape calls it, with what it takes and what it returns checked and converted."""
    K = kernels.on(device)
    arguments = [(tensor.shape, tensor.dtype) for tensor in tensors]
    outputs = [(array.shape, array.dtype) for array in results]

    def backward(*given: Array | None) -> list[Array | None]:
        pairs = zip(given, outputs, strict=True)
        returned = gradients(*(K.zeros(*output) if g is None else K.contiguous(g) for g, output in pairs))
        computed = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        count = len(arguments)
        if len(computed) != count:
            raise ShapeError(f"{name}: expected {count} gradients, one per tensor argument, got {len(computed)}")
        for number, (gradient, (shape, dtype)) in enumerate(zip(computed, arguments, strict=True)):
            if gradient is None:
                continue
            what = f"{name}: the gradient of tensor argument {number}"
            _check_array(what, gradient, device)
            if gradient.shape != shape:
                raise ShapeError(f"{what}: expected shape {list(shape)}, got {list(gradient.shape)}")
            computed[number] = K.contiguous(K.asarray(gradient, dtype))
        return computed

    return backward


def _check_array(what: str, value: Any, device: str) -> None:
    on_host = isinstance(value, (np.ndarray, np.generic))
    if isinstance(value, Tensor) or not hasattr(value, "dtype") or on_host != (device == "cpu"):
        raise DTypeError(f"{what}: expected an array on {device!r}, got {_type_name(value)}")
    try:
        as_dtype(value.dtype)
    except DTypeError as error:
        raise DTypeError(f"{what}: {error}") from None


def _type_name(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_type_name(one) for one in value)})"
    return "None" if value is None else type(value).__name__
