"""
Reading digits row by row
=========================

Many-to-one: an LSTM reads images of handwritten digits row by row, 28 steps of 28 pixels, and classifies them. ::

    python examples/read_digits.py [--data FOLDER] [--epochs 30] [--plot digits.png]

FOLDER contains MNIST's idx files; without it the script generates images of digits. As data augmentation each
training image is shifted by up to two pixels. Expected test accuracy: 0.988 with MNIST's first 10,000 training
images and its 10,000 test images after 30 epochs (a minute); 1.00 on the generated ones.
"""

from __future__ import annotations

import argparse

import _digits
import numpy as np

import minirnn as mr
import minirnn.nn.functional as F


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image [N, 28, 28] shifted by -2 to 2 rows and columns, filled with zeros."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    down, right = rng.integers(0, 5, (2, len(images)))
    span = np.arange(28)
    n = np.arange(len(images))[:, None, None]
    return padded[n, (down[:, None] + span)[:, :, None], (right[:, None] + span)[:, None, :]]


def predict(model: mr.models.ManyToOne, images: np.ndarray) -> np.ndarray:
    """The most likely digit of each image [N]."""
    with model.evaluating():
        parts = [model(images[n : n + 500].transpose(1, 0, 2)).numpy().argmax(1) for n in range(0, len(images), 500)]
    return np.concatenate(parts)


def draw(path: str, images: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> None:
    """Ten test images with the predictions, wrong ones in red."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 5, figsize=(7, 3.4), layout="constrained")
    for axes, image, prediction, label in zip(panels.flat, images, predictions, labels, strict=False):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(str(prediction), color="black" if prediction == label else "red")
        axes.axis("off")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with MNIST's idx files")
    parser.add_argument("--images", type=int, help="use the first IMAGES training images only")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--plot", help="write a picture to this file")
    options = parser.parse_args()

    images, labels, test_images, test_labels = _digits.load(options.data, options.images)
    mr.manual_seed(0)
    rng = np.random.default_rng(0)
    model = mr.models.ManyToOne(28, 128, 10, num_layers=2, cell="lstm", dropout=0.2)
    optimizer = mr.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = mr.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    for epoch in range(1, options.epochs + 1):
        for batch in np.array_split(rng.permutation(len(images)), max(1, len(images) // 64)):
            rows = shifted(images[batch], rng).transpose(1, 0, 2)  # [T=28, N, I=28]
            loss = F.cross_entropy(model(rows), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        scheduler.step()
        if epoch % 5 == 0 or epoch == options.epochs:
            accuracy = np.mean(predict(model, test_images) == test_labels)
            print(f"epoch {epoch:>3}  loss {loss.item():.3f}  test accuracy {accuracy:.4f}", flush=True)
    if options.plot:
        draw(options.plot, test_images[:10], predict(model, test_images[:10]), test_labels[:10])


if __name__ == "__main__":
    main()
