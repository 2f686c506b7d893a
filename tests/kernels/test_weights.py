"""Weights of sampling in fewer bits: rounding, and the products that expand them, against float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from minirnn.errors import OptionError
from minirnn.kernels import rounding, tile
from minirnn.kernels.contract import Weights
from minirnn.kernels.cpu import int8
from minirnn.kernels.jit import jit

needs_vnni = pytest.mark.skipif(not int8.has_int8(), reason="this processor does not multiply integers of 8 bits")


def test_bfloat16_rounds_to_nearest_and_ties_to_even() -> None:
    bits = np.array([0x3F800000, 0x3F808000, 0x3F808001, 0x3F818000, 0x3F817FFF, 0x00000001, 0x7F7FFFFF], np.uint32)
    found = rounding.rounded(np.concatenate([bits, bits | 0x80000000]).view(np.float32), "bfloat16")
    expected = np.array([0x3F80, 0x3F80, 0x3F81, 0x3F82, 0x3F81, 0x0000, 0x7F80], np.uint32) << 16
    np.testing.assert_array_equal(found.view(np.uint32), np.concatenate([expected, expected | 0x80000000]))
    special = np.array([np.inf, -np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_array_equal(rounding.rounded(special, "bfloat16"), special)
    low = np.array([0x7F800001], np.uint32).view(np.float32)  # a NaN that has no bit set in its upper half
    assert np.isnan(rounding.rounded(low, "bfloat16")).all()


def test_bfloat16_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32) * np.float32(1e3)
    np.testing.assert_array_equal(rounding.rounded(x, "bfloat16"), torch.from_numpy(x).bfloat16().float().numpy())


def test_int8_rows_have_a_factor_each() -> None:
    weight = np.array([[1.27, -0.005, 0.0152], [0, 0, 0], [1e-3, -2.54e-1, 3e-3], [np.nan, 1, 2]], np.float32)
    integers, scale = rounding.quantize_rows(weight)
    assert integers.tolist() == [[127, 0, 2], [0, 0, 0], [0, -127, 2], [0, 0, 0]]  # -0.5 is even, so rounds to 0
    np.testing.assert_allclose(scale[:3], [0.01, 1, 0.002], rtol=1e-6)
    assert np.isnan(rounding.rounded(weight, "int8")[3]).all(), "what is not finite must not look as if it were"


Multiply = Callable[..., None]


def multiplier(multiply: Any) -> Multiply:
    """A product as compiled code calls it."""

    @jit
    def run(a, a_at, a_row, a_column, rows, panels, c, c_at, c_row, depth, columns):  # type: ignore[no-untyped-def]
        size = panels.shape[1] * panels.shape[2]
        multiply(a, a_at, a_row, a_column, rows, panels, 0, size, depth, c, c_at, c_row, columns)

    return run  # type: ignore[no-any-return]


def check(weights: Weights, multiply: Multiply, pack: Callable[[np.ndarray], np.ndarray]) -> None:
    """C += A W^T for many shapes, the columns of W rounded, C within a larger array, and A transposed too."""
    rng = np.random.default_rng(0)
    for depth in (1, 4, 37, 130):
        for columns in (1, 31, 32, 33, 127, 128, 200):
            for rows in (1, 2, 7):
                weight, a = (rng.standard_normal((n, depth)).astype(np.float32) for n in (columns, rows))
                before = rng.standard_normal((rows, columns + 5)).astype(np.float32)
                wide = rounding.rounded(weight, weights).astype(np.float64)
                expected = before[:, 2:-3] + a.astype(np.float64) @ wide.T
                bound = (depth + 6) * 2.0**-23 * (np.abs(a) @ np.abs(wide).T + np.abs(before[:, 2:-3]))
                if weights == "int8":  # the row is rounded to 16 bits
                    bound = bound + np.abs(a).max(1, keepdims=True) / 32767 * (0.5 + 2**-7) * np.abs(wide).sum(1)
                panels = pack(weight)
                for left, a_row, a_column in ((a, depth, 1), (a.T.copy(), 1, rows)):
                    c = before.copy()
                    multiply(left, 0, a_row, a_column, rows, panels, c, 2, columns + 5, depth, columns)
                    error = np.abs(c[:, 2:-3] - expected)
                    assert (error <= bound).all(), (depth, columns, rows, (error / bound).max())
                    np.testing.assert_array_equal(c[:, [0, 1, -3, -2, -1]], before[:, [0, 1, -3, -2, -1]])


def test_bfloat16_products() -> None:
    check("bfloat16", multiplier(tile.multiply_add), tile.pack_bfloat16)


@needs_vnni
def test_int8_products() -> None:
    check("int8", multiplier(int8.multiply_int8), int8.pack_int8)


@needs_vnni
def test_int8_products_of_rows_without_and_with_what_is_not_finite() -> None:
    weight = np.random.default_rng(0).standard_normal((40, 10)).astype(np.float32)
    a = np.zeros((3, 10), np.float32)
    a[1, 3], a[2, 4] = np.nan, np.inf
    c = np.ones((3, 40), np.float32)
    multiplier(int8.multiply_int8)(a, 0, 10, 1, 3, int8.pack_int8(weight), c, 0, 40, 10, 40)
    assert (c[0] == 1).all()
    assert np.isnan(c[1:]).all()


@needs_vnni
def test_int8_products_of_the_largest_numbers_do_not_overflow() -> None:
    depth = 5000
    weight, a, c = np.ones((2, depth), np.float32), np.ones((1, depth), np.float32), np.zeros((1, 2), np.float32)
    weight[1] = -1
    multiplier(int8.multiply_int8)(a, 0, depth, 1, 1, int8.pack_int8(weight), c, 0, 2, depth, 2)
    np.testing.assert_allclose(c, [[depth, -depth]], rtol=1e-6)


@pytest.mark.parametrize("weights", get_args(Weights)[1:])
def test_weights_in_fewer_bits_are_for_float32(weights: Weights) -> None:
    with pytest.raises(OptionError, match=f"weights: {weights} is for a model of float32, got one of float64"):
        rounding.check_dtype(weights, np.dtype(np.float64))
