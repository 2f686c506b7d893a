"""Files of numeric sequences: tables, ``.ts`` and ``.npz``."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.data.series import Layout, Sequences, parse_sequences, read_sequences
from minirnn.errors import DataError

NAN = np.nan
TABLE = b"who;at;a;b;kind\nu;0;1;2;x\nu;1;;-4e1;x\nv;0;?;NaN;y\nv;1;5;n/a;y\nv;2;7;8;y\n"
TS = b"""# a comment
@problemName Two
@timeStamps false
@classLabel true x y
@data
1,?:2,-4e1:x
?,5,7:nan, NaN ,8:y
"""
VALUES = [[[1, 2], [NAN, -40]], [[NAN, NAN], [5, NAN], [7, 8]]]
LAYOUT = Layout("who", "kind", ("a", "b"))


def npz(compress: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def check(found: Sequences, labels: Any = (["x"], ["y"]), values: Any = VALUES) -> None:
    assert len(found) == len(values)
    for one, expected in zip(found.values, values, strict=True):
        assert one.dtype == np.float64
        np.testing.assert_array_equal(one, expected)
    assert found.labels == (None if labels is None else list(labels))


def test_tables_with_missing_values() -> None:
    found = parse_sequences("t.csv", TABLE, LAYOUT)
    check(found)
    assert (found.names, found.ids, found.where) == (("a", "b"), ["u", "v"], ["t.csv:2", "t.csv:4"])
    default = parse_sequences("t.csv", TABLE, Layout("who"))
    assert (default.names, default.label) == (("at", "a", "b"), "kind")
    np.testing.assert_array_equal(default.values[0][:, 1:], VALUES[0])
    check(parse_sequences("t.csv", TABLE, Layout("who", "kind", ("a,b",))))
    check(parse_sequences("t.csv", TABLE, Layout("who", "kind", ("a", "b"), labelled=False)), None)
    check(parse_sequences("t.csv", TABLE, Layout("who", "kind", ("a", "b"), every_step=True)), [["x"] * 2, ["y"] * 3])
    one = parse_sequences("t.csv", TABLE, Layout(None, "kind", ("a", "b"), every_step=True))
    check(one, [["x"] * 2 + ["y"] * 3], [VALUES[0] + VALUES[1]])
    assert one.ids == ["t.csv"]


def test_ts_files() -> None:
    found = parse_sequences("t.ts", TS, LAYOUT)
    check(found)
    assert (found.names, found.ids, found.where) == (("x0", "x1"), ["1", "2"], ["t.ts:6", "t.ts:7"])
    plain = TS.replace(b"true x y", b"false").replace(b":x", b"").replace(b":y", b"")
    check(parse_sequences("t.ts", plain, LAYOUT), None)
    numbers = TS.replace(b"@classLabel true x y", b"@targetlabel true").replace(b":x", b":1.5").replace(b":y", b":2")
    check(parse_sequences("t.ts", numbers, LAYOUT), [["1.5"], ["2"]])


@pytest.mark.parametrize("compress", [False, True])
def test_npz_files(compress: bool) -> None:
    rows = np.array(VALUES[0] + VALUES[1], np.float32)
    padded = np.zeros((2, 3, 2))
    padded[0, :2], padded[1] = VALUES[0], VALUES[1]
    lengths = np.array([2, 3])
    for x in (rows, padded):
        data = npz(compress, x=x, lengths=lengths, y=np.array(["x", "y"]))
        check(parse_sequences("t.npz", data, LAYOUT))
        check(parse_sequences("t.npz", npz(compress, x=x, lengths=lengths), LAYOUT), None)
    steps = Layout(every_step=True)
    expected = [["4", "3"], ["2", "1", "0"]]
    check(parse_sequences("t.npz", npz(x=rows, lengths=lengths, y=np.arange(5)[::-1]), steps), expected)
    y = np.array([[4, 3, 9], [2, 1, 0]])
    check(parse_sequences("t.npz", npz(x=padded, lengths=lengths, y=y), steps), expected)
    check(parse_sequences("t.npz", npz(x=padded[1]), LAYOUT), None, [VALUES[1]])
    check(parse_sequences("t.npz", npz(x=padded, y=np.array([0.5, 2])), LAYOUT), [["0.5"], ["2.0"]], padded)


def test_several_files_are_read_one_after_another(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(TABLE)
    (tmp_path / "c.ts").write_bytes(TS)
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv", "c.ts")]
    found = read_sequences(files[:2], LAYOUT)
    check(found, [["x"], ["y"]] * 2, VALUES * 2)
    assert found.where[2] == f"{files[1]}:2"
    check(found.take(np.array([3, 0])), [["y"], ["x"]], [VALUES[1], VALUES[0]])
    with pytest.raises(DataError, match=r"c.ts:6: expected the columns of .*a.csv:2: a, b and labels"):
        read_sequences(files, LAYOUT)


def test_windows() -> None:
    whole = parse_sequences("t.csv", TABLE, Layout("who", "kind", ("a", "b"), every_step=True))
    cut = whole.cut(2)
    check(cut, [["x", "x"], ["y", "y"], ["y"]], [VALUES[0], VALUES[1][:2], VALUES[1][2:]])
    assert cut.ids == ["u", "v", "v"]


def header(shape: str, descr: str = "'<f8'") -> bytes:
    """The ``.npy`` file of an array that is not there."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(member: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", member)
    return file.getvalue()


