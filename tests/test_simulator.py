"""The simulated GPU itself: what real ones forgive or punish must show here."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "0":
    pytest.skip("about the simulator: NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)

from numba import cuda


@cuda.jit
def _neighbours_of_a_grid(x: Any, out: Any, steps: int) -> None:
    """Each block takes over what its neighbour had a step before."""
    i, n = cuda.grid(1), cuda.gridsize(1)
    for step in range(steps):
        x[(step + 1) % 2, i] = x[step % 2, (i + 1) % n]
        cuda.cg.this_grid().sync()
    out[i] = x[steps % 2, i]


@cuda.jit
def _reversed_without_a_barrier(x: Any, out: Any) -> None:
    room, i = cuda.shared.array(8, np.float32), cuda.threadIdx.x
    room[i] = x[i]
    out[i] = room[7 - i]


@cuda.jit
def _reversed(x: Any, out: Any) -> None:
    room, i = cuda.shared.array(8, np.float32), cuda.threadIdx.x
    room[i] = x[8 * cuda.blockIdx.x + i]
    cuda.syncthreads()
    out[8 * cuda.blockIdx.x + i] = room[7 - i]


@cuda.jit
def _two_barriers(out: Any) -> None:
    if cuda.threadIdx.x == 0:
        cuda.syncthreads()
    else:
        cuda.syncthreads()
    out[cuda.threadIdx.x] = 1


@cuda.jit
def _a_block_leaves(out: Any) -> None:
    if cuda.blockIdx.x == 0:
        cuda.cg.this_grid().sync()


@cuda.jit
def _unwritten(out: Any, counts: Any) -> None:
    room = cuda.shared.array(4, np.float64)
    own = cuda.local.array(4, np.int32)
    out[cuda.grid(1)], counts[cuda.grid(1)] = room[cuda.threadIdx.x], own[0]
    cuda.syncthreads()
    room[cuda.threadIdx.x] = 1


@cuda.jit
def _fails(out: Any) -> None:
    cuda.syncthreads()
    if cuda.threadIdx.x == 1:
        out[7]  # past the end
    cuda.syncthreads()


@cuda.jit
def _count(x: Any, out: Any) -> None:
    i = cuda.grid(1)
    out[i] = cuda.syncthreads_count(x[i] > 0)


def test_a_grid_waits_for_itself() -> None:
    x, out = np.zeros((2, 12)), np.empty(12)
    x[0] = np.arange(12)
    _neighbours_of_a_grid[3, 4](x, out, 7)
    np.testing.assert_array_equal(out, (np.arange(12) + 7) % 12)


def test_blocks_have_memory_each() -> None:
    x, out = np.arange(24, dtype=np.float32), np.empty(24, np.float32)
    _reversed[3, 8](x, out)
    np.testing.assert_array_equal(out, x.reshape(3, 8)[:, ::-1].reshape(-1))


def test_a_missing_barrier_shows() -> None:
    x, out = np.arange(8, dtype=np.float32), np.empty(8, np.float32)
    _reversed_without_a_barrier[1, 8](x, out)
    assert np.isnan(out).any()


def test_nothing_is_written_that_nobody_wrote() -> None:
    out, counts = np.zeros(8), np.zeros(8, np.int32)
    _unwritten[2, 4](out, counts)
    assert np.isnan(out).all()
    assert (counts == -1).all()
    assert np.isnan(cuda.device_array(3, np.float32).copy_to_host()).all()


def test_counting_votes() -> None:
    x, out = np.array([1, 0, 2, 0, 0, 3]), np.empty(6)
    _count[2, 3](x, out)
    np.testing.assert_array_equal(out, [2, 2, 2, 1, 1, 1])


def test_threads_that_miss_one_another_are_told_of() -> None:
    with pytest.raises(RuntimeError, match="different barriers"):
        _two_barriers[1, 4](np.empty(4))
    with pytest.raises(RuntimeError, match="blocks that have finished"):
        _a_block_leaves[2, 4](np.empty(4))


def test_an_error_ends_a_grid_and_leaves_the_next_one_alone() -> None:
    with pytest.raises(IndexError):
        _fails[2, 4](np.empty(4))
    test_a_grid_waits_for_itself()
