"""
Sentiment of reviews
====================

Many-to-one: the classic small network, Embedding, SimpleRNN(100), Dense(1, sigmoid). ::

    python examples/sentiment.py [--data REVIEWS.tsv] [--epochs 6] [--plot sentiment.png]

Binary cross-entropy, Adam, batches of 128; lengths mask the padding. REVIEWS.tsv has a text, a tab and one of two
labels per line; without it the script generates reviews, with negations ("not so good") and turns ("it has a funny
cast , but ..."), of which only the last clause counts. A random tenth is the validation set. Expected validation
accuracy: 1.00 on the generated reviews, 0.69 on the 10,662 sentences of the movie review data (Pang & Lee 2005),
where the command ``minirnn train-classifier`` reaches more.
"""

from __future__ import annotations

import argparse

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.data.lines import read_pairs
from minirnn.data.sequences import Buckets, pad
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import Labels, Vocabulary

GOOD = ["good", "great", "fine", "funny", "moving"]
BAD = ["bad", "dull", "weak", "boring", "poor"]
THINGS = ["film", "story", "cast", "music", "ending"]


def generate_reviews(count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Reviews of one or two clauses, and the sentiment of the last one."""

    def clause(positive: bool) -> str:
        negated = rng.random() < 0.4
        word = rng.choice(GOOD if positive != negated else BAD)
        return f"{rng.choice(['a', 'it has a'])} {'not so ' * negated}{word} {rng.choice(THINGS)}"

    texts, labels = [], []
    for _ in range(count):
        positive = bool(rng.random() < 0.5)
        turn = clause(not positive) + " , but " if rng.random() < 0.4 else ""
        texts.append(turn + clause(positive))
        labels.append("pos" if positive else "neg")
    return texts, labels


# %%
# The model is a module of three layers; ``lengths`` tells the RNN where each text ends.


class Sentiment(mr.nn.Module):
    """Token embeddings, an RNN of 100 units, and one number from its last state: the probability of class 1."""

    def __init__(self, vocab_size: int) -> None:
        self.embedding = mr.nn.Embedding(vocab_size, 50)
        self.embedding.weight.data *= 0.1  # small vectors for rare words, which are hardly trained
        self.rnn = mr.nn.RNN(50, 100)
        self.dropout = mr.nn.Dropout(0.5)
        self.dense = mr.nn.Linear(100, 1)

    def forward(self, tokens: np.ndarray, lengths: np.ndarray) -> mr.Tensor:
        _, h_n = self.rnn(self.dropout(self.embedding(tokens)), lengths=lengths)
        return self.dense(self.dropout(h_n[0])).sigmoid().squeeze(1)


def draw(path: str, model: Sentiment, words: list[str], tokens: np.ndarray, label: str) -> None:
    """The probability after each word of a review."""
    from matplotlib import pyplot as plt

    with model.evaluating():
        probabilities = model(*pad([tokens[:length] for length in range(1, len(tokens) + 1)])).numpy()
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(probabilities, "o-")
    axes.axhline(0.5, color="gray", lw=0.8)
    axes.set_xticks(range(len(words)), words, rotation=35, ha="right")
    axes.set(ylim=(-0.05, 1.05), ylabel=f"probability of {label!r}", title="The prediction after each word")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file with a text, a tab and a label per line")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    texts, names = read_pairs([options.data])[:2] if options.data else generate_reviews(20_000, rng)
    labels = Labels.of(names)
    if len(labels) != 2:
        raise SystemExit(f"expected two labels, got {len(labels)}")
    tokenizer = Tokenizer("word", lower=True)
    words = [tokenizer.split(text) for text in texts]
    order = rng.permutation(len(texts))
    train, validation = order[len(order) // 10 :], order[: len(order) // 10]
    vocabulary = Vocabulary.of((words[n] for n in train), min_count=2)
    tokens = [vocabulary.encode(sentence) for sentence in words]
    targets = labels.encode(names)

    mr.manual_seed(0)
    model = Sentiment(len(vocabulary))
    optimizer = mr.optim.Adam(model.parameters(), lr=2e-3)
    buckets = Buckets([len(tokens[n]) for n in train], batch_size=128)
    for epoch in range(1, options.epochs + 1):
        for batch in buckets.order(rng):
            chosen = train[batch]
            loss = F.binary_cross_entropy(model(*pad([tokens[n] for n in chosen])), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with model.evaluating():
            predictions = model(*pad([tokens[n] for n in validation])).numpy() > 0.5
        accuracy = (predictions == targets[validation]).mean()
        print(f"epoch {epoch:>2}  loss {loss.item():.3f}  validation accuracy {accuracy:.3f}", flush=True)
    if options.plot:
        longest = max(validation[:200], key=lambda n: len(words[n]))
        draw(options.plot, model, words[longest], tokens[longest], labels.decode([1])[0])


if __name__ == "__main__":
    main()
