"""Compiling on two processors: a second process compiles what this one will need, from the last kernel to the first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minirnn.kernels import threads
from minirnn.kernels.cache import cache_folder, on_compile
from minirnn.kernels.jit import DISABLED


@contextmanager
def compile_ahead(step: Callable[[], Any]) -> Iterator[None]:
    """Inside the block, let a second process help as soon as a kernel has to be compiled.

    It is a fork that calls ``step``, with notes of the kernels' argument types in place of their computation, and then
    compiles those kernels into the cache, the last one first; this process finds them there. It changes nothing else:
    where there is one processor, no cache, another thread or no safe fork (outside Linux) there is no such process.

    Args:
        step: does on the CPU what the block will do first.
    """
    alone = threading.active_count() == 1 and threads.get_num_threads() > 1
    if DISABLED or sys.platform != "linux" or not alone or cache_folder() is None:
        yield
        return
    helper: Any = None

    def listener(kernel: str) -> None:
        nonlocal helper
        if helper is None:
            helper = multiprocessing.get_context("fork").Process(target=_compile_kernels_of, args=(step,), daemon=True)
            with warnings.catch_warnings():  # of other threads: there are only those of BLAS, which ends them at a fork
                warnings.simplefilter("ignore", DeprecationWarning)
                helper.start()

    with on_compile(listener):
        try:
            yield
        finally:
            if helper is not None:
                helper.kill()
                helper.join()


def _compile_kernels_of(step: Callable[[], Any]) -> None:
    """Compile the kernels that ``step`` runs, from the last to the first, as long as the parent lives."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    np.seterr(all="ignore")  # what is computed is not initialised
    kernels: dict[tuple[Any, tuple[Any, ...]], None] = {}

    def note(kernel: Any, work: float, max_threads: int, *args: Any) -> None:
        kernels[kernel, tuple(kernel.typeof_pyval(value) for value in (0, 1, *args))] = None

    vars(threads)["run"] = note
    try:
        step()
    finally:
        parent = multiprocessing.parent_process()
        for kernel, types in reversed(kernels):
            if parent is not None and parent.is_alive():
                kernel.compile(types)
