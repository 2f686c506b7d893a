"""The recogniser of speech: augmentation, what it learns, predictions of files and arrays, evaluation, export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import perturb, run
from tiny import TASKS

import minirnn as mr
from minirnn.data.audio import read_audio, resample
from minirnn.errors import DataError, MinirnnError, OptionError
from minirnn.metrics import char_error_rate, word_error_rate
from minirnn.nn import functional as F
from minirnn.tasks.speech import Clips, SpeechConfig, SpeechRecognizer
from minirnn.training import Trainer, TrainingConfig

RATE = 4000


def make(folder: Path, **changed: Any) -> Any:
    return perturb(TASKS["speech"].make(TASKS["speech"].write(folder), **changed))


def sweeps(count: int, seed: int) -> Clips:
    """Tones that rise or fall, at any loudness."""
    rng = np.random.default_rng(seed)
    names = [("up", "down")[n % 2] for n in range(count)]
    audio = []
    for name in names:
        t = np.arange(rng.integers(600, 1200)) / RATE
        f = rng.uniform(400, 800) + (900 if name == "up" else -900) * (t - t[-1] / 2)
        audio.append((rng.uniform(0.01, 1) * np.sin(2 * np.pi * np.cumsum(f) / RATE).astype(np.float32), RATE))
    return Clips(audio, names, [f"{n}.wav" for n in range(count)])


def test_it_learns_whether_a_tone_rises_or_falls() -> None:
    config = SpeechConfig(hidden_size=16, num_layers=1, bands=16, batch_size=16, stack=2, pooling="mean")
    task = SpeechRecognizer.build(sweeps(120, 0), config)
    run(Trainer(task, TrainingConfig(steps=80, lr=1e-2)))
    new = sweeps(60, 1)
    metrics = task.metrics([task.encode(*one) for one in new.audio], new.texts)
    assert metrics["accuracy"] > 0.9
    twice = [(resample(samples, RATE, 2 * RATE), 2 * RATE) for samples, _ in new.audio]
    assert [one["label"] for one in task.predict(twice)] == [one["label"] for one in task.predict(new.audio)]


def calls(count: int, seed: int) -> Clips:
    """Up to four low and high tones, with pauses, and their letters: l and h, with a blank where a pause is long."""
    rng = np.random.default_rng(seed)
    audio, texts = [], []
    for _ in range(count):
        parts, text = [], ""
        for number in range(rng.integers(1, 5)):
            long = number > 0 and rng.random() < 0.3
            letter = rng.choice(["l", "h"])
            t = np.arange(rng.integers(400, 600)) / RATE
            tone = np.sin(2 * np.pi * rng.uniform(0.9, 1.1) * {"l": 400, "h": 1100}[letter] * t)
            parts += [np.zeros(rng.integers(900, 1100) if long else rng.integers(100, 200)), tone]
            text += " " * long + str(letter)
        audio.append((np.concatenate(parts).astype(np.float32), RATE))
        texts.append(text)
    return Clips(audio, texts, [f"calls.tsv:{n + 1}" for n in range(count)], "transcript")


@pytest.mark.slow
def test_it_learns_to_write_what_it_hears() -> None:
    config = SpeechConfig(hidden_size=24, num_layers=1, bands=12, stack=2, dropout=0.0, warp=0.0, mask=0.1)
    task = SpeechRecognizer.build(calls(160, 0), config)
    assert task.labels.names == ["", " ", "h", "l"]
    assert "160 recordings of 3 characters" in task.summary
    run(Trainer(task, TrainingConfig(steps=200, lr=1e-2)))
    new = calls(40, 1)
    metrics = task.metrics([task.encode(*one) for one in new.audio], new.texts)
    assert metrics["cer"] < 0.2
    found = [one["transcript"] for one in task.predict(new.audio)]
    assert char_error_rate(found, new.texts) < 0.2
    greedy = [one["transcript"] for one in task.predict(new.audio, beam=1)]
    assert (char_error_rate(greedy, new.texts), word_error_rate(greedy, new.texts)) == (metrics["cer"], metrics["wer"])


def test_the_loss_of_transcripts_is_that_of_ctc_without_unknown_characters(tmp_path: Path) -> None:
    task = make(tmp_path, target="transcript", stack=1, hop=0.01)
    assert task.labels.names == ["", "e", "n", "o", "s", "y"]
    (tmp_path / "new.tsv").write_text("clips/0.wav\tyes\nclips/1.wav\tno\nclips/2.wav\tnix\n", encoding="utf-8")
    metrics = task.measure([str(tmp_path / "new.tsv")])
    losses = []
    for number, targets in ((0, [5, 1, 4]), (1, [2, 3])):
        (logits,) = task.logits([task.encode(*read_audio(tmp_path / f"clips/{number}.wav"))])
        losses.append(F.ctc_loss(F.log_softmax(logits, -1), targets, len(logits), len(targets)).item())
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    found = [one["transcript"] for one in task.predict([str(tmp_path / f"clips/{n}.wav") for n in range(3)], beam=1)]
    assert metrics["cer"] == char_error_rate(found, ["yes", "no", "nix"])


def test_transcripts_that_are_too_long_and_beams_for_labels_are_refused(tmp_path: Path) -> None:
    tone = (np.ones(1300, np.float32), RATE)
    clips = Clips([tone] * 3, ["abc", "abcc", "aabbcc" * 4], ["a", "b", "c.tsv:3"], "transcript")
    with pytest.raises(
        DataError, match=r"c\.tsv:3: a transcript of 24 characters needs 36 steps, but the recording has 16"
    ):
        SpeechRecognizer.build(clips, SpeechConfig(val_fraction=0.01, seed=1, stack=2))
    message = "target: expected labels, as the trained model gives, got transcripts"
    with pytest.raises(OptionError, match=message):
        SpeechRecognizer.build(clips, SpeechConfig(), make(tmp_path))
    with pytest.raises(OptionError, match="beam: the model gives labels; only transcripts are searched for"):
        make(tmp_path).predict(tone, beam=3)


def noises(**options: Any) -> Any:
    """A task of white noise."""
    rng = np.random.default_rng(4)
    audio = [(rng.normal(size=700 + n).astype(np.float32), RATE) for n in range(12)]
    config = SpeechConfig(hidden_size=4, bands=5, deltas=True, stack=1, **options)
    return SpeechRecognizer.build(Clips(audio, ["a", "b"] * 6, ["x"] * 12), config)


def test_mean_and_variance_are_those_of_the_training_set() -> None:
    task = noises(speed=0.0, noise=0.0)
    frames = np.concatenate(task._frames)
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-4)


def test_augmentation_is_off_in_evaluation_and_hides_whole_ranges() -> None:
    task = noises(speed=0.0, noise=0.0, warp=0.0, mask=0.6)
    plain, rng = task._frames[3], np.random.default_rng(0)
    hidden_bands, hidden_steps = set[int](), set[int]()
    for _ in range(60):
        found = task._augmented(3, rng)
        differs = (found != plain).reshape(len(plain), 2, 5)
        assert not found[differs.reshape(plain.shape)].any()
        np.testing.assert_array_equal(differs[:, 0], differs[:, 1])  # slopes with their bands
        steps, bands = (np.flatnonzero(differs[:, 0].all(axis)) for axis in (1, 0))
        assert len(steps) <= 0.6 * len(plain)
        assert len(bands) <= 3
        for one in (steps, bands):
            assert len(one) == 0 or one[-1] - one[0] == len(one) - 1
        hidden_steps |= {*steps.tolist()}
        hidden_bands |= {*bands.tolist()}
    assert hidden_bands == set(range(5))
    assert hidden_steps == set(range(len(plain)))
    np.testing.assert_array_equal(task.encode(task._clips[3]), plain)


def test_speed_and_noise_change_every_reading_within_their_limits() -> None:
    task = noises(speed=0.5, noise=0.0, mask=0.0, hop=0.001)
    rng = np.random.default_rng(0)
    lengths = {len(task._augmented(0, rng)) for _ in range(40)}
    samples = len(task._clips[0])
    assert len(lengths) > 10
    assert (samples / 1.5 - 100) / 4 - 1 <= min(lengths) < max(lengths) <= (samples / 0.5 - 100) / 4 + 2
    task = noises(speed=0.0, noise=0.1, mask=0.0)
    found = [task._augmented(0, rng) for _ in range(2)]
    assert found[0].shape == task.encode(task._clips[0]).shape
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_files_and_arrays_are_predicted(tmp_path: Path) -> None:
    task = make(tmp_path)
    paths = [str(tmp_path / "clips" / f"{n}.wav") for n in (4, 0, 2)]
    found = task.predict(paths)
    assert [one["path"] for one in found] == paths
    for one in found:
        assert one["probability"] == max(one["probabilities"].values()) == one["probabilities"][one["label"]]
        assert sum(one["probabilities"].values()) == pytest.approx(1)
    samples, rate = read_audio(paths[0])
    single = task.predict((samples, rate))
    assert single["path"] is None
    assert single["probabilities"] == pytest.approx(found[0]["probabilities"], rel=1e-4)
    assert task.predict(Path(paths[0])) == task.predict(paths[0])
    assert task.predict([(samples, rate)])[0] == single


MISTAKES: list[tuple[Any, str]] = [
    (5, r"input: expected the path of a recording, or a pair \(samples, rate\), got int"),
    (["no.wav"], r"cannot read no\.wav: No such file"),
    (
        (np.zeros(0), 8000),
        r"input: expected samples \[S\] of a floating-point type, at least one, all finite, got float64",
    ),
    ((np.zeros(9, np.int16), 8000), r"got int16 \[9\]"),
    ((np.zeros((9, 2)), 8000), r"got float64 \[9, 2\]"),
    ((np.array([np.inf]), 8000), "all finite"),
    ((np.zeros(9), 0), "input: rate: expected an int from 1 to 384000, got 0"),
]


@pytest.mark.parametrize(("input", "message"), MISTAKES)
def test_a_mistake_names_the_input(input: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MinirnnError, match=message):
        make(tmp_path).predict(input)


def test_unseen_labels_count_as_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = make(tmp_path)
    (tmp_path / "new.tsv").write_text("clips/0.wav\tyes\nclips/1.wav\tperhaps\n", encoding="utf-8")
    metrics = task.measure([str(tmp_path / "new.tsv")])
    label = task.predict(str(tmp_path / "clips/0.wav"))["label"]
    assert metrics["accuracy"] == (0.5 if label == "yes" else 0)
    assert "'perhaps' (1)" in caplog.text
    with pytest.raises(DataError, match="every recording has the label 'yes'"):
        SpeechRecognizer.build(Clips([(np.ones(9), 80)] * 2, ["yes"] * 2, ["a", "b"]), SpeechConfig())


def test_the_exported_program_computes_the_model_of_features(tmp_path: Path) -> None:
    task = make(tmp_path)
    mr.export(task, tmp_path / "recognizer.py")
    samples, _ = read_audio(tmp_path / "clips/0.wav")
    np.save(tmp_path / "x.npy", task.encode(samples))
    code = "import numpy, recognizer; print(recognizer.run(numpy.load('x.npy')).tolist())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    np.testing.assert_allclose([eval(done.stdout)], task.logits([task.encode(samples)])[0], atol=1e-5)
