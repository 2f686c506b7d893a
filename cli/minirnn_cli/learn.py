"""``learn``: a trained model predicts, and goes on learning from, a stream of lines."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from minirnn import tasks
from minirnn.tasks import Line
from minirnn.tasks.online import ONLINE, LearnConfig, Outcome, learner
from minirnn_cli import options as o
from minirnn_cli.lines import read_batches
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes, say


def learn(
    checkpoint: o.Checkpoint,
    input: Annotated[str, typer.Argument(help="A file; standard input where none is given.", show_default=False)] = "-",
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for {ONLINE}; by default that of the run.", rich_help_panel="Run")
    ] = None,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    quiet: o.Quiet = False,
    json: o.Json = False,
    **options: Any,
) -> None:
    """Predict each line of a stream, score the prediction, then learn from the line.

    Lines are text for a character model; a text, a tab and its label for a classifier; the header and the rows of a
    table for a forecaster. Prints the loss, its running mean and the prediction. Saves online.safetensors now and then
    and at the end, and goes on from it the next time.
    """
    o.use_threads(threads)
    config = LearnConfig.from_dict(options)
    path = find_checkpoint(checkpoint)
    folder = out or path.parent
    latest = folder / ONLINE
    continued = path == latest or (checkpoint.is_dir() and latest.is_file())
    path = latest if continued else path
    task = tasks.load(path)
    task.model.to(device)
    made = learner(task, config)
    if continued:
        made.resume(path)
    if not quiet:
        say(f"continuing from {path}, after {made.count:,} lines" if continued else f"learning on from {path}")
    stream, saved_at = _Stream(read_batches(input)), time.monotonic()
    with compile_notes(quiet), stream.ended_by_signals():
        try:
            for outcome in made.run(stream):
                print(dumps(outcome.facts, ensure_ascii=False) if json else _row(outcome), flush=True)
                if time.monotonic() - saved_at > config.save_every:
                    made.save(folder)
                    saved_at = time.monotonic()
        finally:  # a line that cannot be read, or a reader of the output that has gone, costs nothing learned before
            made.save(folder)
    if not quiet:
        mean = "" if made.mean_loss is None else f"; mean loss {made.mean_loss:.4f}"
        say(f"learned from {made.count:,} lines{mean}; saved in {latest}")
    if stream.received:
        raise typer.Exit(128 + stream.received)


def _row(outcome: Outcome) -> str:
    losses = ["-" if loss is None else f"{loss:.4f}" for loss in (outcome.loss, outcome.mean_loss)]
    return "\t".join(losses if outcome.prediction is None else [*losses, outcome.prediction])


class _Stream:
    """Lines as they arrive, until there are no more or SIGINT or SIGTERM is received; no line is left half learned."""

    def __init__(self, batches: Iterator[list[Line]]) -> None:
        self._batches, self._waiting, self.received = batches, False, 0

    def __iter__(self) -> Iterator[Line]:
        while not self.received:
            try:
                self._waiting = True
                batch = next(self._batches, None)
                self._waiting = False
            except _SignalError:
                return
            if batch is None:
                return
            for line in batch:
                if self.received:
                    return
                yield line

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Within, signals end the stream."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.received = number
            if self._waiting:
                raise _SignalError

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


class _SignalError(Exception):
    """A signal arrived while the stream was waiting for a line."""


o.add_parameters(learn, o.parameters(LearnConfig()))
