"""``train-translator`` and what a person does with its model; every mistake gets one line."""

import json
import os
from pathlib import Path

import pytest
from minirnn_cli.main import app
from typer.testing import CliRunner

TRAIN = ["--hidden", "8", "--batch-size", "8", "--steps", "6", "--min-count", "1"]
PAIRS = "Go.\tVa !\nHe runs.\tIl court.\nHe goes.\tIl va.\nTom runs.\tTom court.\nI see.\tJe vois.\n" * 6
runner = CliRunner()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("pairs.tsv")
    path.write_text(PAIRS, encoding="utf-8")
    return path


def train(*arguments: str) -> None:
    done = runner.invoke(app, ["train-translator", *arguments, *TRAIN, "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.output == ""


def test_train_predict_eval(data: Path) -> None:
    done = runner.invoke(app, ["train-translator", "pairs.tsv", *TRAIN])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "data: 27 pairs to train on, 12 and 13 different tokens\n" in done.stderr
    assert "training for 6 steps in checkpoints/pairs" in done.stderr
    assert "exact_match" in done.stderr
    assert "    | " in done.stderr  # translations are shown
    assert " -> " in done.stderr
    assert "now try: minirnn predict checkpoints/pairs/best.safetensors 'a sentence'" in done.stderr
    run = "checkpoints/pairs"
    assert {"best.safetensors", "last.safetensors", "metrics.jsonl"} <= set(os.listdir(run))

    said = runner.invoke(app, ["predict", run, "He sees Tom."])
    assert said.exit_code == 0, said.output
    text = "He sees Tom.\n\nI see.\n"
    Path("lines.txt").write_text(text, encoding="utf-8")
    listed = runner.invoke(app, ["predict", run, "lines.txt"]).stdout
    assert listed.split("\n")[:2] == [said.stdout.rstrip("\n"), ""]
    assert listed.count("\n") == 3
    assert runner.invoke(app, ["predict", run], input=text).stdout == listed
    objects = runner.invoke(app, ["predict", run, "-", "--json"], input=text).stdout
    facts = [json.loads(line) for line in objects.splitlines()]
    assert [fact["source"] for fact in facts] == ["He sees Tom.", "", "I see."]
    assert [fact["target"] for fact in facts] == listed.splitlines()
    assert facts[0]["source_tokens"] == ["He", "sees", "Tom", "￭."]
    assert {len(row) for row in facts[0]["attention"]} <= {4}
    assert len(facts[0]["attention"]) == len(facts[0]["tokens"])

    measured = runner.invoke(app, ["eval", run, "pairs.tsv", "--json"])
    assert measured.exit_code == 0, measured.output
    metrics = json.loads(measured.stdout)
    assert metrics.keys() == {"loss", "exact_match"}  # no translation has four words
    assert "bleu" not in done.stderr
    assert "bleu" not in Path(run, "metrics.jsonl").read_text()
    Path("longer.tsv").write_text(PAIRS + "He sees Tom.\tIl voit Tom.\n", encoding="utf-8")
    longer = json.loads(runner.invoke(app, ["eval", run, "longer.tsv", "--json"]).stdout)
    assert longer.keys() == {"loss", "exact_match", "bleu"}
    assert metrics["loss"] > 0
    plain = runner.invoke(app, ["eval", run, "-"], input=data.read_bytes())
    assert plain.stdout.splitlines()[0] == f"loss {metrics['loss']:.6g}"


def test_options_of_predict(data: Path) -> None:
    train("pairs.tsv", "--out", "run")

    def facts(*options: str) -> dict:
        done = runner.invoke(app, ["predict", "run", "He runs.", "--json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert len(facts("--max-length", "2")["tokens"]) <= 2
    free, penalised = facts("--beam", "1", "--length-penalty", "0"), facts("--beam", "1", "--length-penalty", "2")
    assert free["tokens"] == penalised["tokens"]
    assert free["score"] < penalised["score"] < 0
    assert facts("--beam", "4") == facts() == facts("--beam", "4", "--length-penalty", "1")
    refused = runner.invoke(app, ["predict", "run", "Go.", "--length", "3"])
    assert refused.exit_code == 2
    assert "--length is not for the model in run/best.safetensors, a translator" in refused.stderr


def test_all_options_reach_the_task(data: Path) -> None:
    train(
        "pairs.tsv", "--out", "run", "--level", "char", "--lower", "--max-words", "9", "--attention", "dot",
        "--schedule", "inverse-sigmoid", "--teacher-forcing", "0.9", "--teacher-forcing-end", "0.4",
        "--draw", "sequence", "--embedding-size", "5", "--label-smoothing", "0.2", "--one-way", "--cell", "gru",
        "--layers", "2", "--dropout", "0.3", "--zoneout", "0.1", "--weight-drop", "0.2",
        "--val-fraction", "0.2", "--seed", "7",
    )  # fmt: skip
    shown = json.loads(runner.invoke(app, ["info", "run", "--json"]).stdout)
    assert shown["task"] == "translator"
    assert shown["model"] == {
        "source_size": 13, "target_size": 13, "hidden_size": 8, "num_layers": 2, "cell": "gru", "embedding_size": 5,
        "bidirectional": False, "merge": "concat", "dropout": 0.3, "attention": "dot", "dtype": "float32",
        "zoneout": 0.1, "recurrent_dropout": 0.0, "weight_drop": 0.2,
    }  # fmt: skip
    assert shown["data"] | {"sha256": ""} == {
        "level": "char", "lower": True, "min_count": 1, "max_words": 9, "schedule": "inverse-sigmoid",
        "teacher_forcing": 0.9, "teacher_forcing_end": 0.4, "draw": "sequence", "label_smoothing": 0.2, "batch_size": 8,
        "val_fraction": 0.2, "seed": 7, "sha256": "",
    }  # fmt: skip


def test_resume_keeps_the_options_of_the_run(data: Path) -> None:
    train("pairs.tsv", "--attention", "none", "--schedule", "linear")
    done = runner.invoke(app, ["train-translator", "pairs.tsv", "--resume", "--steps", "9"])
    assert done.exit_code == 0, done.output
    assert "resuming at step 6, to 9 steps" in done.stderr
    other = runner.invoke(app, ["train-translator", "pairs.tsv", "--resume", "--steps", "12", "--draw", "sequence"])
    assert other.exit_code == 2
    assert "--draw was step, now it is sequence" in other.stderr
    data.write_text(PAIRS + "Go on.\tVa.\n", encoding="utf-8")
    refused = runner.invoke(app, ["train-translator", "pairs.tsv", "--resume", "--steps", "12"])
    assert refused.exit_code == 2
    assert "cannot resume checkpoints/pairs: the data is not the one the run started with" in refused.stderr


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a\tb\nc\n", [], "bad.tsv:2: expected 2 columns separated by a tab, got 1"),
        ("a\tb\nc\td\te\n", [], "bad.tsv:2: expected 2 columns separated by a tab, got 3"),
        ("a\tb\n\nc\td\n", [], "bad.tsv:2: empty line"),
        ("a\tb\nc\t \n", [], "bad.tsv:2: column 2 is empty"),
        ("a\tb\nc\t￭\n", [], "bad.tsv:2: there is no token in '￭'"),
        ("", [], "nothing to read in bad.tsv"),
        ("a\tb\n", [], "expected at least 2 examples, to train on some and validate with others, got 1"),
        ("a\tb\nc\td\n", ["--teacher-forcing-end", "0.5"], "teacher_forcing_end: a constant schedule has no end"),
    ],
)
def test_bad_data_is_one_line(data: Path, text: str, arguments: list[str], message: str) -> None:
    Path("bad.tsv").write_text(text, encoding="utf-8")
    done = runner.invoke(app, ["train-translator", "bad.tsv", *TRAIN, *arguments])
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("minirnn: ")
    assert message in done.stderr
    assert not Path("checkpoints").exists()
    if not arguments and text.count("\n") > 1:
        train("pairs.tsv", "--out", "run")
        refused = runner.invoke(app, ["eval", "run", "bad.tsv"])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert message in refused.stderr


@pytest.mark.parametrize("option", ["--level=byte", "--attention=loud", "--schedule=cosine", "--draw=coin"])
def test_choices_are_checked_by_the_command(data: Path, option: str) -> None:
    done = runner.invoke(app, ["train-translator", "pairs.tsv", option])
    assert done.exit_code == 2
    assert option.partition("=")[2] in done.stderr


def test_latin_1_is_refused_by_line(data: Path) -> None:
    train("pairs.tsv", "--out", "run")
    Path("latin.txt").write_bytes("Go.\nà bientôt\n".encode("latin-1"))
    done = runner.invoke(app, ["predict", "run", "latin.txt"])
    assert done.exit_code == 2
    assert "latin.txt:2: byte 0 of the line is not UTF-8 text" in done.stderr
