"""The forecaster: baselines, no look at the future, metrics by hand, learning, columns; see also test_tasks.py."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import needs_many_steps, perturb, run

import minirnn as mr
from minirnn.data.forecasting import Series, base_forecasts, choose_base, select_series
from minirnn.data.tables import Scaler, parse_table
from minirnn.data.windows import Preprocessor
from minirnn.errors import DataError, OptionError
from minirnn.metrics import pinball_loss
from minirnn.nn import functional as F
from minirnn.tasks import Line
from minirnn.tasks.forecaster import Forecaster, ForecasterConfig
from minirnn.tasks.online import learner
from minirnn.training import Trainer, TrainingConfig


def text_of(*columns: Any) -> str:
    """A table with the columns a, b, c...; the first comes last, where it is found without being named."""
    rows = zip(*columns[1:], columns[0], strict=True)
    header = ["time", *"bcd"[: len(columns) - 1], "a"]
    written = (f"t{n}," + ",".join(repr(float(value)) for value in row) for n, row in enumerate(rows))
    return "\n".join([",".join(header), *written])


def make(*columns: Any) -> Series:
    return select_series(parse_table("s.csv", text_of(*columns)), None, tuple("bcd"[: len(columns) - 1]))[0]


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
    return Forecaster.build([make(*columns)], ForecasterConfig(**settings | options))


def fit(series: Series, seq_length: int, horizon: int, season: int | None = None, **options: Any) -> Preprocessor:
    return Preprocessor.fit([series], seq_length, horizon, season, **options)[0]


# --------------------------------------------------------------------------------------------- plain forecasts


def test_base_forecasts_of_an_example() -> None:
    x = np.array([1.0, 2, 4, 2, 5, 9, 100, 100])
    three = {base: base_forecasts(x, 6, 2, base, 3).tolist() for base in ("last", "season", "trend")}
    # from the rows up to 9: a season of 3 ago came 2 and 5; the latest rows are 9 - 4 = 5 above theirs
    assert three == {"last": [[9, 9]], "season": [[2, 5]], "trend": [[7, 10]]}
    one = {base: base_forecasts(x, 6, 2, base, 1).tolist() for base in ("last", "season", "trend")}
    assert one == {"last": [[9, 9]], "season": [[9, 9]], "trend": [[13, 17]]}  # 9 + 4, 9 + 2 * 4


@given(
    st.lists(st.integers(-50, 50), min_size=12, max_size=20),
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from(["last", "season", "trend"]),
    st.data(),
)
def test_base_forecasts_match_their_formula(
    numbers: list[int], season: int, horizon: int, base: str, data: st.DataObject
) -> None:
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
        (np.sin(np.arange(60) / 9), 1, "trend"),  # smooth: the change continues
        (np.tile([0.0, 5, 1, 7], 2), 4, "last"),  # too short to tell
        (np.full(30, 2.5), 3, "last"),
    ],
)
def test_the_base_with_the_smallest_error_on_the_training_rows_is_chosen(
    values: np.ndarray, season: int, base: str
) -> None:
    view = fit(make(values), 3, 1, season, log=False)
    assert view.base == base
    assert view.first_row == {"trend": max(3, season + 1), "season": max(3, season), "last": 3}[base]
    errors = base_forecasts(values, view.first_row, 1, base, season)[:, 0] - values[view.first_row :]
    expected = math.sqrt(np.mean(errors**2)) or view.scaler.std[0]
    assert view.spread == pytest.approx([expected])


def test_a_base_is_chosen_even_where_squares_overflow() -> None:
    values = np.tile([1, 5, 2.0], 20) * 1e300
    made = [choose_base([Scaler.fit(x).apply(x)[:, 0]], 1, 3) for x in (values[:, None], values[:, None] / 1e300)]
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
def test_logarithms_are_taken_where_the_spread_grows_with_the_level(values: np.ndarray, log: bool) -> None:
    view = fit(make(values), 5, 1, 6)
    assert view.log is log
    x = np.log(values) if log else values
    assert view.scaler.mean == pytest.approx([x.mean()])
    assert fit(make(values), 5, 1, 6, log=False).log is False


# ---------------------------------------------------------------------------------------------------- windows


def test_inputs_and_targets_of_an_example() -> None:
    a, b = np.array([1.0, 3, 2, 6, 4, 8]), np.array([10.0, 20, 10, 20, 10, 20])
    view = fit(make(a, b), 3, 2, 2, base="season")
    examples = view.examples([make(a, b).split(3)])
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


def test_forecasts_are_in_units_of_the_column() -> None:
    """A model whose outputs are the targets forecasts the true values."""
    trained = perturb(task(growing(), noise(90), horizon=3))
    view, series = trained.preprocessor, make(growing(), noise(90))
    assert view.log
    assert view.base == "trend"
    examples = view.examples([series.split(60)])
    x = examples.base + view.spread * examples.targets(slice(None))
    np.testing.assert_allclose(view.values(x)[:, 2], growing()[62:])
    outputs = trained.model(examples.inputs(slice(None)).astype(np.float32)).numpy()
    assert np.abs(outputs).min() > 0
    np.testing.assert_allclose(trained.forecasts(examples), examples.base + view.spread * outputs, rtol=1e-6)
    assert Preprocessor.from_config(json.loads(json.dumps(view.to_config()))).to_config() == view.to_config()


def test_huge_forecasts_stay_finite() -> None:
    view = fit(make(growing()), 5, 1, 6)
    assert np.isfinite(view.values(np.array([1e5, 710.0]))).all()


@given(st.integers(8, 39), st.integers(0, 1), st.floats(-1e3, 1e3))
def test_inputs_and_base_do_not_depend_on_later_rows(row: int, column: int, value: float) -> None:
    values = [noise(40), noise(40, 1)]
    before = fit(make(*values), 5, 2, 7, base="trend")
    examples = before.examples([make(*values).split(8)])
    values[column] = values[column].copy()
    values[column][row:] = value
    changed = before.examples([make(*values).split(8)])
    count = max(0, row - 8 + 1)  # windows whose last row is before it
    assert changed.inputs(slice(None))[:, :count].tobytes() == examples.inputs(slice(None))[:, :count].tobytes()
    assert changed.base[:count].tobytes() == examples.base[:count].tobytes()
    assert (changed.inputs(slice(None))[:, count:] != examples.inputs(slice(None))[:, count:]).any() or row > 37


def test_training_does_not_depend_on_the_validation_rows() -> None:
    """Neither season, base, logarithm and scales nor any weight."""
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


def test_the_targets_of_an_epoch_are_the_training_rows() -> None:
    made = task(growing(), horizon=2, val_fraction=0.3)
    assert made._data["train_rows"] == 63
    made.start_epoch(0)
    seen = np.concatenate([made._examples.expected[batch] for batch in made._order])
    expected = np.lib.stride_tricks.sliding_window_view(np.log(growing()[7:63]), 2)
    assert sorted(map(tuple, seen)) == sorted(map(tuple, expected))
    assert made.num_batches == -(-len(expected) // 8)


# ------------------------------------------------------------------------------------------- loss and metrics


def test_the_loss_is_the_squared_error_and_a_penalty_on_weights_per_window() -> None:
    plain, pulled = (perturb(task(growing(), penalty=penalty)) for penalty in (0.0, 6.0))
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
    loss = plain.batch_loss(batch, 0.0)[0].item()
    assert pulled.batch_loss(batch, 0.0)[0].item() - loss == pytest.approx(6 / 65 * squares)
    outputs = plain.model(plain._examples.inputs(batch))
    assert loss == pytest.approx(F.mse_loss(outputs, plain._examples.targets(batch)).item(), rel=1e-12)


def test_an_untrained_model_forecasts_its_base() -> None:
    """In units of the base's own error the loss on the training rows is 1."""
    made = task(growing())
    found = made.metrics([make(growing()[:72]).split(made.preprocessor.first_row)])
    assert found["loss"] == pytest.approx(1)
    assert found["rmse"] == pytest.approx(found["base_rmse"])
    assert made._examples.targets(slice(None)).std() > 0.9


