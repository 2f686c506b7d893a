"""The folder of a training run: its best, last and previous states, and its metrics.

A disk that is full, gone or read-only does not end a run: what could not be written stays in memory and is written
later, with a warning in the log. It is an error only when the run ends with something unsaved.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minirnn import checkpoint
from minirnn.errors import CheckpointError, SaveError

BEST, LAST, PREVIOUS, METRICS = "best.safetensors", "last.safetensors", "previous.safetensors", "metrics.jsonl"

RETRY_SECONDS = 10
"""Time between two attempts to write to a disk that failed."""

Contents = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays and description of a checkpoint."""

logger = logging.getLogger("minirnn")


def best_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that ``path`` means: a file, or the best one in the folder of a run, else its last.

    Raises:
        CheckpointError: it is a folder without either.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"no checkpoint in {path}; expected {BEST} or {LAST}")


class RunFolder:
    """The files of a run in the folder ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unsaved: dict[str, Contents] = {}
        self._lines: list[str] = []
        self._trim_to: int | None = None
        self._failed_at = -float("inf")

    # -------------------------------------------------------------------------------------------- writing

    def save(self, name: str, arrays: dict[str, np.ndarray], config: dict[str, Any]) -> None:
        """Write a checkpoint now, or as soon as the disk allows; a later one of the same name replaces it."""
        self._unsaved[name] = arrays, config
        self.flush()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics file, now or as soon as the disk allows."""
        self._lines.append(json.dumps(line) + "\n")
        self.flush()

    def flush(self, now: bool = False) -> None:
        """Write everything pending, unless the disk failed less than RETRY_SECONDS ago and ``now`` is False."""
        if not now and time.monotonic() - self._failed_at < RETRY_SECONDS:
            return
        failing = self._failed_at > -float("inf")
        try:
            self._trim()
            self._write_lines()
            for name in list(self._unsaved):
                previous = self.path / PREVIOUS if name == LAST else None
                checkpoint.save(self.path / name, *self._unsaved[name], previous)
                del self._unsaved[name]
        except OSError as error:
            self._failed_at = time.monotonic()
            if not failing:
                reason = error.strerror or error
                logger.warning("cannot write to %s: %s; training continues and will retry to save", self.path, reason)
        else:
            if failing:
                logger.warning("%s can be written to again; everything is saved", self.path)
            self._failed_at = -float("inf")

    def _write_lines(self) -> None:
        """Append whole lines or none: a line cut off by a full disk is removed."""
        if not self._lines:
            return
        path = self.path / METRICS
        before = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "ab") as file:
                file.write("".join(self._lines).encode())
        except OSError:
            if path.exists() and path.stat().st_size > before:
                os.truncate(path, before)
            raise
        self._lines.clear()

    def close(self) -> None:
        """Write everything pending.

        Raises:
            SaveError: it cannot be written; the message says which state is on the disk.
        """
        self.flush(now=True)
        if self._unsaved or self._lines or self._trim_to is not None:
            raise SaveError(
                f"the end of the run could not be saved in {self.path}: the disk still fails; "
                f"{LAST} holds the last state that was saved"
            )

    # -------------------------------------------------------------------------------------------- reading

    def load(self) -> Contents:
        """Return the last state, or where it is damaged the one before it, with a warning.

        Raises:
            CheckpointError: neither can be read.
        """
        try:
            return checkpoint.load(self.path / LAST)
        except CheckpointError as error:
            if not (self.path / PREVIOUS).is_file():
                raise
            contents = checkpoint.load(self.path / PREVIOUS)
            logger.warning("%s; continuing from %s, the state saved before it", error, PREVIOUS)
            return contents

    def load_config(self) -> dict[str, Any]:
        """Return only the description of the last state, or where it is damaged of the one before it.

        Raises:
            CheckpointError: neither can be read.
        """
        try:
            return checkpoint.load_config(self.path / LAST)
        except CheckpointError:
            if not (self.path / PREVIOUS).is_file():
                raise
            return checkpoint.load_config(self.path / PREVIOUS)

    def metrics(self) -> dict[str, np.ndarray]:
        """Return the columns of the metrics file by name: one value for each line, NaN where a line has none.

        A last line without its end is left out: it is still being written.

        Raises:
            CheckpointError: the folder is no run's, or its metrics file is empty or damaged; says where.
        """
        path = self.path / METRICS
        try:
            *lines, _ = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} is not the folder of a run: it has no {METRICS}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
        if not lines:
            raise CheckpointError(f"{path} holds no line yet; expected a run of some steps")
        columns: dict[str, np.ndarray] = {}
        for number, line in enumerate(lines):
            for name, value in _numbers_of(line, f"{path}:{number + 1}").items():
                columns.setdefault(name, np.full(len(lines), np.nan))[number] = np.nan if value is None else value
        return columns

    def clear_metrics(self) -> None:
        """Start a new metrics file."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / METRICS).unlink(missing_ok=True)

    def trim_metrics(self, step: int) -> None:
        """Remove incomplete lines and those of steps after ``step``, which will be trained again."""
        self._lines = [line for line in self._lines if _step_of(line) <= step]
        self._trim_to = step
        self.flush()

    def _trim(self) -> None:
        path = self.path / METRICS
        if self._trim_to is not None and path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= self._trim_to]
            checkpoint.write_atomically(path, "".join(kept).encode())
        self._trim_to = None


def _numbers_of(line: str, where: str) -> dict[str, float | None]:
    try:
        values = json.loads(line)
        if "step" not in values or not all(v is None or type(v) in (int, float) for v in values.values()):
            raise ValueError
        return {name: None if value is None else float(value) for name, value in values.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CheckpointError(f"{where}: expected a JSON object of numbers with a step, got {line[:40]!r}") from None


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
