"""Pictures of runs, and of what trained tasks do with data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minirnn.errors import CheckpointError, OptionError
from minirnn.plot.chart import Chart, Curve
from minirnn.plot.tables import ConfusionMatrix, PianoRoll
from minirnn.runs import RunFolder
from minirnn.tasks import Line, Task
from minirnn.tasks.classifier import Classifier
from minirnn.tasks.forecaster import Forecaster
from minirnn.tasks.music import ComposeConfig, Composer, read_starts
from minirnn.tasks.tagger import Tagger
from minirnn.validation import check_choice

X = Literal["step", "time", "symbols"]
_COLUMNS = {"step": "step", "time": "seconds", "symbols": "tokens"}
_MINUTE, _HOUR = 60, 3600
_CONTEXT = 1.0  # rows shown before the forecasts, as a fraction of those with forecasts


def learning_curves(runs: Sequence[str | Path], x: X = "step", metric: str = "loss") -> Chart:
    """Return the curves of one or more runs.

    Args:
        runs: their folders, or checkpoints in them.
        x: what they are drawn over: steps, training time, or symbols read.
        metric: a name in metrics.jsonl, such as "accuracy" or "grad_norm"; "loss" is the training loss (dashed) and
            the validation loss.

    Raises:
        CheckpointError: a folder is no run's, or its metrics cannot be read.
        OptionError: no run has this metric.
    """
    paths = [Path(run).parent if Path(run).is_file() else Path(run) for run in runs]
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    tables = {name: RunFolder(path).metrics() for name, path in zip(names, paths, strict=True)}
    chosen = ("val_loss", "train_loss") if metric == "loss" else (metric,)
    known = {name: None for table in tables.values() for name in table if name not in ("step", "seconds", "tokens")}
    if not known.keys() & set(chosen):
        check_choice("metric", metric, ["loss", *known])
    across = {name: table.get(_COLUMNS[x], np.full(len(table["step"]), np.nan)) for name, table in tables.items()}
    longest = max(np.nanmax(values, initial=0) for values in across.values())
    unit, divisor = ("", 1)
    if x == "time":
        large = ("hours", _HOUR) if longest > 2 * _HOUR else ("minutes", _MINUTE)
        unit, divisor = ("seconds", 1) if longest < 2 * _MINUTE else large
    curves = []
    for color, (name, table) in enumerate(tables.items()):
        for column in chosen:
            if column in table:
                filled = np.isfinite(table[column]) & np.isfinite(across[name])
                label = " ".join([name] * (len(tables) > 1) + [column] * (len(tables) == 1 or len(chosen) > 1))
                points = across[name][filled] / divisor, table[column][filled]
                curves.append(Curve(label, *points, dashed=column == "train_loss", color=color))
    return Chart(curves, f"{x} ({unit})" if unit else x, metric, title=names[0] if len(names) == 1 else "")


def picture_of(
    task: Task[Any, Any], data: Sequence[str], lines: Sequence[Line] = (), options: Mapping[str, Any] | None = None
) -> Chart | ConfusionMatrix | PianoRoll:
    """Return the picture of what a trained task does with data.

    A classifier or a tagger gives its confusion matrix, a forecaster its forecasts over the true series with the naive
    ones, a composer a piece as a piano roll.

    Args:
        data: files like those of the training.
        lines: for a composer in place of files: the beginning of the piece. options: those of its ``PredictConfig``.

    Raises:
        CheckpointError: there is no such picture for this task.
        OptionError, DataError: an option or the data does not fit.
    """
    if isinstance(task, (Classifier, Tagger)):
        return ConfusionMatrix(*task.confusion_matrix(data), "confusion matrix")
    if isinstance(task, Forecaster):
        return _forecast_chart(task, data)
    if isinstance(task, Composer):
        starts = read_starts(lines) or [[]]
        if len(starts) > 1:
            raise OptionError(f"expected one beginning of a piece, got {len(starts)}")
        piece = task.compose(starts[0], ComposeConfig.from_dict(options or {}))
        return PianoRoll(piece, len(starts[0]))
    raise CheckpointError(
        f"there is no picture of data for {task.description}; expected a classifier, a tagger, a forecaster or a "
        "model of music"
    )


def _forecast_chart(task: Forecaster, data: Sequence[str]) -> Chart:
    column, first, forecasts = task.compare(data)
    count = len(forecasts["forecast"])
    start = max(0, first - max(1, round(_CONTEXT * count)))
    rows = np.arange(1, len(column) + 1)
    shown = {"forecast": ("forecast", 1), "persistence": ("last value", 2), "seasonal_naive": ("last season", 3)}
    curves = []
    for name, values in forecasts.items():
        label, color = shown[name]
        curves.append(Curve(label, rows[first : first + count], values, name != "forecast", color))
    curves.insert(1, Curve("true", rows[start:], column[start:]))
    horizon = task.preprocessor.horizon
    return Chart(curves, "row", task.preprocessor.names[0], f"forecast {horizon} step{'s' * (horizon > 1)} ahead")
