"""Read arrays in the IDX format, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from minirnn.errors import DataError

# LeCun, Cortes & Burges, "The MNIST database": two zero bytes, a type, the number of dimensions, the size of each
# dimension in four bytes, then the elements, the last dimension fastest; the high byte comes first everywhere.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_MAX_BYTES = 1 << 30
_MAX_DIMS = 32
_BLOCK = 1 << 20  # bytes read at once: memory grows with what the file holds, whatever its header says


def read_idx(path: str | Path) -> np.ndarray:
    """Read an IDX file, plain or compressed with gzip, of at most 1 GiB of elements.

    Returns:
        The array, with the shape and element type of the file, in the machine's byte order.

    Raises:
        DataError: the file cannot be read, is not an IDX file, or has more or fewer bytes than its header says.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not compressed:
                return _read(file, str(path))
            with gzip.open(file) as unpacked:
                return _read(cast(BinaryIO, unpacked), str(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _read(file: BinaryIO, name: str) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= _MAX_DIMS:
        expected = "expected 00 00, a type and a number of dimensions"
        raise DataError(f"{name}: not an IDX file: {expected}, got {magic.hex(' ')!r}")
    dtype, dims = np.dtype(_TYPES[magic[2]]), magic[3]
    header = file.read(4 * dims)
    if len(header) < 4 * dims:
        raise DataError(f"{name}: ends in its header")
    shape = [int(size) for size in np.frombuffer(header, ">u4")]
    size = math.prod(shape) * dtype.itemsize
    expected = f"the header says {shape} elements of {dtype.itemsize} bytes"
    if math.prod(max(length, 1) for length in shape) * dtype.itemsize > _MAX_BYTES:  # NumPy too counts a 0 as 1
        raise DataError(f"{name}: {expected}; expected at most {_MAX_BYTES} bytes")
    data = bytearray()
    while len(data) <= size and (block := file.read(min(_BLOCK, size + 1 - len(data)))):
        data += block
    if len(data) != size:
        got = "more" if len(data) > size else str(len(data))
        raise DataError(f"{name}: {expected}, {size} bytes in all, got {got}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
