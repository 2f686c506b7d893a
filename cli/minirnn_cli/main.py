"""The ``minirnn`` command: registers the commands, and turns errors into one line and an exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Annotated, Any

import typer

import minirnn
from minirnn import distributed
from minirnn.errors import DivergedError, MinirnnError, OptionError, SaveError
from minirnn.tasks import TASKS
from minirnn_cli import (
    bench,
    data,
    draw,
    exchange,
    gradients,
    importing,
    info,
    learn,
    look,
    options,
    plot,
    sweep,
    system,
    text,
    use,
)
from minirnn_cli.show import say, show_log
from minirnn_cli.train import training_command

FAULT, USAGE_ERROR, INTERRUPTED = 1, 2, 130
_RANK_0_FIRST_SECONDS = 2
_MAX_NAME = 80  # characters of a file's name that are shown

atexit.register(gc.freeze)  # no search for garbage among the compiler's objects at the end, which takes 0.3 s

app = typer.Typer(
    help="Small, fast recurrent networks: train one on your data, and use it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A person's mistake becomes one line on standard error and exit code 2; a fault of the system or the run 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # so that any text can be printed
            sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="replace")
        try:
            with show_log(say, bool(kwargs.get("quiet"))):
                command(*args, **kwargs)
        except MinirnnError as error:
            raise _failed(str(error), FAULT if isinstance(error, (DivergedError, SaveError)) else USAGE_ERROR) from None
        except KeyboardInterrupt:
            distributed.abort(INTERRUPTED)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of the output has gone (| head)
            options.close_stdout()
            distributed.abort(FAULT)
            raise typer.Exit(0) from None
        except OSError as error:
            name = str(error.filename or "")
            shown = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 4] + " ..."
            code = USAGE_ERROR if error.errno == errno.ENAMETOOLONG else FAULT
            raise _failed(f"{error.strerror or error}{f': {shown}' if shown else ''}", code) from None
        except MemoryError as error:
            why = f"not enough memory ({str(error) or 'none left'}); lower --hidden, --batch-size or --seq-length"
            raise _failed(why, FAULT) from None

    return run


def _failed(text: str, code: int) -> typer.Exit:
    """Say why the command failed, and return how it ends; of several processes, one says it and ends all."""
    with suppress(OptionError):  # MPI cannot be used
        if distributed.rank() > 0:
            time.sleep(_RANK_0_FIRST_SECONDS)  # if all have failed, rank 0 ends this one meanwhile
    sys.stdout.flush()
    print(f"minirnn: {text}", file=sys.stderr)
    distributed.abort(code)
    return typer.Exit(code)


_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Train": {f"train-{name}": training_command(task) for name, task in TASKS.items()},
    "Use": {
        "sample": text.sample,
        "score": text.score,
        "predict": use.predict,
        "eval": use.evaluate,
        "learn": learn.learn,
        "export": exchange.export,
        "import": importing.import_file,
    },
    "Look inside": {
        "look": look.look,
        "info": info.info,
        "plot": plot.plot,
        "gradients": gradients.gradients,
        "draw": draw.draw,
        "bench": bench.bench,
    },
    "System": {"warmup": system.warmup},
}
for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_guarded(_command))
app.command(
    "sweep", rich_help_panel="Train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)(_guarded(sweep.sweep))
_data = typer.Typer(help="List corpora, and download one.")
_data.callback(invoke_without_command=True)(_guarded(data.list_corpora))
_data.command("get")(_guarded(data.get))
app.add_typer(_data, name="data", rich_help_panel="System")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(minirnn.__version__)
        raise typer.Exit


if __name__ == "__main__":
    app()
