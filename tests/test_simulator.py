"""The simulated GPU itself: errors that a real GPU may tolerate must show."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "0":
    pytest.skip("about the simulator: NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)

from numba import cuda


@cuda.jit
def _rotate(x: Any, out: Any, steps: int) -> None:
    """Each block takes over what its neighbour had a step before."""
    i, n = cuda.grid(1), cuda.gridsize(1)
    for step in range(steps):
        x[(step + 1) % 2, i] = x[step % 2, (i + 1) % n]
        cuda.cg.this_grid().sync()
    out[i] = x[steps % 2, i]


@cuda.jit
def _reverse(x: Any, out: Any, barrier: bool) -> None:
    shared, i = cuda.shared.array(8, np.float32), cuda.threadIdx.x
    shared[i] = x[8 * cuda.blockIdx.x + i]
    if barrier:
        cuda.syncthreads()
    out[8 * cuda.blockIdx.x + i] = shared[7 - i]


@cuda.jit
def _two_barriers(out: Any) -> None:
    if cuda.threadIdx.x == 0:
        cuda.syncthreads()
    else:
        cuda.syncthreads()
    out[cuda.threadIdx.x] = 1


@cuda.jit
def _sync_one_block_of_a_grid(out: Any) -> None:
    if cuda.blockIdx.x == 0:
        cuda.cg.this_grid().sync()


@cuda.jit
def _read_unwritten(out: Any, counts: Any) -> None:
    shared = cuda.shared.array(4, np.float64)
    local = cuda.local.array(4, np.int32)
    out[cuda.grid(1)], counts[cuda.grid(1)] = shared[cuda.threadIdx.x], local[0]
    cuda.syncthreads()
    shared[cuda.threadIdx.x] = 1


@cuda.jit
def _fail(out: Any) -> None:
    cuda.syncthreads()
    if cuda.threadIdx.x == 1:
        out[7]  # past the end
    cuda.syncthreads()


@cuda.jit
def _count(x: Any, out: Any) -> None:
    i = cuda.grid(1)
    out[i] = cuda.syncthreads_count(x[i] > 0)


def test_grid_synchronises() -> None:
    x, out = np.zeros((2, 12)), np.empty(12)
    x[0] = np.arange(12)
    _rotate[3, 4](x, out, 7)
    np.testing.assert_array_equal(out, (np.arange(12) + 7) % 12)


def test_each_block_has_its_own_shared_memory() -> None:
    x, out = np.arange(24, dtype=np.float32), np.empty(24, np.float32)
    _reverse[3, 8](x, out, True)
    np.testing.assert_array_equal(out, x.reshape(3, 8)[:, ::-1].reshape(-1))


def test_missing_barrier_shows() -> None:
    x, out = np.arange(8, dtype=np.float32), np.empty(8, np.float32)
    _reverse[1, 8](x, out, False)
    assert np.isnan(out).any()


def test_unwritten_memory_holds_nan_or_minus_one() -> None:
    out, counts = np.zeros(8), np.zeros(8, np.int32)
    _read_unwritten[2, 4](out, counts)
    assert np.isnan(out).all()
    assert (counts == -1).all()
    assert np.isnan(cuda.device_array(3, np.float32).copy_to_host()).all()


def test_syncthreads_count_counts_a_block() -> None:
    x, out = np.array([1, 0, 2, 0, 0, 3]), np.empty(6)
    _count[2, 3](x, out)
    np.testing.assert_array_equal(out, [2, 2, 2, 1, 1, 1])


def test_waiting_at_different_barriers_raises() -> None:
    with pytest.raises(RuntimeError, match="different barriers"):
        _two_barriers[1, 4](np.empty(4))
    with pytest.raises(RuntimeError, match="blocks that have finished"):
        _sync_one_block_of_a_grid[2, 4](np.empty(4))


def test_grid_runs_after_one_that_failed() -> None:
    with pytest.raises(IndexError):
        _fail[2, 4](np.empty(4))
    test_grid_synchronises()
