"""What a training run looks like on a terminal. Everything goes to standard error, except the lines of ``--json``."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import typer

from minirnn import distributed
from minirnn.tasks import Task
from minirnn.training import Step, Trainer
from minirnn_cli.options import close_stdout

_SAMPLES = 5  # shown over a whole run
_SAMPLE_LINES = 8


def say(text: str) -> None:
    """Print a message on standard error, of several processes only the first."""
    if distributed.rank() == 0:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def compile_notes(quiet: bool) -> Iterator[None]:
    """Say once that kernels are being compiled, when it happens."""
    if quiet:
        yield
        return
    from minirnn.kernels.cache import on_compile

    told = False

    def listener(kernel: str) -> None:
        nonlocal told
        if not told:
            told = True
            say("compiling kernels for this machine (once; a few seconds) ...")

    with on_compile(listener):
        yield


@contextmanager
def _compile_ahead(trainer: Trainer) -> Iterator[None]:
    """Compile the kernels of a training step on two processors."""
    from minirnn.kernels.ahead import compile_ahead

    def step() -> None:
        trainer.compute_gradients(trainer.progress)
        trainer.optimizer.step()

    alone = distributed.size() == 1  # a process that MPI has started cannot be forked
    on_cpu = all(parameter.device == "cpu" for parameter in trainer.task.model.parameters())
    with compile_ahead(step) if alone and on_cpu else nullcontext():
        yield


class _Handler(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextmanager
def show_log(show: Callable[[str], None], quiet: bool) -> Iterator[None]:
    """Show what the library logs, by ``show`` and nothing else; with ``quiet`` only warnings."""
    logger = logging.getLogger("minirnn")
    before, level = logger.handlers, logger.level
    logger.handlers = [_Handler(show)]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.level = before, level


@contextmanager
def stop_on_signals(trainer: Trainer) -> Iterator[Callable[[], int]]:
    """The first SIGINT or SIGTERM ends the run after the current step; the second ends it at once.

    Yields a function that returns the signal received, or 0.
    """
    received = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            distributed.abort(128 + number)
            raise SystemExit(128 + number)
        received = number
        trainer.stop()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def show_training(
    trainer: Trainer, task: Task[Any, Any], quiet: bool, as_json: bool, warning: Callable[[], str | None]
) -> None:
    """Run ``trainer`` to its end and show it.

    Args:
        quiet: show warnings only.
        as_json: print every line of the metrics file on standard output too.
        warning: returns what to say once, such as that the data has changed.

    Raises:
        typer.Exit: 128 plus the signal's number after a signal; 1 where the reader of the JSON lines has gone.
    """
    others = distributed.rank() > 0
    quiet, as_json = quiet or others, as_json and not others
    reader_gone, warned, progress, show = False, False, 0.0, _Display(quiet)

    def note(text: str) -> None:
        show.print(f"step {trainer.position.step:>6}  {text}")

    with (
        stop_on_signals(trainer) as received,
        compile_notes(quiet),
        _compile_ahead(trainer),
        show,
        show_log(note, quiet),
    ):
        for step in trainer.fit():
            if as_json and step.logged and not reader_gone:
                try:
                    print(json.dumps(step.line(), allow_nan=False), flush=True)
                except BrokenPipeError:
                    reader_gone = True
                    close_stdout()
                    trainer.stop()
            show.update(step, task.unit)
            if step.skipped and not quiet:
                note("loss not finite, or exploded; step skipped")
            if step.metrics is None:
                continue
            if not warned and (text := warning()):
                warned = True
                note(text)
            if quiet:
                continue
            show.print(_evaluation_line(step, task.best_metric))
            if int(step.progress * _SAMPLES) > int(progress * _SAMPLES) and (output := task.sample_output()):
                progress = step.progress
                lines = output.strip("\n").splitlines()[:_SAMPLE_LINES]
                show.print("\n".join("    | " + line for line in lines))
    number = int(distributed.largest(received()))
    if reader_gone:
        raise typer.Exit(1)
    if number:
        if not quiet:
            say(f"stopped at step {trainer.position.step}; saved in {trainer.out}, continue with --resume")
        raise typer.Exit(128 + number)


def _evaluation_line(step: Step, best_metric: str) -> str:
    best = "best" if best_metric == "val_loss" else f"best {best_metric}"
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in (step.metrics or {}).items())
    return (
        f"step {step.step:>6}  epoch {step.epoch:6.2f}  {_duration(step.seconds):>6}  "
        f"train_loss {step.train_loss:.4f}  {metrics}{f'  ({best} so far)' if step.best else ''}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Display:
    """A progress bar with lines above it on a terminal; lines alone elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._bar: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (BarColumn(bar_width=30), TaskProgressColumn(), TextColumn("{task.fields[note]}", markup=False))
        self._bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=5)
        self._task = self._bar.add_task("", total=1.0, note="starting")

    def __enter__(self) -> None:
        if self._bar is not None:
            self._bar.start()

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: Step, unit: str) -> None:
        if self._bar is None:
            return
        rate = step.tokens / step.seconds if step.seconds else 0.0
        left = step.seconds * (1 - step.progress) / step.progress if step.progress else 0.0
        note = f"loss {step.train_loss:.3f}  {rate:,.0f} {unit}/s  {_duration(left)} left"
        self._bar.update(self._task, completed=step.progress, note=note)

    def print(self, text: str) -> None:
        if self._bar is None:
            say(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
