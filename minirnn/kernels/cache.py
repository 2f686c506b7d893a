"""Compiled kernels on disk, a cache that can fail without harm.

Numba's own raises when an entry is truncated, keeps running old code when a callee in another file changed, and
unpickles whatever it finds. The cache here lives in a folder only its user can write, whose name holds a digest of
every kernel source; each entry carries a digest of itself; and whatever goes wrong with it counts as a miss.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core import config

try:
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator
except ImportError:  # no public names: where they have moved, every process compiles for itself
    CompileResultCacheImpl = FunctionCache = IndexDataCacheFile = _CacheLocator = object

_listeners: list[Callable[[str], None]] = []


@contextmanager
def on_compile(listener: Callable[[str], None]) -> Iterator[None]:
    """Call ``listener(kernel_name)`` whenever a kernel is about to be compiled inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def cache_root() -> Path:
    """The folder that holds all compiled kernels: ``$MINIRNN_CACHE_DIR`` or the user's cache folder."""
    if chosen := os.environ.get("MINIRNN_CACHE_DIR"):
        return Path(chosen)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "minirnn" / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "minirnn" / "kernels"


@functools.cache
def source_digest() -> str:
    """A digest of every kernel source, of the compiler's version and of whether it checks indices (bounds)."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version} {bool(config.BOUNDSCHECK)}".encode())
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


@functools.cache
def cache_folder() -> Path | None:
    """The folder for this version's kernels, writable by the user alone; None where there can be none."""
    if FunctionCache is object:
        return None
    try:
        folder = cache_root() / source_digest()
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        else:
            _sweep(folder)
        # never made private after the fact: what lies in it, or is still open, may be anyone's
        if not _is_own(folder) or (hasattr(os, "getuid") and stat.S_IMODE(folder.stat().st_mode) & 0o022):
            return None
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    return folder


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())


_STALE = 60 * 24 * 3600.0
"""Seconds after which kernels of other sources are taken to be of no more use."""


def _sweep(folder: Path) -> None:
    """Delete the user's folders beside ``folder`` that hold kernels of other sources and are long unchanged."""
    try:
        for other in folder.parent.iterdir():
            if other == folder or other.is_symlink() or not re.fullmatch("[0-9a-f]{20}", other.name):
                continue
            if _is_own(other) and time.time() - other.stat().st_mtime > _STALE:
                shutil.rmtree(other, ignore_errors=True)
    except OSError:  # another process sweeps, too
        pass


class _Locator(_CacheLocator):
    def __init__(self, function: Callable, folder: Path) -> None:
        self._function, self._folder = function, folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return source_digest()

    def get_disambiguator(self) -> str:
        return hashlib.sha256(self._function.__module__.encode()).hexdigest()[:10]


class _SealedFile(IndexDataCacheFile):
    """Index and data files that carry a digest of their bytes; a file that does not match is no file."""

    _DIGEST = hashlib.sha256().digest_size

    @classmethod
    def _seal(cls, data: bytes) -> bytes:
        return hashlib.sha256(data).digest() + data

    @classmethod
    def _unseal(cls, data: bytes) -> bytes:
        if hashlib.sha256(data[cls._DIGEST :]).digest() != data[: cls._DIGEST]:
            raise OSError("damaged kernel cache entry")
        return data[cls._DIGEST :]

    def _dump(self, obj: object) -> bytes:
        return self._seal(super()._dump(obj))

    def save(self, key: Any, data: Any) -> None:
        """Store ``data`` under a name of its key's own: a number could be taken by two processes at once."""
        name = f"{Path(self._index_name).stem}.{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"
        self._save_data(name, data)
        overloads = self._load_index()
        if overloads.get(key) != name:
            self._save_index(overloads | {key: name})

    def _load_index(self) -> dict:
        try:
            with open(self._index_path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return {}
        try:
            stamp, overloads = self._loads(self._unseal(content))
        except Exception:  # damaged: whatever it was, the entry is written again
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict) -> None:
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump((self._source_stamp, overloads)))

    def _load_data(self, name: str) -> object:
        with open(self._data_path(name), "rb") as file:
            return self._loads(self._unseal(file.read()))

    @staticmethod
    def _loads(data: bytes) -> Any:
        import pickle  # the format of Numba's own cache; the folder is private to the user

        return pickle.loads(data)


class _Named:
    """What is stored where; before one of Numba's classes, which turn compiled code into what is stored and back."""

    def __init__(self, function: Callable, folder: Path) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(function, folder)
        name = f"{self._locator.get_disambiguator()}.{function.__qualname__}"
        self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))  # type: ignore[attr-defined]


@functools.cache
def _named(stored: type) -> Any:
    return type("_Impl", (_Named, stored), {})


class KernelCache(FunctionCache):
    """A function cache that resolves its folder at first use and never raises.

    Args:
        function: the kernel before it is compiled.
        stored: Numba's class for this kind of compiled code.
        compiler: what else than Numba has compiled it.
    """

    def __init__(self, function: Callable, stored: type = CompileResultCacheImpl, compiler: str = "") -> None:
        self._function, self._stored, self._compiler = function, stored, compiler
        self._name = function.__qualname__
        self._ready = False
        self._usable = False

    def _open(self) -> bool:
        if not self._ready:
            self._ready = True
            folder = cache_folder()
            if folder is not None:
                self._py_func = self._function
                self._impl = _named(self._stored)(self._function, folder)
                self._cache_path = str(folder)
                self._cache_file = _SealedFile(
                    cache_path=self._cache_path,
                    filename_base=self._impl.filename_base,
                    source_stamp=source_digest(),
                )
                self._enabled = self._usable = True
        return self._usable

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Numba digests a pickle of the closure instead, and that of a dispatcher differs in every process.

        The code itself is in the name of the folder already.
        """
        return self._compiler, sig, codegen.magic_tuple(), _identity(self._function)

    @property
    def cache_path(self) -> str:
        return str(cache_folder() or "")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        if self._open():
            try:
                found = super().load_overload(sig, target_context)
            except Exception:  # any damage is a miss: compile and go on
                found = None
        if found is None:
            for listener in list(_listeners):
                listener(self._name)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        if self._open():
            try:
                super().save_overload(sig, data)
            except Exception:  # a full or read-only disk: the kernel runs all the same
                self._usable = False


def _closure(function: Any) -> tuple:
    """What a function made by another one was made from, the same in every process."""
    return tuple(_identity(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ())


def _identity(value: Any) -> Any:
    function = getattr(value, "py_func", value)
    if not hasattr(function, "__code__"):
        return repr(value)
    code = function.__code__  # lambdas share a name, and may share a line
    constants = repr([constant for constant in code.co_consts if not hasattr(constant, "co_code")])
    place = function.__module__, function.__qualname__, code.co_firstlineno
    return *place, code.co_code, code.co_names, constants, _closure(function)
