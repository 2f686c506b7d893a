"""Music: loss by hand, what is trained on, how chords are drawn, composing, reading starts; see also test_tasks.py."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SMALL, needs_many_steps, run

import minirnn as mr
from minirnn.data.music import midi_bytes, piano_roll, roll_to_steps, wav_bytes
from minirnn.errors import DataError, OptionError
from minirnn.runs import BEST
from minirnn.tasks import Line, music
from minirnn.tasks.music import (
    KEYS,
    Chords,
    ComposeConfig,
    Composer,
    MusicConfig,
    evaluate,
    read_rolls,
    read_starts,
)
from minirnn.training import Trainer, TrainingConfig

CELLS = ("rnn", "lstm", "gru")
FIVE = ComposeConfig(length=5)


def _rolls(lengths: tuple[int, ...] = (9, 2, 5, 13), seed: int = 0, keys: tuple[int, int] = (30, 60)) -> list[Any]:
    rng = np.random.default_rng(seed)
    rolls = []
    for length in lengths:
        roll = np.zeros((length, KEYS), bool)
        roll[:, keys[0] : keys[1]] = rng.random((length, keys[1] - keys[0])) < 0.1
        rolls.append(roll)
    return rolls


def _model(cell: str = "lstm", layers: int = 1, seed: int = 2) -> mr.models.ManyToMany:
    mr.manual_seed(seed)
    return mr.models.ManyToMany(KEYS, 12, KEYS, layers, cell, dropout=0.5, dtype="float64").eval()


def _task(parts: dict[str, Any] | None = None, **options: Any) -> Composer:
    if parts is None:
        parts = {"train": _rolls(), "valid": _rolls((7, 4), 1)}
    sizes = {"hidden_size": 10, "num_layers": 2, "cell": "gru", "batch_size": 2}
    return Composer.build(parts, MusicConfig.from_dict(sizes | {"dropout": 0.3, "transpose": 3, "seed": 0} | options))


def _plain_nll(model: mr.models.ManyToMany, roll: np.ndarray) -> float:
    """Sum over steps 2 to T of -log p(step | steps before), key by key."""
    total = 0.0
    for t in range(1, len(roll)):
        logits = model(roll[:t, None].astype(np.float64))[0].numpy()[-1, 0]
        for key in range(KEYS):
            p = 1 / (1 + math.exp(-logits[key]))
            total -= math.log(p if roll[t, key] else 1 - p)
    return total


# -------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("cell", CELLS)
def test_loss_in_nats_per_step_matches_a_computation_by_hand(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the pieces are batched and cut."""
    model, rolls = _model(cell), _rolls((9, 2, 5))
    expected = sum(_plain_nll(model, roll) for roll in rolls) / (8 + 1 + 4)
    assert evaluate(model, rolls) == pytest.approx(expected, rel=1e-10)
    for batch, steps in [(1, 256), (2, 3), (3, 1), (3, 4)]:
        monkeypatch.setattr(music, "EVAL_BATCH_SIZE", batch)
        monkeypatch.setattr(music, "EVAL_STEPS", steps)
        assert evaluate(model, rolls) == pytest.approx(expected, rel=1e-10)


def test_training_and_evaluation_have_the_same_loss() -> None:
    task = _task(dropout=0.0, weight_drop=0.0, transpose=0, batch_size=4)
    loss, steps = task.batch_loss(np.arange(4), 0.0)
    assert steps == 8 + 1 + 4 + 12
    assert loss.item() == pytest.approx(evaluate(task.model, task.train), rel=1e-5)
    assert task.evaluate() == {"val_loss": evaluate(task.model, task.validation)}


def test_the_first_pieces_of_a_large_validation_set_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task({"train": _rolls(), "valid": _rolls((5, 6, 7), 1)})
    for most, count in [(18, 3), (17, 2), (11, 2), (10, 1), (1, 1)]:
        monkeypatch.setattr(music, "MAX_EVAL_STEPS", most)
        assert task.evaluate() == {"val_loss": evaluate(task.model, task.validation[:count])}


