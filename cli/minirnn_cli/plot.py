"""``plot``: curves of runs, and pictures of what a trained model does with data."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from minirnn import plot as pictures
from minirnn import tasks
from minirnn.errors import OptionError
from minirnn.tasks.music import Composer
from minirnn_cli import options as o
from minirnn_cli.lines import read_batches
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes

Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="FILE.png|svg|pdf", help="Write the picture to a file.", show_default=False),
]
Text = Annotated[bool, typer.Option("--text", help="Draw in characters, in the terminal.")]


def plot(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or checkpoints.")],
    out: Out = None,
    text: Text = False,
    x: Annotated[Literal["step", "time", "symbols"], typer.Option("--x", help="What curves are drawn over.")] = "step",
    metric: Annotated[
        str, typer.Option(help="What is drawn: a name in metrics.jsonl; loss is that of training and validation.")
    ] = "loss",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Draw what the model does with a file: a confusion matrix (classifier, tagger), forecasts over the "
            "true series (forecaster); of a model of music, with notes to begin with, a piece.",
            show_default=False,
        ),
    ] = None,
    quiet: o.Quiet = False,
    **options: Any,
) -> None:
    """Draw the training and validation curves of runs on one figure, or a picture of what a model does with data.

    Opens a window where there is a display, else draws in characters.
    """
    if out is not None:
        pictures.check_path(out)
    given = o.typed(context, options)
    if data is None:
        if given:
            raise OptionError(f"--{next(iter(given))} is for pieces of music; give the notes to begin with by --data")
        show_picture(pictures.learning_curves(runs, x, metric), out, text)
        return
    if len(runs) > 1:
        raise OptionError(f"--data: expected one run, got {len(runs)}")
    task = tasks.load(find_checkpoint(runs[0]))
    if given and not isinstance(task, Composer):
        raise OptionError(f"--{next(iter(given))} is for models of music, {runs[0]} holds {task.description}")
    with compile_notes(quiet):
        lines = [line for batch in read_batches(data) for line in batch] if isinstance(task, Composer) else []
        show_picture(pictures.picture_of(task, [data], lines, given), out, text)


o.add_parameters(
    plot,
    [
        one
        for one in o.parameters(Composer.PredictConfig(), optional=True)
        if one.name in ("length", "temperature", "seed")
    ],
)


def show_picture(picture: Any, out: Path | None, text: bool) -> None:
    """Write a picture to a file, or where there is none open a window, or print it in characters."""
    if out is not None:
        pictures.save(picture, out)
    terminal = sys.stdout.isatty()
    if out is None and not text and terminal and pictures.has_window():
        pictures.show(picture)
    elif out is None or text:
        drawn = picture.text(shutil.get_terminal_size().columns, color=terminal and "NO_COLOR" not in os.environ)
        try:
            "⣿┤█".encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:
            drawn = pictures.to_ascii(drawn)
        print(drawn)
