"""Largest errors of the float32 tanh, sigmoid and exp, float64 against the C library, and the random bits.

Errors are measured on dense grids and at every kind of extreme; the random numbers are checked against an independent
version in Python's own integers.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core import codegen, config

from minirnn.kernels import pointwise
from minirnn.kernels.jit import DISABLED

_FEATURES = config.CPU_FEATURES or codegen.get_host_cpu_features()
HAS_FMA = "x86" not in platform.machine() or "+fma" in _FEATURES.split(",")
"""Whether products and sums fuse; where not, tanh rounds more often."""

DENSE = 20_001 if DISABLED else 4_000_001


def over(function: Any) -> Callable[[np.ndarray], np.ndarray]:
    """``function`` of every element, compiled as kernels compile it: in a loop that vectorises."""

    def loop(x, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i] = function(x[i])

    compiled = loop if DISABLED else numba.njit(loop, error_model="numpy", fastmath={"contract", "nsz"})

    def call(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        with np.errstate(all="ignore"):
            compiled(x, out)
        return out

    return call


TANH, SIGMOID, EXP, RELU = (over(getattr(pointwise, name)) for name in ("tanh", "sigmoid", "exp", "relu"))


def single(values: Any) -> np.ndarray:
    return np.asarray(values).astype(np.float32)


def logistic(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    e = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1, e) / (1 + e)


GRIDS = {
    "middle": np.linspace(-10, 10, DENSE), "steep": np.linspace(-1, 1, DENSE), "bend": np.linspace(2, 8.5, DENSE),
    "far": np.linspace(-1e4, 1e4, DENSE // 10), "tiny": np.logspace(-44, 0, DENSE // 10),
    "huge": np.logspace(0, 38.5, DENSE // 10),
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_tanh_in_float32(name: str) -> None:
    x = single(GRIDS[name])
    y, wanted = TANH(x), np.tanh(x.astype(np.float64))
    assert np.abs(y - wanted).max() <= (3e-7 if HAS_FMA else 3.8e-7)
    small = np.abs(x) < 0.5  # relatively exact where tanh is small
    error = np.abs(y - wanted)[small & (x != 0)] / np.abs(wanted)[small & (x != 0)]
    normal = np.abs(x[small & (x != 0)]) > 1e-37
    assert error[normal].max(initial=0) <= 4e-7
    assert np.abs(y).max() <= 1 + 2**-22
    np.testing.assert_array_equal(TANH(-x), -y)


@pytest.mark.needs_jit
@pytest.mark.parametrize("octave", [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_tanh_of_every_float_that_matters(octave: float) -> None:
    """All 8 million floats of each octave; below them the error is relative, above tanh is constant."""
    low, high = single([octave, 2 * octave]).view(np.int32)
    x = np.arange(low, high, dtype=np.int32).view(np.float32)
    y = TANH(x)
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() <= (3e-7 if HAS_FMA else 3.8e-7)
    assert y.max() <= (1 if HAS_FMA else 1 + 2**-22)


@pytest.mark.parametrize("name", GRIDS)
def test_sigmoid_in_float32(name: str) -> None:
    x = single(GRIDS[name])
    y = SIGMOID(x)
    assert np.abs(y - logistic(x)).max() <= 2.1e-7
    np.testing.assert_allclose(SIGMOID(-x), 1 - y, atol=1.2e-7)


def test_exp_in_float32() -> None:
    x = single(np.linspace(-87.33, 88.72, DENSE))
    wanted = np.exp(x.astype(np.float64))
    assert (np.abs(EXP(x) - wanted) / wanted).max() <= 3e-7
    assert EXP(single([0.0, -0.0])).tolist() == [1, 1]
    beyond = EXP(single([88.73, 89, 1e4, 3e38, np.inf, -88, -104, -1e4, -3e38, -np.inf]))
    assert (beyond[:5] == np.inf).all()
    np.testing.assert_allclose(beyond[5:], 0, atol=1.2e-38)
    assert math.isnan(EXP(single([np.nan]))[0])


def test_extremes_of_every_function(dtype: np.dtype) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    np.testing.assert_allclose(TANH(x), [np.nan, 1, -1, 0, 0, 1, -1], atol=3e-7)
    np.testing.assert_allclose(SIGMOID(x), [np.nan, 1, 0, 0.5, 0.5, 1, 0], atol=3e-7)
    np.testing.assert_array_equal(RELU(x), [np.nan, np.inf, 0, 0, 0, np.finfo(dtype).max, 0])
    np.testing.assert_array_equal(np.isnan(EXP(x)), [True] + [False] * 6)
    assert np.signbit(TANH(x)[3:5]).tolist() == [False, True]


@pytest.mark.needs_jit  # without it they are NumPy's
def test_float64_is_the_c_librarys() -> None:
    x = np.concatenate([np.linspace(-30, 30, 10_001), np.logspace(-300, 2, 1001), [np.inf, -np.inf, np.nan]])
    with np.errstate(all="ignore"):
        np.testing.assert_array_max_ulp(TANH(x), np.array([math.tanh(v) for v in x]), 1)
        np.testing.assert_array_max_ulp(EXP(x), np.array([math.exp(v) for v in x]), 1)
    np.testing.assert_allclose(SIGMOID(x)[:-3], logistic(x)[:-3], rtol=1e-14, atol=1.2e-16)


@pytest.mark.parametrize(
    ("function", "derivative"), [("tanh", "tanh_grad"), ("sigmoid", "sigmoid_grad"), ("relu", "relu_grad")]
)
def test_derivatives_from_results(function: str, derivative: str) -> None:
    x = np.linspace(-3, 3, 200) + 0.01
    f, step = over(getattr(pointwise, function)), 1e-6
    wanted = (f(x + step) - f(x - step)) / (2 * step)
    np.testing.assert_allclose(over(getattr(pointwise, derivative))(f(x)), wanted, rtol=1e-6, atol=1e-9)


# --------------------------------------------------------------------------------------- random numbers


def splitmix64(seed: int, counter: int) -> int:
    """Steele, Lea & Flood 2014, figure 14, in whole numbers of any size."""
    z = (seed + 0x9E3779B97F4A7C15 * (counter + 1)) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def bits_of(seed: int, counter: int) -> int:
    return int(_BITS(np.uint64(seed), np.uint64(counter)))


def _bits(seed, counter):  # type: ignore[no-untyped-def]
    return pointwise.random_bits(seed, counter)


def _uniforms(seed, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = pointwise.random_uniform(seed, i)


_BITS = _bits if DISABLED else numba.njit(_bits)
_UNIFORMS = _uniforms if DISABLED else numba.njit(_uniforms)


def test_random_bits_of_a_published_stream() -> None:
    """The first outputs of the reference implementation for seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [bits_of(1234567, n) for n in range(4)] == published


@given(seed=st.integers(0, 2**64 - 1), counter=st.integers(0, 2**64 - 2))
def test_random_bits_are_splitmix64(seed: int, counter: int) -> None:
    assert bits_of(seed, counter) == splitmix64(seed, counter)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 987654321])
def test_uniform_numbers(seed: int) -> None:
    count = 5_000 if DISABLED else 200_000
    x = np.empty(count)
    _UNIFORMS(np.uint64(seed), x)
    assert x[:3].tolist() == [(splitmix64(seed, n) >> 11) / 2**53 for n in range(3)]
    assert (x >= 0).all()
    assert (x < 1).all()
    sigma = 1 / math.sqrt(count)
    assert abs(x.mean() - 0.5) < 4 * sigma * math.sqrt(1 / 12)
    assert abs((x * x).mean() - 1 / 3) < 4 * sigma * math.sqrt(4 / 45)
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 5 * sigma
    assert abs(np.histogram(x, 64, (0, 1))[0] - count / 64).max() < 6 * math.sqrt(count / 64)