def test_the_initial_bias_is_the_frequency_of_each_key() -> None:
    """Key 40 sounds in 5 of 8 steps, key 41 in none; with one step with it and one without, 6/10 and 1/10."""
    roll = np.zeros((6, KEYS), bool)
    roll[1:5, 40] = True
    bias = _task({"train": [roll, roll[:2]], "valid": [roll]}).model.state_dict()["head.bias"]
    assert bias[40] == pytest.approx(math.log(6 / 4))
    assert bias[41] == pytest.approx(math.log(1 / 9))


# ------------------------------------------------------------------------------------------- what is trained on


def test_every_epoch_transposes_pieces_within_the_piano() -> None:
    high, low, middle, silent = (np.zeros((4, KEYS), bool) for _ in range(4))
    high[:, KEYS - 2], low[:, 1], middle[:, 40] = True, True, True
    task = _task({"train": [high, low, middle, silent], "valid": [middle]}, transpose=5, dropout=0.0, weight_drop=0.0)
    found: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for epoch in range(60):
        task.start_epoch(epoch)
        for example, shifts in found.items():
            shifts.add(int(task._shifts[example]))
        assert task._shifts[3] == 0
    assert found == {0: set(range(-5, 2)), 1: set(range(-1, 6)), 2: set(range(-5, 6))}
    task.start_epoch(7)
    first = task._shifts.copy()
    loss, _ = task.batch_loss(np.array([2]), 0.0)
    moved = np.zeros((4, KEYS), bool)
    moved[:, 40 + first[2]] = True
    assert loss.item() == pytest.approx(evaluate(task.model, [moved]), rel=1e-5)
    task.start_epoch(8)
    task.start_epoch(7)
    np.testing.assert_array_equal(task._shifts, first)


def test_long_pieces_are_cut_so_that_every_step_is_predicted_once() -> None:
    rolls = _rolls((2, 5, 9, 10))
    task = _task({"train": rolls, "valid": rolls}, seq_length=4)
    assert [len(roll) for roll in task.train] == [2, 5, 5, 5, 5, 5, 2]
    for roll, parts in [(rolls[2], task.train[2:4]), (rolls[3], task.train[4:7])]:
        np.testing.assert_array_equal(np.concatenate([parts[0], *(part[1:] for part in parts[1:])]), roll)
    assert [len(roll) for roll in task.validation] == [2, 5, 9, 10]


def test_validation_set_is_the_part_of_the_file_or_a_random_split() -> None:
    rolls, other = _rolls(tuple(range(2, 12))), _rolls((6,), 5)
    with_test, without = (_task({"train": rolls, "valid": other, **test}) for test in ({"test": other}, {}))
    assert with_test.config() == without.config()
    assert with_test.validation is other
    splits = []
    for seed in (0, 0, 1):
        task = _task({"train": rolls}, val_fraction=0.3, seed=seed)
        splits.append([sorted(len(roll) for roll in part) for part in (task.train, task.validation)])
        assert len(splits[-1][1]) == 3
        assert sorted(splits[-1][0] + splits[-1][1]) == list(range(2, 12))
    assert splits[0] == splits[1] != splits[2]


def test_read_rolls(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"valid": [[21, [108, 21]]], "train": [[[], 60]]}', encoding="utf-8")
    rolls = read_rolls(str(tmp_path / "m.json"))
    keys = {part: [np.argwhere(roll).tolist() for roll in found] for part, found in rolls.items()}
    assert keys == {"train": [[[1, 39]]], "valid": [[[0, 0], [1, 0], [1, 87]]]}
    assert rolls["train"][0].shape == (2, 88)


def test_a_large_first_loss_is_not_skipped() -> None:
    """Steps with many keys cost tens of nats at first."""
    rng = np.random.default_rng(0)
    rolls = [rng.random((6, KEYS)) < 0.5 for _ in range(4)]
    task = _task({"train": rolls, "valid": rolls}, dropout=0.0, weight_drop=0.0, transpose=0)
    before = task.model.state_dict()["head.bias"]
    steps = list(Trainer(task, TrainingConfig(steps=25)).fit())
    assert steps[0].train_loss > 50
    assert not any(step.skipped for step in steps)
    assert (task.model.state_dict()["head.bias"] != before).all()


