"""``predict`` and ``eval``: a trained model at work, whichever task it is of."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minirnn.errors import DataError, OptionError
from minirnn_cli import options as o

if TYPE_CHECKING:
    from minirnn.tasks.common import Line

_AT_ONCE = 256  # lines of a file that go through the model together

_Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint or a run's folder.")]


def predict(
    checkpoint: _Checkpoint,
    input: Annotated[
        str | None, typer.Argument(help="A file, or the text itself; standard input where neither is given.")
    ] = None,
    beam: Annotated[int | None, typer.Option(min=1, help="Translator: hypotheses kept; 1 is greedy.")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(min=0, help="Translator: favour longer sentences the larger it is.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Translator: tokens at most.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Composer: time steps to write.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Composer: below 1 safer, above 1 wilder, 0 most probable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Composer: the same seed gives the same piece.")] = None,
    midi: Annotated[Path | None, typer.Option(help="Composer: write the piece as a MIDI file.")] = None,
    wav: Annotated[Path | None, typer.Option(help="Composer: write the piece as a sound file.")] = None,
    threads: o.Threads = None,
    device: o.Device = o.DeviceName.cpu,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Classify, tag, translate, forecast or compose with a trained model: one result a line."""
    from json import dumps

    from minirnn import random, tasks
    from minirnn.tasks.common import chunks
    from minirnn_cli.show import compile_notes

    o.use_threads(threads)
    if seed is None:
        random.seed_from_system()
    every = {
        "beam": beam, "length_penalty": length_penalty, "max_length": max_length, "length": length,
        "temperature": temperature, "seed": seed, "midi": midi, "wav": wav,
    }  # fmt: skip
    given = {name: value for name, value in every.items() if value is not None}
    path = o.find_checkpoint(checkpoint)
    predictor = tasks.load_predictor(path)
    predictor.model.to(device.value)
    if foreign := given.keys() - predictor.options:
        name = min(foreign).replace("_", "-")
        raise OptionError(f"--{name} is not for the model in {path}, a {type(predictor).__name__.lower()}")
    lines = _lines(input)
    batches = [list(lines)] if predictor.whole else chunks(lines, 1 if _typed_in(input) else _AT_ONCE)
    with compile_notes(quiet):
        for batch in batches:
            for prediction in predictor.predict(batch, **given):
                print(dumps(prediction.facts, ensure_ascii=False) if json else prediction.text)
            sys.stdout.flush()


def _typed_in(input: str | None) -> bool:
    """Whether a person types the lines, and wants each answered at once."""
    return input in (None, "-") and sys.stdin.isatty()


_SUFFIXES = (".csv", ".gz", ".json", ".mid", ".safetensors", ".tsv", ".txt", ".wav")


def _lines(input: str | None) -> Iterator[Line]:
    """The lines of a file or of standard input, or those that ``input`` is."""
    from minirnn.tasks.common import Line

    if input is None or input == "-":
        yield from _decoded(sys.stdin.buffer, "standard input")
    elif os.path.isdir(input):
        raise DataError(f"{input} is a folder; expected a file, or a text")
    elif os.path.isfile(input):  # a text is too long for a name: Path would raise
        with open(input, "rb") as file:
            yield from _decoded(file, input)
    elif not any(map(str.isspace, input)) and (
        input.lower().endswith(_SUFFIXES) or input.startswith(("/", "./", "../", "~"))
    ):
        raise DataError(f"there is no file {input}")
    else:
        for line in _split(input):
            yield Line(line, "the text given")


def _decoded(file: Iterable[bytes], name: str) -> Iterator[Line]:
    """Line by line as they come, see :func:`minirnn.data.sources.normalize_newlines`."""
    from minirnn.tasks.common import Line

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
    """At line ends of any kind, and at nothing else."""
    from minirnn.data.sources import normalize_newlines

    return normalize_newlines(text).removesuffix("\n").split("\n")


def evaluate(
    checkpoint: _Checkpoint,
    data: Annotated[list[str], typer.Argument(help="Data like that of the training; - is standard input.")],
    threads: o.Threads = None,
    device: o.Device = o.DeviceName.cpu,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Loss and the task's own metrics of a trained model on data it has not seen."""
    from json import dumps

    from minirnn import tasks
    from minirnn_cli.show import compile_notes

    o.use_threads(threads)
    path = o.find_checkpoint(checkpoint)
    trained = tasks.load(path)
    trained.model.to(device.value)
    with compile_notes(quiet):
        metrics: dict[str, Any] = trained.evaluate(data)
    if json:
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        print(dumps(known, allow_nan=False))
    else:
        for name, value in metrics.items():
            print(f"{name} {value:.6g}")
