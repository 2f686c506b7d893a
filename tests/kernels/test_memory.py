"""Memory returns to the free list only when no view of it is left, and large arrays are aligned."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.kernels import memory

LARGE = 50_000


@pytest.fixture(autouse=True)
def empty_free_list() -> Iterator[None]:
    memory.release()
    yield
    memory.release()


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def large(count: int = 1, dtype: type = np.float32) -> np.ndarray:
    return memory.empty((count * LARGE,), dtype)


@given(
    shape=st.lists(st.integers(0, 60), max_size=4).map(tuple),
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.int8]),
)
def test_arrays_have_shape_dtype_and_alignment(shape: tuple[int, ...], dtype: type) -> None:
    if np.prod(shape, dtype=float) > 2e6:
        shape = shape[:2]
    for make in (memory.empty, memory.zeros):
        array = make(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.nbytes < memory.MIN_BYTES or address(array) % 64 == 0
        array[...] = 1
        assert (array == 1).all()
    assert not memory.zeros(shape, dtype).any(), "reused memory must be cleared"


def test_memory_is_reused_when_the_last_view_dies_and_not_before() -> None:
    first = large()
    place = address(first)
    first[:] = 7
    view = first.reshape(100, -1)[3:5].T
    del first
    second = large()
    assert address(second) != place
    second[:] = 1
    assert (view == 7).all()
    assert memory.cached_bytes() == 0
    del view
    assert memory.cached_bytes() >= 4 * LARGE
    third = memory.empty((2, LARGE // 4), np.float64)  # of another type and shape
    assert address(third) == place
    assert memory.cached_bytes() == 0
    assert address(large(8)) != place


def test_free_block_serves_somewhat_smaller_arrays() -> None:
    place = address(large(5))
    size = memory.cached_bytes()
    assert address(large(2)) != place
    memory.release()
    first = large(5)
    place = address(first)
    del first
    second = large(4)
    assert address(second) == place
    del second
    assert memory.cached_bytes() == size, "all of it is free again"
    assert address(large(5)) == place


def test_live_arrays_never_overlap() -> None:
    rng = np.random.default_rng(0)
    alive: list[tuple[np.ndarray, int]] = []
    for step in range(300):
        array = memory.empty((int(rng.integers(20_000, 60_000)),), np.float32)
        array[:] = step
        alive.append((array[int(rng.integers(0, 9)) :], step))
        if len(alive) > 5:
            kept, value = alive.pop(int(rng.integers(len(alive))))
            assert (kept == value).all()
    assert all((kept == value).all() for kept, value in alive)


def test_arrays_may_die_on_other_threads() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            array = large()
            array[:] = number
            other = large()
            other[:] = -1
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_small_arrays_are_not_cached_and_too_much_cached_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    small = memory.empty((10,), np.float32)
    del small
    assert memory.cached_bytes() == 0
    monkeypatch.setattr(memory, "_MAX_CACHED", 1 << 20)
    arrays = [large(2) for _ in range(4)]
    arrays.clear()
    gc.collect()
    assert memory.cached_bytes() > 1 << 20
    kept = large(6)
    assert memory.cached_bytes() == 0
    del kept


def test_working_set_above_the_limit_is_still_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step that needs much memory finds it again at the next step."""
    monkeypatch.setattr(memory, "_MAX_CACHED", 1 << 20)

    def step() -> set[int]:
        arrays = [large(count) for count in range(1, 12)]
        return {address(array) for array in arrays}

    first = step()
    assert memory.cached_bytes() > 10 << 20
    assert step() == first
    del first
    for count in range(12, 40):  # other sizes: the free list does not grow without limit
        large(count)
    assert memory.cached_bytes() < 30 << 20


def test_size_classes_waste_at_most_an_eighth() -> None:
    for size in [int(s) for s in np.geomspace(memory.MIN_BYTES, 1 << 30, 2000)]:
        wide = memory.size_class(size)
        assert size <= wide <= size * 9 / 8
        assert memory.size_class(wide) == wide


def test_arrays_that_live_to_the_end_of_the_program_are_silent() -> None:
    code = """
from minirnn.kernels import memory
import numpy as np
x = memory.zeros((100_000,), np.float64)
class Last:
    kept = memory.zeros((100_000,), np.float64)
print(x.sum())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (run.stdout, run.stderr) == ("0.0\n", "")
