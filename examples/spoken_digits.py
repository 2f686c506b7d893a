"""
Spoken numbers: digits in a row, without boundaries
===================================================

A bidirectional LSTM writes down numbers that were said digit by digit, and is never told where one digit begins. ::

    python examples/spoken_digits.py [--data FOLDER] [--minutes 1.5] [--write FOLDER] [--plot numbers.png]

FOLDER contains recordings named ``{digit}_{speaker}_{index}.wav``, as those of the Free Spoken Digit Dataset; without
it the script makes sounds up. Three to six recordings of one speaker are joined, with a pause of random length behind
each; recordings 0 to 4 of every digit and speaker occur in test numbers only. ``--write`` writes the numbers as WAV
files, with ``train.tsv`` and ``test.tsv`` for ``minirnn train-speech``. Expected digit error rate on test numbers:
0.023 on sounds that were made up, after a minute and a half; 0.023 on 1,200 real recordings, after five minutes.
"""

from __future__ import annotations

import argparse
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np

import minirnn as mr
from minirnn.data.audio import find_recordings, read_audio, resample
from minirnn.tasks.speech import Clips, SpeechConfig, SpeechRecognizer
from minirnn.training import Trainer, TrainingConfig

RATE = 8000
Recordings = dict[str, list[tuple[str, np.ndarray]]]
"""The digit and the samples of every recording, by the speaker."""


def read(folder: str) -> tuple[Recordings, Recordings]:
    """Recordings to train on, and to test with."""
    parts: tuple[Recordings, Recordings] = defaultdict(list), defaultdict(list)
    for path in find_recordings(folder):
        digit, speaker, index = path.stem.split("_")
        parts[int(index) < 5][speaker].append((digit, resample(*read_audio(path), RATE)))
    return parts


def make_up(count: int, rng: np.random.Generator) -> Recordings:
    """Vowels that glide from one pair of formants to another, which the digit decides, at the pitch of a speaker."""
    found: Recordings = defaultdict(list)
    for speaker, pitch in (("low", 110), ("high", 190)):
        for digit in range(10):
            for _ in range(count):
                t = np.arange(rng.integers(1600, 2800)) / RATE
                glide = np.linspace(0, 1, len(t))
                harmonics = np.arange(1, 16)[:, None] * pitch * rng.uniform(0.95, 1.05)
                low, high = 300 + 100 * (digit % 5), 1000 + 250 * (digit // 2)
                loudness = np.exp(-(((harmonics - low - 250 * glide) / 120) ** 2))
                loudness += 0.5 * np.exp(-(((harmonics - high + 300 * glide) / 150) ** 2))
                sound = (loudness * np.sin(2 * np.pi * harmonics * t)).sum(0) * np.sin(np.pi * glide)
                found[speaker].append((str(digit), (0.2 * sound).astype(np.float32)))
    return found


def numbers(recordings: Recordings, count: int, rng: np.random.Generator) -> Clips:
    """Numbers of three to six digits of one speaker, with pauses of 0 to 0.4 seconds."""
    audio, texts = [], []
    for _ in range(count):
        of_speaker = recordings[rng.choice(sorted(recordings))]
        chosen = [of_speaker[n] for n in rng.integers(len(of_speaker), size=rng.integers(3, 7))]
        loudness = max(np.abs(samples).max() for _, samples in chosen)
        parts = []
        for _, samples in chosen:
            silence = 1e-3 * loudness * rng.standard_normal(rng.integers(0, int(0.4 * RATE)))
            parts += [samples, silence.astype(np.float32)]
        audio.append((np.concatenate(parts), RATE))
        texts.append("".join(digit for digit, _ in chosen))
    return Clips(audio, texts, [str(n) for n in range(count)], "transcript")


def write(folder: Path, name: str, clips: Clips) -> None:
    """Write recordings, and the list of them and what is said."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.tsv", "w", encoding="utf-8") as table:
        for n, ((samples, rate), text) in enumerate(zip(clips.audio, clips.texts, strict=True)):
            with wave.open(str(folder / name / f"{n}.wav"), "wb") as file:
                file.setparams((1, 2, rate, 0, "NONE", ""))
                file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
            table.write(f"{name}/{n}.wav\t{text}\n")


# %%
# The picture shows the features of a test recording, and the probability of each digit at each step: a digit is written
# down where it is recognised, the blank everywhere else.


def draw(path: str, task: SpeechRecognizer, clips: Clips) -> None:
    from matplotlib import pyplot as plt

    inputs = task.encode(*clips.audio[0])
    probabilities = np.exp(mr.nn.functional.log_softmax(task.logits([inputs])[0], -1).numpy())
    figure, panels = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained")
    panels[0].imshow(inputs[:, : task.features.bands].T, aspect="auto", origin="lower", cmap="magma")
    panels[0].set(title=f"said: {clips.texts[0]}", ylabel="band")
    for digit, row in zip(task.labels.names[1:], probabilities.T[1:], strict=True):
        panels[1].plot(row, label=digit)
    panels[1].set(xlabel="step", ylabel="probability")
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with recordings of spoken digits")
    parser.add_argument("--numbers", type=int, default=1000, help="numbers to train on")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--write", type=Path, help="write the numbers to this folder, and train nothing")
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    spoken = read(options.data) if options.data else (make_up(20, rng), make_up(5, rng))
    train, test = numbers(spoken[0], options.numbers, rng), numbers(spoken[1], 200, rng)
    if options.write:
        write(options.write, "train", train)
        write(options.write, "test", test)
        print(f"{options.write}: train.tsv and test.tsv")
        return
    task = SpeechRecognizer.build(train, SpeechConfig())
    print(task.summary)
    for step in Trainer(task, TrainingConfig(minutes=options.minutes, lr=task.training.lr, evaluations=5)).fit():
        if step.metrics:
            print(
                f"step {step.step:>4}  loss {step.train_loss:.3f}  digit error rate {step.metrics['cer']:.4f}",
                flush=True,
            )
    rate = task.metrics([task.encode(*one) for one in test.audio], test.texts)["cer"]
    print(f"unseen recordings: digit error rate {rate:.4f}; the first five:")
    for text, found in zip(test.texts, task.predict(test.audio[:5]), strict=False):
        print(f"said {text:<6}  written {found['transcript']}")
    if options.plot:
        draw(options.plot, task, test)


if __name__ == "__main__":
    main()
