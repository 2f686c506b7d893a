"""The IDX format: values as in a file written by hand, and damaged files refused."""

import gzip
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.images import read_idx
from minirnn.errors import DataError

Memory = Callable[[int], AbstractContextManager]

TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file of an array."""
    head = bytes((0, 0, TYPES[array.dtype.str[1:]], array.ndim))
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_values_of_a_file_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(bytes.fromhex("00000b02 00000002 00000003 0001 0002 fffe 0100 7fff 8000"))
    array = read_idx(path)
    assert array.tolist() == [[1, 2, -2], [256, 32767, -32768]]
    assert array.dtype == np.int16
    assert array.dtype.isnative
    path.write_bytes(bytes.fromhex("00000d01 00000002 3fc00000 c0200000"))
    assert read_idx(str(path)).tolist() == [1.5, -2.5]


@given(st.sampled_from(sorted(TYPES)), st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans())
def test_every_type_and_number_of_dimensions_round_trip(
    tmp_path: Path, kind: str, shape: list[int], packed: bool
) -> None:
    expected = (np.arange(np.prod(shape)) * 37 % 251 - (0 if kind == "u1" else 125)).astype(kind).reshape(shape)
    path = tmp_path / "any"
    path.write_bytes(gzip.compress(idx(expected)) if packed else idx(expected))
    got = read_idx(path)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert (got == expected).all()
    if got.size:
        got.flat[0] = 1  # the array is writable


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_and_longer_files_are_refused(tmp_path: Path, packed: bool) -> None:
    whole = idx(np.arange(6, dtype="i2").reshape(2, 3))
    path = tmp_path / "a"
    for size in range(len(whole)):
        path.write_bytes(gzip.compress(whole[:size]) if packed else whole[:size])
        with pytest.raises(DataError, match=r"^.*/a: (not an IDX file|ends in its header|the header says \[2, 3\] )"):
            read_idx(path)
    path.write_bytes(gzip.compress(whole + b"x") if packed else whole + b"x")
    with pytest.raises(DataError, match=r"the header says \[2, 3\] elements of 2 bytes, 12 bytes in all, got more"):
        read_idx(path)
    path.write_bytes(gzip.compress(whole[:-1]))
    with pytest.raises(DataError, match=r"12 bytes in all, got 11"):
        read_idx(path)


@pytest.mark.parametrize("head", ["01000801", "00010801", "00000a01", "00000800", "00000821", "89504e47"])
def test_other_formats_are_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes.fromhex(head + "00000001 00"))
    expected = "not an IDX file: expected 00 00, a type and a number of dimensions"
    with pytest.raises(DataError, match=f"{expected}, got '{head[:2]} "):
        read_idx(path)


def test_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    packed = gzip.compress(idx(np.arange(1000, dtype="i4")))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="damaged gzip file"):
        read_idx(path)
    path.write_bytes(packed[:-8] + b"\0\0\0\0" + packed[-4:])
    with pytest.raises(DataError, match="damaged gzip file: CRC"):
        read_idx(path)
    path.write_bytes(packed[:12] + b"\xff" * 40 + packed[52:])
    with pytest.raises(DataError, match="damaged gzip file"):
        read_idx(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1 << 29,), r"\[536870912\] elements of 1 bytes, 536870912 bytes in all, got 100"),
        ((1 << 30, 2), "expected at most 1073741824 bytes"),
        ((0, 1 << 31, 1 << 31), "expected at most 1073741824 bytes"),
        ((0xFFFFFFFF,) * 32, "expected at most 1073741824 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_memory_is_that_of_the_data_whatever_the_header_says(
    tmp_path: Path, memory: Memory, shape: tuple[int, ...], message: str, packed: bool
) -> None:
    data = bytes((0, 0, 0x08, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(100)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(data) if packed else data)
    with memory(1 << 22), pytest.raises(DataError, match=message):
        read_idx(path)


def test_gzip_bomb_is_not_unpacked(tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(idx(np.arange(3, dtype="u1")) + bytes(1 << 27)))
    with memory(1 << 22), pytest.raises(DataError, match="got more"):
        read_idx(path)
