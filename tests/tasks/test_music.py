"""Music: the figure against loops by hand, padding and cuts without effect, draws of the right distribution."""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run

import minirnn as mr
from minirnn import checkpoint
from minirnn.data.music import midi_bytes, piano_roll, roll_to_steps, wav_bytes
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.runs import BEST, LAST, METRICS
from minirnn.tasks import Line, music
from minirnn.tasks.music import (
    KEYS,
    Chords,
    ComposeConfig,
    Composer,
    MusicConfig,
    evaluate,
    read_rolls,
    read_start,
    read_starts,
)
from minirnn.training import Trainer, TrainingConfig

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
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
    settings = {
        "hidden_size": 10,
        "num_layers": 2,
        "cell": "gru",
        "dropout": 0.3,
        "batch_size": 2,
        "transpose": 3,
        "seed": 0,
    }
    return Composer.build(parts, MusicConfig(**settings | options))


def _plain_nll(model: mr.models.ManyToMany, roll: np.ndarray) -> float:
    """Sum over steps 2 to T of -log p(step | steps before), key by key."""
    total = 0.0
    for t in range(1, len(roll)):
        logits = model(roll[:t, None].astype(np.float64))[0].numpy()[-1, 0]
        for key in range(KEYS):
            p = 1 / (1 + math.exp(-logits[key]))
            total -= math.log(p if roll[t, key] else 1 - p)
    return total


# ------------------------------------------------------------------------------------------------- the figure


