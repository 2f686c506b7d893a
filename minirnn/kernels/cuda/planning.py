"""How the recurrent loop is laid out on a card: which outputs and sequences a block owns, what it keeps where.

Times are reckoned in cycles, roughly: what counts is which layout takes fewer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from minirnn.errors import DeviceError
from minirnn.kernels.cuda.jit import SIMULATOR

WARP = 2 if SIMULATOR else 32

_SHARED_RATE, _GLOBAL_RATE = 128, 32  # bytes a multiprocessor reads in a cycle
_MULTIPLIERS = 128  # multiply-adds of a multiprocessor in a cycle, float32
_BUSY = 256  # threads that keep the multipliers busy
_MEETING = 3000  # cycles until all blocks have met


@dataclass(frozen=True)
class Limits:
    """What a card offers.

    Attributes:
        multiprocessors: blocks that run at the same time, one each.
        shared_bytes: shared memory of a block.
        threads: of a block.
        cooperative: whether a grid can wait for itself.
    """

    multiprocessors: int
    shared_bytes: int
    threads: int
    cooperative: bool


@dataclass(frozen=True)
class Plan:
    """How a walk is laid out on the card.

    Attributes:
        path: "block" or "grid".
        units, rows: outputs and sequences of a block.
        tile: rows that a thread multiplies at a time.
        parts: threads that share one sum.
        chunk: quads of the depth that lie in shared memory at a time.
        held: quads of the depth whose weights stay there.
        blocks: over the units, over the sequences.
        threads: of a block.
        shared_bytes: of a block.
        cycles: what a step is reckoned to take.
    """

    path: str
    units: int
    rows: int
    tile: int
    parts: int
    chunk: int
    held: int
    blocks: tuple[int, int]
    threads: int
    shared_bytes: int
    cycles: float


@functools.cache
def plan(
    hidden: int, batch: int, gates: int, itemsize: int, card: Limits, back: bool = False, projected: int = 0,
    path: str | None = None,
) -> Plan:  # fmt: skip
    """The layout that is reckoned to be fastest.

    Args:
        back: of the way back, where the sums run over the gates of all units.
        projected: P, where there is a projection; it takes the path "block".
        path: take this one whatever it costs.

    Raises:
        DeviceError: a step does not fit a block's shared memory.
    """
    plans = [
        _fit(hidden, batch, gates, itemsize, card, back, projected, units, rows, spread)
        for units, rows, spread in _layouts(hidden, batch, card, "block" if projected else path)
    ]
    possible = [p for p in plans if p is not None]
    if not possible:
        raise DeviceError(
            f"device 'cuda': a step of {hidden} hidden units needs more than the {card.shared_bytes} bytes of shared "
            "memory that this card gives a block; lower the hidden size, or use float32"
        )
    return min(possible, key=lambda p: p.cycles)


def _layouts(hidden: int, batch: int, card: Limits, path: str | None) -> Iterator[tuple[int, int, bool]]:
    """The layouts to choose from: units and rows of a block, and whether they are spread over a grid."""
    if path != "grid":
        yield from ((hidden, rows, False) for rows in (1, 2, 4, 8))
    if path == "grid" or (path is None and card.cooperative):
        for units in sorted({min(hidden, 4 * k) for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)}):
            shares = card.multiprocessors // -(-hidden // units)
            if shares:
                yield units, -(-max(1, batch) // shares), True


def _fit(
    hidden: int, batch: int, gates: int, itemsize: int, card: Limits, back: bool, projected: int, units: int,
    rows: int, spread: bool,
) -> Plan | None:  # fmt: skip
    """A block of ``units`` outputs and ``rows`` sequences at least; None where it does not fit."""
    width, per_quad = projected or hidden, 4 * itemsize
    tile, rows = _tiled(rows, itemsize)
    depth = quads(gates * hidden if back else width)
    lanes = quads((width if projected else units) if back else units * gates)
    tiles = lanes * (rows // tile)
    share = 3 if spread else 5  # of a block's memory for parts, at most one in so many
    parts = _power(min(depth, card.threads // tiles, 64, card.shared_bytes // (share * rows * lanes * per_quad)))
    threads = card.threads if spread else min(card.threads, -(-max(tiles * parts, rows * units) // WARP) * WARP)
    other = rows * (lanes + 1) if back else rows * (quads(hidden) + 1) if projected else 0  # dh, or h yet to project
    sums = parts * rows * (max(lanes, quads(hidden if back else projected)) if projected else lanes)
    left = card.shared_bytes // per_quad - sums - other
    spare = max(left // 8, left - 4 * lanes * depth)  # what is left beside all weights, or else some of it
    chunk = max(1, min(depth, spare // rows - 1)) if spread else depth
    if depth > chunk > parts:
        chunk -= chunk % parts
    left -= rows * (chunk + 1)
    if left < 0:
        return None
    held = min(depth, left // (4 * lanes))
    blocks = -(-hidden // units), -(-max(1, batch) // rows)
    weights = 4 * lanes * per_quad * (rows // tile)  # bytes of a quad of the depth, once for each tile
    multiplying = 16 * depth * lanes * rows / _MULTIPLIERS * (itemsize // 4) * max(1, _BUSY / (tiles * parts))
    cycles = max(multiplying, held * weights / _SHARED_RATE) + (depth - held) * weights / _GLOBAL_RATE + 500
    if spread:
        cycles += _MEETING + rows * depth * per_quad / _GLOBAL_RATE
    cycles *= -(-blocks[0] * blocks[1] // card.multiprocessors)
    nbytes = (sums + other + rows * (chunk + 1) + held * 4 * lanes) * per_quad
    name = "grid" if spread else "block"
    return Plan(name, units, rows, tile, parts, chunk, held, blocks, threads, nbytes, cycles)


def _tiled(rows: int, itemsize: int) -> tuple[int, int]:
    """Rows of a tile, no more than registers hold, and ``rows`` in whole tiles."""
    tile = next(t for t in (1, 2, 4, 8) if t >= min(rows, 32 // itemsize))
    return tile, -(-rows // tile) * tile


def _power(most: int) -> int:
    """The largest power of two up to ``most``, at least 1: parts of equal size."""
    return 1 << max(1, most).bit_length() - 1


def quads(elements: int) -> int:
    """Quads that hold so many elements."""
    return -(-elements // 4)


@functools.cache
def plan_sampling(
    hidden: int, batch: int, gates: int, layers: int, vocabulary: int, itemsize: int, card: Limits,
    path: str | None = None,
) -> Plan:  # fmt: skip
    """The layout of sampling that is reckoned to be fastest; ``chunk`` is all of the depth, ``held`` all matrices'.

    Raises:
        DeviceError: the states do not fit a block's shared memory.
    """
    depth, per_quad, plans = quads(hidden), 4 * itemsize, []
    for units, least, spread in _layouts(hidden, batch, card, path):
        tile, rows = _tiled(least, itemsize)
        blocks = -(-hidden // units), -(-batch // rows)
        lanes, head_lanes = quads(units * gates), quads(-(-vocabulary // blocks[0]))
        parts = _power(min(depth, card.threads // (lanes * (rows // tile)), 32))
        used = 2 * rows * (depth + 1) + parts * rows * (max(lanes, head_lanes) + lanes)
        weights = 4 * depth * ((2 * layers - 1) * lanes + head_lanes)
        held = min(weights, card.shared_bytes // per_quad - used)
        if held < 0:
            continue
        waves = -(-blocks[0] * blocks[1] // card.multiprocessors)
        reading = rows // tile * (held / _SHARED_RATE + (weights - held) / _GLOBAL_RATE) * per_quad
        cycles = waves * (reading + (layers + 2) * (_MEETING if spread else 100))
        name, nbytes = "grid" if spread else "block", (used + held) * per_quad
        plans.append(Plan(name, units, rows, tile, parts, depth, held, blocks, card.threads, nbytes, cycles))
    if not plans:
        raise DeviceError(
            f"device 'cuda': sampling {batch} texts from {hidden} hidden units needs more than the "
            f"{card.shared_bytes} bytes of shared memory that this card gives a block; lower the number of texts"
        )
    return min(plans, key=lambda p: p.cycles)
