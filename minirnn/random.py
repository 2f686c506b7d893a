"""Randomness is explicit: one seeded generator, from which every use draws a seed or a generator of its own."""

from __future__ import annotations

import numpy as np

from minirnn.errors import OptionError

_DEFAULT_SEED = 0
_generator = np.random.Generator(np.random.PCG64(_DEFAULT_SEED))


def manual_seed(seed: int) -> None:
    """Seed every later random draw: initial weights, dropout masks, sampling without a seed of its own."""
    global _generator
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise OptionError(f"manual_seed: wanted a whole number of at least 0, got {seed!r}")
    _generator = np.random.Generator(np.random.PCG64(int(seed)))


def generator() -> np.random.Generator:
    """The generator every draw comes from."""
    return _generator


def draw_seed() -> int:
    """A fresh 63-bit seed for one use (a dropout mask, a sampled text)."""
    return int(_generator.integers(1 << 63))


def seed_from_system() -> None:
    """Seed from the operating system, where no two runs should be alike."""
    global _generator
    _generator = np.random.Generator(np.random.PCG64())
