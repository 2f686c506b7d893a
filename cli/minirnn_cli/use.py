"""``predict``, ``eval`` and ``sample``: using a trained model, of whichever task."""

from __future__ import annotations

import io
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from json import dumps
from typing import Annotated, Any, cast

import typer

from minirnn import random, tasks
from minirnn.data.sources import normalize_newlines
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.tasks import Line
from minirnn.tasks.char import SampleConfig, TextGenerator
from minirnn_cli import options as o
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes, say

_BATCH_SIZE = 256  # lines that are predicted together
_BLOCK = 1 << 20  # bytes of a pipe that are read together
_SUFFIXES = (".csv", ".gz", ".json", ".mid", ".safetensors", ".tsv", ".txt", ".wav")


def predict(
    context: typer.Context,
    checkpoint: o.Checkpoint,
    input: Annotated[
        str,
        typer.Argument(help="A file, or the text itself; standard input where neither is given.", show_default=False),
    ] = "-",
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
    config = task.PredictConfig.from_dict(given)
    batches = _batches(input)
    with compile_notes(quiet):
        if task.predicts_whole_input and not _is_live(input):
            found = iter([task.predict_lines(list(itertools.chain.from_iterable(batches)), config)])
        else:
            found = task.predict_batches(batches, config)
        for predictions in found:
            for prediction in predictions:
                print(dumps(prediction.facts, ensure_ascii=False) if json else prediction.text)
            sys.stdout.flush()


o.add_parameters(
    predict,
    [one for task in tasks.TASKS.values() for one in o.parameters(task.PredictConfig(), optional=True)],
)


def _is_live(input: str) -> bool:
    """Whether lines may still be written while others are answered: standard input, or a pipe with a name."""
    return input == "-" or (os.path.exists(input) and not os.path.isfile(input))


def _batches(input: str) -> Iterator[list[Line]]:
    """The lines of a file, of standard input, or of the text that ``input`` is, in batches."""
    if input == "-":
        if sys.stdin is None:
            raise DataError("standard input is closed; expected a file, a text, or lines on standard input")
        yield from _arriving(cast(io.BufferedReader, sys.stdin.buffer), "standard input")
    elif os.path.isdir(input):
        raise DataError(f"{input} is a folder; expected a file, or a text")
    elif os.path.exists(input):  # not Path: it raises where a text is too long for a name
        with open(input, "rb") as file:
            yield from _arriving(file, input) if _is_live(input) else _in_batches(_decoded(file, input))
    elif not any(map(str.isspace, input)) and (
        input.lower().endswith(_SUFFIXES) or input.startswith(("/", "./", "../", "~"))
    ):
        raise DataError(f"there is no file {input}")
    else:
        yield [Line(line, "the text given") for line in _split(input)]


def _in_batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    return iter(lambda: list(itertools.islice(lines, _BATCH_SIZE)), [])


def _arriving(file: io.BufferedReader, name: str) -> Iterator[list[Line]]:
    """The lines of a pipe in batches of those that have arrived; waits only while there is no whole line."""
    parts: list[bytes] = []  # of a line whose end has not arrived
    number = 0
    while block := file.read1(_BLOCK):  # one read: what is there
        whole, newline, rest = block.rpartition(b"\n")
        if newline:
            for batch in _in_batches(_decoded(b"".join([*parts, whole]).split(b"\n"), name, number)):
                number += len(batch)
                yield batch
            parts = []
        parts.append(rest)
    if last := b"".join(parts):
        yield list(_decoded([last], name, number))


def _decoded(raw_lines: Iterable[bytes], name: str, number: int = 0) -> Iterator[Line]:
    """Lines as text, with line ends and byte order marks as in training data; ``number`` were read before."""
    for raw in raw_lines:
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


def sample(
    checkpoint: o.AnyCheckpoint = None,
    num: Annotated[int, typer.Option(min=1, help="Number of texts.", rich_help_panel=SampleConfig.group)] = 1,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Generate text with a trained character model; prints it as it is made."""
    o.use_threads(threads)
    config = SampleConfig.from_dict(options)
    generator = TextGenerator.load(find_checkpoint(checkpoint, TextGenerator.name))
    generator.model.to(device)
    if (missing := generator.symbols.missing(config.prime)) and not quiet:
        say(f"the model does not know {missing!r}; left out of the prime")
    if config.seed is None:
        random.seed_from_system()
    with compile_notes(quiet):
        for number in range(num):
            seed = None if config.seed is None else config.seed + number
            options = config.replace(seed=seed).to_dict()
            pieces = generator.stream(**options)  # checks the prime before anything is written
            if json:
                print(dumps({"prime": config.prime, "text": "".join(pieces)}, ensure_ascii=False))
                continue
            for piece in itertools.chain([config.prime], pieces, ["\n"]):
                sys.stdout.write(piece)
                sys.stdout.flush()


o.add_parameters(sample, o.parameters(SampleConfig()))
