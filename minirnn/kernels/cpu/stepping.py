"""One step of a recurrent layer, from its parameters as they lie in memory: nothing is packed, so nothing gets stale.

The kernel is the one of whole sequences (:mod:`minirnn.kernels.cpu.kernel`), called for one step, with products that
read the rows of a weight instead of packed panels: of one sequence each weight is used once, and packing it would cost
more than multiplying by it. Threads divide the sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minirnn.kernels import threads
from minirnn.kernels.build import build_function
from minirnn.kernels.cpu.kernel import FUNCTIONS, kernels_of
from minirnn.kernels.cpu.step import copy_rows
from minirnn.kernels.equations import Equations
from minirnn.kernels.jit import chunk_of, jit


@jit(inline=True, reassociate=True)
def _four_dots(x, w0, w1, w2, w3):
    """The dot products of x with four rows."""
    kind = x.dtype.type
    t0, t1, t2, t3 = kind(0), kind(0), kind(0), kind(0)
    for k in range(x.size):
        t0 += x[k] * w0[k]
        t1 += x[k] * w1[k]
        t2 += x[k] * w2[k]
        t3 += x[k] * w3[k]
    return t0, t1, t2, t3


@jit(inline=True, reassociate=True)
def _dot(x, w):
    total = x.dtype.type(0)
    for k in range(x.size):
        total += x[k] * w[k]
    return total


@jit
def multiply_rows(a, a_at, a_row, a_column, rows, weight, weight_at, panel_size, depth, c, c_at, c_row, columns):
    """C[rows, columns] += A[rows, depth] W^T, called as :func:`minirnn.kernels.tile.multiply_add` is.

    In place of packed panels it takes W [columns, depth]; ``a_column`` is 1, ``weight_at`` 0, ``panel_size`` not used.
    """
    left, out, right = a.reshape(a.size), c.reshape(c.size), weight.reshape((columns, depth))
    for r in range(rows):
        x = left[a_at + r * a_row : a_at + r * a_row + depth]
        y = out[c_at + r * c_row : c_at + r * c_row + columns]
        fours = columns - columns % 4
        for j in range(0, fours, 4):
            t0, t1, t2, t3 = _four_dots(x, right[j], right[j + 1], right[j + 2], right[j + 3])
            y[j] += t0
            y[j + 1] += t1
            y[j + 2] += t2
            y[j + 3] += t3
        for j in range(fours, columns):
            y[j] += _dot(x, right[j])


@jit(inline=True)
def _add_bias(gates, index, bias, first, count):
    """gates[r, index + k, j] += bias[(first + k) * H + j] for ``count`` gates k."""
    size = gates.shape[2]
    for r in range(gates.shape[0]):
        for k in range(count):
            row = bias[(first + k) * size : (first + k + 1) * size]
            for j in range(size):
                gates[r, index + k, j] += row[j]


_FUNCTIONS = {"multiply_rows": multiply_rows, "add_bias": _add_bias, "copy_rows": copy_rows, "chunk_of": chunk_of}


@functools.lru_cache(maxsize=256)
def _kernel_of(equations: Equations, names: tuple[str, ...]) -> tuple[Any, list[str]]:
    """The step of a cell with parameters of these names: the kernel, and the names in the order of its arguments."""
    has_bias, projected = "bias_ih" in names, "weight_hr" in names
    plan, forward, _ = kernels_of(equations, projected)
    states, temporaries = range(len(equations.states)), forward.temporaries
    common = ["weight_ih", "bias_ih", "weight_hh", "bias_hh", "weight_hr"]
    arrays = {name: name for name in common if name in names}
    arrays |= {f"weight_product{number}": f"inner{number}" for number in range(equations.products)}
    arrays |= {name: f"vector{number}" for number, name in enumerate(equations.vectors)}
    buffers = {
        "products": f"(batch, {plan.products}, size)",
        "inputs": f"(batch, {plan.inputs}, size)",
        "sums": f"(batch, {plan.sums})",
        "hidden": "(batch, size)",
        "carry": f"(batch, {temporaries.carry}, size)",
        "row_carry": f"(batch, {temporaries.rows})",
        "scratches": f"(1, {temporaries.scratch}, size)",
        "vectors": f"({len(equations.vectors)}, size)",
        "bias": f"(1, {plan.separate if has_bias else 0}, size)",
    }
    lines = [
        "first, last = chunk_of(x.shape[0], thread_id, num_threads)",
        f"batch, depth, size = last - first, x.shape[1], weight_ih.shape[0] // {plan.gates}",
        "kind, width = x.dtype, old0.shape[1]",
        f"gates = np.zeros((batch, {plan.gates}, size), kind)",
        "table, tokens = np.empty((0, 1, 1), kind), np.empty(0, np.int64)",
        "cumulative_steps, previous, starts = np.arange(batch + 1), np.arange(batch), np.array([0, batch])",
        "state = old0[first:last].copy()",
        *(f"{name} = np.zeros({shape}, kind)" for name, shape in buffers.items() if name in forward.arguments),
        *(f"vectors[{number}, :] = vector{number}" for number in range(len(equations.vectors))),
    ]
    if has_bias:
        lines.append(f"add_bias(gates, 0, bias_ih, 0, {plan.gates})")
    for number, run in enumerate(plan.runs):
        rows = f"weight_hh[{run.first} * size : {run.first + run.count} * size]"
        lines.append(f"panels{number} = {rows}.reshape((1, {run.count} * size, width))")
        if has_bias:
            target = "gates" if run.array == "gates" else "bias"
            lines.append(f"add_bias({target}, {run.index}, bias_hh, {run.first}, {run.count})")
    for k in states:
        lines.append(f"history{k} = np.empty((2 * batch, old{k}.shape[1]), kind)")
        lines.append(f"copy_rows(history{k}, 0, old{k}, first, batch)")
    product = "multiply_rows(x, first * depth, depth, 1, batch, weight_ih, 0, 0, depth, gates, 0, {0}, {0})"
    lines.append(product.format(f"{plan.gates} * size"))
    passed = {"reverse": "False", "bias": "bias[0]", "projection": "weight_hr.reshape((1, width, size))"}
    passed |= {f"inner{number}": f"inner{number}.reshape((1, size, size))" for number in range(equations.products)}
    lines.append(f"forward(0, 1, {', '.join(passed.get(name, name) for name in forward.arguments)})")
    lines += [f"copy_rows(new{k}, first, history{k}, batch, batch)" for k in states]
    given = ["x", *arrays.values(), "zoneout", *(f"old{k}" for k in states), *(f"new{k}" for k in states)]
    source = "".join(f"    {line}\n" for line in lines)
    compiled = forward.compile(FUNCTIONS | {"multiply_add": multiply_rows}, f"{equations.name}_step_forward")
    functions = _FUNCTIONS | {"np": np, "forward": compiled}
    text = f"def step(thread_id, num_threads, {', '.join(given)}):\n{source}"
    return jit(build_function("step", text, functions, f"{equations.name}_step")), list(arrays)


def recurrent_step(
    equations: Equations,
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    states: Sequence[np.ndarray],
    zoneout: float,
) -> list[np.ndarray]:
    kernel, names = _kernel_of(equations, tuple(weights))
    arrays = [np.asarray(weights[name], order="C") for name in names]
    new = [np.empty(state.shape, state.dtype) for state in states]
    batch = len(x)
    if batch:
        work = float(batch) * sum([array.size for array in arrays])
        threads.run(kernel, work, batch, x, *arrays, zoneout, *states, *new)
    return new


@jit
def _gemv(thread_id, num_threads, x, weight, out):
    rows, depth = x.shape
    columns = weight.shape[0]
    first, last = chunk_of(rows, thread_id, num_threads)
    multiply_rows(x, first * depth, depth, 1, last - first, weight, 0, 0, depth, out, first * columns, columns, columns)


def gemv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    out = np.zeros((len(x), len(weight)), x.dtype)
    if bias is not None:
        out += bias
    threads.run(_gemv, float(len(x)) * weight.size, max(1, len(x)), x, np.asarray(weight, order="C"), out)
    return out
