"""Indexing with NumPy's rules, and gathering and scattering along a dimension."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minirnn.kernels.cuda.array import DeviceArray, Operand, empty, register
from minirnn.kernels.cuda.creation import asarray
from minirnn.kernels.cuda.elementwise import to_operand
from minirnn.kernels.cuda.jit import Array, cuda, kernel
from minirnn.kernels.cuda.launch import launch
from minirnn.kernels.cuda.rows import scatter_rows, take_rows
from minirnn.kernels.cuda.strided import (
    apply_layout,
    broadcast_to,
    coalesce,
    copy_into,
    copy_layout,
    element_index,
    layout_of,
)


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    kinds = (int, np.integer, slice, type(None), type(Ellipsis))
    return all(isinstance(p, kinds) and not isinstance(p, bool) for p in parts)


def _basic_layout(x: DeviceArray, key: Any) -> np.ndarray:
    """The layout of x[key] for a basic key; of a single element too, which NumPy would give as a number."""
    parts = key if isinstance(key, tuple) else (key,)
    return layout_of(x.shape)[parts if Ellipsis in parts else (*parts, Ellipsis)]


def _flat_indices(shape: tuple[int, ...], key: Any) -> np.ndarray:
    """Flat indices of the elements that masks and integer arrays select, found on the host; waits for arrays of the
    GPU in the key."""
    parts = key if isinstance(key, tuple) else (key,)
    host = tuple(p.numpy() if isinstance(p, DeviceArray) else p for p in parts)
    return np.arange(math.prod(shape)).reshape(shape)[host]


def _is_rows(key: Any) -> bool:
    """Whether a key is one list of rows, for which the flat indices of elements are not needed."""
    return isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu"


def _row_numbers(x: DeviceArray, key: np.ndarray) -> np.ndarray:
    if key.size and not -len(x) <= key.min() <= key.max() < len(x):
        raise IndexError(f"index {key.min()} or {key.max()} is out of bounds for axis 0 with size {len(x)}")
    return key % len(x) if key.size else key


@register
def getitem(x: DeviceArray, key: Any) -> DeviceArray:
    """x[key]; a view where the key selects neighbouring elements, else a copy."""
    if _is_basic(key):
        return apply_layout(x, _basic_layout(x, key))
    if _is_rows(key):
        return take_rows(x, _row_numbers(x, key))
    indices = _flat_indices(x.shape, key)
    return take_rows(x.flat, indices.reshape(-1)).reshape(indices.shape)


@register
def setitem(x: DeviceArray, key: Any, value: Operand) -> None:
    """x[key] = value; where a key selects an element twice, either value may stay."""
    source = to_operand(value, x.dtype)
    if key is Ellipsis and source.shape == x.shape:
        copy_into(x, source)
    elif _is_basic(key):
        layout = _basic_layout(x, key)
        copy_layout(x, layout, source, np.broadcast_to(layout_of(source.shape), layout.shape))
    elif _is_rows(key):
        scatter_rows(x, _row_numbers(x, key), broadcast_to(source, (key.size, *x.shape[1:])))
    else:
        indices = _flat_indices(x.shape, key)
        values = broadcast_to(source, indices.shape)
        scatter_rows(x.flat, indices.reshape(-1), values.flat)


@kernel
def _take(out: Array, x: Array, index: Array, shape: tuple, x_strides: tuple, step: int) -> None:
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[element_index(i, shape, x_strides) + index[i] * step]


def take_along_axis(x: DeviceArray, indices: object, axis: int) -> DeviceArray:
    """The other dimensions of x may be longer than those of ``indices``."""
    index = asarray(indices, np.int64)
    out = empty(index.shape, x.dtype)
    if out.size:
        starts, step = _line_starts(x.shape, index.shape, axis)
        launch(_take, out.size, out.flat, x.flat, index.flat, *coalesce((starts,)), step)
    return out


def _line_starts(shape: tuple[int, ...], window: tuple[int, ...], axis: int) -> tuple[np.ndarray, int]:
    """For each element of ``window`` where its line along ``axis`` starts in ``shape``, and the stride of a line."""
    layout = layout_of(shape)
    starts = layout[tuple(slice(1) if d == axis else slice(n) for d, n in enumerate(window))]
    return np.broadcast_to(starts, window), layout.strides[axis]


@kernel
def _add_lines(arrays: tuple, lines: int, shape: tuple, starts: tuple, line: tuple) -> None:
    """One thread adds one line of values in its order, so no two threads write to one element."""
    out, index, values = arrays
    out_start, values_start = starts
    extent, out_step, values_step = line
    for i in range(cuda.grid(1), lines, cuda.gridsize(1)):
        first, at = element_index(i, shape, out_start), element_index(i, shape, values_start)
        for k in range(extent):
            out[first + index[at + k * values_step] * out_step] += values[at + k * values_step]


def put_along_axis(out: DeviceArray, index: object, values: DeviceArray, axis: int) -> None:
    at = asarray(index, np.int64)
    if not at.size:
        return
    starts, step = _line_starts(out.shape, at.shape, axis)
    lines = tuple(slice(1) if d == axis else slice(None) for d in range(at.ndim))
    layout = layout_of(at.shape)
    shape, *strides = coalesce((starts[lines], layout[lines]))
    line, count = (at.shape[axis], step, layout.strides[axis]), layout[lines].size
    launch(_add_lines, count, (out.flat, at.flat, values.flat), count, shape, tuple(strides), line)


@kernel
def _add_runs(out: Array, at: Array, order: Array, ends: Array, values: Array) -> None:
    """out[at[i]] += values[order[k]] for k from ends[i] to ends[i + 1] - 1."""
    for i in range(cuda.grid(1), at.size, cuda.gridsize(1)):
        total = out[at[i]]
        for k in range(ends[i], ends[i + 1]):
            total += values[order[k]]
        out[at[i]] = total


def add_at(out: DeviceArray, index: Any, values: DeviceArray) -> None:
    """Repeated indices are added in their order."""
    at = _flat_indices(out.shape, index).reshape(-1)
    if at.size:
        order = np.argsort(at, kind="stable")
        places, first = np.unique(at[order], return_index=True)
        ends = np.append(first, at.size)
        launch(_add_runs, places.size, out.flat, asarray(places), asarray(order), asarray(ends), values.flat)
