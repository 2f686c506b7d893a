"""What every reader does with sources: missing files, folders, standard input, bytes that are not UTF-8."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from minirnn.data.corpus import read_bytes, read_characters
from minirnn.data.embeddings import read_embeddings
from minirnn.data.images import read_idx
from minirnn.data.lines import read_columns, read_pairs
from minirnn.data.music import read_pieces
from minirnn.data.sources import file_stamps, read_sources
from minirnn.data.tables import read_table
from minirnn.errors import DataError

Read = Callable[[str], object]
Write = Callable[..., str]


def first(read: Callable[[list[str]], object]) -> Read:
    """A reader of several sources as a reader of one."""
    return lambda source: read([source])


TEXT: dict[str, Read] = {
    "characters": first(read_characters),
    "pairs": first(read_pairs),
    "columns": first(read_columns),
    "table": read_table,
    "pieces": read_pieces,
}
SOURCES: dict[str, Read] = TEXT | {"bytes": first(read_bytes), "sources": first(read_sources)}
FILES: dict[str, Read] = {"embeddings": read_embeddings, "idx": read_idx}


@pytest.mark.parametrize("read", (SOURCES | FILES).values(), ids=SOURCES | FILES)
def test_missing_files_and_folders_are_refused(tmp_path: Path, read: Read) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere: No such file"):
        read(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"cannot read .*directory"):
        read(str(tmp_path))


@pytest.mark.parametrize("read", SOURCES.values(), ids=SOURCES)
def test_unknown_corpora_devices_and_empty_files_are_refused(write: Write, read: Read) -> None:
    with pytest.raises(DataError, match="corpus '@perl' is unknown; built in: @python"):
        read("@perl")
    with pytest.raises(DataError, match=r"nothing to read in .*/file$"):
        read(write(b""))
    if read is not SOURCES["bytes"]:
        with pytest.raises(DataError, match=r"nothing to read in .*/file$"):
            read(write(b"\n \n"))
    if os.path.exists("/dev/zero"):
        with pytest.raises(DataError, match="cannot read /dev/zero: it is a device"):
            read("/dev/zero")


@pytest.mark.parametrize("read", TEXT.values(), ids=TEXT)
def test_bytes_that_are_not_utf8_are_located(write: Write, stdin: Callable[[bytes], None], read: Read) -> None:
    bad = b"a\tb\nc\t\xff\n"
    with pytest.raises(DataError, match=r"/file is not UTF-8 text \(byte 6, line 2\)"):
        read(write(bad))
    stdin(bad)
    with pytest.raises(DataError, match=r"^standard input is not UTF-8 text \(byte 6, line 2\)"):
        read("-")


def test_standard_input_and_pipes_are_read(stdin: Callable[[bytes], None], tmp_path: Path) -> None:
    stdin(b"hello")
    assert read_sources(["-"]) == [("standard input", b"hello")]
    stdin(b"hello")
    assert read_bytes(["-"])[0].tobytes() == b"hello"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        writer = Thread(target=(tmp_path / "pipe").write_text, args=("from a pipe",))
        writer.start()
        tokens, symbols = read_characters([str(tmp_path / "pipe")])  # reads its sources twice
        writer.join()
        assert symbols.decoder()(tokens) == "from a pipe"


def test_file_stamps_show_a_change(write: Write, tmp_path: Path) -> None:
    path = write("abc")
    before = file_stamps([path, "-", "@python"])
    assert list(before) == [path]
    assert file_stamps([path]) == file_stamps([str(tmp_path)]) == before
    write("abcd")
    assert file_stamps([path]) != before
