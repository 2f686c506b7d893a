"""A trained model as a program of its own, in NumPy, C or ONNX.

Every target is a module ``to_NAME`` with a function ``program(network, record, name, **options) -> bytes``, which is
imported when it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from minirnn.errors import OptionError
from minirnn.validation import check_choice

__all__ = ["TARGETS", "export"]

TARGETS = {"numpy": ".py", "c": ".h", "onnx": ".onnx"}
"""Every target, and the suffix of its files."""


def target_of(path: str | os.PathLike[str], to: str | None = None) -> str:
    """Return ``to``, or where it is None the target that the suffix of ``path`` names.

    Raises:
        OptionError: there is no such target, or the suffix names none.
    """
    if to is not None:
        return check_choice("export: to", to, TARGETS)
    found = {suffix: name for name, suffix in TARGETS.items()}.get(Path(path).suffix.lower())
    if found is None:
        targets = ", ".join(f"{suffix} ({name})" for name, suffix in TARGETS.items())
        raise OptionError(f"export: expected a name that ends in one of {targets}, or a target; got {str(path)!r}")
    return found


def export(model: Any, path: str | os.PathLike[str], to: str | None = None, **options: Any) -> Path:
    """Write a trained model as a program that needs minirnn no more, and that tests itself.

    ====== ============================================================== ===================================
    to     file                                                           needs
    ====== ============================================================== ===================================
    numpy  ``.py``, readable code with the weights inside                 Python 3.10, NumPy
    c      ``.h``, a header without allocation; ``int8=True`` for weights a compiler for C99
           of one byte
    onnx   ``.onnx``, a graph                                             onnxruntime; to write it, ``onnx``
    ====== ============================================================== ===================================

    Args:
        model: a trained task (:func:`minirnn.tasks.load`), or a model of :mod:`minirnn.models`.
        path: the file to write, in whole or not at all; an older one is replaced.
        to: "numpy", "c" or "onnx"; by default the suffix of ``path`` tells.
        options: of the target.

    Returns:
        The path.

    Raises:
        OptionError: the target is unknown or cannot hold this model, it has no such option, a package is missing, or
            the file cannot be written.

    >>> import minirnn as mr
    >>> lm = mr.models.CharLM(vocab_size=20, hidden_size=16)
    >>> mr.export(lm, "model.py")  # doctest: +SKIP
    PosixPath('model.py')
    """
    from minirnn.checkpoint import write_atomically
    from minirnn.export.network import describe
    from minirnn.export.record import record
    from minirnn.tasks import Task

    path, target = Path(path), target_of(path, to)
    program = importlib.import_module(f"minirnn.export.to_{target}").program
    known = list(inspect.signature(program).parameters)[3:]
    for option in options:
        if option not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise OptionError(f"export: {target} has no option {option!r}; {has}")
    network = describe(model.model if isinstance(model, Task) else model)
    if isinstance(model, Task):
        model, network = model.model, replace(network, task=model.config())
    data = program(network, record(model), path.stem, **options)
    try:
        write_atomically(path, data)
    except (OSError, ValueError) as error:  # ValueError: a path without a file's name
        raise OptionError(f"export: cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    return path
