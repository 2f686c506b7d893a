"""Character and byte vocabularies, and streams: nothing of a text is lost, repeated or out of order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.text import Bytes, Characters, Streams, symbols_from_config, union
from minirnn.errors import DataError, OptionError

TEXT = st.text().map(lambda text: text.encode("utf-8", "replace").decode())


@given(TEXT.filter(len))
def test_characters_round_trip(text: str) -> None:
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
    assert [symbols.symbol(token) for token in range(4)] == list("abc😀")
    assert [Bytes().symbol(token) for token in (10, 97, 127, 128, 255)] == ["\n", "a", "\x7f", "\\x80", "\\xff"]


@given(TEXT)
def test_bytes_decode_one_at_a_time(text: str) -> None:
    symbols = Bytes()
    tokens, decode = symbols.encode(text), symbols.decoder()
    assert "".join(decode(tokens[i : i + 1]) for i in range(len(tokens))) == text
    assert (len(symbols), symbols.missing(text)) == (256, "")
    assert isinstance(symbols_from_config(symbols.to_config()), Bytes)


def test_a_union_has_the_characters_of_both() -> None:
    assert union(Characters("bd"), Characters("abc")).to_config() == Characters("abcd").to_config()
    assert len(union(Bytes(), Bytes())) == 256
    with pytest.raises(DataError, match="vocabulary: expected bytes, as the trained model reads, got characters"):
        union(Bytes(), Characters("a"))


def test_unknown_vocabularies_are_refused() -> None:
    with pytest.raises(DataError, match="unknown vocabulary 'words'"):
        symbols_from_config({"kind": "words"})
    for characters in ("ba", "aa", ""):
        with pytest.raises(DataError, match="rising order"):
            symbols_from_config({"kind": "characters", "characters": characters})


@given(st.integers(2, 300), st.integers(1, 9), st.integers(1, 20))
def test_streams_hold_the_tokens_in_order(count: int, batch_size: int, seq_length: int) -> None:
    """Targets are one step later than inputs; each stream is contiguous over chunks; streams follow one another."""
    streams = Streams.of(np.arange(count), batch_size, seq_length)
    n, length = streams.batch_size, count // streams.batch_size
    assert 1 <= n <= batch_size
    chunks = list(streams)
    assert len(chunks) == len(streams)
    assert all(x.shape == y.shape and (y == x + 1).all() and len(x) <= seq_length for x, y in chunks)
    inputs = np.concatenate([x for x, _ in chunks])
    assert (inputs == np.arange(n) * length + np.arange(length - 1)[:, None]).all()


def test_streams_check_their_arguments() -> None:
    with pytest.raises(DataError, match="at least two tokens"):
        Streams.of(np.zeros(1, np.int64), 2, 2)
    with pytest.raises(OptionError, match="batch size: expected an int of at least 1, got 0"):
        Streams.of(np.zeros(9, np.int64), 0, 2)
    with pytest.raises(OptionError, match=r"sequence length: expected an int of at least 1, got 2\.5"):
        Streams.of(np.zeros(9, np.int64), 2, 2.5)  # type: ignore[arg-type]
