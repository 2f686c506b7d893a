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


class OutcomeChangedError(Exception):
    """A repeated call would have taken another way than the recorded one."""


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
        start = address(array)
        self._known.append((start, start + array.nbytes))
        self._kept.append(array)
        self._bytes += 0 if existing else array.nbytes
        if self._bytes > MAX_BYTES:
            self.refuse("too much memory")
        return array.view(Traced)

    def knows(self, array: np.ndarray) -> bool:
        """Whether ``array`` lies in memory whose content is known at each point."""
        first = address(array)
        return array.size == 0 or any(start <= first < stop for start, stop in self._known)

    def check(self, *arrays: np.ndarray) -> None:
        """Refuse unless the origin of all these arrays is known."""
        if not all(map(self.knows, arrays)):
            self.refuse("an array of unknown origin")

    def add(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Note down a call that has been made, with plain arrays."""
        self.check(*_arrays([*args, kwargs]))
        if any(isinstance(value, np.floating) for value in args):  # of Python or of an array: nobody knows
            self.refuse("one of NumPy's numbers")
        if not self.refused:
            jitted: Any = function if hasattr(function, "typeof_pyval") else None
            if jitted is not None:  # the code for these types, which need not be looked up again
                function = jitted.compile(tuple(map(jitted.typeof_pyval, args)))
            self.calls.append((function, list(args), kwargs))

    def compute(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` with plain arrays and note it down: it changes arrays, returns views of them or new ones.

        Returns:
            What it returned, traced.
        """
        result = function(*args, **kwargs)
        if function in (np.shape, np.ndim, np.size):
            return result
        is_ufunc = isinstance(getattr(function, "__self__", function), np.ufunc)
        if is_ufunc and isinstance(result, np.generic):  # of a full reduction
            result = np.asarray(result)
        if result is None or kwargs.get("out") is not None:
            self.add(function, *args, **kwargs)
        elif isinstance(result, np.ndarray):
            if not self.knows(result):
                self.own(result)
                how = (function, *args) if is_ufunc else (_compute, result, function, args, kwargs)
                self.add(*how, **(kwargs | {"out": (result,)} if is_ufunc else {}))
        elif type(result) not in (list, tuple) or not all(isinstance(r, np.ndarray) and self.knows(r) for r in result):
            self.refuse(f"{function.__name__}: Python reads a value")
        return _traced(result)


def address(array: Any) -> int:
    """Where the first element of an array lies."""
    first: int = array.__array_interface__["data"][0]
    return first


def _compute(out: np.ndarray, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    result = function(*args, **kwargs)
    if result.shape != out.shape:
        raise OutcomeChangedError
    out[...] = result


def repeat_calls(calls: list[Call]) -> None:
    """Compute again what has been recorded."""
    for function, args, kwargs in calls:
        function(*args, **kwargs)


# ------------------------------------------------------------------------------------- what code to be recorded calls


def allocated(array: np.ndarray) -> np.ndarray:
    """``array``, not filled yet, as one that the recording may use."""
    recording = current()
    return array if recording is None else recording.own(array)


def constant(*arrays: np.ndarray) -> None:
    """Declare arrays that are the same whenever the recording is repeated."""
    if (recording := current()) is not None:
        for array in arrays:
            recording.own(array, existing=True)


def reserved(array: np.ndarray) -> np.ndarray | None:
    """``array``, whose memory is there without the recording, for one result; None where it has been used for one."""
    recording = current()
    return None if recording is None or recording.knows(array) else recording.own(array, existing=True)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` on arrays, and record that: see :meth:`Recording.compute`."""
    args, kwargs, recording = plain(args), plain(kwargs), current()
    return function(*args, **kwargs) if recording is None else recording.compute(function, *args, **kwargs)


def holds(predicate: Callable[..., bool], *args: Any) -> bool:
    """``predicate(*args)``, on which the code that follows may depend: a repetition ends where it is another."""
    args = plain(args)
    outcome = predicate(*args)
    if (recording := current()) is not None:
        recording.add(_expect, outcome, predicate, *args)
    return outcome


def _expect(outcome: bool, predicate: Callable[..., bool], *args: Any) -> None:
    if predicate(*args) != outcome:
        raise OutcomeChangedError


# ------------------------------------------------------------------------------------------------------------- arrays


class Traced(np.ndarray):
    """An array of a recording; without one it computes as any other."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return call(ufunc if method == "__call__" else getattr(ufunc, method), *inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return call(function, *args, **kwargs)


def _method(name: str) -> Any:
    function = getattr(np.ndarray, name)
    return lambda self, *args, **kwargs: call(function, self, *args, **kwargs)


_METHODS = """
    __getitem__ astype copy reshape flatten ravel take repeat dot cumsum argsort argmax argmin nonzero searchsorted item
    tolist tobytes __bool__ __int__ __float__ __index__ __setitem__ fill sort partition put
"""
for _name in _METHODS.split():
    setattr(Traced, _name, _method(_name))


def plain(value: Any) -> Any:
    """``value`` with ordinary arrays in place of traced ones, also inside tuples, lists and dictionaries."""
    if isinstance(value, Traced):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return {key: plain(one) for key, one in value.items()} if type(value) is dict else value


def _traced(value: Any) -> Any:
    """``value`` with traced arrays in place of ordinary ones, also inside a tuple or list."""
    if isinstance(value, np.ndarray):
        return value.view(Traced)
    return type(value)(map(_traced, value)) if type(value) in (tuple, list) else value


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _arrays(one)
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))
