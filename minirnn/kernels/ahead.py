"""Compiling on two processors: a second process compiles what this one will need, from the last kernel to the first."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
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
    compiles those kernels into the cache, the last one first; this process finds them there. Where they meet, one
    process leaves the kernel to the other. Nothing else changes: where there is one processor, no cache, another thread
    or no safe fork (outside Linux) there is no such process.

    Args:
        step: does on the CPU what the block will do first.
    """
    alone = threading.active_count() == 1 and threads.get_num_threads() > 1
    if DISABLED or sys.platform != "linux" or not alone or cache_folder() is None:
        yield
        return
    helper: Any = None
    parent = os.getpid()
    context: Any = multiprocessing.get_context("fork")
    here, there = (context.RawArray(ctypes.c_char, 256) for _ in range(2))  # the kernel that each process compiles

    def listener(kernel: str) -> None:
        nonlocal helper
        if os.getpid() != parent:  # what the second process compiles
            return
        here.value = _as_bytes(kernel)
        if helper is None:
            helper = context.Process(target=_compile_kernels_of, args=(step, here, there), daemon=True)
            with warnings.catch_warnings():  # of other threads: there are only those of BLAS, which ends them at a fork
                warnings.simplefilter("ignore", DeprecationWarning)
                helper.start()
        while there.value == here.value and helper.is_alive():
            time.sleep(0.002)

    with on_compile(listener):
        try:
            yield
        finally:
            if helper is not None:
                helper.kill()
                helper.join()


def _as_bytes(kernel: str) -> bytes:
    return kernel.encode()[:255]


def _compile_kernels_of(step: Callable[[], Any], parents_kernel: Any, own_kernel: Any) -> None:
    """Compile the kernels that ``step`` runs, from the last one to that which the parent compiles, while it lives."""
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
            own_kernel.value = _as_bytes(kernel.py_func.__qualname__)
            if own_kernel.value == parents_kernel.value or parent is None or not parent.is_alive():
                break
            kernel.compile(types)
        own_kernel.value = b""
