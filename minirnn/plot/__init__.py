"""Pictures: curves of runs, confusion matrices, forecasts, piano rolls; of characters, or by matplotlib.

>>> import numpy as np
>>> from minirnn.plot import Chart, Curve
>>> x = np.arange(40)
>>> print(Chart([Curve("sine", x, np.sin(x / 6))], "step", "y").text(width=60, height=6))  # doctest: +SKIP
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

from minirnn.checkpoint import write_atomically
from minirnn.errors import OptionError
from minirnn.plot.chart import Chart, Curve, to_ascii
from minirnn.plot.tables import ConfusionMatrix, PianoRoll
from minirnn.plot.tasks import learning_curves, picture_of

__all__ = ["Chart", "ConfusionMatrix", "Curve", "PianoRoll", "Picture", "has_window", "learning_curves", "picture_of"]
__all__ += ["save", "show", "to_ascii"]

FORMATS = (".png", ".svg", ".pdf")


class Picture(Protocol):
    """What can be saved, shown and printed."""

    def draw(self, figure: Any) -> None:
        """Draw into a figure of matplotlib."""
        ...

    def text(self, width: int = 80, color: bool = False) -> str:
        """Return it in characters, in at most ``width`` columns, where ``color`` with ANSI codes."""
        ...


def save(picture: Picture, path: Path) -> None:
    """Write a picture as PNG, SVG or PDF, as the name ends; in whole or not at all.

    Raises:
        OptionError: the name ends in something else, matplotlib is not installed, or the file cannot be written.
    """
    check_path(path)
    figure = _pyplot().figure(figsize=(8, 4.5), layout="constrained")
    picture.draw(figure)
    file = io.BytesIO()
    date = {} if path.suffix.lower() == ".png" else {"CreationDate" if path.suffix.lower() == ".pdf" else "Date": None}
    figure.savefig(file, format=path.suffix[1:].lower(), dpi=120, metadata=date)
    _pyplot().close(figure)
    try:
        write_atomically(path, file.getvalue())
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}") from None


def check_path(path: Path) -> None:
    """Raise :class:`OptionError` where :func:`save` cannot write a file of this name."""
    if path.suffix.lower() not in FORMATS:
        raise OptionError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    _pyplot()


def has_window() -> bool:
    """Return whether matplotlib is installed and can open a window."""
    try:
        from matplotlib import backends, pyplot

        pyplot.switch_backend(pyplot.get_backend())  # fails where the one that was asked for needs a display
    except ImportError:
        return False
    interactive = backends.backend_registry.list_builtin(backends.BackendFilter.INTERACTIVE)
    return pyplot.get_backend().lower() in interactive


def show(picture: Picture) -> None:
    """Open a window with a picture, and wait until it is closed."""
    pyplot = _pyplot()
    picture.draw(pyplot.figure(figsize=(8, 4.5), layout="constrained"))
    pyplot.show()


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise OptionError("pictures need matplotlib: pip install 'minirnn[plot]'; or leave out -o, for text") from None
    return pyplot