X = np.zeros((2, 3, 2))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.ts", b"@data\n", r"t\.ts: there is no sequence"),
        ("t.ts", b"@problemName a\n", r"t\.ts: expected a line @data"),
        ("t.ts", b"1,2:3,4\n", r"t\.ts:1: expected a line that begins with @"),
        ("t.ts", b"@timeStamps true\n@data\n", r"t\.ts:1: expected values without time stamps"),
        ("t.ts", TS + b"1,2:y\n", r"t\.ts:8: expected 2 dimensions, got 1"),
        ("t.ts", TS + b"1,2:1:y\n", r"t\.ts:8: expected as many values in all dimensions, got \[2, 1\]"),
        ("t.ts", TS + b"1,b:1,2:y\n", r"t\.ts:8: column 'x0': expected a number, or nothing, got 'b'"),
        ("t.ts", TS + b"1:1:y\n", r"t\.ts:8: sequence '3' has 1 step; expected at least 2"),
        ("t.ts", b"\xff", r"t\.ts is not UTF-8"),
        ("t.npz", b"PK", r"t\.npz: not a NumPy .npz file, or damaged"),
        ("t.npz", npz(x=X)[:-30], r"t\.npz: not a NumPy .npz file, or damaged"),
        ("t.npz", npz(z=X), r"t\.npz: expected an array of numbers x, .* got none; the file has z"),
        ("t.npz", npz(x=np.zeros(3)), r"expected an array of numbers x, .* got float64 \[3\]"),
        ("t.npz", npz(x=np.array([["a"]])), r"expected an array of numbers x"),
        ("t.npz", npz(x=np.array([[None]])), r"t\.npz: array x.npy is object \[1, 1\]"),
        (
            "t.npz",
            zipped(header("(1000000, 1000000)")),
            r"array x.npy is float64 \[1000000, 1000000\]; expected .* fit",
        ),
        ("t.npz", zipped(header("(3, 2)")), r"t\.npz: not a NumPy .npz file, or damaged"),
        ("t.npz", npz(x=X, lengths=np.array([2, 4])), r"expected lengths \[2\], at most 3 each, got int64 \[2\]"),
        (
            "t.npz",
            npz(x=X[0], lengths=np.array([2, 2])),
            r"expected lengths \[N\] with the sum 3, got int64 \[2\] with",
        ),
        ("t.npz", npz(x=X, lengths=np.array([3, 1])), r"t\.npz: sequence 1: sequence '1' has 1 step"),
        ("t.npz", npz(x=X, y=np.zeros(3)), r"t\.npz: expected labels y \[2\] or \[2, 3\], got float64 \[3\]"),
        ("t.npz", npz(x=X, y=np.zeros((2, 3))), r"sequence 0: expected one label for a sequence \(1\), got 3"),
        ("t.npz", npz(x=np.full((2, 3, 1), np.inf)), r"t\.npz: sequence 0: expected finite numbers, or NaN"),
        ("t.npz", npz(x=X[:0]), r"t\.npz: there is no sequence"),
    ],
)
def test_damaged_files_are_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_sequences(name, data, LAYOUT)


def test_labels_of_steps_are_expected_for_every_step() -> None:
    with pytest.raises(DataError, match=r"t\.ts:6: expected a label for every step \(2\), got 1"):
        parse_sequences("t.ts", TS, Layout(every_step=True))
