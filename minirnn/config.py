"""Configurations: dataclasses whose fields carry help, limits and flags, from which command-line options are made.

A field is declared once, by :func:`option`. The class checks its values; a subclass may give a field another default
and keeps the rest of the declaration; the command line makes its options of the same declarations.

>>> @dataclass(frozen=True, kw_only=True)
... class ModelConfig(Config):
...     hidden_size: int = option(128, "Units in a layer.", 1)
>>> ModelConfig(hidden_size=0)
Traceback (most recent call last):
minirnn.errors.OptionError: hidden_size: expected an int of at least 1, got 0
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from minirnn.errors import OptionError
from minirnn.validation import check_choice, check_float, check_int


@dataclass(frozen=True)
class OptionInfo:
    """What is known of a field.

    Attributes:
        help: one sentence for a person.
        minimum, maximum: limits of a number, both included unless ``exclude_minimum``; infinity is allowed only as
            ``maximum``.
        choices: the values of a string; those of its type where that is a Literal.
        flags: its names on the command line, the preferred one first; for a bool ``"--on/--off"``, as in Typer.
        group: heading under which it is shown; ``Config.group`` of its class where None.
        metavar: what stands for the value in help.
        log: a range of it is searched on a logarithmic scale, see :mod:`minirnn.sweep`.
        is_data: it names a file whose contents count, not its name: a resumed run may name another one.
        types: those that a value may have: ``int | None`` as ``(int, NoneType)``.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    exclude_minimum: bool = False
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    group: str | None = None
    metavar: str | None = None
    log: bool = False
    is_data: bool = False
    types: tuple[Any, ...] = ()


def option(default: Any, help: str, minimum: float | None = None, maximum: float | None = None, **info: Any) -> Any:
    """Return a field of a :class:`Config`: its default, its help, and what else :class:`OptionInfo` takes."""
    return dataclasses.field(default=default, metadata={"option": OptionInfo(help, minimum, maximum, **info)})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of all configurations. Values are checked when one is made, by the declarations of the fields.

    Raises:
        OptionError: a value is of another type or out of range; says its name, what was expected, and the value.
    """

    group: ClassVar[str] = "Model"

    def __post_init__(self) -> None:
        for name, info in self.options().items():
            _check(name, getattr(self, name), info)

    def __init_subclass__(cls) -> None:
        """Let the docstring list every option."""
        lines = []
        for name, info in _declarations(cls).items():
            default = getattr(cls, name)  # of the class under way still the field itself
            default = default.default if isinstance(default, dataclasses.Field) else default
            lines.append(f"    {name}: {info.help} Default: {default!r}.")
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Args:", *lines])

    @classmethod
    @cache
    def options(cls) -> dict[str, OptionInfo]:
        """Return the declaration of every field, in their order, with everything that is derived filled in."""
        declared, hints = _declarations(cls), get_type_hints(cls)
        return {field.name: _filled(field.name, declared[field.name], hints) for field in dataclasses.fields(cls)}

    @classmethod
    def field_named(cls, key: str) -> str | None:
        """Return the field that is called ``key`` or has the flag ``--key``; None where there is none."""
        flag = "--" + key.strip("-").replace("_", "-")
        named = (name for name, info in cls.options().items() if key == name or flag in info.flags)
        return next(named, None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one of a mapping, as :meth:`to_dict` gives it; what is missing keeps its default.

        Raises:
            OptionError: a name is unknown, or a value does not fit.
        """
        for name in values:
            check_choice(cls.__name__, name, cls.options())
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return {name: getattr(self, name) for name in self.options()}

    def subset(self, *names: str) -> dict[str, Any]:
        """Return some of the values by name."""
        return {name: getattr(self, name) for name in names}

    def replace(self, **values: Any) -> Self:
        """Return a copy with other values."""
        return dataclasses.replace(self, **values)


def _declarations(cls: type[Config]) -> dict[str, OptionInfo]:
    """What :func:`option` declared in a class and its bases; a field that is overridden keeps its declaration."""
    declared: dict[str, OptionInfo] = {}
    for base in reversed(cls.__mro__):
        for name in inspect.get_annotations(base):
            field = vars(base).get("__dataclass_fields__", vars(base)).get(name)
            if isinstance(field, dataclasses.Field) and "option" in field.metadata:
                info = field.metadata["option"]
                declared[name] = dataclasses.replace(info, group=info.group or getattr(base, "group", None))
    return declared


def _filled(name: str, info: OptionInfo, hints: Mapping[str, Any]) -> OptionInfo:
    union = get_origin(hints[name]) in (Union, UnionType)
    kinds = get_args(hints[name]) if union else (hints[name],)
    choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else info.choices
    flags = info.flags or ("--" + name.replace("_", "-"),)
    return dataclasses.replace(info, types=kinds, choices=choices, flags=flags)


def _check(name: str, value: Any, info: OptionInfo) -> None:
    if value is None and NoneType in info.types:
        return
    kind, lowest, highest = info.types[0], info.minimum, info.maximum
    if info.choices:
        check_choice(name, value, info.choices)
    elif kind is bool and not isinstance(value, bool):
        raise OptionError(f"{name}: expected True or False, got {value!r}")
    elif kind is int:
        check_int(name, value, -(2**63) if lowest is None else int(lowest), None if highest is None else int(highest))
    elif kind is float:
        least, most = -math.inf if lowest is None else lowest, math.inf if highest is None else highest
        if math.isinf(check_float(name, value, least, most, info.exclude_minimum)) and highest is None:
            raise OptionError(f"{name}: expected a finite number, got {value}")
    elif get_origin(kind) is tuple:
        if not (isinstance(value, (tuple, list)) and all(isinstance(member, str) for member in value)):
            raise OptionError(f"{name}: expected a list of strings, got {value!r}")
    elif set(info.types) <= {str, NoneType} and not isinstance(value, str):
        raise OptionError(f"{name}: expected a string, got {value!r}")
