"""One-to-many: a melody from its starting note.

    python examples/melody.py [--steps 400] [--start 64] [--wav melody.wav]

Three tunes everybody knows, in twelve keys each, as MIDI numbers; the same note begins tunes of several keys. The first
note sets the state of a GRU, which then draws note after note and reads each.
Expected: nearly every drawn melody is one of the three tunes, note for note, in a key that begins with the given note.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.data.music import wav_bytes

TUNES = {  # half tones above the key's first note
    "Ode to Joy": [4, 4, 5, 7, 7, 5, 4, 2, 0, 0, 2, 4, 4, 2, 2],
    "Frère Jacques": [0, 2, 4, 0, 0, 2, 4, 0, 4, 5, 7, 4, 5, 7, 7],
    "Au clair de la lune": [0, 0, 0, 2, 4, 2, 0, 4, 2, 2, 0, 0, 0, 0, 2],
}
LOWEST, NOTES = 60, 24
NAMES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--start", type=int, default=64, help="MIDI number of the first note, 64 to 71")
    parser.add_argument("--wav", help="write the first melody as sound to this file")
    options = parser.parse_args()
    if not 64 <= options.start <= 71:
        raise SystemExit(f"--start must be from 64 to 71, where all three tunes can begin, got {options.start}")

    melodies = np.array([[key + note for note in tune] for key in range(12) for tune in TUNES.values()]).T  # [T, N]
    mr.manual_seed(0)
    model = mr.models.OneToMany(NOTES, 64, NOTES, cell="gru", embedding_size=16)
    optimizer = mr.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, options.steps + 1):
        logits = model(melodies[0], melodies[1:])  # the first note, and the ones to come
        loss = F.cross_entropy(logits.reshape(-1, NOTES), melodies[1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        mr.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, options.steps // 4) == 0:
            print(f"step {step}: {loss.item():.3f} nats a note")

    starts = np.full(20, options.start - LOWEST)
    drawn = np.concatenate([starts[None], model.generate(starts, len(melodies) - 1, seed=1)])
    known = {tuple(melody): name for melody, name in zip(melodies.T.tolist(), [*TUNES] * 12, strict=True)}
    names = [known.get(tuple(melody), "something else") for melody in drawn.T.tolist()]
    for melody, name in list(zip(drawn.T, names, strict=True))[:5]:
        print(" ".join(f"{NAMES[note % 12]:<2}" for note in melody), f" {name}")
    print(f"{sum(name in TUNES for name in names)} of {len(names)} drawn melodies are tunes that were learnt")
    if options.wav:
        Path(options.wav).write_bytes(wav_bytes([(int(note) + LOWEST,) for note in drawn[:, 0]], 0.4))
        print(f"written to {options.wav}")


if __name__ == "__main__":
    main()
