"""``train-``, ``predict`` and ``eval`` of every task: results, options, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import minirnn_cli.train
import pytest
from support import invoke, json_of, metrics_of, refusal
from tiny import TASKS, other_value

from minirnn import tasks
from minirnn.errors import DataError
from minirnn.training import TrainingConfig

Trained = Callable[[str], Path]
LABELS = {"loss", "accuracy", "macro_f1"}
FORECASTS = {f"{kind}_{metric}" for kind in ("persistence", "seasonal_naive") for metric in ("rmse", "mae")}
FORECASTS |= {"loss", "rmse", "mae", "base_rmse", "scored_rows", "first_row"}
TRAINED: dict[str, tuple[str, set[str]]] = {
    "char": ("504 characters, 16 different\n", {"loss", "bits_per_symbol"}),
    "words": ("156 words, 12 different", {"loss", "perplexity"}),
    "classifier": (
        "45 texts of 2 classes, 3.1 words on average; read as words, 10 different, vectors for 2 of",
        LABELS,
    ),
    "tagger": ("24 sentences, 72 words, 5 tags; vectors for 2 of 9 words\n", LABELS),
    "translator": ("41 pairs to train on, 12 and 13 different tokens\n", {"loss", "exact_match"}),
    "forecaster": ("60 rows, 48 to train on; column 'a', season 11, base trend\n", FORECASTS),
    "series": ("30 sequences of 2 columns, 2 to 5 steps, 5.8% of the values missing; 2 classes\n", LABELS),
    "speech": ("48 recordings of 2 labels, 0.1 minutes at 8,000 samples per second; 5 bands every 10 ms\n", LABELS),
    "music": ("52 pieces of 341 steps; 3 more to validate with\n", {"loss", "nll", "pieces", "steps"}),
}
"""Of every task: what is said of its data, and the metrics of ``eval``."""


@pytest.mark.parametrize("name", TASKS)
def test_training_says_what_it_does_and_eval_measures_it(name: str, folder: Path) -> None:
    summary, metrics = TRAINED[name]
    data = TASKS[name].write(folder)
    out = f"checkpoints/{data.stem}"
    done = invoke(f"train-{name}", data.name, *TASKS[name].arguments, "--steps", "6")
    assert done.stdout == ""
    assert f"data: {summary}" in done.stderr
    batches = int(re.search(r"; ([\d,]+) batches per epoch\n", done.stderr)[1].replace(",", ""))  # type: ignore[index]
    assert f"training for 6 steps, {6 / batches:.3g} passes over the data, in {out}\n" in done.stderr
    assert f"; now try: {tasks.TASKS[name].example.format(f'{out}/best.safetensors')}\n" in done.stderr
    assert ("\n    | " in done.stderr) == (name not in ("classifier", "forecaster", "series", "speech"))  # samples
    assert sorted(os.listdir(out)) == ["best.safetensors", "last.safetensors", "metrics.jsonl", "previous.safetensors"]
    measured = json_of("eval", out, data.name)
    assert measured.keys() == metrics
    assert metrics_of(out)[-1].keys() >= metrics & {"accuracy", "macro_f1", "exact_match", "rmse", "mae"} | {"val_loss"}
    assert invoke("eval", out, data.name).stdout == "".join(f"{key} {value:.6g}\n" for key, value in measured.items())
    assert json_of("eval", out, "-", input=data.read_bytes()) == measured


TEXTS = {
    "classifier": "a good film\n\n bad \n",
    "tagger": "The dog barks .\n\n  It\tbarks \n",
    "translator": "He sees Tom.\n\nI see.\n",
}
FACTS: dict[str, set[str]] = {
    "classifier": {"text", "label", "probability", "probabilities"},
    "tagger": {"tokens", "tags", "probabilities"},
    "translator": {"source", "target", "score", "tokens", "source_tokens", "attention"},
}


@pytest.mark.parametrize("name", TEXTS)
def test_predict_takes_text_a_file_or_standard_input(name: str, trained: Trained) -> None:
    run, text = str(trained(name)), TEXTS[name]
    Path("lines.txt").write_text(text, encoding="utf-8")
    printed = invoke("predict", run, "lines.txt").stdout
    lines = printed.splitlines()
    assert (len(lines), lines[1]) == (3, "")
    assert invoke("predict", run, text.splitlines()[0]).stdout == lines[0] + "\n"
    assert invoke("predict", run, input=text).stdout == printed
    found = [json.loads(line) for line in invoke("predict", run, "-", "--json", input=text).stdout.splitlines()]
    assert [one.keys() for one in found[::2]] == [FACTS[name]] * 2
    if name == "classifier":
        assert [one["text"] for one in found] == text.splitlines()
        assert [one["label"] or "" for one in found] == lines
        assert [sum(one["probabilities"].values()) for one in found[::2]] == pytest.approx([1, 1])
        assert [one["probability"] for one in found[::2]] == [one["probabilities"][one["label"]] for one in found[::2]]
    elif name == "tagger":
        assert [one["tokens"] for one in found] == [["The", "dog", "barks", "."], [], ["It", "barks"]]
        assert [" ".join(map("/".join, zip(one["tokens"], one["tags"], strict=True))) for one in found] == lines
    else:
        assert [one["target"] for one in found] == lines
        assert found[0]["source_tokens"] == ["He", "sees", "Tom", "￭."]
        assert [len(row) for row in found[0]["attention"]] == [4] * len(found[0]["tokens"])


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_training_reaches_the_task_and_the_training_loop(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, arguments, made = tasks.TASKS[name], [], []
    expected: list[dict[str, Any]] = []
    for config in (task.Config(), TrainingConfig(steps=1)):
        values = {}
        for option, info in config.options().items():
            if option in ("epochs", "minutes"):
                continue
            value = other_value(option, info, getattr(config, option))
            values[option] = value
            flag = info.flags[0]
            if isinstance(value, bool):
                arguments.append(flag.split("/")[0 if value else 1])
            else:
                arguments += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
        expected.append(values)

    def build(data: Any, config: Any, init_from: None) -> Any:
        made.append(config.to_dict())
        return SimpleNamespace(model=SimpleNamespace(to=lambda device: None))

    def trainer(task: Any, config: Any, *rest: Any) -> None:
        made.append(config.to_dict())
        raise DataError("seen")

    monkeypatch.setattr(task, "read", lambda sources, config: None)
    monkeypatch.setattr(task, "build", build)
    monkeypatch.setattr(minirnn_cli.train, "Trainer", trainer)
    assert refusal(f"train-{name}", "data", *arguments) == "seen"
    for found, values in zip(made, expected, strict=True):
        assert {option: found[option] for option in values} == values


def test_options_of_predict_reach_the_translator(trained: Trained) -> None:
    def facts(*options: str) -> Any:
        return json_of("predict", str(trained("translator")), "He runs.", *options)

    assert len(facts("--max-length", "2")["tokens"]) <= 2
    free, penalised = facts("--beam", "1", "--length-penalty", "0"), facts("--beam", "1", "--length-penalty", "2")
    assert free["tokens"] == penalised["tokens"]
    assert free["score"] < penalised["score"] < 0
    assert facts("--beam", "4") == facts() == facts("--beam", "4", "--length-penalty", "1")


def test_a_folder_of_names_is_read_as_characters() -> None:
    Path("names").mkdir()
    Path("names/Czech.txt").write_text("Adam\nBures\nCech\n" * 4, encoding="utf-8")
    Path("names/Greek.txt").write_text("Kalakos\nLeos\nMakris\n" * 4, encoding="utf-8")
    Path("names/README.txt").write_text("no names", encoding="utf-8")
    done = invoke("train-classifier", "names", "--hidden", "8", "--batch-size", "4", "--steps", "6")
    assert "24 texts of 2 classes, 1.0 words on average; read as characters, 1" in done.stderr
    assert json_of("info")["data"]["level"] == "char"
    assert invoke("predict", "checkpoints/names", "Makris").stdout in ("Czech\n", "Greek\n")
    assert json_of("eval", "checkpoints/names", "names")["loss"] > 0


def test_tagger_takes_a_column_and_a_validation_file() -> None:
    """``eval`` reads the column that the model was trained on."""
    TASKS["tagger"].write(Path())
    Path("held.tsv").write_text("Rain\tNOUN\tx\nfalls\tVERB\ty\n", encoding="utf-8")
    options = ("--column", "-1", "--val", "held.tsv", "--hidden", "8", "--steps", "6", "--out", "run")
    invoke("train-tagger", "tagged.tsv", *options)
    last = metrics_of("run")[-1]
    assert last["accuracy"] in (0, 0.5, 1)
    measured = json_of("eval", "run/last.safetensors", "held.tsv")
    assert measured == {"loss": last["val_loss"], "accuracy": last["accuracy"], "macro_f1": last["macro_f1"]}
    assert invoke("predict", "run", "Rain").stdout in ("Rain/x\n", "Rain/y\n")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "classifier",
            "a film\tpos\na plot\tmeh\n",
            "input:2: training never saw 1 of the 2 labels, which count as errors",
        ),
        (
            "tagger",
            "dog\tNOUN\tx\nruns\tVB\tx\n",
            "input:2: training never saw 1 of the 2 labels, which count as errors",
        ),
    ],
)
def test_eval_names_labels_that_training_never_saw(name: str, data: str, message: str, trained: Trained) -> None:
    Path("input").write_text(data, encoding="utf-8")
    done = invoke("eval", str(trained(name)), "input", "--json", "--quiet")
    label = data.split("\n")[1].split("\t")[1]
    assert done.stderr == f"{message}: {label!r} (1)\n"
    assert json.loads(done.stdout)["accuracy"] in (0, 0.5)


def test_the_best_tagger_of_spans_has_the_highest_span_f1() -> None:
    chunks = "Old\tB-NP\ndogs\tI-NP\nbark\tB-VP\n.\tO\n\nIt\tB-NP\nhas\tB-VP\nold\tB-NP\nbones\tI-NP\n\n"
    Path("chunks.tsv").write_text(chunks * 12, encoding="utf-8")
    Path("held.tsv").write_text(chunks + "Ouch\tB-INTJ\n", encoding="utf-8")
    options = (
        "--hidden",
        "8",
        "--steps",
        "20",
        "--evaluations",
        "5",
        "--lr",
        "0.02",
        "--val",
        "held.tsv",
        "--out",
        "run",
    )
    done = invoke("train-tagger", "chunks.tsv", *options)
    assert done.stderr.count("training never saw 1 of the 9 labels, which count as errors: 'B-INTJ' (1)") == 1
    evaluated = [line for line in metrics_of("run") if "val_loss" in line]
    best = max(evaluated, key=lambda line: line["span_f1"])  # the first of the highest
    assert 0 < best["span_f1"] < 1
    assert best["span_f1"] > evaluated[0]["span_f1"]
    assert f"best span_f1 {best['span_f1']:.4f}; now try: " in done.stderr
    assert f"span_f1 {best['span_f1']:.4f}  (best span_f1 so far)\n" in done.stderr
    assert (json_of("info", "run")["best_span_f1"], json_of("info", "run")["steps"]) == (best["span_f1"], best["step"])
    measured = json_of("eval", "run", "held.tsv")
    names = ("accuracy", "macro_f1", "span_precision", "span_recall", "span_f1")
    assert measured == {"loss": best["val_loss"]} | {name: best[name] for name in names}


# --------------------------------------------------------------------------------------------------- mistakes

REVIEWS, TAGGED, ROWS = TASKS["classifier"].data, TASKS["tagger"].data, "a,b\n1,2\n3,4\n"
SERIES = ("--id", "i")
LONG_COLUMN = "a\n" + "1\n2\n" * 20
MISTAKES: list[tuple[str, str | bytes | dict[str, str] | None, tuple[str, ...], str]] = [
    ("classifier", "a b\tA\nc d\n", (), "bad:2: expected 2 columns separated by a tab, got 1"),
    ("classifier", "a b\tA\nc d\tA\n", (), "bad:1: every text has the label 'A'; expected two or more"),
    ("classifier", "a b\tA\nc d\tB\n", (), "bad:1: no text is left to validate with"),
    ("classifier", b"\xff\tA\n", (), "bad is not UTF-8 text"),
    ("classifier", REVIEWS, ("empty",), "empty is a folder; expected one folder alone, or files only"),
    ("classifier", REVIEWS, ("nowhere.tsv",), "cannot read nowhere.tsv"),
    ("classifier", REVIEWS, ("--embeddings", "bad"), "bad:1: "),
    ("classifier", REVIEWS, ("--embeddings", "nowhere.txt"), "cannot read nowhere.txt"),
    ("classifier", {}, (), "bad: no class; expected a file for every class, two or more"),
    ("tagger", "a\tA\nb\tB\tC\n", (), "bad:2: expected 2 columns as in bad:1, got 3"),
    ("tagger", "a\tA\n", ("--column", "3"), "bad:1: no column 3 for tags; there are 2, tags in columns 2 to 2"),
    ("tagger", "a\tA\nb\tB\n", (), "expected at least 2 examples"),
    ("tagger", "a\tA\n\nb\tA\n", (), "bad:1: every word has the tag 'A'; expected two or more"),
    ("tagger", "a\tA\n\nb\tB\n", (), "bad:1: no sentence is left to validate with"),
    (
        "tagger",
        "a\tA\n\n" + "a\tA\n" * 5001,
        (),
        "bad:3: a sentence of 5001 words, expected at most 5000; is a blank l",
    ),
    ("tagger", TAGGED, ("--val", "strange.tsv"), "strange.tsv:1: label 'NN' is none of the 5 known: DET, NOUN, PRON"),
    ("tagger", TAGGED, ("--val", "nowhere.tsv"), "cannot read nowhere.tsv"),
    ("tagger", TAGGED, ("--embeddings", "strange.tsv"), "strange.tsv:1: 0 columns"),
    ("translator", "a\tb\nc\n", (), "bad:2: expected 2 columns separated by a tab, got 1"),
    ("translator", "a\tb\nc\t￭\n", (), "bad:2: there is no token in '￭'"),
    ("translator", "a\tb\n", (), "expected at least 2 examples, to train on some and validate with others, got 1"),
    ("translator", "a\tb\nc\td\n", ("--teacher-forcing-end", "0.5"), "teacher_forcing_end: a constant schedule has no"),
    ("forecaster", None, (), "cannot read bad: No such file or directory"),
    ("forecaster", "a,b\n1,2\n3\n", (), "bad:3: expected 2 columns as in the header, got 1"),
    ("forecaster", "a,b\n1,2\n3,n/a\n", (), "bad:3: column 'b': expected a finite number, got 'n/a'"),
    (
        "forecaster",
        "a,b\n1,2\n,4\n",
        ("--column", "a"),
        "bad:3: column 'a': expected a finite number, the cell is empty",
    ),
    ("forecaster", ROWS, ("--column", "c"), "bad: no column 'c'; there are 'a', 'b'"),
    ("forecaster", ROWS, ("--inputs", "a,c"), "bad: no column 'c'; there are 'a', 'b'"),
    ("forecaster", ROWS, ("--inputs", "b"), "column 'b' is named twice"),
    ("forecaster", "a\n1\n", (), "to train on (6 to look at, 1 to forecast), got 0 of 1"),
    (
        "forecaster",
        "a\n1\n2\n3\n",
        (),
        "bad: expected at least 7 rows before the validation set, to train on (6 to look at, 1 to forecast), got 2",
    ),
    ("forecaster", LONG_COLUMN, ("--horizon", "80"), "got 0 of 40"),
    (
        "forecaster",
        LONG_COLUMN,
        ("--season", "50"),
        "bad: expected at least 52 rows before the validation set, to train on (51 to",
    ),
    ("forecaster", LONG_COLUMN.replace("2", "0"), ("--log",), "bad:3: column 'a': expected a number above 0"),
    ("series", "", (), "nothing to read in bad"),
    ("series", "i,a,l\n", SERIES, "bad: no row below the header"),
    ("series", "i,a,l\n1,2,A\n1,x,A\n", SERIES, "bad:3: column 'a': expected a number, or nothing, got 'x'"),
    ("series", "i,a,l\n1,2,A\n1,2,B\n", SERIES, "bad:3: the label changes from 'A' to 'B' within sequence '1'"),
    ("series", "i,a,l\n1,2,A\n1,2,\n", SERIES, "bad:3: column 'l': the label is missing"),
    (
        "series",
        "i,a,l\n1,2,A\n1,2,A\n2,1,B\n2,1,B\n1,5,A\n",
        SERIES,
        "bad:6: id '1' comes back: line 2 has it too, '2' is between; expected all rows of a sequence together",
    ),
    ("series", "i,a,l\n1,2,A\n2,2,B\n2,1,B\n", SERIES, "bad:2: sequence '1' has 1 step; expected at least 2"),
    ("series", "i,a,l\n1,2,A\n1,2,A\n", SERIES, "bad:2: expected at least 2 sequences"),
    ("series", "i,a,l\n1,2,A\n1,2,A\n2,2,A\n2,2,A\n", SERIES, "bad:2: every label is 'A'; expected two or more"),
    ("series", "a,l\n1,A\n2,A\n", (), "bad:2: expected at least 2 sequences"),
    ("series", "i,a,l\n1,2,A\n1,2,A\n", ("--id", "k"), "bad: no column 'k'; there are 'i', 'a', 'l'"),
    ("series", "i,l\n1,A\n1,A\n", SERIES, "bad: no column is left to read; there are 'i', 'l'"),
    ("series", "i,a,l\n1,2,A\n1,2,A\n", (*SERIES, "--inputs", "a,l"), "bad: column 'l' is named twice"),
    ("series", "i,a,l\n1,2,3\n1,2,3\n2,1,A\n2,1,A\n", (*SERIES, "--target", "number"), "bad:4: expected a number as"),
    ("series", "i,a,l\n1,2,3\n1,2,3\n2,1,A\n2,1,A\n", (*SERIES, "--seq-length", "2"), "seq_length: a label is for a"),
    ("music", "{", (), "bad:1: not JSON"),
    ("music", "[[60, 62]]", (), "expected at least 2 examples"),
    ("music", "[[60, 62], [60, [64, 10]]]", (), "bad: train[1]: step 1: pitch 10 is outside 21 to 108, the keys of a"),
    ("music", "[[60, 62], [60]]", (), "bad: train[1] has one step; expected at least 2"),
    ("music", '{"train": [[60, 62]], "test": [[60]]}', (), "bad: test[0] has one step; expected at least 2"),
    ("music", '{"test": [[60, 62]]}', (), "expected a part 'train', or pieces alone; got 'test'"),
]


@pytest.mark.parametrize(("name", "data", "arguments", "message"), MISTAKES)
def test_a_mistake_in_training_data_is_one_line(name: str, data: Any, arguments: tuple[str, ...], message: str) -> None:
    Path("empty").mkdir()
    Path("strange.tsv").write_text("dog\tNN\nruns\tVB\n", encoding="utf-8")
    if isinstance(data, dict):
        Path("bad").mkdir()
        for file, text in data.items():
            Path("bad", file).write_text(text, encoding="utf-8")
    elif data is not None:
        Path("bad").write_bytes(data if isinstance(data, bytes) else data.encode())
    sizes = ("--hidden", "4", "--batch-size", "4", "--steps", "1")
    windows = ("--seq-length", "6") if name in ("forecaster", "music") else ()
    assert message in refusal(f"train-{name}", "bad", *arguments, *sizes, *windows)
    assert not Path("checkpoints").exists()


CHOICES = {
    "classifier": ("--pooling=sum", "--level=line"),
    "translator": ("--level=byte", "--attention=loud", "--schedule=cosine", "--draw=coin"),
    "forecaster": ("--base=mean", "--optimizer=lion"),
    "series": ("--pooling=sum", "--target=text"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_checked_by_the_command(name: str) -> None:
    for option in CHOICES[name]:
        assert option.partition("=")[2] in invoke(f"train-{name}", TASKS[name].name, option, code=2).stderr


USES: list[tuple[str, tuple[str, ...], str | bytes, str]] = [
    ("classifier", ("eval",), "a film\tgood\na plot\tmeh\n", "input:1: label 'good' is none of the 2 known: neg, pos"),
    ("classifier", ("predict", "--beam", "2"), "a", "--beam is not for the model in {}, a classifier"),
    ("classifier", ("predict",), b"good\n\xff\n", "input:2: byte 0 of the line is not UTF-8 text"),
    ("classifier", ("sample",), "", "holds a 'classifier' model; expected a character model"),
    ("tagger", ("eval",), "dog\tNN\tx\nruns\tVB\tx\n", "input:1: label 'NN' is none of the 5 known"),
    ("tagger", ("predict",), "It barks\n" + "a " * 5001, "input:2: a sentence of 5001 words, expected at most 5000"),
    ("tagger", ("predict", "--beam", "2"), "It", "--beam is not for the model in {}, a tagger"),
    ("translator", ("eval",), "a\tb\nc\t￭\n", "input:2: there is no token in '￭'"),
    ("translator", ("predict", "--length", "3"), "Go.", "--length is not for the model in {}, a translator"),
    ("forecaster", ("predict",), "a,b\n1,2\n3,4\n", "input: expected at least 12 rows, to forecast from, got 2"),
    ("forecaster", ("predict",), "x,y\n1,2\n", "input: no column 'a'; there are 'x', 'y'"),
    ("forecaster", ("predict",), "a,b\n1,2\n?,4\n", "input:3: column 'a': expected a finite number, got '?'"),
    ("forecaster", ("predict",), "a,b\n1,2\n3\n", "input:3: expected 2 columns as in the header, got 1"),
    ("forecaster", ("predict",), "", "standard input:1: expected a header"),
    ("forecaster", ("predict", "--beam", "3"), "", "--beam is not for the model in {}, a forecaster"),
    ("forecaster", ("eval",), "a,b\n1,2\n3,4\n", "input: expected at least 13 rows to score 1 of them, got 2"),
    ("forecaster", ("eval",), "a,b\n1,2\n?,4\n", "input:3: column 'a': expected a finite number, got '?'"),
    ("series", ("predict",), "id,y\n1,2\n1,4\n", "input: no column 'x'; there are 'id', 'y'"),
    ("series", ("predict",), "id,x,y\n1,2,3\n", "input:2: sequence '1' has 1 step; expected at least 2"),
    ("series", ("predict", "--beam", "2"), "", "--beam is not for the model in {}, a seriesmodel"),
    ("series", ("eval",), "id,x,y\n1,2,3\n1,2,3\n", "input: no column 'kind'; there are 'id', 'x', 'y'"),
    ("series", ("eval",), "id,x,y,kind\n1,2,3,c\n1,2,3,c\n", "input:2: label 'c' is none of the 2 known: a, b"),
    (
        "char",
        ("sample", "--prime", "to", "--top-p", "-1"),
        "",
        "above 0 and at most 1, got -1",
    ),
    ("char", ("predict", "--beam", "2"), "", "--beam is not for the model in {}, a textgenerator"),
    ("words", ("eval",), " \n\n", "nothing to read in input"),
]


@pytest.mark.parametrize(("name", "command", "data", "message"), USES)
def test_a_mistake_in_using_a_model_is_one_line(
    name: str, command: tuple[str, ...], data: str | bytes, message: str, trained: Trained
) -> None:
    Path("input").write_bytes(data if isinstance(data, bytes) else data.encode())
    run = trained(name)
    source = () if command[0] == "sample" else ("input",)
    assert message.format(run / "best.safetensors") in refusal(command[0], str(run), *source, *command[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "nowhere.csv"), "there is no file nowhere.csv"),
        (("predict", "1.5"), "the text given:1: expected a header"),
        (("predict", "b,a\n1,x"), "the text given:2: column 'a': expected a finite number"),
        (("eval", "nowhere.csv"), "cannot read nowhere.csv: No such file or directory"),
        (("eval", "a.csv", "b.csv"), "a forecaster reads one table at a time, got 2"),
    ],
)
def test_a_missing_or_second_table_is_one_line(arguments: tuple[str, ...], message: str, trained: Trained) -> None:
    assert refusal(arguments[0], str(trained("forecaster")), *arguments[1:]).startswith(message)