@pytest.mark.parametrize("cell", CELLS)
def test_nats_a_step(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all predicted steps of all pieces, however they are put into batches and stretches."""
    model, rolls = _model(cell), _rolls((9, 2, 5))
    expected = sum(_plain_nll(model, roll) for roll in rolls) / (8 + 1 + 4)
    assert evaluate(model, rolls) == pytest.approx(expected, rel=1e-10)
    for batch, steps in [(1, 256), (2, 3), (3, 1), (3, 4)]:
        monkeypatch.setattr(music, "EVAL_BATCH_SIZE", batch)
        monkeypatch.setattr(music, "EVAL_STEPS", steps)
        assert evaluate(model, rolls) == pytest.approx(expected, rel=1e-10)


def test_evaluation_drops_nothing_and_leaves_the_mode() -> None:
    model, rolls = _model(), _rolls()
    expected = evaluate(model, rolls)
    model.train()
    assert evaluate(model, rolls) == expected
    assert model.training


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell: str) -> None:
    """A batch of ragged pieces has the sum of the losses and gradients its pieces have alone."""
    task = _task(cell=cell, dropout=0.0, transpose=0, batch_size=4)
    task.model.to("float64")
    results = []
    for batches in ([np.arange(4)], [np.array([n]) for n in range(4)]):
        task.model.zero_grad()
        total = 0.0
        for examples in batches:
            loss, steps = task.batch_loss(examples, 0.0)
            (loss * steps).backward()
            total += loss.item() * steps
        results.append((total, [p.grad.numpy().copy() for p in task.model.parameters()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for together, alone in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-12)


def test_the_loss_of_training_is_that_of_evaluation() -> None:
    task = _task(dropout=0.0, transpose=0, batch_size=4)
    loss, steps = task.batch_loss(np.arange(4), 0.0)
    assert steps == 8 + 1 + 4 + 12
    assert loss.item() == pytest.approx(evaluate(task.model, task.train), rel=1e-5)
    assert task.evaluate() == {"val_loss": evaluate(task.model, task.validation)}


def test_a_large_validation_part_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task({"train": _rolls(), "valid": _rolls((5, 6, 7), 1)})
    for most, count in [(18, 3), (17, 2), (11, 2), (10, 1), (1, 1)]:
        monkeypatch.setattr(music, "MAX_EVAL_STEPS", most)
        assert task.evaluate() == {"val_loss": evaluate(task.model, task.validation[:count])}


def test_the_untrained_model_knows_how_often_keys_sound() -> None:
    """Key 40 sounds in 5 of 8 steps, key 41 in none; with one step with it and one without, 6/10 and 1/10."""
    roll = np.zeros((6, KEYS), bool)
    roll[1:5, 40] = True
    bias = _task({"train": [roll, roll[:2]], "valid": [roll]}).model.state_dict()["head.bias"]
    assert bias[40] == pytest.approx(math.log(6 / 4))
    assert bias[41] == pytest.approx(math.log(1 / 9))


# ------------------------------------------------------------------------------------------- what is trained on


def test_pieces_are_transposed_anew_every_epoch_within_the_piano() -> None:
    high, low, middle, silent = (np.zeros((4, KEYS), bool) for _ in range(4))
    high[:, KEYS - 2], low[:, 1], middle[:, 40] = True, True, True
    task = _task({"train": [high, low, middle, silent], "valid": [middle]}, transpose=5, dropout=0.0)
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


def test_long_pieces_are_cut_and_every_step_but_the_first_is_predicted_once() -> None:
    rolls = _rolls((2, 5, 9, 10))
    task = _task({"train": rolls, "valid": rolls}, seq_length=4)
    assert [len(roll) for roll in task.train] == [2, 5, 5, 5, 5, 5, 2]
    for roll, parts in [(rolls[2], task.train[2:4]), (rolls[3], task.train[4:7])]:
        np.testing.assert_array_equal(np.concatenate([parts[0], *(part[1:] for part in parts[1:])]), roll)
    assert [len(roll) for roll in task.validation] == [2, 5, 9, 10]


def test_parts() -> None:
    rolls, other = _rolls(tuple(range(2, 12))), _rolls((6,), 5)
    with_test, without = (_task({"train": rolls, "valid": other, **test}) for test in ({"test": other}, {}))
    assert with_test.config() == without.config()
    assert with_test.validation is other
    for seed in (0, 0, 1):
        task = _task({"train": rolls}, val_fraction=0.3, seed=seed)
        lengths = sorted(len(roll) for roll in task.train), sorted(len(roll) for roll in task.validation)
        assert len(lengths[1]) == 3
        assert sorted(lengths[0] + lengths[1]) == list(range(2, 12))
        assert seed or lengths == _lengths_of_split(rolls)


def _lengths_of_split(rolls: list[Any]) -> tuple[list[int], list[int]]:
    task = _task({"train": rolls}, val_fraction=0.3, seed=0)
    return sorted(len(roll) for roll in task.train), sorted(len(roll) for roll in task.validation)


def test_what_cannot_be_trained_on() -> None:
    with pytest.raises(DataError, match="expected a part 'train', or pieces alone; got 'test', 'valid'"):
        _task({"test": _rolls(), "valid": _rolls()})
    with pytest.raises(DataError, match="at least 2 examples"):
        _task({"train": _rolls((5,))})
    with pytest.raises(OptionError, match="transpose: expected an int from 0 to 87, got -1"):
        _task(transpose=-1)
    with pytest.raises(OptionError, match="seq_length: expected an int of at least 1, got 0"):
        _task(seq_length=0)
    with pytest.raises(OptionError, match="batch_size: expected an int of at least 1, got 0"):
        _task(batch_size=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": [[60, 62], [60, [20, 60]]]}', r"m.json: train\[1\]: step 1: pitch 20 is outside 21 to 108"),
        ("[[60, 109]]", r"m.json: train\[0\]: step 1: pitch 109 is outside 21 to 108, the keys of a piano"),
        ('{"train": [[60, 62]], "test": [[[60, 64]]]}', r"m.json: test\[0\] has one step; expected at least 2"),
        ("[[60, 61.5]]", r"pitch 61.5 is not an integer"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_rolls(str(tmp_path / "m.json"))


def test_read_rolls(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"valid": [[21, [108, 21]]], "train": [[[], 60]]}', encoding="utf-8")
    rolls = read_rolls(str(tmp_path / "m.json"))
    assert {part: [np.argwhere(roll).tolist() for roll in found] for part, found in rolls.items()} == {
        "train": [[[1, 39]]], "valid": [[[0, 0], [1, 0], [1, 87]]]
    }  # fmt: skip
    assert rolls["train"][0].shape == (2, 88)


def test_a_cut_run_goes_on_as_if_uncut(tmp_path: Path) -> None:
    """In the middle of an epoch: its order, its transpositions and the dropout masks are those of the whole run."""
    parts = {"train": _rolls(tuple(range(2, 12))), "valid": _rolls((7, 4), 1)}
    options = TrainingConfig(steps=12, evaluations=3, log_every=2)
    run(Trainer(_task(parts), options, tmp_path / "whole"))
    run(Trainer(_task(parts), options, tmp_path / "cut"), 7)
    run(Trainer(_task(parts), options, tmp_path / "cut", resume=True))
    assert _contents(tmp_path / "cut") == _contents(tmp_path / "whole")

    changed = {**parts, "train": [*parts["train"][:-1], parts["train"][-1][::-1]]}
    for task, message in [
        (_task(changed), "the data is not the one"),
        (_task({**parts, "valid": parts["valid"][::-1]}), "the data is not the one"),
        (_task(parts, transpose=2), "transpose was 3, now it is 2"),
        (_task(parts, seq_length=9), "seq_length was 256, now it is 9"),
        (_task(parts, seed=1), "seed was 0, now it is 1"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            Trainer(task, options, tmp_path / "whole", resume=True)


def _contents(folder: Path) -> tuple[Any, ...]:
    """Everything a run wrote, but the times."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    files = []
    for name in (BEST, LAST):
        arrays, config = checkpoint.load(folder / name)
        config["position"].pop("seconds")
        files.append(({key: (a.shape, a.tobytes()) for key, a in arrays.items()}, config))
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], files


