"""The packed layout of ragged batches against a plain construction in Python, both directions, lengths of 0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.kernels.steps import Steps, dense_steps, ragged_steps


def check(steps: Steps, lengths: list[int], length: int, reverse: bool) -> None:
    batch = len(lengths)
    order = sorted(range(batch), key=lambda n: -lengths[n])  # stable: equal lengths keep their order
    row_of: dict[tuple[int, int], int] = {}  # (step, sequence) to packed row
    starts = [0]
    for t in range(length):
        for n in order:
            if lengths[n] > t:
                row_of[t, n] = len(row_of)
        starts.append(len(row_of))
    assert (steps.length, steps.batch, steps.reverse, steps.rows) == (length, batch, reverse, len(row_of))
    assert steps.starts.tolist() == starts
    assert steps.positions.tolist() == [order.index(n) for n in range(batch)]
    assert steps.cumulative_steps.tolist() == [sum(lengths[n] for n in order[:k]) for k in range(batch + 1)]
    previous, packed = [0] * len(row_of), [0] * len(row_of)
    for (t, n), row in row_of.items():
        neighbour = (t + 1, n) if reverse else (t - 1, n)
        previous[row] = batch + row_of[neighbour] if neighbour in row_of else order.index(n)
        packed[row] = t * batch + n
    assert steps.previous.tolist() == previous
    last = [(0 if reverse else lengths[n] - 1, n) for n in order]
    assert steps.final.tolist() == [batch + row_of[key] if key in row_of else k for k, key in enumerate(last)]
    assert steps.starts.dtype == steps.previous.dtype == steps.final.dtype == np.int64
    if steps.order is None:
        assert order == list(range(batch))
        assert packed == list(range(len(packed)))
        assert steps.packed is None
    else:
        assert steps.packed is not None
        assert steps.order.tolist() == order
        assert steps.packed.tolist() == packed


@given(lengths=st.lists(st.integers(0, 7), max_size=9), slack=st.integers(0, 3))
def test_ragged_layout(lengths: list[int], slack: int) -> None:
    length = max(lengths, default=0) + slack
    for reverse, steps in zip((False, True), ragged_steps(np.array(lengths, np.int64), length), strict=True):
        check(steps, lengths, length, reverse)


@pytest.mark.parametrize("reverse", [False, True])
@given(length=st.integers(0, 6), batch=st.integers(0, 6))
def test_dense_layout(reverse: bool, length: int, batch: int) -> None:
    check(dense_steps(length, batch, reverse), [length] * batch, length, reverse)


def test_small_batch_by_hand() -> None:
    forward, reverse = ragged_steps(np.array([1, 0, 3]), 3)
    # sorted: sequence 2 (3 steps), 0 (1 step), 1 (none); packed rows: (t0,s2) (t0,s0) (t1,s2) (t2,s2)
    assert forward.order is not None
    assert forward.packed is not None
    assert forward.order.tolist() == [2, 0, 1]
    assert forward.starts.tolist() == [0, 2, 3, 4]
    assert forward.packed.tolist() == [2, 0, 5, 8]
    assert forward.previous.tolist() == [0, 1, 3, 5]
    assert forward.final.tolist() == [6, 4, 2]
    assert reverse.previous.tolist() == [5, 1, 6, 0]
    assert reverse.final.tolist() == [3, 4, 2]