@needs_many_steps
@pytest.mark.parametrize("cell", ["lstm", *(pytest.param(cell, marks=pytest.mark.slow) for cell in ("rnn", "gru"))])
def test_it_learns_a_tune_and_plays_it_in_other_keys(cell: str) -> None:
    tune = [(60, 64, 67), (57, 60, 65), (59, 62, 67), (60, 64, 69), (55, 62, 71)] * 4
    roll = piano_roll(tune).astype(bool)
    parts = {"train": [roll] * 8, "valid": [np.roll(roll, 2, axis=1)]}
    task = _task(parts, cell=cell, hidden_size=48, num_layers=1, dropout=0.0, weight_drop=0.0, batch_size=4)
    before = task.evaluate()["val_loss"]
    run(Trainer(task, TrainingConfig(steps=400, lr=1e-2)))
    assert before > 10
    assert task.evaluate()["val_loss"] < 0.5
    assert task.compose(tune[:6], ComposeConfig(length=9, temperature=0)) == tune[:15]
    higher = [tuple(pitch + 2 for pitch in step) for step in tune]
    assert task.compose(higher[:6], ComposeConfig(length=9, temperature=0)) == higher[:15]


# ------------------------------------------------------------------------------------------------- sampling

CHORDS: list[tuple[list[int], int]] = [([0, 85], 4), ([], 3), ([0, 1, 87], 9), ([0], 2)]


def _probabilities(chords: list[tuple[list[int], int]], q: float, logits: Any, temperature: float) -> dict[Any, float]:
    """The probability of every chord at every pitch, one by one."""
    weights = {}
    for shape, count in chords:
        for low in range(KEYS - max(shape) if shape else 1):
            keys = tuple(low + k for k in shape)
            odds = math.prod(math.exp(logits[k]) / (q / (1 - q)) for k in keys)
            weights[keys] = (count * odds) ** (1 / temperature)
    return {keys: weight / sum(weights.values()) for keys, weight in weights.items()}


def _logits() -> np.ndarray:
    return np.random.default_rng(5).normal(-2, 1.5, KEYS).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("q", [0.05, 0.5])
def test_chords_are_drawn_with_their_probabilities(temperature: float, q: float) -> None:
    """Pearson's chi-squared statistic over chords expected five times or more is at most five deviations too large."""
    chords, logits = Chords(CHORDS, q), _logits()
    rng, draws = np.random.default_rng(0), 500 if SMALL else 5000
    counted = Counter(tuple(np.flatnonzero(chords.draw(logits, temperature, rng)).tolist()) for _ in range(draws))
    probabilities = _probabilities(CHORDS, q, logits.astype(np.float64), temperature)
    assert counted.keys() <= probabilities.keys()
    assert len(probabilities) == (88 - 85) + 1 + 1 + 88
    expected = {keys: draws * p for keys, p in probabilities.items() if draws * p >= 5}
    assert expected
    statistic = sum((counted[keys] - expected) ** 2 / expected for keys, expected in expected.items())
    assert statistic < len(expected) + 5 * math.sqrt(2 * len(expected))


