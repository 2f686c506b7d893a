"""Pictures: what is drawn in characters, decoded again, and what is given to matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import run
from tiny import TASKS

from minirnn import metrics
from minirnn.errors import CheckpointError, OptionError
from minirnn.plot import (
    Chart,
    ConfusionMatrix,
    Curve,
    PianoRoll,
    has_window,
    learning_curves,
    picture_of,
    save,
    show,
    to_ascii,
)
from minirnn.runs import METRICS
from minirnn.tasks import Line
from minirnn.tasks.music import ComposeConfig
from minirnn.training import Trainer, TrainingConfig

NUMBERS = np.arange(9.0)


def dots(text: str) -> np.ndarray:
    """The dots of the braille characters in a chart: bool [4 rows, 2 columns]."""
    rows = [line[max(line.find("┤"), line.find("│")) + 1 :] for line in text.splitlines() if set(line) & {"┤", "│"}]
    width = max(max((n for n, c in enumerate(row) if "⠀" < c <= "⣿"), default=-1) for row in rows) + 1
    cells = np.array([[ord(c) - 0x2800 if "⠀" < c <= "⣿" else 0 for c in row[:width].ljust(width)] for row in rows])
    order = [[0, 3], [1, 4], [2, 5], [6, 7]]  # bits of a character, by row and column
    return np.block([[cells[i, j] >> np.array(order) & 1 for j in range(width)] for i in range(len(cells))]).astype(
        bool
    )


def figure(picture: Any) -> Any:
    plt = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed (extra: plot)")
    made = plt.Figure()
    picture.draw(made)
    return made


# ------------------------------------------------------------------------------------------------------ curves


def test_curves_in_characters_pass_through_their_points() -> None:
    line = dots(Chart([Curve("y", NUMBERS, 2 * NUMBERS)], "x", "y").text(40, height=6))
    height, width = line.shape
    assert [*np.flatnonzero(line[:, 0]), *np.flatnonzero(line[:, -1])] == [height - 1, 0]
    columns = np.arange(width)
    middle = [np.flatnonzero(line[:, j]).mean() for j in columns]
    np.testing.assert_allclose(middle, (height - 1) * (1 - columns / (width - 1)), atol=0.75)


def test_a_logarithmic_axis_makes_powers_straight_and_leaves_zeros_out() -> None:
    log = Chart([Curve("y", NUMBERS, 10.0**-NUMBERS)], "x", "y", log=True).text(50)
    straight = dots(Chart([Curve("y", NUMBERS, -NUMBERS)], "x", "y").text(50 - len("1e-8") + len("-8")))
    np.testing.assert_array_equal(dots(log), straight)
    assert "1e-8┤" in log
    gap = np.where(NUMBERS == 4, 0, 10.0**-NUMBERS)
    shown = dots(Chart([Curve("y", NUMBERS, gap)], "x", "y", log=True).text(50))
    middle = shown.shape[1] // 2
    assert not shown[:, middle - 2 : middle + 2].any()
    assert shown[:, : middle // 2].any(0).all()


@pytest.mark.parametrize("width", [30, 80, 133])
def test_the_text_fits_the_width_and_names_curves_at_their_ends(width: int) -> None:
    curves = [Curve(name, NUMBERS, np.full(9, y)) for name, y in (("low", 0.0), ("high", 3.0), ("higher", 3.01))]
    chart = Chart([*curves, Curve("none", NUMBERS, np.full(9, np.nan))], "step", "loss", "title")
    lines = chart.text(width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert [line.split()[-1] for line in lines if line.endswith(("low", "high", "higher"))] == ["higher", "high", "low"]
    assert lines[1].endswith("higher")
    assert lines[-1].strip() == "step"
    assert set(to_ascii(chart.text(width))) <= set(map(chr, range(10, 127)))
    assert "\x1b[34m" in chart.text(width, color=True)


@pytest.mark.parametrize("y", [[5.0], [0.0, 0.0], [1e30, 1e30], [-1e-9, 1e-9], [np.nan, 2.0, np.nan]])
def test_curves_of_one_value_and_of_extreme_ones(y: list[float]) -> None:
    text = Chart([Curve("y", np.arange(len(y)), np.array(y))], "x", "y").text(40)
    assert dots(text).any()
    assert text.count("┤") >= 1


def test_nothing_to_draw_is_said() -> None:
    assert Chart([Curve("y", NUMBERS, NUMBERS * np.nan)], "x", "y").text() == "nothing to draw"


def test_matplotlib_gets_the_same_points(tmp_path: Path) -> None:
    chart = Chart([Curve("a", NUMBERS, NUMBERS**2), Curve("b", NUMBERS, -NUMBERS, True, 1)], "x", "y", "title")
    below, above = figure(chart).axes[0].lines
    np.testing.assert_array_equal(above.get_xydata(), np.stack([NUMBERS, NUMBERS**2], 1))
    assert (below.get_linestyle(), below.get_label(), above.get_label()) == ("--", "b", "a")
    for name, start in {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.PDF": b"%PDF"}.items():
        save(chart, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    first = (tmp_path / "a.png").read_bytes()
    save(chart, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == first
    with pytest.raises(OptionError, match=r"ends in \.png, \.svg, \.pdf"):
        save(chart, tmp_path / "a.txt")


def test_a_window_shows_the_picture_where_there_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed (extra: plot)")
    pyplot.switch_backend("agg")
    assert not has_window()
    monkeypatch.setattr(pyplot, "get_backend", lambda: "QtAgg")
    monkeypatch.setattr(pyplot, "switch_backend", lambda name: None)
    assert has_window()
    shown: list[Any] = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf()))
    show(Chart([Curve("$a$", NUMBERS, NUMBERS)], "x", "$"))
    assert shown[0].axes[0].get_ylabel() == r"\$"
    shown[0].canvas.draw()
    pyplot.close("all")


# ------------------------------------------------------------------------------------------ matrices and music


def test_confusion_matrix_counts_a_row_for_each_true_class() -> None:
    predicted, target = [0, 1, 1, 2, 0, 0], [0, 1, 0, 2, 2, 0]
    counts = metrics.confusion_matrix(predicted, target, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert np.trace(counts) / counts.sum() == metrics.accuracy(predicted, target)
    matrix = ConfusionMatrix(counts, ["a", "bb", "c", "d"])
    lines = [line.split() for line in matrix.text(40).splitlines()]
    assert [" ".join(line) for line in lines[1:5]] == ["true a bb c d", "a 2 1 · ·", "bb · 1 · ·", "c 1 · 1 ·"]
    assert lines[-1] == ["4", "of", "6", "right"]
    merged = matrix.merged(2)
    assert (merged.labels, merged.counts.tolist()) == (["a", "others"], [[2, 1], [1, 2]])
    image = figure(matrix).axes[0].images[0].get_array()
    np.testing.assert_allclose(image, [[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 0]])


def test_piano_roll_has_two_pitches_in_a_row() -> None:
    piece = [(60,), (61, 63), (), (60, 61)]
    text = PianoRoll(piece, given=1).text(40)
    assert text.splitlines() == ["    │ ▀", "  C4│▄▀ █", "    └1───", "     step; the first 1 given"]
    assert len(PianoRoll(piece * 20).text(45).splitlines()) == 2 * 3 + 1
    assert PianoRoll([(), ()]).text(40).splitlines()[0] == "  C4│"
    image = figure(PianoRoll(piece)).axes[0].images[0].get_array()
    assert image.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]]


# ------------------------------------------------------------------------------------------------------- tasks


def made(name: str, folder: Path, **changed: Any) -> tuple[Any, str]:
    path = TASKS[name].write(folder)
    return TASKS[name].make(path, **changed), str(path)


def test_pictures_of_labels_agree_with_the_measured_accuracy(tmp_path: Path) -> None:
    for name in ("classifier", "tagger"):
        task, path = made(name, tmp_path)
        picture = picture_of(task, [path])
        assert isinstance(picture, ConfusionMatrix)
        assert picture.counts.sum() == (45 if name == "classifier" else 72)
        accuracy = np.trace(picture.counts) / picture.counts.sum()
        assert accuracy == pytest.approx(task.measure([path])["accuracy"])
        expected = [label for label in TASKS[name].data.split() if label in task.labels.names]
        assert picture.counts.sum(1).tolist() == [expected.count(label) for label in picture.labels]


@pytest.mark.parametrize("horizon", [1, 4])
def test_forecasts_over_the_true_series(tmp_path: Path, horizon: int) -> None:
    task, path = made("forecaster", tmp_path, horizon=horizon, season=5)
    column, first, forecasts = task.compare([path])
    assert first + 1 == task.measure([path])["first_row"]
    rows = TASKS["forecaster"].data.splitlines()
    for start in range(0, len(forecasts["forecast"]), horizon):
        table = [Line(line) for line in rows[: 1 + first + start]]
        found = task.predict_lines(table)[0].facts["horizon"]
        np.testing.assert_allclose(forecasts["forecast"][start : start + horizon], found)
        assert (forecasts["persistence"][start : start + horizon] == column[first + start - 1]).all()
        seasonal = column[first + start - 5 : first + start - 5 + horizon]
        np.testing.assert_array_equal(forecasts["seasonal_naive"][start : start + horizon], seasonal)
    curves = {curve.label: curve for curve in picture_of(task, [path]).curves}  # type: ignore[union-attr]
    assert list(curves) == ["forecast", "true", "last value", "last season"]
    np.testing.assert_array_equal(curves["true"].y, column[curves["true"].x - 1])
    assert curves["forecast"].x[0] == first + 1


def test_a_composed_piece(tmp_path: Path) -> None:
    task, _ = made("music", tmp_path)
    roll = picture_of(task, [], [Line("C4,E4")], {"length": 7, "seed": 3})
    assert isinstance(roll, PianoRoll)
    assert (roll.piece, roll.given) == (task.compose([(60, 64)], ComposeConfig(length=7, seed=3)), 1)
    with pytest.raises(OptionError, match="one beginning of a piece, got 2"):
        picture_of(task, [], [Line("C4"), Line("D4")])
    with pytest.raises(CheckpointError, match="no picture of data for a character model"):
        picture_of(made("char", tmp_path)[0], ["x"])


# -------------------------------------------------------------------------------------------------------- runs


def test_learning_curves_are_the_lines_of_the_metrics_file(tmp_path: Path) -> None:
    task, _ = made("char", tmp_path)
    run(Trainer(task, TrainingConfig(steps=12, log_every=2, evaluations=3), tmp_path / "a"))
    lines = [json.loads(line) for line in (tmp_path / "a" / METRICS).read_text().splitlines()]
    evaluated = [line for line in lines if "val_loss" in line]
    val, train = learning_curves([tmp_path / "a" / "best.safetensors"], "symbols").curves
    assert (val.label, val.dashed, train.label, train.dashed) == ("val_loss", False, "train_loss", True)
    assert val.x.tolist() == [line["tokens"] for line in evaluated]
    assert val.y.tolist() == [line["val_loss"] for line in evaluated]
    assert train.y.tolist() == [line["train_loss"] for line in lines]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / METRICS).write_text(
        '{"step": 1, "seconds": 600.0, "lr": 0.5, "val_loss": null}\n{"step": 2, "sec'
    )
    lr = learning_curves([tmp_path / "a", tmp_path / "b"], "time", "lr")
    assert [curve.label for curve in lr.curves] == ["a", "b"]
    assert (lr.x_label, lr.curves[1].x.tolist(), lr.curves[1].y.tolist()) == ("time (minutes)", [10.0], [0.5])
    assert lr.curves[0].color != lr.curves[1].color


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not the folder of a run: it has no metrics.jsonl"),
        (b"", "holds no line yet"),
        (b"\xff\xfe\n", "not text"),
        (b'{"step": 1}\n{"st\n', ":2: expected a JSON object of numbers"),
        (b"[1]\n", ":1: expected a JSON object"),
        (b'{"step": 1, "val_loss": "low"}\n', ":1: expected a JSON object"),
        (b"[" * 100_000 + b"\n", ":1: expected a JSON object"),
    ],
)
def test_metrics_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / METRICS).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        learning_curves([tmp_path])
    assert "\n" not in str(raised.value)
