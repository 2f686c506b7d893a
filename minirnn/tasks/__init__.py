"""Tasks: one file each, with its data, model, loss, metrics, predictions and options in one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minirnn import checkpoint
from minirnn.errors import CheckpointError
from minirnn.tasks.base import Line, Prediction, Task
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.classifier import Classifier
from minirnn.tasks.forecaster import Forecaster
from minirnn.tasks.music import Composer
from minirnn.tasks.series import SeriesModel
from minirnn.tasks.speech import SpeechRecognizer
from minirnn.tasks.tagger import Tagger
from minirnn.tasks.translator import Translator
from minirnn.tasks.words import WordGenerator

__all__ = ["TASKS", "Line", "Prediction", "Task", "load"]

TASKS: dict[str, type[Task[Any, Any]]] = {
    task.name: task
    for task in (
        TextGenerator,
        WordGenerator,
        Classifier,
        Tagger,
        Translator,
        Forecaster,
        SeriesModel,
        Composer,
        SpeechRecognizer,
    )
}
"""Every task by its name."""


def load(path: str | Path) -> Task[Any, Any]:
    """Load the trained model of a checkpoint, of whichever task.

    Raises:
        CheckpointError: the file is missing, damaged, or of an unknown task.
    """
    description = checkpoint.load_config(path)
    name = description.get("task")
    if "class" in description:
        raise CheckpointError(f"{path} holds a {description['class']}, not a trained task; minirnn.load reads it")
    if not isinstance(name, str) or name not in TASKS:
        raise CheckpointError(f"{path} holds a {name!r} model, which this version does not know")
    return TASKS[name].load(path)
