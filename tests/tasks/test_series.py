"""Numeric sequences: what the model reads of them, labels of sequences and steps, numbers, and anomalies."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import close, needs_many_steps, perturb, run

import minirnn as mr
from minirnn import tasks
from minirnn.data.series import Layout, Preprocessor, Sequences, parse_sequences
from minirnn.data.tables import Scaler
from minirnn.errors import DataError, OptionError, ShapeError
from minirnn.nn import functional as F
from minirnn.runs import BEST
from minirnn.tasks.series import Autoencoder, SeriesConfig, SeriesModel
from minirnn.training import Trainer, TrainingConfig

NAN = np.nan
SIZE: dict[str, Any] = {"hidden_size": 5, "batch_size": 4}


def sequences(count: int = 24, missing: bool = True, seed: int = 0) -> Sequences:
    """Waves of two columns and different lengths; the label is the sign of the slope, one for each step."""
    rng, values, labels = np.random.default_rng(seed), [], []
    for n in range(count):
        t = np.arange(rng.integers(2, 9))[:, None]
        rows = rng.normal(0, 0.3, (len(t), 2)) + t * (1, -2) * (-1) ** n + (5, 100)
        values.append(np.where(rng.random(rows.shape) < 0.2 * missing, NAN, rows))
        labels.append([("down" if n % 2 else "up")] * len(t))
    where = [f"x:{n}" for n in range(count)]
    return Sequences(("a", "b"), values, where, where, labels)


def whole(data: Sequences, to: Callable[[Any], str] = str) -> Sequences:
    """With the first label of each sequence for all of it."""
    assert data.labels is not None
    return Sequences(data.names, data.values, data.ids, data.where, [[to(part[0])] for part in data.labels])


def made(data: Sequences, **options: Any) -> SeriesModel:
    return perturb(SeriesModel.build(data, SeriesConfig(**SIZE | options)))


# ----------------------------------------------------------------------------------------------- preprocessing


def preprocessor(missing: bool = True, seq_length: int | None = None) -> Preprocessor:
    scaler = Scaler(np.array([1.0, 10.0]), np.array([2.0, 5.0]))
    return Preprocessor(("a", "b"), None, None, "class", False, seq_length, missing, scaler, scaler)


def test_a_missing_value_is_the_last_one_or_the_mean_and_is_marked() -> None:
    values = np.array([[NAN, 0], [3, NAN], [NAN, NAN], [5, 20]])
    filled = [[0, -2], [1, -2], [1, -2], [2, 2]]
    marks = [[0, 1], [1, 0], [0, 0], [1, 1]]
    found = preprocessor().scaled(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate([filled, marks], 1))
    np.testing.assert_array_equal(preprocessor(missing=False).scaled(values), filled)


def test_scales_and_marks_follow_from_the_training_set_alone() -> None:
    data = whole(sequences())
    task = made(data, val_fraction=0.5)
    held = {id(one) for one in task._validation.values}
    train = np.concatenate([one for one in data.values if id(one) not in held])
    assert 0 < len(held) < len(data)
    np.testing.assert_allclose(task.preprocessor.scaler.mean, np.nanmean(train, 0), rtol=1e-12)
    np.testing.assert_allclose(task.preprocessor.scaler.std, np.nanstd(train, 0), rtol=1e-12)
    assert task.preprocessor.missing
    assert task.model.config["input_size"] == 4
    assert made(whole(sequences(missing=False))).model.config["input_size"] == 2


def test_a_column_without_any_value_is_read_as_its_mean() -> None:
    data = whole(sequences())
    for values in data.values:
        values[:, 0] = NAN
    task = made(data)
    np.testing.assert_array_equal(task.inputs(data)[0][:, 0], 0)
    assert np.isfinite(task.evaluate()["val_loss"])


@pytest.mark.parametrize(("steps", "starts"), [(2, [0]), (5, [0]), (6, [0, 1]), (10, [0, 5]), (13, [0, 5, 8])])
def test_windows_cover_a_sequence_and_the_last_one_ends_with_it(steps: int, starts: list[int]) -> None:
    assert preprocessor(seq_length=5).starts(steps) == starts
    assert preprocessor().starts(steps) == [0]


def test_what_labels_are() -> None:
    data = sequences()
    for first, kind in (("1", "class"), ("1.5", "number"), ("x", "class"), ("nan", "class")):
        labelled = whole(data, lambda label, first=first: first if label == "up" else "2.0")
        assert made(labelled).preprocessor.kind == kind
    assert made(whole(data, lambda label: str(len(label))), target="number").preprocessor.kind == "number"
    unlabelled = Sequences(data.names, data.values, data.ids, data.where, None)
    assert made(unlabelled, anomalies=True).preprocessor.kind == "anomaly"
    with pytest.raises(DataError, match="x:0: expected labels, got none; without labels a model can learn anomalies"):
        made(unlabelled)


# ------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("every_step", [False, True])
def test_classes_are_those_of_the_model(every_step: bool) -> None:
    data = sequences() if every_step else whole(sequences())
    task = made(data, every_step=every_step)
    arrays = data.values[:5]
    found, losses, right = task.predict(arrays), list[float](), list[bool]()
    for array, labels, one in zip(arrays, data.labels or (), found, strict=False):
        with task.model.evaluating():
            y = task.model(task.preprocessor.scaled(array)[:, None])
        logits = (y[0] if every_step else y).numpy().reshape(-1, 2).astype(np.float64)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        predicted = [("down", "up")[k] for k in p.argmax(1)]
        if every_step:
            assert one == {"labels": predicted, "probabilities": pytest.approx(p.max(1).tolist(), rel=1e-5)}
        else:
            probabilities = dict(zip(("down", "up"), p[0], strict=True))
            assert one["label"] == predicted[0]
            assert one["probability"] == max(one["probabilities"].values())
            assert one["probabilities"] == pytest.approx(probabilities, rel=1e-5)
        losses += [-np.log(row[("down", "up").index(label)]) for row, label in zip(p, labels, strict=True)]
        right += [a == b for a, b in zip(predicted, labels, strict=True)]
    metrics = task.metrics(data.take(np.arange(5)))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("every_step", [False, True])
def test_numbers_are_in_the_units_of_the_labels(every_step: bool) -> None:
    data = sequences()
    data = Sequences(*(getattr(data, n) for n in ("names", "values", "ids", "where")), [  # type: ignore[arg-type]
        [str(1000 + 50.5 * k + n) for k in range(len(v))] for n, v in enumerate(data.values)
    ])  # fmt: skip
    data = data if every_step else whole(data)
    task = made(data, every_step=every_step, target="number")
    found = [one["values"] if every_step else [one["value"]] for one in task.predict(data.values)]
    expected = [[float(label) for label in part] for part in data.labels or ()]
    errors = np.concatenate(found) - np.concatenate(expected)
    metrics = task.metrics(data)
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)
    assert metrics["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    assert metrics["loss"] == pytest.approx(np.mean((errors / task.preprocessor.target_scaler.std) ** 2), rel=1e-6)
    held = {id(one) for one in task._validation.values}
    train = [label for one, part in zip(data.values, expected, strict=True) if id(one) not in held for label in part]
    np.testing.assert_allclose(task.preprocessor.target_scaler.mean, [np.mean(train)], rtol=1e-12)


def test_python_input() -> None:
    """One array or list of numbers is a sequence, several are a list of arrays or one of three dimensions."""
    task = made(whole(sequences()))
    x = np.array([[1, 2], [NAN, 4], [5, 6.0]])
    one = task.predict(x)
    assert task.predict(x.tolist()) == one
    assert task.predict([x]) == task.predict(x[None]) == [one]
    assert task.predict([x, x[:2]]) == [close(one, 1e-5), close(task.predict(x[:2]), 1e-5)]
    assert task.predict([]) == []
    with pytest.raises(DataError, match="input: expected an array of numbers, got a text; predict_files reads files"):
        task.predict("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"input\[1\]: expected at least one step, got none"):
        task.predict([x, x[:0]])
    with pytest.raises(ShapeError, match=r"input: expected \[R, 2\] of the columns 'a', 'b', got \[3, 1\]"):
        task.predict(x[:, :1])
    with pytest.raises(DataError, match=r"input\[1\]\[0\]: column 'b': expected a finite number, got inf"):
        task.predict([x, np.array([[1, np.inf]])])


def test_a_model_is_trained_on_as_many_columns_as_the_one_it_begins_with() -> None:
    data = whole(sequences())
    task = made(data)
    other = Sequences(("a",), [v[:, :1] for v in data.values], data.ids, data.where, data.labels)
    with pytest.raises(OptionError, match=r"inputs: expected 2 columns, as the trained model reads \(a, b\), got 1"):
        SeriesModel.build(other, SeriesConfig(**SIZE), init_from=task)
    shifted = Sequences(data.names, [v + 7 for v in data.values], data.ids, data.where, data.labels)
    tuned = SeriesModel.build(shifted, SeriesConfig(**SIZE), init_from=task)
    assert tuned.preprocessor.scaler is task.preprocessor.scaler


# --------------------------------------------------------------------------------------------------- anomalies


def test_errors_are_those_of_the_windows() -> None:
    """The mean over the values that are there; a window at the end overlaps the one before."""
    data = sequences(8)
    task = made(data, anomalies=True, seq_length=4, code_size=3)
    x = np.random.default_rng(1).normal((5, 100), 3, (10, 2))
    x[2, 0] = x[3] = NAN
    inputs, z = task.preprocessor.scaled(x), task.preprocessor.scaler.apply(x)
    expected = np.empty(10)
    for start in (0, 4, 6):
        with task.model.evaluating():
            code = task.model.encoder(inputs[start : start + 4, None])
            y = task.model.decoder(np.repeat(code.numpy()[None], 4, 0))[0].numpy()[:, 0]
        for k, row in enumerate(z[start : start + 4]):
            squares = [(a - b) ** 2 for a, b in zip(y[k], row, strict=True) if not np.isnan(b)]
            expected[start + k] = np.mean(squares) if squares else 0
    (errors,) = task.errors([x])
    np.testing.assert_allclose(errors, expected, rtol=1e-5)
    task.evaluate()
    threshold = np.quantile(np.concatenate(task.errors(task._validation.values)), 0.99)
    found = task.predict(x)
    assert found["errors"] == errors.tolist()
    assert found["score"] == pytest.approx(errors.mean())
    assert found["threshold"] == pytest.approx(threshold, rel=1e-6)
    assert found["anomalies"] == [t for t in range(10) if errors[t] > found["threshold"]]


def waves(seed: int, broken: bool = False) -> np.ndarray:
    t = np.arange(64) + np.random.default_rng(seed).uniform(0, 20)
    x = np.stack([np.sin(t / 3), np.cos(t / 3)], 1)
    if broken:
        x[20:28, 1] *= -1
    return x


@needs_many_steps
def test_an_autoencoder_finds_what_training_has_not_seen(tmp_path: Path) -> None:
    values, where = [waves(n) for n in range(40)], [f"x:{n}" for n in range(40)]
    config = SeriesConfig(anomalies=True, seq_length=16, hidden_size=24, dropout=0.0, noise=0.0, code_size=4)
    task = SeriesModel.build(Sequences(("a", "b"), values, where, where, None), config)
    run(Trainer(task, TrainingConfig(steps=400, lr=1e-2), tmp_path))
    task = SeriesModel.load(tmp_path / BEST)
    assert isinstance(task.model, Autoencoder)
    test = [waves(100 + n, broken=n % 3 == 0) for n in range(12)]
    labels = [["odd" if n % 3 == 0 and 20 <= t < 28 else "Normal" for t in range(64)] for n in range(12)]
    found = Sequences(("a", "b"), test, where[:12], where[:12], [["1" if n % 3 == 0 else "0"] for n in range(12)])
    assert task.metrics(found)["auc"] == 1
    assert task.metrics(found)["anomalies"] < 0.2
    object.__setattr__(task.preprocessor, "every_step", True)
    assert task.metrics(Sequences(("a", "b"), test, where[:12], where[:12], labels))["auc"] > 0.9
    assert {20 <= t < 28 for t in task.predict(test[0])["anomalies"]} >= {True}


@pytest.mark.parametrize("count", [1, 6])
def test_sequences_are_cut_into_windows_after_they_are_split(count: int) -> None:
    """No window of a sequence that is trained on validates, unless there is but one sequence."""
    ids = [f"x:{n}" for n in range(count)]
    values = [np.full((11, 1), float(n)) + np.arange(11)[:, None] / 100 for n in range(count)]
    task = made(Sequences(("a",), values, ids, ids, None), anomalies=True, seq_length=4, val_fraction=0.4)
    held = set(task._validation.ids)
    assert sorted(len(part) for part in task._validation.values) == ([3] if count == 1 else [3, 3, 4, 4, 4, 4])
    assert len(task._train[0]) + len(task._validation) == 3 * count
    assert len(held) == (1 if count == 1 else 2)


# ------------------------------------------------------------------------------------------------------ export


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("kind", ["class", "number"])
def test_an_exported_program_predicts_as_the_task(kind: str, every_step: bool, missing: bool, tmp_path: Path) -> None:
    data = sequences(missing=missing)
    if kind == "number":
        labels = [[str(len(name) + k / 2) for k, name in enumerate(part)] for part in data.labels or ()]
        data = Sequences(data.names, data.values, data.ids, data.where, labels)
    data = data if every_step else whole(data)
    task = made(data, every_step=every_step, num_layers=2, target=kind)
    mr.export(task, tmp_path / "model.py")
    x = np.array([[NAN, 99], [6, NAN], [5, 101], [4.5, 98]])
    code = f"from model import predict; nan = float('nan'); print(predict({x.tolist()}))"
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found, own = ast.literal_eval(done.stdout), task.predict(x)
    if kind == "number":
        assert found == pytest.approx(own["values"] if every_step else own["value"], rel=1e-5)
    elif every_step:
        assert [max(one, key=one.get) for one in found] == own["labels"]
        assert [max(one.values()) for one in found] == pytest.approx(own["probabilities"], rel=1e-5)
    else:
        assert found == pytest.approx(own["probabilities"], rel=1e-5)
    done = subprocess.run([sys.executable, str(tmp_path / "model.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_loss_of_classes_is_their_cross_entropy() -> None:
    task = made(whole(sequences()), noise=0.0, dropout=0.0)
    task.model.train()
    numbers = np.array([3, 0, 7])
    loss, count = task.batch_loss(numbers, 0.0)
    expected = F.cross_entropy(
        np.concatenate(task.outputs([task._train[0][n] for n in numbers])),
        np.concatenate([task._train[1][n] for n in numbers]),
    )
    assert (count, loss.item()) == (3, pytest.approx(expected.item(), rel=1e-5))


def test_a_table_of_a_series_is_read_as_in_training() -> None:
    text = b"id,a,b,kind\n" + b"".join(
        b"%d,%d,%d,%s\n" % (n, n + t, t, b"xy"[n % 2 :][:1]) for n in range(9) for t in range(3)
    )
    task = made(parse_sequences("t.csv", text, Layout("id")), id="id")
    lines = [tasks.Line(line, f"t.csv:{n}") for n, line in enumerate(text.decode().splitlines(), 1)]
    found = task.predict_lines(lines)
    assert [one.facts["id"] for one in found] == [str(n) for n in range(9)]
    assert found[4].text == f"4\t{found[4].facts['label']}"
    arrays = [np.array([[n + t, t] for t in range(3)]) for n in range(9)]
    assert [one.facts for one in found] == [{"id": str(n)} | one for n, one in enumerate(task.predict(arrays))]
