"""Weights in fewer bits: bfloat16, and integers of 8 bits with a factor per row."""

from __future__ import annotations

import numpy as np

from minirnn.errors import OptionError
from minirnn.kernels.contract import Weights


def check_dtype(weights: Weights, dtype: np.dtype) -> None:
    """Raise :class:`OptionError` where a model of ``dtype`` cannot be stored as ``weights``."""
    if weights != "float32" and dtype != np.float32:
        raise OptionError(f"weights: {weights} is for a model of float32, got one of {dtype}")


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The upper halves of float32 ``x`` as uint16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    upper = bits >> 16
    upper &= 1
    upper += 0x7FFF
    upper += bits
    upper >>= 16
    upper[np.isnan(x)] = 0x7FC0
    return upper.astype(np.uint16)


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers from -127 to 127 (int8), and for each row of ``weight`` [O, I] the factor that makes them near it.

    The factor is the largest magnitude of the row over 127; 1 where that is zero or subnormal in float32. It is not
    finite where a number of the row is not.
    """
    scale = np.abs(weight).max(axis=1, initial=0) / 127
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    with np.errstate(invalid="ignore"):
        rounded = np.rint(weight / scale[:, None])
        rounded[~np.isfinite(scale)] = 0
    return rounded.clip(-127, 127).astype(np.int8), scale


def rounded(weight: np.ndarray, weights: Weights) -> np.ndarray:
    """The matrix ``weight`` [O, I] of float32 as it is when stored as ``weights``."""
    if weights == "bfloat16":
        return (to_bfloat16(weight).astype(np.uint32) << 16).view(np.float32)
    if weights == "int8":
        integers, scale = quantize_rows(weight)
        return integers * scale[:, None]
    return weight
