"""FLOOR 5: the folder of one training run: its best and last states, the last but one, and its metrics.

A disk that is full, gone or read-only does not end a run: what could not be written is kept and written later, and
said in ``notices``. Only when a run ends with something unsaved is that an error.
"""

from __future__ import annotations

import json
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
"""Between two attempts to write to a disk that has failed."""

Contents = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays and description of a checkpoint."""


class RunFolder:
    """The files of a run in ``path``.

    Args:
        notices: gets what a person should know, as it happens.
    """

    def __init__(self, path: Path, notices: list[str]) -> None:
        self.path, self.notices = path, notices
        self._unsaved: dict[str, Contents] = {}
        self._lines: list[str] = []
        self._trim_to: int | None = None
        self._failed_at = -float("inf")

    # -------------------------------------------------------------------------------------------- writing

    def save(self, name: str, arrays: dict[str, np.ndarray], config: dict[str, Any]) -> None:
        """Write a checkpoint now, or as soon as the disk allows; a later one of the same name takes its place."""
        self._unsaved[name] = arrays, config
        self.flush()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics file, now or as soon as the disk allows."""
        self._lines.append(json.dumps(line) + "\n")
        self.flush()

    def flush(self, now: bool = False) -> None:
        """Write what waits, unless a disk that failed a moment ago needs rest (and ``now`` is off)."""
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
                self.notices.append(
                    f"cannot write to {self.path}: {error.strerror or error}; training goes on, "
                    f"and so do attempts to save"
                )
        else:
            if failing:
                self.notices.append(f"{self.path} can be written to again; everything is saved")
            self._failed_at = -float("inf")

    def _write_lines(self) -> None:
        """Whole lines or none: what a full disk cut off is taken back."""
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
        """Write what waits.

        Raises:
            SaveError: it cannot be; says what is on the disk instead.
        """
        self.flush(now=True)
        if self._unsaved or self._lines or self._trim_to is not None:
            raise SaveError(
                f"the end of the run could not be saved in {self.path}: the disk failed to the last; "
                f"{LAST} holds the state that was saved last"
            )

    # -------------------------------------------------------------------------------------------- reading

    def load(self) -> Contents:
        """The last state; the one before it, with a notice, where the last is damaged.

        Raises:
            CheckpointError: neither can be read.
        """
        try:
            return checkpoint.load(self.path / LAST)
        except CheckpointError as error:
            if not (self.path / PREVIOUS).is_file():
                raise
            contents = checkpoint.load(self.path / PREVIOUS)
            self.notices.append(f"{error}; going on from {PREVIOUS}, the state saved before it")
            return contents

    def load_config(self) -> dict[str, Any]:
        """Only the description of the last state, or of the one before it where that cannot be read.

        Raises:
            CheckpointError: neither can be read.
        """
        try:
            return checkpoint.load_config(self.path / LAST)
        except CheckpointError:
            if not (self.path / PREVIOUS).is_file():
                raise
            return checkpoint.load_config(self.path / PREVIOUS)

    def clear_metrics(self) -> None:
        """Begin a new metrics file."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / METRICS).unlink(missing_ok=True)

    def trim_metrics(self, step: int) -> None:
        """Drop lines of steps after ``step``, and what is no whole line: they will be made again."""
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


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
