"""Corpora: read in pieces they are what they are in one piece, in memory or in a file."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import tracemalloc
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data import corpus, text
from minirnn.data.corpus import read_bytes, read_characters, text_pieces
from minirnn.data.sources import BUILT_IN, open_sources, read_sources, file_stamps
from minirnn.data.text import Bytes, Characters, Streams, iter_chunks
from minirnn.errors import DataError
from minirnn.tasks.char import CharTask


def _text(*paths: Path) -> str:
    return "".join(text_pieces(open_sources([str(path) for path in paths])))


def _whole(data: bytes) -> str:
    """All of it at once: what the pieces must add up to."""
    return data.decode().replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


@given(st.text("a\u00e9\u20ac\U0001f600\r\n\ufeff "), st.integers(1, 7))
def test_pieces_add_up_wherever_they_are_cut(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    """Characters of several bytes, and the two signs of a line end, lie across the borders."""
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_PIECE", size)
        assert _text(path) == _whole(text.encode())


def test_each_source_begins_on_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    (tmp_path / "b").write_bytes("\ufefffour\n".encode())
    (tmp_path / "c").write_bytes(b"")
    (tmp_path / "d").write_bytes(b"five")
    assert _text(*(tmp_path / name for name in "abcd")) == "one\ntwo\nthree\nfour\nfive"


@pytest.mark.parametrize("room", [0, 1 << 28], ids=["in a file", "in memory"])
def test_tokens_are_the_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(corpus, "_IN_MEMORY", room)
    monkeypatch.setattr(corpus, "_PIECE", 11)
    text = "na\u00efve \U0001f600 caf\u00e9\n" * 20
    (tmp_path / "text").write_text(text, encoding="utf-8")
    tokens, symbols = read_characters([str(tmp_path / "text")])
    assert isinstance(tokens, np.memmap) == (room == 0)
    assert tokens.dtype == np.uint8
    assert symbols.characters == Characters.of(text).characters
    np.testing.assert_array_equal(tokens, symbols.encode(text))
    some, same = read_characters([str(tmp_path / "text")], Characters("av"))
    assert same.characters == "av"
    assert some.tolist() == [0, 1, 0] * 20


@pytest.mark.parametrize("room", [0, 1 << 28], ids=["in a file", "in memory"])
def test_bytes_are_those_of_the_files_whatever_becomes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """What is read is kept: a file cut off later, were it mapped, would end the process."""
    monkeypatch.setattr(corpus, "_IN_MEMORY", room)
    monkeypatch.setattr(corpus, "_PIECE", 3)
    (tmp_path / "a").write_bytes(b"\x00\xffabcdef")
    (tmp_path / "b").write_bytes(b"\x07")
    one, _ = read_bytes([str(tmp_path / "a")])
    both, _ = read_bytes([str(tmp_path / "a"), str(tmp_path / "b")])
    (tmp_path / "a").write_bytes(b"")
    assert isinstance(one, np.memmap) == (room == 0)
    assert one.tobytes() == b"\x00\xffabcdef"
    assert both.tobytes() == b"\x00\xffabcdef\x07"


def test_tokens_in_a_file_train_like_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that were read leave memory every so many chunks; what they hold is read again."""
    monkeypatch.setattr(text, "_CHUNKS_KEPT", 2)
    monkeypatch.setattr(text, "_PIECE", 5000)
    data = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)
    (tmp_path / "data").write_bytes(data.tobytes())
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")
    assert np.concatenate(list(iter_chunks(mapped))).tobytes() == data.tobytes()
    for _ in range(2):
        for (x, y), (u, v) in zip(Streams.of(mapped, 7, 30), Streams.of(data, 7, 30), strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)
    ours = np.memmap(tmp_path / "data", np.uint8, "c")  # changes to it are in memory only
    ours[:] = 7
    assert all((piece == 7).all() for piece in iter_chunks(ours))
    assert (ours == 7).all()
    assert CharTask(mapped, Bytes(), 3, 1, "rnn", 0.0, 2, 5).config() == CharTask(
        data, Bytes(), 3, 1, "rnn", 0.0, 2, 5
    ).config()  # fmt: skip


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_IN_MEMORY", 1 << 18)
    monkeypatch.setattr(corpus, "_PIECE", 1 << 16)
    monkeypatch.setattr(text, "_PIECE", 1 << 16)
    peaks = []
    for repeats in (1 << 14, 1 << 17):
        path = tmp_path / str(repeats)
        path.write_text("a line of na\u00efve text with something\n" * repeats, encoding="utf-8")
        tracemalloc.start()
        try:
            for read in (read_characters, read_bytes):
                tokens, _ = read([str(path)])
                CharTask(tokens, Bytes(), 3, 1, "rnn", 0.0, 2, 5)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
    assert peaks[2] < peaks[0] + (1 << 18)
    assert peaks[3] < peaks[1] + (1 << 18)


