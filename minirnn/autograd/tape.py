"""The tape: which operation computed which tensor, and backpropagation through it.

An operation *records* its outputs together with a function that takes the gradients of the outputs and returns the
gradients of the inputs. Only the tape adds gradients up. Every :class:`Node` has a serial number, and numbers rise in
the order of computation; the backward pass always takes the pending node with the highest number. So there is no
recursion, and a node is used once, after all gradients of its outputs have arrived.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from minirnn import kernels
from minirnn.errors import AnomalyError, DeviceError, GradientError
from minirnn.kernels.contract import Array

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor

Gradients: TypeAlias = Callable[..., Sequence[Array | None]]
"""Takes one gradient array (or None) per output, returns one (or None) per input."""
Edge: TypeAlias = "Tensor | tuple[Node, int] | None"
"""Where the gradient of an input goes: to a leaf, to an output of another node, or nowhere."""

tensor_class: type[Tensor] = object  # type: ignore[assignment]
"""The class of tensors; :mod:`minirnn.autograd.tensor` sets it, for Tensor is defined last, with the operations."""

_serials = itertools.count()


class _Mode(threading.local):
    recording = True
    anomaly = False


_mode = _Mode()


def mode() -> tuple[bool, bool]:
    """Whether operations are recorded, and whether under :func:`detect_anomaly`."""
    return _mode.recording, _mode.anomaly


class Node:
    """One recorded operation.

    Attributes:
        name, device, num_outputs: of the operation.
        edges, gradients: where the gradient of each input goes, and what computes them; None once it has been used.
        serial, stack: rises in the order of computation; where the operation was called, under :func:`detect_anomaly`.
    """

    __slots__ = ("name", "device", "edges", "gradients", "num_outputs", "serial", "stack")

    def __init__(self, name: str, device: str, edges: tuple[Edge, ...], gradients: Gradients, num_outputs: int) -> None:
        self.name, self.device, self.edges, self.num_outputs = name, device, edges, num_outputs
        self.gradients: Gradients | None = gradients
        self.serial = next(_serials)
        self.stack = "".join(traceback.format_stack(limit=8)[:-2]) if _mode.anomaly else None


@contextmanager
def _set_mode(name: str, value: bool) -> Iterator[None]:
    before = getattr(_mode, name)
    setattr(_mode, name, value)
    try:
        yield
    finally:
        setattr(_mode, name, before)


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing that is computed inside; also usable as a decorator."""
    with _set_mode("recording", False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record what is computed inside, even within :func:`no_grad`."""
    with _set_mode("recording", True):
        yield


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise :class:`AnomalyError` at the operation that makes the first NaN, in the forward or the backward pass.

    In the backward pass the message shows where that operation was called. Slow: meant for debugging.

    >>> import minirnn as mr
    >>> with mr.detect_anomaly():
    ...     mr.tensor([-1.0]).log()
    Traceback (most recent call last):
    minirnn.errors.AnomalyError: log made a NaN from inputs without one: [1]
    """
    with _set_mode("anomaly", True):
        yield


def new_tensor(data: Array, device: str) -> Tensor:
    """A tensor of ``data`` that no gradient flows through."""
    if isinstance(data, np.generic):  # NumPy returns a scalar where all dimensions are gone
        data = kernels.on(device).asarray(data)
    return tensor_class(data, False, device)


def same_device(name: str, *inputs: Tensor | None) -> str:
    """Return the device all inputs are on, "" without any; a :class:`DeviceError` where they are on several."""
    device = ""
    for t in inputs:
        if t is not None and t.device != device:
            if device:
                raise DeviceError(f"{name}: inputs on {device} and {t.device}; move them to one device with .to(...)")
            device = t.device
    return device


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether an operation on ``inputs`` will be recorded."""
    return _mode.recording and any(t is not None and t.requires_grad for t in inputs)


def record(
    name: str, inputs: Sequence[Tensor | None], data: Array, gradients: Gradients, device: str | None = None
) -> Tensor:
    """A tensor of ``data``, recorded where an input needs a gradient.

    Args:
        name, inputs: of the operation, for messages; what ``data`` was computed from, None for one that is absent.
        gradients: takes the gradient of ``data``, returns one array or None for each input.
        device: where ``data`` is, if not where the inputs are.
    """
    return record_many(name, inputs, (data,), gradients, device)[0]


def record_many(
    name: str, inputs: Sequence[Tensor | None], data: Sequence[Array], gradients: Gradients, device: str | None = None
) -> tuple[Tensor, ...]:
    """Like :func:`record`, for an operation with several outputs: the gradient of an unused one is None."""
    device = same_device(name, *inputs) if device is None else device
    if _mode.anomaly:
        _check_forward(name, data, inputs, device)
    outputs = tuple([new_tensor(array, device) for array in data])
    if _mode.recording:
        edges: list[Edge] = []
        needed = False
        for t in inputs:
            if t is None or not t.requires_grad:
                edges.append(None)
            else:
                needed = True
                edges.append(t if t.node is None else (t.node, t.output_nr))
        if needed:
            node = Node(name, device, tuple(edges), gradients, len(outputs))
            for number, output in enumerate(outputs):
                output.requires_grad, output.node, output.output_nr = True, node, number
    return outputs


def _check_forward(name: str, data: Sequence[Array], inputs: Sequence[Tensor | None], device: str) -> None:
    """Raise where an operation made a NaN from inputs without one."""
    has_nan = kernels.on(device).has_nan
    given = [t for t in inputs if t is not None]
    if any(map(has_nan, data)) and not any(kernels.on(t.device).has_nan(t.data) for t in given):
        shapes = ", ".join(str(list(t.shape)) for t in given)
        raise AnomalyError(f"{name} made a NaN from inputs without one: {shapes}")


def _check_backward(node: Node, given: Sequence[Array | None], computed: Sequence[Array | None]) -> None:
    """Raise where the gradient of an operation made a NaN from gradients without one."""
    if any(g is not None and kernels.on(node.device).has_nan(g) for g in given):
        return
    for edge, g in zip(node.edges, computed, strict=True):
        if edge is None or g is None:
            continue
        device = edge[0].device if isinstance(edge, tuple) else edge.device
        if kernels.on(device).has_nan(g):
            where = f"; it was called here:\n{node.stack}" if node.stack else ""
            raise AnomalyError(f"the gradient of {node.name} made a NaN from gradients without one{where}")


@np.errstate(all="ignore")  # infinities and NaN are results; detect_anomaly finds them
def backward(roots: Sequence[tuple[Tensor, Array]]) -> None:
    """Backpropagate from tensors with their gradients, adding to the ``grad`` of every leaf they were computed from.

    Each node drops what it saved as soon as it has been used; using one again is a :class:`GradientError`.
    """
    pending: dict[int, tuple[Node, list[Array | None]]] = {}
    heap: list[int] = []

    def accumulate(edge: Tensor | tuple[Node, int], gradient: Array) -> None:
        if not isinstance(edge, tuple):
            edge.add_grad(gradient)
            return
        node, index = edge
        if node.serial not in pending:
            pending[node.serial] = node, [None] * node.num_outputs
            heapq.heappush(heap, -node.serial)
        given = pending[node.serial][1]
        before = given[index]
        given[index] = gradient if before is None else kernels.on(node.device).add(before, gradient)

    for root, seed in roots:
        accumulate(root if root.node is None else (root.node, root.output_nr), seed)
    while heap:
        node, given = pending.pop(-heapq.heappop(heap))
        if node.gradients is None:
            raise GradientError(
                f"backward: the values saved by {node.name} have been freed by an earlier backward through this part "
                "of the graph. Compute it again, or add the losses up and call backward once"
            )
        computed = node.gradients(*given)
        if _mode.anomaly:
            _check_backward(node, given, computed)
        edges = node.edges
        node.gradients, node.edges = None, ()
        del given
        for edge, gradient in zip(edges, computed, strict=True):
            if edge is not None and gradient is not None:
                accumulate(edge, gradient)
        del computed, edges, gradient
