"""Every pointwise formula beside its derivative, once. All devices compile these same scalars.

In float32 the exponential and the hyperbolic tangent are approximations made of multiplications, additions
and one division, so that loops over them vectorise (Numba has no SVML any more and ``math.tanh`` is ten
times slower). In float64, which gradient checks run in, they are the exact functions of the C library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minirnn.kernels.jit import DISABLED, jit

scalar = jit(inline=True)


def cast(value: Any, like: Any) -> Any:
    """``value`` in the floating type of ``like``, so that a literal does not turn a loop into float64."""
    return type(like)(value)


@overload(cast, inline="always")
def _cast(value, like):  # unannotated: Numba compares it with the lambda it returns
    if like == types.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


# ------------------------------------------------------------------------------------- tanh, sigmoid, exp

# x P(x^2) / Q(x^2), fitted to tanh for the least largest relative error (Lawson's reweighted least squares);
# then scale, last bits and the limit, beyond which tanh is as good as constant, were searched for the least largest
# error of the whole evaluation in float32 over every float from 0.25 up: 2.92e-7 with fused multiply-add, 3.73e-7
# without. Measured in tests/kernels.
_TANH_LIMIT = np.float32(8.058544158935547)
_P = tuple(
    np.float32(c) for c in (1.090587854385376, 0.14593186974525452, 0.0038122395053505898,
                            2.2476002413895912e-05, 1.456424048029703e-08)
)  # fmt: skip
_Q = tuple(
    np.float32(c) for c in (1.090587854385376, 0.5094609260559082, 0.028221121057868004,
                            0.0003583261859603226, 8.48105685236078e-07)
)  # fmt: skip
_P0, _P1, _P2, _P3, _P4 = _P
_Q0, _Q1, _Q2, _Q3, _Q4 = _Q


def tanh(x: Any) -> Any:
    """Hyperbolic tangent; largest error in float32 3e-7. NaN in, NaN out.

    On a card, whose fast division is off by up to 2 units in the last place (PTX ISA, div.approx), that may be 5e-7.
    """
    return np.tanh(x)


def _tanh32(x):
    x = -_TANH_LIMIT if x < -_TANH_LIMIT else x  # written so that NaN passes
    x = _TANH_LIMIT if x > _TANH_LIMIT else x
    z = x * x
    p = (((_P4 * z + _P3) * z + _P2) * z + _P1) * z + _P0
    q = (((_Q4 * z + _Q3) * z + _Q2) * z + _Q1) * z + _Q0
    return x * (p / q)


@overload(tanh, jit_options={"fastmath": {"contract", "nsz"}, "error_model": "numpy", "forceinline": True})
def _tanh(x):
    if x == types.float32:
        return _tanh32
    return lambda x: math.tanh(x)


@scalar
def tanh_grad(y: Any) -> Any:
    """d tanh(x) / dx from y = tanh(x): 1 - y^2."""
    return cast(1, y) - y * y


@scalar
def sigmoid(x: Any) -> Any:
    """Logistic function, 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2."""
    half = cast(0.5, x)
    return half + half * tanh(half * x)


@scalar
def sigmoid_grad(y: Any) -> Any:
    """d sigmoid(x) / dx from y = sigmoid(x): y (1 - y)."""
    return y * (cast(1, y) - y)


@scalar
def relu(x: Any) -> Any:
    """max(x, 0); NaN in, NaN out."""
    zero = cast(0, x)
    return zero if x < zero else x


@scalar
def relu_grad(y: Any) -> Any:
    """d relu(x) / dx from y = relu(x): 1 where y > 0, else 0."""
    return cast(1, y) if y > cast(0, y) else cast(0, y)


_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # exact in float32; the rest in the next line
_LN2_LOW = np.float32(-2.12194440054690583e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number
_EXP_LOW, _EXP_HIGH = np.float32(-87.33654), np.float32(88.72283)
_E = tuple(np.float32(1 / math.factorial(k)) for k in range(8))
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7 = _E
_ZERO32, _INF32 = np.float32(0), np.float32(np.inf)


@intrinsic
def _power_of_two(typing_context: Any, exponent: Any) -> Any:
    """2^n as float32 for a whole n in [-126, 128], by building its bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(args[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), generate


def exp(x: Any) -> Any:
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


@overload(exp, jit_options={"fastmath": {"contract", "nsz"}, "error_model": "numpy", "forceinline": True})
def _exp(x):
    if x == types.float32:
        return _exp32
    return lambda x: math.exp(x)


# ----------------------------------------------------------------------------------------- recurrent cells
#
# The LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000), after the sigmoid of
# i, f, o and the tanh of g:  c = f c_prev + i g,  h = o tanh(c).


@scalar
def lstm_c(i: Any, f: Any, g: Any, c_prev: Any) -> Any:
    """c = f c_prev + i g."""
    return f * c_prev + i * g


@scalar
def lstm_h(o: Any, c: Any) -> Any:
    """h = o tanh(c)."""
    return o * tanh(c)


@scalar
def lstm_dc(dh: Any, o: Any, tanh_c: Any, dc: Any) -> Any:
    """The whole gradient of c: what came from the next step and what came through h."""
    return dc + dh * o * tanh_grad(tanh_c)


@scalar
def sigmoid_gate_grad(upstream: Any, other: Any, y: Any) -> Any:
    """Gradient of a sigmoid gate's pre-activation, where the gate y multiplies ``other``."""
    return upstream * other * sigmoid_grad(y)


@scalar
def tanh_gate_grad(upstream: Any, other: Any, y: Any) -> Any:
    """Gradient of a tanh gate's pre-activation, where the gate y multiplies ``other``."""
    return upstream * other * tanh_grad(y)


# The GRU (Cho et al. 2014), the reset gate after the product as in cuDNN and PyTorch, after the sigmoid of
# r and z:  n = tanh(x_n + r h_n),  h = (1 - z) n + z h_prev.


@scalar
def gru_n(x_n: Any, r: Any, h_n: Any) -> Any:
    """n = tanh(x_n + r h_n)."""
    return tanh(x_n + r * h_n)


@scalar
def gru_h(z: Any, n: Any, h_prev: Any) -> Any:
    """h = (1 - z) n + z h_prev."""
    return n + z * (h_prev - n)


@scalar
def gru_dn(dh: Any, z: Any, n: Any) -> Any:
    """Gradient of n's pre-activation."""
    return dh * (cast(1, z) - z) * tanh_grad(n)


# --------------------------------------------------------------------------------------- random numbers


@scalar
def random_bits(seed: Any, counter: Any) -> Any:
    """64 random bits for one counter value: SplitMix64's output function (Steele, Lea & Flood 2014)."""
    z = np.uint64(seed) + (np.uint64(counter) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@scalar
def random_uniform(seed: Any, counter: Any) -> Any:
    """A float64 in [0, 1) for one counter value; any device and any thread draws the same."""
    return np.float64(random_bits(seed, counter) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def _random_bits_plain(seed: Any, counter: Any) -> Any:
    """64 random bits for one counter value, in Python's own integers."""
    mask = (1 << 64) - 1
    z = (int(seed) + (int(counter) + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return np.uint64(z ^ (z >> 31))


if DISABLED:  # NumPy's uint64 warns where the compiled code wraps silently
    random_bits = _random_bits_plain
