"""FLOOR 6: one file a task: its data, its model, its loss and its metric, in one place."""

from __future__ import annotations

import importlib
from pathlib import Path

from minirnn import checkpoint
from minirnn.errors import CheckpointError
from minirnn.tasks.common import Predictor, Trained

_MODELS = {
    "char": "TextModel", "classifier": "Classifier", "tagger": "Tagger", "translator": "Translator",
    "forecaster": "Forecaster", "music": "Composer",
}  # fmt: skip


def load(path: str | Path) -> Trained:
    """The trained model of a checkpoint, whichever task it is of; each has ``evaluate(sources)``.

    Raises:
        CheckpointError: the file is missing, damaged, or of an unknown task.
    """
    name = checkpoint.load_config(path).get("task")
    if not isinstance(name, str) or name not in _MODELS:
        raise CheckpointError(f"{path} holds a {name!r} model, of which this version knows nothing")
    return getattr(importlib.import_module(f"minirnn.tasks.{name}"), _MODELS[name]).load(path)


def load_predictor(path: str | Path) -> Predictor:
    """As :func:`load`, for the tasks that predict.

    Raises:
        CheckpointError: as there, or it is a character model.
    """
    model = load(path)
    if not isinstance(model, Predictor):
        raise CheckpointError(f"{path} holds a character model, which writes rather than predicts: minirnn sample")
    return model
