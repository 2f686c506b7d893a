"""The kernel cache: compiled kernels on disk, so that a second process does not compile them again.

Numba's own cache raises when an entry is truncated, runs old code after a change in another file, and unpickles any
file it finds. This one uses a folder that only its user can write, named after a digest of every kernel source. Each
compiled kernel is one file, named after its code and argument types, that starts with a digest of its content. A
damaged file counts as a miss: the kernel is compiled again. See ``docs/internals/kernel_cache.md``.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core import config, event

try:
    from llvmlite.binding import add_symbol
    from numba.core.caching import CompileResultCacheImpl, NullCache
    from numba.core.runtime import _nrt_python
    from numba.core.serialize import dumps
except ImportError:  # no public names: where a version of Numba has moved them, every process compiles for itself
    CompileResultCacheImpl = NullCache = object

_MAX_AGE = 60 * 24 * 3600.0
"""Seconds after which the kernels of other sources are deleted."""

_listeners: list[Callable[[str], None]] = []


@contextmanager
def on_compile(listener: Callable[[str], None]) -> Iterator[None]:
    """Call ``listener(kernel_name)`` whenever a kernel is about to be compiled inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class _Compiling(event.TimingListener):
    """Measures how long Numba compiles; no garbage is collected meanwhile, which would take a tenth of that time."""

    def __init__(self) -> None:
        super().__init__()
        self._running, self._collects = 0, False

    def on_start(self, event: Any) -> None:
        super().on_start(event)
        if self._running == 0:
            self._collects = gc.isenabled()
            gc.disable()
        self._running += 1

    def on_end(self, event: Any) -> None:
        super().on_end(event)
        self._running -= 1
        if self._running == 0 and self._collects:
            gc.enable()


_compiling = _Compiling()
event.register("numba:compile", _compiling)


def compile_seconds() -> float:
    """The time this process has spent in compiling kernels so far."""
    return _compiling.duration if _compiling.done else 0.0


def cache_root() -> Path:
    """The folder of all compiled kernels: ``$MINIRNN_CACHE_DIR``, or ``minirnn/kernels`` in the user's cache folder."""
    if chosen := os.environ.get("MINIRNN_CACHE_DIR"):
        return Path(chosen)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "minirnn" / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "minirnn" / "kernels"


@functools.cache
def source_digest() -> str:
    """A digest of every kernel source, of the compiler's version, and of whether it checks array bounds."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version} {bool(config.BOUNDSCHECK)}".encode())
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this version's kernels, writable by the user alone; None where there can be none."""
    if NullCache is object:
        return None
    try:
        folder = cache_root() / source_digest()
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        else:
            _delete_old_folders(folder)
        # a folder others can write stays unused, also once made private: its files may have been planted
        if not _is_own(folder) or (hasattr(os, "getuid") and stat.S_IMODE(folder.stat().st_mode) & 0o022):
            return None
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    return folder


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())


def _delete_old_folders(folder: Path) -> None:
    """Delete the user's folders beside ``folder`` that hold kernels of other sources and are older than the limit."""
    try:
        for other in folder.parent.iterdir():
            if other == folder or other.is_symlink() or not re.fullmatch("[0-9a-f]{20}", other.name):
                continue
            if _is_own(other) and time.time() - other.stat().st_mtime > _MAX_AGE:
                shutil.rmtree(other, ignore_errors=True)
    except OSError:  # another process is deleting them too
        pass


def _write(path: Path, data: bytes) -> None:
    """Write ``data`` after its digest, beside ``path`` first: a reader sees the whole file or none."""
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
    try:
        temporary.write_bytes(hashlib.sha256(data).digest() + data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        raise OSError("damaged kernel cache entry")
    return data


@functools.cache
def _add_symbols() -> None:
    """Tell LLVM the addresses of those of Numba's functions that a stored kernel may call.

    Numba does so in ``refresh``, as a part of what compiling needs: 45 MB, and most of the time that loading takes.
    """
    for name, address in _nrt_python.c_helpers.items():
        add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class KernelCache(NullCache):
    """The compiled code of one kernel on disk, as Numba's dispatchers expect a cache. Never raises.

    Args:
        function: the kernel's Python function.
        implementation: Numba's class that turns this kind of compiled code into data and back.
        compiler: name and version of what else than Numba has compiled it.
    """

    def __init__(self, function: Callable, implementation: type = CompileResultCacheImpl, compiler: str = "") -> None:
        self._function, self._compiler = function, compiler
        self._code: Any = object.__new__(implementation)  # without its search for Numba's own folders

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        folder = cache_folder()
        if folder is None:
            return None
        key = source_digest(), self._compiler, signature, codegen.magic_tuple(), _identity(self._function)
        name = re.sub("[<>]", "", self._function.__qualname__)
        return folder / f"{name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:40]}.nbc"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled kernel for the argument types; None if it has to be compiled."""
        result = self._load(signature, target_context)
        if result is None and _listeners:
            for listener in list(_listeners):
                listener(self._function.__qualname__)
            result = self._load(signature, target_context)  # a listener may have waited for another process
        return result

    def _load(self, signature: Any, target_context: Any) -> Any:
        try:
            _add_symbols()
            path = self._path(signature, target_context.codegen())
            if path is not None:  # pickle is the format of Numba's own cache; the folder is private to the user
                result = self._code.rebuild(target_context, pickle.loads(_read(path)))
                result.library._reload_init.update(result.reload_init)  # for kernels that will be linked with it
                return result
        except Exception:  # any damage is a miss
            pass
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            path = self._path(signature, result.codegen)
            if path is not None and self._code.check_cachable(result):
                _write(path, dumps(self._code.reduce(result)))
        except Exception:  # a full or read-only disk: the kernel runs all the same
            pass


def _identity(value: Any) -> Any:
    """What tells a value that a kernel is closed over from others, the same in every process: functions by their code.

    Numba would use a pickle of it, and that of a compiled function differs in every process.
    """
    function = getattr(value, "py_func", value)
    if not hasattr(function, "__code__"):
        return repr(value)
    code = function.__code__  # lambdas share a name, and may share a line
    constants = repr([constant for constant in code.co_consts if not hasattr(constant, "co_code")])
    closure = tuple(_identity(cell.cell_contents) for cell in function.__closure__ or ())
    return (
        function.__module__,
        function.__qualname__,
        code.co_firstlineno,
        code.co_code,
        code.co_names,
        constants,
        closure,
    )
