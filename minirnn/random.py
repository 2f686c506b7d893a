"""Randomness is explicit: one seeded generator, from which every use draws a seed or a generator of its own.

A thread beside the main one that calls :func:`manual_seed` has a generator of its own from then on, so that what it
draws does not depend on what other threads do meanwhile; one that does not shares the main thread's.
"""

from __future__ import annotations

import threading

import numpy as np

from minirnn.errors import OptionError

_DEFAULT_SEED = 0
_shared = np.random.Generator(np.random.PCG64(_DEFAULT_SEED))
_own = threading.local()


def manual_seed(seed: int) -> None:
    """Seed every later random draw: initial weights, dropout masks, sampling without a seed of its own."""
    _use(np.random.PCG64(_checked("manual_seed", seed)))


def generator() -> np.random.Generator:
    """The generator every draw of this thread comes from."""
    return getattr(_own, "generator", _shared)


def draw_seed() -> int:
    """A fresh 63-bit seed for one use (a dropout mask, a sampled text)."""
    return int(generator().integers(1 << 63))


def generator_of(seed: int | None) -> np.random.Generator:
    """A generator for one use; its seed is drawn where it is None.

    Raises:
        OptionError: the seed is none.
    """
    if seed is None:
        return np.random.default_rng(draw_seed())
    return np.random.default_rng(_checked("seed", seed))


def _checked(name: str, seed: int) -> int:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise OptionError(f"{name}: expected an int of at least 0, got {seed!r}")
    return int(seed)


def seed_from_system() -> None:
    """Seed from the operating system, where no two runs should be alike."""
    _use(np.random.PCG64())


def _use(bits: np.random.PCG64) -> None:
    global _shared
    if threading.current_thread() is threading.main_thread():
        _shared = np.random.Generator(bits)
    else:
        _own.generator = np.random.Generator(bits)
