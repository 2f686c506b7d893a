"""Weights in fewer bits: bfloat16, and integers of 8 bits with a factor per row."""

from __future__ import annotations

import numpy as np

from minirnn.errors import OptionError
from minirnn.kernels.bfloat16 import HIGH, round_bits
from minirnn.kernels.contract import Weights
from minirnn.kernels.jit import jit


def check_dtype(weights: Weights, dtype: np.dtype) -> None:
    """Raise :class:`OptionError` where a model of ``dtype`` cannot be stored as ``weights``."""
    if weights != "float32" and dtype != np.float32:
        raise OptionError(f"weights: {weights} is for a model of float32, got one of {dtype}")


@jit
def _round_all(bits, words):  # type: ignore[no-untyped-def]
    for i in range(bits.size):
        words[i] = round_bits(bits[i]) & np.uint32(HIGH)


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
        words = np.empty(weight.size, np.uint32)
        _round_all(np.ascontiguousarray(weight).view(np.uint32).reshape(-1), words)
        return words.view(np.float32).reshape(weight.shape)
    if weights == "int8":
        integers, scale = quantize_rows(weight)
        return integers * scale[:, None]
    return weight
