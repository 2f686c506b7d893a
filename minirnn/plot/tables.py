"""A confusion matrix and a piano roll, as characters for a terminal or by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minirnn.data.music import Step
from minirnn.plot.chart import literal

_MAX_LABELS = 30  # of a drawn matrix; rarer ones are counted together
_OTHERS = "others"
_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_DARK = 0.6  # fraction of a row from which on its number is written in white


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How often each label was predicted for each.

    Attributes:
        counts: [C, C] integers, see :func:`minirnn.metrics.confusion_matrix`. labels: [C] names.
    """

    counts: np.ndarray
    labels: Sequence[str]
    title: str = ""

    def merged(self, maximum: int) -> ConfusionMatrix:
        """Return it with the most frequent labels only, the others counted together where there are more."""
        if len(self.labels) <= maximum:
            return self
        frequent = np.sort(np.argsort(-(self.counts.sum(0) + self.counts.sum(1)), kind="stable")[: maximum - 1])
        group = np.full(len(self.labels), maximum - 1)
        group[frequent] = np.arange(maximum - 1)
        counts = np.zeros((maximum, maximum), self.counts.dtype)
        np.add.at(counts, (group[:, None], group[None]), self.counts)
        return ConfusionMatrix(counts, [*(self.labels[n] for n in frequent), _OTHERS], self.title)

    def draw(self, figure: Any) -> None:
        """Draw into a figure of matplotlib: rows are true labels, colours fractions of a row."""
        shown = self.merged(_MAX_LABELS)
        size = len(shown.labels)
        fractions = shown.counts / np.maximum(1, shown.counts.sum(1, keepdims=True))
        figure.set_size_inches(*(2 * [max(4.0, min(14.0, 2.5 + 0.42 * size))]))
        axes = figure.subplots()
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        labels = [literal(label if len(label) <= 16 else label[:15] + "…") for label in shown.labels]
        axes.set_xticks(range(size), labels, rotation=90 if size > 4 else 0)
        axes.set_yticks(range(size), labels)
        for row, column in zip(*np.nonzero(shown.counts), strict=True):
            color = "white" if fractions[row, column] > _DARK else "black"
            number = str(shown.counts[row, column])
            axes.text(column, row, number, ha="center", va="center", color=color, fontsize=8 if size < 20 else 5)
        axes.set(xlabel="predicted", ylabel="true", title=self.title)

    def text(self, width: int = 80, color: bool = False) -> str:
        """Return the counts as a table of at most ``width`` columns; a row for each true label."""
        cell = max(len(str(self.counts.max(initial=0))), min(7, max(map(len, self.labels)))) + 1
        heading = min(max(len("true"), *map(len, self.labels)), 16)
        shown = self.merged(max(2, (width - heading) // cell))
        names = [label if label.isprintable() else repr(label) for label in shown.labels]
        rows = [f"{'true':<{heading}}" + "".join(f"{label[: cell - 1]:>{cell}}" for label in names)]
        for label, row in zip(names, shown.counts, strict=True):
            rows.append(f"{label[:heading]:<{heading}}" + "".join(f"{count or '·':>{cell}}" for count in row))
        right, total = int(np.trace(self.counts)), int(self.counts.sum())
        title = f"{self.title} (rows: true labels, columns: predicted)"
        return "\n".join([title.lstrip(), *rows, f"{right:,} of {total:,} right"])


@dataclass(frozen=True, eq=False)
class PianoRoll:
    """A piece of music: time from left to right, pitch from the bottom up.

    Attributes:
        piece: the MIDI pitches of each step. given: how many of its first steps were given rather than composed.
    """

    piece: Sequence[Step]
    given: int = 0
    title: str = ""

    def _roll(self) -> tuple[np.ndarray, int]:
        """[pitches, T], the highest first, and the lowest pitch."""
        pitches = [pitch for step in self.piece for pitch in step] or [60]
        low, high = min(pitches), max(pitches)
        roll = np.zeros((high - low + 1, len(self.piece)), bool)
        for t, step in enumerate(self.piece):
            roll[[high - pitch for pitch in step], t] = True
        return roll, low

    def draw(self, figure: Any) -> None:
        """Draw into a figure of matplotlib."""
        roll, low = self._roll()
        figure.set_size_inches(min(20.0, 3 + len(self.piece) / 8), 2 + len(roll) / 14)
        axes = figure.subplots()
        axes.imshow(roll, cmap="Blues", aspect="auto", extent=(0, len(self.piece), low - 0.5, low + len(roll) - 0.5))
        octaves = [pitch for pitch in range(low, low + len(roll)) if pitch % 12 == 0]
        axes.set_yticks(octaves, [pitch_name(pitch) for pitch in octaves])
        axes.grid(axis="y", alpha=0.4)
        if 0 < self.given < len(self.piece):
            axes.axvline(self.given, color="C1", linestyle="--", label="composed from here")
            axes.legend()
        axes.set(xlabel="step", ylabel="pitch", title=self.title)

    def text(self, width: int = 80, color: bool = False) -> str:
        """Return it in block characters, two pitches in a row, in parts of ``width`` columns."""
        roll, low = self._roll()
        high, columns = low + len(roll) - 1, max(8, width - 5)
        high, roll = high + (high + 1) % 2, np.pad(roll, (((high + 1) % 2, 0), (0, 0)))  # C is the lower half of a row
        roll = np.pad(roll, ((0, len(roll) % 2), (0, 0)))
        rows = [self.title] if self.title else []
        for start in range(0, roll.shape[1], columns):
            part = roll[:, start : start + columns]
            sounding = np.flatnonzero(part.any(1)) // 2
            for row in range(*((sounding[0], sounding[-1] + 1) if sounding.size else (0, 1))):
                lower = high - 2 * row - 1
                notes = "".join(" ▀▄█"[upper + 2 * below] for upper, below in part[2 * row : 2 * row + 2].T)
                rows.append(f"{pitch_name(lower) if lower % 12 == 0 else '':>4}│{notes}".rstrip())
            rows.append(f"    └{start + 1:─<{part.shape[1]}}")
        given = f"; the first {self.given} given" if self.given else ""
        return "\n".join([*rows, f"     step{given}"])


def pitch_name(pitch: int) -> str:
    """Return the name of a MIDI pitch: 60 is C4."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"
