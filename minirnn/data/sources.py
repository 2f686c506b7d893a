"""Open files, pipes, standard input and built-in corpora, and decode their text."""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from minirnn.errors import DataError

_BLOCK = 1 << 20  # bytes read at once


def _python_sources() -> list[Path]:
    """The modules of the standard library (not its packages): a few megabytes of text on every machine."""
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


BUILT_IN: dict[str, Callable[[], list[Path]]] = {"@python": _python_sources}
"""Corpora that need no file of the user's."""

Opened = tuple[str, Callable[[], BinaryIO]]
"""The name of a source, and a function that opens it, as often as needed."""


def open_sources(sources: Sequence[str]) -> list[Opened]:
    """Check that ``sources`` can be read: files, ``-`` for standard input, or ``@python``, the built-in corpus.

    Standard input and pipes are read at once and kept in memory.

    Raises:
        DataError: a source cannot be read, is a device, or is not a built-in corpus.
    """
    found: list[Opened] = []
    for source in sources:
        if source == "-":
            found.append(("standard input", partial(io.BytesIO, sys.stdin.buffer.read())))
        elif source.startswith("@"):
            if source not in BUILT_IN:
                raise DataError(f"corpus {source!r} is unknown; built in: {', '.join(BUILT_IN)}")
            found += [(str(path), partial(_open, str(path))) for path in BUILT_IN[source]()]
        else:
            with _open(source) as file:
                mode = os.fstat(file.fileno()).st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    raise DataError(f"cannot read {source}: it is a device")
                regular = stat.S_ISREG(mode)
                found.append((source, partial(_open, source) if regular else partial(io.BytesIO, file.read())))
    return found


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def iter_blocks(file: BinaryIO) -> Iterator[bytes]:
    """The contents of ``file`` in blocks of a megabyte."""
    return iter(lambda: file.read(_BLOCK), b"")


def read_sources(sources: Sequence[str]) -> list[tuple[str, bytes]]:
    """Names and contents of ``sources``, see :func:`open_sources`; a :class:`DataError` if all are blank."""
    parts = []
    for name, opener in open_sources(sources):
        with opener() as file:
            parts.append((name, file.read()))
    if not any(data.strip() for _, data in parts):
        raise DataError(f"nothing to read in {', '.join(sources)}")
    return parts


def decode_text(data: bytes, name: str) -> str:
    """Decode the bytes of the file called ``name``, UTF-8, and normalize them, see :func:`normalize_newlines`.

    Raises:
        DataError: the bytes are not UTF-8; the message names the byte and the line.
    """
    return "".join(decode_stream([data], name))


def decode_stream(blocks: Iterable[bytes], name: str, hint: str = "") -> Iterator[str]:
    """As :func:`decode_text`, block by block as they come; ``hint`` is appended to the error message."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    read = lines = 0
    for data in chain(blocks, [b""]):
        incomplete = len(decoder.getstate()[0])  # bytes of a character whose other bytes are still to come
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = lines + error.object[: error.start].count(b"\n") + 1
            byte = read - incomplete + error.start
            raise DataError(f"{name} is not UTF-8 text (byte {byte}, line {line}){hint}") from None
        read, lines = read + len(data), lines + data.count(b"\n")
        yield newlines.decode(text.replace("\ufeff", ""), final=not data)


def normalize_newlines(text: str) -> str:
    """Return ``text`` without byte order marks, and with ``\\n`` for the line ends ``\\r\\n`` and ``\\r``."""
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def file_stamps(sources: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size in bytes and modification time in ns of every source that is a file or lies in a folder given as source.

    Two calls differ where a file has changed between them.
    """
    inside = [entry.path for source in sources if os.path.isdir(source) for entry in os.scandir(source)]
    found = ((source, os.stat(source)) for source in (*sources, *inside) if os.path.isfile(source))
    return {source: (status.st_size, status.st_mtime_ns) for source, status in found}
