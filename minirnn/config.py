"""Configurations: dataclasses whose fields carry their help, limits and choices, from which options are derived.

A field is declared once, by :func:`option`; the class checks its values, and the command line makes its options of the
same declaration.

>>> @dataclass(frozen=True, kw_only=True)
... class Settings(Config):
...     hidden_size: int = option(128, "Units in a layer.", minimum=1)
>>> Settings(hidden_size=0)
Traceback (most recent call last):
minirnn.errors.OptionError: hidden_size: expected an int of at least 1, got 0
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args, get_type_hints

from minirnn.errors import OptionError
from minirnn.validation import check_choice, check_float, check_int


@dataclass(frozen=True)
class OptionInfo:
    """What is declared of one field.

    Attributes:
        help: one sentence for a person.
        minimum, maximum: limits of a number, both included unless ``exclude_minimum``.
        choices: the values of a string, or a function that gives them.
        flags: names on the command line beside that of the field, the preferred one first ("--hidden"); for a bool
            "--on/--off" as in Typer.
        group: heading under which it is shown.
        metavar: what stands for the value in help.
        is_data: a file whose contents count, not its name: a resumed run may be given another one.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    exclude_minimum: bool = False
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    group: str = "Model"
    metavar: str | None = None
    is_data: bool = False


def option(default: Any, help: str, **info: Any) -> Any:
    """A field of a :class:`Config` with its default and what :class:`OptionInfo` takes."""
    return dataclasses.field(default=default, metadata={"option": OptionInfo(help, **info)})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: values are checked when it is made, each by the declaration of its field.

    Raises:
        OptionError: a value is of another type or out of its limits; says the name, what was expected, and the value.
    """

    def __post_init__(self) -> None:
        types_of = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if info := field.metadata.get("option"):
                _check(field.name, getattr(self, field.name), types_of[field.name], info)

    @classmethod
    def options(cls) -> dict[str, OptionInfo]:
        """The declaration of each field that :func:`option` made, in their order."""
        return {f.name: f.metadata["option"] for f in dataclasses.fields(cls) if "option" in f.metadata}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping, as :meth:`to_dict` gives it; what is missing keeps its default.

        Raises:
            OptionError: a name is unknown, or a value does not fit.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                check_choice(cls.__name__, name, sorted(known))
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**lists)

    def to_dict(self) -> dict[str, Any]:
        """The values by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def replace(self, **values: Any) -> Self:
        """The same with other values."""
        return dataclasses.replace(self, **values)


def _check(name: str, value: Any, type_of: Any, info: OptionInfo) -> None:
    members = get_args(type_of) if isinstance(type_of, types.UnionType) else (type_of,)
    if value is None and type(None) in members:
        return
    if info.choices:
        check_choice(name, value, info.choices)
    elif bool in members:
        if not isinstance(value, bool):
            raise OptionError(f"{name}: expected True or False, got {value!r}")
    elif int in members:
        check_int(name, value, -(2**63) if info.minimum is None else int(info.minimum), _whole(info.maximum))
    elif float in members:
        lowest, highest = info.minimum, info.maximum
        check_float(
            name, value, -math.inf if lowest is None else lowest, math.inf if highest is None else highest,
            info.exclude_minimum,
        )  # fmt: skip
    elif str in members and not isinstance(value, str):
        raise OptionError(f"{name}: expected a string, got {value!r}")


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)
