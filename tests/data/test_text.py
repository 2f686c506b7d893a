"""Character and byte vocabularies, and streams: nothing of a text is lost, repeated or out of order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.text import Bytes, Characters, Streams, Words, symbols_from_config, union
from minirnn.data.vocabulary import Vocabulary
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


@given(st.text("aB\u00e9'-.,( \n\t"), st.integers(1, 4), st.booleans())
def test_words_are_written_as_they_were_read(text: str, size: int, lower: bool) -> None:
    """Of white space one blank is left between words, and line ends."""
    symbols = Words.of([text], lower)
    tokens, decode = symbols.encode(text), symbols.decoder()
    expected = "\n".join(" ".join(line.split()) for line in (text.lower() if lower else text).split("\n"))
    assert "".join(decode(tokens[i : i + size]) for i in range(0, len(tokens), size)) == expected
    assert symbols.missing(text) == []
    again = symbols_from_config(symbols.to_config())
    assert (again.entries(), again.encode(text).tolist()) == (symbols.entries(), tokens.tolist())


def test_words_in_parts_are_those_of_the_whole() -> None:
    """Also what a text that was read is continued by: a space stands where one is missing."""
    symbols = Words.of(["Go, (or stay) d'or\n\nhere.\n"])
    assert symbols.split("Go, (or stay)\nd'or") == ["Go", "￭,", "(￭", "or", "stay", "￭)", "\n", "d'", "or"]
    for before, after, expected in (
        ("Go", "stay", " stay"), ("Go ", "stay", "stay"), ("Go\n", "stay", "stay"), ("Go", ", or", " or"),
        ("stay)", "or", " or"), ("", "stay", "stay"), ("Go", "\nstay", "\nstay"), ("Go", "here.", " here."),
    ):  # fmt: skip
        tokens = symbols.encode(after)
        assert symbols.decoder(before)(tokens[after == ", or" :]) == expected, (before, after)


def test_the_most_frequent_words_are_kept_and_others_unknown() -> None:
    symbols = Words.of(["b a c", " a c a\nd"])
    assert symbols.entries()[1:] == ["a", "c", "b", "\n", "d"]
    tokens = symbols.encode("b b a c d")
    assert symbols.most_frequent(tokens).entries() == [3, "b", "a", "c", "d"]
    assert symbols.most_frequent(tokens, max_size=2).entries() == [3, "b", "a"]
    few = symbols.most_frequent(tokens, min_count=2)
    assert (len(few), few.encode("a b c b").tolist(), few.symbol(0)) == (2, [0, 1, 0, 1], "<unk>")
    assert few.decoder()(np.array([1, 0, 1])) == "b <unk> b"
    assert few.missing("a, b c a") == ["a", ",", "c"]


def test_a_union_has_the_characters_of_both() -> None:
    assert union(Characters("bd"), Characters("abc")).to_config() == Characters("abcd").to_config()
    assert len(union(Bytes(), Bytes())) == 256
    both = union(Words(Vocabulary(["b", "a"]), True), Words(Vocabulary(["c", "a"]), True))
    assert (both.encode("C b a x").tolist(), both.to_config()["lower"]) == ([3, 1, 2, 0], True)
    with pytest.raises(DataError, match="vocabulary: expected bytes, as the trained model reads, got characters"):
        union(Bytes(), Characters("a"))


def test_unknown_vocabularies_are_refused() -> None:
    for config in ({"kind": "syllables"}, {"kind": "words", "tokens": ["a"]}, {"kind": "characters", "characters": 1}):
        with pytest.raises(DataError, match=f"unknown vocabulary '{config['kind']}'"):
            symbols_from_config(config)
    with pytest.raises(DataError, match="list of strings"):
        symbols_from_config({"kind": "words", "lower": False})
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
