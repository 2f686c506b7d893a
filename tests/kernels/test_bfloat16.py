"""Products of bfloat16 with float32 sums: against float64 products of rounded operands; layers made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minirnn as mr
from minirnn import cells
from minirnn.errors import OptionError
from minirnn.kernels import bfloat16, cpu, threads, tile
from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.jit import DISABLED
from minirnn.kernels.precision import check_precision
from minirnn.kernels.steps import dense_steps


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape, np.float32)


def assert_product(got: np.ndarray, a: np.ndarray, b: np.ndarray, plus: Any = 0.0) -> None:
    """Within the bound of a chain of float32 roundings; products of two bfloat16 are exact in float32."""
    bound = (a.shape[1] + 2) * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b) + np.abs(plus) + 1e-30)
    assert got.dtype == np.float32
    assert got.shape == bound.shape
    assert (np.abs(got - (a @ b + plus)) <= bound).all()


def rounded(x: np.ndarray) -> np.ndarray:
    """x to 8 bits of significand, ties to even, by arithmetic."""
    significand, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(significand * 256) / 256, exponent)


# ------------------------------------------------------------------------------------------------- rounding


ROUNDED = {
    0x3F800000: 0x3F80,  # 1
    0x3F807FFF: 0x3F80,  # just below the middle
    0x3F808000: 0x3F80,  # 1 + 2^-8, in the middle: down to even
    0x3F808001: 0x3F81,
    0x3F818000: 0x3F82,  # in the middle: up to even
    0xBF818000: 0xBF82,
    0x7F7FFFFF: 0x7F80,  # the largest number becomes infinite
    0x7F800000: 0x7F80,
    0xFF800000: 0xFF80,
    0x80000000: 0x8000,
    0x7F800001: 0x7FC0,  # NaN
    0x7FFFFFFF: 0x7FFF,
    0xFFC00000: 0xFFC0,
}


@pytest.mark.parametrize("transposed", [False, True])
def test_pairs_are_rounded_to_nearest_ties_to_even_and_end_with_zero(transposed: bool) -> None:
    numbers = np.array([[*ROUNDED] * 5], np.uint32).view(np.float32)  # an odd number
    words = bfloat16.pairs(numbers if transposed else np.ascontiguousarray(numbers.T), transposed)
    assert words.size == numbers.size // 2 + 1
    assert words.reshape(-1).view(np.uint16).tolist() == [*ROUNDED.values()] * 5 + [0]
    if not transposed:  # of neighbouring rows
        rows = np.arange(6, dtype=np.float32).reshape(3, 2)
        np.testing.assert_array_equal(bfloat16.unpack(bfloat16.pairs(rows, False)[None])[0], [*rows, [0, 0]])


# ------------------------------------------------------------------------------------------------- products

EXTENT = st.one_of(st.integers(0, 9), st.integers(0, 20 if DISABLED else 200))


def products(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None) -> list[np.ndarray]:
    """A B computed from each order of the operands in memory."""
    at, bt = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    return [cpu.gemm(a, b, bias), cpu.gemm(a, bt, bias, transpose_b=True), cpu.gemm(at, b, transpose_a=True)]


@pytest.mark.needs_bfloat16
@given(m=EXTENT, k=EXTENT, n=EXTENT)
def test_gemm_multiplies_rounded_operands(m: int, k: int, n: int) -> None:
    a, b, bias = random(m, k), random(k, n, seed=1), random(n, seed=2)
    with mr.matmul_precision("bf16"):
        *with_bias, transposed = products(a, b, bias)
    for got in with_bias:
        assert_product(got, rounded(a), rounded(b), bias.astype(np.float64))
    assert_product(transposed, rounded(a), rounded(b))


@pytest.mark.needs_bfloat16
def test_gemm_of_chosen_rows_and_a_column() -> None:
    """An odd number of rows, whose pairs are not neighbours."""
    a, b = random(35, 21), random(9, 40, seed=1)
    rows, out = np.random.default_rng(5).integers(0, 9, 35), np.full((10, 40), np.nan, np.float32)
    with mr.matmul_precision("bf16"):
        cpu.gemm(a, b, out=out, transpose_a=True, rows=rows, column=7)
    assert_product(out, rounded(a[:, 7:17].T), rounded(b[rows]))


@pytest.mark.needs_bfloat16
def test_gemm_deeper_than_one_panel() -> None:
    a, b = random(3, 4101), random(4101, 5)
    with mr.matmul_precision("bf16"):
        for got in products(a, b, None):
            assert_product(got, rounded(a), rounded(b))


@pytest.mark.needs_bfloat16
def test_gemm_keeps_infinities_and_nan() -> None:
    a = np.ones((3, 5), np.float32)
    a[1, 2], a[2, 4] = np.inf, np.nan
    with mr.matmul_precision("bf16"), np.errstate(all="ignore"):
        for got in products(a, np.ones((5, 2), np.float32), None):
            np.testing.assert_array_equal(got, [[5, 5], [np.inf, np.inf], [np.nan, np.nan]])


# --------------------------------------------------------------------------------------------------- layers


@pytest.mark.needs_bfloat16
def test_rnn_matches_numpy_with_rounded_operands() -> None:
    """Forward and backward; a few states may round the other way, so single numbers differ by more than float32."""
    T, N, H = 7, 5, 19
    x, w, h0 = random(T * N, H), random(H, H, seed=1) * np.float32(0.3), random(N, H, seed=2)
    dy = random(T * N, H, seed=3)
    with mr.matmul_precision("bf16"):
        equations = cells.get("rnn").equations.resolve(training=True)
        gates, weights = x.copy(), RecurrentWeights(weight_hh=w)
        run = cpu.Recurrence(equations, gates, None, None, weights, [h0], dense_steps(T, N), Noise())
        y = run.histories[0][N:].copy()
        (dh0,), d = run.backward(dy, [np.zeros((N, H), np.float32)])
    h, states = h0.astype(np.float64), [h0.astype(np.float64)]
    for t in range(T):
        h = np.tanh(x[t * N : (t + 1) * N] + rounded(h) @ rounded(w).T)
        states.append(h)
    dh, dgates = np.zeros((N, H)), np.zeros((T, N, H))
    for t in reversed(range(T)):
        dgates[t] = (dh + dy[t * N : (t + 1) * N]) * (1 - states[t + 1] ** 2)
        dh = rounded(dgates[t]) @ rounded(w)
    dw = rounded(dgates.reshape(T * N, H)).T @ rounded(np.concatenate(states[:-1]))
    assert d.weight_hh is not None
    results = (y, np.concatenate(states[1:])), (gates, dgates.reshape(T * N, H)), (dh0, dh), (d.weight_hh, dw)
    for got, expected in results:
        error = np.abs(got - expected)
        assert np.median(error) < 2e-6
        assert error.max() < 2e-2


LAYERS: dict[str, Callable[[], Any]] = {
    "projected": lambda: mr.nn.LSTM(15, 21, proj_size=9),
    "masked": lambda: mr.nn.Recurrent("gru_reset_before", 15, 21, recurrent_dropout=0.2, weight_drop=0.3),
}
"""Between them, every product with packed weights: of h, of a projection, inside the step."""


def gradients(name: str, precision: str) -> list[np.ndarray]:
    """A layer's outputs and every gradient."""
    mr.manual_seed(0)
    layer, inputs = LAYERS[name](), mr.tensor(random(6, 5, 15), True)
    with mr.matmul_precision(precision):
        y, _ = layer(inputs)
        (y * y).sum().backward()
    return [y.numpy(), *(t.grad.numpy() for t in (inputs, *layer.parameters()))]


