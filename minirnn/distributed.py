"""Data-parallel training: several processes, each of which computes a shard of every batch, over MPI.

Started by ``mpirun`` or ``srun`` with more than one process, :class:`~minirnn.training.Trainer` and the ``train-``
commands use all of them; a script needs nothing but to run the same in all of them. Without, every function here does
what is right for one process, and mpi4py is not imported.

A process is a *rank* from 0 to :func:`size` - 1. All functions but :func:`rank`, :func:`size`, :func:`shard` and
:func:`abort` are collective: each rank must call them, in the same order.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minirnn import kernels
from minirnn.errors import OptionError
from minirnn.kernels import threads
from minirnn.random import Shard

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables that Open MPI, MPICH (Intel MPI) and Slurm set to the number of processes they start."""

A = TypeVar("A")

_disabled = False


class _World(NamedTuple):
    mpi: Any  # the module mpi4py.MPI
    comm: Any


@functools.cache
def _started() -> _World | None:
    """MPI, where this is one of several processes that it started.

    Raises:
        OptionError: it is, but mpi4py is not installed.
    """
    global _disabled
    count = max((int(value) for name in _SIZES if (value := os.environ.get(name, "")).isdigit()), default=1)
    if count == 1:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        _disabled = True
        raise OptionError(
            f"started as one of {count} processes, but mpi4py cannot be used ({error}); pip install 'minirnn[mpi]', or "
            "start one process"
        ) from None
    world = _World(MPI, MPI.COMM_WORLD)
    if world.comm.size == 1:
        return None
    _divide_threads(world)
    sys.excepthook = functools.partial(_abort_after, sys.excepthook)
    return world


def _world() -> _World | None:
    return None if _disabled else _started()


def _divide_threads(world: _World) -> None:
    """Divide the processors that several ranks of a machine may use, unless the number of threads has been chosen."""
    if threads.is_chosen() or not hasattr(os, "sched_getaffinity"):
        return
    mine = sorted(os.sched_getaffinity(0))
    users = np.zeros(1 + max(os.cpu_count() or 1, *mine), np.int64)
    users[mine] = 1
    machine = world.comm.Split_type(world.mpi.COMM_TYPE_SHARED)
    machine.Allreduce(world.mpi.IN_PLACE, users)
    threads.set_num_threads(min(threads.MAX_THREADS, max(1, int((1 / users[mine]).sum() + 1e-6))))


def _abort_after(hook: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End all ranks after an error that ends this one: they would wait for it for ever."""
    try:
        hook(kind, error, trace)
    except Exception:
        traceback.print_exc()
    abort(1)


@contextmanager
def disabled() -> Iterator[None]:
    """Let this process train on its own, though MPI has started others: they may do something else."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


# ------------------------------------------------------------------------------------------------------- ranks


def rank() -> int:
    """The number of this process, 0 without MPI."""
    world = _world()
    return 0 if world is None else int(world.comm.rank)


def size() -> int:
    """The number of processes, 1 without MPI."""
    world = _world()
    return 1 if world is None else int(world.comm.size)


def shard(count: int) -> Shard | None:
    """Which of the ``count`` sequences of a batch this process computes; None without MPI.

    Ranks have consecutive sequences, as even numbers of them as possible. A rank for which there are none computes the
    last one too, but :func:`is_extra` says that it must not be counted.
    """
    world = _world()
    if world is None:
        return None
    first, last = (count * (world.comm.rank + k) // world.comm.size for k in (0, 1))
    return Shard(first, last, count) if first < last else Shard(count - 1, count, count)


def is_extra(count: int) -> bool:
    """Whether there are too few sequences in a batch of ``count`` for this rank to have one."""
    return count * rank() // size() == count * (rank() + 1) // size()


def abort(code: int) -> None:
    """End all ranks at once, with an exit code; without MPI do nothing."""
    world = _world()
    if world is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        world.comm.Abort(code)


# ------------------------------------------------------------------------------------------------- collectives


def all_reduce(array: A) -> A:
    """Replace an array by its sum over all ranks, and return it; one on a GPU travels through host memory."""
    world = _world()
    if world is not None:
        given: Any = array
        on_host = isinstance(given, np.ndarray)
        host = np.asarray(given if on_host else given.numpy(), order="C")
        world.comm.Allreduce(world.mpi.IN_PLACE, host)
        if host is not given:
            given[...] = host if on_host else kernels.on("cuda").asarray(host)
    return array


def broadcast(array: np.ndarray) -> np.ndarray:
    """Replace a contiguous array by that of rank 0, and return it."""
    world = _world()
    if world is not None:
        world.comm.Bcast(array.reshape(-1).view(np.uint8))
    return array


def broadcast_json(value: Any) -> Any:
    """Return the value of rank 0, which must be JSON-able; other ranks may give anything."""
    if size() == 1:
        return value
    text = json.dumps(value).encode() if rank() == 0 else b""
    count = int(broadcast(np.array([len(text)]))[0])
    return json.loads(broadcast(np.frombuffer(bytearray(text.ljust(count)), np.uint8)).tobytes())


def broadcast_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of rank 0, by their names; other ranks may give anything."""
    if size() == 1:
        return dict(arrays)
    kinds = broadcast_json([[name, array.dtype.str, array.shape] for name, array in arrays.items()])
    given = arrays if rank() == 0 else {name: np.empty(shape, dtype) for name, dtype, shape in kinds}
    return {name: broadcast(np.asarray(given[name], order="C")) for name, _, _ in kinds}


def gather(array: np.ndarray, part: Shard | None, axis: int) -> np.ndarray:
    """Return the array of the whole batch, of which ``array`` has the sequences of ``part`` along ``axis``."""
    if part is None:
        return array
    moved = np.moveaxis(array, axis, 0)
    whole = np.zeros((part.total, *moved.shape[1:]), array.dtype)
    if not is_extra(part.total):
        whole[part.columns] = moved
    return np.ascontiguousarray(np.moveaxis(all_reduce(whole), 0, axis))


def barrier() -> None:
    """Wait until all ranks are here."""
    world = _world()
    if world is not None:
        world.comm.Barrier()


def largest(value: float) -> float:
    """Return the largest of the values of all ranks."""
    world = _world()
    if world is None:
        return value
    return float(world.comm.allreduce(value, world.mpi.MAX))
