"""The scalar functions of all kernels, on every device.

In float32 the exponential, the logarithm, the hyperbolic tangent and the error function are approximations made of
multiplications, additions, operations on bits and at most one division, so that loops over them vectorise (Numba has no
SVML any more, and ``math.tanh`` is ten times slower). In float64, which gradient checks run in, they are the functions
of the C library. Largest errors are measured in ``tests/kernels/test_pointwise.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minirnn.kernels.jit import DISABLED, jit

scalar = jit(inline=True)


def cast(value, like):
    """``value`` in the floating type of ``like``, so that a literal does not turn a loop into float64."""
    return type(like)(value)


@overload(cast, jit_options={"forceinline": True})
def _cast(value, like):
    if like == types.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


def _compile_as(function: Callable, in_float32: Callable, in_float64: Callable) -> None:
    """Give ``function`` of one scalar ``x`` its compiled forms."""

    @overload(function, jit_options={"fastmath": {"contract", "nsz"}, "error_model": "numpy", "forceinline": True})
    def choose(x):
        return in_float32 if x == types.float32 else in_float64


# ------------------------------------------------------------------------------------- tanh, sigmoid, exp

# x P(x^2) / Q(x^2), fitted to tanh for the least largest relative error (Lawson's reweighted least squares);
# then scale, last bits and the limit, beyond which tanh is as good as constant, were searched for the least largest
# error of the whole evaluation in float32 over every float from 0.25 up: 2.92e-7 with fused multiply-add, 3.73e-7
# without.
_TANH_LIMIT = np.float32(8.058544158935547)
_P0, _P1, _P2, _P3, _P4 = (
    np.float32(c) for c in (1.090587854385376, 0.14593186974525452, 0.0038122395053505898,
                            2.2476002413895912e-05, 1.456424048029703e-08)
)  # fmt: skip
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    np.float32(c) for c in (1.090587854385376, 0.5094609260559082, 0.028221121057868004,
                            0.0003583261859603226, 8.48105685236078e-07)
)  # fmt: skip


def tanh(x):
    """Hyperbolic tangent; largest error in float32 3e-7. NaN in, NaN out.

    On a GPU, whose fast division is off by up to 2 units in the last place (PTX ISA, div.approx), that may be 5e-7.
    """
    return np.tanh(x)


def _tanh32(x):
    x = -_TANH_LIMIT if x < -_TANH_LIMIT else x  # written so that NaN passes
    x = _TANH_LIMIT if x > _TANH_LIMIT else x
    z = x * x
    p = (((_P4 * z + _P3) * z + _P2) * z + _P1) * z + _P0
    q = (((_Q4 * z + _Q3) * z + _Q2) * z + _Q1) * z + _Q0
    return x * (p / q)


_compile_as(tanh, _tanh32, lambda x: math.tanh(x))


@scalar
def tanh_grad(y):
    """d tanh(x) / dx from y = tanh(x): 1 - y^2."""
    return cast(1, y) - y * y


@scalar
def sigmoid(x):
    """Logistic function, 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2."""
    half = cast(0.5, x)
    return half + half * tanh(half * x)


@scalar
def relu(x):
    """max(x, 0); NaN in, NaN out."""
    zero = cast(0, x)
    return zero if x < zero else x


_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # exact in float32; the rest in the next line
_LN2_LOW = np.float32(-2.12194440054690583e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer
_EXP_LOW, _EXP_HIGH = np.float32(-87.33654), np.float32(88.72283)
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(k)) for k in range(8))
_ZERO32, _INF32 = np.float32(0), np.float32(np.inf)


@intrinsic
def _power_of_two(typing_context, exponent):
    """2^n as float32 for an integer n in [-126, 128], by building its bits."""

    def generate(context, builder, signature, args):
        word = ir.IntType(32)
        biased = builder.add(args[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), generate


def exp(x):
    """Exponential; largest relative error in float32 3e-7. NaN in, NaN out; underflows to 0."""
    return np.exp(x)


def _exp32(x):
    # x = n ln 2 + r with |r| <= ln(2)/2; exp(r) by its Taylor polynomial
    y = _EXP_LOW if x < _EXP_LOW else x
    y = _EXP_HIGH if y > _EXP_HIGH else y
    n = (y * _LOG2E + _ROUND) - _ROUND
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    e = ((((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _E0
    half = np.int32(np.int32(n) >> np.int32(1))  # two factors: 2^128 alone would overflow
    e = e * _power_of_two(half) * _power_of_two(np.int32(np.int32(n) - half))
    e = _ZERO32 if x < _EXP_LOW else e
    return _INF32 if x > _EXP_HIGH else e


_compile_as(exp, _exp32, lambda x: math.exp(x))


@intrinsic
def _bits(typing_context, value):
    """The bits of a float32 as int32."""
    return types.int32(types.float32), lambda c, builder, s, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _from_bits(typing_context, bits):
    """The float32 of these bits."""
    return types.float32(types.int32), lambda c, builder, s, args: builder.bitcast(args[0], ir.FloatType())


# --------------------------------------------------------------------------------- logarithm, softplus, erf

# log(1 + f) = f - f^2 / 2 + f^3 P(f) for 1 + f in [sqrt(1/2), sqrt(2)]; P was fitted for the least maximum relative
# error of the logarithm, 5.8e-9 (Lawson's reweighted least squares).
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_EXPONENT_MASK = np.int32(-0x800000)
_FOUR_BITS = np.int32(0x40800000)
_EXPONENT_STEP = np.float32(2**-23)  # from the exponent's bits to the exponent
_TINY32, _TWO_23, _MANTISSA_BITS = np.finfo(np.float32).tiny, np.float32(2**23), np.float32(23)
_QUARTER32, _HALF32, _ONE32, _FOUR32, _NAN32 = (np.float32(c) for c in (0.25, 0.5, 1, 4, np.nan))
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (
    np.float32(c) for c in (0.33333331707637315, -0.2500082103364963, 0.20001226882962903, -0.16623357371187356,
                            0.14201757858231415, -0.13160181994414125, 0.12761577886328118, -0.07634498635579473)
)  # fmt: skip


@scalar
def _exponent_bits(x):
    """n 2^23 for a normal float32 x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2))."""
    return np.int32(np.int32(_bits(x) - _SQRT_HALF_BITS) & _EXPONENT_MASK)


@scalar
def _log_from(f, n):
    """log(2^n (1 + f)) in float32."""
    p = ((((((_L7 * f + _L6) * f + _L5) * f + _L4) * f + _L3) * f + _L2) * f + _L1) * f + _L0
    return n * _LN2_HIGH + (f + ((f * p - _HALF32) * (f * f) + n * _LN2_LOW))


def log(x):
    """Natural logarithm; largest relative error in float32 1e-7, denormal numbers included.

    -inf for 0; NaN for negative numbers; NaN in, NaN out.
    """
    return np.log(x)


def _log32(x):
    denormal = x < _TINY32
    y = x * _TWO_23 if denormal else x
    bits = _exponent_bits(y)
    n = np.float32(bits) * _EXPONENT_STEP
    n = n - _MANTISSA_BITS if denormal else n
    y = _log_from(_from_bits(np.int32(_bits(y) - bits)) - _ONE32, n)
    y = -_INF32 if x == _ZERO32 else y
    y = _NAN32 if x < _ZERO32 else y
    return y if x < _INF32 else x  # infinity and NaN


_compile_as(log, _log32, lambda x: math.log(x))


def log1p(x):
    """log(1 + x), accurate for small x too; largest relative error in float32 1.3e-7.

    -inf for -1; NaN for numbers below -1; NaN in, NaN out.
    """
    return np.log1p(x)


def _log1p32(x):
    # 1 + x = 2^n (1 + f) with f = 2^-n x + (2^-n - 1), which is rounded once: the method of N. Juffa's log1pf
    bits = _exponent_bits(x + _ONE32)
    f = _from_bits(np.int32(_bits(x) - bits)) + (_from_bits(np.int32(_FOUR_BITS - bits)) * _QUARTER32 - _ONE32)
    y = _log_from(f, np.float32(bits) * _EXPONENT_STEP)
    y = -_INF32 if x == -_ONE32 else y
    y = _NAN32 if x < -_ONE32 else y
    return y if x < _INF32 else x


_compile_as(log1p, _log1p32, lambda x: math.log1p(x))


@scalar
def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)); largest relative error in float32 2e-7, but 0 below -87.3."""
    return relu(x) + log1p(exp(x if x < cast(0, x) else -x))