@pytest.mark.needs_bfloat16
@pytest.mark.parametrize("name", ["projected", pytest.param("masked", marks=pytest.mark.slow)])
def test_layers_come_close_to_float32(name: str) -> None:
    for got, exact in zip(gradients(name, "bf16"), gradients(name, "fp32"), strict=True):
        assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < 0.02


@pytest.mark.needs_bfloat16
def test_float64_is_not_affected() -> None:
    a, b = random(40, 51).astype(np.float64), random(51, 60).astype(np.float64)
    exact = products(a, b, None)
    with mr.matmul_precision("bf16"):
        for one, two in zip(products(a, b, None), exact, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.needs_bfloat16
@pytest.mark.needs_jit
def test_same_bits_on_one_two_and_three_threads(set_threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # divide even the smallest job
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        with mr.matmul_precision("bf16"):
            results.append([*gradients("projected", "bf16"), *products(random(601, 61), random(61, 83), None)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


# ------------------------------------------------------------------------------------------- the context manager


def test_unknown_precision_is_refused() -> None:
    with (
        pytest.raises(OptionError, match="precision: expected one of fp32, bf16, got 'bf15'"),
        mr.matmul_precision("bf15"),
    ):
        pass


def test_bf16_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="precision: bf16 is for the CPU, got device cuda; use fp32"):
        check_precision("bf16", "cuda")
    monkeypatch.setattr("minirnn.kernels.jit.DISABLED", False)
    monkeypatch.setattr(tile, "cpu_features", lambda: frozenset({"avx512f"}))
    with pytest.raises(OptionError, match=r"needs a CPU that multiplies bfloat16 \(avx512_bf16\)"):
        mr.matmul_precision("bf16").__enter__()
    assert check_precision("fp32", "cuda") == "fp32"


@pytest.mark.needs_bfloat16
def test_precision_ends_with_its_block_and_belongs_to_its_thread() -> None:
    a, b = random(8, 33), random(33, 8)

    def is_exact() -> bool:
        return bool(np.array_equal(cpu.gemm(a, b), exact))

    exact, seen = cpu.gemm(a, b), []
    with mr.matmul_precision("bf16"):
        with mr.matmul_precision("fp32"):
            assert is_exact()
        with suppress(OptionError):
            mr.matmul_precision("bf15").__enter__()
        assert not is_exact()
        thread = threading.Thread(target=lambda: seen.append(is_exact()))
        thread.start()
        thread.join()
    assert is_exact()
    with suppress(KeyError), mr.matmul_precision("bf16"):
        raise KeyError
    assert is_exact()
    assert seen == [True]
