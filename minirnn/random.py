"""Random numbers: one seeded generator, from which every use draws a seed or a generator of its own.

A thread other than the main one that calls :func:`manual_seed` has its own generator from then on, so that what it
draws does not depend on other threads; a thread that does not call it shares the main thread's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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


class Shard(NamedTuple):
    """The sequences ``first`` to ``last - 1`` of a batch of ``total``: those that one process computes."""

    first: int
    last: int
    total: int

    @property
    def columns(self) -> slice:
        """Where its sequences lie in the batch."""
        return slice(self.first, self.last)

    def row_numbers(self, steps: int) -> np.ndarray:
        """[steps n] int64: where the rows [T, n] of its sequences lie among those of the whole batch [T, N]."""
        return (np.arange(steps)[:, None] * self.total + np.arange(self.first, self.last)).reshape(-1)


def shard() -> Shard | None:
    """The shard whose loss is being computed, or None where this process computes the whole batch."""
    return getattr(_own, "shard", None)


@contextmanager
def drawing_for(part: Shard | None) -> Iterator[None]:
    """Let each sequence of a shard have the random numbers that it has in the whole batch.

    It holds for the dropout and zoneout of layers, for :func:`uniform` and for :func:`generators`; and all processes
    draw as many numbers from :func:`generator`.
    """
    before, _own.shard = shard(), part
    try:
        yield
    finally:
        _own.shard = before


def uniform(*shape: int) -> np.ndarray:
    """Random numbers from 0 to 1, [N] or [T, N], for each of N sequences, those of a shard where it is one."""
    part = shard() or Shard(0, shape[-1], shape[-1])
    drawn: np.ndarray = np.random.default_rng(draw_seed()).random((*shape[:-1], part.total))
    return drawn[..., part.columns]


def generators(count: int) -> list[np.random.Generator]:
    """A new generator for each of ``count`` sequences, those of a shard where it is one."""
    seed, first = draw_seed(), getattr(shard(), "first", 0)
    return [np.random.default_rng([seed, first + number]) for number in range(count)]


def generator_of(seed: int | None) -> np.random.Generator:
    """A new generator with this seed, or with one drawn from :func:`generator` where it is None.

    Raises:
        OptionError: the seed is not an int of at least 0.
    """
    return np.random.default_rng(draw_seed() if seed is None else check_int("seed", seed, 0))
