"""
Dialled numbers: learning without boundaries
============================================

A bidirectional LSTM transcribes tones that were dialled one after the other, and is never told where one begins. ::

    python examples/ctc_strings.py [--steps 300] [--plot tones.png]

Each digit is a pair of tones, as on a telephone: one of four low and one of three high frequencies. Its length is
drawn, and so is the pause behind it, often none; noise covers everything. Training knows the digits of a recording,
not their times: connectionist temporal classification (Graves et al. 2006) sums over all of them, and learns to give
each digit at some steps and the blank at the others. Two equal digits without a pause sound like one long digit, so
the length counts. Expected digit error rate on 200 new recordings after 300 steps (ten seconds): 0.019 by the most
likely path, 0.009 by beam search.
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.decode import ctc_beam_search, ctc_greedy

TONES = {digit: ((digit - 1) // 3, 4 + (digit - 1) % 3) for digit in range(1, 10)} | {10: (3, 5)}  # 10 stands for 0
BANDS, BLANK = 7, 0


def recording(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The loudness of every frequency band [T, 7] over the time that dialling ``digits`` takes."""
    parts = []
    for digit in digits:
        sound = np.zeros((rng.integers(4, 8), BANDS))
        sound[:, TONES[int(digit)]] = 1
        sound[0] *= 0.3  # each digit swells
        parts += [sound, np.zeros((max(0, rng.integers(-3, 4)), BANDS))]
    loudness = np.concatenate(parts)
    return loudness + rng.normal(0, 0.35, loudness.shape)


def batch(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Recordings [T, N, 7] and digits [N, S], both padded with zeros, and the lengths of both."""
    digits = [rng.integers(1, 11, rng.integers(3, 9)) for _ in range(size)]
    sounds = [recording(one, rng) for one in digits]
    steps, sizes = [len(one) for one in sounds], [len(one) for one in digits]
    x, targets = np.zeros((max(steps), size, BANDS), np.float32), np.zeros((size, max(sizes)), np.int64)
    for n in range(size):
        x[: steps[n], n], targets[n, : sizes[n]] = sounds[n], digits[n]
    return x, targets, steps, sizes


# %%
# The digit error rate counts the digits to insert, delete or replace, as a fraction of those that were dialled.


def edit_distance(a: np.ndarray, b: np.ndarray) -> int:
    """The fewest insertions, deletions and replacements that make ``b`` of ``a`` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a):
        previous, row[0] = row[0], i + 1
        for j, two in enumerate(b):
            previous, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, previous + (one != two))
    return row[-1]


def log_probs_of(model: mr.models.ManyToMany, x: np.ndarray, steps: list[int]) -> np.ndarray:
    with model.evaluating():
        return model(x, steps)[0].log_softmax(2).numpy()


def error_rate(found: list[np.ndarray], targets: np.ndarray, sizes: list[int]) -> float:
    errors = sum(edit_distance(one, row[:size]) for one, row, size in zip(found, targets, sizes, strict=True))
    return errors / sum(sizes)


# %%
# The picture shows a test recording, and below it the probability of each of its digits at each step, and of the blank
# (grey), which separates them.


def draw(path: str, x: np.ndarray, log_probs: np.ndarray, digits: np.ndarray) -> None:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained")
    panels[0].imshow(x.T, aspect="auto", origin="lower", cmap="magma")
    panels[0].set(title=f"dialled: {' '.join(str(digit % 10) for digit in digits)}", ylabel="frequency band")
    probabilities = np.exp(log_probs)
    panels[1].plot(probabilities[:, BLANK], color="lightgrey")
    for digit in sorted(set(digits.tolist())):
        panels[1].plot(probabilities[:, digit], label=str(digit % 10))
    panels[1].set(xlabel="step", ylabel="probability", ylim=(0, 1.05))
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


# %%
# The loss takes the log-probabilities of every step, the digits, and the lengths of both. The digits are read from the
# most likely path, or, at the end, searched for with a beam of prefixes, which sums over the paths of each.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    mr.manual_seed(0)
    rng = np.random.default_rng(0)
    model = mr.models.ManyToMany(BANDS, 48, 11, cell="lstm", bidirectional=True)
    optimizer = mr.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = mr.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    x_test, targets_test, steps_test, sizes_test = batch(200, np.random.default_rng(1))
    every = max(1, options.steps // 6)
    for step in range(1, options.steps + 1):
        x, targets, steps, sizes = batch(32, rng)
        y, _ = model(x, steps)
        loss = F.ctc_loss(y.log_softmax(2), targets, steps, sizes, BLANK)
        optimizer.zero_grad()
        loss.backward()
        mr.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % every == 0 or step == options.steps:
            log_probs = log_probs_of(model, x_test, steps_test)
            greedy = [one.tokens for one in ctc_greedy(log_probs, steps_test, BLANK)]
            rate = error_rate(greedy, targets_test, sizes_test)
            print(f"step {step:>4}  loss {loss.item():.3f}  digit error rate {rate:.4f}", flush=True)
    beams = ctc_beam_search(log_probs, steps_test, BLANK)
    rate = error_rate([best[0].tokens for best in beams], targets_test, sizes_test)
    print(f"beam search: digit error rate {rate:.4f}; the first recording:")
    print("dialled    ", *(digit % 10 for digit in targets_test[0, : sizes_test[0]]))
    for one in beams[0][:3]:
        print(f"p = {np.exp(one.log_prob):.4f} ", *(digit % 10 for digit in one.tokens))
    if options.plot:
        digits = targets_test[0, : sizes_test[0]]
        draw(options.plot, x_test[: steps_test[0], 0], log_probs[: steps_test[0], 0], digits)


if __name__ == "__main__":
    main()