def test_no_room_for_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus, "_IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    (tmp_path / "text").write_text("abc")
    with pytest.raises(DataError, match=r"cannot keep the encoded text in .*: No space left on device; TMPDIR says"):
        read_characters([str(tmp_path / "text")])


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in {"blank": b"\n \n", "empty": b"", "good": b"good\n", "bad": b"a\nb\xc3\n\xc3\xa9"}.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read .*nowhere: No such file"):
        read_characters([str(tmp_path / "nowhere")])
    with pytest.raises(DataError, match=r"cannot read .*directory"):
        read_bytes([str(tmp_path)])
    for read, name in ((read_characters, "blank"), (read_characters, "empty"), (read_bytes, "empty")):
        with pytest.raises(DataError, match="nothing to read"):
            read([str(tmp_path / name)])
    with pytest.raises(DataError, match="corpus '@perl' is unknown; built in: @python"):
        read_characters(["@perl"])
    for piece in (1, 2, 3, 4, 100):
        monkeypatch.setattr(corpus, "_PIECE", piece)
        with pytest.raises(DataError, match=r"bad is not UTF-8 text \(byte 3, line 2\); .*--bytes"):
            read_characters([str(tmp_path / "good"), str(tmp_path / "bad")])


@pytest.mark.parametrize("later", ["abcabcabc", "ab", "abd"])
def test_a_corpus_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str) -> None:
    path, passes, pieces = tmp_path / "text", [0], corpus.text_pieces
    path.write_text("abc")

    def changing(opened: object) -> object:
        passes[0] += 1
        if passes[0] == 2:
            path.write_text(later)
        return pieces(opened)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus, "text_pieces", changing)
    with pytest.raises(DataError, match="changed while being read"):
        read_characters([str(path)])


def test_a_later_change_shows_in_the_stamps(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abc")
    before = file_stamps([str(path), "-", "@python"])
    assert list(before) == [str(path)]
    assert file_stamps([str(path)]) == before
    path.write_text("abcd")
    assert file_stamps([str(path)]) != before


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"hello")))
    tokens, symbols = read_characters(["-"])
    assert symbols.decoder()(tokens) == "hello"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"hello")))
    assert read_bytes(["-"])[0].tobytes() == b"hello"


def test_the_built_in_corpus_is_real_text() -> None:
    tokens, symbols = read_characters(["@python"])
    assert tokens.size > 1_000_000
    assert "def " in symbols.decoder()(tokens[:100_000])
    assert all(path.suffix == ".py" for path in BUILT_IN["@python"]())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_read_once_and_a_device_not_at_all(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=("from a pipe",))
    writer.start()
    tokens, symbols = read_characters([str(pipe)])
    writer.join()
    assert symbols.decoder()(tokens) == "from a pipe"
    for read in (read_characters, read_bytes, read_sources):
        with pytest.raises(DataError, match="cannot read /dev/zero: it is a device"):
            read(["/dev/zero"])
