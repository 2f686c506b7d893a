"""The thread pool: every chunk runs once, errors reach the caller, several callers at once, and after a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import OptionError
from minirnn.kernels import cpu, threads


@pytest.fixture
def divide_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest job is worth several threads."""
    monkeypatch.setattr(threads, "MIN_WORK", 1)


def at_once(count: int, function: Callable[[int], None]) -> None:
    callers = [threading.Thread(target=function, args=(n,)) for n in range(count)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)


def test_every_chunk_runs_once(set_threads: Any) -> None:
    set_threads(4)
    lock, seen = threading.Lock(), []

    def kernel(thread_id: int, num_threads: int, argument: str) -> None:
        with lock:
            seen.append((thread_id, num_threads, argument))

    threads.run(kernel, 1e12, 100, "given")
    assert sorted(seen) == [(n, 4, "given") for n in range(4)]


@pytest.mark.parametrize(
    ("work", "max_threads", "expected"),
    [(0, 100, 1), (0.9, 100, 1), (1.1, 100, 2), (2.1, 100, 3), (1e6, 100, 3), (1e6, 2, 2), (1e6, 1, 1), (1e6, 0, 1)],
)
def test_work_is_divided_where_it_is_worth_it(set_threads: Any, work: float, max_threads: int, expected: int) -> None:
    set_threads(3)
    seen: list[int] = []
    threads.run(lambda thread_id, num_threads: seen.append(num_threads), work * threads.MIN_WORK, max_threads)
    assert seen == [expected] * expected


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_error_on_any_thread_reaches_the_caller_after_all_are_done(set_threads: Any, failing: int) -> None:
    set_threads(3)
    finished: list[int] = []

    def kernel(thread_id: int, num_threads: int) -> None:
        if thread_id == failing:
            raise ZeroDivisionError(f"thread {thread_id}")
        time.sleep(0.05)
        finished.append(thread_id)

    with pytest.raises(ZeroDivisionError, match=f"thread {failing}"):
        threads.run(kernel, 1e12, 100)
    assert sorted(finished) == [n for n in range(3) if n != failing]
    after: list[int] = []
    threads.run(lambda thread_id, num_threads: after.append(thread_id), 1e12, 100)
    assert sorted(after) == [0, 1, 2], "the pool must go on working"


def test_callers_at_once_get_their_own_numbers(set_threads: Any, divide_all: None) -> None:
    set_threads(2)
    rng = np.random.default_rng(0)
    jobs = [(rng.standard_normal((40 + n, 30)), rng.standard_normal((30, 50))) for n in range(4)]
    cpu.gemm(*jobs[0])  # compiled before the race
    wrong: list[Any] = []

    def work(number: int) -> None:
        a, b = jobs[number]
        for _ in range(20):
            if not np.allclose(cpu.gemm(a, b), a @ b, atol=1e-10):
                wrong.append(number)

    at_once(4, work)
    assert not wrong


def test_models_train_at_once(set_threads: Any, divide_all: None) -> None:
    set_threads(2)
    rnn = mr.nn.GRU(3, 5)
    x = np.random.default_rng(1).standard_normal((6, 4, 3)).astype(np.float32)

    def gradient() -> np.ndarray:
        leaf = mr.tensor(x, requires_grad=True)
        y, _ = rnn(leaf)
        (y * y).sum().backward()
        assert leaf.grad is not None
        return leaf.grad.numpy()

    alone = gradient()
    results: list[np.ndarray] = []
    at_once(3, lambda number: results.extend(gradient() for _ in range(5)))
    assert len(results) == 15
    for result in results:
        np.testing.assert_allclose(result, alone, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_can_compute(set_threads: Any, divide_all: None) -> None:
    set_threads(2)
    a = np.random.default_rng(0).standard_normal((50, 30))
    expected = cpu.gemm(a, np.ascontiguousarray(a.T))
    assert threads._pool.workers >= 1, "the parent has a pool to lose"
    child = os.fork()
    if child == 0:  # no assertion may escape into pytest from here
        code = 1
        try:
            signal.alarm(30)
            got = cpu.gemm(a, np.ascontiguousarray(a.T))
            code = 0 if np.array_equal(got, expected) and threads._pool.workers == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(cpu.gemm(a, np.ascontiguousarray(a.T)), expected)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None, 1025, 10**30])
def test_number_of_threads_is_checked(count: Any) -> None:
    with pytest.raises(OptionError, match="set_num_threads: expected an int from 1 to 1024, got"):
        mr.set_num_threads(count)


def test_number_of_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch, set_threads: Any) -> None:
    for value, expected in (("3", 3), ("0", 1), ("9" * 30, 1024)):
        monkeypatch.setenv("MINIRNN_NUM_THREADS", value)
        assert threads._default_threads() == expected
    monkeypatch.setenv("MINIRNN_NUM_THREADS", "many")
    with pytest.raises(OptionError, match="MINIRNN_NUM_THREADS: expected an int, got 'many'"):
        threads._default_threads()
    monkeypatch.delenv("MINIRNN_NUM_THREADS")
    assert threads._default_threads() >= 1
    set_threads(5)
    assert mr.get_num_threads() == 5
