"""Matrix products on the GPU: the kernel, and what cuBLAS is asked for where that is installed.

cuBLAS itself needs a GPU. Here a stand-in with its interface, at its place behind C pointers, computes what its
documentation says a call computes; everything on this side of it is the real thing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.errors import DeviceError

try:
    from minirnn.kernels.cuda import cublas, matrix
    from minirnn.kernels.cuda.creation import asarray
    from minirnn.kernels.cuda.jit import SIMULATOR
except DeviceError as error:
    pytest.skip(f"no GPU: {error}", allow_module_level=True)

_INVALID_VALUE = 7


def by_columns(address: int, rows: int, columns: int, stride: int, number: Any) -> np.ndarray:
    """The matrix at an address as cuBLAS sees it."""
    memory = (number * (stride * (columns - 1) + rows)).from_address(address)
    flat = np.frombuffer(memory, number)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, stride * flat.itemsize))


def stand_in(number: Any) -> tuple[Callable, Callable]:
    """?gemm_v2 and ?gemmStridedBatched of one type: C = alpha op(A) op(B) + beta C, matrices by columns."""
    size = ctypes.sizeof(number)

    def batched(handle, trans_a, trans_b, m, n, k, alpha, a, lda, da, b, ldb, db, beta, c, ldc, dc, count):  # type: ignore[no-untyped-def]
        if handle != 42 or min(m, n, k) < 0 or lda < max(1, k if trans_a else m) or ldb < max(1, n if trans_b else k):
            return _INVALID_VALUE
        if ldc < max(1, m) or trans_a not in (0, 1) or trans_b not in (0, 1):
            return _INVALID_VALUE
        factor, kept = (ctypes.cast(p, ctypes.POINTER(number))[0] for p in (alpha, beta))
        for z in range(count):
            A = by_columns(a + z * da * size, *((k, m) if trans_a else (m, k)), lda, number)
            B = by_columns(b + z * db * size, *((n, k) if trans_b else (k, n)), ldb, number)
            C = by_columns(c + z * dc * size, m, n, ldc, number)
            made = factor * ((A.T if trans_a else A) @ (B.T if trans_b else B))
            C[...] = made + kept * C if kept else made
        return 0

    def single(handle, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):  # type: ignore[no-untyped-def]
        return batched(handle, trans_a, trans_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1)

    made = []
    for name, function in (("gemm", single), ("gemmStridedBatched", batched)):
        made.append(ctypes.CFUNCTYPE(ctypes.c_int, *cublas.ARGUMENTS[name])(function))
    return made[0], made[1]


def create(handle: Any) -> int:
    handle._obj.value = 42
    return 0


def clear() -> None:
    for cached in (cublas._library, cublas._handle, cublas._function):
        cached.cache_clear()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    (single, single_many), (double, double_many) = stand_in(ctypes.c_float), stand_in(ctypes.c_double)
    made = SimpleNamespace(
        cublasCreate_v2=create, cublasSgemm_v2=single, cublasDgemm_v2=double, cublasSgemmStridedBatched=single_many,
        cublasDgemmStridedBatched=double_many,
    )  # fmt: skip
    clear()
    monkeypatch.setattr(cublas, "_library", lambda: made)
    yield made
    monkeypatch.undo()
    clear()


def check(dtype: np.dtype, M: int, N: int, K: int, way: str, with_bias: bool) -> None:
    """``product`` against NumPy in float64, written over what was there before."""
    rng = np.random.default_rng(M + 10 * N + 100 * K)
    rows = None
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    expected = a.astype(float) @ b.astype(float)
    bias = rng.standard_normal(N).astype(dtype) if with_bias and way != "transpose_a" else None
    if bias is not None:
        expected = expected + bias
    options: dict[str, Any] = {}
    if way == "transpose_a":
        a = np.concatenate([a, rng.standard_normal((2, K)).astype(dtype)]).T.copy()  # more columns than are asked for
        b, rows = np.repeat(b, 2, axis=0), 2 * np.arange(K)
        options = {"transpose_a": True, "rows": asarray(rows)}
    elif way == "transpose_b":
        b, options = b.T.copy(), {"transpose_b": True}
    out = asarray(np.full((M, N), np.nan, dtype))
    made = matrix.gemm(asarray(a), asarray(b), None if bias is None else asarray(bias), out, **options)
    assert made is out
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(made.numpy(), expected, rtol=tolerance, atol=tolerance)


SIZES = st.integers(1, 11)
WAYS = st.sampled_from(["plain", "transpose_a", "transpose_b"])


@given(M=SIZES, N=SIZES, K=st.integers(0, 40), way=WAYS, with_bias=st.booleans())
def test_products_by_the_kernel(dtype: np.dtype, M: int, N: int, K: int, way: str, with_bias: bool) -> None:
    check(dtype, M, N, K, way, with_bias)


@pytest.mark.skipif(not SIMULATOR, reason="the stand-in reads the host's memory")
@given(M=SIZES, N=SIZES, K=st.integers(0, 40), way=WAYS, with_bias=st.booleans())
def test_products_by_cublas(
    library: SimpleNamespace, dtype: np.dtype, M: int, N: int, K: int, way: str, with_bias: bool
) -> None:
    check(dtype, M, N, K, way, with_bias)


@pytest.mark.parametrize("by_cublas", [False, True])
def test_batched_gemms(by_cublas: bool, dtype: np.dtype, request: pytest.FixtureRequest) -> None:
    if by_cublas and SIMULATOR:
        request.getfixturevalue("library")
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 5, 7)).astype(dtype), rng.standard_normal((3, 7, 4)).astype(dtype)
    made = matrix.batched_gemm(asarray(a), asarray(b)).numpy()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(made, a @ b, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not SIMULATOR, reason="the stand-in reads the host's memory")
def test_a_refusal_says_what_to_do(library: SimpleNamespace) -> None:
    """As on a GPU whose cuBLAS is newer than its driver."""
    library.cublasCreate_v2 = lambda handle: 1
    cublas._handle.cache_clear()
    with pytest.raises(DeviceError, match=r"cublasCreate failed with status 1.*cublas12"):
        matrix.gemm(asarray(np.ones((2, 2))), asarray(np.ones((2, 2))))


@pytest.mark.skipif(not SIMULATOR, reason="on a GPU it may be installed")
def test_without_it_the_kernel_is_used() -> None:
    assert not cublas.available()
