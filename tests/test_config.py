"""Configurations: what a field declares, what is checked, and names for the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from minirnn.config import Config, option
from minirnn.errors import OptionError
from minirnn.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class Base(Config):
    group = "Layers"
    size: int = option(8, "Units.", 1, 100, flags=("--units", "--size"))
    rate: float = option(0.0, "A rate.", 0, 0.9)
    kind: Literal["last", "mean"] = option("last", "A kind.")
    limit: float | None = option(None, "A limit.", 0, math.inf, exclude_minimum=True, group="Limits")


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Options."""

    group = "Names"
    size: int = 16
    on: bool = option(False, "On or off.", flags=("--on/--off",))
    names: tuple[str, ...] | None = option(None, "Names.")
    file: str | None = option(None, "A file.")


def test_a_subclass_changes_defaults_and_keeps_declarations() -> None:
    assert (Base().size, Derived().size, Derived(size=3).size) == (8, 16, 3)
    options = Derived.options()
    assert list(options) == ["size", "rate", "kind", "limit", "on", "names", "file"]
    assert (options["size"].help, options["size"].minimum, options["size"].maximum) == ("Units.", 1, 100)
    assert [info.group for info in options.values()] == ["Layers"] * 3 + ["Limits"] + ["Names"] * 3
    assert options["kind"].choices == ("last", "mean")
    assert (options["rate"].flags, options["on"].flags) == (("--rate",), ("--on/--off",))
    assert options["limit"].types == (float, type(None))


def test_the_docstring_lists_every_option() -> None:
    """Of inherited ones with the default of the class."""
    assert Derived.__doc__ is not None
    lines = Derived.__doc__.splitlines()
    assert lines[2:5] == ["Args:", "    size: Units. Default: 16.", "    rate: A rate. Default: 0.0."]
    assert lines[-1] == "    file: A file. Default: None."


def test_fields_are_found_by_name_and_by_flag() -> None:
    names = {key: Derived.field_named(key) for key in ("size", "units", "--units", "rate", "on", "unit")}
    assert names == {"size": "size", "units": "size", "--units": "size", "rate": "rate", "on": "on", "unit": None}


def test_from_dict_is_the_inverse_of_to_dict() -> None:
    config = Derived(size=5, names=("a", "b"), limit=math.inf)
    assert Derived.from_dict(config.to_dict()) == config
    assert Derived.from_dict({"names": ["a", "b"]}).names == ("a", "b")
    assert config.subset("size", "rate") == {"size": 5, "rate": 0.0}
    assert config.replace(size=6).to_dict() == config.to_dict() | {"size": 6}
    with pytest.raises(OptionError, match=r"Derived: expected one of size, .*, got 'sise'; did you mean 'size'\?"):
        Derived.from_dict({"sise": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size: expected an int from 1 to 100, got 0"),
        ({"size": 2.5}, r"size: expected an int from 1 to 100, got 2\.5"),
        ({"size": True}, "size: expected an int from 1 to 100, got True"),
        ({"size": None}, "size: expected an int from 1 to 100, got None"),
        ({"rate": math.nan}, "rate: expected a number of at least 0 and at most 0.9, got nan"),
        ({"rate": "high"}, "rate: expected a number of at least 0 and at most 0.9, got 'high'"),
        ({"kind": "max"}, "kind: expected one of last, mean, got 'max'"),
        ({"limit": 0}, "limit: expected a number above 0, got 0"),
        ({"on": 1}, "on: expected True or False, got 1"),
        ({"names": "a"}, "names: expected a list of strings, got 'a'"),
        ({"names": [1]}, r"names: expected a list of strings, got \[1\]"),
        ({"file": 3}, "file: expected a string, got 3"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Derived(**values)


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_a_task_has_a_help_sentence(name: str) -> None:
    task = TASKS[name]
    for config in (task.Config(), task.training, task.PredictConfig()):
        for field, info in config.options().items():
            assert info.help[0].isupper(), field
            assert info.help.endswith("."), field
        assert type(config).from_dict(config.to_dict()) == config