@given(st.integers(0, 1 << 32), st.sampled_from([0.0, 1e-300, 1e-7, 1e-5]))
def test_temperature_0_takes_the_most_likely_chord(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(-3, 5, KEYS)
    drawn = Chords(CHORDS, 0.1).draw(logits, temperature, np.random.default_rng(0))
    probabilities = _probabilities(CHORDS, 0.1, logits, 1.0)
    assert tuple(np.flatnonzero(drawn).tolist()) == max(probabilities, key=probabilities.__getitem__)


def test_chords_are_counted_in_the_pieces() -> None:
    """A major triad in two keys, silence, one note; the frequency is over keys that sound at some time."""
    pieces = [piano_roll(steps).astype(bool) for steps in ([(60, 64, 67), ()], [(62, 66, 69), (60,)])]
    chords = Chords.of(pieces)
    assert chords.shapes[0] == ((0, 4, 7), 2)
    assert sorted(chords.shapes) == [((), 1), ((0,), 1), ((0, 4, 7), 2)]
    assert chords.frequency == pytest.approx(7 / (4 * 6))  # keys 60, 62, 64, 66, 67 and 69
    rng = np.random.default_rng(0)
    for silent in ([((), 5)], [((), 5), ((0, 3), 1)]):
        assert Chords(silent, 0.0).draw(np.full(KEYS, -50.0), 1.0, rng).sum() == 0
    full = Chords.of([np.ones((2, KEYS), bool)])
    assert full.frequency == 1
    assert full.draw(np.zeros(KEYS), 1.0, rng).all()


@pytest.mark.parametrize(
    ("shapes", "frequency"),
    [
        ([], 0.1),
        ([([0, 88], 1)], 0.1),
        ([([1, 4], 1)], 0.1),
        ([([0, 4, 4], 1)], 0.1),
        ([([0, -3], 1)], 0.1),
        ([([0], 0)], 0.1),
        ([([0], 1)], 1.5),
        ([([0], 1)] * 2049, 0.1),
    ],
)
def test_bad_chords_are_refused(shapes: Any, frequency: float) -> None:
    with pytest.raises(DataError, match="expected chords as semitones above their lowest key"):
        Chords(shapes, frequency)


def test_only_the_most_frequent_chords_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(music, "MAX_CHORDS", 2)
    pieces = [piano_roll([(60,), (61,), (60, 62), (60, 62), (), (70, 72)]).astype(bool)]
    assert Chords.of(pieces).shapes == [((0, 2), 3), ((0,), 2)]


# ------------------------------------------------------------------------------------------------- composing


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_composing_step_by_step_matches_the_whole_sequence(cell: str, layers: int) -> None:
    """Each step is the most likely one given the whole piece so far."""
    model = _model(cell, layers)
    chords = Chords(CHORDS, 0.1)
    piece = Composer(model, [(60,)], chords).compose([(60, 64), (62,)], ComposeConfig(length=6, temperature=0))
    assert piece[:2] == [(60, 64), (62,)]
    assert len(piece) == 8
    for t in range(2, 8):
        logits = model(piano_roll(piece[:t])[:, None].astype(np.float64))[0].numpy()[-1, 0]
        keys = chords.draw(logits, 0, np.random.default_rng())
        assert [piece[t]] == roll_to_steps(keys[None])
    model.train()
    assert Composer(model, [(60,)], chords).compose([(60, 64), (62,)], ComposeConfig(length=6, temperature=0)) == piece
    assert model.training


def test_compose_takes_length_start_and_seed() -> None:
    composer = Composer(_model(), [(60,), (61, 65)], Chords(CHORDS, 0.1))
    one, same, other = (composer.compose([], ComposeConfig(length=5, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert {composer.compose([], ComposeConfig(length=1, seed=seed))[0] for seed in range(20)} == {(60,), (61, 65)}
    assert len(composer.compose([], FIVE)) == 5
    assert len(composer.compose([(60,), ()], FIVE)) == 7
    mr.manual_seed(0)
    first = composer.compose([], FIVE)
    assert composer.compose([], FIVE) != first
    mr.manual_seed(0)
    assert composer.compose([], FIVE) == first
    assert Composer(_model(), [], Chords([([], 1)], 0.0)).compose([], ComposeConfig(length=3)) == [(), (), ()]
    with pytest.raises(DataError, match="the start: step 1: pitch 110 is outside 21 to 108, the keys of a piano"):
        composer.compose([(60,), (110,)], FIVE)
    with pytest.raises(OptionError, match="length: expected an int of at least 1, got 0"):
        ComposeConfig(length=0)
    for temperature in (-1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="temperature: expected a "):
            ComposeConfig(temperature=temperature)


STARTS: dict[str, list[Any]] = {
    "": [[]],
    "  ": [[]],
    "60": [[(60,)]],
    "67, 60 64": [[(60, 64, 67)]],
    "C4,E4,G4": [[(60, 64, 67)]],
    "c#4 db4 B♭3 bb3 F♯5": [[(58, 61, 78)]],
    "A0,C8 60": [[(21, 60, 108)]],
    "[60, 64]": [[(60,), (64,)]],
    " [[64, 60, 60], [], 62]": [[(60, 64), (), (62,)]],
    "[\n [60,64],\n [62]\n]\n": [[(60, 64), (62,)]],
    "\n \n  [\n\n60\n,\n[]]": [[(60,), ()]],
    "[[60],\n[62]]": [[(60,), (62,)]],
    "[[60]]\n[[62]]": [[(60,)], [(62,)]],
    "\n[[60]]\n64,62": [[], [(60,)], [(62, 64)]],
    "\n": [[], []],
}
BAD_STARTS = {
    "H4": "x:1: expected notes such as 60 or C4, or steps as in .*; got 'H4'",
    "60 sixty": "x:1: expected notes .* got 'sixty'",
    "60.5": "x:1: expected notes .* got '60.5'",
    "-60": "x:1: expected notes .* got '-60'",
    "9" * 5000: "x:1: expected notes .* got '9{40}'",
    '{"piece": [[60]]}': "x:1: got a JSON object, as files to train on are; expected .* one piece: steps as in",
    "C9": "x:1: step 0: pitch 120 is outside 21 to 108, the keys of a piano",
    "12": "x:1: step 0: pitch 12 is outside",
    "200": "x:1: step 0: pitch 200 is not an integer from 0 to 127",
    "[60": r"x:1: not JSON, though it begins with \[",
    "[" * 100_000: "x:1: not JSON",
    "[" + "9" * 5000 + "]": "x:1: not JSON",
    "[[60], [[62]]]": r"x:1: step 1: pitch \[62\] is not an integer",
    '[["C4"]]': "x:1: step 0: pitch 'C4' is not an integer",
    "[[60], true]": "x:1: step 1: pitch True is not an integer",
    "\n[\n [60],\n [62\n]\n": r"x:5: not JSON, though x:2 begins with \[; expected steps as in",
    "[\n [60],\n oops\n]": r"x:3: not JSON, though x:1 begins with \[",
    "[[60\n62": r"x:2: not JSON, though x:1 begins with \[",
    "60\n[[60\n]]": r"x:2: not JSON, though it begins with \[",
    "[\n[60],\n[12]\n]": "x:1: step 1: pitch 12 is outside",
    '{"train": [[[60], [62]]]}': "x:1: got a JSON object, as files to train on are; expected the beginning of one",
    '\n{\n "train": [\n': "x:2: got a JSON object",
}


def _lines(text: str) -> list[Line]:
    return [Line(line, f"x:{number}") for number, line in enumerate(text.split("\n"), 1)]


@pytest.mark.parametrize("text", STARTS)
def test_starts_are_notes_or_json_steps_that_may_span_several_lines(text: str) -> None:
    assert read_starts(_lines(text)) == STARTS[text]
    assert read_starts([]) == []


@pytest.mark.parametrize("text", BAD_STARTS, ids=range(len(BAD_STARTS)))
def test_a_bad_start_is_reported_by_line(text: str) -> None:
    with pytest.raises(DataError, match=BAD_STARTS[text]) as caught:
        read_starts(_lines(text))
    assert "\n" not in str(caught.value)


def test_predict_composes_from_every_line_and_writes_files(tmp_path: Path) -> None:
    composer = Composer(_model(), [(60,)], Chords(CHORDS, 0.1))
    lines = [Line("60,64", "a:1"), Line("[[62], [65]]", "a:2"), Line("", "a:3")]
    found = composer.predict_lines(lines, ComposeConfig(length=5, seed=4, temperature=0.5))
    seeds = enumerate([[(60, 64)], [(62,), (65,)], []], 4)
    expected = [composer.compose(start, ComposeConfig(length=5, temperature=0.5, seed=seed)) for seed, start in seeds]
    assert [json.loads(one.text) for one in found] == [[list(step) for step in piece] for piece in expected]
    assert [one.facts for one in found] == [{"piece": json.loads(one.text)} for one in found]
    assert [len(one.facts["piece"]) for one in composer.predict_lines([])] == [64]

    files = {"midi": tmp_path / "sub" / "a.mid", "wav": tmp_path / "a.wav"}
    options = ComposeConfig(length=5, seed=4, midi=str(files["midi"]), wav=str(files["wav"]))
    (one,) = composer.predict_lines(lines[:1], options)
    piece = [tuple(step) for step in one.facts["piece"]]
    assert files["midi"].read_bytes() == midi_bytes(piece, tempo=96)
    assert files["wav"].read_bytes() == wav_bytes(piece, seconds_per_step=0.625)
    over_lines = [Line("[[62],", "a:1"), Line("[65]]", "a:2")]
    (one,) = composer.predict_lines(over_lines, options.replace(seed=5, temperature=0.5, wav=None))
    assert one == found[1]
    with pytest.raises(OptionError, match="a WAV file holds one piece, but 3 beginnings are given"):
        composer.predict_lines(lines, ComposeConfig(wav=str(tmp_path / "b.wav")))
    with pytest.raises(OptionError, match=f"cannot write {tmp_path}: "):
        composer.predict_lines([], ComposeConfig(length=2, midi=str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "sub"]


def test_a_trained_composer_starts_and_measures_like_its_data(tmp_path: Path) -> None:
    parts = {"train": [*_rolls(), np.zeros((3, KEYS), bool)], "valid": _rolls((7, 4), 1)}
    parts["train"][0][:2] = False  # begins with silence: the first sounding step is a start, too
    parts["train"][0][2, 50] = True
    task = _task(parts)
    run(Trainer(task, TrainingConfig(steps=3), tmp_path))
    composer = Composer.load(tmp_path / BEST)
    firsts = {roll_to_steps(next(row[None] for row in roll if row.any()))[0] for roll in parts["train"][:4]}
    assert composer.starts == sorted(firsts)
    expected = Chords.of(parts["train"])
    assert composer.chords.shapes == [[list(shape), count] for shape, count in expected.shapes]
    assert composer.chords.frequency == expected.frequency
    assert composer.compose([], ComposeConfig(length=9, seed=3)) == task.compose([], ComposeConfig(length=9, seed=3))
    assert not composer.model.training

    pieces = {part: [[list(step) for step in roll_to_steps(roll)] for roll in rolls] for part, rolls in parts.items()}
    (tmp_path / "parts.json").write_text(json.dumps({**pieces, "test": pieces["valid"][:1]}), encoding="utf-8")
    (tmp_path / "alone.json").write_text(json.dumps(pieces["valid"]), encoding="utf-8")
    loss = evaluate(composer.model, parts["valid"][:1])
    assert composer.measure([str(tmp_path / "parts.json")]) == {"loss": loss, "nll": loss, "pieces": 1, "steps": 6}
    loss = evaluate(composer.model, parts["valid"])
    assert composer.measure([str(tmp_path / "alone.json")]) == {"loss": loss, "nll": loss, "pieces": 2, "steps": 9}
    (tmp_path / "two.json").write_text(json.dumps(pieces), encoding="utf-8")  # what was trained on does not count
    assert composer.measure([str(tmp_path / "two.json")]) == {"loss": loss, "nll": loss, "pieces": 2, "steps": 9}
    (tmp_path / "train.json").write_text(json.dumps({"train": pieces["train"]}), encoding="utf-8")
    loss_of_all = evaluate(composer.model, parts["train"])
    assert composer.measure([str(tmp_path / "train.json")])["loss"] == loss_of_all
    both = composer.measure([str(tmp_path / name) for name in ("parts.json", "alone.json")])
    assert (both["pieces"], both["steps"]) == (3, 15)
    assert task.evaluate()["val_loss"] == pytest.approx(loss)
