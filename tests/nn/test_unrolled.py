"""Unrolled cells: toy cells with results known by hand check order, direction, lengths, merging and stacking."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from minirnn import nn
from minirnn.autograd.tensor import Tensor, tensor


class RunningSum(nn.Cell):
    """h' = h + x."""

    def __init__(self, width: int = 1) -> None:
        self.width = width

    def initial_state(self, batch_size: int) -> Tensor:
        return tensor(np.zeros((batch_size, self.width)))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return h + x


class Counter(nn.Cell):
    """The number of the step times x; the number, one per sequence, is the second member of the state."""

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return tensor(np.zeros((batch_size, 1))), tensor(np.zeros(batch_size))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        count = state[1] + 1.0
        return x * count.unsqueeze(1), count


X = np.array([[1, 10], [2, 20], [3, 30]], np.float32)[..., None]  # [T=3, N=2, 1]


def column(y: Any, n: int) -> list[float]:
    return np.asarray(y)[:, n, 0].tolist()


def assert_batch_first_equals(layer: Any, y: Tensor) -> None:
    """``layer`` is batch-first, and on X with lengths 3 and 2 gives y."""
    np.testing.assert_array_equal(layer(X.swapaxes(0, 1), lengths=[3, 2])[0].numpy().swapaxes(0, 1), y.numpy())


@pytest.mark.parametrize(
    ("reverse", "lengths", "first", "second", "final"),
    [
        (False, None, [1, 3, 6], [10, 30, 60], 60),
        (True, None, [6, 5, 3], [60, 50, 30], 60),
        (False, [3, 2], [1, 3, 6], [10, 30, 0], 30),
        (True, [3, 2], [6, 5, 3], [30, 20, 0], 30),
    ],
)
def test_running_sum(reverse: bool, lengths: Any, first: list[int], second: list[int], final: int) -> None:
    y, state = nn.Recurrent(RunningSum(), reverse=reverse)(X, lengths=lengths)
    assert column(y, 0) == first
    assert column(y, 1) == second
    assert state.tolist() == [[6], [final]]


@pytest.mark.parametrize(
    ("reverse", "lengths", "expected"),
    [
        (False, None, [[3, 3], [2, 2], [1, 1]]),  # x_t is in y_t and all later ones
        (True, None, [[1, 1], [2, 2], [3, 3]]),
        (False, [3, 2], [[3, 2], [2, 1], [1, 0]]),
        (True, [3, 2], [[1, 1], [2, 2], [3, 0]]),
        (True, [0, 1], [[0, 1], [0, 0], [0, 0]]),
    ],
)
def test_gradient_of_running_sum(reverse: bool, lengths: list[int] | None, expected: list[list[int]]) -> None:
    x = tensor(X, requires_grad=True)
    y, _ = nn.Recurrent(RunningSum(), reverse=reverse)(x, lengths=lengths)
    y.sum().backward()
    assert x.grad.numpy()[..., 0].tolist() == expected


def test_initial_state_is_used_and_gets_its_gradient() -> None:
    before = tensor([[100.0], [200.0]], requires_grad=True)
    y, state = nn.Recurrent(RunningSum())(X, before, lengths=[2, 0])
    assert column(y, 0) == [101, 103, 0]
    assert column(y, 1) == [0, 0, 0]
    assert state.tolist() == [[103], [200]]
    (y.sum() + 10 * state.sum()).backward()
    assert before.grad.tolist() == [[12], [10]]


def test_members_of_a_state_may_have_different_shapes() -> None:
    y, (last, count) = nn.Recurrent(Counter())(X, lengths=[3, 1])
    assert column(y, 0) == [1, 4, 9]
    assert column(y, 1) == [10, 0, 0]
    assert last.tolist() == [[9], [10]]
    assert count.tolist() == [3, 1]
    y, _ = nn.Recurrent(Counter(), reverse=True)(X, lengths=[3, 2])
    assert column(y, 0) == [3, 4, 3]
    assert column(y, 1) == [20, 20, 0]


@pytest.mark.parametrize(
    ("merge", "first", "second"),
    [
        ("concat", [[1, 6], [3, 5], [6, 3]], [[10, 30], [30, 20], [0, 0]]),
        ("sum", [[7], [8], [9]], [[40], [50], [0]]),
        ("mul", [[6], [15], [18]], [[300], [600], [0]]),
        ("ave", [[3.5], [4], [4.5]], [[20], [25], [0]]),
    ],
)
def test_bidirectional_running_sum_merged(merge: str, first: Any, second: Any) -> None:
    both = nn.Bidirectional(RunningSum(), RunningSum(), merge=merge)
    y, (forward, backward) = both(X, lengths=[3, 2])
    assert y.numpy()[:, 0].tolist() == first
    assert y.numpy()[:, 1].tolist() == second
    assert forward.tolist() == backward.tolist() == [[6], [30]]
    layers = [nn.Recurrent(RunningSum(), reverse=reverse, batch_first=True) for reverse in (False, True)]
    assert_batch_first_equals(nn.Bidirectional(*layers, merge), y)


def test_bidirectional_takes_a_pair_of_states() -> None:
    both = nn.Bidirectional(RunningSum(), RunningSum())
    y, _ = both(X, (tensor([[100.0], [0]]), tensor([[1000.0], [0]])))
    assert y.numpy()[:, 0].tolist() == [[101, 1006], [103, 1005], [106, 1003]]


