"""Curves over common axes, as characters for a terminal or by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # bits of the dots of U+2800, braille
_ANSI = (34, 33, 32, 35, 36, 31)  # colours of curves in a terminal: blue, yellow, green, magenta, cyan, red
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MIN_COLUMNS = 12  # of the curves, however narrow the terminal


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through the points (x, y), [P] each; it is interrupted where y is not finite.

    Attributes:
        label: what it shows. dashed: drawn so.
        color: number of its colour; curves that belong together share one.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    dashed: bool = False
    color: int = 0


@dataclass(frozen=True, eq=False)
class Chart:
    """Curves over common axes.

    Attributes:
        curves: the first one is drawn on top of the others.
        log: the y axis is logarithmic; values that are not positive are left out.
    """

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    title: str = ""
    log: bool = False

    def draw(self, figure: Any) -> None:
        """Draw into a figure of matplotlib."""
        axes = figure.subplots()
        for curve in reversed(self.curves):
            style = "--" if curve.dashed else "-"
            marker = "o" if np.isfinite(curve.y).sum() == 1 else ""
            axes.plot(curve.x, curve.y, style, color=f"C{curve.color % 10}", marker=marker, label=literal(curve.label))
        texts = {"xlabel": self.x_label, "ylabel": self.y_label, "title": self.title}
        axes.set(yscale="log" if self.log else "linear", **{name: literal(text) for name, text in texts.items()})
        axes.grid(alpha=0.3)
        axes.legend(reverse=True)

    def text(self, width: int = 80, color: bool = False, height: int = 16) -> str:
        """Return the curves in braille characters, labelled at their right ends, in ``height`` rows and three more.

        Args:
            width: columns. color: colour the curves by ANSI codes.
        """
        points = [(c.x.astype(float), self._scaled(c.y)) for c in self.curves]
        xs = np.concatenate([x[np.isfinite(y)] for x, y in points])
        ys = np.concatenate([y[np.isfinite(y)] for _, y in points])
        if not xs.size:
            return f"{self.title}: nothing to draw".removeprefix(": ")
        (left, right), (low, high) = _range(xs), _range(ys)
        ticks = {self._name(y): y for y in _ticks(low, high, height // 3, 1 if self.log else 0)}
        longest = max(len(c.label) for c in self.curves)
        margin, names = max(map(len, ticks)) + 1, min(longest, max(8, width // 3))
        columns = max(_MIN_COLUMNS, width - margin - names - 2)

        cells, owner = np.zeros((height, columns), int), np.full((height, columns), -1)
        ends = []
        for number, curve in reversed(list(enumerate(self.curves))):
            x, y = points[number]
            across = (x - left) / (right - left) * (2 * columns - 1)
            down = (high - y) / (high - low) * (4 * height - 1)
            for i, j in _dots(across, down, curve.dashed):
                cells[i // 4, j // 2] |= _DOTS[i % 4, j % 2]
                owner[i // 4, j // 2] = number
            last = down[np.isfinite(down)]
            ends += [(last[-1] / 4, number)] if last.size else []

        labels = _spread(ends, height)
        rows = [self.y_label + (f"    {self.title}" if self.title else "")]
        at = {round((high - y) / (high - low) * (height - 1)): name for name, y in ticks.items()}
        for row in range(height):
            axis = f"{at[row]:>{margin}}┤" if row in at else " " * margin + "│"
            shown = "".join(
                self._colored(chr(0x2800 + cell) if cell else " ", number, color)
                for cell, number in zip(cells[row], owner[row], strict=True)
            )
            name = self._colored(self.curves[labels[row]].label[:names], labels[row], color) if row in labels else ""
            rows.append(f"{axis}{shown} {name}".rstrip())
        return "\n".join([*rows, *self._x_axis(left, right, margin, columns)])

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        y = y.astype(float)
        if not self.log:
            return y
        return np.log10(y, out=np.full(y.shape, np.nan), where=y > 0)

    def _name(self, y: float) -> str:
        return f"1e{y:.0f}" if self.log else _number(y)

    def _colored(self, text: str, curve: int, color: bool) -> str:
        return f"\x1b[{_ANSI[self.curves[curve].color % len(_ANSI)]}m{text}\x1b[0m" if color and text != " " else text

    def _x_axis(self, left: float, right: float, margin: int, columns: int) -> list[str]:
        line, names = ["─"] * columns, [" "] * (columns + 8)
        for x in _ticks(left, right, max(2, columns // 12)):
            at, name = round((x - left) / (right - left) * (columns - 1)), _number(x)
            start = max(0, at - len(name) // 2)
            if "".join(names[max(0, start - 1) : start + len(name)]).isspace():
                line[at] = "┬"
                names[start : start + len(name)] = name
        indent = " " * (margin + 1)
        return [" " * margin + "└" + "".join(line), (indent + "".join(names)).rstrip(), indent + self.x_label]


def literal(text: str) -> str:
    """Return a text that matplotlib shows as it is, not as a formula."""
    return text.replace("$", r"\$")


def to_ascii(text: str) -> str:
    """Return a text with plain characters in place of braille, blocks and lines, for terminals without them."""
    plain = dict(zip("┤│└─┬█▀▄·", "+|+-+#',.", strict=True))
    return "".join("*" if "⠀" < letter <= "⣿" else plain.get(letter, letter) for letter in text)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value, apart even where they are the same."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def _ticks(low: float, high: float, count: int, smallest: float = 0) -> list[float]:
    """About ``count`` multiples, from ``low`` to ``high``, of 1, 2 or 5 times a power of ten."""
    rough = max((high - low) / count, smallest)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    size = abs(value)
    for unit, name in _UNITS:
        if 10_000 <= size < 1e13 and size >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


def _dots(across: np.ndarray, down: np.ndarray, dashed: bool) -> set[tuple[int, int]]:
    """The (row, column) of every dot on the lines between successive points."""
    found = set()
    finite = np.isfinite(across + down)
    for n in np.flatnonzero(finite):
        follows = n + 1 < len(finite) and finite[n + 1]
        x, y = across[n : n + 1 + follows], down[n : n + 1 + follows]
        count = math.ceil(max(np.ptp(x), np.ptp(y))) + 1
        rows = np.rint(np.linspace(y[0], y[-1], count)).astype(int).tolist()
        columns = np.rint(np.linspace(x[0], x[-1], count)).astype(int).tolist()
        found |= {(i, j) for i, j in zip(rows, columns, strict=True) if not dashed or j % 4 < 2}
    return found


def _spread(ends: list[tuple[float, int]], height: int) -> dict[int, int]:
    """For each row the curve that is labelled there, near its end, with at most one in a row."""
    labels: dict[int, int] = {}
    for number, (end, curve) in enumerate(sorted(ends)[:height]):
        lowest = max(labels, default=-1) + 1
        labels[min(max(int(end), lowest), height - (min(len(ends), height) - number))] = curve
    return labels
