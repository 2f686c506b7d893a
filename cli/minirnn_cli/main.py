"""The ``minirnn`` command: registers the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from minirnn_cli import bench, char, classifier, files, forecaster, music, options, tagger, translator, use

FAULT, USAGE_ERROR, INTERRUPTED = 1, 2, 130
_LONGEST_NAME = 80  # characters of a file's name that are shown

app = typer.Typer(
    help="Small, fast recurrent networks: train one on your data, and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A person's mistake is one line on standard error and exit code 2; a fault of the system or the run 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from minirnn.errors import DivergedError, MinirnnError, SaveError

        if isinstance(sys.stdout, io.TextIOWrapper):  # any text can be shown, if not every sign of it
            sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="replace")
        try:
            command(*args, **kwargs)
        except MinirnnError as error:
            _complain(str(error))
            raise typer.Exit(FAULT if isinstance(error, (DivergedError, SaveError)) else USAGE_ERROR) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output has gone (| head): nothing is left to do
            options.leave_stdout()
            raise typer.Exit(0) from None
        except OSError as error:
            name = str(error.filename or "")
            shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 4] + " ..."
            _complain(f"{error.strerror or error}{f': {shown}' if shown else ''}")
            raise typer.Exit(USAGE_ERROR if error.errno == errno.ENAMETOOLONG else FAULT) from None
        except MemoryError as error:
            _complain(f"not enough memory ({str(error) or 'none left'}); lower --hidden, --batch-size or --seq-length")
            raise typer.Exit(FAULT) from None

    return run


def _complain(text: str) -> None:
    sys.stdout.flush()
    print(f"minirnn: {text}", file=sys.stderr)


_COMMANDS: dict[str, Callable[..., None]] = {
    "train-char": char.train_char,
    "sample": char.sample,
    "train-classifier": classifier.train_classifier,
    "train-tagger": tagger.train_tagger,
    "train-translator": translator.train_translator,
    "train-forecaster": forecaster.train_forecaster,
    "train-music": music.train_music,
    "predict": use.predict,
    "eval": use.evaluate,
    "info": files.info,
    "warmup": files.warmup,
    "bench": bench.bench,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_guarded(_command))


@app.callback(invoke_without_command=True)
def _main(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        import minirnn

        print(minirnn.__version__)
        raise typer.Exit


if __name__ == "__main__":
    app()
