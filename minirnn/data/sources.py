"""Where data comes from: files, pipes, standard input and what is built in; bytes as text."""

from __future__ import annotations

import io
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from minirnn.errors import DataError


def _python_sources() -> list[Path]:
    """The standard library's modules (not its packages): a few megabytes of text on every machine."""
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


BUILT_IN: dict[str, Callable[[], list[Path]]] = {"@python": _python_sources}
"""Corpora that need no file."""


Opened = tuple[str, Callable[[], BinaryIO]]
"""The name of a source, and how its bytes are read, as often as needed."""


def open_sources(sources: Sequence[str]) -> list[Opened]:
    """Files, ``-`` for standard input (which is read at once), ``@python`` for a built-in corpus.

    Raises:
        DataError: a source cannot be read.
    """
    found: list[Opened] = []
    for source in sources:
        if source == "-":
            data = sys.stdin.buffer.read()
            found.append(("standard input", lambda data=data: io.BytesIO(data)))  # type: ignore[misc]
        elif source.startswith("@"):
            if source not in BUILT_IN:
                raise DataError(f"corpus {source!r} is unknown; built in: {', '.join(BUILT_IN)}")
            found.extend((str(path), _opener(str(path))) for path in BUILT_IN[source]())
        else:
            with _opener(source)() as file:  # speaks up now
                mode = os.fstat(file.fileno()).st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    raise DataError(f"cannot read {source}: it is a device")
                data = None if stat.S_ISREG(mode) else file.read()  # a pipe is read once
            again = _opener(source) if data is None else lambda data=data: io.BytesIO(data)  # type: ignore[misc]
            found.append((source, again))
    return found


def _opener(path: str) -> Callable[[], BinaryIO]:
    def opened() -> BinaryIO:
        try:
            return open(path, "rb")
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None

    return opened


def read_sources(sources: Sequence[str]) -> list[tuple[str, bytes]]:
    """Names and bytes of sources, see :func:`open_sources`.

    Raises:
        DataError: a source cannot be read, or there is nothing in any of them.
    """
    parts: list[tuple[str, bytes]] = []
    for name, reader in open_sources(sources):
        with reader() as file:
            parts.append((name, file.read()))
    if not any(data.strip() for _, data in parts):
        raise DataError(f"nothing to read in {', '.join(sources)}")
    return parts


def decode_text(data: bytes, name: str) -> str:
    """UTF-8 with or without byte order marks, any line ends, as text with ``\\n``.

    Raises:
        DataError: the bytes are not UTF-8; says where.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} is not UTF-8 text (byte {error.start}, line {line})") from None
    return unified(text)


def unified(text: str) -> str:
    """Without byte order marks, and with ``\\n`` at the end of every line, whatever stood there."""
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def stamps(sources: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size and time of change of every source that is a file, or lies in a folder, by which a change is noticed."""
    folders = [source for source in sources if os.path.isdir(source)]
    files = [entry.path for folder in folders for entry in os.scandir(folder)]
    found = {}
    for source in (*sources, *files):
        if os.path.isfile(source):
            status = os.stat(source)
            found[source] = status.st_size, status.st_mtime_ns
    return found
