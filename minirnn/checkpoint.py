"""Checkpoints: one safetensors file with arrays and a JSON description of them. Never pickle.

A file is written to a temporary name, synchronised and moved into place, so that a reader finds either the old file or
the whole new one. The description holds a checksum of every array, which is compared when the file is read.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from minirnn.errors import CheckpointError

FORMAT = 1
_KEY = "minirnn"
_CODES = {"b1": "BOOL"} | {f"{kind}{size}": f"{kind}{8 * size}".upper() for kind in "fiu" for size in (1, 2, 4, 8)}
_CHUNK = 1 << 20  # bytes of a file that are compared at a time


def write_atomically(path: Path, data: bytes | Sequence[bytes | memoryview], previous: Path | None = None) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, sees all of it or none.

    Args:
        data: the content, also in pieces.
        previous: the file that was at ``path`` is kept under this name.

    Raises:
        OSError: it cannot be written; the file at ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pieces = [data] if isinstance(data, bytes) else data
    try:
        with open(temporary, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        with open(temporary, "rb") as file:
            same = all(file.read(len(chunk)) == chunk for chunk in _chunks(pieces)) and not file.read(1)
        if not same:
            raise OSError(errno.EIO, "the disk does not return what was written to it", str(temporary))
        if previous is not None and path.exists():
            _keep_previous(path, previous)
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


def _chunks(pieces: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), _CHUNK):
            yield bytes(piece[start : start + _CHUNK])


def _keep_previous(path: Path, previous: Path) -> None:
    """Link the file at ``path`` to ``previous``; where links exist, neither name is missing at any moment."""
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
        link.unlink(missing_ok=True)  # os.replace does nothing where both are names of one file


def _remove_stale(path: Path) -> None:
    """Remove temporary files of processes that were killed while writing ``path``."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        writer = stale.name.split(".")[-2]
        if writer.isdigit() and int(writer) != os.getpid() and not _is_running(int(writer)):
            stale.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 would kill it on Windows
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names start with ``prefix``, with the prefix removed."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def save(
    path: str | Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write arrays and a JSON-able description to one file, atomically.

    Args:
        previous: an older file at ``path`` is kept under this name.

    Raises:
        OSError: the file cannot be written; an older file at ``path`` is unchanged.
        CheckpointError: an array is of a dtype, such as complex, that cannot be stored.
    """
    content = {name: _bytes(array) for name, array in arrays.items()}
    sums = {name: zlib.crc32(data) for name, data in content.items()}
    header = {"format": FORMAT, "config": dict(config), "crc32": sums, "own_crc32": _description_checksum(config, sums)}
    entries: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(header)}}
    order, end = sorted(arrays, key=lambda name: -arrays[name].itemsize), 0  # so that each is aligned
    for name in order:
        start, end = end, end + len(content[name])
        dtype = arrays[name].dtype
        if (code := _CODES.get(dtype.str[1:])) is None:
            raise CheckpointError(f"save: array {name} is of dtype {dtype}, expected bool, int, uint or float")
        entries[name] = {"dtype": code, "shape": arrays[name].shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start_of_file = len(text).to_bytes(8, "little") + text
    write_atomically(Path(path), [start_of_file, *(content[name] for name in order)], previous)


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order, the least significant first; those of the array itself where they are so."""
    return np.require(array, array.dtype.newbyteorder("<"), "C").reshape(-1).view(np.uint8).data


def _description_checksum(config: Mapping[str, Any], sums: Mapping[str, int]) -> int:
    return zlib.crc32(json.dumps([config, sums], sort_keys=True).encode())


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description of a file written by :func:`save`.

    Raises:
        CheckpointError: the file is missing, not a minirnn checkpoint, or damaged; the message names the array.
    """
    header = _read_header(path)
    arrays = read_arrays(path)
    sums = header["crc32"]
    for name in sums.keys() | arrays.keys():
        if name not in arrays or zlib.crc32(_bytes(arrays[name])) != sums.get(name):
            raise CheckpointError(f"{path} is damaged: array {name} does not match its checksum")
    return arrays, header["config"]


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of any safetensors file, whoever wrote it; :class:`CheckpointError` if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def load_config(path: str | Path) -> dict[str, Any]:
    """Return only the description; see :func:`load`."""
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
    if header.get("own_crc32") != _description_checksum(header["config"], header["crc32"]):
        raise CheckpointError(f"{path} is damaged: its description does not match its checksum")
    return header


def separate_arrays(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a JSON-able copy of ``value`` in which references stand for arrays; the arrays are added to ``arrays``.

    Args:
        value: mappings, lists, tuples, numbers, strings and arrays, nested.
        name: prefix of the names of the arrays.
    """
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {"items": [[key, separate_arrays(item, f"{name}.{key}", arrays)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [separate_arrays(item, f"{name}.{number}", arrays) for number, item in enumerate(value)]
    return value


def restore_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of :func:`separate_arrays`."""
    if isinstance(value, list):
        return [restore_arrays(item, arrays) for item in value]
    if isinstance(value, dict):
        if "array" in value:
            return arrays[value["array"]]
        return {key: restore_arrays(item, arrays) for key, item in value["items"]}
    return value