def test_a_large_first_loss_is_no_reason_to_give_up() -> None:
    """A step of many keys costs tens of nats at first."""
    rng = np.random.default_rng(0)
    rolls = [rng.random((6, KEYS)) < 0.5 for _ in range(4)]
    task = _task({"train": rolls, "valid": rolls}, dropout=0.0, transpose=0)
    before = task.model.state_dict()["head.bias"]
    steps = list(Trainer(task, TrainingConfig(steps=25)).fit())
    assert steps[0].train_loss > 50
    assert not any(step.skipped for step in steps)
    assert (task.model.state_dict()["head.bias"] != before).all()


@pytest.mark.skipif(SMALL, reason="needs some hundred steps")
@pytest.mark.parametrize("cell", CELLS)
def test_it_learns_a_tune(cell: str) -> None:
    """Chords that go round, each known from the one before; learnt in one key, played in others."""
    tune = [(60, 64, 67), (57, 60, 65), (59, 62, 67), (60, 64, 69), (55, 62, 71)] * 4
    roll = piano_roll(tune).astype(bool)
    task = _task({"train": [roll] * 8, "valid": [np.roll(roll, 2, axis=1)]}, cell=cell, hidden_size=48, num_layers=1,
                 dropout=0.0, batch_size=4)  # fmt: skip
    before = task.evaluate()["val_loss"]
    run(Trainer(task, TrainingConfig(steps=400, lr=1e-2)))
    assert before > 10
    assert task.evaluate()["val_loss"] < 0.5
    assert task.compose(tune[:6], ComposeConfig(length=9, temperature=0)) == tune[:15]
    higher = [tuple(pitch + 2 for pitch in step) for step in tune]
    assert task.compose(higher[:6], ComposeConfig(length=9, temperature=0)) == higher[:15]


# ---------------------------------------------------------------------------------------------------- the draw


CHORDS: list[tuple[list[int], int]] = [([0, 85], 4), ([], 3), ([0, 1, 87], 9), ([0], 2)]


def _shares(chords: list[tuple[list[int], int]], q: float, logits: Any, temperature: float) -> dict[Any, float]:
    """The probability of every chord in every place, one by one."""
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
def test_chords_are_drawn_as_often_as_they_should_be(temperature: float, q: float) -> None:
    """Pearson's statistic over chords expected five times or more stays below mean plus five deviations."""
    chords, logits = Chords(CHORDS, q), _logits()
    rng, draws = np.random.default_rng(0), 500 if SMALL else 5000
    counted = Counter(tuple(np.flatnonzero(chords.draw(logits, temperature, rng)).tolist()) for _ in range(draws))
    shares = _shares(CHORDS, q, logits.astype(np.float64), temperature)
    assert counted.keys() <= shares.keys()
    assert len(shares) == (88 - 85) + 1 + 1 + 88
    expected = {keys: draws * share for keys, share in shares.items() if draws * share >= 5}
    assert expected
    statistic = sum((counted[keys] - expected) ** 2 / expected for keys, expected in expected.items())
    assert statistic < len(expected) + 5 * math.sqrt(2 * len(expected))


