"""How the recurrent loop is laid out on a GPU: which outputs and sequences a block owns, what it keeps where.

Times are estimated in cycles, roughly: what counts is which layout takes fewer.
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
_GRID_SYNC = 3000  # cycles until all blocks have reached it


@dataclass(frozen=True)
class Limits:
    """What a GPU offers.

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
class Stages:
    """What a step that runs in stages (:mod:`minirnn.kernels.cuda.step`) keeps in shared memory.

    Attributes:
        operands: of products inside the step, a row of units each.
        sums: over the units, the most in one stage.
        all_sums: of the whole step.
    """

    operands: int
    sums: int
    all_sums: int

    def quads(self, hidden: int, rows: int, threads: int) -> int:
        """The operands, the sums, and the threads' parts of them."""
        parts = self.sums * rows * max(1, threads // rows)
        return self.operands * rows * (quads(hidden) + 1) + quads(self.all_sums * rows + parts)


@dataclass(frozen=True)
class Plan:
    """How a recurrence is laid out on the GPU.

    Attributes:
        path: "block" or "grid".
        units, rows: outputs and sequences of a block.
        tile: rows that a thread multiplies at a time.
        parts: threads that share one sum.
        chunk: quads of the depth that lie in shared memory at a time.
        held: quads of the depth whose weights stay there.
        products: quads for the results of products.
        reserved: quads for the stages of a step.
        blocks: over the units, over the sequences.
        threads: of a block.
        shared_bytes: of a block.
        cycles: what a step is estimated to take.
    """

    path: str
    units: int
    rows: int
    tile: int
    parts: int
    chunk: int
    held: int
    products: int
    reserved: int
    blocks: tuple[int, int]
    threads: int
    shared_bytes: int
    cycles: float


@functools.cache
def plan(
    hidden: int, batch: int, gates: int, itemsize: int, gpu: Limits, backward: bool = False, projected: int = 0,
    stages: Stages | None = None, path: str | None = None,
) -> Plan:  # fmt: skip
    """The layout that is estimated to be fastest.

    Args:
        gates: with a recurrent part, by which weight_hh has rows; without any, no unit waits for another.
        backward: there the sums run over the gates of all units.
        projected: P, where there is a projection.
        stages: of a step that runs in stages.
        path: take this one whatever it costs; but what has a projection, or stages, or no gates takes "block".

    Raises:
        DeviceError: a step does not fit a block's shared memory.
    """
    path = "block" if projected or stages or not gates else path
    plans = [
        _fit(hidden, batch, gates, itemsize, gpu, backward, projected, stages, units, rows, spread)
        for units, rows, spread in _layouts(hidden, batch, gpu, path)
    ]
    possible = [p for p in plans if p is not None]
    if not possible:
        raise DeviceError(
            f"device 'cuda': a step of {hidden} hidden units needs more than the {gpu.shared_bytes} bytes of shared "
            "memory that this GPU gives a block; lower the hidden size, or use float32"
        )
    return min(possible, key=lambda p: p.cycles)


def _layouts(hidden: int, batch: int, gpu: Limits, path: str | None) -> Iterator[tuple[int, int, bool]]:
    """The layouts to choose from: units and rows of a block, and whether they are spread over a grid."""
    if path != "grid":
        yield from ((hidden, rows, False) for rows in (1, 2, 4, 8))
    if path == "grid" or (path is None and gpu.cooperative):
        for units in sorted({min(hidden, 4 * k) for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)}):
            shares = gpu.multiprocessors // -(-hidden // units)
            if shares:
                yield units, -(-max(1, batch) // shares), True


def _fit(
    hidden: int, batch: int, gates: int, itemsize: int, gpu: Limits, backward: bool, projected: int,
    stages: Stages | None, units: int, rows: int, spread: bool,
) -> Plan | None:  # fmt: skip
    """A block of ``units`` outputs and ``rows`` sequences at least; None where it does not fit."""
    width, per_quad = projected or hidden, 4 * itemsize
    tile, rows = _tiled(rows, itemsize)
    depth = quads(gates * hidden if backward else width)
    lanes = max(1, quads((width if projected else units) if backward else units * gates))
    tiles = lanes * (rows // tile)
    share = 3 if spread else 5  # of a block's memory for parts, at most one in so many
    parts = _power(min(depth, gpu.threads // tiles, 64, gpu.shared_bytes // (share * rows * lanes * per_quad)))
    threads = gpu.threads if spread else min(gpu.threads, -(-max(tiles * parts, rows * units) // WARP) * WARP)
    other = rows * (lanes + 1) if backward else rows * (quads(hidden) + 1) if projected else 0  # dh, or h to project
    others = hidden if stages and stages.operands else 0  # outputs of products beside that with weight_hh
    others = (hidden if backward else projected) if projected else others
    products = parts * rows * max(lanes, quads(others))
    reserved = stages.quads(hidden, rows, threads) if stages else 0
    left = gpu.shared_bytes // per_quad - products - other - reserved
    spare = max(left // 8, left - 4 * lanes * depth)  # what is left beside all weights, or else some of it
    chunk = max(1, min(depth, spare // rows - 1)) if spread else depth
    if depth > chunk > parts:
        chunk -= chunk % parts
    left -= rows * (chunk + 1)
    if left < 0:
        return None
    held = min(depth, left // (4 * lanes)) if gates else 0
    blocks = -(-hidden // units), -(-max(1, batch) // rows)
    weights = 4 * lanes * per_quad * (rows // tile)  # bytes of a quad of the depth, once for each tile
    multiplying = 16 * depth * lanes * rows / _MULTIPLIERS * (itemsize // 4) * max(1, _BUSY / (tiles * parts))
    cycles = max(multiplying, held * weights / _SHARED_RATE) + (depth - held) * weights / _GLOBAL_RATE + 500
    if spread:
        cycles += _GRID_SYNC + rows * depth * per_quad / _GLOBAL_RATE
    cycles *= -(-blocks[0] * blocks[1] // gpu.multiprocessors)
    nbytes = (products + other + reserved + rows * (chunk + 1) + held * 4 * lanes) * per_quad
    name = "grid" if spread else "block"
    return Plan(name, units, rows, tile, parts, chunk, held, products, reserved, blocks, threads, nbytes, cycles)


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
    hidden: int, batch: int, gates: int, recurrent: int, layers: int, vocabulary: int, itemsize: int, gpu: Limits,
    stages: Stages | None = None, path: str | None = None,
) -> Plan:  # fmt: skip
    """The layout of sampling that is estimated to be fastest.

    ``chunk`` is all of the depth, ``held`` counts all matrices, ``products`` is for those of h and of the head.

    Args:
        gates, recurrent: gates with an input part, and with a recurrent part.
        stages, path: as in :func:`plan`.

    Raises:
        DeviceError: the states do not fit a block's shared memory.
    """
    depth, per_quad, plans = quads(hidden), 4 * itemsize, []
    for units, least, spread in _layouts(hidden, batch, gpu, "block" if stages else path):
        tile, rows = _tiled(least, itemsize)
        blocks = -(-hidden // units), -(-batch // rows)
        input_lanes, lanes = quads(units * gates), quads(units * recurrent)
        head_lanes = quads(-(-vocabulary // blocks[0]))
        parts = _power(min(depth, gpu.threads // (max(lanes, input_lanes) * (rows // tile)), 32))
        products = parts * rows * max(lanes, head_lanes, depth if stages and stages.operands else 0)
        reserved = stages.quads(hidden, rows, gpu.threads) if stages else 0
        used = 2 * rows * (depth + 1) + products + parts * rows * input_lanes + reserved
        weights = 4 * depth * ((layers - 1) * input_lanes + layers * lanes + head_lanes)
        held = min(weights, gpu.shared_bytes // per_quad - used)
        if held < 0:
            continue
        waves = -(-blocks[0] * blocks[1] // gpu.multiprocessors)
        reading = rows // tile * (held / _SHARED_RATE + (weights - held) / _GLOBAL_RATE) * per_quad
        cycles = waves * (reading + (layers + 2) * (_GRID_SYNC if spread else 100))
        name, nbytes = "grid" if spread else "block", (used + held) * per_quad
        plans.append(
            Plan(name, units, rows, tile, parts, depth, held, products, reserved, blocks, gpu.threads, nbytes, cycles)
        )
    if not plans:
        raise DeviceError(
            f"device 'cuda': sampling {batch} texts from {hidden} hidden units needs more than the "
            f"{gpu.shared_bytes} bytes of shared memory that this GPU gives a block; lower the number of texts"
        )
    return min(plans, key=lambda p: p.cycles)