def test_metrics_match_a_computation_by_hand() -> None:
    a, b = growing(), noise(90)
    made = perturb(task(a, b, horizon=2, season=6))
    model, view = made.model, made.preprocessor
    found = made.metrics([make(a, b).split(72)])
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


def test_the_beginning_of_a_long_validation_set_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.tasks.forecaster.MAX_EVAL_ROWS", 4)
    monkeypatch.setattr("minirnn.tasks.forecaster.EVAL_BATCH_SIZE", 3)
    made = perturb(task(growing()))
    assert made.evaluate()["rmse"] == made.metrics([make(growing()[:76]).split(72)])["rmse"]


# ------------------------------------------------------------------------------------------------- training


@needs_many_steps
def test_it_learns_what_no_baseline_can() -> None:
    """The next value is the last value of the other column."""
    other = noise(301)
    made = task(other[:-1], other[1:], seq_length=4, hidden_size=16, batch_size=32)
    assert made.preprocessor.base == "last"
    steps = list(Trainer(made, TrainingConfig(steps=400, lr=1e-2)).fit())
    found = made.metrics([make(other[:-1], other[1:]).split(made._data["train_rows"])])
    assert found["persistence_rmse"] > 1.2
    assert found["rmse"] < 0.3
    assert steps[-1].metrics == {"val_loss": found["loss"], "rmse": found["rmse"], "mae": found["mae"]}


