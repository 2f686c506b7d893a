"""Event files for TensorBoard: a hook of :class:`~minirnn.training.Trainer`.

>>> board = TensorBoard("checkpoints/x", sample=task.sample_output)  # doctest: +SKIP
>>> trainer.hooks.append(board)  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.errors import OptionError
from minirnn.training import Step, Trainer

FLUSH_SECONDS = 10
_NOT_CURVES = ("step", "tokens", "seconds", "epoch")  # of a line of metrics
_BINS = 64  # of a histogram

logger = logging.getLogger("minirnn")


def check_installed() -> None:
    """Raise :class:`OptionError` where tensorboardX is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise OptionError("--tensorboard needs tensorboardX: pip install 'minirnn[tensorboard]'") from None


class TensorBoard:
    """Writes losses, metrics, learning rate and gradient norm as curves, weights as histograms, and samples as text.

    Curves have a point for each line of metrics.jsonl, with the same names; histograms and samples are written after
    every evaluation. What an earlier run has written to the folder for later steps than ``step``, and what training
    rolls back, is marked as void. A disk that fails ends the writing, with a warning in the log, but not the training.

    Args:
        folder: for the event files; ``tensorboard --logdir`` shows every folder below its own as one run.
        sample: gives some output of the model, or None.
        step: continue curves from here.

    Raises:
        OptionError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path, sample: Callable[[], str | None] | None = None, step: int = 0) -> None:
        check_installed()
        self.folder, self.sample = Path(folder), sample
        self._writer: Any = None
        self._failed = False
        self._flushed_at = time.monotonic()
        self._guarded(lambda: self._open(step))

    def __call__(self, trainer: Trainer, step: Step) -> None:
        """Write what is known after a step."""
        if step.rolled_back:
            self._guarded(lambda: self._open(trainer.position.step))
        elif step.logged:
            self._guarded(lambda: self._write(trainer, step))

    def close(self) -> None:
        """Write everything and close the file."""
        if self._writer is not None:
            self._guarded(self._writer.close)
        self._writer = None

    def _guarded(self, write: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            write()
        except OSError as error:
            self._failed = True
            reason = error.strerror or error
            logger.warning("cannot write event files to %s: %s; training continues without", self.folder, reason)
            with suppress(OSError):
                if self._writer is not None:
                    self._writer.close()

    def _open(self, step: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter  # not SummaryWriter, which hangs where the disk is full

        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer = RecordWriter(str(self.folder / f"events.out.tfevents.{time.time_ns()}"))
        self._add(file_version="brain.Event:2")
        if step:
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def _add(self, **event: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **event).SerializeToString())

    def _write(self, trainer: Trainer, step: Step) -> None:
        from tensorboardX import summary

        made = [summary.scalar(name, value) for name, value in _curves(step.line()).items()]
        if step.metrics is not None:
            for name, parameter in trainer.task.model.named_parameters():
                values = parameter.numpy()
                if np.isfinite(values).all():
                    made.append(summary.histogram(f"weights/{name}", values, _BINS))
            if self.sample is not None and (output := self.sample()):
                made.append(summary.text("sample", "\n".join(f"    {line}" for line in output.splitlines())))
        for one in made:
            self._add(step=step.step, summary=one)
        if step.metrics is not None or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed_at = time.monotonic()


def _curves(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in _NOT_CURVES and value is not None}
