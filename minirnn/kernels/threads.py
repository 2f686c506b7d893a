"""The thread pool: a kernel runs once per thread, on its chunk of the work, the caller being thread 0.

No number a kernel computes depends on how the work is divided: the same seed gives the same numbers on one thread and
on sixteen. See ``docs/internals/determinism.md``.
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
from minirnn.kernels import recording
from minirnn.validation import check_int

MAX_THREADS = 1024

MIN_WORK = 4_000_000
"""Multiply-adds, or operations of that cost, that are worth another thread."""

_SPIN_SECONDS = 100e-6  # how long a thread spins, waiting for work or for the end of it, before it sleeps
_HANDOVER_SECONDS = 6e-6  # what the caller needs from posting work to releasing the GIL
_STACK_BYTES = 64 << 20  # kernels are compiled on whichever thread calls first; LLVM needs more than 512 kB


def _default_threads() -> int:
    if chosen := os.environ.get("MINIRNN_NUM_THREADS"):
        try:
            return min(MAX_THREADS, max(1, int(chosen)))
        except ValueError:
            raise OptionError(f"MINIRNN_NUM_THREADS: expected an int, got {chosen!r}") from None
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    def __init__(self) -> None:
        self.limit, self.is_chosen = 0, False  # until it is asked for, or set
        self.spins = self.handover_spins = 0  # measured when the first worker starts
        self.spin_while_equal: Callable[[np.ndarray, int, int, int], bool]
        self.reset()

    def reset(self) -> None:
        """Start without workers: a forked child has none of its parent's threads."""
        self.tasks: SimpleQueue = SimpleQueue()
        self.posted = np.zeros(1, np.int64)  # counts calls of run(), for workers that spin
        self.workers = 0
        self.lock = threading.Lock()

    def ensure(self, workers: int) -> None:
        from minirnn.kernels.spin import spin_while_equal  # compiled, so not before there are threads

        with self.lock:
            if not self.spins:
                now, count = int(self.posted[0]), 100_000
                spin_while_equal(self.posted, 0, now, 1)  # compiles
                began = time.perf_counter()
                spin_while_equal(self.posted, 0, now, count)
                rate = count / max(1e-9, time.perf_counter() - began)
                self.spins, self.handover_spins = int(_SPIN_SECONDS * rate), int(_HANDOVER_SECONDS * rate)
                self.spin_while_equal = spin_while_equal
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
        tasks, posted, spin_while_equal = self.tasks, self.posted, self.spin_while_equal
        while True:
            seen = int(posted[0])
            try:
                task = tasks.get_nowait()
            except Empty:
                if spin_while_equal(posted, 0, seen, self.spins):
                    # asking for the GIL before the caller has released it would put this thread to sleep
                    spin_while_equal(posted, 0, int(posted[0]), self.handover_spins)
                task = tasks.get()
            thread_id, done, flags, kernel, args = task
            try:
                kernel(thread_id, *args)
                done.put(None)
            except BaseException as error:  # handed to the caller, who raises it
                done.put(error)
            flags[thread_id] = 1
            del task, done, flags, kernel, args


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)


def set_num_threads(count: int) -> None:
    """Let kernels use up to ``count`` threads, 1 to 1024. Results do not depend on it.

    Raises:
        OptionError: ``count`` is not an int in that range.
    """
    _pool.limit, _pool.is_chosen = check_int("set_num_threads", count, 1, MAX_THREADS), True


def is_chosen() -> bool:
    """Whether the number of threads was set, by :func:`set_num_threads` or ``MINIRNN_NUM_THREADS``."""
    return _pool.is_chosen or "MINIRNN_NUM_THREADS" in os.environ


def get_num_threads() -> int:
    """The number of threads kernels may use: ``MINIRNN_NUM_THREADS``, or as many as this process has processors."""
    if not _pool.limit:
        _pool.limit = _default_threads()
    return _pool.limit


def run(kernel: Callable[..., Any], work: float, max_threads: int, *args: Any) -> None:
    """Call ``kernel(thread_id, num_threads, *args)`` on one or more threads, and wait for all of them.

    Args:
        work: multiply-adds of the whole job, or operations of that cost; decides how many threads are worth it.
        max_threads: how many chunks the job can be divided into (rows, columns, ...).
    """
    if (now := recording.current()) is not None:
        args = recording.plain(args)
        now.add(kernel, 0, 1, *args)
        if work >= MIN_WORK:
            now.refuse("work that is worth several threads")
    count = 1 if work < MIN_WORK else min(get_num_threads(), max_threads, int(work / MIN_WORK) + 1)
    if count > 1 and _pool.workers < count - 1:
        _pool.ensure(count - 1)
        count = min(count, _pool.workers + 1)
    if count <= 1:
        kernel(0, 1, *args)
        return
    done: SimpleQueue = SimpleQueue()
    flags = np.zeros(count, np.int64)
    for thread_id in range(1, count):
        _pool.tasks.put((thread_id, done, flags, kernel, (count, *args)))
    _pool.posted[0] += 1
    try:
        kernel(0, count, *args)
    finally:
        for thread_id in range(1, count):
            _pool.spin_while_equal(flags, thread_id, 0, _pool.spins)
        errors = [done.get() for _ in range(count - 1)]
    for error in errors:
        if error is not None:
            raise error
