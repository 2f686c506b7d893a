"""Errors of the float32 functions, whether they vectorise, float64 against the C library, and the random bits.

Errors are measured on dense grids and at special values; the random numbers are checked against an independent version
in Python's own integers.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core import codegen, config

from minirnn.kernels import pointwise
from minirnn.kernels.jit import DISABLED, jit

_FEATURES = config.CPU_FEATURES or codegen.get_host_cpu_features()
HAS_FMA = "x86" not in platform.machine() or "+fma" in _FEATURES.split(",")
"""Without fused multiply-add tanh rounds more often."""
TANH_ERROR = 3e-7 if HAS_FMA else 3.8e-7

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
EXACT = {
    "log": np.log,
    "log1p": np.log1p,
    "erf": np.vectorize(math.erf, otypes=[float]),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "sqrt": np.sqrt,
}
LOOPS = {name: over(getattr(pointwise, name)) for name in EXACT}


def single(values: Any) -> np.ndarray:
    return np.asarray(values).astype(np.float32)


def logistic(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    e = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1, e) / (1 + e)


GRIDS = {
    "middle": np.linspace(-10, 10, DENSE),
    "steep": np.linspace(-1, 1, DENSE),
    "bend": np.linspace(2, 8.5, DENSE),
    "far": np.linspace(-1e4, 1e4, DENSE // 10),
    "tiny": np.logspace(-44, 0, DENSE // 10),
    "huge": np.logspace(0, 38.5, DENSE // 10),
}


@pytest.mark.parametrize("name", GRIDS)
def test_tanh_and_sigmoid_in_float32(name: str) -> None:
    x = single(GRIDS[name])
    y, expected = TANH(x), np.tanh(x.astype(np.float64))
    assert np.abs(y - expected).max() <= TANH_ERROR
    small = (np.abs(x) < 0.5) & (np.abs(x) > 1e-37)  # relatively exact where tanh is small
    assert (np.abs(y - expected)[small] / np.abs(expected)[small]).max(initial=0) <= 4e-7
    assert np.abs(y).max() <= 1 + 2**-22
    np.testing.assert_array_equal(TANH(-x), -y)
    y = SIGMOID(x)
    assert np.abs(y - logistic(x)).max() <= 2.1e-7
    np.testing.assert_allclose(SIGMOID(-x), 1 - y, atol=1.2e-7)


@pytest.mark.needs_jit
@pytest.mark.parametrize("octave", [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_tanh_of_every_float32(octave: float) -> None:
    """All 8 million floats of each octave; below them the error is relative, above tanh is constant."""
    low, high = single([octave, 2 * octave]).view(np.int32)
    x = np.arange(low, high, dtype=np.int32).view(np.float32)
    y = TANH(x)
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() <= TANH_ERROR
    assert y.max() <= (1 if HAS_FMA else 1 + 2**-22)


def test_logaddexp(dtype: np.dtype) -> None:
    rng = np.random.default_rng(1)
    a, b = (30 * rng.standard_normal((2, 2000))).astype(dtype)
    a[:4], b[:4] = [-np.inf, -np.inf, 3, np.nan], [-np.inf, 2, -np.inf, 1]

    def loop(a, b, out):  # type: ignore[no-untyped-def]
        for i in range(a.size):
            out[i] = pointwise.logaddexp(a[i], b[i])

    compiled = loop if DISABLED else numba.njit(loop, error_model="numpy", fastmath={"contract", "nsz"})
    tolerance = 1e-15 if dtype == np.float64 else 4e-7
    for one, two in ((a, b), (b, a)):
        out = np.empty_like(a)
        with np.errstate(all="ignore"):
            compiled(one, two, out)
            expected = np.logaddexp(a.astype(np.float64), b.astype(np.float64))
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


def test_exp_in_float32() -> None:
    x = single(np.linspace(-87.33, 88.72, DENSE))
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(EXP(x) - expected) / expected).max() <= 3e-7
    assert EXP(single([0.0, -0.0])).tolist() == [1, 1]
    beyond = EXP(single([88.73, 89, 1e4, 3e38, np.inf, -88, -104, -1e4, -3e38, -np.inf]))
    assert (beyond[:5] == np.inf).all()
    np.testing.assert_allclose(beyond[5:], 0, atol=1.2e-38)
    assert math.isnan(EXP(single([np.nan]))[0])


def check_error(name: str, x: np.ndarray, most: float) -> None:
    """The relative error in float32; that of a denormal result is relative to the smallest normal number."""
    x = x[np.isfinite(x)]
    expected = EXACT[name](x.astype(np.float64))
    error = np.abs(LOOPS[name](x) - expected) / np.maximum(np.abs(expected), 1.2e-38)
    assert error.max() <= (4e-7 if DISABLED else most), f"{name}({x[error.argmax()]})"  # NumPy's are off by more


def every(step: int, low: float, high: float) -> np.ndarray:
    """Every ``step``-th float32 in [low, high)."""
    first, last = single([low, high]).view(np.int32)
    return np.arange(first, last, step * 101 if DISABLED else step, dtype=np.int32).view(np.float32)


@pytest.mark.parametrize(
    ("name", "sign", "ranges", "tolerance"),
    [
        ("log", 1, [(997, 1e-45, np.inf), (1, 0.99, 1.01), (11, 0.25, 4)], 1e-7),
        ("log1p", 1, [(997, 1e-45, np.inf), (11, 0.25, 1)], 1.3e-7),
        ("log1p", -1, [(997, 1e-45, 1), (1, 0.99, 1)], 1.3e-7),
        ("erf", 1, [(4999, 1e-45, np.inf), (997, 0.5, 1), (9973, 1, 8)], 1.1e-7),
        ("softplus", 1, [(499, 1e-45, np.inf)], 2e-7),
        ("softplus", -1, [(499, 1e-45, 87.3)], 2e-7),
    ],
)
def test_relative_error_in_float32(name: str, sign: int, ranges: list[Any], tolerance: float) -> None:
    x = sign * np.concatenate([every(*one) for one in ranges])
    check_error(name, x, tolerance)
    if name == "erf":
        y = LOOPS["erf"](x)
        assert y.max() == 1
        np.testing.assert_array_equal(LOOPS["erf"](-x), -y)
    elif name == "softplus":
        assert np.abs(LOOPS["softplus"](-every(4999, 87.3, np.inf))).max() <= 1.3e-38


def test_special_values(dtype: np.dtype) -> None:
    nan, inf, largest = np.nan, np.inf, float(np.finfo(dtype).max)
    x = np.array([nan, inf, -inf, 0.0, -0.0, largest, -largest], dtype)
    np.testing.assert_allclose(TANH(x), [nan, 1, -1, 0, 0, 1, -1], atol=3e-7)
    np.testing.assert_allclose(SIGMOID(x), [nan, 1, 0, 0.5, 0.5, 1, 0], atol=3e-7)
    np.testing.assert_array_equal(RELU(x), [nan, inf, 0, 0, 0, largest, 0])
    np.testing.assert_array_equal(np.isnan(EXP(x)), [True] + [False] * 6)
    assert np.signbit(TANH(x)[3:5]).tolist() == [False, True]

    x = np.array([nan, inf, -inf, 0, -0.0, 1, -1, -2, 100, -100], dtype)
    e1, e2 = math.log1p(math.exp(-1)), math.log1p(math.exp(-2))
    expected = {
        "log": [nan, inf, nan, -inf, -inf, 0, nan, nan, math.log(100), nan],
        "log1p": [nan, inf, nan, 0, 0, math.log(2), -inf, nan, math.log(101), nan],
        "erf": [nan, 1, -1, 0, 0, math.erf(1), -math.erf(1), -math.erf(2), 1, -1],
        "softplus": [nan, inf, 0, math.log(2), math.log(2), 1 + e1, e1, e2, 100, math.exp(-100)],
        "sqrt": [nan, inf, nan, 0, 0, 1, nan, nan, 10, nan],
    }
    for name, values in expected.items():
        tolerance = 2e-7 if dtype == np.float32 else 1e-15
        np.testing.assert_allclose(LOOPS[name](x), values, rtol=tolerance, atol=1.2e-38, err_msg=name)
    assert np.signbit(LOOPS["erf"](x)[3:5]).tolist() == [False, True]


def test_functions_keep_the_dtype(dtype: np.dtype) -> None:
    for name in EXACT:
        assert over(getattr(pointwise, name))(np.array([0.5], dtype)).dtype == dtype
        if DISABLED:
            assert type(getattr(pointwise, name)(dtype.type(0.5))) is dtype.type


def _choices(a, b, smaller, larger, chosen):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        smaller[i] = pointwise.minimum(a[i], b[i])
        larger[i] = pointwise.maximum(a[i], b[i])
        chosen[i] = pointwise.where(a[i] > b[i], a[i], b[i])


def test_minimum_maximum_and_where(dtype: np.dtype) -> None:
    a, b = np.random.default_rng(0).integers(-3, 4, (2, 1001)).astype(dtype)
    a[:3], b[:3] = [np.nan, 1, 0], [1, np.nan, -0.0]
    smaller, larger, chosen = np.empty((3, a.size), dtype)
    (_choices if DISABLED else numba.njit(_choices))(a, b, smaller, larger, chosen)
    np.testing.assert_array_equal(smaller, np.minimum(a, b))
    np.testing.assert_array_equal(larger, np.maximum(a, b))
    np.testing.assert_array_equal(chosen, np.where(a > b, a, b))
    assert not np.signbit([smaller[2], larger[2]]).any(), "of equal numbers the first"


VECTOR_OPERATIONS = {
    "sqrt": r"@llvm\.sqrt\.v\d+f32" if HAS_FMA else "@sqrtf",  # too cheap as one instruction for SSE's vectors
    **dict.fromkeys(("relu", "minimum", "maximum", "where"), r"fcmp[ \w]* <\d+ x float>"),
}


@pytest.mark.needs_jit
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp", "relu", "minimum", "maximum", "where", "logaddexp", *EXACT])
def test_loops_in_float32_vectorise(name: str) -> None:
    """The optimised loop operates on vectors and stores them, and calls no scalar function."""
    f = getattr(pointwise, name)
    binary = {"minimum": f, "maximum": f, "logaddexp": f, "where": jit(lambda x, y: f(x > y, x, y), inline=True)}
    function = binary.get(name, jit(lambda x, y: f(x), inline=True))

    def loop(x, y, out):  # type: ignore[no-untyped-def]
        for i in range(out.size):
            out[i] = function(x[i], y[i])

    types = (numba.types.float32[::1],) * 3
    compiled = numba.njit(types, error_model="numpy", fastmath={"contract", "nsz"})(loop)
    code = compiled.inspect_llvm(types)
    assert re.search(r"store <\d+ x float>", code)
    assert re.search(VECTOR_OPERATIONS.get(name, r"fmul[ \w]* <\d+ x float>"), code)
    assert set(re.findall(r"call [^@]*float @([\w.]+)", code)) <= {"sqrtf"}  # for what is left over by the vectors


@pytest.mark.needs_jit  # in plain Python they are NumPy's
def test_float64_matches_the_c_library() -> None:
    x = np.concatenate([np.linspace(-30, 30, 10_001), np.logspace(-300, 2, 1001), [np.inf, -np.inf, np.nan]])
    with np.errstate(all="ignore"):
        np.testing.assert_array_max_ulp(TANH(x), np.array([math.tanh(v) for v in x]), 1)
        np.testing.assert_array_max_ulp(EXP(x), np.array([math.exp(v) for v in x]), 1)
        np.testing.assert_array_max_ulp(LOOPS["erf"](x), EXACT["erf"](x), 1)
        for name in ("log", "log1p", "softplus", "sqrt"):
            np.testing.assert_allclose(LOOPS[name](x), EXACT[name](x), rtol=1e-15, atol=1e-300, err_msg=name)
    np.testing.assert_allclose(SIGMOID(x)[:-3], logistic(x)[:-3], rtol=1e-14, atol=1.2e-16)


def test_tanh_grad_matches_finite_differences() -> None:
    x = np.linspace(-3, 3, 200) + 0.01
    f, step = over(pointwise.tanh), 1e-6
    expected = (f(x + step) - f(x - step)) / (2 * step)
    np.testing.assert_allclose(over(pointwise.tanh_grad)(f(x)), expected, rtol=1e-6, atol=1e-9)


# --------------------------------------------------------------------------------------- random numbers


def splitmix64(seed: int, counter: int) -> int:
    """Steele, Lea & Flood 2014, figure 14, in integers of any size."""
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


@jit
def _range(a: Any, b: Any) -> Any:
    return pointwise.maximum(a, b) - pointwise.minimum(a, b)


def test_helpers_can_be_called_from_python_too() -> None:
    """Before and after a kernel has been compiled with them, of two that take the same types."""
    for _ in range(2):
        assert (pointwise.maximum(2.0, 5.0), pointwise.minimum(2.0, 5.0)) == (5.0, 2.0)
        assert _range(2.0, 5.0) == 3.0
    assert pointwise.sigmoid(np.float32(0)) == 0.5
