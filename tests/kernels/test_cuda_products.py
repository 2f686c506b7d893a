"""Matrix products on the GPU: the kernel, and the calls to cuBLAS where that is installed.

cuBLAS itself needs a GPU. In the simulator a stand-in with its interface computes, from C pointers, what the
documentation of cuBLAS says a call computes; everything on this side of the interface is the real code.
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

INVALID_VALUE = 7  # cuBLAS's status
needs_simulator = pytest.mark.skipif(not SIMULATOR, reason="the stand-in reads the host's memory")


def column_major(address: int, rows: int, columns: int, lead: int, number: Any) -> np.ndarray:
    """The matrix at an address as cuBLAS sees it."""
    memory = (number * (lead * (columns - 1) + rows)).from_address(address)
    flat = np.frombuffer(memory, number)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, lead * flat.itemsize))


def stand_in(number: Any) -> tuple[Callable, Callable]:
    """?gemm_v2 and ?gemmStridedBatched of one type: C = alpha op(A) op(B) + beta C, in column-major order."""
    size = ctypes.sizeof(number)

    def batched(handle, trans_a, trans_b, m, n, k, alpha, a, lda, da, b, ldb, db, beta, c, ldc, dc, count):  # type: ignore[no-untyped-def]
        if handle != 42 or min(m, n, k) < 0 or lda < max(1, k if trans_a else m) or ldb < max(1, n if trans_b else k):
            return INVALID_VALUE
        if ldc < max(1, m) or trans_a not in (0, 1) or trans_b not in (0, 1):
            return INVALID_VALUE
        alpha, beta = (ctypes.cast(p, ctypes.POINTER(number))[0] for p in (alpha, beta))
        for z in range(count):
            A = column_major(a + z * da * size, *((k, m) if trans_a else (m, k)), lda, number)
            B = column_major(b + z * db * size, *((n, k) if trans_b else (k, n)), ldb, number)
            C = column_major(c + z * dc * size, m, n, ldc, number)
            product = alpha * ((A.T if trans_a else A) @ (B.T if trans_b else B))
            C[...] = product + beta * C if beta else product
        return 0

    def single(handle, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):  # type: ignore[no-untyped-def]
        return batched(handle, trans_a, trans_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1)

    types = (ctypes.CFUNCTYPE(ctypes.c_int, *cublas.ARGUMENTS[name]) for name in ("gemm", "gemmStridedBatched"))
    return next(types)(single), next(types)(batched)


def create(handle: Any) -> int:
    handle._obj.value = 42
    return 0


@pytest.fixture(params=["kernel", pytest.param("cublas", marks=needs_simulator)])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace | None]:
    """Has products made by the kernel, or by the stand-in for cuBLAS."""
    caches = cublas._library, cublas._handle, cublas._function
    found = None
    if request.param == "cublas":
        (single, single_batched), (double, double_batched) = stand_in(ctypes.c_float), stand_in(ctypes.c_double)
        found = SimpleNamespace(cublasCreate_v2=create, cublasSgemm_v2=single, cublasDgemm_v2=double)
        found.cublasSgemmStridedBatched, found.cublasDgemmStridedBatched = single_batched, double_batched
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(cublas, "_library", lambda: found)
    yield found
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


SIZES = st.integers(1, 11)


@given(
    M=SIZES,
    N=SIZES,
    K=st.integers(0, 40),
    form=st.sampled_from(["plain", "transpose_a", "transpose_b"]),
    with_bias=st.booleans(),
)
def test_gemm_matches_numpy(library: Any, dtype: np.dtype, M: int, N: int, K: int, form: str, with_bias: bool) -> None:
    """In float64, and written over what was there before."""
    rng = np.random.default_rng(M + 10 * N + 100 * K)
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    expected = a.astype(float) @ b.astype(float)
    bias = rng.standard_normal(N).astype(dtype) if with_bias and form != "transpose_a" else None
    if bias is not None:
        expected = expected + bias
    options: dict[str, Any] = {}
    if form == "transpose_a":
        a = np.concatenate([a, rng.standard_normal((2, K)).astype(dtype)]).T.copy()  # more columns than are asked for
        b, options = np.repeat(b, 2, axis=0), {"transpose_a": True, "rows": asarray(2 * np.arange(K))}
    elif form == "transpose_b":
        b, options = b.T.copy(), {"transpose_b": True}
    out = asarray(np.full((M, N), np.nan, dtype))
    result = matrix.gemm(asarray(a), asarray(b), None if bias is None else asarray(bias), out, **options)
    assert result is out
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(result.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_batched_gemm_matches_numpy(library: Any, dtype: np.dtype) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 5, 7)).astype(dtype), rng.standard_normal((3, 7, 4)).astype(dtype)
    result = matrix.batched_gemm(asarray(a), asarray(b)).numpy()
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(result, a @ b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("library", [pytest.param("cublas", marks=needs_simulator)], indirect=True)
def test_error_of_cublas_says_what_to_do(library: Any) -> None:
    """As on a GPU whose cuBLAS is newer than its driver."""
    library.cublasCreate_v2 = lambda handle: 1
    with pytest.raises(DeviceError, match=r"cublasCreate failed with status 1.*cublas12"):
        matrix.gemm(asarray(np.ones((2, 2))), asarray(np.ones((2, 2))))


@pytest.mark.skipif(not SIMULATOR, reason="on a GPU cuBLAS may be installed")
def test_simulator_has_no_cublas() -> None:
    assert not cublas.available()
