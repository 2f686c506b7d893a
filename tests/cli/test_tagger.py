"""``train-tagger`` and what a person does with its model; every mistake gets one line."""

import json
import os
from pathlib import Path

import pytest
from minirnn_cli.main import app
from typer.testing import CliRunner

TRAIN = ["--hidden", "8", "--batch-size", "4", "--steps", "6"]
TAGGED = "The\tDET\tx\ndog\tNOUN\ty\nbarks\tVERB\tx\n.\tPUNCT\ty\n\nIt\tPRON\tx\nbarks\tVERB\ty\n\n" * 8
runner = CliRunner()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("tagged.tsv")
    path.write_text(TAGGED, encoding="utf-8")
    return path


def train(*arguments: str) -> None:
    done = runner.invoke(app, ["train-tagger", *arguments, *TRAIN, "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.output == ""


def test_train_predict_eval(data: Path) -> None:
    done = runner.invoke(app, ["train-tagger", "tagged.tsv", *TRAIN])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "data: 16 sentences, 48 words, 5 tags\n" in done.stderr
    assert "training for 6 steps in checkpoints/tagged" in done.stderr
    assert "    | " in done.stderr  # a tagged sentence is shown
    assert "accuracy" in done.stderr
    run = "checkpoints/tagged"
    assert sorted(os.listdir(run)) == [
        "best.safetensors", "last.safetensors", "metrics.jsonl", "previous.safetensors",
    ]  # fmt: skip

    said = runner.invoke(app, ["predict", run, "The dog barks ."])
    assert said.exit_code == 0, said.output
    tokens = [pair.rpartition("/") for pair in said.stdout.split()]
    assert [word for word, _, _ in tokens] == ["The", "dog", "barks", "."]
    assert {tag for _, _, tag in tokens} <= {"DET", "NOUN", "VERB", "PUNCT", "PRON"}
    text = "The dog barks .\n\n  It\tbarks \n"
    Path("lines.txt").write_text(text, encoding="utf-8")
    lines = runner.invoke(app, ["predict", run, "lines.txt"]).stdout
    assert lines.splitlines()[0] == said.stdout.rstrip("\n")
    assert lines.splitlines()[1] == ""
    assert lines.count("\n") == 3
    assert runner.invoke(app, ["predict", run], input=text).stdout == lines
    listed = runner.invoke(app, ["predict", run, "-", "--json"], input=text).stdout
    objects = [json.loads(line) for line in listed.splitlines()]
    assert [fact["tokens"] for fact in objects] == [["The", "dog", "barks", "."], [], ["It", "barks"]]
    assert [" ".join(map("/".join, zip(*fact.values(), strict=True))) for fact in objects] == lines.splitlines()

    measured = runner.invoke(app, ["eval", run, "tagged.tsv", "--json"])
    assert measured.exit_code == 0, measured.output
    metrics = json.loads(measured.stdout)
    assert metrics.keys() == {"loss", "accuracy", "macro_f1"}
    assert metrics["loss"] > 0
    plain = runner.invoke(app, ["eval", run, "-"], input=data.read_bytes())
    assert plain.stdout.splitlines()[1] == f"accuracy {metrics['accuracy']:.6g}"


def test_columns_and_a_validation_file(data: Path) -> None:
    """The column is the model's: eval reads it without being told."""
    Path("held.tsv").write_text("Rain\tNOUN\tx\nfalls\tVERB\ty\n", encoding="utf-8")
    train("tagged.tsv", "--column", "-1", "--val", "held.tsv", "--out", "run")
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["accuracy"] in (0, 0.5, 1)
    measured = json.loads(runner.invoke(app, ["eval", "run/last.safetensors", "held.tsv", "--json"]).stdout)
    assert measured == {"loss": last["val_loss"], "accuracy": last["accuracy"], "macro_f1": last["macro_f1"]}
    said = runner.invoke(app, ["predict", "run", "Rain"]).stdout
    assert said in ("Rain/x\n", "Rain/y\n")


def test_resume_keeps_the_options_of_the_run(data: Path) -> None:
    Path("vectors.txt").write_text("the 1 2 3\ndog 4 5 6\n", encoding="utf-8")
    train("tagged.tsv", "--embeddings", "vectors.txt", "--freeze", "--min-count", "1", "--one-way")
    done = runner.invoke(app, ["train-tagger", "tagged.tsv", "--resume", "--steps", "9"])
    assert done.exit_code == 0, done.output
    assert "resuming at step 6, to 9 steps" in done.stderr
    assert "; vectors for 2 of 9 words" in done.stderr
    shown = json.loads(runner.invoke(app, ["info", "--json"]).stdout)
    assert shown["model"]["embedding_size"] == 3
    assert not shown["model"]["bidirectional"]
    Path("tagged.tsv").write_text(TAGGED + "More\tDET\tx\n", encoding="utf-8")
    refused = runner.invoke(app, ["train-tagger", "tagged.tsv", "--resume", "--steps", "12"])
    assert refused.exit_code == 2
    assert "cannot resume checkpoints/tagged: the data is not the one the run started with" in refused.stderr


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a\tA\nb\tB\tC\n", [], "bad.tsv:2: expected 2 columns as in bad.tsv:1, got 3"),
        ("a A\n\nb\n", [], "bad.tsv:3: expected 2 columns as in bad.tsv:1, got 1"),
        ("a\tA\n", ["--column", "3"], "bad.tsv:1: no column 3 for tags; there are 2, tags in columns 2 to 2"),
        ("a\tA\n", ["--column", "1"], "bad.tsv:1: no column 1 for tags"),
        ("a\nb\n", [], "bad.tsv:1: expected a word and its tag in 2 columns or more, got 1"),
        ("a\tA\nb\t\n", [], "bad.tsv:2: the tag is empty"),
        ("\n\n", [], "nothing to read in bad.tsv"),
        ("a\tA\nb\tB\n", [], "expected at least 2 examples"),
        ("a\tA\n\nb\tA\n", [], "bad.tsv:1: every word has the tag 'A'; expected two or more"),
        ("a\tA\n\nb\tB\n", [], "bad.tsv:1: no sentence is left to validate with"),
        ("a\tA\n" * 5001, [], "bad.tsv:1: a sentence of 5001 words, expected at most 5000; is a blank line missing"),
        (b"\xff\tA\n", [], "bad.tsv is not UTF-8 text"),
        (TAGGED, ["--val", "strange.tsv"], "strange.tsv:2: label 'VB' is none of the 5 known: DET, NOUN, PRON"),
        (TAGGED, ["--val", "nowhere.tsv"], "cannot read nowhere.tsv"),
        (TAGGED, ["--freeze"], "freeze: only pretrained vectors can be frozen"),
        (TAGGED, ["--embeddings", "strange.tsv"], "strange.tsv:1: 0 columns"),
        (TAGGED, ["--min-count", "0"], "min-count"),
    ],
)
def test_mistakes_in_training(data: Path, text: str | bytes, arguments: list[str], message: str) -> None:
    Path("bad.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    Path("strange.tsv").write_text("dog\tNOUN\nruns\tVB\n", encoding="utf-8")
    done = runner.invoke(app, ["train-tagger", "bad.tsv", *TRAIN, *arguments])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert not Path("checkpoints").exists()


def test_mistakes_in_use(data: Path) -> None:
    train("tagged.tsv")
    Path("strange.tsv").write_text("dog\tNOUN\tx\nruns\tVB\tx\n", encoding="utf-8")
    Path("long.txt").write_text("It barks\n" + "a " * 5001, encoding="utf-8")
    Path("narrow.tsv").write_text("dog\nruns\n", encoding="utf-8")
    run = "checkpoints/tagged"
    for arguments, message in (
        (["eval", run, "strange.tsv"], "strange.tsv:2: label 'VB' is none of the 5 known"),
        (["eval", run, "narrow.tsv"], "narrow.tsv:1: expected a word and its tag in 2 columns or more, got 1"),
        (["predict", run, "It barks", "--beam", "2"], "--beam is not for the model in"),
        (["predict", run, "long.txt"], "long.txt:2: a sentence of 5001 words"),
        (["sample", run], "holds a 'tagger' model; expected a character model"),
    ):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
