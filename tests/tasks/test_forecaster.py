"""Forecasting: plain forecasts by their formula, nothing seen of the future, and what the network makes of them."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run

from minirnn import checkpoint
from minirnn.data.tables import parse_table
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.nn import functional as F
from minirnn.runs import BEST, LAST, METRICS
from minirnn.tasks import Line
from minirnn.tasks.forecaster import Forecaster, ForecasterConfig, Preprocessor, Series, _choose_base, base_forecasts
from minirnn.training import Trainer, TrainingConfig

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))


def text_of(*columns: Any) -> str:
    """A table with the columns a, b, c...; the first comes last, where it is found without being named."""
    rows = zip(*columns[1:], columns[0], strict=True)
    header = ["time", *"bcd"[: len(columns) - 1], "a"]
    written = (f"t{n}," + ",".join(repr(float(value)) for value in row) for n, row in enumerate(rows))
    return "\n".join([",".join(header), *written])


def make(*columns: Any) -> Series:
    return Series.of(parse_table("s.csv", text_of(*columns)), None, tuple("bcd"[: len(columns) - 1]))


def write(folder: Path, *columns: Any) -> str:
    (folder / "s.csv").write_text(text_of(*columns))
    return str(folder / "s.csv")


def lines(*columns: Any) -> list[Line]:
    return [Line(text, f"s.csv:{number}") for number, text in enumerate(text_of(*columns).splitlines(), 1)]


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def growing(count: int = 90) -> np.ndarray:
    """A season of 6 rows that grows with its level."""
    t = np.arange(count)
    return (20 + t) * (1 + 0.3 * np.sin(2 * np.pi * t / 6)) * np.exp(0.02 * noise(count))


def task(*columns: Any, **options: Any) -> Forecaster:
    settings = {"seq_length": 7, "hidden_size": 5, "batch_size": 8, "seed": 0}
    return Forecaster.build(make(*columns), ForecasterConfig(**settings | options))


def fit(series: Series, seq_length: int, horizon: int, season: int | None = None, **options: Any) -> Preprocessor:
    return Preprocessor.fit(series, ForecasterConfig(seq_length=seq_length, horizon=horizon, season=season, **options))


def stirred(task: Forecaster) -> Forecaster:
    """With weights such that the network says something."""
    for parameter in task.model.parameters():
        parameter.data[...] += np.random.default_rng(3).normal(0, 0.3, parameter.shape)
    return task


# --------------------------------------------------------------------------------------------- plain forecasts


def test_bases_by_hand() -> None:
    x = np.array([1.0, 2, 4, 2, 5, 9, 100, 100])
    three = {base: base_forecasts(x, 6, 2, base, 3).tolist() for base in ("last", "season", "trend")}
    # from the rows up to 9: a season of 3 ago came 2 and 5; the latest rows are 9 - 4 = 5 above theirs
    assert three == {"last": [[9, 9]], "season": [[2, 5]], "trend": [[7, 10]]}
    one = {base: base_forecasts(x, 6, 2, base, 1).tolist() for base in ("last", "season", "trend")}
    assert one == {"last": [[9, 9]], "season": [[9, 9]], "trend": [[13, 17]]}  # 9 + 4, 9 + 2 * 4


@given(
    st.lists(st.integers(-50, 50), min_size=12, max_size=20), st.integers(1, 5), st.integers(1, 6),
    st.sampled_from(["last", "season", "trend"]), st.data(),
)  # fmt: skip
def test_bases_are_their_formula(numbers: list[int], season: int, horizon: int, base: str, data: st.DataObject) -> None:
    x = np.array(numbers, float)
    first = data.draw(st.integers(season + 1, len(x) - horizon))
    found = base_forecasts(x, first, horizon, base, season)
    assert found.shape == (len(x) - first - horizon + 1, horizon)
    for n, row in enumerate(found):
        t = first + n - 1
        known = list(x[: t + 1])
        growth = x[t] - x[t - season]
        for k in range(1, horizon + 1):
            # step by step: of a season before, which may be a forecast itself
            known.append(known[t + k - season] + (growth if base == "trend" else 0))
            assert row[k - 1] == (x[t] if base == "last" else known[-1])


@pytest.mark.parametrize(
    ("values", "season", "base"),
    [
        (growing(), 6, "trend"),
        (np.tile([0.0, 5, 1, 7], 12) + 0.2 * noise(48), 4, "season"),
        (noise(200).cumsum(), 6, "last"),
        (np.sin(np.arange(60) / 9), 1, "trend"),  # smooth: the change goes on
        (np.tile([0.0, 5, 1, 7], 2), 4, "last"),  # too short to tell
        (np.full(30, 2.5), 3, "last"),
    ],
)
def test_the_base_is_chosen_by_the_training_rows(values: np.ndarray, season: int, base: str) -> None:
    view = fit(make(values), 3, 1, season, log=False)
    assert view.base == base
    assert view.first_row == {"trend": max(3, season + 1), "season": max(3, season), "last": 3}[base]
    errors = base_forecasts(values, view.first_row, 1, base, season)[:, 0] - values[view.first_row :]
    expected = math.sqrt(np.mean(errors**2)) or view.scaler.std[0]
    assert view.spread == pytest.approx([expected])


def test_a_base_is_chosen_where_squares_overflow() -> None:
    values = np.tile([1, 5, 2.0], 20) * 1e300
    made = [_choose_base(values * scale, 1, 3) for scale in (1, 1e-300)]
    assert made == ["season", "season"]


def test_a_base_must_be_clearly_better() -> None:
    """Squared errors of the season are 0.6 of those of the last value: more than half."""
    e = noise(4000)
    wave = np.tile([1.0, -1, 0.4, -0.4], 1000) * 0.6
    x = wave + e  # last: 2 + E[(change of the wave)^2]; season: 2
    last, season = np.mean(np.diff(x) ** 2), np.mean((x[4:] - x[:-4]) ** 2)
    assert 0.5 < season / last < 0.8
    assert fit(make(x), 3, 1, 4).base == "last"
    x = 3 * wave + e
    assert np.mean((x[4:] - x[:-4]) ** 2) / np.mean(np.diff(x) ** 2) < 0.4
    assert fit(make(x), 3, 1, 4).base == "season"


@pytest.mark.parametrize(
    ("values", "log"),
    [
        (growing(), True),
        (np.r_[growing()[:-1], 0], False),  # not all above 0
        (100 + np.tile([0.0, 5, 1, 7, 3, 2], 15) + 0.1 * noise(90), False),
        (200 + np.arange(90) + 5 * noise(90), False),  # grows, its spread does not
        (np.full(90, 3.0), False),
        (growing(47), False),  # 7 seasons of 6 are 3 stretches of 12: too few to tell
    ],
)
def test_logarithms_where_the_spread_grows_with_the_level(values: np.ndarray, log: bool) -> None:
    view = fit(make(values), 5, 1, 6)
    assert view.log is log
    x = np.log(values) if log else values
    assert view.scaler.mean == pytest.approx([x.mean()])
    assert fit(make(values), 5, 1, 6, log=False).log is False


# ---------------------------------------------------------------------------------------------------- windows


def test_what_the_model_sees() -> None:
    a, b = np.array([1.0, 3, 2, 6, 4, 8]), np.array([10.0, 20, 10, 20, 10, 20])
    view = fit(make(a, b), 3, 2, 2, base="season")
    examples = view.examples(make(a, b), 3)
    assert len(examples) == 2
    scaled = (a - a.mean()) / a.std(), (b - 15) / 5
    seen = examples.inputs(slice(None))
    assert seen.shape == (3, 2, 3)
    for n in range(2):
        window = slice(n, n + 3)
        np.testing.assert_allclose(seen[:, n, 0], scaled[0][window] - scaled[0][n + 2], atol=1e-15)
        np.testing.assert_allclose(seen[:, n, 1], np.tanh(scaled[0][window] / 2), atol=1e-15)
        np.testing.assert_allclose(seen[:, n, 2], np.tanh([-0.5, 0.5, -0.5] if n == 0 else [0.5, -0.5, 0.5]))
    assert examples.expected.tolist() == [[6, 4], [4, 8]]
    assert examples.base.tolist() == [[3, 2], [2, 6]]
    spread = np.sqrt([(9 + 4) / 2, (4 + 4) / 2])
    np.testing.assert_allclose(view.spread, spread)
    np.testing.assert_allclose(examples.targets(np.array([1])), [[2, 2] / spread])


def test_forecasts_undo_all_that_was_done() -> None:
    """A model that gave the targets themselves would forecast what comes true, in the column's own units."""
    trained = stirred(task(growing(), noise(90), horizon=3))
    view, series = trained.preprocessor, make(growing(), noise(90))
    assert view.log
    assert view.base == "trend"
    examples = view.examples(series, 60)
    x = examples.base + view.spread * examples.targets(slice(None))
    np.testing.assert_allclose(view.values(x)[:, 2], growing()[62:])
    outputs = trained.model(examples.inputs(slice(None)).astype(np.float32)).numpy()
    assert np.abs(outputs).min() > 0
    np.testing.assert_allclose(examples.forecasts(trained.model), examples.base + view.spread * outputs, rtol=1e-6)
    assert Preprocessor.from_config(json.loads(json.dumps(view.to_config()))).to_config() == view.to_config()


