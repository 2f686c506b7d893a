"""
Nearest words in a trained embedding
====================================

Many-to-many: a language model that guesses the next word puts words of one use close together. ::

    python examples/nearest_words.py [--data TEXT] [--steps 400] [--plot words.png]

An LSTM reads sentences word by word and is trained to predict the next word. Words that are followed by the same words
get similar embeddings, with a cosine close to 1. TEXT has a sentence per line; without it the script generates
sentences about animals, food, vehicles and people, and never tells a word's kind. Expected: before training 0.07 of the
words have one of their own kind as their nearest word, after 400 steps (a few seconds) 1.00.

On tinyshakespeare with ``--words 300``, as many steps (10 seconds) suffice for words of grammar ("the": his, your, our,
my) and for names that head speeches ("menenius": vincentio, iv, leontes, brutus), but not for the meaning of nouns
("king": stay, words, world, me).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.data.sequences import pad
from minirnn.data.vocabulary import END, SPECIALS, START, Vocabulary

KINDS = {
    "animal": ["cat", "dog", "horse", "bird", "mouse", "goat"],
    "food": ["bread", "cheese", "soup", "rice", "cake", "fruit"],
    "vehicle": ["car", "train", "bus", "ship", "bike", "truck"],
    "person": ["anna", "peter", "she", "he", "tom", "mary"],
    "colour": ["red", "green", "blue", "black", "white", "grey"],
    "motion": ["stops", "arrives", "leaves", "waits", "returns", "starts"],
    "taste": ["sweet", "salty", "fresh", "stale", "bitter", "warm"],
}
PATTERNS = [
    "the colour animal sleeps", "person feeds the animal", "the animal eats the food", "the food tastes taste",
    "person cooks taste food", "the colour vehicle motion", "person drives the vehicle", "the vehicle motion late",
    "person likes the colour animal", "person eats taste food and motion", "person motion and eats food",
]  # fmt: skip


def generate_sentences(count: int, rng: np.random.Generator) -> list[list[str]]:
    """Sentences of the patterns, with any word of a kind in its place."""
    patterns = [PATTERNS[n].split() for n in rng.integers(0, len(PATTERNS), count)]
    return [[str(rng.choice(KINDS[word])) if word in KINDS else word for word in pattern] for pattern in patterns]


# %%
# The vectors are the rows of the embedding. The cosine of two of them is the product of the rows at length 1.


def nearest(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of V vectors [V, E] the other ones, the nearest first [V, V - 1], and the cosines [V, V]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    order = np.argsort(-cosines + 3 * np.eye(len(unit)), axis=1)  # a word itself comes last
    return order[:, :-1], cosines


def fraction_of_same_kind(words: list[str], vectors: np.ndarray) -> float:
    """How many of the words with a kind have a word of the same kind as their nearest one."""
    kind = {word: kind for kind, members in KINDS.items() for word in members}
    order, _ = nearest(vectors)
    return float(np.mean([kind.get(words[order[n, 0]]) == kind[word] for n, word in enumerate(words) if word in kind]))


def draw(path: str, words: list[str], vectors: np.ndarray) -> None:
    """The words in the plane of the two principal components of their vectors."""
    from matplotlib import pyplot as plt

    centred = vectors - vectors.mean(0)
    _, _, axes_of_variance = np.linalg.svd(centred, full_matrices=False)
    x, y = (centred @ axes_of_variance[:2].T).T
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    groups = list(KINDS.values())
    colours = [next((n for n, members in enumerate(groups) if word in members), len(groups)) for word in words]
    axes.scatter(x, y, c=colours, cmap="tab10", s=15)
    for word, *place in zip(words, x, y, strict=True):
        axes.annotate(word, place, fontsize=8, xytext=(3, 2), textcoords="offset points")
    axes.set(xlabel="first principal component", ylabel="second principal component")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text with a sentence per line")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--words", type=int, default=60, help="draw the most frequent ones, and list a third of them")
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    if options.data:
        lines = Path(options.data).read_text(encoding="utf-8").lower().splitlines()
        sentences = [words for line in lines if (words := re.findall(r"[^\W\d_]+(?:'\w+)?", line))]
    else:
        sentences = generate_sentences(4000, rng)
    vocabulary = Vocabulary.of(sentences, min_count=5)
    tokens = [np.concatenate([[START], vocabulary.encode(words), [END]]) for words in sentences]
    words = vocabulary.tokens[len(SPECIALS) :][: options.words]

    mr.manual_seed(0)
    model = mr.models.ManyToMany(len(vocabulary), 64, len(vocabulary), embedding_size=32, dropout=0.2)
    model.body.embedding.weight.data *= 0.1  # small vectors, which training soon moves
    vectors = model.body.embedding.weight.numpy()[len(SPECIALS) :][: len(words)]
    if not options.data:
        print(f"before training: {fraction_of_same_kind(words, vectors):.2f} have a word of their kind as nearest")
    optimizer = mr.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(1, options.steps + 1):
        batch, lengths = pad([tokens[n] for n in rng.integers(0, len(tokens), 32)], -1)
        logits, _ = model(np.maximum(batch[:-1], 0), lengths - 1)
        loss = F.cross_entropy(logits.reshape(-1, len(vocabulary)), batch[1:].reshape(-1), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        mr.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, options.steps // 4) == 0:
            print(f"step {step:>5}  loss {loss.item():.3f} nats per word", flush=True)
    vectors = model.body.embedding.weight.numpy()[len(SPECIALS) :][: len(words)]
    if not options.data:
        print(f"after training: {fraction_of_same_kind(words, vectors):.2f} have a word of their kind as nearest")
    order, cosines = nearest(vectors)
    for n in range(0, len(words), 3):
        print(f"{words[n]:>10}  " + ", ".join(f"{words[k]} {cosines[n, k]:.2f}" for k in order[n, :4]))
    if options.plot:
        draw(options.plot, words, vectors)


if __name__ == "__main__":
    main()