@needs_many_steps
def test_it_does_not_overfit_a_short_random_walk() -> None:
    """However long it is trained: a random walk is best forecast by its last value."""
    walk = noise(60).cumsum()
    made = task(walk, hidden_size=16)
    for _ in Trainer(made, TrainingConfig(steps=600, lr=1e-2, final_lr=0.001, evaluations=1)).fit():
        pass
    found = made.metrics([make(walk).split(made._data["train_rows"])])
    assert found["rmse"] == pytest.approx(found["persistence_rmse"], rel=0.03)


# ---------------------------------------------------------------------------------------------- eval and predict


def test_measure_scores_rows_that_were_not_trained_on(tmp_path: Path) -> None:
    a, b = growing(120), noise(120)
    made = perturb(task(a[:90], b[:90], horizon=2))
    later = made.measure([write(tmp_path, a, b)])
    assert later == made.metrics([make(a, b).split(90)]) | {"scored_rows": 30, "first_row": 91}
    same = made.measure([write(tmp_path, a[:90], b[:90])])
    assert same == made.metrics([make(a[:90], b[:90]).split(72)]) | {"scored_rows": 18, "first_row": 73}
    assert same["loss"] == made.evaluate()["val_loss"]
    new = made.measure([write(tmp_path, a[1:], b[1:])])
    assert new == made.metrics([make(a[1:], b[1:]).split(7)]) | {"scored_rows": 112, "first_row": 8}
    with pytest.raises(DataError, match=r"s\.csv: expected at least 92 rows to score 2 of them, got 91"):
        made.measure([write(tmp_path, a[:91], b[:91])])
    with pytest.raises(DataError, match=r"s\.csv: expected at least 9 rows to score 2 of them, got 8"):
        made.measure([write(tmp_path, a[-8:], b[-8:])])
    with pytest.raises(OptionError, match="one table at a time, got 2"):
        made.measure(["s.csv", "s.csv"])


def test_measure_of_another_table_starts_after_a_season(tmp_path: Path) -> None:
    """So that all baselines are compared on the same rows."""
    made = task(noise(80), season=11, base="last")
    found = made.measure([write(tmp_path, noise(40, 5))])
    assert (found["scored_rows"], found["first_row"]) == (29, 12)
    x = noise(40, 5)
    assert found["seasonal_naive_rmse"] == pytest.approx(math.sqrt(np.mean((x[11:] - x[:-11]) ** 2)))
    assert found["persistence_mae"] == pytest.approx(np.abs(np.diff(x[10:])).mean())


def test_measure_ignores_other_columns(tmp_path: Path) -> None:
    made = perturb(task(growing()[:72]))
    expected = made.measure([write(tmp_path, growing())])
    assert expected["first_row"] == 73
    rows = [f"{value!r};x;{n}" for n, value in enumerate(growing().tolist())]
    (tmp_path / "o.csv").write_text("\n".join(["a;text;n", *rows]))
    assert made.measure([str(tmp_path / "o.csv")]) == expected