@scalar
def logaddexp(a, b):
    """log(exp(a) + exp(b)) = max + log1p(exp(min - max)); -inf where both are, NaN if either is NaN."""
    high = a if a > b else b
    low = b if a > b else a
    lowest = cast(-3e38, a)  # finite, for -inf - -inf is NaN
    return high + log1p(exp(low - (high if high > lowest else lowest)))


# erf(x) = x + x A(x^2) below 0.9, and 1 - exp(x B(x)) from there to 4, where float32 rounds it to 1; both fitted for
# the least maximum relative error, 1.2e-8 and 3.1e-9 (Lawson's reweighted least squares).
_ERF_SPLIT = np.float32(0.9)
_A0, _A1, _A2, _A3, _A4, _A5 = (
    np.float32(c) for c in (0.12837915379728868, -0.37612523276284554, 0.1128214081279967,
                            -0.026778908949983336, 0.00501196287046731, -0.000609036024304801)
)  # fmt: skip
_B0, _B1, _B2, _B3, _B4, _B5 = (
    np.float32(c) for c in (-1.128519952302598, -0.6356993702016565, -0.10528685171953998,
                            0.022906029123806786, -0.0032199748146512484, 0.00021459493289690618)
)  # fmt: skip


def erf(x):
    """Error function; largest relative error in float32 1.1e-7. NaN in, NaN out."""
    return type(x)(math.erf(x))


