"""
Captions of drawn shapes: an image in, a sentence out
=====================================================

One-to-many: from an image of one or two shapes to "a small red circle left of a big blue square". ::

    python examples/caption_shapes.py [--steps 2000] [--condition start] [--plot captions.png]

The images, of 32 by 32 pixels with noise, are drawn here. The model reads one as a vector, the mean colours of every
2 by 2 pixels, which sets the initial state; then it writes words, each given the one before, until it writes <end>.
With ``--condition every_step`` each step reads the vector again. A hundred captions are held out from training: the
model is tested on new images of the others, and of these, whose words it knows, but not in this combination. Expected
exact match after 2,000 steps: captions seen in training 0.96, unseen ones 0.90; conditioned at every step 1.00 and
0.99, at about twice the time. A beam of 4 finds the captions of greedy decoding: the words are hardly ever in doubt.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

import minirnn as mr
from minirnn.data.sequences import pad
from minirnn.data.vocabulary import END, Vocabulary

COLOURS = {"red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.3), "blue": (0.2, 0.3, 0.9), "yellow": (0.9, 0.8, 0.2)}
RADII = {"small": 4, "big": 7}
SHAPES = ("circle", "square", "triangle")
PLACES = {"": [(16, 16)], "left of": [(16, 8), (16, 24)], "above": [(8, 16), (24, 16)]}  # centres: row and column
SIDE = 32
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]

THINGS = list(itertools.product(RADII, COLOURS, SHAPES))
SCENES = [("", (thing,)) for thing in THINGS]
SCENES += [(relation, both) for relation in ("left of", "above") for both in itertools.product(THINGS, THINGS)]


def caption(relation: str, things: tuple[tuple[str, str, str], ...]) -> list[str]:
    """The words that describe a scene."""
    return f" {relation} ".join(" ".join(("a", *thing)) for thing in things).split()


def draw_scenes(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images [N, SIDE, SIDE, 3] of scenes, the shapes near their places."""
    images = np.full((len(numbers), SIDE, SIDE, 3), 0.1)
    for image, number in zip(images, numbers, strict=True):
        relation, things = SCENES[number]
        for (size, colour, shape), place in zip(things, PLACES[relation], strict=True):
            row, column = place + rng.integers(-1, 2, 2)
            down, across, radius = ROWS - row, abs(COLUMNS - column), RADII[size]
            if shape == "circle":
                inside = down**2 + across**2 <= radius**2
            elif shape == "square":
                inside = np.maximum(abs(down), across) <= 0.85 * radius
            else:
                inside = (abs(down) <= radius) & (2 * across <= down + radius)
            image[inside] = COLOURS[colour]
    return images + rng.normal(0, 0.05, images.shape)


def features(images: np.ndarray) -> np.ndarray:
    """The mean colours of every 2 by 2 pixels [N, F], around 0."""
    pooled = images.reshape(len(images), SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4))
    return 4 * pooled.reshape(len(images), -1) - 1


# %%
# The picture shows test images with the captions that the model writes; wrong ones are red.


def draw(path: str, images: np.ndarray, written: list[list[str]], right: list[bool]) -> None:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 4, figsize=(10, 5.6), layout="constrained")
    for axes, image, words, good in zip(panels.flat, images, written, right, strict=False):
        axes.imshow(image.clip(0, 1))
        lines = " ".join(words).replace(" left of", "\nleft of").replace(" above", "\nabove")
        axes.set_title(lines, fontsize=9, color="black" if good else "firebrick")
        axes.axis("off")
    figure.savefig(path, dpi=120)


# %%
# The targets of a batch are sentences of different lengths, each with its <end>; the loss counts their words only.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--condition", choices=("start", "every_step"), default="start")
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    mr.manual_seed(0)
    rng = np.random.default_rng(0)
    captions = [caption(*scene) for scene in SCENES]
    vocabulary = Vocabulary.of(captions)
    targets = [[*vocabulary.encode(words), END] for words in captions]
    unseen, seen = np.split(rng.permutation(len(SCENES)), [100])
    size = features(draw_scenes(seen[:1], rng)).shape[1]
    model = mr.models.OneToMany(
        size, 128, len(vocabulary), cell="gru", embedding_size=24, condition=options.condition, end=END
    )
    optimizer = mr.optim.Adam(model.parameters(), lr=3e-3)
    schedule = mr.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for _ in range(options.steps):
        batch = rng.choice(seen, 64)
        target, lengths = pad([targets[number] for number in batch])
        loss = model.loss(features(draw_scenes(batch, rng)), target, lengths)
        optimizer.zero_grad()
        loss.backward()
        mr.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"loss {loss.item():.3f} nats per word")

    for name, numbers in (("seen", rng.choice(seen, 500)), ("unseen", np.repeat(unseen, 5))):
        images = draw_scenes(numbers, rng)
        for width in (1, 4):
            found = model.generate(features(images), length=12, beam_width=width)
            written = [vocabulary.decode(hypothesis.tokens) for hypothesis in found]
            right = [words == captions[number] for words, number in zip(written, numbers, strict=True)]
            print(f"captions {name} in training, beam width {width}: exact match {np.mean(right):.3f}")
    if options.plot:
        draw(options.plot, images[::5], written[::5], right[::5])


if __name__ == "__main__":
    main()
