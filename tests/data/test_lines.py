"""Files of lines: what is in them is read, and errors name the file and the line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data.lines import Locations, read_classes, read_columns, read_pairs
from minirnn.errors import DataError

FIELD = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff"), min_size=1
).map(str.strip)


def write(folder: Path, **files: str) -> dict[str, str]:
    """Files in a folder; their paths by name."""
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return {name: str(folder / name) for name in files}


def test_pairs_of_several_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, a="one two\tpos\r\n thrée \tneg\r\n\r\n", empty="\n", b="\ufefffour\tpos")
    texts, labels, where = read_pairs([path["a"], path["empty"], path["b"]])
    assert texts == ["one two", "thrée", "four"]
    assert labels == ["pos", "neg", "pos"]
    assert len(where) == 3
    assert [where[i] for i in range(3)] == [f"{path['a']}:1", f"{path['a']}:2", f"{path['b']}:1"]
    assert [where[-1], where[-3]] == [where[2], where[0]]
    with pytest.raises(IndexError):
        where[3]


@given(st.lists(st.tuples(FIELD, FIELD).filter(all), min_size=1))
def test_pairs_round_trip(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    path = write(tmp_path, p="".join(f"{a}\t{b}\n" for a, b in pairs))["p"]
    firsts, seconds, _ = read_pairs([path])
    assert list(zip(firsts, seconds, strict=True)) == pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nc\n", "p:2: expected 2 columns separated by a tab, got 1"),
        ("a\tb\nc\td\te", "p:2: expected 2 columns separated by a tab, got 3"),
        ("a\tb\n\nc\td\n", "p:2: empty line"),
        ("\na\tb\n", "p:1: empty line"),
        ("a\tb\n \t \nc\td\n", "p:2: empty line"),
        ("a\tb\n\td\n", "p:2: column 1 is empty"),
        ("a\tb\nc\t \n", "p:2: column 2 is empty"),
        ("\n \n", "nothing to read in "),
    ],
)
def test_malformed_pairs_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, p=text)["p"]
    with pytest.raises(DataError) as caught:
        read_pairs([path])
    assert str(caught.value) == (message + path if message.endswith(" ") else f"{tmp_path}/{message}")


def test_classes_are_files_of_a_folder(tmp_path: Path) -> None:
    files = {
        "pos.txt": " good \nfine\r\n\n",
        "neg.txt": "bad",
        ".hidden": "x\n\ny",
        "README.md": "a\n\nb",
        "LICENSE": "\n",
    }
    write(tmp_path, **files)
    (tmp_path / "folder").mkdir()
    texts, labels, where = read_classes(tmp_path)
    assert texts == ["bad", "good", "fine"]
    assert labels == ["neg", "pos", "pos"]
    assert [where[i] for i in range(3)] == [f"{tmp_path}/neg.txt:1", f"{tmp_path}/pos.txt:1", f"{tmp_path}/pos.txt:2"]


def test_folders_without_two_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere: No such file"):
        read_classes(tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"^{tmp_path}: no class; expected a file for every class, two or more$"):
        read_classes(str(tmp_path))
    write(tmp_path, pos="good\n")
    with pytest.raises(DataError, match=r": one class only, 'pos'; expected"):
        read_classes(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*pos: Not a directory"):
        read_classes(tmp_path / "pos")
    write(tmp_path, neg="bad\n \nworse")
    with pytest.raises(DataError, match=rf"^{tmp_path}/neg:2: empty line$"):
        read_classes(tmp_path)
    write(tmp_path, neg="\n")
    with pytest.raises(DataError, match=rf"^{tmp_path}/neg: no text of class 'neg' in it$"):
        read_classes(tmp_path)
    write(tmp_path, **{"neg": "bad", "pos.txt": "good"})
    with pytest.raises(DataError, match=r"pos and pos\.txt are both of class 'pos'; rename one"):
        read_classes(tmp_path)


TAGGED = "# a comment\nThe\tDET\tDT\n10 000\tNUM\tCD\n\n\n#\tSYM\tNN\n# \tSYM\tNN\r\n"


def test_columns_separated_by_tabs(tmp_path: Path) -> None:
    path = write(tmp_path, a=TAGGED, b="\n#\n#\nlast\tX\tY\n\n")
    words, tags, where = read_columns([path["a"], path["b"]], tag_column=2)
    assert words == [["The", "10 000"], ["#", "#"], ["last"]]
    assert tags == [["DET", "NUM"], ["SYM", "SYM"], ["X"]]
    assert [where[i] for i in range(3)] == [f"{path['a']}:2", f"{path['a']}:6", f"{path['b']}:4"]
    assert where.at(1, 1) == f"{path['a']}:7"
    assert read_columns([path["b"]] * 2)[0] == [["last"]] * 2
    for last in (3, -1):
        assert read_columns([path["a"]], last)[1] == [["DT", "CD"], ["NN", "NN"]]


def test_columns_separated_by_white_space(tmp_path: Path) -> None:
    path = write(tmp_path, a="-DOCSTART- -X- O O\n\nEU  NNP B-NP B-ORG\n# SYM I-NP O\n")["a"]
    words, tags, _ = read_columns([path])
    assert words == [["-DOCSTART-"], ["EU", "#"]]
    assert tags == [["O"], ["B-ORG", "O"]]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a\tb\n\n# x\nc\td\te\n", -1, "c:4: expected 2 columns as in {}/c:1, got 3"),
        ("a\tb\nc\n", -1, "c:2: expected 2 columns as in {}/c:1, got 1"),
        ("a\nb\n", -1, "c:1: expected a word and its tag in 2 columns or more, got 1"),
        ("a\tb\tc\n", 4, "c:1: no column 4 for tags; there are 3, tags in columns 2 to 3"),
        ("a\tb\tc\n", -3, "c:1: no column -3 for tags; there are 3, tags in columns 2 to 3"),
        ("a\tb\tc\n", -4, "c:1: no column -4 for tags; there are 3, tags in columns 2 to 3"),
        ("a\tb\tc\n", 0, "c:1: no column 0 for tags; there are 3, tags in columns 2 to 3"),
        ("a\tb\tc\n", 1, "c:1: no column 1 for tags; there are 3, tags in columns 2 to 3"),
        ("a\tb\nc\t \n", 2, "c:2: the tag is empty"),
        ("a\tb\n\td\n", 2, "c:2: the word is empty"),
    ],
)
def test_malformed_columns_are_refused(tmp_path: Path, text: str, column: int, message: str) -> None:
    path = write(tmp_path, c=text)["c"]
    with pytest.raises(DataError) as caught:
        read_columns([path], column)
    assert str(caught.value) == f"{tmp_path}/{message.format(tmp_path)}"


def test_file_without_a_sentence_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, c="# only\n# comments\n")["c"]
    with pytest.raises(DataError, match=f"no sentence in {path}"):
        read_columns([path])


WORD = st.text("ab#'é", min_size=1, max_size=3)


@given(st.lists(st.lists(st.tuples(WORD, WORD), min_size=1), min_size=1))
def test_columns_round_trip(tmp_path: Path, sentences: list[list[tuple[str, str]]]) -> None:
    """Every word is found again on the line that ``where`` names."""
    text = "\n\n".join("\n".join(f"{word}\tx\t{tag}" for word, tag in sentence) for sentence in sentences)
    path = write(tmp_path, c=text)["c"]
    words, tags, where = read_columns([path])
    assert [list(zip(w, t, strict=True)) for w, t in zip(words, tags, strict=True)] == sentences
    lines = text.split("\n")
    for i, sentence in enumerate(sentences):
        for k, (word, _) in enumerate(sentence):
            name, number = where.at(i, k).rsplit(":", 1)
            assert name == path
            assert lines[int(number) - 1].split("\t")[0] == word


def test_locations_take_four_bytes_per_item() -> None:
    where = Locations()
    where.begin("f")
    for line in range(1, 100_001):
        where.add(line)
    assert where[99_999] == "f:100000"
    assert where._lines.itemsize * len(where) == 400_000
