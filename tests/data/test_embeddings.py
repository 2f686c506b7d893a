"""Word vectors from text files: values as written, odd words kept, damage reported with its line."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.embeddings import pretrained_rows, read_embeddings
from minirnn.data.vocabulary import PAD, Vocabulary
from minirnn.errors import DataError

Write = Callable[..., str]
NUMBERS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \n\r\ufeff"), min_size=1)


def test_glove_files_are_read(write: Write) -> None:
    words, rows = read_embeddings(write(b"the 0.5 -1 2e-3\n, 1 2 3\n. . . 4 5 6\nat name@domain.com 7 8 9\n"))
    assert words == ["the", ",", ". . .", "at name@domain.com"]
    assert rows.dtype == np.float32
    assert rows.flags.writeable
    np.testing.assert_array_equal(rows, np.array([[0.5, -1, 2e-3], [1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32))


@pytest.mark.parametrize(
    ("text", "words", "rows"),
    [
        ("3 2\n</s> 1 2 \nNew_York 3 4 \n12 5 6 \n", ["</s>", "New_York", "12"], [[1, 2], [3, 4], [5, 6]]),
        ("2 2\npage 3 of 1 2\n1000 3 4\n", ["page 3 of", "1000"], [[1, 2], [3, 4]]),
        ("0 7\n", [], []),
    ],
)
def test_word2vec_files_are_read(write: Write, text: str, words: list[str], rows: list[list[int]]) -> None:
    found, vectors = read_embeddings(write(text))
    assert (found, vectors.tolist()) == (words, rows)
    assert vectors.shape[1] == int(text.split()[1])


def test_only_line_feeds_and_spaces_separate(write: Write) -> None:
    """Other line ends and spaces of Unicode belong to the word."""
    text = "\ufeffa\u00a0b 1 2\r\n\x85 3 4\r\n\n\u2028 5 6\na\tb 7 8\n日本 9 10\n1.5 11 12\na_1 13 14\nnan 15 16"
    words, rows = read_embeddings(write(text))
    assert words == ["a\u00a0b", "\x85", "\u2028", "a\tb", "日本", "1.5", "a_1", "nan"]
    assert rows.reshape(-1).tolist() == list(range(1, 17))


def test_words_to_keep_and_the_first_of_two(write: Write) -> None:
    path = write("a 1 2\nb 3 4\na 5 6\nc 7 8\nb 9 9\n")
    words, rows = read_embeddings(path)
    assert (words, rows.tolist()) == (["a", "b", "c"], [[1, 2], [3, 4], [7, 8]])
    words, rows = read_embeddings(Path(path), keep={"c", "b", "x"})
    assert (words, rows.tolist()) == (["b", "c"], [[3, 4], [7, 8]])
    words, rows = read_embeddings(path, keep=())
    assert (words, rows.shape) == ([], (0, 2))


@given(st.dictionaries(WORDS, NUMBERS, min_size=1))
def test_words_and_numbers_round_trip(tmp_path: Path, vectors: dict[str, list[float]]) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes("".join(f"{word} {' '.join(map(repr, row))}\n" for word, row in vectors.items()).encode())
    words, rows = read_embeddings(path)
    assert words == list(vectors)
    assert rows.tolist() == list(vectors.values())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"file: 0 columns; expected lines of a word and its numbers, single spaces between$"),
        (b"\n\nword\n", r"file:3: 0 columns"),
        (b"a\t1\t2\n", r"file:1: 0 columns"),
        (b"a 1 2\nb 1\n", r"file:2: expected 2 columns after the word as in the first line, got 1"),
        (b"a 1 2\nb 1 2\nc 1 2 3\n", r"file:3: expected 2 columns after the word as in the first line, got 3"),
        (b"a 1 2\n\n 1 2\n", r"file:3: expected 2 columns after the word as in the first line, got 2"),
        (b"a 1 2\nb\n", r"file:2: expected 2 columns .*, got 0"),
        (b"2 3\na 1 2\n", r"file:2: expected 3 columns after the word as in the first line, got 2"),
        (b"2 1\na 1 2\n", r"file:2: expected 1 columns after the word as in the first line, got 2"),
        (b"3 2\na 1 2\nb 3 4\n", r"file: expected 3 words as the first line says, got 2; is the file complete\?"),
        (b"1 2\na 1 2\nb 3 4\n", "expected 1 words as the first line says, got 2"),
        (b"5 0\na\n", r"file:1: 0 columns"),
        (b"999999999999999999 3\na 1 2 3\n", "expected 999999999999999999 words as the first line says, got 1"),
        (b"0 999999999999999999\n", r"file:1: 999999999999999999 columns"),
        (
            b"9999999999999999999999 300\na 1 2 3\n",
            r"file:2: expected 1 columns after the word as in the first line, got 3",
        ),
        (b"a 1 2\nb 3 x4\n", r"file:2: 'x4' is not a finite float32 number"),
        (b"a 1 2\nb  4\n", r"file:2: '' is not"),
        (b"a 1_0 2\n", r"file:1: '1_0' is not"),
        (b"a 1 2\nb nan 4\n", r"file:2: 'nan' is not"),
        (b"a 1 2\nb 3 4\nc -inf 4\n", r"file:3: '-inf' is not"),
        (b"a 1 1e39\n", r"file:1: '1e39' is not"),
        (b"a 1 -1e999\n", r"file:1: '-1e999' is not"),
        (b"a 1 \xff\n", r"file:1: '\ufffd' is not"),
        (b"a 1 2\nb\xff 1 2\n", r"file:2: the word b'b\\xff' is not UTF-8 text"),
        (b"a 1 2\n" + b"x" * (1 << 21), r"file:2: the line is too long for a vector"),
    ],
    ids=range(25),
)
def test_damaged_files_are_refused_with_the_line(write: Write, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_embeddings(write(data))


def test_only_words_to_keep_take_memory(write: Write, memory: Callable[[int], AbstractContextManager]) -> None:
    """1.5 MB of file and a header that promises 4 TB, for three rows."""
    path = write("".join(f"w{k} {'0.25 ' * 99}{k}\n" for k in range(3000)))
    with memory(1 << 18):
        words, rows = read_embeddings(path, {"w5", "w2000", "w2999"})
    with memory(4 << 20), pytest.raises(DataError, match="expected 1000000"):
        read_embeddings(write("1000000 1000000\na 1 2\n"))
    assert words == ["w5", "w2000", "w2999"]
    assert rows[:, -1].tolist() == [5, 2000, 2999]
    assert (rows[:, :-1] == 0.25).all()


def test_pretrained_rows_take_their_places_in_the_vocabulary(write: Write) -> None:
    vocabulary = Vocabulary.of([["cat", "dog", "xyzzy", "<pad>"]])
    path = write("dog 3 -3\n<pad> 7 7\nbird 100 100\ncat 1 -1\n")
    rows, found = pretrained_rows(vocabulary, path, np.random.default_rng(1))
    assert found == 3
    assert rows.dtype == np.float32
    assert rows.shape == (8, 2)
    assert rows[vocabulary.encode(["cat", "dog", "<pad>"])].tolist() == [[1, -1], [3, -3], [7, 7]]
    assert rows[PAD].tolist() == [0, 0]
    assert (rows[[1, 2, 3, 6]] != 0).all()


def test_missing_rows_are_drawn_with_the_deviation_of_those_found(write: Write) -> None:
    """Two rows with mean 10 and deviation 2, two thousand words without a row: N(0, 2^2), from the generator alone."""
    vocabulary = Vocabulary.of([["a", "b", *(f"x{k}" for k in range(2000))]])
    path = write(f"a {'8 12 ' * 25}\nb {'12 8 ' * 25}\nzzz {'1000 ' * 50}\n")
    rows, found = pretrained_rows(vocabulary, path, np.random.default_rng(2))
    drawn = rows[vocabulary.encode([f"x{k}" for k in range(2000)])]
    assert found == 2
    assert abs(drawn.std() - 2) < 0.02  # 100,000 draws: standard error 0.0045
    assert abs(drawn.mean()) < 0.03
    assert (rows == pretrained_rows(vocabulary, path, np.random.default_rng(2))[0]).all()
    assert (rows != pretrained_rows(vocabulary, path, np.random.default_rng(3))[0]).any()


def test_file_without_a_word_of_the_vocabulary_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="has no word of the vocabulary; is it of another language"):
        pretrained_rows(Vocabulary.of([["Katze"]]), write("cat 1 2\n"), np.random.default_rng(1))