def _erf32(x):
    t = -x if x < _ZERO32 else x
    t = _FOUR32 if t > _FOUR32 else t
    z = x * x
    near = (((((_A5 * z + _A4) * z + _A3) * z + _A2) * z + _A1) * z + _A0) * x + x
    far = _ONE32 - exp((((((_B5 * t + _B4) * t + _B3) * t + _B2) * t + _B1) * t + _B0) * t)
    far = -far if x < _ZERO32 else far
    return near if t < _ERF_SPLIT else far


_compile_as(erf, _erf32, lambda x: math.erf(x))


# --------------------------------------------------------------------- square root, comparison and selection


def sqrt(x):
    """Square root; NaN for negative numbers."""
    return np.sqrt(x)


@overload(sqrt, jit_options={"error_model": "numpy", "forceinline": True})
def _sqrt(x):
    return lambda x: math.sqrt(x)


@scalar
def minimum(a, b):
    """The smaller of a and b; a if they are equal, NaN if either is."""
    return b if (b < a) | (b != b) else a


@scalar
def maximum(a, b):
    """The larger of a and b; a if they are equal, NaN if either is."""
    return b if (a < b) | (b != b) else a


@scalar
def where(condition, a, b):
    """a if the condition holds, else b."""
    return a if condition else b


# --------------------------------------------------------------------------------------- random numbers


@scalar
def random_bits(seed, counter):
    """64 random bits for one counter value: SplitMix64's output function (Steele, Lea & Flood 2014)."""
    z = np.uint64(seed) + (np.uint64(counter) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@scalar
def random_uniform(seed, counter):
    """A float64 in [0, 1) for one counter value, the same on any device and any thread."""
    return np.float64(random_bits(seed, counter) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def _random_bits_plain(seed, counter):
    """64 random bits for one counter value, in Python's own integers."""
    mask = (1 << 64) - 1
    z = (int(seed) + (int(counter) + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return np.uint64(z ^ (z >> 31))


if DISABLED:  # NumPy's uint64 warns where the compiled code wraps silently
    random_bits = _random_bits_plain
