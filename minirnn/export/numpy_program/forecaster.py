"""The next values of a series."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import COLUMNS, FIRST_ROW, HORIZON, MEAN, SEASON, SEQ_LENGTH, SPREAD, STD
from minirnn.export.numpy_program.many_to_one import run


def baseline(x: np.ndarray) -> np.ndarray:
    """The forecast [h] of a column x [R] that the network corrects."""
    steps = np.arange(1, HORIZON + 1)
    cycles = -(-steps // SEASON)  # if season trend
    return np.repeat(x[-1], len(steps))  # if last_value
    return x[len(x) - 1 + steps - SEASON * cycles]  # if season
    return x[len(x) - 1 + steps - SEASON * cycles] + cycles * (x[-1] - x[-1 - SEASON])  # if trend


def predict(rows: Any) -> Any:
    """The next values of the first column; of a model of quantiles all quantiles of each.

    Args:
        rows: [R, C], the numbers of COLUMNS, the last row the latest; FIRST_ROW rows at least.
    """
    x = np.array(rows, np.float64)
    if x.ndim != 2 or x.shape[1] != len(COLUMNS) or len(x) < FIRST_ROW:
        raise ValueError(f"expected rows [R, {len(COLUMNS)}] of {COLUMNS}, {FIRST_ROW} or more, got {list(x.shape)}")
    x[:, 0] = np.log(x[:, 0])  # if log
    z = ((x - MEAN) / STD)[-SEQ_LENGTH:]
    inputs = np.concatenate([z[:, :1] - z[-1:, :1], np.tanh(z / 2)], 1)
    y = run(inputs).astype(np.float64)
    found = baseline(x[:, 0]) + np.array(SPREAD) * y  # unless quantiles
    y = np.sort(y.reshape(HORIZON, -1), 1)  # if quantiles
    found = baseline(x[:, 0])[:, None] + np.array(SPREAD)[:, None] * y  # if quantiles
    found = np.exp(np.minimum(found, 700.0))  # if log
    return found.tolist()


def example() -> str:
    """Some output."""
    rows = np.array(MEAN) + np.array(STD) * np.sin(np.arange(FIRST_ROW))[:, None]
    rows[:, 0] = np.exp(rows[:, 0])  # if log
    return f"{COLUMNS[0]}: {predict(rows)}"
