"""Reading corpora: block by block they are what they are as a whole, in memory or in a file."""

import errno
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data import corpus, sources, text
from minirnn.data.corpus import iter_text, read_bytes, read_characters, read_words, renumber, split_evenly
from minirnn.data.sources import BUILT_IN, decode_text, normalize_newlines, open_sources
from minirnn.data.text import Bytes, Characters, Streams, Words, iter_chunks
from minirnn.errors import DataError
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator

Write = Callable[..., str]
TINY = CharConfig(cell="rnn", hidden_size=3, num_layers=1, batch_size=2, seq_length=5)


def _text(*paths: str) -> str:
    return "".join(iter_text(open_sources(paths)))


@given(st.text("a\u00e9\u20ac\U0001f600\r\n\ufeff "), st.integers(1, 7))
def test_text_does_not_depend_on_the_block_size(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    """Characters of several bytes, and the two characters of a line end, cross the borders of blocks."""
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_bytes(text.encode())
    expected = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_BLOCK", size)
        assert _text(str(path)) == expected
    assert decode_text(text.encode(), "x") == normalize_newlines(text) == expected


def test_each_source_begins_on_a_new_line(write: Write) -> None:
    parts = {"a": b"\xef\xbb\xbfone\r\ntwo\rthree", "b": "\ufefffour\n".encode(), "c": b"", "d": b"five"}
    assert _text(*(write(data, name) for name, data in parts.items())) == "one\ntwo\nthree\nfour\nfive"


@pytest.mark.parametrize("limit", [0, 1 << 28], ids=["in a file", "in memory"])
def test_tokens_are_renumbered_in_chunks(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(corpus, "_MAX_IN_MEMORY", limit)
    monkeypatch.setattr(text, "_CHUNK", 3)
    tokens = renumber(np.array([0, 2, 1, 1, 0, 2, 2], np.uint8), np.array([7, 300, 0]))
    assert isinstance(tokens, np.memmap) == (limit == 0)
    assert (tokens.dtype, tokens.tolist()) == (np.uint16, [7, 0, 300, 300, 7, 0, 0])


@given(st.integers(1, 60), st.integers(1, 5), st.data())
def test_pieces_are_taken_evenly_out_of_a_text(size: int, count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, size // count))
    rest, pieces = split_evenly(np.arange(size, dtype=np.uint8), count, length)
    assert sorted([*rest, *pieces]) == list(range(size))
    assert (np.diff(rest.astype(int)) > 0).all()
    for number, piece in enumerate(pieces.reshape(count, length).tolist()):
        assert piece == list(range(piece[0], piece[0] + length)) if piece else length == 0
        assert not piece or abs(piece[0] + length / 2 - (number + 0.5) * size / count) <= 1.5


@given(st.text("ab',. \t\n\u00e9"), st.integers(1, 9))
def test_words_do_not_depend_on_the_block_size(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_bytes(f"a {text}".encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_BLOCK", size)
        tokens, symbols = read_words([str(path)])
    whole = Words.of([f"a {text}"])
    assert (symbols.entries(), tokens.tolist()) == (whole.entries(), whole.encode(f"a {text}").tolist())


def test_texts_without_a_word_are_refused(write: Write) -> None:
    for blank in (b"", b" \n\n\t"):
        with pytest.raises(DataError, match="nothing to read in"):
            read_words([write(blank)])


@pytest.mark.parametrize("limit", [0, 1 << 28], ids=["in a file", "in memory"])
def test_tokens_are_those_of_the_files_and_stay_when_these_change(
    write: Write, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A file that is truncated later would, if it were mapped, end the process."""
    monkeypatch.setattr(corpus, "_MAX_IN_MEMORY", limit)
    monkeypatch.setattr(sources, "_BLOCK", 11)
    text = "na\u00efve \U0001f600 caf\u00e9\n" * 20
    path, more = write(text), write(b"\x07\xff", "more")
    tokens, symbols = read_characters([path])
    some, same = read_characters([path], Characters("av"))
    data, _ = read_bytes([path, more])
    write(b"")
    assert isinstance(tokens, np.memmap) == isinstance(data, np.memmap) == (limit == 0)
    assert tokens.dtype == data.dtype == np.uint8
    assert symbols.characters == Characters.of(text).characters
    np.testing.assert_array_equal(tokens, symbols.encode(text))
    assert same.characters == "av"
    assert some.tolist() == [0, 1, 0] * 20
    assert data.tobytes() == text.encode() + b"\x07\xff"


def test_tokens_in_a_file_train_like_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are released every few chunks; their contents are read again."""
    monkeypatch.setattr(text, "_RELEASE_EVERY", 2)
    monkeypatch.setattr(text, "_CHUNK", 5000)
    data = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)
    (tmp_path / "data").write_bytes(data.tobytes())
    mapped = np.memmap(tmp_path / "data", np.uint8, "r")
    assert np.concatenate(list(iter_chunks(mapped))).tobytes() == data.tobytes()
    for _ in range(2):
        for (x, y), (u, v) in zip(Streams.of(mapped, 7, 30), Streams.of(data, 7, 30), strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)
    changed = np.memmap(tmp_path / "data", np.uint8, "c")  # changes are in memory only and must not be released
    changed[:] = 7
    assert all((chunk == 7).all() for chunk in iter_chunks(changed))
    assert (changed == 7).all()
    of_file, of_memory = (TextGenerator.build(Corpus(tokens, Bytes()), TINY).config() for tokens in (mapped, data))
    assert of_file == of_memory


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_MAX_IN_MEMORY", 1 << 18)
    monkeypatch.setattr(sources, "_BLOCK", 1 << 16)
    monkeypatch.setattr(text, "_CHUNK", 1 << 16)
    peaks = []
    for repeats in (1 << 14, 1 << 17):
        path = tmp_path / str(repeats)
        path.write_text("a line of na\u00efve text with something\n" * repeats, encoding="utf-8")
        tracemalloc.start()
        try:
            for read in (read_characters, read_bytes):
                tokens, _ = read([str(path)])
                TextGenerator.build(Corpus(tokens, Bytes()), TINY)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
    assert peaks[2] < peaks[0] + (1 << 18)
    assert peaks[3] < peaks[1] + (1 << 18)


def test_full_disk_is_reported_with_the_folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus, "_MAX_IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DataError, match=r"cannot store the encoded text in .*: No space left on device; set TMPDIR"):
        read_characters([write("abc")])


@pytest.mark.parametrize("block", [1, 2, 3, 4, 100])
def test_bytes_that_are_not_utf8_are_located(write: Write, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(sources, "_BLOCK", block)
    bad = b"a\nb\xc3\n\xc3\xa9"
    with pytest.raises(DataError, match=r"bad is not UTF-8 text \(byte 3, line 2\); any file can be read as bytes"):
        read_characters([write(b"good\n", "good"), write(bad, "bad")])
    with pytest.raises(DataError, match=r"^x\.txt is not UTF-8 text \(byte 3, line 2\)$"):
        decode_text(bad, "x.txt")


@pytest.mark.parametrize("later", ["abcabcabc", "ab", "abd"])
def test_corpus_that_changes_while_it_is_read_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    path, passes, original = write("abc"), [0], corpus.iter_text

    def changing(opened: object) -> object:
        passes[0] += 1
        if passes[0] == 2:
            write(later)
        return original(opened)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus, "iter_text", changing)
    with pytest.raises(DataError, match="changed while being read"):
        read_characters([path])


def test_the_built_in_corpus_is_real_text() -> None:
    tokens, symbols = read_characters(["@python"])
    assert tokens.size > 1_000_000
    assert "def " in symbols.decoder()(tokens[:100_000])
    assert all(path.suffix == ".py" for path in BUILT_IN["@python"]())
