"""Classes or numbers for a numeric sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.numpy_program.data import COLUMNS, LABELS, MEAN, STD, TARGET_MEAN, TARGET_STD
from minirnn.export.numpy_program.layers import softmax
from minirnn.export.numpy_program.many_to_one import run


def predict(rows: Any) -> Any:
    """What belongs to a sequence: the probability of every label, or a number; of a model of steps a list of each.

    Args:
        rows: [T, C], the numbers of COLUMNS, NaN where one is missing.
    """
    x = np.array(rows, np.float64)
    if x.ndim != 2 or x.shape[1] != len(COLUMNS) or not len(x):
        raise ValueError(f"expected rows [T, {len(COLUMNS)}] of {COLUMNS}, got {list(x.shape)}")
    z = (x - MEAN) / STD
    there = ~np.isnan(z)
    last = np.maximum.accumulate(np.where(there, np.arange(len(z))[:, None], -1), 0)
    z = np.where(last >= 0, np.take_along_axis(z, np.maximum(last, 0), 0), 0.0)
    z = np.concatenate([z, there], 1)  # if missing
    y = run(z)[None].astype(np.float64)  # if whole
    y = run(z)[0].astype(np.float64)  # if steps
    found: list[Any] = [dict(zip(LABELS, softmax(row).tolist(), strict=True)) for row in y]  # if classes
    found = (y[:, 0] * TARGET_STD + TARGET_MEAN).tolist()  # if numbers
    return found[0]  # if whole
    return found  # if steps


def example() -> str:
    """Some output."""
    return str(predict(np.array(MEAN) + np.array(STD) * np.sin(np.arange(5))[:, None]))
