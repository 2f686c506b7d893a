"""Forecasters of many series in one table: each as it would be alone, scaled by its own past."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import close, perturb, run

import minirnn as mr
from minirnn import tasks
from minirnn.data.forecasting import Series, long_enough, select_series
from minirnn.data.tables import Scaler, parse_table
from minirnn.data.windows import Preprocessor
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.metrics import mae, pinball_loss, rmse
from minirnn.tasks import Line
from minirnn.tasks.forecaster import Forecaster, ForecasterConfig
from minirnn.tasks.online import learner
from minirnn.training import Trainer, TrainingConfig


def values(rows: int, seed: int, level: float = 0.0, size: float = 1.0) -> np.ndarray:
    """The columns a and b; a is of any level and size."""
    t, noise = np.arange(rows), np.random.default_rng(seed).standard_normal((rows, 2))
    return np.stack([level + size * (np.sin(t * (1 + seed)) + 0.3 * noise[:, 0]), noise[:, 1]], 1)


SERIES = {"x": values(40, 0), "y": values(33, 1, 500, 40), "z": values(60, 2, -3, 0.01)}


def text_of(series: dict[str, np.ndarray]) -> str:
    rows = (f"{id},{b!r},{a!r}\n" for id, rows in series.items() for a, b in rows.tolist())
    return "name,b,a\n" + "".join(rows).replace("nan", "")


def read(series: dict[str, np.ndarray], future: bool = False, num_empty: int = 0) -> list[Series]:
    table = parse_table("s.csv", text_of(series))
    return select_series(table, "a", () if future else ("b",), ("b",) if future else (), "name", num_empty)


def lines(series: dict[str, np.ndarray]) -> list[Line]:
    return [Line(text, f"s.csv:{number}") for number, text in enumerate(text_of(series).splitlines(), 1)]


def task(series: dict[str, np.ndarray] = SERIES, future: bool = False, **options: Any) -> Forecaster:
    settings = {"seq_length": 6, "horizon": 2, "hidden_size": 5, "batch_size": 8, "season": 4, "log": False}
    data = read(series, future)
    return perturb(Forecaster.build(data, ForecasterConfig(id="name", **settings | options)))


def alone(made: Forecaster, past: np.ndarray) -> Forecaster:
    """A forecaster of one series with the same network, and the scale of these rows."""
    view = made.preprocessor
    mean, std = view.scaler.mean.copy(), view.scaler.std.copy()
    mean[0], std[0] = past[:, 0].mean(), past[:, 0].std()
    return Forecaster(
        made.model, replace(view, id=None, scaler=Scaler(mean, std), spread=view.spread * std[0]), made._data
    )


# -------------------------------------------------------------------------------------------- scales and windows


def test_a_series_is_scaled_by_its_own_past_and_other_columns_by_the_training_set() -> None:
    made = task(base="last", val_fraction=0.25)
    assert made._data["train_rows"] == 30 + 25 + 45
    pasts = [SERIES["x"][:30], SERIES["y"][:25], SERIES["z"][:45]]
    view = made.preprocessor
    assert view.scaler.mean[0] == 0
    assert view.scaler.std[0] == pytest.approx(pasts[0][:, 0].std())  # the one in the middle
    constant = view.of(np.full((9, 2), 7.0))
    assert (constant.scaler.mean[0], constant.scaler.std[0]) == (7, view.scaler.std[0])
    np.testing.assert_allclose(constant.spread, view.spread * view.scaler.std[0])
    every = np.concatenate(pasts)[:, 1]
    np.testing.assert_allclose([view.scaler.mean[1], view.scaler.std[1]], [every.mean(), every.std()])
    errors = [(past[6 + k : len(past) - 1 + k, 0] - past[5:-2, 0]) / past[:, 0].std() for past in pasts for k in (0, 1)]
    expected = [np.sqrt(np.mean(np.concatenate(errors[k::2]) ** 2)) for k in (0, 1)]
    np.testing.assert_allclose(view.spread, expected)
    own = view.of(pasts[1])
    np.testing.assert_allclose(own.scaler.apply(pasts[1])[:, 0].std(), 1)
    np.testing.assert_allclose(own.spread, view.spread * pasts[1][:, 0].std())
    assert Preprocessor.from_config(json.loads(json.dumps(view.to_config()))).to_config() == view.to_config()


@pytest.mark.parametrize("future", [False, True])
def test_no_window_reaches_from_one_series_into_another(future: bool) -> None:
    """The examples are those of each series by itself, one after another."""
    made = task(future=future)
    pasts = [one.split(int(len(one) * 0.8)) for one in read(SERIES, future)]
    joined = made.preprocessor.examples(pasts)
    parts = [alone(made, one.values[: one.first]).preprocessor.examples([replace(one, id=None)]) for one in pasts]
    everything = slice(None)
    assert len(joined) == sum(one.num_later - 1 for one in pasts)
    np.testing.assert_allclose(
        joined.inputs(everything),
        np.concatenate([part.inputs(everything) for part in parts], 1),
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        joined.targets(everything), np.concatenate([part.targets(everything) for part in parts]), rtol=1e-9
    )
    assert joined.inputs(np.array([3])).shape == (6, 1, 3 + 2 * future)


@given(st.integers(12, 30), st.floats(-1e3, 1e3), st.sampled_from(["season", "trend", "last"]))
def test_what_comes_later_in_a_series_or_in_others_changes_no_input(row: int, value: float, base: str) -> None:
    view = replace(Preprocessor.fit(read(SERIES), 6, 2, 4, "last", False, id="name")[0], base=base)
    before = view.examples([one.split(12) for one in read(SERIES)])
    changed = {name: rows.copy() for name, rows in SERIES.items()}
    changed["y"][row:] = changed["z"][:] = value
    after = view.examples([one.split(12) for one in read(changed)])
    count = 40 - 12 - 1 + max(0, row - 12 + 1)  # of x all, of y those whose last row is before the change
    count = min(count, 40 - 12 - 1 + 33 - 12 - 1)
    for one, other in ((before.inputs(slice(None)), after.inputs(slice(None))), (before.base[None], after.base[None])):
        assert one[:, :count].tobytes() == other[:, :count].tobytes()
    assert before.spread[:count].tobytes() == after.spread[:count].tobytes()


def test_training_does_not_depend_on_the_validation_rows() -> None:
    other = {name: rows.copy() for name, rows in SERIES.items()}
    for rows in other.values():
        rows[-5:] = 77
    runs = []
    for series in (SERIES, other):
        settings = {"seq_length": 6, "hidden_size": 5, "batch_size": 8, "val_fraction": 0.2}
        made = Forecaster.build(read(series), ForecasterConfig(id="name", **settings))
        run(Trainer(made, TrainingConfig(steps=3, evaluations=1)))
        runs.append((made.preprocessor.to_config(), {k: v.tobytes() for k, v in made.model.state_dict().items()}))
    assert runs[0] == runs[1]


def test_season_and_logarithms_are_those_of_most_series() -> None:
    t = np.arange(96)
    seasonal = [np.exp(t / 40 + 0.5 * np.sin(2 * np.pi * t / period + n)) for n, period in enumerate((6, 6, 9))]
    flat = [10 + wave[:96] for wave in (np.sin(2 * np.pi * t / 6), np.sin(2 * np.pi * t / 6 + 1))]

    def fitted(columns: list[np.ndarray]) -> Preprocessor:
        series = [Series("s", ("a",), column[:, None], str, id=str(n)) for n, column in enumerate(columns)]
        return Preprocessor.fit(series, 6, id="n")[0]

    assert (fitted(seasonal).season, fitted(seasonal).log) == (6, True)
    assert fitted([*seasonal, *flat]).log
    assert not fitted([*seasonal, *flat, flat[0]]).log
    assert not fitted([*seasonal, flat[0] - 10]).log  # not above 0
    assert (fitted(seasonal[:2]).base, fitted(seasonal).base) == ("trend", "last")  # the error is that over all series


# ------------------------------------------------------------------------------------------------- use


@pytest.mark.parametrize("options", [{}, {"quantiles": "0.1,0.5,0.9"}, {"base": "trend", "bidirectional": True}])
def test_each_series_is_forecast_as_it_would_be_alone(options: dict[str, Any]) -> None:
    made = task(**options)
    found = made.predict_lines(lines(SERIES))
    assert [one.facts["id"] for one in found] == ["x", "y", "z"]
    for one, (name, rows) in zip(found, SERIES.items(), strict=True):
        expected = close({"id": name, **alone(made, rows).predict(rows)}, 1e-5)
        assert one.facts == expected
        assert {"id": name, **made.predict(rows)} == expected
        assert [line.split("\t")[:2] for line in one.text.split("\n")] == [[name, "1"], [name, "2"]]
    (few,) = made.predict_lines(lines({"new": SERIES["y"]}))
    np.testing.assert_allclose(few.facts["horizon"], found[1].facts["horizon"], rtol=1e-5)


def test_metrics_are_over_all_forecasts_of_all_series() -> None:
    made = task(quantiles="0.1,0.5,0.9")
    scored = [one.split(first) for one, first in zip(read(SERIES), (30, 20, 50), strict=True)]
    found, view = made.metrics(scored), made.preprocessor
    truth, forecasts, losses, last, season = [], [], [], [], []
    for one in scored:
        view = alone(made, one.values[: one.first]).preprocessor
        for t in range(one.first, len(one) - 1):
            known, (x,) = one.values[:t], alone(made, one.values[: one.first]).forecasts(
                view.next_windows(one.values[t - view.first_row : t])
            )  # fmt: skip
            truth.append(one.values[t : t + 2, 0])
            forecasts.append(x)
            losses.append(pinball_loss((x - truth[-1][:, None]) / view.spread[:, None], np.zeros(2), view.quantiles))
            last.append([known[-1, 0]] * 2)
            season.append(known[-4:-2, 0])
    middle = np.array(forecasts)[:, :, 1]
    low, _, high = np.moveaxis(forecasts, 2, 0)
    expected = {
        "loss": np.mean(losses),
        "rmse": rmse(middle, truth),
        "mae": mae(middle, truth),
        "pinball": pinball_loss(np.array(forecasts), truth, made.preprocessor.quantiles),
        "coverage": np.mean((low <= truth) & (truth <= high)),
        "persistence_mae": mae(last, truth),
        "seasonal_naive_rmse": rmse(season, truth),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_rows_known_in_advance_follow_each_series() -> None:
    made = task(future=True)
    planned = {name: np.concatenate([rows, [[np.nan, 0.5], [np.nan, -1]]]) for name, rows in SERIES.items()}
    found = made.predict_lines(lines(planned))
    for one, (name, rows) in zip(found, planned.items(), strict=True):
        assert one.facts["id"] == name
        assert one.facts["horizon"] == pytest.approx(alone(made, rows[:-2]).predict(rows)["horizon"], rel=1e-5)
    other = planned | {"y": planned["y"] + np.array([0, 1])}
    changed = [one.facts["horizon"] for one in made.predict_lines(lines(other))]
    assert [a == pytest.approx(b.facts["horizon"]) for a, b in zip(changed, found, strict=True)] == [True, False, True]
    planned["y"][-1, 1] = np.nan
    message = r"^s\.csv:78: the last 2 rows are to be forecast: expected b, and nothing as a$"
    with pytest.raises(DataError, match=message):
        made.predict_lines(lines(planned))
    with pytest.raises(DataError, match=r"^s\.csv:40: column 'a': expected a finite number, the cell is empty$"):
        made.predict_lines(
            lines({"x": np.concatenate([SERIES["x"][:38], planned["y"][-2:], SERIES["x"]]), "y": planned["z"]})
        )


def test_eval_scores_the_rows_after_those_of_training_of_each_series(tmp_path: Path) -> None:
    short = {name: rows[:-10] for name, rows in SERIES.items()}
    made, path = task(short), tmp_path / "s.csv"
    path.write_text(text_of(short))
    same = made.measure([str(path)])
    assert same["loss"] == pytest.approx(made.evaluate()["val_loss"])
    assert (same["series"], same["scored_rows"]) == (3, 6 + 5 + 10)
    mixed = {"x": SERIES["x"], "y": short["y"], "new": SERIES["z"], "z": SERIES["z"][1:]}
    path.write_text(text_of(mixed))
    firsts = dict(zip(mixed, (30, 18, 6, 6), strict=True))
    expected = made.metrics([one.split(firsts[str(one.id)]) for one in read(mixed)])
    assert made.measure([str(path)]) == expected | {"scored_rows": 10 + 5 + 54 + 53, "series": 4}
    with pytest.raises(DataError, match="expected one series to draw, got 4"):
        made.compare([str(path)])
    path.write_text(text_of({"x": SERIES["x"]}))
    column, first, rows = made.compare([str(path)])
    assert (len(column), first, len(rows["forecast"])) == (40, 30, 10)


# -------------------------------------------------------------------------------------------------- mistakes


def test_short_series_are_left_out_with_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    short = SERIES | {"s": values(9, 3), "t": values(4, 4)}
    with caplog.at_level(logging.WARNING):
        made = task(short)
    assert caplog.messages == [
        "s.csv: left out 2 of 5 series, which have too few rows before the validation set, to train on (6 to look at, "
        "2 to forecast): 's' (7 of 8), 't' (2 of 8)"
    ]
    assert made._data["series"].keys() == SERIES.keys()
    assert made.evaluate() == task().evaluate()
    caplog.clear()
    assert [one.facts["id"] for one in made.predict_lines(lines(short))] == ["x", "y", "z", "s"]
    assert caplog.messages == ["s.csv: left out 1 of 5 series, which have too few rows, to forecast from: 't' (4 of 6)"]
    (tmp_path / "s.csv").write_text(text_of({"t": short["t"], "s": short["s"]}))
    assert made.measure([str(tmp_path / "s.csv")])["series"] == 1
    with pytest.raises(
        DataError, match=r"^s\.csv: expected at least 6 rows, to forecast from, got 4 in 't', the longest o"
    ):
        made.predict_lines(lines({"t": short["t"]}))
    with pytest.raises(
        DataError, match=r"s\.csv: expected at least 8 rows before the val.*, got 7 of 9 in 's', the long"
    ):
        task({"s": short["s"], "t": short["t"]})
    with pytest.raises(DataError, match=r"^input\[1\]: expected at least 6 rows, to forecast from, got 4$"):
        made.predict([short["s"], short["t"]])
    every = [Series("s", ("a",), np.zeros((1, 1)), str, id=str(n)) for n in range(20)]
    long_enough(every, [2] * 19 + [1], "")
    assert caplog.messages[-1].endswith("'8' (1 of 2), '9' (1 of 2), ...")


def test_an_id_that_comes_back_is_located() -> None:
    text = text_of({"x": SERIES["x"][:3], "y": SERIES["y"][:2]}) + "x,1,2\n"
    message = (
        r"^s\.csv:7: id 'x' comes back: line 2 has it too, 'y' is between; expected all rows of a sequence together$"
    )
    with pytest.raises(DataError, match=message):
        select_series(parse_table("s.csv", text), "a", ["b"], id="name")
    for column, inputs, message in (("name", [], "'name' is named twice"), ("a", ["name"], "'name' is named twice")):
        with pytest.raises(OptionError, match=message):
            select_series(parse_table("s.csv", text), column, inputs, id="name")
    with pytest.raises(DataError, match="no column 'id'"):
        select_series(parse_table("s.csv", text), "a", id="id")
    numbers = parse_table("s.csv", "a,b,id\n1,2,0\n3,4,0\n")
    assert select_series(numbers, id="id")[0].names == ("b",)


def test_what_a_model_of_many_series_does_not_do_is_said(tmp_path: Path) -> None:
    made = task()
    with pytest.raises(
        OptionError, match="step: expected a model of one row after another; use predict, for it reads many"
    ):
        made.initial_state()
    with pytest.raises(OptionError, match="learn: expected a forecaster of the mean of one series"):
        learner(made)
    for name in ("model.py", "model.h"):
        with pytest.raises(OptionError, match=r"export: .* has no forecasters with .*future or id; expected onnx"):
            mr.export(made, tmp_path / name)
    with pytest.raises(DataError, match="input: expected one series, got 3; predict_files forecasts each of a file"):
        made.predict(text_of(SERIES))
    assert made.predict(text_of({"x": SERIES["x"]}))["id"] == "x"


def test_files_and_pipes_have_a_forecast_for_each_series(tmp_path: Path) -> None:
    made = task()
    (tmp_path / "s.csv").write_text(text_of(SERIES))
    expected = made.predict_lines(lines(SERIES))
    assert made.predict_files([str(tmp_path / "s.csv")]) == expected
    assert list(made.predict_batches([line] for line in lines(SERIES))) == [expected]


# -------------------------------------------------------------------------------------------------- runs


def test_runs_are_resumed_and_fine_tuned(tmp_path: Path) -> None:
    run(Trainer(task(), TrainingConfig(steps=4, final_lr=1), tmp_path / "whole"))
    run(Trainer(task(), TrainingConfig(steps=2, final_lr=1), tmp_path / "run"))
    run(Trainer(task(), TrainingConfig(steps=4, final_lr=1), tmp_path / "run", resume=True))
    loaded = [tasks.load(tmp_path / name / "last.safetensors") for name in ("whole", "run")]
    assert loaded[0].predict_lines(lines(SERIES)) == loaded[1].predict_lines(lines(SERIES))
    assert loaded[0].preprocessor.id == "name"
    for other in (SERIES | {"x": SERIES["x"] + 1}, {"w" if k == "x" else k: v for k, v in SERIES.items()}):
        with pytest.raises(CheckpointError, match="the data is not the one the run started with"):
            Trainer(task(other), TrainingConfig(steps=5), tmp_path / "run", resume=True)
    tuned = Forecaster.build(read({"x": SERIES["x"]}), ForecasterConfig(id="name", seq_length=6), init_from=loaded[0])
    assert tuned.preprocessor.horizon == 2
    np.testing.assert_array_equal(tuned.model.head.weight.numpy(), loaded[0].model.head.weight.numpy())
    one = [replace(read(SERIES)[0], id=None)]
    assert Forecaster.build(one, ForecasterConfig(seq_length=6), init_from=loaded[0]).preprocessor.id is None


def test_a_small_series_is_learnt_as_a_large_one_is() -> None:
    """The next value is that of the other column: at any level and size the error falls below the naive one's."""
    series = {}
    for n, (level, size) in enumerate(((0, 1), (1e6, 1e4), (-5, 1e-3))):
        other = np.random.default_rng(n).standard_normal(161)
        series[str(n)] = np.stack([level + size * other[:-1], other[1:]], 1)
    config = ForecasterConfig(id="name", seq_length=4, hidden_size=16, season=1, log=False)
    made = Forecaster.build(read(series), config)
    run(Trainer(made, TrainingConfig(steps=250, lr=1e-2)))
    for one in made._validation:
        found = made.metrics([one])
        assert found["rmse"] < 0.5 * found["persistence_rmse"]
