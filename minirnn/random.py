"""Random numbers: one seeded generator, from which every use draws a seed or a generator of its own.

A thread other than the main one that calls :func:`manual_seed` has its own generator from then on, so that what it
draws does not depend on other threads; a thread that does not call it shares the main thread's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minirnn.validation import check_int

_DEFAULT_SEED = 0
_shared = np.random.Generator(np.random.PCG64(_DEFAULT_SEED))
_own = threading.local()


def manual_seed(seed: int) -> None:
    """Seed every later random draw: initial weights, dropout masks, sampling without its own seed.

    Raises:
        OptionError: the seed is not an int of at least 0.
    """
    _use(np.random.PCG64(check_int("manual_seed", seed, 0)))


def seed_from_system() -> None:
    """Seed from the operating system, where every run is to differ."""
    _use(np.random.PCG64())


def _use(bits: np.random.PCG64) -> None:
    global _shared
    if threading.current_thread() is threading.main_thread():
        _shared = np.random.Generator(bits)
    else:
        _own.generator = np.random.Generator(bits)


def generator() -> np.random.Generator:
    """The generator that every draw of this thread comes from."""
    return getattr(_own, "generator", _shared)


def draw_seed() -> int:
    """A new 63-bit seed for one use (a dropout mask, a sampled text)."""
    seed = int(generator().integers(1 << 63))
    if (drawn := getattr(_own, "drawn", None)) is not None:
        drawn.append(seed)
    return seed


@contextmanager
def recorded_seeds() -> Iterator[list[int]]:
    """The seeds that this thread draws inside by :func:`draw_seed`."""
    _own.drawn = drawn = list[int]()
    try:
        yield drawn
    finally:
        _own.drawn = None


def repeats(state: Any, seeds: list[int]) -> bool:
    """Whether the generator, in ``state`` before, has drawn these seeds and nothing else since."""
    twin = np.random.Generator(type(generator().bit_generator)())
    twin.bit_generator.state = state
    drawn = [int(twin.integers(1 << 63)) for _ in seeds]
    return drawn == seeds and twin.bit_generator.state == generator().bit_generator.state


def generator_of(seed: int | None) -> np.random.Generator:
    """A new generator with this seed, or with one drawn from :func:`generator` where it is None.

    Raises:
        OptionError: the seed is not an int of at least 0.
    """
    return np.random.default_rng(draw_seed() if seed is None else check_int("seed", seed, 0))
