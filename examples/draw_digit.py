"""
Drawing digits from a label
===========================

One-to-many: from a label, 0 to 9, to the image of a digit, drawn row by row. ::

    python examples/draw_digit.py [--data FOLDER] [--epochs 6] [--plot digits.png]

The label sets the initial state of an LSTM. Each step outputs a row of 28 pixels and reads the row before it: its
own output, in training too, where the gradient flows through all rows that were fed back. (With teacher forcing, on
true rows only, it would draw blurred images: it would never have read its own rows in training.) FOLDER contains
MNIST's idx files; without it the script generates images of digits. Expected: each label gives a typical digit with
soft edges; with MNIST's first 10,000 images the loss is 172 nats per image after 6 epochs.
"""

from __future__ import annotations

import argparse

import _digits
import numpy as np

import minirnn as mr
import minirnn.nn.functional as F


def draw(path: str, images: np.ndarray) -> None:
    """The images [10, 28, 28] side by side."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 5, figsize=(7, 3), layout="constrained")
    for axes, image in zip(panels.flat, images, strict=True):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.axis("off")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with MNIST's idx files")
    parser.add_argument("--images", type=int, help="use the first IMAGES training images only")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    images, labels, _, _ = _digits.load(options.data, options.images)
    mr.manual_seed(0)
    rng = np.random.default_rng(0)
    model = mr.models.OneToMany(10, 256, 28, cell="lstm", activation="sigmoid")
    optimizer = mr.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(1, options.epochs + 1):
        for batch in np.array_split(rng.permutation(len(images)), max(1, len(images) // 64)):
            rows = images[batch].transpose(1, 0, 2)  # [T=28, N, O=28]
            loss = F.binary_cross_entropy_with_logits(model(labels[batch], length=28), rows)
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        print(f"epoch {epoch:>3}  {28 * 28 * loss.item():.1f} nats per image", flush=True)

    drawn = model.generate(np.arange(10), 28).transpose(1, 0, 2)  # [10, T=28, O=28]
    for half in (drawn[:5], drawn[5:]):
        texts = [_digits.as_text(image).split("\n") for image in half]
        print("\n".join("  ".join(lines) for lines in zip(*texts, strict=True)))
    if options.plot:
        draw(options.plot, drawn)


if __name__ == "__main__":
    main()
