"""Launch configurations of persistent kernels: what a block computes, its threads, what it keeps in shared memory.

Candidates are compared by a rough estimate of the cycles of one step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from minirnn.errors import DeviceError
from minirnn.kernels.cuda.jit import SIMULATOR

WARP = 2 if SIMULATOR else 32

_SHARED_RATE, _GLOBAL_RATE = 128, 32  # bytes that a multiprocessor reads in a cycle
_MULTIPLIERS = 128  # multiply-adds of a multiprocessor in a cycle, float32
_BUSY_THREADS = 256  # threads that keep the multipliers busy
_GRID_SYNC_CYCLES = 3000

Path = Literal["block", "grid"]


@dataclass(frozen=True)
class Limits:
    """What a GPU offers.

    Attributes:
        multiprocessors: as many blocks run at the same time.
        shared_bytes: most shared memory of a block.
        threads: most threads of a block.
        cooperative: whether kernels can synchronise their whole grid.
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
        stage_sums: sums over the units, the most of one stage.
        sums: of all stages.
    """

    operands: int
    stage_sums: int
    sums: int

    def float4s(self, hidden: int, rows: int, threads: int) -> int:
        """float4s for the operands, the sums, and each thread's part of the sums of a stage."""
        partial = self.stage_sums * rows * max(1, threads // rows)
        return self.operands * rows * (float4s(hidden) + 1) + float4s(self.sums * rows + partial)


@dataclass(frozen=True)
class Problem:
    """What is to be computed.

    Attributes:
        gates: recurrent products of each unit; with none, no unit depends on another one's last step.
        itemsize: bytes of a number.
        backward: the products then sum over the gates of all units.
        projected: width of h where it is projected, else 0.
        stages: of a step that runs in stages.
        input_gates, layers, vocabulary: of sampling.
    """

    hidden: int
    batch: int
    gates: int
    itemsize: int
    backward: bool = False
    projected: int = 0
    stages: Stages | None = None
    input_gates: int = 0
    layers: int = 0
    vocabulary: int = 0


@dataclass(frozen=True)
class LaunchPlan:
    """A launch configuration. Sizes in shared memory count float4s: four elements.

    Attributes:
        path: "block": each block computes all units of its sequences. "grid": the units are divided among the blocks of
            a grid, which synchronises at every step.
        units, rows: hidden units and sequences of a block.
        tile: rows that a thread multiplies at a time.
        splits: threads among which one sum is split.
        chunk: depth of a product that is in shared memory at a time, in float4s.
        cached: of the weights; depth in a recurrence, size in sampling.
        products: size of the results of products.
        reserved: size of what the stages of a step keep.
        blocks: grid size, over units and over sequences.
        threads, shared_bytes: of a block.
        cycles: estimate for one step.
    """

    path: Path
    units: int
    rows: int
    tile: int
    splits: int
    chunk: int
    cached: int
    products: int
    reserved: int
    blocks: tuple[int, int]
    threads: int
    shared_bytes: int
    cycles: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """What kernels are told."""
        return self.units, self.rows, self.splits, self.chunk, self.cached, self.products, self.reserved


@functools.cache
def plan_recurrence(problem: Problem, gpu: Limits, path: Path | None = None) -> LaunchPlan:
    """The configuration of a recurrent layer that is estimated to be fastest.

    Args:
        path: use this one whatever it costs. What has a projection, or stages, or no gates always uses "block".

    Raises:
        DeviceError: a step does not fit into a block's shared memory.
    """
    path = "block" if problem.projected or problem.stages or not problem.gates else path
    plans = [_recurrence_plan(problem, gpu, *layout) for layout in _layouts(problem, gpu, path)]
    return _fastest(plans, gpu, f"a step of {problem.hidden} hidden units", "the hidden size, or use float32")


@functools.cache
def plan_sampling(problem: Problem, gpu: Limits, path: Path | None = None) -> LaunchPlan:
    """The configuration of sampling that is estimated to be fastest, as :func:`plan_recurrence`."""
    plans = [
        _sampling_plan(problem, gpu, *layout) for layout in _layouts(problem, gpu, "block" if problem.stages else path)
    ]
    what = f"sampling {problem.batch} texts from {problem.hidden} hidden units"
    return _fastest(plans, gpu, what, "the number of texts")


def _fastest(plans: list[LaunchPlan | None], gpu: Limits, what: str, lower: str) -> LaunchPlan:
    possible = [plan for plan in plans if plan is not None]
    if not possible:
        raise DeviceError(
            f"device 'cuda': {what} needs more than the {gpu.shared_bytes} bytes of shared memory that a block has on "
            f"this GPU; lower {lower}"
        )
    return min(possible, key=lambda plan: plan.cycles)


def _layouts(problem: Problem, gpu: Limits, path: Path | None) -> Iterator[tuple[int, int, bool]]:
    """Candidates: units and least rows of a block, and whether the units are divided among a grid."""
    hidden = problem.hidden
    if path != "grid":
        yield from ((hidden, rows, False) for rows in (1, 2, 4, 8))
    if path == "grid" or (path is None and gpu.cooperative):
        for units in sorted({min(hidden, 4 * k) for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)}):
            row_blocks = gpu.multiprocessors // -(-hidden // units)
            if row_blocks:
                yield units, -(-max(1, problem.batch) // row_blocks), True


def _recurrence_plan(problem: Problem, gpu: Limits, units: int, rows: int, on_grid: bool) -> LaunchPlan | None:
    """A plan for blocks of ``units`` units and at least ``rows`` sequences; None where it does not fit."""
    hidden, gates, backward, projected = problem.hidden, problem.gates, problem.backward, problem.projected
    stages, width, float4_bytes = problem.stages, projected or hidden, 4 * problem.itemsize
    tile, rows = _tile_rows(rows, problem.itemsize)
    depth = float4s(gates * hidden if backward else width)
    columns = max(1, float4s((width if projected else units) if backward else units * gates))
    tiles = columns * (rows // tile)
    fraction = (3 if on_grid else 5) * rows * columns * float4_bytes  # splits use at most 1/3 or 1/5 of shared memory
    splits = _power_of_two(min(depth, gpu.threads // tiles, 64, gpu.shared_bytes // fraction))
    threads = gpu.threads if on_grid else min(gpu.threads, -(-max(tiles * splits, rows * units) // WARP) * WARP)
    other = (
        rows * (columns + 1) if backward else rows * (float4s(hidden) + 1) if projected else 0
    )  # dh, or unprojected h
    others = hidden if stages and stages.operands else 0  # outputs of products beside that with weight_hh
    others = (hidden if backward else projected) if projected else others
    products = splits * rows * max(columns, float4s(others))
    reserved = stages.float4s(hidden, rows, threads) if stages else 0
    left = gpu.shared_bytes // float4_bytes - products - other - reserved
    spare = max(left // 8, left - 4 * columns * depth)  # what remains beside all weights, or else a part
    chunk = max(1, min(depth, spare // rows - 1)) if on_grid else depth
    if depth > chunk > splits:
        chunk -= chunk % splits
    left -= rows * (chunk + 1)
    if left < 0:
        return None
    cached = min(depth, left // (4 * columns)) if gates else 0
    blocks = -(-hidden // units), -(-max(1, problem.batch) // rows)
    weights = 4 * columns * float4_bytes * (rows // tile)  # bytes for each float4 of the depth, read once by each tile
    multiplying = 16 * depth * columns * rows / _MULTIPLIERS * (problem.itemsize // 4)
    multiplying *= max(1, _BUSY_THREADS / (tiles * splits))
    cycles = max(multiplying, cached * weights / _SHARED_RATE) + (depth - cached) * weights / _GLOBAL_RATE + 500
    if on_grid:
        cycles += _GRID_SYNC_CYCLES + rows * depth * float4_bytes / _GLOBAL_RATE
    cycles *= -(-blocks[0] * blocks[1] // gpu.multiprocessors)
    nbytes = (products + other + reserved + rows * (chunk + 1) + cached * 4 * columns) * float4_bytes
    sizes = units, rows, tile, splits, chunk, cached, products, reserved
    return LaunchPlan("grid" if on_grid else "block", *sizes, blocks, threads, nbytes, cycles)


def _sampling_plan(problem: Problem, gpu: Limits, units: int, rows: int, on_grid: bool) -> LaunchPlan | None:
    """As :func:`_recurrence_plan`; ``products`` is for those of h and of the head."""
    hidden, stages, layers = problem.hidden, problem.stages, problem.layers
    depth, float4_bytes = float4s(hidden), 4 * problem.itemsize
    tile, rows = _tile_rows(rows, problem.itemsize)
    blocks = -(-hidden // units), -(-problem.batch // rows)
    input_columns, columns = float4s(units * problem.input_gates), float4s(units * problem.gates)
    head_columns = float4s(-(-problem.vocabulary // blocks[0]))
    splits = _power_of_two(min(depth, gpu.threads // (max(columns, input_columns) * (rows // tile)), 32))
    products = splits * rows * max(columns, head_columns, depth if stages and stages.operands else 0)
    reserved = stages.float4s(hidden, rows, gpu.threads) if stages else 0
    used = 2 * rows * (depth + 1) + products + splits * rows * input_columns + reserved
    weights = 4 * depth * ((layers - 1) * input_columns + layers * columns + head_columns)
    cached = min(weights, gpu.shared_bytes // float4_bytes - used)
    if cached < 0:
        return None
    waves = -(-blocks[0] * blocks[1] // gpu.multiprocessors)
    reading = rows // tile * (cached / _SHARED_RATE + (weights - cached) / _GLOBAL_RATE) * float4_bytes
    cycles = waves * (reading + (layers + 2) * (_GRID_SYNC_CYCLES if on_grid else 100))
    sizes = units, rows, tile, splits, depth, cached, products, reserved
    nbytes = (used + cached) * float4_bytes
    return LaunchPlan("grid" if on_grid else "block", *sizes, blocks, gpu.threads, nbytes, cycles)


def _tile_rows(rows: int, itemsize: int) -> tuple[int, int]:
    """Rows of a tile, at most as many as registers hold, and ``rows`` rounded up to whole tiles."""
    tile = next(t for t in (1, 2, 4, 8) if t >= min(rows, 32 // itemsize))
    return tile, -(-rows // tile) * tile


def _power_of_two(most: int) -> int:
    """The largest power of two up to ``most``, at least 1."""
    return 1 << max(1, most).bit_length() - 1


def float4s(elements: int) -> int:
    """float4s that hold so many elements."""
    return -(-elements // 4)
