"""
Numbers in words: teacher forcing on and off
============================================

Encoder-decoder: "4217" becomes "four thousand two hundred seventeen". ::

    python examples/translation.py [--data PAIRS.tsv] [--steps 600] [--plot attention.png]

With teacher forcing each step of the decoder reads the target token before it, without it the token that the model
itself predicted, right or wrong; scheduled sampling (Bengio et al. 2015) mixes both. PAIRS.tsv (a source, a tab and
a target per line) can replace the numbers. A tenth is the validation set. Expected exact match on it after 600
steps: with teacher forcing 0.88, with a ratio of one half 0.89, without 0.99: this model has read its own mistakes
in training and continues correctly after one.
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
from minirnn.data.lines import read_pairs
from minirnn.data.sequences import pad
from minirnn.data.vocabulary import END, START, Vocabulary

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """English for 0 to 999,999."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {in_words(number % size)}" if number % size else ""
    return f"{in_words(number // size)} {name}{rest}"


def draw(path: str, source: list[str], words: list[str], weights: np.ndarray) -> None:
    """The attention weights [T, S]: which source tokens each output token looked at."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source)
    axes.set_yticks(range(len(weights)), [*words, "<end>"][: len(weights)])
    figure.colorbar(image, label="attention weight")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file with a source, a tab and a target per line")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    if options.data:
        sources, targets = read_pairs([options.data])[:2]
        pairs = [(source.split(), target.split()) for source, target in zip(sources, targets, strict=True)]
    else:
        numbers = rng.choice(1_000_000, 5000, replace=False)
        pairs = [(list(str(number)), in_words(int(number)).split()) for number in numbers]
    validation, train = pairs[: len(pairs) // 10], pairs[len(pairs) // 10 :]
    source_words = Vocabulary.of(source for source, _ in train)
    target_words = Vocabulary.of(target for _, target in train)

    for ratio in (1.0, 0.5, 0.0):
        mr.manual_seed(0)
        rng = np.random.default_rng(0)
        model = mr.models.EncoderDecoder(
            len(source_words), len(target_words), 64, cell="gru", attention="additive", dropout=0.1
        )
        optimizer = mr.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(options.steps):
            batch = [train[n] for n in rng.integers(0, len(train), 64)]
            source, source_lengths = pad([source_words.encode(source) for source, _ in batch])
            target, target_lengths = pad([[START, *target_words.encode(target), END] for _, target in batch])
            loss = model.loss(source, target, source_lengths, target_lengths, teacher_forcing_ratio=ratio)
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        source, source_lengths = pad([source_words.encode(source) for source, _ in validation])
        found = model.generate(source, source_lengths)
        predictions = [target_words.decode(hypothesis.tokens) for hypothesis in found]
        matches = np.mean([words == target for words, (_, target) in zip(predictions, validation, strict=True)])
        print(f"teacher forcing {ratio:.1f}: loss {loss.item():.3f}, exact match {matches:.3f}", flush=True)
        print(f"    {' '.join(validation[0][0])} -> {' '.join(predictions[0])}")
    if options.plot and found[0].attention is not None:
        draw(options.plot, validation[0][0], predictions[0], found[0].attention)


if __name__ == "__main__":
    main()
