"""``train-forecaster``, ``predict`` and ``eval`` with tables."""

import json
from pathlib import Path

import pytest
from support import invoke, json_of, metrics_of, refusal

TRAIN = ("--hidden", "4", "--batch-size", "8", "--seq-length", "6", "--steps", "5")
NAMES = ("north", "south")
ROWS = [(round(n * 37 % 11 + n / 8 + n * n * 7 % 13 / 9, 2), n * 53 % 7 - 3) for n in range(60)]


def table(count: int = 60) -> str:
    return "day,b,a\n" + "".join(f"d{n},{b},{a}\n" for n, (a, b) in enumerate(ROWS[:count]))


def train(*arguments: str) -> str:
    return invoke("train-forecaster", *arguments, *TRAIN).stderr


def test_predict_and_eval_of_tables() -> None:
    Path("series.csv").write_text(table(45), encoding="utf-8")
    Path("whole.csv").write_text(table(), encoding="utf-8")
    train("series.csv", "--horizon", "3", "--inputs", "b", "--out", "run")
    printed = invoke("predict", "run", "series.csv").stdout
    numbers, values = zip(*(line.split("\t") for line in printed.splitlines()), strict=True)
    assert numbers == ("1", "2", "3")
    header, *rows = table(45).splitlines()
    text = "\n".join([header, *rows[-12:]])  # all that the model reads
    assert invoke("predict", "run", text).stdout == printed
    for arguments in ((), ("-",)):
        last = invoke("predict", "run", *arguments, input=table(45)).stdout.splitlines()[-1]
        assert last.split("\t") == list(values)
    facts = json_of("predict", "run", "series.csv")
    assert facts["column"] == "a"
    assert tuple(f"{value:.6g}" for value in facts["horizon"]) == values

    measured = json_of("eval", "run", "whole.csv")
    assert (measured["scored_rows"], measured["first_row"]) == (15, 46)
    a = [a for a, _ in ROWS]
    errors = [abs(a[t + k] - a[t]) for t in range(44, 57) for k in (1, 2, 3)]
    assert measured["persistence_mae"] == pytest.approx(sum(errors) / len(errors))
    best = min((line for line in metrics_of("run") if "val_loss" in line), key=lambda line: line["val_loss"])
    measured = json_of("eval", "run", "series.csv")
    assert (measured["loss"], measured["rmse"], measured["first_row"]) == (best["val_loss"], best["rmse"], 37)


def test_inputs_are_given_with_commas_or_one_at_a_time() -> None:
    """The column to forecast is the last one with numbers unless it is named."""
    rows = "".join(f"{b},{a},2,{n},x\n" for n, (a, b) in enumerate(ROWS))
    Path("more.csv").write_text('b,a,"p,q",n,text\n' + rows, encoding="utf-8")
    ways = ("--inputs", "a, b", "--inputs", "p,q"), ("--inputs", "a", "--inputs", "b", "--inputs", "p,q")
    for number, options in enumerate(ways):
        assert "column 'n'" in train("more.csv", *options, "--out", f"run{number}")
    assert json_of("eval", "run0", "more.csv") == json_of("eval", "run1", "more.csv")
    assert json_of("info", "run0")["model"]["input_size"] == 1 + 4
    assert "column 'b', season 7" in train("more.csv", "--column", "b", "--season", "7", "--base", "last")


def test_logarithms_need_numbers_above_0() -> None:
    rows = "".join(f"{(20 + n) * (3, 4, 6)[n % 3] * (1, 1.03, 0.96, 1.01, 0.99)[n % 5]}\n" for n in range(60))
    Path("grows.csv").write_text("a\n" + rows)
    assert "column 'a' as logarithm, season 3" in train("grows.csv", "--season", "3")
    assert "column 'a', season 3" in train("grows.csv", "--season", "3", "--no-log")
    Path("zero.csv").write_text("a\n" + rows + "0\n")
    message = "zero.csv:62: column 'a': expected a number above 0, since the model takes logarithms"
    assert refusal("predict", "checkpoints/grows", "zero.csv").startswith(message)
    assert json.loads(invoke("predict", "checkpoints/grows-2", "zero.csv", "--json").stdout)["column"] == "a"


def test_several_series_in_one_file() -> None:
    """Every forecast has its id; a run is resumed, and its model trained further."""
    rows = [f"{shop},{a + 50 * n},{b}" for n, shop in enumerate(NAMES) for a, b in ROWS[: 60 - 7 * n]]
    Path("shops.csv").write_text("\n".join(["shop,a,b", *rows, "west,3,4"]), encoding="utf-8")
    options = ("--id", "shop", "--column", "a", "--inputs", "b", "--horizon", "2", "--season", "1", "--no-log")
    said = train("shops.csv", *options)
    assert "left out 1 of 3 series, which have too few rows before the validation set, to train on" in said
    assert "2 series, 113 rows, 90 to train on; column 'a', season 1" in said
    run = "checkpoints/shops"
    done = invoke("predict", run, "shops.csv")
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [[s, k] for s in NAMES for k in "12"]
    assert "left out 1 of 3 series, which have too few rows, to forecast from: 'west' (1 of 6)" in done.stderr
    facts = [json.loads(line) for line in invoke("predict", run, "shops.csv", "--json").stdout.splitlines()]
    printed = "".join(f"{one['id']}\t{k}\t{y:.6g}\n" for one in facts for k, y in enumerate(one["horizon"], 1))
    assert printed == done.stdout == invoke("predict", run, input=Path("shops.csv").read_bytes()).stdout
    measured = json_of("eval", run, "shops.csv")
    assert (measured["series"], measured["scored_rows"]) == (2, 23)
    invoke("train-forecaster", "shops.csv", *options, "--resume", *TRAIN[:-1], "7")
    train("shops.csv", *options[:6], "--init-from", run, "--out", "again")
    assert json_of("info", "again")["series"]["id"] == "shop"
    Path("shops.csv").write_text("\n".join(["shop,a,b", *rows[55:65], rows[0]]), encoding="utf-8")
    message = "shops.csv:12: id 'north' comes back: line 2 has it too, 'south' is between; expected all rows"
    assert refusal("train-forecaster", "shops.csv", *options).startswith(message)
    assert refusal("predict", run, "shops.csv").startswith(message)