def test_forecasts_beyond_all_numbers_stay_finite() -> None:
    view = fit(make(growing()), 5, 1, 6)
    assert np.isfinite(view.values(np.array([1e5, 710.0]))).all()


@given(st.integers(8, 39), st.integers(0, 1), st.floats(-1e3, 1e3))
def test_no_window_and_no_forecast_sees_later_rows(row: int, column: int, value: float) -> None:
    """Whatever stands in a row, nothing that ends before it is another, to the last bit."""
    values = [noise(40), noise(40, 1)]
    before = fit(make(*values), 5, 2, 7, base="trend")
    examples = before.examples(make(*values), 8)
    values[column] = values[column].copy()
    values[column][row:] = value
    changed = before.examples(make(*values), 8)
    count = max(0, row - 8 + 1)  # windows whose last row is before it
    assert changed.inputs(slice(None))[:, :count].tobytes() == examples.inputs(slice(None))[:, :count].tobytes()
    assert changed.base[:count].tobytes() == examples.base[:count].tobytes()
    assert (changed.inputs(slice(None))[:, count:] != examples.inputs(slice(None))[:, count:]).any() or row > 37


def test_training_sees_nothing_of_the_validation_part() -> None:
    """Season, base, logarithm, scales, windows, and every weight learnt are those of the training rows alone."""
    values, other = growing(), growing()
    other[72:] = 1e4 * np.abs(noise(18))
    runs = []
    for column in (values, other):
        made = task(column, noise(90), seed=4)
        assert made._data["train_rows"] == 72
        for _ in Trainer(made, TrainingConfig(steps=3, evaluations=1)).fit():
            pass
        runs.append((made.preprocessor.to_config(), {k: v.tobytes() for k, v in made.model.state_dict().items()}))
    assert runs[0] == runs[1]
    alone = fit(make(values[:72], noise(90)[:72]), 7, 1)
    assert alone.to_config() == runs[0][0]
    assert task(values, noise(90)).evaluate() != task(other, noise(90)).evaluate()


