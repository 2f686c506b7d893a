"""A simulated GPU fit for a whole test suite: Numba's simulator with a scheduler and memory of its own.

Numba's simulator runs the threads of one block at the same time, then the next block: a grid cannot synchronise, and it
is left to chance whether a missing barrier shows. Here the threads of all blocks take turns. Each runs to its next
barrier, in an order that is shuffled after every barrier, the same whenever the same tests run. All threads of a block
must wait at the same place of the program. Each block has its own shared memory; memory that was never written holds
NaN, or -1.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel, kernelapi


class _Abort(BaseException):
    """Ends a thread of a grid in which another one failed."""


class _Host(threading.Thread):
    """A CPU thread, which runs the GPU threads of one block until one has to wait for others.

    The simulator's ``cuda`` asks ``threading.current_thread()`` for its attributes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._resumed, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self.job: Callable[[_Host], None]
        self.block: _Block
        self.waits_for = ""
        self.place: tuple[Any, ...] = ()
        self.error: BaseException | None = None
        self.aborted = False
        self.start()

    def run(self) -> None:
        while True:
            self._resumed.acquire()
            try:
                self.job(self)
            except BaseException as error:
                self.error = error
            self.waits_for = ""
            self._paused.release()

    def resume(self) -> None:
        """Let it run until it waits or has finished; raises what it raised."""
        self._resumed.release()
        self._paused.acquire()
        if self.error is not None and not self.aborted:
            error, self.error = self.error, None
            raise error

    def abort(self) -> None:
        self.aborted = True
        self.resume()
        self.aborted, self.error = False, None

    def wait(self, whom: str) -> None:
        self.waits_for, self.place = whom, _place()
        self._paused.release()
        self._resumed.acquire()
        if self.aborted:
            raise _Abort

    def syncthreads(self) -> None:
        self.wait("block")

    def syncthreads_count(self, value: Any) -> int:
        self.block.votes[self] = bool(value)
        self.wait("block")
        count = sum(self.block.votes.values())
        self.wait("block")
        return count


def _place() -> tuple[Any, ...]:
    """Where in the program the running thread is: the calls that led to its barrier."""
    found = []
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code is not _Block.run_new.__code__:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


class _Block:
    """A block of a grid, its memory, and the threads that have not started or wait."""

    def __init__(self, index: tuple[int, ...], threads: tuple[int, ...], function: Callable, args: tuple) -> None:
        self.index, self.function, self.args = kernelapi.Dim3(*index), function, args
        self.new = list(np.ndindex(*threads))
        self.waiting: list[_Host] = []
        self.shared: dict[Any, np.ndarray] = {}
        self.votes: dict[_Host, bool] = {}

    def run_new(self, host: _Host) -> None:
        """Start threads, one after the other, until one has to wait."""
        host.blockIdx, host.block, host.place = self.index, self, ()
        while self.new and not host.place:
            host.threadIdx = kernelapi.Dim3(*self.new.pop())
            self.function(*self.args)

    def advance(self, rng: random.Random) -> None:
        """Run until all threads have finished or wait for the grid."""
        rng.shuffle(self.new)
        while self.new:
            self._run(_idle.pop() if _idle else _Host(), self.run_new)
        while self.waiting and self.waits_for == "block":
            self.resume_all(rng)

    def resume_all(self, rng: random.Random) -> None:
        """Run every waiting thread to its next barrier."""
        resumed, self.waiting = self.waiting, []
        rng.shuffle(resumed)
        while resumed:
            host = resumed.pop()
            try:
                self._run(host, host.job)
            except BaseException:
                self.waiting += resumed
                raise

    def _run(self, host: _Host, job: Callable[[_Host], None]) -> None:
        host.job = job
        try:
            host.resume()
        except BaseException:
            _idle.append(host)
            raise
        (self.waiting if host.waits_for else _idle).append(host)

    @property
    def waits_for(self) -> str:
        """ "block", "grid", or "" for a block that has finished."""
        if len({(host.waits_for, host.place) for host in self.waiting}) > 1:
            places = "; ".join(sorted({f"line {host.place[0][1]}" for host in self.waiting}))
            raise RuntimeError(f"threads of a block wait for one another at different barriers: {places}")
        return self.waiting[0].waits_for if self.waiting else ""


_idle: list[_Host] = []
_launches = itertools.count()


class _Grid:
    """Replaces Numba's BlockManager, which is made for each block: the first one runs the whole grid."""

    def __init__(self, function: Callable, grid: tuple[int, ...], block: tuple[int, ...], debug: bool) -> None:
        self._function, self._grid, self._block = function, grid, block

    def run(self, index: tuple[int, ...], *args: Any) -> None:
        if any(index):
            return
        rng = random.Random(next(_launches))
        blocks = [_Block(place, self._block, self._function, args) for place in np.ndindex(*self._grid)]
        try:
            rng.shuffle(blocks)
            for block in blocks:
                block.advance(rng)
            while any(block.waiting for block in blocks):
                if not all(block.waiting for block in blocks):
                    raise RuntimeError("a grid waits for blocks that have finished")
                rng.shuffle(blocks)
                for block in blocks:
                    block.resume_all(rng)
                    block.advance(rng)
        finally:
            for block in blocks:
                for host in block.waiting:
                    host.abort()
                    _idle.append(host)


def _unwritten(array: np.ndarray) -> np.ndarray:
    array.reshape(-1).view(np.uint8)[:] = 0xFF
    return array


def _numpy_dtype(dtype: Any) -> Any:
    return kernelapi.numpy_support.as_dtype(dtype) if isinstance(dtype, kernelapi.types.Type) else dtype


def _shared_array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
    """This block's array of this line of the program; the dynamic one is the same everywhere."""
    dynamic, dtype = shape == 0, _numpy_dtype(dtype)
    caller = sys._getframe(1)
    place = "dynamic" if dynamic else (caller.f_code.co_filename, caller.f_lineno)
    arrays = threading.current_thread().block.shared  # type: ignore[attr-defined]
    if place not in arrays:
        extent = self._dynshared_size // np.dtype(dtype).itemsize if dynamic else shape
        arrays[place] = _unwritten(np.empty(extent, dtype))
    return arrays[place]


def prepare() -> None:
    """Replace the parts of Numba's simulator."""
    allocate = cuda.device_array

    def device_array(*args: Any, **kwargs: Any) -> Any:
        array = allocate(*args, **kwargs)
        _unwritten(array._ary)
        return array

    cuda.device_array = device_array
    kernel.BlockManager = _Grid
    kernelapi.GridGroup.sync = lambda self: threading.current_thread().wait("grid")  # type: ignore[attr-defined]
    kernelapi.FakeCUDAShared.array = _shared_array
    kernelapi.FakeCUDALocal.array = lambda self, shape, dtype: _unwritten(np.empty(shape, _numpy_dtype(dtype)))
