"""
Word order: a bag of words against an RNN
=========================================

Many-to-one: "good , not bad" and "bad , not good" have the same words; only a model that reads them in order can tell
the two apart. ::

    python examples/word_order.py [--steps 300] [--plot order.png]

The script generates reviews of three kinds, and trains two models on them. The bag of words sees the mean of the
embeddings of all words, through two hidden layers; the RNN reads one word after the other. Of the third kind each test
review is there in both orders, with pairs of words that no training review has: a bag gives both the same answer, of
which exactly one is wrong. Expected accuracy after 300 steps (a few seconds):

==================  ============  =====
test reviews        bag of words  RNN
==================  ============  =====
"good"              1.00          1.00
"not good"          1.00          1.00
"good , not bad"    0.50          1.00
==================  ============  =====
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.data.sequences import pad
from minirnn.data.vocabulary import Vocabulary

GOOD = ["good", "great", "fine", "funny", "moving", "clever", "warm", "fresh"]
BAD = ["bad", "dull", "weak", "boring", "poor", "stale", "cold", "loud"]
OPENINGS = ["the film is", "it was", "a story that is", "they say it is"]
KINDS = ['"good"', '"not good"', '"good , not bad"']

Review = tuple[list[str], int]


def reviews(kind: int, pairs: list[tuple[str, str]], count: int, rng: np.random.Generator) -> list[Review]:
    """Reviews of a kind, and 1 where it praises; those of the third kind in both orders."""
    found: list[Review] = []
    for n in range(count):
        opening = OPENINGS[rng.integers(len(OPENINGS))]
        good, bad = pairs[rng.integers(len(pairs))]
        first, second = (good, bad) if n % 2 else (bad, good)
        ending = [first, f"not {first}", f"{first} , not {second}"][kind]
        found.append((f"{opening} {ending}".split(), int((n % 2 == 1) != (kind == 1))))
        if kind == 2:
            found.append((f"{opening} {second} , not {first}".split(), 1 - found[-1][1]))
    return found


# %%
# Both models have embeddings and a layer that computes logits; between them one has a mean, the other a recurrence.


class BagOfWords(mr.nn.Module):
    """The mean of the embeddings [T, N, E] of a text, then a feed-forward network: the order of the words is lost."""

    def __init__(self, vocab_size: int) -> None:
        self.embedding = mr.nn.Embedding(vocab_size, 32)
        self.network = mr.models.OneToOne(32, 64, 2, num_layers=2)

    def forward(self, tokens: np.ndarray, lengths: np.ndarray) -> mr.Tensor:
        there = np.arange(len(tokens))[:, None, None] < lengths[:, None]
        return self.network((self.embedding(tokens) * there / lengths[:, None]).sum(0))


def train(model: mr.nn.Module, data: list[tuple[np.ndarray, int]], steps: int) -> None:
    rng = np.random.default_rng(0)
    optimizer = mr.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = [data[n] for n in rng.integers(0, len(data), 64)]
        loss = F.cross_entropy(model(*pad([tokens for tokens, _ in batch])), [label for _, label in batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def probabilities(model: mr.nn.Module, texts: list[np.ndarray]) -> np.ndarray:
    """The probability [N] that each text praises."""
    with model.evaluating():
        return model(*pad(texts)).softmax(1).numpy()[:, 1]


def draw(path: str, models: dict[str, mr.nn.Module], vocabulary: Vocabulary) -> None:
    """What each model thinks after each word of a review, in both orders."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axes, text in zip(panels, ("it was good , not bad", "it was bad , not good"), strict=True):
        words = text.split()
        for name, model in models.items():
            axes.plot(probabilities(model, [vocabulary.encode(words[: n + 1]) for n in range(6)]), "o-", label=name)
        axes.set_xticks(range(6), words)
        axes.set(title=text, ylim=(-0.05, 1.05))
    panels[0].set_ylabel("probability of praise")
    panels[1].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    pairs = [(good, bad) for good in GOOD for bad in BAD]
    rng.shuffle(pairs)
    known, new = pairs[:48], pairs[48:]
    training = [review for kind in range(3) for review in reviews(kind, known, 1000, rng)]
    vocabulary = Vocabulary.of(words for words, _ in training)
    data = [(vocabulary.encode(words), label) for words, label in training]
    mr.manual_seed(0)
    models = {
        "bag of words": BagOfWords(len(vocabulary)),
        "RNN": mr.models.ManyToOne(len(vocabulary), 32, 2, cell="rnn", embedding_size=32),
    }
    for model in models.values():
        train(model, data, options.steps)
    print(f"{'test accuracy':<18}" + "".join(f"{name:>14}" for name in models))
    for kind, name in enumerate(KINDS):
        test = reviews(kind, new, 500, rng)
        texts, labels = [vocabulary.encode(words) for words, _ in test], np.array([label for _, label in test])
        found = [np.mean((probabilities(model, texts) > 0.5) == labels) for model in models.values()]
        print(f"{name:<18}" + "".join(f"{accuracy:>14.3f}" for accuracy in found))
    if options.plot:
        draw(options.plot, models, vocabulary)


if __name__ == "__main__":
    main()
