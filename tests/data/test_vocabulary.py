"""Vocabularies and labels: numbers in a known order, round trips, and untrusted configurations checked."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.vocabulary import END, PAD, SPECIALS, START, UNK, Labels, Vocabulary
from minirnn.errors import DataError, DTypeError, IndexRangeError, OptionError, ShapeError

SENTENCES = [["the", "cat", "sat"], [], ["on", "the", "mat", "the", "cat"]]


def test_special_tokens_have_fixed_numbers() -> None:
    assert (PAD, START, END, UNK) == (0, 1, 2, 3)
    assert SPECIALS == ("<pad>", "<start>", "<end>", "<unk>")
    assert Vocabulary.of([]).tokens == list(SPECIALS)
    assert len(Vocabulary.of([[], []])) == 4


def test_tokens_are_numbered_by_frequency_then_first_appearance() -> None:
    vocabulary = Vocabulary.of(iter(SENTENCES))
    assert vocabulary.tokens == [*SPECIALS, "the", "cat", "sat", "on", "mat"]
    assert len(vocabulary) == 9
    ids = vocabulary.encode(["mat", "the", "dog", "cat"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [8, 4, UNK, 5]
    assert vocabulary.encode([]).tolist() == []
    assert vocabulary.encode([]).dtype == np.int64


@pytest.mark.parametrize(
    ("min_count", "max_size", "kept"),
    [(2, None, 2), (3, None, 1), (4, None, 0), (1, 3, 3), (2, 3, 2), (2, 1, 1), (1, 100, 5)],
)
def test_rare_tokens_are_left_out(min_count: int, max_size: int | None, kept: int) -> None:
    ranked = ["the", "cat", "sat", "on", "mat"]
    assert Vocabulary.of(SENTENCES, min_count, max_size).tokens == [*SPECIALS, *ranked[:kept]]


@given(st.lists(st.lists(st.sampled_from("abcdefg"))), st.integers(1, 4), st.none() | st.integers(1, 8))
def test_order_matches_a_plain_reference(sequences: list[list[str]], least: int, size: int | None) -> None:
    everything = [token for sequence in sequences for token in sequence]
    ranked = sorted(set(everything), key=lambda token: (-everything.count(token), everything.index(token)))
    expected = [token for token in ranked if everything.count(token) >= least][:size]
    assert Vocabulary.of(sequences, least, size).tokens[4:] == expected


def test_membership_is_that_of_the_data() -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    assert "cat" in vocabulary
    assert "dog" not in vocabulary
    assert "<unk>" not in vocabulary
    assert 4 not in vocabulary


def test_decode_stops_at_end_and_omits_specials() -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    assert vocabulary.decode([START, 4, PAD, 5, UNK, END, 6, 7]) == ["the", "cat", "<unk>"]
    assert vocabulary.decode(np.array([8, 4], np.uint8)) == ["mat", "the"]
    assert vocabulary.decode(np.array([[4, 0], [5, 0], [6, 0]])[:, 0]) == ["the", "cat", "sat"]
    assert vocabulary.decode([END]) == vocabulary.decode([]) == []


def test_decode_checks_its_argument() -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    for wrong in (-1, 9, 2**40):
        with pytest.raises(IndexRangeError, match=rf"Vocabulary\.decode: {wrong} is out of range; expected 0 to 8"):
            vocabulary.decode([4, wrong])
    with pytest.raises(DTypeError, match="expected integers, got float64"):
        vocabulary.decode([4.0])
    with pytest.raises(ShapeError, match=r"expected numbers \[T\], got shape \[2, 1\]"):
        vocabulary.decode(np.zeros((2, 1), np.int64))


def test_data_spelled_like_specials_is_data() -> None:
    sentence = ["<end>", "x", "<pad>", "<unk>", "<start>", "<end>"]
    vocabulary = Vocabulary.of([sentence])
    ids = vocabulary.encode(sentence)
    assert ids.tolist() == [4, 5, 6, 7, 8, 4]
    assert vocabulary.decode(ids) == sentence
    assert Vocabulary.from_config(vocabulary.to_config()).encode(sentence).tolist() == ids.tolist()


@given(st.lists(st.lists(st.text())))
def test_vocabulary_round_trip_through_json(sequences: list[list[str]]) -> None:
    vocabulary = Vocabulary.of(sequences)
    again = Vocabulary.from_config(json.loads(json.dumps(vocabulary.to_config())))
    assert again.tokens == vocabulary.tokens
    for sequence in sequences:
        ids = again.encode(sequence)
        assert (ids > UNK).all()
        assert vocabulary.decode(ids) == sequence


@pytest.mark.parametrize("options", [{"min_count": 0}, {"max_size": 0}, {"min_count": -1}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=r"(min_count|max_size): expected an int of at least 1"):
        Vocabulary.of(SENTENCES, **options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *((config, "with a list of strings as 'tokens', got ") for config in (None, [], {}, {"tokens": "abc"})),
        ({"tokens": {"a": 1}}, "with a list of strings as 'tokens'"),
        ({"tokens": ["a", 1]}, "expected strings, got 1 as number 5"),
        ({"tokens": [["a"]]}, "expected strings"),
        ({"tokens": ["a", "b", "a"]}, "'a' stands at 4 and again at 6"),
    ],
)
def test_untrusted_vocabularies_are_checked(config: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vocabulary.from_config(config)


def test_a_union_keeps_the_numbers_of_known_tokens() -> None:
    known = Vocabulary(["b", "<end>", "a"])
    assert known.union(Vocabulary(["c", "a", "d", "b"])).tokens == [*SPECIALS, "b", "<end>", "a", "c", "d"]
    assert known.entries() == [0, 1, 2, 3, "b", "<end>", "a"]


def test_a_union_of_labels_is_sorted() -> None:
    assert Labels(["b", "d"]).union(Labels(["a", "b", "e"])).names == ["a", "b", "d", "e"]


def test_labels_are_sorted() -> None:
    labels = Labels.of(iter(["pos", "neg", "pos", "Zebra", "neg"]))
    assert labels.names == ["Zebra", "neg", "pos"]
    assert len(labels) == 3
    ids = labels.encode(["pos", "Zebra", "pos", "neg"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [2, 0, 2, 1]
    assert labels.decode(ids) == ["pos", "Zebra", "pos", "neg"]
    assert labels.encode([]).tolist() == labels.decode([]) == []
    assert Labels.from_config(json.loads(json.dumps(labels.to_config()))).names == labels.names


def test_unknown_labels_are_named() -> None:
    with pytest.raises(DataError, match=r"label 'neutral' is none of the 2 known: neg, pos$"):
        Labels(["neg", "pos"]).encode(["pos", "neutral"])
    with pytest.raises(DataError, match=r"label 'z' is none of the 12 known: a, b, c, d, e, f, g, h, i, j, \.\.\.$"):
        Labels("abcdefghijkl").encode(["z"])
    with pytest.raises(IndexRangeError, match=r"Labels\.decode: 2 is out of range; expected 0 to 1"):
        Labels(["neg", "pos"]).decode([1, 2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"names": []}, "expected at least one class, got none"),
        ({"names": ["b", "a"]}, "expected names in sorted order, got 'a' after 'b'"),
        ({"names": ["a", "a"]}, "'a' stands at 0 and again at 1"),
        ({"names": ["a", None]}, "expected strings, got None"),
        ({"names": 3}, "as 'names'"),
        ("names", "as 'names', got 'names'"),
    ],
)
def test_untrusted_labels_are_checked(config: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Labels.from_config(config)
