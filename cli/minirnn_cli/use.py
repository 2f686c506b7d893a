"""``predict`` and ``eval``: using a trained model, of whichever task."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from enum import StrEnum
from json import dumps
from typing import Annotated, Any

import typer

from minirnn import random, tasks
from minirnn.errors import OptionError
from minirnn.tasks.char import WEIGHTS, TextGenerator
from minirnn_cli import options as o
from minirnn_cli.lines import is_live, read_batches
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes

FewerBits = StrEnum("FewerBits", [name for name in WEIGHTS if name != "fp32"])  # type: ignore[misc] # as in bench


def predict(
    context: typer.Context,
    checkpoint: o.Checkpoint,
    input: Annotated[
        list[str] | None,
        typer.Argument(
            help="A file, or the text itself; recordings; standard input where nothing is given.", show_default=False
        ),
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
    for name in given:
        if name not in task.PredictConfig.options():
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} is not for the model in {path}, a {type(task).__name__.lower()}")
    task.model.to(device)
    config = task.PredictConfig.from_dict(given)
    inputs = input or ["-"]
    files = inputs != ["-"] and all(one.lower().endswith(task.file_suffixes) for one in inputs)
    if len(inputs) > 1 and not files:
        raise OptionError(f"expected one file or text, got {len(inputs)}; a text of several words needs quotes")
    batches = read_batches(inputs[0])
    with compile_notes(quiet):
        if files:
            found = iter([task.predict_files(inputs, config)])
        elif task.predicts_whole_input and not is_live(inputs[0]):
            found = iter([task.predict_lines(list(itertools.chain.from_iterable(batches)), config)])
        else:
            found = task.predict_batches(batches, config)
        for predictions in found:
            for prediction in predictions:
                print(dumps(prediction.facts, ensure_ascii=False) if json else prediction.text)
            sys.stdout.flush()


_OPTIONS: dict[str, inspect.Parameter] = {}
for one in (one for task in tasks.TASKS.values() for one in o.parameters(task.PredictConfig(), optional=True)):
    _OPTIONS.setdefault(one.name, one)  # a beam search has one --beam, whatever it searches
o.add_parameters(predict, _OPTIONS.values())


def evaluate(
    checkpoint: o.Checkpoint,
    data: Annotated[list[str], typer.Argument(help="Data like that of the training; - is standard input.")],
    weights: Annotated[
        list[FewerBits] | None,
        typer.Option(help="Measure a language model with the weights of sample --weights too; may be repeated."),
    ] = None,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Measure a trained model on data that it was not trained on: loss and the metrics of its task."""
    o.use_threads(threads)
    task = tasks.load(find_checkpoint(checkpoint))
    task.model.to(device)
    if weights and not isinstance(task, TextGenerator):
        raise OptionError(f"--weights is for a language model, got {task.description}")
    with compile_notes(quiet):
        metrics = task.measure(data, weights) if isinstance(task, TextGenerator) and weights else task.measure(data)
    if json:
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        print(dumps(known, allow_nan=False))
    else:
        for name, value in metrics.items():
            print(f"{name} {value:.6g}")
