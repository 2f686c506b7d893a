"""Padding against plain loops, and batches of similar lengths that contain every sequence once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.sequences import Buckets, pad, valid_rows
from minirnn.errors import DTypeError, OptionError, ShapeError


@given(st.lists(st.lists(st.integers(-9, 9), max_size=7), max_size=6), st.integers(-3, 3))
def test_padding_of_numbers(sequences: list[list[int]], value: int) -> None:
    array, lengths = pad(sequences, value)
    assert array.dtype == lengths.dtype == np.int64
    assert lengths.tolist() == [len(s) for s in sequences]
    longest = max([1, *lengths])
    assert array.shape == (longest, len(sequences))
    for n, sequence in enumerate(sequences):
        assert array[:, n].tolist() == sequence + [value] * (longest - len(sequence))
    assert array.flags.c_contiguous


def test_padding_of_vectors() -> None:
    array, lengths = pad([[[1, 2], [3, 4]], [], np.empty((0, 2), np.float32), [[5.5, 6]]], value=-1)
    assert array.dtype == np.float32
    assert lengths.tolist() == [2, 0, 0, 1]
    assert array.tolist() == [[[1, 2], [-1, -1], [-1, -1], [5.5, 6]], [[3, 4], [-1, -1], [-1, -1], [-1, -1]]]
    assert pad([np.empty((0, 3))])[0].tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("float32 float32", "float32"),
        ("float32 float64", "float64"),
        ("uint8 int64", "float32"),
        ("int64 float64", "float64"),
    ],
)
def test_vectors_keep_their_type(kinds: str, expected: str) -> None:
    vectors = [np.arange(6).reshape(3, 2).astype(kind) for kind in kinds.split()]
    array, _ = pad([*vectors, [[7, 8]]])
    assert array.dtype == expected
    assert array[:, 0].tolist() == array[:, 1].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert array[0, 2].tolist() == [7, 8]


def test_padding_of_arrays_that_are_not_contiguous() -> None:
    source = np.arange(24).reshape(4, 6)
    array, lengths = pad([source[::-2, 1], source[1, ::3], source.T[::4, 0]])
    assert array.tolist() == [[19, 6, 0], [7, 9, 4]]
    assert lengths.tolist() == [2, 2, 2]
    vectors, _ = pad([source.T.astype(np.float64)[:, ::2]])
    assert (vectors[:, 0] == source[::2].T).all()


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([[1], [1.5]], DTypeError, r"sequence 1 holds float64; expected integers \[t\], or vectors \[t, F\]"),
        ([["a"]], DTypeError, "sequence 0 holds <U1"),
        ([[], [[1, 2]], [[1]]], ShapeError, r"sequence 1 is \[1, 2\] but sequence 2 \[1, 1\]"),
        ([[1], [[1]]], ShapeError, r"sequence 0 is \[1\] but sequence 1 \[1, 1\]"),
        ([[1], 3], ShapeError, r"sequence 1 has shape \[\]; expected numbers \[t\] or vectors \[t, F\]"),
        ([np.zeros((2, 2, 2))], ShapeError, r"sequence 0 has shape \[2, 2, 2\]"),
        ([[[1, 2], [3]]], ShapeError, "sequence 0 is ragged itself"),
    ],
)
def test_sequences_that_cannot_be_padded_are_refused(
    sequences: list[object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pad(sequences)


def test_in_order_by_hand() -> None:
    buckets = Buckets(([3, 1, 2, 3, 1, 0, 3], [1, 2, 3, 0, 1, 9, 1]), 2)
    assert len(buckets) == 4
    assert [batch.tolist() for batch in buckets.in_order()] == [[5, 4], [1, 2], [3, 0], [6]]
    assert [batch.tolist() for batch in Buckets(np.array([2, 0, 1])[::-1], 9).in_order()] == [[1, 0, 2]]


@given(st.integers(0, 700), st.integers(1, 9), st.integers(0, 2**32))
def test_every_sequence_is_once_in_batches_of_similar_length(count: int, batch_size: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(0, 30, count)
    buckets = Buckets(lengths, batch_size)
    batches = buckets.order(np.random.default_rng(seed))
    assert len(batches) == len(buckets) == len(buckets.in_order()) == -(-count // batch_size)
    everything = np.concatenate([np.empty(0, np.int64), *batches])
    assert sorted(everything) == list(range(count))
    sizes = sorted(len(batch) for batch in batches)
    assert sizes[1:] == [batch_size] * (len(sizes) - 1)
    if count <= 100 * batch_size:  # one piece: whatever the shuffling, the lengths are cut as in order
        as_cut = [lengths[batch].tolist() for batch in buckets.in_order()]
        assert sorted(lengths[batch].tolist() for batch in batches) == sorted(as_cut)


def test_sorting_by_a_hundred_batches_matches_a_plain_loop() -> None:
    source = np.random.default_rng(1).integers(0, 5, 777)
    target = np.random.default_rng(2).integers(0, 9, 777)
    rng = np.random.default_rng(3)
    shuffled, expected = rng.permutation(777).tolist(), []
    while shuffled:
        piece, shuffled = shuffled[:300], shuffled[300:]
        piece.sort(key=lambda i: (source[i], target[i]))
        expected += [piece[k : k + 3] for k in range(0, len(piece), 3)]
    expected = [expected[k] for k in rng.permutation(len(expected))]
    batches = Buckets((source, target), 3).order(np.random.default_rng(3))
    assert [batch.tolist() for batch in batches] == expected


def test_order_depends_on_the_generator_alone() -> None:
    buckets = Buckets(np.arange(400) % 17, 4)
    rng = np.random.default_rng(5)
    first, second = buckets.order(rng), buckets.order(rng)
    again = buckets.order(np.random.default_rng(5))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, second, strict=True))
    short = [int(np.arange(400)[batch].min() % 17) for batch in first]
    assert short != sorted(short)


def test_valid_rows_are_those_before_each_end() -> None:
    assert valid_rows(3, np.array([2, 0, 3])).tolist() == [0, 2, 3, 5, 8]
    assert valid_rows(0, np.array([0])).tolist() == []
    _, lengths = pad([[1, 2], [], [3, 4, 5]])
    assert valid_rows(3, lengths).tolist() == [0, 2, 3, 5, 8]


@pytest.mark.parametrize("lengths", [([1, 2], [3]), (1, 2), (), np.zeros((2, 2))])
def test_buckets_check_their_arguments(lengths: Any) -> None:
    with pytest.raises(ShapeError, match=r"expected lengths \[S\], or a tuple of such"):
        Buckets(lengths, 2)
    with pytest.raises(OptionError, match="batch size: expected an int of at least 1, got 0"):
        Buckets([1], 0)
