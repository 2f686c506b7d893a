"""The tape: what was computed from what, and the walk back through it.

An operation *records* its outputs together with a function that, given the gradients of its outputs, returns
the gradients of its inputs. Only the tape adds gradients up. Nodes carry serial numbers, which rise in the
order of computing; walking back means taking the highest pending number each time, so there is no recursion
and a graph of a hundred thousand steps is walked like one of ten.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minirnn import kernels
from minirnn.errors import AnomalyError, GradientError

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor

Gradients = Callable[..., Sequence[Any]]
"""Takes one gradient array (or None) per output, returns one (or None) per input."""

_serials = itertools.count()


class _Mode(threading.local):
    recording = True
    anomaly = False


_mode = _Mode()


class Node:
    """One recorded operation."""

    __slots__ = ("name", "serial", "device", "edges", "gradients", "outputs", "origin")

    def __init__(
        self, name: str, device: str, edges: tuple[Tensor | tuple[Node, int] | None, ...],
        gradients: Gradients, outputs: int,
    ) -> None:  # fmt: skip
        self.name, self.device, self.edges, self.outputs = name, device, edges, outputs
        self.gradients: Gradients | None = gradients
        self.serial = next(_serials)
        self.origin = "".join(traceback.format_stack(limit=8)[:-2]) if _mode.anomaly else None


@contextmanager
def _recording(on: bool) -> Iterator[None]:
    before, _mode.recording = _mode.recording, on
    try:
        yield
    finally:
        _mode.recording = before


def no_grad() -> Any:
    """Nothing computed inside is recorded; also usable as a decorator."""
    return _recording(False)


def grad() -> Any:
    """What is computed inside is recorded, within :func:`no_grad` too."""
    return _recording(True)


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise :class:`AnomalyError` at the operation that makes the first NaN, forward or backward.

    In backward the message shows where that operation was called. Slow: meant for finding a fault.

    >>> import minirnn as mr
    >>> with mr.detect_anomaly():
    ...     mr.tensor([-1.0]).log()
    Traceback (most recent call last):
    minirnn.errors.AnomalyError: log made a NaN from inputs without one: [1]
    """
    before, _mode.anomaly = _mode.anomaly, True
    try:
        yield
    finally:
        _mode.anomaly = before


def edges_of(inputs: Sequence[Tensor | None]) -> tuple[Tensor | tuple[Node, int] | None, ...] | None:
    """Where the gradients of ``inputs`` go; None when nothing needs one, or nothing is recorded."""
    if not _mode.recording:
        return None
    needed = False
    edges: list[Tensor | tuple[Node, int] | None] = []
    for tensor in inputs:
        if tensor is None or not tensor.requires_grad:
            edges.append(None)
            continue
        needed = True
        edges.append(tensor if tensor.node is None else (tensor.node, tensor.output))
    return tuple(edges) if needed else None


def check_forward(name: str, arrays: Sequence[Any], inputs: Sequence[Tensor | None], device: str) -> None:
    """Under :func:`detect_anomaly`: the operation must not turn numbers into NaN."""
    if not _mode.anomaly:
        return
    has_nan = kernels.on(device).has_nan
    if any(has_nan(array) for array in arrays) and not any(
        t is not None and kernels.on(t.device).has_nan(t.data) for t in inputs
    ):
        shapes = ", ".join(str(list(t.shape)) for t in inputs if t is not None)
        raise AnomalyError(f"{name} made a NaN from inputs without one: {shapes}")


def _check_backward(node: Node, given: Sequence[Any], made: Sequence[Any]) -> None:
    if any(g is not None and kernels.on(node.device).has_nan(g) for g in given):
        return
    for edge, g in zip(node.edges, made, strict=True):
        if edge is None or g is None:
            continue
        device = edge[0].device if isinstance(edge, tuple) else edge.device
        if not kernels.on(device).has_nan(g):
            continue
        where = f"; it was called here:\n{node.origin}" if node.origin else ""
        raise AnomalyError(f"the gradient of {node.name} made a NaN from gradients without one{where}")


@np.errstate(all="ignore")  # infinities and NaN speak for themselves, and through detect_anomaly
def backward(roots: Sequence[tuple[Tensor, Any]]) -> None:
    """Backpropagate from tensors with their gradients, adding to the ``grad`` of every leaf they were computed from.

    Each node lets go of what it saved as soon as it has been used, so memory falls as backward goes on.

    Raises:
        GradientError: part of the graph has been used by an earlier backward.
    """
    pending: dict[int, tuple[Node, list[Any]]] = {}
    heap: list[int] = []

    def arrive(edge: Tensor | tuple[Node, int], gradient: Any) -> None:
        if not isinstance(edge, tuple):
            edge.add_grad(gradient)
            return
        target, index = edge
        found = pending.get(target.serial)
        if found is None:
            found = pending[target.serial] = target, [None] * target.outputs
            heapq.heappush(heap, -target.serial)
        slots = found[1]
        before = slots[index]
        slots[index] = gradient if before is None else kernels.on(target.device).add(before, gradient)

    for tensor, gradient in roots:
        arrive(tensor if tensor.node is None else (tensor.node, tensor.output), gradient)
    while heap:
        node, given = pending.pop(-heapq.heappop(heap))
        if node.gradients is None:
            raise GradientError(
                f"backward met {node.name}, whose saved values are gone: this part of the graph has been walked "
                "before. Compute it again, or add the losses up and call backward once"
            )
        made = node.gradients(*given)
        if _mode.anomaly:
            _check_backward(node, given, made)
        edges = node.edges
        node.gradients, node.edges = None, ()
        del given
        for edge, gradient in zip(edges, made, strict=True):
            if edge is not None and gradient is not None:
                arrive(edge, gradient)
        del made, edges, gradient