def test_every_training_row_that_can_be_is_a_target_and_no_other() -> None:
    made = task(growing(), horizon=2, val_fraction=0.3)
    assert made._data["train_rows"] == 63
    made.start_epoch(0)
    seen = np.concatenate([made._examples.expected[batch] for batch in made._order])
    expected = np.lib.stride_tricks.sliding_window_view(np.log(growing()[7:63]), 2)
    assert sorted(map(tuple, seen)) == sorted(map(tuple, expected))
    assert made.num_batches == -(-len(expected) // 8)


# ------------------------------------------------------------------------------------------- loss and metrics


def test_a_window_among_others_counts_as_alone() -> None:
    """Loss and gradients of a batch are the means of those of its windows."""
    made = stirred(task(growing(), noise(90), horizon=2, penalty=0.0))
    made.model.to("float64")
    batch = np.array([5, 0, 17, 3, 4])

    def losses(examples: np.ndarray) -> tuple[float, list[np.ndarray]]:
        made.model.zero_grad()
        loss, count = made.batch_loss(examples, 0.0)
        assert count == 2 * len(examples)
        loss.backward()
        return loss.item(), [p.grad.numpy().copy() for p in made.model.parameters() if p.grad is not None]

    whole, gradients = losses(batch)
    alone = [losses(batch[n : n + 1]) for n in range(5)]
    assert whole == pytest.approx(np.mean([loss for loss, _ in alone]), rel=1e-12)
    for k, gradient in enumerate(gradients):
        np.testing.assert_allclose(gradient, np.mean([g[k] for _, g in alone], axis=0), rtol=1e-9, atol=1e-13)
    together = made._examples.forecasts(made.model)
    for n in (0, 9):
        one = made.model(made._examples.inputs(np.array([n]))).numpy()
        np.testing.assert_allclose(together[n], made._examples.base[n] + made.preprocessor.spread * one[0], rtol=1e-12)


def test_the_penalty_is_shared_among_the_windows() -> None:
    plain, pulled = (stirred(task(growing(), penalty=penalty)) for penalty in (0.0, 6.0))
    assert len(pulled._examples) == 72 - 7
    batch = np.arange(4)
    gradients = []
    for made in (plain, pulled):
        made.model.to("float64")
        made.batch_loss(batch, 0.0)[0].backward()
        gradients.append({name: p.grad.numpy() for name, p in made.model.named_parameters()})
    squares = 0.0
    for name, p in plain.model.named_parameters():
        weight = p.numpy() if "bias" not in name else np.zeros(p.shape)
        squares += (weight**2).sum()
        np.testing.assert_allclose(gradients[1][name] - gradients[0][name], 2 * 6 / 65 * weight, atol=1e-12)
    difference = pulled.batch_loss(batch, 0.0)[0].item() - plain.batch_loss(batch, 0.0)[0].item()
    assert difference == pytest.approx(6 / 65 * squares)


def test_an_untrained_model_is_its_base() -> None:
    """In units of the base's own error the loss on the training rows is 1."""
    made = task(growing())
    found = made.metrics(make(growing()[:72]), made.preprocessor.first_row)
    assert found["loss"] == pytest.approx(1)
    assert found["rmse"] == pytest.approx(found["base_rmse"])
    assert made._examples.targets(slice(None)).std() > 0.9


def test_metrics_are_those_of_one_forecast_after_another() -> None:
    a, b = growing(), noise(90)
    made = stirred(task(a, b, horizon=2, season=6))
    model, view = made.model, made.preprocessor
    found = made.metrics(make(a, b), 72)
    x = np.log(a)
    scaled = np.stack([x, b], 1) - view.scaler.mean
    scaled /= view.scaler.std
    forecasts, truth, last, season, base = [], [], [], [], []
    for t in range(71, 88):
        window = scaled[t - 6 : t + 1]
        seen = np.concatenate([window[:, :1] - window[-1, 0], np.tanh(window / 2)], 1)[:, None].astype(np.float32)
        growth = x[t] - x[t - 6]
        base.append(np.exp([x[t - 5] + growth, x[t - 4] + growth]))
        forecasts.append(base[-1] * np.exp(view.spread * model(seen).numpy()[0]))
        truth.append(a[t + 1 : t + 3])
        last.append([a[t]] * 2)
        season.append(a[t - 5 : t - 3])
    for name, those in (("", forecasts), ("persistence_", last), ("seasonal_naive_", season), ("base_", base)):
        errors = np.subtract(those, truth)
        assert found[f"{name}rmse"] == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-5)
        if name != "base_":
            assert found[f"{name}mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    errors = (np.log(forecasts) - np.log(truth)) / view.spread
    assert found["loss"] == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert made.evaluate() == {"val_loss": found["loss"], "rmse": found["rmse"], "mae": found["mae"]}


def test_a_long_validation_part_is_cut_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.tasks.forecaster.MAX_EVAL_ROWS", 4)
    monkeypatch.setattr("minirnn.tasks.forecaster.EVAL_BATCH_SIZE", 3)
    made = stirred(task(growing()))
    assert made.evaluate()["rmse"] == made.metrics(make(growing()[:76]), 72)["rmse"]


# ------------------------------------------------------------------------------------------------- training


@pytest.mark.skipif(SMALL, reason="needs some hundred steps")
def test_it_learns_what_no_plain_forecast_can() -> None:
    """The next value is the other column's last one: nothing of it is in the column's own past."""
    other = noise(301)
    made = task(other[:-1], other[1:], seq_length=4, hidden_size=16, batch_size=32)
    assert made.preprocessor.base == "last"
    steps = list(Trainer(made, TrainingConfig(steps=400, lr=1e-2)).fit())
    found = made.metrics(make(other[:-1], other[1:]), made._data["train_rows"])
    assert found["persistence_rmse"] > 1.2
    assert found["rmse"] < 0.3
    assert steps[-1].metrics == {"val_loss": found["loss"], "rmse": found["rmse"], "mae": found["mae"]}


@pytest.mark.skipif(SMALL, reason="needs some hundred steps")
def test_a_short_series_without_structure_leaves_the_base_as_it_is() -> None:
    """However long it is trained: a random walk is best forecast by its last value."""
    walk = noise(60).cumsum()
    made = task(walk, hidden_size=16)
    for _ in Trainer(made, TrainingConfig(steps=600, lr=1e-2, final_lr=0.001, evaluations=1)).fit():
        pass
    found = made.metrics(make(walk), made._data["train_rows"])
    assert found["rmse"] == pytest.approx(found["persistence_rmse"], rel=0.03)


def contents(folder: Path) -> tuple:
    """Everything a run wrote, but the times."""
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    files = []
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(folder / name)
        config["position"].pop("seconds")
        files.append(({key: (a.shape, a.tobytes()) for key, a in arrays.items()}, config))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows], files


