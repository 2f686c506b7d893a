"""What a training run looks like on a terminal; everything goes to standard error but ``--json`` lines."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from minirnn.training import Step, Trainer
from minirnn_cli.options import leave_stdout

_SAMPLES = 5  # shown over a whole run
_SAMPLE_LINES = 8  # of a sample shown while training


def say(text: str) -> None:
    """A message for a person, on standard error."""
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
def stop_on_signals(trainer: Trainer) -> Iterator[Callable[[], int]]:
    """The first SIGINT or SIGTERM ends the run after the step under way; the second ends it at once.

    Yields a function that gives the signal received, or 0.
    """
    received = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise SystemExit(128 + number)
        received = number
        trainer.stop()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def show_training(
    trainer: Trainer, sample: Callable[[], str] | None, quiet: bool, as_json: bool, unit: str,
    changed: Callable[[], str | None],
) -> None:  # fmt: skip
    """Run ``trainer`` to its end and show it.

    Args:
        sample: makes a sample to show after some of the evaluations.
        quiet: nothing but errors.
        as_json: every line of the metrics file on standard output too.
        unit: what a token is called ("characters").
        changed: a warning where the data is no longer what was read.

    Raises:
        typer.Exit: 128 plus the signal's number after a signal; 1 where the reader of the JSON lines has gone.
    """
    reader_gone, warned, progress = False, False, 0.0
    with stop_on_signals(trainer) as received, compile_notes(quiet), _bar(quiet) as update:
        for step in trainer.fit():
            if as_json and step.logged and not reader_gone:
                try:
                    print(json.dumps(step.line(), allow_nan=False), flush=True)
                except BrokenPipeError:
                    reader_gone = True
                    leave_stdout()
                    trainer.stop()
            update(step, unit)
            for notice in step.notices:
                update.print(f"step {step.step:>6}  {notice}")
            if step.skipped and not quiet:
                update.print(f"step {step.step:>6}  loss not finite, or exploded; step skipped")
            if step.metrics is not None and not warned and (warning := changed()):
                warned = True
                update.print(f"step {step.step:>6}  {warning}")
            if step.metrics is None or quiet:
                continue
            update.print(_evaluation_line(step))
            if sample is not None and int(step.progress * _SAMPLES) > int(progress * _SAMPLES):
                progress = step.progress
                update.print(_indented(sample()))
    if reader_gone:
        raise typer.Exit(1)
    if number := received():
        if not quiet:
            where = f"; saved in {trainer.out}, go on with --resume" if trainer.out else ""
            say(f"stopped at step {trainer.position.step}{where}")
        raise typer.Exit(128 + number)


def _evaluation_line(step: Step) -> str:
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in (step.metrics or {}).items())
    star = "  (best so far)" if step.best else ""
    return (
        f"step {step.step:>6}  epoch {step.epoch:6.2f}  {_duration(step.seconds):>6}  "
        f"train_loss {step.train_loss:.4f}  {metrics}{star}"
    )


def _indented(text: str) -> str:
    return "\n".join("    | " + line for line in text.strip("\n").splitlines()[:_SAMPLE_LINES])


class _Update:
    """Takes steps; on a terminal it moves a progress bar, elsewhere it prints evaluations only."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def __call__(self, step: Step, unit: str) -> None:
        if self._progress is None:
            return
        rate = step.tokens / step.seconds if step.seconds else 0.0
        left = step.seconds * (1 - step.progress) / step.progress if step.progress else 0.0
        self._progress.update(
            self._task, completed=step.progress,
            note=f"loss {step.train_loss:.3f}  {rate:,.0f} {unit}/s  {_duration(left)} left",
        )  # fmt: skip

    def print(self, text: str) -> None:
        if self._progress is None:
            say(text)
        else:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bar(quiet: bool) -> Iterator[_Update]:
    if quiet or not sys.stderr.isatty():
        yield _Update(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(bar_width=30), TaskProgressColumn(), TextColumn("{task.fields[note]}", markup=False))
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=5) as progress:
        yield _Update(progress, progress.add_task("", total=1.0, note="starting"))
