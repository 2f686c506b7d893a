"""Options of commands: those made of configurations, and those that only the command line has."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from minirnn.config import Config
from minirnn.kernels import set_num_threads

_MAX_THREADS = 1024

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.")]
AnyCheckpoint = Annotated[
    Path | None, typer.Argument(help="A checkpoint, or the folder of a run; by default the newest run.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=_MAX_THREADS, help="Threads; by default one per core.", rich_help_panel="Run")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute: cuda is a GPU.", rich_help_panel="Run")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.", rich_help_panel="Run")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON lines.", rich_help_panel="Run")]


def parameters(config: Config, optional: bool = False) -> list[inspect.Parameter]:
    """Return the parameters of a command that stand for the fields of a configuration, with its values as defaults.

    Args:
        optional: the defaults are None, and those of ``config`` are only shown.
    """
    made = []
    for name, info in config.options().items():
        kind: Any = info.types[0]
        default = getattr(config, name)
        if info.choices:
            kind = Literal[info.choices]
        elif kind not in (bool, int, float, str):
            kind = str if str in info.types else list[str]
        shown = True if not optional else default is not None and str(default)
        declared = typer.Option(
            *info.flags,
            min=info.minimum,
            max=None if info.maximum == math.inf else info.maximum,
            metavar=info.metavar,
            help=info.help,
            rich_help_panel=info.group,
            show_default=shown,
        )
        default = None if optional else default
        annotation: Any = Annotated[kind | None if default is None else kind, declared]
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return made


def add_parameters(function: Callable[..., None], added: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """Let Typer see ``added`` in place of the ``**options`` of a command, before its own parameters with defaults."""
    own = inspect.signature(function, eval_str=True).parameters.values()
    every = [
        *(one for one in own if one.default is one.empty and one.kind != one.VAR_KEYWORD),
        *added,
        *(one for one in own if one.default is not one.empty),
    ]
    every = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in every]
    function.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in every}
    return function


def typed(context: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``options`` that the person typed, rather than leaving them at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in options}
    return {name: options[name] for name, source in sources.items() if source and source.name != "DEFAULT"}


def use_threads(count: int | None) -> None:
    """Limit the number of threads, unless None."""
    if count is not None:
        set_num_threads(count)


def close_stdout() -> None:
    """Discard further output, so that a closed pipe causes no errors, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