def test_predict_forecasts_the_rows_after_the_table(tmp_path: Path) -> None:
    a, b = growing(91), noise(91)
    made = perturb(task(a[:60], b[:60], horizon=3))
    (prediction,) = made.predict_lines(lines(a[:88], b[:88]))
    examples = made.preprocessor.examples([make(a, b).split(88)])
    expected = made.preprocessor.values(made.forecasts(examples))
    assert prediction.facts == {"column": "a", "horizon": expected[0].tolist()}
    assert prediction.text == "\n".join(f"{k}\t{value:.6g}" for k, value in enumerate(expected[0], 1))
    needed = lines(a[88 - made.preprocessor.first_row : 88], b[88 - made.preprocessor.first_row : 88])
    short = made.predict_lines(needed)[0].facts["horizon"]  # older rows count for nothing
    np.testing.assert_allclose(short, expected[0], rtol=1e-12)
    with pytest.raises(DataError, match=r"^s\.csv: expected at least 7 rows, to forecast from, got 6$"):
        made.predict_lines([needed[0], *needed[2:]])


@pytest.mark.parametrize("values", [np.full(40, 7.0), np.tile([1.0, 3.0, 2.0], 14), np.arange(40.0)])
def test_series_that_the_base_forecasts_exactly(values: np.ndarray) -> None:
    """There is no division by zero, and forecasts are right."""
    made = task(values)
    run(Trainer(made, TrainingConfig(steps=2)))
    found = made.predict_lines(lines(values))[0].facts["horizon"]
    next_value = 2 * values[-1] - values[-2] if values[-1] == 39 else values[-3]
    assert found == pytest.approx([next_value], abs=0.05)


def test_a_zero_in_the_validation_set_of_a_logarithm_is_reported() -> None:
    values = growing()
    values[80] = 0
    made = task(values)
    assert made.preprocessor.log  # the training rows cannot know
    with pytest.raises(DataError, match=r"^s\.csv:82: column 'a': expected a number above 0.*log=False"):
        made.evaluate()


def test_columns_may_not_be_named_twice() -> None:
    table = parse_table("s.csv", text_of(noise(5), noise(5)))
    for column, inputs in ((None, ["a"]), ("b", ["b"]), ("a", ["b", "b"])):
        with pytest.raises(OptionError, match="is named twice"):
            select_series(table, column, inputs)
    assert select_series(table, "b", ["a"])[0].names == ("b", "a")


# ---------------------------------------------------------------------------------------------------- quantiles


