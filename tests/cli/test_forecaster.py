"""``train-forecaster`` and what a person does with its model; every mistake gets one line."""

import json
import os
from pathlib import Path

import pytest
from minirnn_cli.main import app
from typer.testing import CliRunner

TRAIN = ["--hidden", "4", "--batch-size", "8", "--seq-length", "6", "--steps", "5"]
ROWS = [(round(n * 37 % 11 + n / 8 + n * n * 7 % 13 / 9, 2), n * 53 % 7 - 3) for n in range(60)]
runner = CliRunner()


def table(count: int = 60) -> str:
    return "day,b,a\n" + "".join(f"d{n},{b},{a}\n" for n, (a, b) in enumerate(ROWS[:count]))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("series.csv")
    path.write_text(table(45), encoding="utf-8")
    Path("whole.csv").write_text(table(), encoding="utf-8")
    return path


def train(*arguments: str) -> str:
    done = runner.invoke(app, ["train-forecaster", *arguments, *TRAIN])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    return done.stderr


def evaluated(run: str, source: str) -> dict:
    done = runner.invoke(app, ["eval", run, source, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_train_predict_eval(data: Path) -> None:
    said = train("series.csv", "--horizon", "3", "--inputs", "b")
    assert "data: 45 rows, 36 to train on; column 'a', season 11, base trend\n" in said
    assert "training for 5 steps in checkpoints/series" in said
    assert "val_loss" in said
    assert "rmse" in said
    run = "checkpoints/series"
    assert {"best.safetensors", "last.safetensors", "metrics.jsonl"} <= set(os.listdir(run))

    said = runner.invoke(app, ["predict", run, "series.csv"])
    assert said.exit_code == 0, said.output
    numbers, values = zip(*(line.split("\t") for line in said.stdout.splitlines()), strict=True)
    assert numbers == ("1", "2", "3")
    header, *rows = table(45).splitlines()
    text = "\n".join([header, *rows[-12:]])  # all that the model looks at
    for arguments, given in (([run], table(45)), ([run, "-"], table(45)), ([run, text], "")):
        assert runner.invoke(app, ["predict", *arguments], input=given).stdout == said.stdout
    facts = json.loads(runner.invoke(app, ["predict", run, "series.csv", "--json"]).stdout)
    assert facts.keys() == {"column", "horizon"}
    assert facts["column"] == "a"
    assert tuple(f"{value:.6g}" for value in facts["horizon"]) == values

    metrics = evaluated(run, "whole.csv")
    assert metrics.keys() == {
        "loss", "rmse", "mae", "base_rmse", "persistence_rmse", "persistence_mae", "seasonal_naive_rmse",
        "seasonal_naive_mae", "scored_rows", "first_row",
    }  # fmt: skip
    assert (metrics["scored_rows"], metrics["first_row"]) == (15, 46)
    a = [a for a, _ in ROWS]
    errors = [abs(a[t + k] - a[t]) for t in range(44, 57) for k in (1, 2, 3)]
    assert metrics["persistence_mae"] == pytest.approx(sum(errors) / len(errors))
    plain = runner.invoke(app, ["eval", run, "-"], input=table())
    assert plain.stdout.splitlines()[1] == f"rmse {metrics['rmse']:.6g}"
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    best = min((line for line in map(json.loads, lines) if "val_loss" in line), key=lambda line: line["val_loss"])
    metrics = evaluated(run, "series.csv")
    assert (metrics["loss"], metrics["rmse"], metrics["first_row"]) == (best["val_loss"], best["rmse"], 37)


def test_columns(data: Path) -> None:
    """The inputs with commas or one at a time; the column to forecast is the last with numbers unless it is named."""
    rows = "".join(f'{b},{a},"1,5",{n},x\n' for n, (a, b) in enumerate(ROWS))
    Path("more.csv").write_text('b,a,"p,q",n,text\n' + rows.replace('"1,5"', "2"), encoding="utf-8")
    for number, options in enumerate(
        (["--inputs", "a, b", "--inputs", "p,q"], ["--inputs", "a", "--inputs", "b", "--inputs", "p,q"])
    ):
        assert "column 'n'" in train("more.csv", *options, "--out", f"run{number}")
    assert evaluated("run0", "more.csv") == evaluated("run1", "more.csv")
    shown = json.loads(runner.invoke(app, ["info", "run0", "--json"]).stdout)
    assert shown["model"]["input_size"] == 1 + 4
    assert "column 'b', season 7" in train("more.csv", "--column", "b", "--season", "7", "--base", "last")


def test_logarithms(data: Path) -> None:
    rows = "".join(f"{(20 + n) * (3, 4, 6)[n % 3] * (1, 1.03, 0.96, 1.01, 0.99)[n % 5]}\n" for n in range(60))
    Path("grows.csv").write_text("a\n" + rows)
    assert "column 'a' as logarithm, season 3" in train("grows.csv", "--season", "3")
    assert "column 'a', season 3" in train("grows.csv", "--season", "3", "--no-log")
    Path("zero.csv").write_text("a\n" + rows + "0\n")
    done = runner.invoke(app, ["predict", "checkpoints/grows", "zero.csv"])
    assert done.exit_code == 2
    assert done.stderr.startswith("minirnn: zero.csv:62: column 'a': expected a number above 0")
    assert runner.invoke(app, ["predict", "checkpoints/grows-2", "zero.csv"]).exit_code == 0


def test_resume_keeps_the_options_of_the_run(data: Path) -> None:
    train("series.csv", "--inputs", "b", "--base", "trend", "--penalty", "1")
    resume = ["train-forecaster", "series.csv", "--resume"]
    done = runner.invoke(app, [*resume, "--steps", "8"])
    assert done.exit_code == 0, done.output
    assert "resuming at step 5, to 8 steps" in done.stderr
    other = runner.invoke(app, [*resume, "--steps", "9", "--penalty", "2"])
    assert other.exit_code == 2
    assert "penalty was 1.0, now it is 2.0" in other.stderr
    Path("series.csv").write_text(table(46), encoding="utf-8")
    other = runner.invoke(app, [*resume, "--steps", "9"])
    assert other.exit_code == 2
    assert "the data is not the one the run started with" in other.stderr


def test_standard_input(data: Path) -> None:
    done = runner.invoke(app, ["train-forecaster", "-", *TRAIN, "--quiet"], input=table())
    assert done.exit_code == 0, done.output
    assert done.output == ""
    assert Path("checkpoints/stdin/best.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "cannot read bad.csv: No such file or directory"),
        ("", [], "nothing to read in bad.csv"),
        ("a,b\n", [], "bad.csv: no row below the header"),
        ("1,2\n3,4\n", [], "bad.csv:1: expected a header with the names of the columns, got numbers"),
        ("a,b\n1,2\n3\n", [], "bad.csv:3: expected 2 columns as in the header, got 1"),
        ("a,b\n1,2\n\n3,4\n", [], "bad.csv:3: empty line"),
        ("a,b\n1,2\n3,n/a\n", [], "bad.csv:3: column 'b': expected a finite number, got 'n/a'"),
        ("a,b\n1,2\n,4\n", ["--column", "a"], "bad.csv:3: column 'a': expected a finite number, the cell is empty"),
        ("a,b\nx,y\nz,w\n", [], "bad.csv: no column holds numbers; there are 'a', 'b'"),
        ("a,b\n1,2\n3,4\n", ["--column", "c"], "bad.csv: no column 'c'; there are 'a', 'b'"),
        ("a,b\n1,2\n3,4\n", ["--inputs", "a,c"], "bad.csv: no column 'c'; there are 'a', 'b'"),
        ("a,b\n1,2\n3,4\n", ["--inputs", "b"], "column 'b' is named twice"),
        ("a\n1\n2\n3\n", [], "bad.csv: expected at least 7 rows, to train on (6 to look at, 1 to forecast), got 2"),
        ("a\n" + "1\n2\n" * 20, ["--horizon", "80"], "got 0: of the table's 40 rows 40 validate, 0 are left"),
        ("a\n" + "1\n2\n" * 20, ["--season", "50"], "bad.csv: expected at least 52 rows, to train on (a season of 50"),
        ("a\n" + "0\n2\n" * 20, ["--log"], "bad.csv:2: column 'a': expected a number above 0"),
        ("a\n" + "0\n2\n" * 20, ["--base", "mean"], "mean"),
        ("a\n" + "0\n2\n" * 20, ["--horizon", "0"], "horizon"),
    ],
)
def test_mistakes_in_training(data: Path, text: str | None, options: list[str], message: str) -> None:
    if text is not None:
        Path("bad.csv").write_text(text, encoding="utf-8")
    done = runner.invoke(app, ["train-forecaster", "bad.csv", *options, *TRAIN])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("command", "source", "message"),
    [
        ("predict", "short.csv", "short.csv: expected at least 6 rows, to forecast from, got 3"),
        ("predict", "other.csv", "other.csv: no column 'a'; there are 'x', 'y'"),
        ("predict", "text.csv", "text.csv:8: column 'a': expected a finite number, got '?'"),
        ("predict", "nowhere.csv", "there is no file nowhere.csv"),
        ("predict", "1.5", "the text given:1: expected a header"),
        ("predict", "empty.csv", "standard input:1: expected a header"),
        ("eval", "short.csv", "short.csv: expected at least 7 rows, 6 before those to score and 1 to forecast, got 3"),
        ("eval", "text.csv", "text.csv:8: column 'a': expected a finite number, got '?'"),
        ("eval", "nowhere.csv", "cannot read nowhere.csv: No such file or directory"),
        ("eval", "empty.csv", "nothing to read in empty.csv"),
    ],
)
def test_mistakes_in_use(data: Path, command: str, source: str, message: str) -> None:
    train("series.csv", "--season", "5", "--base", "last")
    Path("short.csv").write_text("a\n1\n2\n3\n")
    Path("other.csv").write_text("x,y\n1,2\n")
    Path("text.csv").write_text("a\n" + "1\n" * 6 + "?\n")
    Path("empty.csv").write_text("")
    done = runner.invoke(app, [command, "checkpoints/series", source])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_options_of_other_tasks_are_refused(data: Path) -> None:
    train("series.csv")
    done = runner.invoke(app, ["predict", "checkpoints/series", "series.csv", "--beam", "3"])
    assert done.exit_code == 2
    assert "--beam is not for the model in checkpoints/series/best.safetensors, a forecaster" in done.stderr
    done = runner.invoke(app, ["eval", "checkpoints/series", "series.csv", "whole.csv"])
    assert done.exit_code == 2
    assert "a forecaster reads one table at a time, got 2" in done.stderr
