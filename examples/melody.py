"""
Melodies from a first note
==========================

One-to-many: a melody from its first note. ::

    python examples/melody.py [--steps 400] [--start 64] [--wav melody.wav] [--plot melody.png]

The training set is three well-known tunes in twelve keys each, as MIDI pitches; the same note begins tunes of
several keys. The first note sets the initial state of a GRU, which then samples note after note and reads each.
Expected: nearly every sampled melody is one of the three tunes, note for note, in a key that begins with the given
note.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.data.music import wav_bytes

TUNES = {  # semitones above the key's first note
    "Ode to Joy": [4, 4, 5, 7, 7, 5, 4, 2, 0, 0, 2, 4, 4, 2, 2],
    "Frère Jacques": [0, 2, 4, 0, 0, 2, 4, 0, 4, 5, 7, 4, 5, 7, 7],
    "Au clair de la lune": [0, 0, 0, 2, 4, 2, 0, 4, 2, 2, 0, 0, 0, 0, 2],
}
LOWEST, NOTES = 60, 24
NAMES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]


def draw(path: str, melodies: dict[str, np.ndarray]) -> None:
    """One panel per melody: pitch over time."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(melodies), figsize=(8, 2.6), sharey=True, layout="constrained", squeeze=False)
    for axes, (name, notes) in zip(panels.flat, melodies.items(), strict=True):
        axes.hlines(notes + LOWEST, np.arange(len(notes)), np.arange(len(notes)) + 0.9, lw=5)
        axes.set(title=name, xlabel="step")
    panels[0, 0].set_ylabel("MIDI pitch")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--start", type=int, default=64, help="MIDI pitch of the first note, 64 to 71")
    parser.add_argument("--wav", help="write the first melody as sound to this file")
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()
    if not 64 <= options.start <= 71:
        raise SystemExit(f"--start: expected 64 to 71, where all three tunes can begin, got {options.start}")

    melodies = np.array([[key + note for note in tune] for key in range(12) for tune in TUNES.values()]).T  # [T, N]
    mr.manual_seed(0)
    model = mr.models.OneToMany(NOTES, 64, NOTES, cell="gru", embedding_size=16)
    optimizer = mr.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, options.steps + 1):
        logits = model(melodies[0], melodies[1:])  # the first note, and the targets of the following steps
        loss = F.cross_entropy(logits.reshape(-1, NOTES), melodies[1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        mr.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, options.steps // 4) == 0:
            print(f"step {step}: {loss.item():.3f} nats per note")

    starts = np.full(20, options.start - LOWEST)
    sampled = np.concatenate([starts[None], model.generate(starts, len(melodies) - 1, seed=1)])
    known = {tuple(melody): name for melody, name in zip(melodies.T.tolist(), [*TUNES] * 12, strict=True)}
    names = [known.get(tuple(melody), "another melody") for melody in sampled.T.tolist()]
    for melody, name in list(zip(sampled.T, names, strict=True))[:5]:
        print(" ".join(f"{NAMES[note % 12]:<2}" for note in melody), f" {name}")
    print(f"{sum(name in TUNES for name in names)} of {len(names)} sampled melodies are tunes of the training set")
    if options.wav:
        Path(options.wav).write_bytes(wav_bytes([(int(note) + LOWEST,) for note in sampled[:, 0]], 0.4))
        print(f"written to {options.wav}")
    if options.plot:
        draw(options.plot, dict(zip(names, sampled.T, strict=True)))  # one of each


if __name__ == "__main__":
    main()
