"""The matrix micro-kernel and the products built on it, against float64 NumPy.

Also that no kernel's numbers depend on the number of threads, to the last bit, and that a host with neither AVX nor FMA
computes the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn import cells
from minirnn.kernels import cache, cpu, threads, tile
from minirnn.kernels.contract import Noise, RecurrentWeights
from minirnn.kernels.cpu import matrix
from minirnn.kernels.jit import DISABLED
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps

HEIGHTS = range(1, 7)


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def assert_product(got: np.ndarray, a: np.ndarray, b: np.ndarray, plus: Any = 0.0) -> None:
    """Within the bound of a chain of K roundings: |error| <= (K + 2) eps (|A| |B| + |plus|)."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bound = (a.shape[1] + 2) * np.finfo(got.dtype).eps * (np.abs(wide_a) @ np.abs(wide_b) + np.abs(plus) + 1e-30)
    error = np.abs(got - (wide_a @ wide_b + plus))
    assert got.shape == error.shape
    assert (error <= bound).all(), f"{error.max()} at {np.argwhere(error > bound)[0]}"


# --------------------------------------------------------------------------------------- the micro-kernel


def tile_driver(vectors: int, lanes: int) -> Callable[..., None]:
    """One compiled function that calls the tile of a given height; 0 is a row against several panels, -1 without the
    last vector of them."""
    wide, less = (tile.emit_tile(1, tile.WIDE * vectors - n, lanes, panel_vectors=vectors) for n in (0, 1))
    one, two, three, four, five, six = (tile.emit_tile(rows, vectors, lanes) for rows in HEIGHTS)

    @numba.njit(error_model="numpy")
    def run(height, a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add):  # type: ignore[no-untyped-def]
        if height == 0:
            wide(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        elif height == -1:
            less(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        elif height == 1:
            one(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        elif height == 2:
            two(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        elif height == 3:
            three(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        elif height == 4:
            four(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        elif height == 5:
            five(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)
        else:
            six(a, a_at, a_row, a_column, panel, panel_at, size, c, c_at, c_row, depth, columns, add)

    return run


@pytest.mark.needs_jit
@pytest.mark.parametrize("register_bytes", [16, 32, 64])
def test_tile_of_every_height_width_and_edge(dtype: np.dtype, register_bytes: int) -> None:
    lanes = register_bytes // dtype.itemsize
    width = 2 * lanes
    run = tile_driver(2, lanes)
    for depth in (0, 1, 7):
        panel = random(depth, width, dtype=dtype)
        by_height: dict[int, np.ndarray] = {}
        for height in HEIGHTS:
            a = random(6, depth, dtype=dtype, seed=3)[:height]
            for columns in range(1, width + 1):
                before = random(6, width + 3, dtype=dtype, seed=9)[:height]
                # plain, and with A transposed and everything starting somewhere inside its array
                c = before.copy()
                run(height, a.copy(), 0, depth, 1, panel, 0, 0, c, 0, width + 3, depth, columns, True)
                assert_product(c[:, :columns], a, panel[:, :columns], before[:, :columns].astype(np.float64))
                np.testing.assert_array_equal(c[:, columns:], before[:, columns:], "wrote past its columns")
                overwritten = np.full_like(c, np.nan)  # C = A B: the initial values of C are ignored
                run(height, a, 0, depth, 1, panel, 0, 0, overwritten, 0, width + 3, depth, columns, False)
                assert_product(overwritten[:, :columns], a, panel[:, :columns])
                assert np.isnan(overwritten[:, columns:]).all(), "wrote past its columns"
                moved = np.concatenate([np.full(5, 7, dtype), before.reshape(-1)])
                turned = np.concatenate([np.full(3, np.nan, dtype), a.T.reshape(-1)])
                shifted = np.concatenate([np.full(2, np.nan, dtype), panel.reshape(-1)])
                run(height, turned, 3, 1, height, shifted, 2, 0, moved, 5, width + 3, depth, columns, True)
                np.testing.assert_array_equal(moved[5:].reshape(c.shape), c)
                assert (moved[:5] == 7).all()
            by_height[height] = c
        for height in HEIGHTS:  # a number does not depend on the tile it is in
            np.testing.assert_array_equal(by_height[height], by_height[6][:height])

        # a row against several panels at once: the same bits as one panel after the other
        size = depth * width + 5  # panels need not be adjacent
        panels, a = random(tile.WIDE * size, dtype=dtype), random(1, depth, dtype=dtype, seed=3)
        for columns in range((tile.WIDE - 1) * width + 1, tile.WIDE * width + 1):
            before = random(1, tile.WIDE * width + 3, dtype=dtype, seed=9)
            got, expected = before.copy(), before.copy()
            tile_of = 0 if columns > tile.WIDE * width - lanes else -1
            run(tile_of, a, 0, depth, 1, panels, 0, size, got, 0, 0, depth, columns, True)
            for number in range(tile.WIDE):
                used = min(width, columns - number * width)
                run(1, a, 0, depth, 1, panels, number * size, 0, expected, number * width, 0, depth, used, True)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(got[:, columns:], before[:, columns:], "wrote past its columns")


@pytest.mark.needs_jit
def test_the_kernel_cache_tells_the_two_products_apart() -> None:
    assert len({cache._identity(one) for one in (tile.multiply, tile.multiply_add)}) == 2
    assert len({cache._identity(one) for one in (tile.multiply_bfloat16, tile.multiply_add_bfloat16)}) == 2


@pytest.mark.parametrize("transposed", [False, True])
@given(depth=st.integers(0, 40), columns=st.integers(0, 70))
def test_pack_and_unpack(dtype: np.dtype, transposed: bool, depth: int, columns: int) -> None:
    b = random(depth, columns, dtype=dtype)
    panels = tile.pack(np.ascontiguousarray(b.T) if transposed else b, transposed)
    width = tile.packed_width(dtype)
    assert width == tile.VECTORS * tile.vector_bytes() // dtype.itemsize
    assert panels.shape == (-(-columns // width), depth, width)
    other = np.asfortranarray(b.T) if transposed else np.asfortranarray(b)
    np.testing.assert_array_equal(tile.pack(other, transposed), panels)
    flat = panels.transpose(1, 0, 2).reshape(depth, panels.shape[0] * width)
    np.testing.assert_array_equal(flat[:, :columns], b)
    assert not flat[:, columns:].any()


@pytest.mark.skipif(not DISABLED, reason="compiled, it does not check")
@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_plain_tiles_check_their_bounds(shift: tuple[int, int, int]) -> None:
    """So the suite, run as plain Python, finds a tile that touches elements outside its operands."""
    a, c, panels = np.ones((2, 3)), np.zeros((2, 4)), tile.pack(np.ones((3, 4)), False)
    depth, width = panels.shape[1:]
    tile.multiply_add(a, 0, 3, 1, 2, panels, 0, depth * width, 3, c, 0, 4, 4)
    assert (c == 3).all()
    with pytest.raises(IndexError, match="the tile touches 1 to"):
        tile.multiply_add(a, shift[0], 3, 1, 2, panels, shift[1], depth * width, 3, c, shift[2], 4, 4)


# -------------------------------------------------------------------------------------------------- products

EXTENT = st.one_of(st.integers(0, 9), st.integers(0, 40 if DISABLED else 200))


@given(m=EXTENT, k=EXTENT, n=EXTENT, transpose_b=st.booleans(), with_bias=st.booleans())
def test_gemm_matches_numpy(dtype: np.dtype, m: int, k: int, n: int, transpose_b: bool, with_bias: bool) -> None:
    a, b = random(m, k, dtype=dtype), random(k, n, dtype=dtype, seed=1)
    bias = random(n, dtype=dtype, seed=2) if with_bias else None
    right = np.ascontiguousarray(b.T) if transpose_b else b
    plus = 0.0 if bias is None else bias.astype(np.float64)
    assert_product(cpu.gemm(a, right, bias, transpose_b=transpose_b), a, b, plus)
    out = np.full((m, n), np.nan, dtype)
    assert cpu.gemm(a, right, bias, out=out, transpose_b=transpose_b) is out
    assert_product(out, a, b, plus)


@given(m=EXTENT, k=EXTENT, n=EXTENT, with_rows=st.booleans())
def test_transposed_gemm_matches_numpy(dtype: np.dtype, m: int, k: int, n: int, with_rows: bool) -> None:
    a, b = random(k, m, dtype=dtype), random(k + 3, n, dtype=dtype, seed=1)
    rows = np.random.default_rng(5).integers(0, k + 3, k) if with_rows else None
    out, right = np.full((m, n), np.nan, dtype), b if rows is None else b[rows]
    assert cpu.gemm(a, b if with_rows else b[:k], out=out, transpose_a=True, rows=rows) is out
    assert_product(out, a.T, right[:k])
    before = out.astype(np.float64)
    cpu.gemm(a, b if with_rows else b[:k], out=out, transpose_a=True, rows=rows, accumulate=True)
    assert_product(out, a.T, right[:k], before)


@pytest.mark.parametrize("depth", [2047, 2048, 2049, 4100])
def test_gemm_deeper_than_one_panel(dtype: np.dtype, depth: int) -> None:
    a, b, bias = random(7, depth, dtype=dtype), random(depth, 5, dtype=dtype), random(5, dtype=dtype)
    assert_product(cpu.gemm(a, b, bias), a, b, bias.astype(np.float64))
    assert_product(cpu.gemm(a, np.ascontiguousarray(b.T), transpose_b=True), a, b)
    assert_product(cpu.gemm(np.ascontiguousarray(a.T), b, transpose_a=True), a, b)


def test_gemm_packs_its_right_operand_in_parts(dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, bias = random(13, 30, dtype=dtype), random(150, 30, dtype=dtype), random(150, dtype=dtype)
    whole = cpu.gemm(a, b, bias, transpose_b=True)
    monkeypatch.setattr(matrix, "_PACKED_BYTES", 1)  # one panel at a time
    np.testing.assert_array_equal(cpu.gemm(a, b, bias, transpose_b=True), whole)


def test_gemm_keeps_infinities_and_nan(dtype: np.dtype) -> None:
    a = np.ones((3, 4), dtype)
    a[1, 2], a[2, 0] = np.inf, np.nan
    with np.errstate(all="ignore"):
        got = cpu.gemm(a, np.ones((4, 2), dtype))
    np.testing.assert_array_equal(got, [[4, 4], [np.inf, np.inf], [np.nan, np.nan]])


def test_square_sum_column_sums_and_rows(dtype: np.dtype) -> None:
    for size in (0, 1, 16384, 16385, 40_000 if not DISABLED else 17_000):
        x = random(size, dtype=dtype)
        assert cpu.square_sum(x) == pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-5)
    for rows in (0, 1, 31, 32, 33, 100):
        for columns in (0, 1, 17):
            x = random(rows, columns, dtype=dtype)
            np.testing.assert_allclose(cpu.column_sums(x), x.astype(np.float64).sum(0), rtol=1e-5, atol=1e-5)
            index = np.arange(rows) * 5 % 7
            expected = np.zeros((7, columns))
            np.add.at(expected, index, x.astype(np.float64))
            np.testing.assert_allclose(cpu.scatter_add_rows(x, index, 7), expected, rtol=1e-5, atol=1e-5)
            out = np.full((7, columns), np.nan, dtype)
            assert cpu.scatter_add_rows(x, index, 7, out) is out
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
            assert cpu.take_rows(expected, index).tolist() == expected[index].tolist()


def test_dropout_mask_does_not_depend_on_size_and_shape(dtype: np.dtype) -> None:
    whole = cpu.dropout(np.ones(1003, dtype), 0.25, 99)
    assert set(np.unique(whole)) == {dtype.type(0), dtype.type(1 / 0.75)}
    assert abs((whole == 0).mean() - 0.25) < 0.05
    for size in (0, 1, 2, 3, 4, 5, 500):
        np.testing.assert_array_equal(cpu.dropout(np.ones(size, dtype), 0.25, 99), whole[:size])
    np.testing.assert_array_equal(cpu.dropout(np.ones((17, 59), dtype), 0.25, 99).reshape(-1), whole)


# --------------------------------------------------------------------- the same bits on any number of threads


def recurrent(kind: str, steps: Steps, dtype: Any, projected: int = 0) -> list[np.ndarray]:
    """A layer of 19 units forward and backward; every array the kernels return or fill."""
    equations, size = cells.get(kind).equations.resolve(training=True), 19
    width, rows, batch = projected or size, steps.rows, steps.batch
    count = len(equations.input_gates)
    gates = random(rows, count * size, dtype=dtype)
    weights = RecurrentWeights(
        weight_hh=random(count * size, width, dtype=dtype) * dtype.type(0.3),
        bias=random(size, dtype=dtype),
        weight_hr=random(width, size, dtype=dtype) * dtype.type(0.3) if projected else None,
    )
    sizes = [width, *[size] * (len(equations.states) - 1)]
    states = [random(batch, n, dtype=dtype, seed=1 + k) for k, n in enumerate(sizes)]
    run = cpu.Recurrence(equations, gates, None, None, weights, states, steps, Noise())
    results = [*run.histories, gates.copy()]
    d_states, d = run.backward(random(rows, width, dtype=dtype, seed=4), [state.copy() for state in states])
    return [*results, *d_states, *(g for g in (d.weight_hh, d.bias, d.weight_hr) if g is not None), gates]


def gemm(m: int, k: int, n: int, dtype: Any, **options: Any) -> list[np.ndarray]:
    return [cpu.gemm(random(m, k, dtype=dtype), random(n, 45, dtype=dtype), **options)]


def losses(dtype: Any) -> list[np.ndarray]:
    targets = np.random.default_rng(1).integers(-1, 77, 50)
    return list(cpu.cross_entropy(random(50, 77, dtype=dtype), targets, None, 0.1, 0.5, True))


def ctc(dtype: Any) -> list[np.ndarray]:
    """Ragged, with repeated labels, an empty target and an empty input."""
    rng = np.random.default_rng(1)
    inputs, targets = np.array([20, 3, 17, 0, 19, 20, 8]), np.array([9, 1, 8, 0, 0, 4, 2])
    x = -np.abs(random(20, 7, 13, dtype=dtype))
    return list(cpu.ctc_loss(x, rng.integers(1, 4, (7, 9)), inputs, targets, 0, rng.random(7), False, True))


DENSE, REVERSED = dense_steps(6, 11), dense_steps(6, 11, True)
RAGGED, RAGGED_REVERSED = ragged_steps(np.array([3, 0, 7, 7, 1, 5, 2, 6, 4, 7, 3]), 7)
JOBS: dict[str, Callable[[Any], list[np.ndarray]]] = {
    "gemm": lambda d: [cpu.gemm(random(61, 45, dtype=d), random(45, 83, dtype=d), random(83, dtype=d))],
    "gemm with transposed B": lambda d: gemm(61, 45, 83, d, transpose_b=True),
    "gemm with transposed A": lambda d: gemm(1600, 230, 1600, d, transpose_a=True),
    "gemm added to its result": lambda d: gemm(
        300, 61, 300, d, transpose_a=True, out=random(61, 45, dtype=d, seed=2), accumulate=True
    ),
    "gemm of chosen rows": lambda d: gemm(300, 61, 9, d, transpose_a=True, rows=np.arange(300) % 9),
    "rnn": lambda d: recurrent("rnn", DENSE, d),
    "rnn ragged": lambda d: recurrent("rnn", RAGGED_REVERSED, d),
    "gru": lambda d: recurrent("gru", REVERSED, d),
    "gru ragged": lambda d: recurrent("gru", RAGGED, d),
    "lstm": lambda d: recurrent("lstm", DENSE, d),
    "lstm ragged": lambda d: recurrent("lstm", RAGGED_REVERSED, d),
    "lstm projected": lambda d: recurrent("lstm", RAGGED, d, projected=7),
    "scatter_add_rows": lambda d: [cpu.scatter_add_rows(random(200, 83, dtype=d), np.arange(200) * 7 % 13, 13)],
    "column_sums": lambda d: [cpu.column_sums(random(200, 83, dtype=d))],
    "dropout": lambda d: [cpu.dropout(random(41, 83, dtype=d), 0.4, 12345)],
    "cross_entropy": losses,
    "ctc_loss": ctc,
    "square_sum": lambda d: [np.array(cpu.square_sum(random(100_003, dtype=d)))],
}


@pytest.mark.needs_jit
@pytest.mark.parametrize("name", JOBS)
def test_same_bits_on_one_two_and_three_threads(
    name: str, dtype: np.dtype, set_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # divide even the smallest job
    chunks: list[int] = []
    run = threads.run

    def counted(kernel: Any, work: float, max_threads: int, *args: Any) -> None:
        chunks.append(min(threads.get_num_threads(), max_threads))
        run(kernel, work, max_threads, *args)

    monkeypatch.setattr(threads, "run", counted)
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        chunks.clear()
        results.append([np.array(r) for r in JOBS[name](dtype)])
        assert max(chunks) == count, "the job ran on fewer threads"
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_array_equal(one, two)


# ------------------------------------------------------------------------------------ a host without AVX and FMA

GENERIC = ("gemm", "gemm with transposed A", "lstm projected", "cross_entropy", "dropout")
_SCRIPT = """
import sys
import numba
import numpy as np
sys.path.insert(0, sys.argv[2])
import test_tile
from minirnn.kernels import pointwise, tile
out = {}
for name in test_tile.GENERIC:
    for number, array in enumerate(test_tile.JOBS[name](np.dtype("float32"))):
        out[f"{name} {number}"] = array
tanh = pointwise.tanh
x = np.linspace(-10, 10, 200001).astype(np.float32)
y = np.empty_like(x)
@numba.njit
def go(x, y):
    for i in range(x.size):
        y[i] = tanh(x[i])
go(x, y)
out["tanh"] = np.abs(y - np.tanh(x.astype(np.float64))).max()
out["bytes"] = tile.vector_bytes()
np.savez(sys.argv[1], **out)
"""


@pytest.mark.slow
@pytest.mark.needs_jit
def test_host_without_avx_and_fma_computes_the_same(tmp_path: Path) -> None:
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "MINIRNN_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    file, here = tmp_path / "out.npz", str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", _SCRIPT, str(file), here], env=environment, check=True, timeout=300)
    with np.load(file) as got:
        assert got["bytes"] == 16
        assert got["tanh"] <= 3.8e-7
        for name in GENERIC:
            for number, expected in enumerate(JOBS[name](np.dtype("float32"))):
                np.testing.assert_allclose(got[f"{name} {number}"], expected, rtol=1e-4, atol=1e-4)
