"""Many parameters in one array, so that a whole optimiser step is a single kernel call."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter, is_

from minirnn import kernels
from minirnn.autograd.tensor import Tensor
from minirnn.errors import GradientError, OptionError
from minirnn.kernels.contract import Array

_ALIGNMENT = 64
"""Every parameter starts at a multiple of this many bytes, so that those after a bias of odd size stay aligned."""

_MAX_SLOT = 4 << 20
"""The gradient of a parameter of more bytes has no place in the flat array, but an array of its own, which is there
from the backward pass to ``zero_grad``: in the forward pass its memory is free for activations."""

# The layout that holds a parameter, by id(parameter). A layout keeps its parameters alive, so ids are not reused.
_layouts: weakref.WeakValueDictionary[int, FlatParameters] = weakref.WeakValueDictionary()


class FlatParameters:
    """Leaf tensors ``params`` of floats, of one dtype and device, laid out in one flat ``data`` and ``grad`` array.

    Each parameter's ``data`` becomes a view of the former and its ``grad_slot`` one of the latter, so the backward
    pass writes gradients where the optimiser reads them. A gradient is therefore overwritten by that of the next step;
    copy it to keep it. Between parameters lie a few zeros of padding, whose gradient is always zero. The gradient of a
    parameter of more than 4 MB is an array of its own, which lives as long as ``p.grad``.

    The layout is made once. Binding ``p.data`` to another array (``Module.to``, a second optimiser over the same
    parameters) takes that parameter out of it: :meth:`intact` is then False, and the owner makes a new layout.

    Attributes:
        data, grad: the flat arrays. starts, stops: where each parameter lies in ``data``.
        views, slots: views of ``data`` and ``grad``, one for each parameter, in its shape; None without a place.

    Raises:
        OptionError: there are no parameters, or they are of several dtypes or devices.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        kinds = {(p.dtype.name, p.device) for p in params}
        if len(kinds) != 1:
            raise OptionError(f"FlatParameters: expected parameters of one dtype and device, got {sorted(kinds)}")
        self.params = tuple(params)
        self.shapes = [p.shape for p in params]
        dtype, self.device = self.params[0].dtype, self.params[0].device
        unit = max(1, _ALIGNMENT // dtype.itemsize)
        self.starts, self.stops, self._places, end, grad_end = [], [], list[int | None](), 0, 0
        for p in self.params:
            size = -(-p.numel() // unit) * unit
            self.starts.append(end)
            self.stops.append(end + p.numel())
            end += size
            has_place = p.numel() * dtype.itemsize <= _MAX_SLOT
            self._places.append(grad_end if has_place else None)
            grad_end += size if has_place else 0
        zeros = kernels.on(self.device).zeros
        self.data, self.grad = zeros((end,), dtype), zeros((grad_end,), dtype)
        self.views = self.views_of(self.data)
        self.slots = [
            None if place is None else self.grad[place : place + p.numel()].reshape(p.shape)
            for p, place in zip(self.params, self._places, strict=True)
        ]
        self.position = {id(p): i for i, p in enumerate(self.params)}
        for p, view, slot in zip(self.params, self.views, self.slots, strict=True):
            view[...] = p.data
            p.data, p.grad_slot = view, slot
            _layouts[id(p)] = self

    def views_of(self, flat: Array) -> list[Array]:
        """Views of ``flat``, an array laid out like ``data``, one for each parameter, in its shape."""
        return [flat[a:b].reshape(s) for a, b, s in zip(self.starts, self.stops, self.shapes, strict=True)]

    def intact(self) -> bool:
        """Whether every parameter still lies in ``data``."""
        return all(map(is_, map(attrgetter("data"), self.params), self.views))

    def span(self, first: int, last: int) -> slice:
        """Where the parameters ``first`` to ``last - 1`` lie in ``data``."""
        return slice(self.starts[first], self.stops[last - 1])

    def gradient(self, first: int, last: int) -> Array:
        """The gradients of a run ``first`` to ``last - 1`` as one flat array."""
        place = self._places[first]
        if place is not None:
            return self.grad[place : place + self.stops[last - 1] - self.starts[first]]
        gradient, K = self.params[first].grad, kernels.on(self.device)
        assert gradient is not None
        return K.contiguous(K.asarray(gradient.data, self.data.dtype)).reshape(-1)

    def runs(self, keys: Sequence[int]) -> list[tuple[int, int, int]]:
        """The longest runs ``(first, last, key)`` of parameters ``first`` to ``last - 1`` whose gradients are one flat
        array and that have one key, an integer such as the step count.

        A gradient that lies elsewhere, because ``p.grad`` was assigned, is copied in first.

        Raises:
            GradientError: an assigned gradient does not have its parameter's shape.
        """
        in_place = all(
            p.grad is not None and p.grad.data is slot for p, slot in zip(self.params, self.slots, strict=True)
        )
        if in_place and keys.count(keys[0]) == len(keys):  # as in almost every step
            return [(0, len(keys), keys[0])]
        here: list[tuple[int, int] | None] = []  # the key, and which array the gradient is in
        for i, (p, slot, shape, key) in enumerate(zip(self.params, self.slots, self.shapes, keys, strict=True)):
            if p.grad is not None and p.grad.data is not slot:
                if p.grad.shape != shape:
                    shapes = f"has shape {list(shape)}, its gradient {list(p.grad.shape)}"
                    raise GradientError(f"optimiser step: parameter {i} {shapes}")
                if slot is not None:
                    slot[...] = p.grad.data
            here.append(None if p.grad is None else (key, -1 if slot is not None else i))
        runs, first = [], 0
        for current, equal in groupby(here):
            last = first + sum(1 for _ in equal)
            if current is not None:
                runs.append((first, last, current[0]))
            first = last
        return runs


def gradient_arrays(parameters: Iterable[Tensor]) -> list[tuple[Array, str]]:
    """The gradients of ``parameters`` in as few arrays as possible, each with its device.

    Those of neighbours in one flat layout come as one array, which may hold zeros of padding.
    """
    found: list[tuple[Array, str]] = []
    layout: FlatParameters | None = None
    first = last = 0

    def end_run() -> None:
        if layout is not None:
            found.append((layout.gradient(first, last), layout.device))

    for p in parameters:
        if p.grad is None:
            continue
        if layout is not None and last < len(layout.slots) and p.grad.data is layout.slots[last]:
            last += 1
            continue
        end_run()
        layout = _layouts.get(id(p))
        first = -1 if layout is None else layout.position[id(p)]
        last = first + 1
        if layout is None or p.grad.data is not layout.slots[first]:
            layout = None
            found.append((p.grad.data, p.device))
    end_run()
    return found
