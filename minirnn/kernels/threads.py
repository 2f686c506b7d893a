"""The one thread pool: a kernel is called once per share of its work, the caller taking the first share.

Every kernel is written so that a number it computes does not depend on how the work was shared: the same
seed gives the same numbers on one thread and on sixteen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from minirnn.errors import OptionError

GRAIN = 4_000_000
"""Multiply-adds (or their like) that make a share worth handing to another thread."""

_MOST = 1024  # threads; kernels have room for each of them

_PATIENCE = 100e-6  # seconds a thread looks for more work, or for the end of it, before it sleeps
_GRACE = 6e-6  # seconds the caller needs from posting work to letting go of the GIL

_STACK_BYTES = 64 << 20  # compiling happens on whichever thread calls first; LLVM wants more than 512 kB


def _default_threads() -> int:
    if chosen := os.environ.get("MINIRNN_NUM_THREADS"):
        try:
            return min(_MOST, max(1, int(chosen)))
        except ValueError:
            raise OptionError(f"MINIRNN_NUM_THREADS must be an int, got {chosen!r}") from None
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    def __init__(self) -> None:
        self.limit = 0  # not asked for yet
        self.patience = self.grace = 0  # in looks; measured when the first worker starts
        self.wait_while: Callable[[np.ndarray, int, int, int], bool]
        self.forget_workers()

    def forget_workers(self) -> None:
        """A forked child has none of its parent's threads."""
        self.tasks: SimpleQueue = SimpleQueue()
        self.posted = np.zeros(1, np.int64)  # counts calls of run(), for workers that are still looking
        self.workers = 0
        self.lock = threading.Lock()

    def ensure(self, workers: int) -> None:
        from minirnn.kernels.spin import wait_while  # compiles: not before threads are expected

        with self.lock:
            if not self.patience:
                now, looks = int(self.posted[0]), 100_000
                wait_while(self.posted, 0, now, 1)  # compiles
                began = time.perf_counter()
                wait_while(self.posted, 0, now, looks)
                rate = looks / max(1e-9, time.perf_counter() - began)
                self.patience, self.grace, self.wait_while = int(_PATIENCE * rate), int(_GRACE * rate), wait_while
            before = threading.stack_size(_STACK_BYTES) if self.workers < workers else None
            try:
                while self.workers < workers:
                    threading.Thread(target=self._work, name=f"minirnn-{self.workers}", daemon=True).start()
                    self.workers += 1
            except RuntimeError:  # the system gives no more threads: those there are do the work
                pass
            finally:
                if before is not None:
                    threading.stack_size(before)

    def _work(self) -> None:
        from minirnn.kernels.spin import wait_while

        tasks, posted = self.tasks, self.posted
        while True:
            seen = int(posted[0])
            try:
                share, done, flags, kernel, args = tasks.get_nowait()
            except Empty:
                if wait_while(posted, 0, seen, self.patience):
                    wait_while(
                        posted, 0, int(posted[0]), self.grace
                    )  # a GIL asked for before the caller lets go of it means sleep
                share, done, flags, kernel, args = tasks.get()
            try:
                kernel(share, *args)
                done.put(None)
            except BaseException as error:  # handed to the caller, who raises it
                done.put(error)
            flags[share] = 1
            del done, flags, kernel, args


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget_workers)


def set_num_threads(count: int) -> None:
    """Let kernels use up to ``count`` threads (1 or more). Results do not depend on it."""
    if not isinstance(count, int) or not 1 <= count <= _MOST:
        raise OptionError(f"set_num_threads: expected an integer from 1 to {_MOST}, got {count!r}")
    _pool.limit = count


def get_num_threads() -> int:
    """The number of threads kernels may use."""
    if not _pool.limit:
        _pool.limit = _default_threads()
    return _pool.limit


def run(kernel: Callable[..., Any], work: float, most: int, *args: Any) -> None:
    """Call ``kernel(share, shares, *args)`` for every share, in parallel where ``work`` is worth it.

    Args:
        work: the whole job's multiply-adds, or what costs as much.
        most: how many shares the job can be cut into (rows, columns, ...).
    """
    shares = 1 if work < GRAIN else min(get_num_threads(), most, int(work / GRAIN) + 1)
    if shares > 1 and _pool.workers < shares - 1:
        _pool.ensure(shares - 1)
        shares = min(shares, _pool.workers + 1)
    if shares <= 1:
        kernel(0, 1, *args)
        return
    done: SimpleQueue = SimpleQueue()
    flags = np.zeros(shares, np.int64)
    for share in range(1, shares):
        _pool.tasks.put((share, done, flags, kernel, (shares, *args)))
    _pool.posted[0] += 1
    try:
        kernel(0, shares, *args)
    finally:
        for share in range(1, shares):
            _pool.wait_while(flags, share, 0, _pool.patience)
        failures = [done.get() for _ in range(shares - 1)]
    for failure in failures:
        if failure is not None:
            raise failure
