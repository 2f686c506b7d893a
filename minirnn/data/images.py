"""Arrays in the idx format, in which MNIST comes."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minirnn.errors import DataError

# LeCun, Cortes & Burges, "The MNIST database": two zero bytes, a type, the number of axes, the length of each axis
# as four bytes, then the elements, the last axis fastest; the high byte comes first everywhere.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_MOST_BYTES = 1 << 30
_MOST_AXES = 32
_DEFLATE_RATIO = 1032  # no byte of a gzip file becomes more than these (zlib, "Technical Details")


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file, plain or compressed with gzip, at most 1 GiB of elements.

    Returns:
        the array, with the axes and element type of the file, in the machine's byte order.

    Raises:
        DataError: the file cannot be read, is no idx file, or has more or fewer bytes than its header says.
    """
    try:
        with open(path, "rb") as file:
            stored = os.fstat(file.fileno()).st_size
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                return _read(file, str(path), stored)
            with gzip.open(file) as unpacked:
                return _read(unpacked, str(path), stored * _DEFLATE_RATIO)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _read(file: BinaryIO, name: str, most: int) -> np.ndarray:
    """The array in ``file``, which cannot hold more than ``most`` bytes; checked before memory is asked for."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= _MOST_AXES:
        raise DataError(f"{name}: no idx file: expected 00 00, a type and a number of axes, got {magic.hex(' ')!r}")
    kind, axes = np.dtype(_TYPES[magic[2]]), magic[3]
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise DataError(f"{name}: ends in its header")
    shape = [int(length) for length in np.frombuffer(lengths, ">u4")]
    header = 4 + 4 * axes
    size = math.prod(shape) * kind.itemsize
    expected = f"the header says {shape} elements of {kind.itemsize} bytes"
    if math.prod(max(length, 1) for length in shape) * kind.itemsize > _MOST_BYTES:  # NumPy too counts a 0 as 1
        raise DataError(f"{name}: {expected}; expected at most {_MOST_BYTES} bytes")
    if header + size > most:
        raise DataError(f"{name}: {expected}, more than the file can hold")
    data = np.empty(size, np.uint8)
    view, at = data.data, 0
    while at < size and (count := file.readinto(view[at:])):  # type: ignore[attr-defined]
        at += count
    if at < size:
        raise DataError(f"{name}: {expected}, {size} bytes in all, got {at}")
    if file.read(1):
        raise DataError(f"{name}: {expected}, {size} bytes in all, got more")
    return data.view(kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)
