"""Images of digits for the examples: MNIST's files from a folder, or generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minirnn.data.images import read_idx

_FONT = (  # five columns by seven rows; one string per digit
    "01110100011001110101110011000101110", "00100011000010000100001000010001110", "01110100010000100010001000100011111",
    "11111000100010000010000011000101110", "00010001100101010010111110001000010", "11111100001111000001000011000101110",
    "00110010001000011110100011000101110", "11111000010001000100010000100001000", "01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
)  # fmt: skip


def load(folder: str | None, limit: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images [N, 28, 28] from 0 to 1 and labels [N], then test images and labels.

    Args:
        folder: with MNIST's idx files (``train*images*``, ``train*labels*``, ``t10k*images*``, ``t10k*labels*``);
            None generates 4,000 and 1,000 images instead.
        limit: maximum number of training images.
    """
    if folder is None:
        rng = np.random.default_rng(0)
        return (*_generate(min(4000, limit or 4000), rng), *_generate(1000, rng))
    parts = []
    for part in ("train*images*", "train*labels*", "t10k*images*", "t10k*labels*"):
        found = sorted(Path(folder).glob(part))
        if not found:
            raise SystemExit(f"no {part} in {folder}")
        values = read_idx(found[0])
        parts.append(values.astype(np.int64) if values.ndim == 1 else values.astype(np.float32) / 255)
    return parts[0][:limit], parts[1][:limit], parts[2], parts[3]


def _generate(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Digits of a small font, randomly stretched, slanted and shifted, blurred, with noise."""
    glyphs = np.array([[int(c) for c in digit] for digit in _FONT], np.float32).reshape(10, 7, 5)
    labels = rng.integers(0, 10, count)
    height, width = rng.uniform(14, 21, (2, count))
    top, left = 14 - height / 2 + rng.uniform(-3, 3, count), 14 - width / 2 + rng.uniform(-3, 3, count)
    slant = rng.uniform(-0.3, 0.3, count)
    row, column = np.mgrid[:28, :28]
    y = (row - top[:, None, None]) / height[:, None, None] * 7
    x = (column - left[:, None, None] + slant[:, None, None] * (row - 14)) / width[:, None, None] * 5
    inside = (y >= 0) & (y < 7) & (x >= 0) & (x < 5)
    at = np.clip(y, 0, 6).astype(int), np.clip(x, 0, 4).astype(int)
    images = glyphs[labels[:, None, None], at[0], at[1]] * inside
    blurred = (2 * images + np.roll(images, 1, 1) + np.roll(images, -1, 1) + np.roll(images, 1, 2)) / 5
    return np.clip(blurred + rng.normal(0, 0.1, images.shape), 0, 1).astype(np.float32), labels


def as_text(image: np.ndarray) -> str:
    """An image [28, 28] from 0 to 1 as 14 lines of characters, dark to bright."""
    shades = np.clip(image.reshape(14, 2, 28).mean(1) * 5, 0, 4.99).astype(int)
    return "\n".join("".join(" .:#@"[shade] for shade in line) for line in shades)
