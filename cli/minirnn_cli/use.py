"""``predict`` and ``eval``: using a trained model, of whichever task."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from json import dumps
from typing import Annotated, Any

import typer

from minirnn import random, tasks
from minirnn.data.sources import normalize_newlines
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.tasks import Line
from minirnn.tasks.char import TextGenerator
from minirnn_cli import options as o
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes

_BATCH_SIZE = 256  # lines of a file that are predicted together
_SUFFIXES = (".csv", ".gz", ".json", ".mid", ".safetensors", ".tsv", ".txt", ".wav")


def predict(
    context: typer.Context,
    checkpoint: o.Checkpoint,
    input: Annotated[
        str | None, typer.Argument(help="A file, or the text itself; standard input where neither is given.")
    ] = None,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Classify, tag, translate, forecast or compose with a trained model; prints one result per line."""
    o.use_threads(threads)
    given = o.typed(context, options)
    if given.get("seed") is None:
        random.seed_from_system()
    path = find_checkpoint(checkpoint)
    task = tasks.load(path)
    if isinstance(task, TextGenerator):
        raise CheckpointError(
            f"{path} holds {task.description}, which writes text rather than predicts: minirnn sample"
        )
    for name in given:
        if name not in task.PredictConfig.options():
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} is not for the model in {path}, a {type(task).__name__.lower()}")
    task.model.to(device)
    lines = _lines(input)
    typed_in = input in (None, "-") and sys.stdin.isatty()  # by a person, who wants an answer to each line at once
    batches = [list(lines)] if task.predicts_whole_input else _batches(lines, 1 if typed_in else _BATCH_SIZE)
    with compile_notes(quiet):
        for batch in batches:
            for prediction in task.predict(batch, task.PredictConfig.from_dict(given)):
                print(dumps(prediction.facts, ensure_ascii=False) if json else prediction.text)
            sys.stdout.flush()


o.add_parameters(
    predict,
    [one for task in tasks.TASKS.values() for one in o.parameters(task.PredictConfig(), optional=True)],
)


def _batches(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    iterator = iter(lines)
    return iter(lambda: list(itertools.islice(iterator, size)), [])


def _lines(input: str | None) -> Iterator[Line]:
    """The lines of a file, of standard input, or of the text that ``input`` is."""
    if input is None or input == "-":
        yield from _decoded(sys.stdin.buffer, "standard input")
    elif is_file(input):
        with open(input, "rb") as file:
            yield from _decoded(file, input)
    else:
        for line in _split(input):
            yield Line(line, "the text given")


def is_file(input: str) -> bool:
    """Whether ``input`` is a file (or a pipe with a name), not a text; a DataError where it is a folder or no file."""
    if os.path.isdir(input):
        raise DataError(f"{input} is a folder; expected a file, or a text")
    if os.path.exists(input):  # not Path: it raises where a text is too long for a name
        return True
    named = input.lower().endswith(_SUFFIXES) or input.startswith(("/", "./", "../", "~"))
    if named and not any(map(str.isspace, input)):
        raise DataError(f"there is no file {input}")
    return False


def _decoded(file: Iterable[bytes], name: str) -> Iterator[Line]:
    """The lines of a file as they come, with line ends and byte order marks as in training data."""
    number = 0
    for raw in file:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number + 1}: byte {error.start} of the line is not UTF-8 text") from None
        for line in _split(text):
            number += 1
            yield Line(line, f"{name}:{number}")


def _split(text: str) -> list[str]:
    """Split at line ends of any kind, and at nothing else."""
    return normalize_newlines(text).removesuffix("\n").split("\n")


def evaluate(
    checkpoint: o.Checkpoint,
    data: Annotated[list[str], typer.Argument(help="Data like that of the training; - is standard input.")],
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Measure a trained model on data that it was not trained on: loss and the metrics of its task."""
    o.use_threads(threads)
    task = tasks.load(find_checkpoint(checkpoint))
    task.model.to(device)
    with compile_notes(quiet):
        metrics = task.measure(data)
    if json:
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        print(dumps(known, allow_nan=False))
    else:
        for name, value in metrics.items():
            print(f"{name} {value:.6g}")
