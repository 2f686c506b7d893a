"""Many parameters, one array: what lets a whole optimiser step be a single kernel call."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter, is_
from typing import Any

from minirnn import kernels
from minirnn.autograd.tensor import Tensor
from minirnn.errors import GradientError, OptionError

_ALIGNMENT = 64
"""Every parameter starts at a multiple of this many bytes, so that an odd-sized bias costs its followers nothing."""

_data_of = attrgetter("data")

# Where a parameter lies, by its id: a FlatParameters keeps its parameters alive, so while it is here the id is theirs.
_homes: weakref.WeakValueDictionary[int, FlatParameters] = weakref.WeakValueDictionary()


class FlatParameters:
    """Leaf tensors of one dtype and device, laid into one flat ``data`` and one flat ``grad`` array.

    Each parameter's ``data`` becomes a view of the former and its ``grad_slot`` one of the latter, so backward
    writes gradients where the optimiser reads them. A gradient kept from one step to the next is therefore
    overwritten by the next; copy what is to be kept. Between parameters lie a few zeros of padding, whose
    gradient is always zero.

    The layout is made once. Whoever rebinds ``p.data`` (``Module.to``, a second optimiser over the same
    parameters) takes that parameter out of it: :meth:`intact` tells, and the owner makes a new layout.

    Raises:
        OptionError: no parameters, or parameters of several dtypes or devices.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        kinds = {(p.dtype.name, p.device) for p in params}
        if len(kinds) != 1:
            raise OptionError(f"FlatParameters: expected parameters of one dtype and device, got {sorted(kinds)}")
        self.params = tuple(params)
        self.shapes = [p.shape for p in params]
        dtype, self.device = self.params[0].dtype, self.params[0].device
        unit = max(1, _ALIGNMENT // dtype.itemsize)
        self.starts, self.stops, end = [], [], 0
        for p in self.params:
            self.starts.append(end)
            self.stops.append(end + p.numel())
            end += -(-p.numel() // unit) * unit
        zeros = kernels.on(self.device).zeros
        self.data, self.grad = zeros((end,), dtype), zeros((end,), dtype)
        self.views, self.slots = self.views_of(self.data), self.views_of(self.grad)
        self.position = {id(p): i for i, p in enumerate(self.params)}
        for p, view, slot in zip(self.params, self.views, self.slots, strict=True):
            view[...] = p.data
            p.data, p.grad_slot = view, slot
            _homes[id(p)] = self

    def views_of(self, flat: Any) -> list[Any]:
        """The pieces of an array laid out like this one, each in its parameter's shape."""
        return [flat[a:b].reshape(s) for a, b, s in zip(self.starts, self.stops, self.shapes, strict=True)]

    def intact(self) -> bool:
        """Whether every parameter still lies here."""
        return all(map(is_, map(_data_of, self.params), self.views))

    def span(self, first: int, last: int) -> slice:
        """Where the parameters ``first`` to ``last - 1`` lie in the flat arrays."""
        return slice(self.starts[first], self.stops[last - 1])

    def runs(self, keys: Sequence[int]) -> list[tuple[int, int, int]]:
        """The longest stretches of neighbouring parameters that have a gradient and share a key.

        A gradient that lies elsewhere, because the user assigned ``p.grad``, is copied in first.

        Args:
            keys: an integer per parameter, such as its step count.

        Returns:
            ``(first, last, key)`` for each stretch: parameters ``first`` to ``last - 1``.

        Raises:
            GradientError: an assigned gradient does not have its parameter's shape.
        """
        found: list[tuple[int, int, int]] = []
        first, current = 0, None
        for i, (p, slot, key) in enumerate(zip(self.params, self.slots, keys, strict=True)):
            here: int | None = key
            if p.grad is None:
                here = None
            elif p.grad.data is not slot:
                if p.grad.shape != slot.shape:
                    raise GradientError(
                        f"optimiser step: parameter {i} has shape {list(slot.shape)}, its gradient {list(p.grad.shape)}"
                    )
                slot[...] = p.grad.data
            if here != current:
                if current is not None:
                    found.append((first, i, current))
                first, current = i, here
        if current is not None:
            found.append((first, len(self.params), current))
        return found


def gradient_arrays(parameters: Iterable[Tensor]) -> Iterator[tuple[Any, str]]:
    """All gradients in as few arrays as possible, each with its device.

    Neighbours in one flat layout come as one array, which may hold padding zeros; any other gradient as it is.
    """
    home: FlatParameters | None = None
    first = last = 0
    for p in parameters:
        if p.grad is None:
            continue
        if home is not None:
            if last < len(home.slots) and p.grad.data is home.slots[last]:
                last += 1
                continue
            yield home.grad[home.span(first, last)], home.device
        home = _homes.get(id(p))
        if home is not None:
            first = home.position[id(p)]
            last = first + 1
            if p.grad.data is home.slots[first]:
                continue
            home = None
        yield p.grad.data, p.device
    if home is not None:
        yield home.grad[home.span(first, last)], home.device
