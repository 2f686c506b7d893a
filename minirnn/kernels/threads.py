"""The one thread pool: a kernel is called once per share of its work, the caller taking the first share.

Every kernel is written so that a number it computes does not depend on how the work was shared: the same
seed gives the same numbers on one thread and on sixteen.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from minirnn.errors import OptionError

GRAIN = 4_000_000
"""Multiply-adds (or their like) that make a share worth handing to another thread."""

_STACK_BYTES = 64 << 20  # compiling happens on whichever thread calls first; LLVM wants more than 512 kB


def _default_threads() -> int:
    if chosen := os.environ.get("MINIRNN_NUM_THREADS"):
        try:
            return max(1, int(chosen))
        except ValueError:
            raise OptionError(f"MINIRNN_NUM_THREADS must be a whole number, got {chosen!r}") from None
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    def __init__(self) -> None:
        self.limit = _default_threads()
        self.tasks: SimpleQueue = SimpleQueue()
        self.workers = 0
        self.lock = threading.Lock()

    def forget_workers(self) -> None:
        """A forked child has none of its parent's threads."""
        self.tasks, self.workers, self.lock = SimpleQueue(), 0, threading.Lock()

    def ensure(self, workers: int) -> None:
        with self.lock:
            before = threading.stack_size(_STACK_BYTES) if self.workers < workers else None
            while self.workers < workers:
                self.workers += 1
                threading.Thread(target=self._work, name=f"minirnn-{self.workers}", daemon=True).start()
            if before is not None:
                threading.stack_size(before)

    def _work(self) -> None:
        tasks = self.tasks
        while True:
            done, kernel, args = tasks.get()
            try:
                kernel(*args)
                done.put(None)
            except BaseException as error:  # handed to the caller, who raises it
                done.put(error)
            del done, kernel, args


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget_workers)


def set_num_threads(count: int) -> None:
    """Let kernels use up to ``count`` threads (1 or more). Results do not depend on it."""
    if not isinstance(count, int) or count < 1:
        raise OptionError(f"set_num_threads: wanted a whole number of at least 1, got {count!r}")
    _pool.limit = count


def get_num_threads() -> int:
    """The number of threads kernels may use."""
    return _pool.limit


def run(kernel: Callable[..., Any], work: float, most: int, *args: Any) -> None:
    """Call ``kernel(share, shares, *args)`` for every share, in parallel where ``work`` is worth it.

    Args:
        work: the whole job's multiply-adds, or what costs as much.
        most: how many shares the job can be cut into (rows, columns, ...).
    """
    shares = min(_pool.limit, most, int(work / GRAIN) + 1)
    if shares <= 1:
        kernel(0, 1, *args)
        return
    if _pool.workers < shares - 1:
        _pool.ensure(shares - 1)
    done: SimpleQueue = SimpleQueue()
    for share in range(1, shares):
        _pool.tasks.put((done, kernel, (share, shares, *args)))
    try:
        kernel(0, shares, *args)
    finally:
        failures = [done.get() for _ in range(shares - 1)]
    for failure in failures:
        if failure is not None:
            raise failure
