"""Recording of what is computed on arrays, so that it can be computed again without the Python code in between.

While a :class:`Recording` is on, its arrays are of the class :class:`Traced`. NumPy's functions and the kernels compute
with them as ever, and are noted down with their arguments and the memory they wrote to; so everything can be repeated
over the same memory, with other values in it. An array that is used without its origin being known, and a value that
Python reads from an array, make the recording *refused*: it is not repeated, and nothing else changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

MAX_BYTES = 16 << 20
"""A recording that holds more memory is refused."""


Call: TypeAlias = tuple[Callable[..., Any], list[Any], dict[str, Any]]
"""A function and its arguments, plain arrays among them."""


class _Current(threading.local):
    recording: Recording | None = None


_current = _Current()


def is_on() -> bool:
    """Whether a recording is on in this thread, even a refused one."""
    return _current.recording is not None


def current() -> Recording | None:
    """The recording that is on in this thread, unless it is refused."""
    recording = _current.recording
    return None if recording is None or recording.refused else recording


class Recording:
    """Calls on arrays, in order.

    Attributes:
        calls: functions and their arguments.
        refused: why it must not be repeated; empty if it may.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refused = ""
        self._known: list[tuple[int, int]] = []  # addresses of memory whose content is known at each point
        self._kept: list[np.ndarray] = []  # so that no other array gets an address twice
        self._bytes = 0

    @contextmanager
    def on(self) -> Iterator[None]:
        """Record what this thread computes inside."""
        before, _current.recording = _current.recording, self
        try:
            yield
        finally:
            _current.recording = before

    def refuse(self, reason: str) -> None:
        """Record nothing more, and let go of what has been recorded."""
        self.refused = self.refused or reason
        self.calls.clear()
        self._kept.clear()

    def own(self, array: Any, existing: bool = False) -> Any:
        """``array``, in one piece and with known content or still without any, as one that is traced.

        ``existing``: its memory is there without the recording.
        """
        array = plain(array)
        if self.refused:
            return array
        start = _address(array)
        self._known.append((start, start + array.nbytes))
        self._kept.append(array)
        self._bytes += 0 if existing else array.nbytes
        if self._bytes > MAX_BYTES:
            self.refuse("too much memory")
        return array.view(Traced)

    def add(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Note down a call that has been made, with plain arrays."""
        self.check(list(_arrays([*args, *kwargs.values()])))
        if any(isinstance(value, np.floating) for value in args):  # of Python or of an array: nobody knows
            self.refuse("one of NumPy's numbers")
        if not self.refused:
            self.calls.append((function, list(args), kwargs))

    def check(self, arrays: list[Any]) -> None:
        """Refuse unless the origin of all these arrays is known."""
        if not all(array.size == 0 or self._knows(array) for array in arrays):
            self.refuse("an array of unknown origin")

    def is_whole(self, array: Any) -> bool:
        """Whether ``array`` is all of an array of the recording, rather than a part of one."""
        start = _address(array)
        return array.flags.c_contiguous and (start, start + array.nbytes) in self._known

    def places(self, calls: list[Call], seeds: list[int]) -> list[tuple[list[Any], int, int]]:
        """Where seeds are arguments of calls: the list of arguments, the position in it, and the number of the seed."""
        numbers, found = {seed: number for number, seed in enumerate(seeds)}, []
        for _, arguments, _ in calls:
            for position, value in enumerate(arguments):
                if isinstance(value, (int, np.integer)) and int(value) in numbers:
                    found.append((arguments, position, numbers[int(value)]))
        if {number for *_, number in found} != set(numbers.values()):
            self.refuse("a seed that is no argument")
        return found

    def _knows(self, array: np.ndarray) -> bool:
        address = _address(array)
        return any(start <= address < stop for start, stop in self._known)

    def result(self, array: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``function`` returned for plain arguments, traced: a view of known memory, or new values."""
        if function in (np.shape, np.ndim, np.size):
            return array
        if type(array) in (list, tuple) and all(isinstance(one, np.ndarray) and self._knows(one) for one in array):
            return type(array)(one.view(Traced) for one in array)
        if not isinstance(array, np.ndarray):
            self.refuse(f"{function.__name__}: Python reads a value")
            return array
        if array.size == 0 or self._knows(array):
            return array.view(Traced)
        traced = self.own(array)
        self.add(_compute, array, function, args, kwargs)
        return traced


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def repeat_calls(calls: list[Call]) -> None:
    """Compute again what has been recorded."""
    for function, args, kwargs in calls:
        function(*args, **kwargs)


def moved(calls: list[Call], blocks: list[tuple[Any, Any]]) -> list[Call]:
    """The same calls with other memory: each ``(array, replacement)`` of ``blocks`` has the same contiguous shape."""

    def move(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.size:
            for array, replacement in blocks:
                offset = _address(value) - _address(array)
                if 0 <= offset < array.nbytes:
                    return np.ndarray(value.shape, value.dtype, replacement.data, offset, value.strides)
        if type(value) in (tuple, list):
            return type(value)(map(move, value))
        return {key: move(one) for key, one in value.items()} if type(value) is dict else value

    return [(function, move(args), move(kwargs)) for function, args, kwargs in calls]


class OutcomeChangedError(Exception):
    """A repeated call would have taken another way than the recorded one."""


def _compute(out: np.ndarray, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    result = function(*args, **kwargs)
    if result.shape != out.shape:
        raise OutcomeChangedError
    out[...] = result


def _expect(outcome: bool, predicate: Callable[..., bool], *args: Any) -> None:
    if predicate(*args) != outcome:
        raise OutcomeChangedError


def holds(predicate: Callable[..., bool], *args: Any) -> bool:
    """``predicate(*args)``, on which the code that follows may depend: a repetition ends where it is another."""
    if (recording := current()) is None:
        return predicate(*args)
    args = plain(args)
    outcome = predicate(*args)
    recording.add(_expect, outcome, predicate, *args)
    return outcome


def plain(value: Any) -> Any:
    """``value`` with ordinary arrays in place of traced ones, also inside tuples, lists and dictionaries."""
    if isinstance(value, Traced):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return {key: plain(one) for key, one in value.items()} if type(value) is dict else value


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _arrays(one)
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))


def constant(*arrays: np.ndarray) -> None:
    """Declare arrays that are the same whenever the recording is repeated."""
    if (recording := current()) is not None:
        for array in arrays:
            recording.own(array, existing=True)


def allocated(array: np.ndarray) -> np.ndarray:
    """``array``, not filled yet, as one that the recording may use."""
    recording = current()
    return array if recording is None else recording.own(array)


def call(function: Callable[..., Any], *args: Any) -> None:
    """Call ``function``, which reads or overwrites arrays and returns nothing, and record that."""
    if (recording := current()) is None:
        function(*args)
    else:
        args = plain(args)
        function(*args)
        recording.add(function, *args)


def _method(name: str) -> Any:
    """A method of arrays whose result is a view or a new array."""
    function = getattr(np.ndarray, name)

    def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
        args, kwargs, recording = (plain(self), *plain(args)), plain(kwargs), current()
        result = function(*args, **kwargs)
        return result if recording is None else recording.result(result, function, *args, **kwargs)

    return method


def _changing_method(name: str) -> Any:
    """A method of arrays that changes them."""
    function = getattr(np.ndarray, name)
    return lambda self, *args: call(function, self, *args)


class Traced(np.ndarray):
    """An array of a recording; without one it computes as any other."""

    def copy(self, order: Any = "C") -> Any:
        source, recording = plain(self), current()
        result = source.copy(order)
        if recording is None:
            return result
        traced = recording.own(result)
        recording.add(np.copyto, result, source)
        return traced

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function, inputs, kwargs = getattr(ufunc, method), plain(inputs), plain(kwargs)
        recording = current()
        result = function(*inputs, **kwargs)
        if recording is None:
            return result
        if result is None:  # ufunc.at
            recording.add(function, *inputs, **kwargs)
            return None
        if ufunc.nout != 1:
            recording.refuse(f"{ufunc.__name__}: several results")
            return result
        if "out" not in kwargs:
            result = np.asarray(result)  # a full reduction gives a scalar
            kwargs["out"] = (result,)
            recording.own(result)
        recording.add(function, *inputs, **kwargs)
        return result.view(Traced)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs, recording = plain(args), plain(kwargs), current()
        result = function(*args, **kwargs)
        if recording is None:
            return result
        if result is None or kwargs.get("out") is not None:  # such as copyto
            recording.add(function, *args, **kwargs)
            return None if result is None else result.view(Traced)
        return recording.result(result, function, *args, **kwargs)


_METHODS = """
    __getitem__ astype reshape flatten ravel take repeat dot cumsum argsort argmax argmin nonzero searchsorted item
    tolist tobytes __bool__ __int__ __float__ __index__
"""
for _name in _METHODS.split():
    setattr(Traced, _name, _method(_name))
for _name in ("__setitem__", "fill", "sort", "partition", "put"):
    setattr(Traced, _name, _changing_method(_name))
