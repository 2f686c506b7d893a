"""``--cell``: a built-in cell by its name, or one in a Python file of the user's own."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from minirnn.cells import Cell, names
from minirnn.errors import CellError, OptionError
from minirnn.models.body import cell_config


def find_cell(text: str) -> str | dict[str, Any]:
    """What is kept of the cell that ``text`` names, NAME or FILE.py:NAME; see :func:`minirnn.models.body.cell_config`.

    Raises:
        OptionError: there is no such cell, or the file cannot be run.
        CellError: there is something wrong with its equations.
    """
    file, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
    if file.endswith(".py"):
        return cell_config(_from_file(file, name))
    if text not in names():
        close = get_close_matches(text, names(), 1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        raise OptionError(f"--cell: there is no cell {text!r}{hint} expected {', '.join(names())}, or FILE.py:NAME")
    return text


def _from_file(file: str, name: str) -> Cell:
    if not Path(file).is_file():
        raise OptionError(f"--cell: there is no file {file}")
    found = vars(_run(file))
    cells = [key for key, value in found.items() if isinstance(value, Cell)]
    if name in cells:
        return found[name]
    what = f"{name} in {file} is not a cell" if name in found else f"{file} has no cell {name!r}"
    have = f"its cells are {', '.join(cells)}" if cells else "it has none: decorate a function by @minirnn.cell"
    raise OptionError(f"--cell: {what if name else f'expected {file}:NAME'}; {have}")


def _run(file: str) -> ModuleType:
    """The module in a file that the user named: their own code."""
    spec = importlib.util.spec_from_file_location(f"minirnn_cell_{Path(file).stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except CellError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = file if line is None else f"{file}, line {line}"
        message = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise OptionError(f"--cell: {where}: {type(error).__name__}: {message}") from None
    return module