def test_running_sums_stacked() -> None:
    first, second = nn.Recurrent(RunningSum()), nn.Recurrent(RunningSum())
    assert column(second(first(X)[0])[0], 0) == [1, 4, 10]
    back = nn.Recurrent(RunningSum(), reverse=True)
    assert column(back(first(X)[0])[0], 0) == [10, 9, 6]
    lower, upper = nn.Bidirectional(RunningSum(), RunningSum()), nn.Bidirectional(RunningSum(2), RunningSum(2))
    y, _ = upper(lower(X, lengths=[3, 2])[0], lengths=[3, 2])
    assert y.numpy()[:, 0].tolist() == [[1, 6, 10, 14], [4, 11, 9, 8], [10, 14, 6, 3]]
    assert y.numpy()[:, 1].tolist() == [[10, 30, 40, 50], [40, 50, 30, 20], [0, 0, 0, 0]]


class Adder(nn.Module):
    """Not a Cell, but it has all that Recurrent needs: a step and an initial state."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.full((1,), 2.0, np.float32))

    def initial_state(self, batch_size: int) -> Tensor:
        return tensor(np.zeros((batch_size, 1)))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return h + self.scale * x


def test_any_module_with_a_step_is_unrolled_and_trained() -> None:
    layer = nn.Recurrent(Adder())
    y, _ = layer(X)
    assert column(y, 0) == [2, 6, 12]
    y.sum().backward()
    assert [name for name, _ in layer.named_parameters()] == ["cell.scale"]
    assert layer.cell.scale.grad.tolist() == [1 * 3 + 2 * 2 + 3 + 10 * 3 + 20 * 2 + 30]
    y, _ = nn.Bidirectional(Adder(), Adder())(X)
    assert y.numpy()[:, 0].tolist() == [[2, 12], [6, 10], [12, 6]]


class Halves(nn.Cell):
    """h = h / 2 + scale x; its state is a list, of h and of the sum of all x."""

    def __init__(self, scale: float) -> None:
        self.scale = nn.Parameter(np.full((1,), scale, np.float32))

    def initial_state(self, batch_size: int) -> list[Tensor]:
        return [tensor(np.zeros((batch_size, 1))), tensor(np.zeros((batch_size, 1)))]

    def forward(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        assert isinstance(state, list)
        return [state[0] * 0.5 + self.scale * x, state[1] + x]


@pytest.mark.parametrize("lengths", [None, [3, 2]])
def test_states_may_be_lists(lengths: list[int] | None) -> None:
    y, (h, total) = nn.Recurrent(Halves(4))(X, lengths=lengths)
    assert column(y, 0) == [4, 10, 17]
    assert h.tolist() == ([[17], [100]] if lengths else [[17], [170]])
    assert total.tolist() == ([[6], [30]] if lengths else [[6], [60]])


class Pair(NamedTuple):
    h: Tensor
    count: Tensor


def test_states_may_be_named_tuples() -> None:
    class Named(Counter):
        def forward(self, x: Tensor, state: Any) -> Any:
            count = (state.count if isinstance(state, Pair) else state[1]) + 1.0
            return Pair(x * count.unsqueeze(1), count)

    _, state = nn.Recurrent(Named())(X, lengths=[3, 1])
    assert isinstance(state, Pair)
    assert state.count.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("reverse", "first", "second", "lower", "upper"),
    [  # below h = h / 2 + 4 x: 4, 10, 17 and 40, 100; above h = h / 2 + 2 y: 8, 24, 46 and 80, 240
        (False, [8, 24, 46], [80, 240, 0], [[17], [100]], [[46], [240]]),
        # from the end: below 12, 14, 11 and 80, 80; above 24, 40, 42 and 160, 240
        (True, [42, 40, 24], [240, 160, 0], [[11], [80]], [[42], [240]]),
    ],
)
@pytest.mark.parametrize("wrap", [list, tuple])
def test_list_of_cells_is_a_stack(wrap: Any, reverse: bool, first: Any, second: Any, lower: Any, upper: Any) -> None:
    stacked = nn.Recurrent(wrap([Halves(4), Halves(2)]), reverse=reverse)
    assert [name for name, _ in stacked.named_parameters()] == ["cell.0.scale", "cell.1.scale"]
    y, state = stacked(X, lengths=[3, 2])
    assert column(y, 0) == first
    assert column(y, 1) == second
    assert isinstance(state, tuple)
    assert [h.tolist() for h, _ in state] == [lower, upper]
    again, _ = stacked(X, [None, stacked.cell[1].initial_state(2)], lengths=[3, 2])
    np.testing.assert_array_equal(again.numpy(), y.numpy())
    assert_batch_first_equals(nn.Recurrent(wrap([Halves(4), Halves(2)]), reverse, batch_first=True), y)


def test_stack_continues_from_its_state_and_has_the_gradients_of_two_layers() -> None:
    stacked, apart = nn.Recurrent([Halves(4), Halves(2)]), [nn.Recurrent(Halves(4)), nn.Recurrent(Halves(2))]
    whole, _ = stacked(X)
    _, state = stacked(X[:1])
    rest, _ = stacked(X[1:], list(state))
    np.testing.assert_array_equal(rest.numpy(), whole.numpy()[1:])
    xs = [tensor(X, requires_grad=True) for _ in range(2)]
    stacked(xs[0], lengths=[3, 2])[0].sum().backward()
    apart[1](apart[0](xs[1], lengths=[3, 2])[0], lengths=[3, 2])[0].sum().backward()
    parameters = zip(stacked.parameters(), (apart[0].cell.scale, apart[1].cell.scale), strict=True)
    for one, two in [xs, *parameters]:
        np.testing.assert_array_equal(one.grad.numpy(), two.grad.numpy())
    both = nn.Bidirectional([Halves(4), Halves(2)], [Halves(4), Halves(2)])
    assert both(X, lengths=[3, 2])[0].numpy()[:, 0].tolist() == [[8, 42], [24, 40], [46, 24]]