def test_a_cut_run_goes_on_as_if_uncut(tmp_path: Path) -> None:
    def made() -> Forecaster:
        return task(growing(), noise(90), horizon=2, dropout=0.3, num_layers=2, seed=5)

    options = TrainingConfig(steps=12, evaluations=3, log_every=1)
    run(Trainer(made(), options, tmp_path / "whole"))
    run(Trainer(made(), options, tmp_path / "cut"), 5)
    run(Trainer(made(), options, tmp_path / "cut", resume=True))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    run(Trainer(task(growing(), noise(90), horizon=2, dropout=0.3, num_layers=2, seed=6), options, tmp_path / "other"))
    assert contents(tmp_path / "other") != contents(tmp_path / "whole")


def test_resume_refuses_other_data_and_options_by_name(tmp_path: Path) -> None:
    options = TrainingConfig(steps=1)
    run(Trainer(task(growing()), options, tmp_path))
    changed = growing()
    changed[-1] += 1
    for other, message in (
        (task(changed), "the data is not the one"),
        (task(growing(), penalty=2.0), "penalty was 5.0, now it is 2.0"),
        (task(growing(), seq_length=8), "seq_length was 7, now it is 8"),
        (task(growing(), season=5), "season was 6, now it is 5"),
        (task(growing(), horizon=2), "output_size was 1, now it is 2"),
        (task(growing(), val_fraction=0.3), "train_rows was 72, now it is 63"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Trainer(other, options, tmp_path, resume=True)


# ------------------------------------------------------------------------------------------------ at work


def test_eval_scores_what_was_not_trained_on(tmp_path: Path) -> None:
    a, b = growing(120), noise(120)
    made = stirred(task(a[:90], b[:90], horizon=2))
    forecaster, whole = made, make(a, b)
    later = forecaster.measure([write(tmp_path, a, b)])
    assert later == made.metrics(whole, 90) | {"scored_rows": 30, "first_row": 91}
    same = forecaster.measure([write(tmp_path, a[:90], b[:90])])
    assert same == made.metrics(make(a[:90], b[:90]), 72) | {"scored_rows": 18, "first_row": 73}
    assert same["loss"] == made.evaluate()["val_loss"]
    new = forecaster.measure([write(tmp_path, a[1:], b[1:])])
    assert new == made.metrics(make(a[1:], b[1:]), 7) | {"scored_rows": 112, "first_row": 8}
    with pytest.raises(
        DataError, match=r"s\.csv: expected at least 92 rows, 90 before those to score and 2 to forecast"
    ):
        forecaster.measure([write(tmp_path, a[:91], b[:91])])
    with pytest.raises(DataError, match=r"s\.csv: expected at least 9 rows, 7 before .*, got 8"):
        forecaster.measure([write(tmp_path, a[-8:], b[-8:])])
    with pytest.raises(OptionError, match="one table at a time, got 2"):
        forecaster.measure(["s.csv", "s.csv"])


def test_eval_of_a_new_table_waits_for_a_season(tmp_path: Path) -> None:
    """So that all forecasts are compared on the same rows."""
    made = task(noise(80), season=11, base="last")
    found = made.measure([write(tmp_path, noise(40, 5))])
    assert (found["scored_rows"], found["first_row"]) == (29, 12)
    x = noise(40, 5)
    assert found["seasonal_naive_rmse"] == pytest.approx(math.sqrt(np.mean((x[11:] - x[:-11]) ** 2)))
    assert found["persistence_mae"] == pytest.approx(np.abs(np.diff(x[10:])).mean())


def test_eval_looks_at_the_columns_of_the_model_only(tmp_path: Path) -> None:
    made = stirred(task(growing()[:72]))
    expected = made.measure([write(tmp_path, growing())])
    assert expected["first_row"] == 73
    rows = [f"{value!r};x;{n}" for n, value in enumerate(growing().tolist())]
    (tmp_path / "o.csv").write_text("\n".join(["a;text;n", *rows]))
    assert made.measure([str(tmp_path / "o.csv")]) == expected


def test_a_forecast_is_that_of_the_row_to_come(tmp_path: Path) -> None:
    a, b = growing(91), noise(91)
    made = stirred(task(a[:60], b[:60], horizon=3))
    forecaster = made
    (prediction,) = forecaster.predict(lines(a[:88], b[:88]))
    examples = made.preprocessor.examples(make(a, b), 88)
    expected = made.preprocessor.values(examples.forecasts(made.model))
    assert prediction.facts == {"column": "a", "horizon": expected[0].tolist()}
    assert prediction.text == "\n".join(f"{k}\t{value:.6g}" for k, value in enumerate(expected[0], 1))
    needed = lines(a[88 - made.preprocessor.first_row : 88], b[88 - made.preprocessor.first_row : 88])
    short = forecaster.predict(needed)[0].facts["horizon"]  # older rows count for nothing
    np.testing.assert_allclose(short, expected[0], rtol=1e-12)
    with pytest.raises(DataError, match=r"^s\.csv: expected at least 7 rows, to forecast from, got 6$"):
        forecaster.predict([needed[0], *needed[2:]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "standard input:1: expected a header"),
        (["b,a"], "s.csv: no row below the header"),
        (["b,a", "1,2", "3"], "s.csv:3: expected 2 columns as in the header, got 1"),
        (["b,a", "1,2", "3,x"], "s.csv:3: column 'a': expected a finite number, got 'x'"),
        (["b,c", "1,2"], "s.csv: no column 'a'; there are 'b', 'c'"),
        (["b,a", "x,3", "x,0"], "s.csv:3: column 'a': expected a number above 0, since the model takes logarithms"),
    ],
)
def test_tables_that_cannot_be_forecast(rows: list[str], message: str) -> None:
    made = task(growing(), seq_length=1, season=1, base="last", log=True)
    with pytest.raises(DataError) as caught:
        made.predict([Line(row, f"s.csv:{number}") for number, row in enumerate(rows, 1)])
    assert str(caught.value).startswith(message)


def test_lines_that_stand_nowhere() -> None:
    made = task(growing())
    with pytest.raises(DataError, match=r"^the text given:2: column 'a'"):
        made.predict([Line("a", "the text given"), Line("x", "the text given")])


def test_checkpoints(tmp_path: Path) -> None:
    made = task(growing(), noise(90), horizon=2, cell="gru", bidirectional=True)
    run(Trainer(made, TrainingConfig(steps=4, lr=0.1, evaluations=1), tmp_path))
    loaded = Forecaster.load(tmp_path / BEST)
    assert loaded.predict(lines(growing(), noise(90))) == made.predict(lines(growing(), noise(90)))
    source = write(tmp_path, growing(), noise(90))
    assert loaded.measure([source]) == made.measure([source])
    arrays, config = checkpoint.load(tmp_path / BEST)
    for change in (
        {"spread": [1.0]}, {"spread": [1.0, 0.0]}, {"base": "none"}, {"season": 0}, {"horizon": "2"}, {"inputs": []},
        {"scaler": {"mean": [0.0, 0.0]}},
    ):  # fmt: skip
        checkpoint.save(tmp_path / "x", arrays, config | {"series": config["series"] | change})
        with pytest.raises(CheckpointError, match="is damaged"):
            Forecaster.load(tmp_path / "x")
    checkpoint.save(tmp_path / "x", arrays, {name: config[name] for name in config if name != "data"})
    with pytest.raises(CheckpointError, match="is damaged"):
        Forecaster.load(tmp_path / "x")
    checkpoint.save(tmp_path / "x", arrays, config | {"task": "char"})
    with pytest.raises(CheckpointError, match="expected a forecaster"):
        Forecaster.load(tmp_path / "x")


# -------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        ((noise(8),), {}, DataError, "s.csv: expected at least 8 rows, to train on (7 to look at, 1 to forecast), got 6"
         ": of the table's 8 rows 2 validate, 6 are left"),
        ((noise(1),), {}, DataError, "got 0: of the table's 1 rows 1 validate, 0 are left"),
        ((noise(15),), {"horizon": 20}, DataError, "s.csv: expected at least 27 rows, to train on (7 to look at, 20 to "
         "forecast), got 0: of the table's 15 rows 15 validate, 0 are left"),
        ((noise(20),), {"season": 16}, DataError, "expected at least 18 rows, to train on (a season of 16 before 1 to"),
        ((noise(20),), {"horizon": 20}, DataError, "expected at least 27 rows"),
        ((noise(20),), {"horizon": 0}, OptionError, "horizon: expected an int of at least 1, got 0"),
        ((noise(20),), {"season": 0}, OptionError, "season: expected an int of at least 1, got 0"),
        ((noise(20),), {"base": "mean"}, OptionError, "base: expected one of last, season, trend, got 'mean'"),
        ((noise(20),), {"val_fraction": 1.0}, OptionError, "val_fraction: expected a number of at least 0.001"),
        ((noise(20),), {"penalty": -1.0}, OptionError, "penalty: expected a number of at least 0, got -1.0"),
        ((noise(20),), {"batch_size": 0}, OptionError, "batch_size: expected an int of at least 1"),
        ((noise(20),), {"log": True}, DataError, "s.csv:3: column 'a': expected a number above 0"),
        ((np.r_[noise(29), np.inf],), {"val_fraction": 0.01}, DataError, "expected a finite number, got 'inf'"),
    ],
)  # fmt: skip
def test_mistakes(columns: tuple, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        task(*columns, **options)
    assert message in str(caught.value)


def test_a_zero_in_the_validation_part_of_a_logarithm() -> None:
    values = growing()
    values[80] = 0
    made = task(values)
    assert made.preprocessor.log  # the training rows cannot know
    with pytest.raises(DataError, match=r"^s\.csv:82: column 'a': expected a number above 0.*log=False"):
        made.evaluate()


def test_columns_named_twice() -> None:
    table = parse_table("s.csv", text_of(noise(5), noise(5)))
    for column, inputs in ((None, ["a"]), ("b", ["b"]), ("a", ["b", "b"])):
        with pytest.raises(OptionError, match="is named twice"):
            Series.of(table, column, inputs)
    assert Series.of(table, "b", ["a"]).names == ("b", "a")


@pytest.mark.parametrize("values", [np.full(40, 7.0), np.tile([1.0, 3.0, 2.0], 14), np.arange(40.0)])
def test_series_that_a_plain_forecast_knows(values: np.ndarray) -> None:
    """Without errors to learn from: no division by zero, and forecasts that are right."""
    made = task(values)
    run(Trainer(made, TrainingConfig(steps=2)))
    found = made.predict(lines(values))[0].facts["horizon"]
    next_value = 2 * values[-1] - values[-2] if values[-1] == 39 else values[-3]
    assert found == pytest.approx([next_value], abs=0.05)


def test_the_loss_is_of_the_targets() -> None:
    made = task(growing(), penalty=0.0)
    batch = np.array([1, 2])
    expected = F.mse_loss(np.zeros((2, 1)), made._examples.targets(batch)).item()
    assert made.batch_loss(batch, 0.0)[0].item() == pytest.approx(expected)