@given(st.integers(0, 1 << 32), st.sampled_from([0.0, 1e-300, 1e-7, 1e-5]))
def test_temperature_0_takes_the_likeliest_chord(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(-3, 5, KEYS)
    drawn = Chords(CHORDS, 0.1).draw(logits, temperature, np.random.default_rng(0))
    shares = _shares(CHORDS, 0.1, logits, 1.0)
    assert tuple(np.flatnonzero(drawn).tolist()) == max(shares, key=lambda keys: shares[keys])


def test_chords_of_pieces() -> None:
    """A major triad in two keys, silence, one note; 8 notes in 4 * 8 places, on keys that sound at some time."""
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
    [([], 0.1), ([([0, 88], 1)], 0.1), ([([1, 4], 1)], 0.1), ([([0, 4, 4], 1)], 0.1), ([([0, -3], 1)], 0.1),
     ([([0], 0)], 0.1), ([([0], 1)], 1.5), ([([0], 1)] * 2049, 0.1)],
)  # fmt: skip
def test_what_is_no_chord(shapes: Any, frequency: float) -> None:
    with pytest.raises(DataError, match="expected chords as semitones above their lowest key"):
        Chords(shapes, frequency)


def test_only_the_most_frequent_chords_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(music, "MAX_CHORDS", 2)
    pieces = [piano_roll([(60,), (61,), (60, 62), (60, 62), (), (70, 72)]).astype(bool)]
    assert Chords.of(pieces).shapes == [((0, 2), 3), ((0,), 2)]


# ------------------------------------------------------------------------------------------------- composing


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_state_is_carried_from_step_to_step(cell: str, layers: int) -> None:
    """Each step composed is the one that the whole piece so far, read again, makes most likely."""
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


def test_compose_lengths_starts_and_seeds() -> None:
    composer = Composer(_model(), [(60,), (61, 65)], Chords(CHORDS, 0.1))
    assert composer.compose([], ComposeConfig(length=5, seed=1)) == composer.compose(
        [], ComposeConfig(length=5, seed=1)
    )
    assert composer.compose([], ComposeConfig(length=5, seed=1)) != composer.compose(
        [], ComposeConfig(length=5, seed=2)
    )
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


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("  ", []),
        ("60", [(60,)]),
        ("67, 60 64", [(60, 64, 67)]),
        ("C4,E4,G4", [(60, 64, 67)]),
        ("c#4 db4 B♭3 bb3 F♯5", [(58, 61, 78)]),
        ("A0,C8 60", [(21, 60, 108)]),
        ("[60, 64]", [(60,), (64,)]),
        (" [[64, 60, 60], [], 62]", [(60, 64), (), (62,)]),
    ],
)
def test_read_start(text: str, steps: list[Any]) -> None:
    assert read_start(Line(text, "here")) == steps