def test_quantiles_are_in_order_and_measured_by_hand(tmp_path: Path) -> None:
    """Coverage is that of the lowest and the highest quantile, the point forecast is the middle one."""
    columns = growing(60), noise(60)
    made = perturb(task(*columns, horizon=2, quantiles="0.1,0.5,0.9", log=False, base="last"))
    series = make(*columns)
    examples = made.preprocessor.examples([series.split(20)])
    with made.model.evaluating():
        outputs = made.model(examples.inputs(slice(None))).numpy().astype(np.float64).reshape(-1, 2, 3)
    assert (np.diff(outputs, axis=2) < 0).any()  # they cross
    x = np.array([[[b + s * y for y in sorted(o)] for b, s, o in zip(bs, made.preprocessor.spread, os, strict=True)]
                  for bs, os in zip(examples.base, outputs, strict=True)])  # fmt: skip
    np.testing.assert_allclose(made.forecasts(examples), x, rtol=1e-6)
    column, losses, inside = columns[0], [], []
    for n, rows in enumerate(x):
        for k, quantiles in enumerate(rows):
            e = [column[20 + n + k] - y for y in quantiles]
            losses += [max(q * d, (q - 1) * d) for q, d in zip((0.1, 0.5, 0.9), e, strict=True)]
            inside.append(e[0] >= 0 >= e[2])
    metrics = made.metrics([series.split(20)])
    assert metrics["pinball"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert metrics["coverage"] == pytest.approx(np.mean(inside))
    assert metrics["mae"] == pytest.approx(np.mean(np.abs(x[:, :, 1] - examples.expected)), rel=1e-6)

    run(Trainer(made, TrainingConfig(steps=1), tmp_path / "run"))
    loaded = Forecaster.load(tmp_path / "run/last.safetensors")
    found = loaded.predict(text_of(*columns))
    assert found["quantiles"].keys() == {"0.1", "0.5", "0.9"}
    assert found["horizon"] == found["quantiles"]["0.5"]
    low, middle, high = (np.array(values) for values in found["quantiles"].values())
    assert ((low <= middle) & (middle <= high)).all()
    (printed,) = loaded.predict_lines(lines(*columns))
    assert printed.text.splitlines()[1] == f"2\t{low[1]:.6g}\t{middle[1]:.6g}\t{high[1]:.6g}"


def test_the_loss_of_quantiles_is_the_pinball_loss() -> None:
    made = perturb(task(growing(), horizon=2, quantiles="0.25,0.5", penalty=0.0))
    numbers = np.array([4, 9, 2])
    loss, _ = made.batch_loss(numbers, 0.0)
    y = made.model(made._examples.inputs(numbers)).numpy().reshape(3, 2, 2)
    assert loss.item() == pytest.approx(pinball_loss(y, made._examples.targets(numbers), (0.25, 0.5)), rel=1e-5)


@needs_many_steps
def test_quantiles_learn_the_spread_of_the_noise(tmp_path: Path) -> None:
    """The 0.1- and 0.9-quantile of independent noise are those of the normal distribution."""
    made = task(noise(1500), horizon=1, quantiles="0.1,0.5,0.9", season=1, penalty=5.0, batch_size=64)
    run(Trainer(made, TrainingConfig(steps=400, lr=1e-2), tmp_path / "run"))
    made = Forecaster.load(tmp_path / "run/best.safetensors")
    series = make(noise(1500, seed=1))
    assert made.metrics([series.split(10)])["coverage"] == pytest.approx(0.8, abs=0.05)
    low, middle, high = (made.predict(text_of(noise(40, seed=2)))["quantiles"][q][0] for q in ("0.1", "0.5", "0.9"))
    assert (low, middle, high) == (
        pytest.approx(-1.28, abs=0.4),
        pytest.approx(0, abs=0.4),
        pytest.approx(1.28, abs=0.4),
    )


def test_quantiles_in_exported_programs(tmp_path: Path) -> None:
    columns = growing(60), noise(60)
    made = perturb(task(*columns, horizon=2, quantiles="0.1,0.9", log=True))
    mr.export(made, tmp_path / "model.py")
    rows = np.stack(columns, 1)[-30:].tolist()
    code = f"from model import predict; print(predict({rows}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = np.array(list(made.predict(rows)["quantiles"].values())).T
    np.testing.assert_allclose(ast.literal_eval(done.stdout), expected, rtol=1e-5)
    with pytest.raises(
        OptionError, match="export: c has no forecasters with quantiles, future or id; expected onnx, or numpy for q"
    ):
        mr.export(made, tmp_path / "model.h")
    with pytest.raises(
        OptionError, match="learn: expected a forecaster of the mean of one series, from the past alone; got one with q"
    ):
        learner(made)


# ------------------------------------------------------------------------------------------- known in advance


def future_task(**options: Any) -> Forecaster:
    """The columns a, b and c, of which c is known in advance."""
    table = parse_table("s.csv", text_of(growing(60), noise(60), noise(60, 1)))
    settings = {"seq_length": 7, "hidden_size": 5, "batch_size": 8, "horizon": 3, "season": 6, "log": False}
    return Forecaster.build(select_series(table, "a", ["b"], ["c"]), ForecasterConfig(**settings | options))


def test_inputs_known_in_advance_are_those_of_the_rows_to_forecast() -> None:
    made = future_task()
    series = make(growing(60), noise(60), noise(60, 1))
    inputs = made.preprocessor.examples([series.split(20)]).inputs(np.array([4]))
    scaler = made.preprocessor.scaler
    later = np.tanh((series.values[24:27, 2] - scaler.mean[2]) / scaler.std[2] / 2)
    assert inputs.shape == (7, 1, 1 + 3 + 3)
    np.testing.assert_allclose(inputs[:, 0, 4:], np.tile(later, (7, 1)), rtol=1e-12)
    assert made.model.config["input_size"] == 7


@pytest.mark.parametrize("options", [{}, {"log": True, "quantiles": "0.1,0.9"}])
def test_a_table_to_predict_says_what_is_known_of_the_rows_to_come(options: dict[str, Any], tmp_path: Path) -> None:
    """The forecast is the one that measuring makes at these rows; the other columns may be empty there."""
    made = perturb(future_task(**options))
    columns = growing(60), noise(60), noise(60, 1)
    examples = made.preprocessor.examples([make(*columns).split(40)])
    expected = made.preprocessor.values(made.forecasts(examples))[0]
    array = np.stack(columns, 1)[20:43]
    array[-3:, 0] = array[-2:, 1] = np.nan
    text = "t,b,c,a\n" + "".join(f"{n},{b},{c},{a}\n" for n, (a, b, c) in enumerate(array.tolist())).replace("nan", "")
    for table in (array, text):
        found = made.predict(table)
        values = np.array(list(found["quantiles"].values())).T if "quantiles" in options else found["horizon"]
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    run(Trainer(made, TrainingConfig(steps=1), tmp_path / "run"))
    loaded = Forecaster.load(tmp_path / "run/last.safetensors")
    assert loaded.preprocessor.future == ("c",)
    assert loaded.predict(array) == made.predict(array)
    other = array.copy()
    other[-1, 2] += 1
    assert loaded.predict(other) != loaded.predict(array)


def test_rows_to_come_that_are_not_as_expected_are_refused(tmp_path: Path) -> None:
    made = future_task()
    rows = np.stack([growing(30), noise(30), noise(30, 1)], 1)
    message = "the last 3 rows are to be forecast: expected c, and nothing as a"
    with pytest.raises(DataError, match=rf"input\[27\]: {message}"):
        made.predict(rows)
    rows[-3:, 0] = rows[-1, 2] = np.nan
    with pytest.raises(DataError, match=rf"input\[29\]: {message}"):
        made.predict(rows)
    rows[5, 1] = np.nan
    with pytest.raises(DataError, match=r"input\[5\]: column 'b': expected a finite number"):
        made.predict(rows)
    text = "b,c,a\n" + "1,2,3\n" * 20 + "1,,\n" * 3
    with pytest.raises(DataError, match=rf"input:22: {message}"):
        made.predict(text)
    with pytest.raises(DataError, match=r"input:24: column 'a': expected a finite number, got 'x'"):
        made.predict(text.removesuffix("1,,\n") + "1,1,x\n")
    with pytest.raises(DataError, match=r"input: expected at least 7 rows, to forecast from, got 1"):
        made.predict("b,c,a\n1,2,3\n" + ",2,\n" * 3)
    batches = [[Line(line, f"x:{n}")] for n, line in enumerate(("b,c,a\n" + "1,2,3\n" * 20 + "1,4,\n" * 3).split(), 1)]
    (found,) = made.predict_batches(batches)
    assert found == made.predict_lines([line for (line,) in batches])
    with pytest.raises(OptionError, match="step: expected a model of one row after another; use predict, for"):
        made.initial_state()
    with pytest.raises(OptionError, match="export: numpy has no forecasters with future or id; expected onnx"):
        mr.export(made, tmp_path / "model.py")
    with pytest.raises(OptionError, match=r"future: expected 1 columns, as the trained model reads \(c\), got 0"):
        Forecaster.build([make(growing(60), noise(60), noise(60))], ForecasterConfig(seq_length=7), init_from=made)


@needs_many_steps
def test_what_is_known_in_advance_is_used(tmp_path: Path) -> None:
    """A value that follows from a column in the same row can be forecast only if this column is known."""
    known = noise(400, 5)
    table = parse_table("s.csv", text_of(3 * known + 10, known))
    for inputs, future, bounds in ((["b"], [], (2, 4)), ([], ["b"], (0, 0.6))):
        config = ForecasterConfig(seq_length=4, hidden_size=16, season=1, log=False, penalty=0.0)
        made = Forecaster.build(select_series(table, "a", inputs, future), config)
        run(Trainer(made, TrainingConfig(steps=300, lr=1e-2), tmp_path / f"run{len(future)}"))
        assert bounds[0] < made.evaluate()["rmse"] < bounds[1]
