"""Weights in fewer bits: bfloat16, and integers of 8 bits with a factor per row."""

from __future__ import annotations

import numpy as np


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The upper halves of float32 ``x`` as uint16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers of :func:`to_bfloat16`."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers from -127 to 127 (int8) and a factor for each row of ``weight`` [O, I], so that their product is near it.

    The factor is the largest magnitude of the row over 127; 1 where that is zero or subnormal in float32.
    """
    scale = np.abs(weight).max(axis=1, initial=0) / 127
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    with np.errstate(invalid="ignore"):  # a row that is not finite keeps a factor that is not, and so gives NaN
        rounded = np.nan_to_num(np.rint(weight / scale[:, None])).clip(-127, 127)
    return rounded.astype(np.int8), scale
