"""FLOOR 4: one safetensors file holds arrays and the description of what they are. Never pickle.

A file is written beside its name, synchronised, and moved into place, so that whoever looks finds the old file
or the new one, whole. Each array's checksum is in the description and is compared when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minirnn.errors import CheckpointError

FORMAT = 1
_KEY = "minirnn"


def write_atomically(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Put ``data`` at ``path`` so that a reader, or a crash, sees all of it or none.

    Args:
        previous: where the file that was at ``path`` is kept.

    Raises:
        OSError: it cannot be written; what was at ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != data:
            raise OSError(errno.EIO, "the disk does not hold what was written to it", str(temporary))
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name itself must reach the disk
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _keep(path: Path, previous: Path) -> None:
    """A second name for the file at ``path``, without a moment at which either is missing where links exist."""
    link = path.with_name(f".{path.name}.previous.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)
        return
    try:
        os.replace(link, previous)
    finally:
        link.unlink(missing_ok=True)  # still there where both were names of one file: then replacing does nothing


def _sweep(path: Path) -> None:
    """Remove what writers of ``path`` that are no longer alive left behind."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        writer = stale.name.split(".")[-2]
        if writer.isdigit() and int(writer) != os.getpid() and not _alive(int(writer)):
            stale.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's
        return True
    return True


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def save(
    path: str | Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write arrays and a JSON-able description to one file, atomically.

    Args:
        previous: where an older file at ``path`` is kept.

    Raises:
        OSError: the file cannot be written; an older one at ``path`` is untouched.
    """
    whole = {name: np.require(array, requirements="C") for name, array in arrays.items()}  # safetensors wants it so
    sums = {name: zlib.crc32(array.tobytes()) for name, array in whole.items()}
    header = {"format": FORMAT, "config": dict(config), "crc32": sums, "own_crc32": _own_sum(config, sums)}
    write_atomically(Path(path), safetensors.numpy.save(whole, {_KEY: json.dumps(header)}), previous)


def _own_sum(config: Mapping[str, Any], sums: Mapping[str, int]) -> int:
    return zlib.crc32(json.dumps([config, sums], sort_keys=True).encode())


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the description of a file written by :func:`save`.

    Raises:
        CheckpointError: no such file, not one of ours, or damaged; says which array.
    """
    header = _read_header(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    sums = header["crc32"]
    for name in sums.keys() | arrays.keys():
        if name not in arrays or zlib.crc32(arrays[name].tobytes()) != sums.get(name):
            raise CheckpointError(f"{path} is damaged: array {name} does not match its checksum")
    return arrays, header["config"]


def load_config(path: str | Path) -> dict[str, Any]:
    """Only the description."""
    return _read_header(path)["config"]


def _read_header(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or damaged: {error}") from None
    try:
        header = json.loads(metadata[_KEY])
    except KeyError:
        raise CheckpointError(f"{path} is a safetensors file, but not a minirnn checkpoint") from None
    except ValueError:
        raise CheckpointError(f"{path} is damaged: its description cannot be read") from None
    if (
        not isinstance(header, dict)
        or not isinstance(header.get("config"), dict)
        or not isinstance(header.get("crc32"), dict)
    ):
        raise CheckpointError(f"{path} is damaged: its description is incomplete")
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {header.get('format')!r}; this version reads {FORMAT}")
    if header.get("own_crc32") != _own_sum(header["config"], header["crc32"]):
        raise CheckpointError(f"{path} is damaged: its description does not match its checksum")
    return header
