"""Checks of single arguments, each with one form of message: ``name: expected ..., got ...``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

from minirnn.errors import OptionError


def check_int(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``value`` as an int from ``minimum`` to ``maximum`` (None: no upper limit).

    Raises:
        OptionError: it is not an integer (a bool is not), or out of range.
    """
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if is_int and value >= minimum and (maximum is None or value <= maximum):
        return int(value)
    limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise OptionError(f"{name}: expected an int {limits}, got {_shown(value)}")


def check_float(
    name: str,
    value: Any,
    minimum: float = 0.0,
    maximum: float = math.inf,
    exclude_minimum: bool = False,
    finite: bool = False,
) -> float:
    """Return ``value`` as a float from ``minimum`` (or above it) to ``maximum``; NaN is out of range.

    ``finite``: infinity is out of range, too.

    Raises:
        OptionError: it is not a real number, or out of range.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    out = (exclude_minimum and number == minimum) or (finite and math.isinf(number))
    if minimum <= number <= maximum and not out:
        return number
    lower = f"above {minimum:g}" if exclude_minimum else f"of at least {minimum:g}"
    limits = lower if maximum == math.inf else f"{lower} and at most {maximum:g}"
    raise OptionError(f"{name}: expected a {'finite ' if finite else ''}number {limits}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """NumPy's numbers as Python's; anything else as ``repr`` shows it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return ``value`` where it is one of ``choices``; the message suggests the closest one.

    Raises:
        OptionError: it is not.
    """
    names = list(choices)
    if value in names:
        return str(value)
    close = get_close_matches(str(value), names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"{name}: expected one of {', '.join(names)}, got {value!r}{hint}")
