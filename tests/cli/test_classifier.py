"""``train-classifier`` and what a person does with its model; every mistake gets one line."""

import json
import os
from pathlib import Path

import pytest
from minirnn_cli.main import app
from typer.testing import CliRunner

TRAIN = ["--hidden", "8", "--batch-size", "4", "--steps", "6"]
LABELLED = "a good film\tpos\nso very bad\tneg\nbad , bad !\tneg\nnot a bad film\tpos\nfine\tpos\n" * 6
runner = CliRunner()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("reviews.tsv")
    path.write_text(LABELLED, encoding="utf-8")
    return path


def train(*arguments: str) -> None:
    done = runner.invoke(app, ["train-classifier", *arguments, *TRAIN, "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.output == ""


def test_train_predict_eval(data: Path) -> None:
    done = runner.invoke(app, ["train-classifier", "reviews.tsv", *TRAIN])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "data: 30 texts of 2 classes, 3.0 words on average; read as words, 10 different\n" in done.stderr
    assert "training for 6 steps in checkpoints/reviews" in done.stderr
    assert "accuracy" in done.stderr
    run = "checkpoints/reviews"
    assert {"best.safetensors", "last.safetensors", "metrics.jsonl"} <= set(os.listdir(run))

    said = runner.invoke(app, ["predict", run, "A good film"])
    assert said.exit_code == 0, said.output
    assert said.stdout in ("pos\n", "neg\n")
    text = "A good film\n\n bad \n"
    Path("lines.txt").write_text(text, encoding="utf-8")
    lines = runner.invoke(app, ["predict", run, "lines.txt"]).stdout
    assert lines.splitlines()[0] == said.stdout.rstrip("\n")
    assert lines.splitlines()[1] == ""
    assert lines.count("\n") == 3
    assert runner.invoke(app, ["predict", run], input=text).stdout == lines
    listed = runner.invoke(app, ["predict", run, "-", "--json"], input=text).stdout
    objects = [json.loads(line) for line in listed.splitlines()]
    assert [fact["text"] for fact in objects] == ["A good film", "", " bad "]
    assert [fact["label"] or "" for fact in objects] == lines.splitlines()
    assert objects.pop(1) == {"text": "", "label": None}
    for fact in objects:
        assert fact.keys() == {"text", "label", "probability", "probabilities"}
        assert sum(fact["probabilities"].values()) == pytest.approx(1)
        assert fact["probability"] == fact["probabilities"][fact["label"]] == max(fact["probabilities"].values())

    measured = runner.invoke(app, ["eval", run, "reviews.tsv", "--json"])
    assert measured.exit_code == 0, measured.output
    metrics = json.loads(measured.stdout)
    assert metrics.keys() == {"loss", "accuracy", "macro_f1"}
    texts, expected = zip(*(line.split("\t") for line in LABELLED.splitlines()), strict=True)
    found = runner.invoke(app, ["predict", run], input="\n".join(texts)).stdout.split()
    right = sum(a == b for a, b in zip(found, expected, strict=True))
    assert metrics["accuracy"] == pytest.approx(right / 30)
    plain = runner.invoke(app, ["eval", run, "-"], input=data.read_bytes())
    assert plain.stdout.splitlines()[0] == f"loss {metrics['loss']:.6g}"


def test_a_folder_of_names_is_read_as_characters(data: Path) -> None:
    Path("names").mkdir()
    Path("names/Czech.txt").write_text("Adam\nBures\nCech\n" * 4, encoding="utf-8")
    Path("names/Greek.txt").write_text("Kalakos\nLeos\nMakris\n" * 4, encoding="utf-8")
    Path("names/README.txt").write_text("no names", encoding="utf-8")
    done = runner.invoke(app, ["train-classifier", "names", *TRAIN, "--pooling", "last", "--cell", "gru"])
    assert done.exit_code == 0, done.output
    assert "24 texts of 2 classes, 1.0 words on average; read as characters, 1" in done.stderr
    shown = json.loads(runner.invoke(app, ["info", "--json"]).stdout)
    assert shown["model"]["pooling"] == "last"
    assert shown["data"]["level"] == "char"
    assert runner.invoke(app, ["predict", "checkpoints/names", "Makris"]).stdout in ("Czech\n", "Greek\n")
    measured = runner.invoke(app, ["eval", "checkpoints/names", "names", "--json"])
    assert json.loads(measured.stdout)["loss"] > 0


def test_resume_keeps_the_options_of_the_run(data: Path) -> None:
    Path("vectors.txt").write_text("bad 1 2 3\nfilm 4 5 6\n", encoding="utf-8")
    train("reviews.tsv", "--embeddings", "vectors.txt", "--freeze", "--keep-case", "--one-way", "--max-words", "7")
    done = runner.invoke(app, ["train-classifier", "reviews.tsv", "--resume", "--steps", "9"])
    assert done.exit_code == 0, done.output
    assert "resuming at step 6, to 9 steps" in done.stderr
    assert "read as words, 7 different, vectors for 2 of them\n" in done.stderr
    shown = json.loads(runner.invoke(app, ["info", "--json"]).stdout)
    assert shown["model"]["embedding_size"] == 3
    assert not shown["model"]["bidirectional"]
    again = runner.invoke(app, ["train-classifier", "reviews.tsv", "--resume", "--steps", "12", "--lower"])
    assert again.exit_code == 2
    assert "--lower was False, now it is True" in again.stderr
    Path("reviews.tsv").write_text(LABELLED + "more\tpos\n", encoding="utf-8")
    refused = runner.invoke(app, ["train-classifier", "reviews.tsv", "--resume", "--steps", "12"])
    assert refused.exit_code == 2
    assert "cannot resume checkpoints/reviews: the data is not the one the run started with" in refused.stderr


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a b\tA\nc d\n", [], "bad.tsv:2: expected 2 columns separated by a tab, got 1"),
        ("a b\tA\nc\td\te\n", [], "bad.tsv:2: expected 2 columns separated by a tab, got 3"),
        ("a b\tA\n\nc d\tB\n", [], "bad.tsv:2: empty line"),
        ("a b\tA\nc d\t\n", [], "bad.tsv:2: column 2 is empty"),
        ("a b\tA\nc d\tA\n", [], "bad.tsv:1: every text has the label 'A'; expected two or more"),
        ("a b\tA\nc d\tB\n", [], "bad.tsv:1: no text is left to validate with"),
        ("\n\n", [], "nothing to read in bad.tsv"),
        (b"\xff\tA\n", [], "bad.tsv is not UTF-8 text"),
        (LABELLED, ["empty"], "empty is a folder; expected one folder alone, or files only"),
        (LABELLED, ["nowhere.tsv"], "cannot read nowhere.tsv"),
        (LABELLED, ["--freeze"], "freeze: only pretrained vectors can be frozen"),
        (LABELLED, ["--embeddings", "bad.tsv"], "bad.tsv:1: "),
        (LABELLED, ["--embeddings", "nowhere.txt"], "cannot read nowhere.txt"),
        (LABELLED, ["--pooling", "sum"], "pooling"),
        (LABELLED, ["--level", "line"], "level"),
        (LABELLED, ["--max-words", "0"], "max-words"),
    ],
)
def test_mistakes_in_training(data: Path, text: str | bytes, arguments: list[str], message: str) -> None:
    Path("bad.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    Path("empty").mkdir()
    done = runner.invoke(app, ["train-classifier", "bad.tsv", *arguments, *TRAIN])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "folder: no class; expected a file for every class, two or more"),
        ({"A.txt": "x\n"}, "folder: one class only, 'A'"),
        ({"A.txt": "x\n", "B.txt": ""}, "B.txt: no text of class 'B' in it"),
        ({"A.txt": "x\n\ny\n", "B.txt": "z\n"}, "A.txt:2: empty line"),
    ],
)
def test_mistakes_in_a_folder(data: Path, files: dict[str, str], message: str) -> None:
    Path("folder").mkdir()
    for name, text in files.items():
        Path("folder", name).write_text(text, encoding="utf-8")
    done = runner.invoke(app, ["train-classifier", "folder", *TRAIN])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_mistakes_in_use(data: Path) -> None:
    train("reviews.tsv")
    Path("strange.tsv").write_text("a film\tpos\na plot\tmeh\n", encoding="utf-8")
    Path("plain.txt").write_text("a film\nbad\n", encoding="utf-8")
    run = "checkpoints/reviews"
    for arguments, message in (
        (["eval", run, "strange.tsv"], "strange.tsv:2: label 'meh' is none of the 2 known: neg, pos"),
        (["eval", run, "plain.txt"], "plain.txt:1: expected 2 columns separated by a tab, got 1"),
        (["predict", run, "a film", "--beam", "2"], "--beam is not for the model in"),
        (["sample", run], "holds a 'classifier' model; expected a character model"),
    ):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
