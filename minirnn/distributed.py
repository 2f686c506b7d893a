"""Data-parallel training: several processes, each of which computes a shard of every batch, over MPI.

Started by ``mpirun`` or ``srun`` with more than one process, :class:`~minirnn.training.Trainer` and the ``train-``
commands use all of them; a script needs only to run the same in each. Without MPI every function here does what is
right for one process, and mpi4py is not imported.

A process is a *rank* from 0 to :func:`size` - 1. All functions from :func:`all_reduce` to :func:`largest` are
collective: each rank must call them, in the same order.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from minirnn.errors import DataError, OptionError
from minirnn.kernels import threads
from minirnn.random import Shard

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables that Open MPI, MPICH (Intel MPI) and Slurm set to the number of processes they start."""

_POLL_SECONDS = 0.01
_FORWARDING_SECONDS = 0.5  # in which mpiexec passes on what a process has printed, before it ends all

A = TypeVar("A")

_disabled = False
_on_machine = False


class _World(NamedTuple):
    mpi: Any  # the module mpi4py.MPI
    comm: Any
    machine: Any  # the communicator of the ranks of this machine
    cores: list[set[tuple[int, Any]]]


@functools.cache
def _started() -> _World | None:
    """MPI, where this is one of several processes that it started.

    Raises:
        OptionError: it is, but mpi4py is not installed, or uses another MPI.
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
    comm = MPI.COMM_WORLD
    if comm.size == 1:
        _disabled = True
        raise OptionError(
            f"started as one of {count} processes, but the MPI of mpi4py finds one only: it is another than that which "
            "started them; use its mpiexec"
        )
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    world = _World(MPI, comm, machine, comm.allgather(_own_cores(machine.bcast(comm.rank))))
    threads.set_num_threads(min(threads.MAX_THREADS, divide_cores(world.cores)[comm.rank]))
    sys.excepthook = functools.partial(_abort_after, sys.excepthook)
    return world


def _world() -> _World | None:
    world = None if _disabled else _started()
    return world._replace(comm=world.machine) if world is not None and _on_machine else world


def _own_cores(machine: int) -> set[tuple[int, Any]]:
    """The cores that this process may use; none that others have where its number of threads has been chosen."""
    if threads.is_chosen() or not hasattr(os, "sched_getaffinity"):
        return {(machine, (os.getpid(), number)) for number in range(threads.get_num_threads())}
    return {(machine, core) for core in os.sched_getaffinity(0)}


def cores() -> list[set[tuple[int, Any]]]:
    """Return the cores that each rank may use, as pairs of a number of its machine and one of the core."""
    world = _world()
    return [_own_cores(0)] if world is None else world.cores


def divide_cores(cores: Sequence[Set[Any]]) -> list[int]:
    """Return how many threads each of several processes should have, by the cores that each of them may use.

    >>> divide_cores([{0, 1, 2, 3}, {0, 1, 2, 3}, {4}])
    [2, 2, 1]
    """
    users = Counter(core for own in cores for core in own)
    return [max(1, int(sum(1 / users[core] for core in own) + 1e-6)) for own in cores]


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


@contextmanager
def on_machine() -> Iterator[None]:
    """Let ranks and collectives be those of this machine: one of its processes is rank 0."""
    global _on_machine
    before, _on_machine = _on_machine, True
    try:
        yield
    finally:
        _on_machine = before


# ------------------------------------------------------------------------------------------------------- ranks


def environment_alone() -> dict[str, str]:
    """Return the environment for a program that this process starts, and that is not to take part in MPI."""
    return {name: value for name, value in os.environ.items() if name not in _SIZES}


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
        time.sleep(_FORWARDING_SECONDS)
        world.comm.Abort(code)


# ------------------------------------------------------------------------------------------------- collectives


def all_reduce(array: A) -> A:
    """Replace an array by its sum over all ranks, and return it.

    One on a GPU is given to an MPI that says it can read it, or travels through page-locked memory of the host.
    """
    world = _world()
    if world is not None:
        given: Any = array
        add_up = functools.partial(world.comm.Allreduce, world.mpi.IN_PLACE)
        if isinstance(given, np.ndarray):
            host = np.asarray(given, order="C")
            add_up(host)
            if host is not given:
                given[...] = host
        elif given.size and _is_cuda_aware(world.mpi):
            given.flat[:1].numpy()  # waits for the GPU, which may not have computed it yet
            add_up(given.flat)
        else:
            given.change_on_host(add_up)
    return array


@functools.cache
def _is_cuda_aware(mpi: Any) -> bool:
    """Whether MPI reads and writes arrays on a GPU: Open MPI and MPICH have a function for it, which mpi4py has not."""
    query = getattr(ctypes.CDLL(mpi.__file__), "MPIX_Query_cuda_support", None)
    return query is not None and query() == 1


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
    """Wait until all ranks are here, without keeping a core busy meanwhile."""
    world = _world()
    if world is not None:
        reached = world.comm.Ibarrier()
        while not reached.Test():
            time.sleep(_POLL_SECONDS)


def write_once(write: Callable[[IO[bytes]], Any]) -> tuple[IO[bytes], Any]:
    """Let rank 0 write a temporary file; return it, open for reading in all ranks, and what ``write`` returned.

    The ranks must be :func:`on_machine`. Only their user can read the file. It has no name when it is written, so that
    nothing of it is left, however they end.

    Args:
        write: called in rank 0 only; returns something JSON-able.

    Raises:
        DataError: ``write`` has raised one, in all ranks; or the file cannot be opened.
    """
    file, found = _open_unnamed(), {}
    if rank() == 0:
        try:
            found = {"value": write(file)}
        except DataError as error:
            found = {"error": str(error)}
    barrier()
    found = broadcast_json(found)
    if "error" in found:
        with suppress(OSError):  # what did not fit on the disk still does not
            file.close()
        raise DataError(found["error"])
    return file, found["value"]


def _open_unnamed() -> IO[bytes]:
    """A temporary file that all ranks have open, and rank 0 for writing."""
    file: IO[bytes] | None = None
    with suppress(OSError):
        file = tempfile.NamedTemporaryFile(delete=False) if rank() == 0 else None  # noqa: SIM115 - returned
    name = broadcast_json(file and file.name)
    with suppress(OSError):
        file = file or open(name or "", "rb")  # noqa: SIM115
    failed = largest(file is None) > 0
    if rank() == 0 and name is not None:
        os.unlink(name)
    if file is None or failed:
        raise DataError(
            f"cannot open a temporary file in {tempfile.gettempdir()} in all processes of this machine; set TMPDIR to "
            "another folder"
        )
    return file


def largest(value: float) -> float:
    """Return the largest of the values of all ranks."""
    world = _world()
    if world is None:
        return value
    return float(world.comm.allreduce(value, world.mpi.MAX))


# --------------------------------------------------------------------------------------------------- messages


def send(value: Any, to: int) -> None:
    """Send something JSON-able to a rank."""
    world = _world()
    if world is not None:
        world.comm.send(json.dumps(value), to)


def receive(source: int) -> Any:
    """Return the next value that a rank has sent to this one, or None where there is none yet."""
    world = _world()
    return json.loads(world.comm.recv(source=source)) if world is not None and world.comm.iprobe(source) else None
