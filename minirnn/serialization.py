"""``minirnn.save`` and ``minirnn.load``: modules and trained tasks as files, in the format of :mod:`.checkpoint`.

Weights that other programs have written do not belong here: a file of theirs is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirnn import checkpoint, models
from minirnn.errors import CheckpointError, MinirnnError, OptionError
from minirnn.models.body import Model
from minirnn.nn.module import Module
from minirnn.runs import best_checkpoint

if TYPE_CHECKING:
    from minirnn.tasks import Task

_PREFIX = "model."  # of the names of a model's arrays, as in the checkpoints of tasks


def save(path: str | Path, module: Module | Task[Any, Any]) -> None:
    """Write a module, or a trained task, to one file, which :func:`load` reads; an older file is replaced at once.

    A model of :mod:`minirnn.models` is stored with the arguments it was made with, its cell's equations included, and a
    task with its vocabulary and the like. Of any other module, also of a model made with a module as cell, the state
    dict is stored: code never is.

    Raises:
        OptionError: ``module`` is neither a module nor a task.
        OSError: the file cannot be written; an older one is unchanged.

    >>> import minirnn as mr
    >>> mr.save("lm.safetensors", mr.models.CharLM(65, 128))  # doctest: +SKIP
    >>> mr.load("lm.safetensors")  # doctest: +SKIP
    CharLM(vocab_size=65, hidden_size=128, num_layers=2
      ...
    """
    if isinstance(module, Module):
        model, description = module, {"class": type(module).__name__, "model": _config(module)}
    else:
        from minirnn.tasks import Task

        if not isinstance(module, Task):
            kind = type(module).__name__
            raise OptionError(f"save: expected a path and then a module or a trained task, got {kind} as the second")
        model, description = module.model, module.config()
    arrays = {f"{_PREFIX}{name}": array for name, array in model.state_dict().items()}
    checkpoint.save(path, arrays, description)


def _config(module: Module) -> dict[str, Any] | None:
    """The arguments of a model that can be made again from them; None of any other module."""
    if not isinstance(module, Model) or type(module) is not getattr(models, type(module).__name__, None):
        return None
    try:
        return module.config
    except OptionError:  # a module as cell
        return None


def load(path: str | Path) -> Any:
    """Return what a file or the folder of a run holds.

    - The folder of a run (its best checkpoint, else its last), or a checkpoint: the trained task, whichever it is, such
      as a :class:`~minirnn.tasks.char.TextGenerator`.
    - A file in which :func:`save` stored a model of :mod:`minirnn.models`: the model, in evaluation mode.
    - A file in which it stored another module: the state dict, for ``module.load_state_dict(minirnn.load(path))``.

    Everything is on the CPU. Files from untrusted sources may be loaded: they hold data only, and no more is allocated
    than they hold.

    Raises:
        CheckpointError: there is no such file, or no checkpoint in the folder; it is damaged, or not of minirnn.
    """
    file = best_checkpoint(path)
    description = checkpoint.load_config(file)
    if "class" not in description:
        from minirnn import tasks

        return tasks.load(file)
    arrays = checkpoint.part(checkpoint.load(file)[0], _PREFIX)
    name, arguments = description["class"], description.get("model")
    if arguments is None:
        return arrays
    if name not in models.__all__:
        raise CheckpointError(f"{file} holds a {name!r}, which this version does not know")
    from minirnn.tasks.base import rebuild

    try:
        return rebuild(getattr(models, name), arguments, arrays)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MinirnnError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None