def _file(text: str) -> list[Line]:
    return [Line(line, f"x:{number}") for number, line in enumerate(text.split("\n"), 1)]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("[\n [60,64],\n [62]\n]\n", [[(60, 64), (62,)]]),
        ("\n \n  [\n\n60\n,\n[]]", [[(60,), ()]]),
        ("[[60],\n[62]]", [[(60,), (62,)]]),
        ("[[60]]\n[[62]]", [[(60,)], [(62,)]]),
        ("\n[[60]]\n64,62", [[], [(60,)], [(62, 64)]]),
        ("\n", [[], []]),
    ],
)
def test_a_beginning_may_go_over_several_lines(text: str, starts: list[Any]) -> None:
    assert read_starts(_file(text)) == starts
    assert read_starts([]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n[\n [60],\n [62\n]\n", r"x:5: not JSON, though x:2 begins with \[; expected steps as in"),
        ("[\n [60],\n oops\n]", r"x:3: not JSON, though x:1 begins with \["),
        ("[[60\n62", r"x:2: not JSON, though x:1 begins with \["),
        ("60\n[[60\n]]", r"x:2: not JSON, though it begins with \["),
        ("[\n[60],\n[12]\n]", "x:1: step 1: pitch 12 is outside"),
        (
            '{"train": [[[60], [62]]]}',
            "x:1: got a JSON object, as files to train on are; expected the beginning of one",
        ),
        ('\n{\n "train": [\n', "x:2: got a JSON object"),
    ],
)
def test_lines_that_together_begin_no_piece(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_starts(_file(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H4", "x:3: expected notes such as 60 or C4, or steps as in .*; got 'H4'"),
        ("60 sixty", "x:3: expected notes .* got 'sixty'"),
        ("60.5", "x:3: expected notes .* got '60.5'"),
        ("-60", "x:3: expected notes .* got '-60'"),
        ("9" * 5000, "x:3: expected notes .* got '9{40}'"),
        ('{"piece": [[60]]}', "x:3: got a JSON object, as files to train on are; expected .* one piece: steps as in"),
        ("C9", "x:3: step 0: pitch 120 is outside 21 to 108, the keys of a piano"),
        ("12", "x:3: step 0: pitch 12 is outside"),
        ("200", "x:3: step 0: pitch 200 is not an integer from 0 to 127"),
        ("[60", "x:3: not JSON, though it begins with"),
        ("[" * 100_000, "x:3: not JSON"),
        ("[" + "9" * 5000 + "]", "x:3: not JSON"),
        ("[[60], [[62]]]", r"x:3: step 1: pitch \[62\] is not an integer"),
        ('[["C4"]]', "x:3: step 0: pitch 'C4' is not an integer"),
        ("[[60], true]", "x:3: step 1: pitch True is not an integer"),
    ],
)
def test_lines_that_begin_no_piece(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_start(Line(text, "x:3"))
    assert "\n" not in str(caught.value)


def test_predict(tmp_path: Path) -> None:
    composer = Composer(_model(), [(60,)], Chords(CHORDS, 0.1))
    lines = [Line("60,64", "a:1"), Line("[[62], [65]]", "a:2"), Line("", "a:3")]
    found = composer.predict(lines, ComposeConfig(length=5, seed=4, temperature=0.5))
    expected = [
        composer.compose(start, ComposeConfig(length=5, temperature=0.5, seed=seed))
        for seed, start in enumerate([[(60, 64)], [(62,), (65,)], []], 4)
    ]  # fmt: skip
    assert [json.loads(one.text) for one in found] == [[list(step) for step in piece] for piece in expected]
    assert [one.facts for one in found] == [{"piece": json.loads(one.text)} for one in found]
    assert [len(one.facts["piece"]) for one in composer.predict([])] == [64]

    files = {"midi": tmp_path / "sub" / "a.mid", "wav": tmp_path / "a.wav"}
    (one,) = composer.predict(
        lines[:1], ComposeConfig(length=5, seed=4, midi=str(files["midi"]), wav=str(files["wav"]))
    )
    piece = [tuple(step) for step in one.facts["piece"]]
    assert files["midi"].read_bytes() == midi_bytes(piece, tempo=96)
    assert files["wav"].read_bytes() == wav_bytes(piece, seconds_per_step=0.625)
    over_lines = [Line("[[62],", "a:1"), Line("[65]]", "a:2")]
    (one,) = composer.predict(
        over_lines, ComposeConfig(length=5, seed=5, temperature=0.5, midi=str(tmp_path / "sub" / "a.mid"))
    )
    assert one == found[1]
    with pytest.raises(OptionError, match="a WAV file holds one piece, but 3 lines are given"):
        composer.predict(lines, ComposeConfig(wav=str(tmp_path / "b.wav")))
    with pytest.raises(OptionError, match=f"cannot write {tmp_path}: "):
        composer.predict([], ComposeConfig(length=2, midi=str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "sub"]


def test_from_training_to_a_composer(tmp_path: Path) -> None:
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

    arrays, config = checkpoint.load(tmp_path / BEST)
    for change, message in [({"task": "char"}, "holds a 'char' model; expected a model of music"),
                            ({"starts": 3}, "is damaged"),
                            ({"chords": {"shapes": [], "frequency": 0.1}}, "is damaged"),
                            ({"model": {}}, "is damaged")]:  # fmt: skip
        checkpoint.save(tmp_path / "other", arrays, config | change)
        with pytest.raises(CheckpointError, match=message):
            Composer.load(tmp_path / "other")
