"""Reading, encoding and cutting text: nothing of it is lost, doubled or out of order."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.sources import decode_text, read_sources
from minirnn.data.text import (
    Bytes,
    Characters,
    Streams,
    symbols_from_config,
)
from minirnn.errors import DataError, OptionError


@given(st.text(min_size=1))
def test_characters_round_trip(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    symbols = Characters.of(text)
    tokens = symbols.encode(text)
    assert tokens.dtype == np.min_scalar_type(len(set(text)) - 1)
    assert "".join(symbols.decoder()(tokens[i : i + 3]) for i in range(0, len(tokens), 3)) == text
    assert len(symbols) == len(set(text))
    again = symbols_from_config(symbols.to_config())
    assert (again.encode(text) == tokens).all()


def test_characters_are_numbered_by_code_point_and_unknown_ones_left_out() -> None:
    symbols = Characters.of("caba😀")
    assert symbols.characters == "abc😀"
    assert symbols.encode("a😀zb~c").tolist() == [0, 3, 1, 2]
    assert symbols.missing("a😀zb~zc") == "z~"


@given(st.text())
def test_bytes_round_trip_however_they_are_cut(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    symbols = Bytes()
    tokens, decode = symbols.encode(text), symbols.decoder()
    assert "".join(decode(tokens[i : i + 1]) for i in range(len(tokens))) == text
    assert isinstance(symbols_from_config(symbols.to_config()), Bytes)


def test_unknown_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match="unknown vocabulary 'words'"):
        symbols_from_config({"kind": "words"})
    with pytest.raises(DataError, match="rising order"):
        symbols_from_config({"kind": "characters", "characters": "ba"})


def test_byte_order_marks_and_line_ends() -> None:
    assert decode_text(b"\xef\xbb\xbfone\r\ntwo\rthree\n", "x") == "one\ntwo\nthree\n"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere: No such file"):
        read_sources([str(tmp_path / "nowhere")])
    with pytest.raises(DataError, match=r"cannot read .*directory"):
        read_sources([str(tmp_path)])
    (tmp_path / "blank").write_bytes(b"\n \n")
    with pytest.raises(DataError, match="nothing to read"):
        read_sources([str(tmp_path / "blank")])
    with pytest.raises(DataError, match="corpus '@perl' is unknown; built in: @python"):
        read_sources(["@perl"])
    with pytest.raises(DataError, match=r"x\.txt is not UTF-8 text \(byte 4, line 2\)$"):
        decode_text(b"abc\n\xff", "x.txt")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"hello")))
    assert read_sources(["-"]) == [("standard input", b"hello")]


@given(st.integers(2, 300), st.integers(1, 9), st.integers(1, 20))
def test_streams_hold_the_tokens_in_order(count: int, batch_size: int, seq_length: int) -> None:
    """Targets follow inputs by one; each stream is contiguous over chunks; streams follow one another."""
    tokens = np.arange(count)
    streams = Streams.of(tokens, batch_size, seq_length)
    n, length = streams.batch_size, count // streams.batch_size
    assert 1 <= n <= batch_size
    chunks = list(streams)
    assert len(chunks) == len(streams)
    assert all(x.shape == y.shape and (y == x + 1).all() and len(x) <= seq_length for x, y in chunks)
    inputs = np.concatenate([x for x, _ in chunks])
    assert (inputs == np.arange(n) * length + np.arange(length - 1)[:, None]).all()


def test_streams_refuse_what_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="at least two tokens"):
        Streams.of(np.zeros(1, np.int64), 2, 2)
    with pytest.raises(OptionError, match="at least 1"):
        Streams.of(np.zeros(9, np.int64), 0, 2)
