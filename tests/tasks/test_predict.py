"""``Task.predict``: plain input in, plain values out, for every task."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import close, perturb
from tiny import TASKS

from minirnn import tasks
from minirnn.data.forecasting import select_series
from minirnn.data.tables import parse_table, read_batches
from minirnn.data.text import Bytes, Characters
from minirnn.errors import DataError, MinirnnError, OptionError
from minirnn.models import CharLM
from minirnn.tasks import Line
from minirnn.tasks.char import TextGenerator
from minirnn.tasks.forecaster import Forecaster
from minirnn.tasks.music import ComposeConfig
from minirnn.training import Trainer, TrainingConfig


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny task of every kind, with weights that are not zero."""
    folder = tmp_path_factory.mktemp("data")
    return {name: perturb(tiny.make(tiny.write(folder))) for name, tiny in TASKS.items()}


def facts(task: Any, *texts: str, options: Any = None) -> list[dict[str, Any]]:
    return [one.facts for one in task.predict_lines([Line(text, "x:1") for text in texts], options)]


def plain(value: Any) -> bool:
    """Whether it is made of Python's own types only."""
    if type(value) is dict:
        return all(type(key) is str and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return type(value) in (str, float, int, type(None))


COMPOSE = {"length": 4, "seed": 3}
PLAIN: list[tuple[str, Any, dict[str, Any]]] = [
    ("char", "to be", {}),
    ("classifier", "a good film", {}),
    ("classifier", np.str_("a good film"), {}),
    ("tagger", "The dog barks", {}),
    ("translator", "He runs.", {"beam": 2}),
    ("forecaster", TASKS["forecaster"].data, {}),
    ("music", "C4,E4", COMPOSE),
    ("music", None, COMPOSE),
    ("music", [[np.int64(60), 64], []], COMPOSE),
]


@pytest.mark.parametrize(("name", "input", "options"), PLAIN)
def test_values_are_plain(name: str, input: Any, options: dict[str, Any], made: dict[str, Any]) -> None:
    found = made[name].predict(input, **options)
    assert plain(found)
    assert json.loads(json.dumps(found)) == found


TEXTS = {
    "classifier": ["a good film", "", "two\nlines"],
    "tagger": ["The dog barks", "", "It barks ."],
    "translator": ["He runs.", "", "I see."],
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_gives_a_dict_and_a_list_gives_a_list(name: str, made: dict[str, Any]) -> None:
    task, texts = made[name], TEXTS[name]
    assert task.predict(texts[0]) == facts(task, texts[0])[0]
    expected = facts(task, *texts)
    assert task.predict(texts) == task.predict(tuple(texts)) == task.predict(np.array(texts)) == expected
    assert task.predict(texts[:1]) == facts(task, texts[0])
    assert task.predict([]) == []


def test_a_tagger_takes_lists_of_words(made: dict[str, Any]) -> None:
    tagger = made["tagger"]
    sentences = [["The", "dog", "barks"], ["New York", "barks"], []]
    found = tagger.predict([*sentences, "It barks ."])
    assert [one["tokens"] for one in found] == [*sentences, ["It", "barks", "."]]
    assert [one["tags"] for one in found] == tagger.tag([one["tokens"] for one in found])
    assert found[0] == close(tagger.predict("The dog barks"), 1e-5)


def test_probabilities_of_tags_are_those_of_the_model(made: dict[str, Any]) -> None:
    tagger = made["tagger"]
    found = tagger.predict(["The dog barks", "It"])
    for one in found:
        text = tasks.tagger.EncodedSentences([one["tokens"]], tagger.words, tagger.characters)
        with tagger.model.evaluating():
            logits = tagger.model(text.batch(np.array([0]))).numpy().astype(np.float64)
        exponentials = np.exp(logits)
        expected = (exponentials / exponentials.sum(1, keepdims=True)).max(1)
        assert one["probabilities"] == pytest.approx(expected.tolist(), rel=1e-5)
        assert one["tags"] == [tagger.labels.names[n] for n in logits.argmax(1)]


@pytest.mark.parametrize("symbols", [Characters("\n !abcé"), Characters("ab"), Bytes()], ids=["text", "two", "bytes"])
def test_a_text_generator_gives_the_probabilities_of_the_next_symbol(symbols: Characters | Bytes) -> None:
    generator = perturb(TextGenerator(CharLM(len(symbols), 7, num_layers=2).eval(), symbols))
    start = "a" if symbols.kind == "characters" and len(symbols) == 2 else "\n"  # where the text is empty
    for text, read in (("ab", "ab"), ("", start), *([("a☃b", "ab")] if isinstance(symbols, Characters) else [])):
        found = generator.predict(text)
        logits, _ = generator.model(symbols.encode(read))
        exponentials = np.exp(logits.numpy()[-1].astype(np.float64))
        expected = dict(
            zip([symbols.symbol(n) for n in range(len(symbols))], exponentials / exponentials.sum(), strict=True)
        )
        assert (found["text"], found["probabilities"].keys()) == (text, expected.keys())
        assert found["probabilities"] == pytest.approx(expected, rel=1e-5)
        assert all(a >= b for a, b in pairwise(found["probabilities"].values()))
        assert found["probability"] == found["probabilities"][found["symbol"]] == max(found["probabilities"].values())
    greedy = generator.sample("ab", 1, temperature=0)
    assert generator.predict(["ab", "b"])[0]["symbol"] == greedy or symbols.kind == "bytes"
    assert len({symbols.symbol(n) for n in range(len(symbols))}) == len(symbols)


def test_sample_is_the_text_of_stream(made: dict[str, Any]) -> None:
    pieces = list(made["char"].stream("to", 150, seed=5, temperature=0.5))
    assert len(pieces) > 1
    assert made["char"].sample("to", 150, seed=5, temperature=0.5) == "".join(pieces)
    assert len(made["char"].sample(length=3)) == 3


# ----------------------------------------------------------------------------------------------- forecasters


def numbers(text: str = TASKS["forecaster"].data) -> np.ndarray:
    return parse_table("x", text).columns(("a", "b"))


@pytest.mark.parametrize(
    "convert", [np.asarray, np.ndarray.tolist, lambda x: x[:, ::-1].copy()[:, ::-1], np.longdouble]
)
def test_a_forecaster_takes_an_array_or_a_table(convert: Any, made: dict[str, Any]) -> None:
    task = made["forecaster"]
    assert task.preprocessor.names == ("a", "b")
    (expected,) = facts(task, *[TASKS["forecaster"].data])
    values = convert(numbers())
    assert task.predict(values) == task.predict(TASKS["forecaster"].data) == expected
    several = [np.asarray(values), TASKS["forecaster"].data.replace("\n", "\r\n"), np.asarray(values)[-12:]]
    assert task.predict(several) == [expected] * 3
    ints = np.arange(40).reshape(20, 2) % 7
    assert task.predict(ints) == task.predict(ints.astype(np.float32))


def test_a_list_of_numbers_is_one_series(tmp_path: Path) -> None:
    task = perturb(TASKS["forecaster"].make(TASKS["forecaster"].write(tmp_path), inputs=None, horizon=3))
    column = numbers()[:, 0]
    expected = facts(task, *[TASKS["forecaster"].data])[0]
    assert len(expected["horizon"]) == 3
    for one in (column, column.tolist(), list(column), column[:, None], [[x] for x in column]):
        assert task.predict(one) == expected
    assert task.predict([column, column]) == [expected] * 2


def positive(count: int) -> str:
    return "a\n" + "".join(f"{(20 + n) * (3, 4, 6)[n % 3] * (1, 1.03, 0.96)[n % 5 % 3]}\n" for n in range(count))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("base", ["last", "season", "trend"])
def test_every_row_that_arrives_has_the_forecast_of_the_table_so_far(base: str, log: bool) -> None:
    config = tasks.TASKS["forecaster"].Config(
        hidden_size=4, seq_length=5, horizon=2, season=7, base=base, log=log, batch_size=8
    )
    lines = positive(30).splitlines()
    task = perturb(Forecaster.build(select_series(parse_table("x", positive(50))), config))
    needed = task.preprocessor.first_row
    assert needed == {"last": 5, "season": 7, "trend": 8}[base]
    expected = [facts(task, *["\n".join(lines[: 1 + rows])])[0] for rows in range(needed, 31)]

    @given(st.lists(st.integers(1, 12), max_size=30))
    def check(sizes: Sequence[int]) -> None:
        ends = np.minimum(np.cumsum([0, *sizes, len(lines)]), len(lines))
        batches = [[Line(text, "x:1") for text in lines[a:b]] for a, b in pairwise(ends) if b > a]
        found = list(task.predict_batches(iter(batches)))
        rows = [max(0, ends[k + 1] - max(ends[k], needed)) for k in range(len(batches))]
        assert [len(one) for one in found] == [count for count in rows if count]
        assert [one.facts for answers in found for one in answers] == close(expected, 1e-6)
        for one in (one for answers in found for one in answers):
            assert one.text == "\t".join(f"{value:.6g}" for value in one.facts["horizon"])

    check()


def test_a_forecaster_keeps_the_last_rows_only(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = made["forecaster"], []
    own = type(task.preprocessor).next_windows
    monkeypatch.setattr(type(task.preprocessor), "next_windows", lambda self, x: seen.append(len(x)) or own(self, x))
    for _ in task.predict_batches([[Line(line)] for line in TASKS["forecaster"].data.splitlines()]):
        pass
    assert seen == [task.preprocessor.first_row] * (60 - task.preprocessor.first_row + 1)


BROKEN = [
    ([[]], "standard input:1: expected a header with the names of the columns, got an empty line"),
    ([["1,2"]], "x:1: expected a header with the names of the columns, got numbers"),
    ([["a,b"]], "x: no row below the header"),
    ([["a,b"], ["1,2"], ["3,4"]], "x: expected at least 12 rows, to forecast from, got 2"),
    ([["a,c"], ["1,2"]], "x: no column 'b'; there are 'a', 'c'"),
    ([["a,b"], ["1,2"], ["3"]], "x:3: expected 2 columns as in the header, got 1"),
    ([["a,b"], ["1,2", "", ""], [""], ["3,4"]], "x:3: empty line"),
    ([["a,b", "1,2"], ["3,nan"]], "x:3: column 'b': expected a finite number, got 'nan'"),
    ([["a,b,c"], ["1,2,u", '3,4,"v', 'w"', "5,6,x"]], "x:3: expected rows of one line; give others as a file"),
    ([["a,b,c"], ['1,2,"v'], ['w"']], "x:2: unexpected end of data; is there a quote that does not end?"),
]


@pytest.mark.parametrize(("batches", "message"), BROKEN)
def test_mistakes_in_a_table_that_arrives(batches: list[list[str]], message: str, made: dict[str, Any]) -> None:
    with pytest.raises(DataError) as error:
        list(made["forecaster"].predict_batches([Line(text, "x:1") for text in batch] for batch in batches))
    assert str(error.value) == message


def test_rows_keep_their_lines_and_blank_lines_may_be_the_last() -> None:
    batches = [["a;b"], ["1;2", "3;4"], ['"5";6'], ["", ""]]
    tables = list(read_batches("x", batches))
    assert [table.columns(["b", "a"]).tolist() for table in tables] == [[[2, 1], [4, 3]], [[6, 5]]]
    assert [table.where(0) for table in tables] == ["x:2", "x:4"]


# -------------------------------------------------------------------------------------------------- composers


def test_a_composer_takes_steps_texts_or_nothing(made: dict[str, Any]) -> None:
    composer = made["music"]
    start = [(60, 64), (62,)]
    expected = [list(step) for step in composer.compose(start, ComposeConfig(**COMPOSE))]
    assert expected[:2] == [[60, 64], [62]]
    ways: list[Any] = [[[60, 64], [62]], [[60, 64], 62], "[[60, 64],\n [62]]", [np.int8(60), 62], "C4,E4"]
    pieces = [composer.predict(way, **COMPOSE) for way in ways]
    assert pieces[:3] == [{"piece": expected}] * 3
    assert [one["piece"][:2] for one in pieces[3:]] == [[[60], [62]], [[60, 64], pieces[4]["piece"][1]]]
    assert composer.predict(np.array([[60, 64], [62, 62]]), **COMPOSE)["piece"][:2] == [[60, 64], [62]]
    nothing = composer.predict(**COMPOSE)
    assert nothing == composer.predict([], **COMPOSE) == composer.predict("", **COMPOSE)
    several = composer.predict(["C4,E4", [[60, 64], [62]]], **COMPOSE)
    second = composer.predict([[60, 64], [62]], length=4, seed=4)  # each has a seed of its own
    assert several == [pieces[4], second] == composer.predict([[[60, 64]], [[60, 64], [62]]], **COMPOSE)


@given(st.lists(st.sampled_from(["", " ", "60", "C4 E4", "[[62], [65]]"]), max_size=5), st.lists(st.integers(0, 5)))
def test_pieces_do_not_depend_on_how_lines_arrive(texts: list[str], cuts: list[int]) -> None:
    composer = tasks.music.Composer(_music(), [(60,)], tasks.music.Chords([((0, 4), 2), ((0,), 1)], 0.1))
    options = ComposeConfig(length=2, seed=1)
    lines = [Line(text, "x:1") for text in texts]
    ends = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    batches = [lines[a:b] for a, b in pairwise(ends)]
    found = [one for answers in composer.predict_batches(batches, options) for one in answers]
    assert found == composer.predict_lines(lines, options)


def _music() -> Any:
    return tasks.music.ManyToMany(88, output_size=88, hidden_size=2).eval()


def test_one_beginning_over_several_lines_and_files_wait_for_all_lines(made: dict[str, Any], tmp_path: Path) -> None:
    composer = made["music"]
    batches = [[Line("")], [Line("[[60],")], [Line("[62]]")]]
    (answers,) = composer.predict_batches(batches, ComposeConfig(length=1, seed=1))
    assert [one.facts["piece"][:2] for one in answers] == [[[60], [62]]]
    options = ComposeConfig(length=1, midi=str(tmp_path / "a.mid"))
    with pytest.raises(OptionError, match="a MIDI file holds one piece, but 2 beginnings are given"):
        list(composer.predict_batches([[Line("60")], [Line("62")]], options))
    assert not (tmp_path / "a.mid").exists()


# --------------------------------------------------------------------------------------------------- mistakes

MISTAKES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("classifier", None, {}, "input: expected a string, or a list of strings, got NoneType"),
    ("classifier", b"a", {}, "input: expected a string, or a list of strings, got bytes"),
    ("classifier", ["a", 5], {}, "input[1]: expected a string, or a list of strings, got int"),
    ("translator", [["a"]], {}, "input[0]: expected a string, or a list of strings, got list"),
    ("char", 5, {}, "input: expected a string, or a list of strings, got int"),
    ("char", ["to", "☃"], {}, "no character of input[1] '☃' is in the model's vocabulary"),
    ("tagger", [["a", ""]], {}, "input[0]: expected a sentence: a string, or in a list of sentences also a list"),
    ("tagger", ["a", 5], {}, "input[1]: expected a sentence: a string, or in a list of sentences also a list"),
    ("tagger", "a " * 5001, {}, "input: a sentence of 5001 words, expected at most 5000; expected a list of sentences"),
    ("forecaster", None, {}, "input: expected numbers, or the text of a CSV table, got None"),
    ("forecaster", [[1, 2], [3]], {}, "input: expected numbers, or the text of a CSV table, got [[1, 2], [3]]"),
    ("forecaster", [True], {}, "input: expected numbers, or the text of a CSV table, got [True]"),
    ("forecaster", [], {}, "input: expected [R, 2] of the columns 'a', 'b', got [0]; several tables are a list of arr"),
    ("forecaster", np.zeros((9, 2)), {}, "input: expected at least 12 rows, to forecast from, got 9"),
    ("forecaster", [np.zeros((20, 3))], {}, "input[0]: expected [R, 2] of the columns 'a', 'b', got [20, 3]; several"),
    ("forecaster", [[1, 2], [3, np.inf]], {}, "input[1]: column 'b': expected a finite number, got inf"),
    ("forecaster", "", {}, "input:1: expected a header with the names of the columns, got an empty line"),
    ("forecaster", "a,b\n1,2", {}, "input: expected at least 12 rows, to forecast from, got 1"),
    (
        "music",
        5,
        {},
        "input: expected the beginning of a piece, steps such as [[60, 64], [62]], or a text such as 'C4,",
    ),
    ("music", ["60", "H4"], {}, "input[1]: expected notes such as 60 or C4, or steps as in [[60, 64], [62]]; got 'H4'"),
    ("music", [[5]], {}, "input: step 0: pitch 5 is outside 21 to 108, the keys of a piano"),
    ("music", [[60], "x"], {}, "input[1]: expected notes such as 60 or C4"),
    ("classifier", "a", {"beam": 2}, "predict: a classifier has no options, got 'beam'"),
    (
        "translator",
        "a",
        {"bean": 2},
        "TranslateConfig: expected one of beam, length_penalty, max_length, got 'bean'; d",
    ),
    ("translator", "a", {"beam": 0}, "beam: expected an int of at least 1, got 0"),
    ("music", None, {"temperature": -1}, "temperature: expected a number of at least 0, got -1"),
]


@pytest.mark.parametrize(("name", "input", "options", "message"), MISTAKES)
def test_a_mistake_names_the_input_or_the_option(
    name: str, input: Any, options: dict[str, Any], message: str, made: dict[str, Any]
) -> None:
    with pytest.raises(MinirnnError) as error:
        made[name].predict(input, **options)
    assert str(error.value).startswith(message)


def test_logarithms_of_an_array_need_numbers_above_0() -> None:
    config = tasks.TASKS["forecaster"].Config(hidden_size=4, seq_length=5, season=3, log=True)
    task = Forecaster.build(select_series(parse_table("x", positive(50))), config)
    with pytest.raises(DataError, match=r"input\[6\]: column 'a': expected a number above 0, since the model takes"):
        task.predict([1, 2, 3, 4, 5, 6, 0, 7])


def test_scripts_need_neither_typer_nor_rich_and_compile_nothing_at_import(tmp_path: Path) -> None:
    path = TASKS["classifier"].write(tmp_path)
    for _ in Trainer(TASKS["classifier"].make(path), TrainingConfig(steps=1), tmp_path / "run").fit():
        pass
    code = f"""
import sys
import minirnn
from minirnn import tasks
assert "numba" not in sys.modules
model = tasks.load({str(tmp_path / "run" / "best.safetensors")!r})
assert model.predict("a good film")["label"] in ("pos", "neg")
print([name for name in ("typer", "rich", "click", "minirnn_cli") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
