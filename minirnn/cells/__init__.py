"""Recurrent cells: the built-in ones, each in a module of its own, and the functions their equations are written with.

>>> import minirnn as mr
>>> mr.cells.names()[:3]
['coupled_lstm', 'gru', 'gru_reset_before']
>>> mr.cells.get("gru").gates
('r', 'z', 'n_x', 'n_h')
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from minirnn.cells import _vocabulary
from minirnn.cells._cell import Cell, cell
from minirnn.cells._vocabulary import *
from minirnn.errors import OptionError

__all__ = ["Cell", "cell", "explain", "get", "names", *_vocabulary.__all__]


def names() -> list[str]:
    """The names of the built-in cells."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))  # noqa: F405


def get(cell: str | Cell | dict[str, Any]) -> Cell:
    """The built-in cell of a name; a cell is returned as it is, and one made of its data (:meth:`Cell.to_data`).

    Raises:
        OptionError, CellError: there is no built-in cell of that name; the data does not describe a cell.
    """
    if isinstance(cell, Cell):
        return cell
    if isinstance(cell, dict):
        return Cell.from_data(cell)
    if cell not in names():
        raise OptionError(f"cell must be one of {', '.join(names())}, or a function decorated by mr.cell; got {cell!r}")
    return getattr(importlib.import_module(f"minirnn.cells.{cell}"), cell)


def explain(cell: str | Cell) -> str:
    """A cell's equations, the backward equations derived from them, and the source of the generated kernels.

    >>> import minirnn as mr
    >>> print(mr.cells.explain("rnn"))  # doctest: +ELLIPSIS
    # rnn: equations
    h' = tanh(a)
    ...
    """
    from minirnn.cells._explain import explain

    return explain(get(cell).equations)
