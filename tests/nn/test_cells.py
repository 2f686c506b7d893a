"""Cells in primitive operations and fused layers give the same numbers.

Cells equal PyTorch's. Unrolled by Recurrent and Bidirectional they equal the fused layers with the same weights, in
values and in every gradient. Toy cells with results known by hand check order, direction, lengths, merging and
stacking. Finite differences in float64 check the fused gradients without any other implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import minirnn.nn.functional as F
from minirnn import nn, random
from minirnn.autograd import ops
from minirnn.autograd.gradcheck import gradcheck
from minirnn.autograd.tensor import Tensor, tensor
from minirnn.nn.state import pack_state, unpack_state

KINDS = ("rnn-tanh", "rnn-relu", "lstm", "gru")
Close = Callable[..., None]

kinds = pytest.mark.parametrize("kind", KINDS)
kinds_and_projection = pytest.mark.parametrize("kind", [*KINDS, "lstm-proj"])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(kind: str, what: str, *sizes: int, **options: Any) -> Any:
    """A cell (``what`` is "Cell") or a layer ("") of a kind."""
    name, _, variant = kind.partition("-")
    if name == "rnn":
        options["nonlinearity"] = variant
    if variant == "proj":
        options["proj_size"] = 2
    return getattr(nn, name.upper() + what)(*sizes, **options)


def weighted_sum(outputs: list[Tensor], seed: int = 1) -> Tensor:
    """A number that depends on every element of every output with a weight of its own."""
    rng = np.random.default_rng(seed)
    return sum(((o * rng.standard_normal(o.shape).astype(o.dtype)).sum() for o in outputs), start=tensor(0.0))


# --------------------------------------------------------------------------------------------- cells and PyTorch


@kinds
@dtypes
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [(4,), ()], ids=["batch", "unbatched"])
@pytest.mark.parametrize("given", [True, False], ids=["state", "no state"])
def test_cells_equal_pytorch(
    torch: Any, kind: str, dtype: str, bias: bool, batch: tuple[int, ...], given: bool, assert_close: Close
) -> None:
    rng = np.random.default_rng(2)
    cell = make(kind, "Cell", 3, 5, bias=bias, dtype=dtype)
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    theirs = getattr(torch.nn, type(cell).__name__)(3, 5, bias=bias, dtype=getattr(torch, dtype), **options)
    theirs.load_state_dict({name: torch.tensor(a) for name, a in cell.state_dict().items()})
    shapes = [(*batch, 3), *[(*batch, 5)] * (2 if kind == "lstm" else 1)]
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    leaves = [tensor(a, requires_grad=True, dtype=dtype) for a in arrays]
    t_leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = unpack_state(cell(leaves[0], pack_state(leaves[1:]) if given else None))
    t_out = unpack_state(theirs(t_leaves[0], pack_state(t_leaves[1:]) if given else None))
    seeds = [rng.standard_normal(o.shape).astype(dtype) for o in out]
    sum((o * s).sum() for o, s in zip(out, seeds, strict=True)).backward()
    sum((o * torch.tensor(s)).sum() for o, s in zip(t_out, seeds, strict=True)).backward()
    for n, (a, b) in enumerate(zip(out, t_out, strict=True)):
        assert_close(a.numpy(), b.detach().numpy(), dtype, f"state {n}")
    used = len(leaves) if given else 1
    for n, (a, b) in enumerate(zip(leaves[:used], t_leaves[:used], strict=True)):
        assert_close(a.grad.numpy(), b.grad.numpy(), dtype, f"gradient of input {n}")
    for (name, a), b in zip(cell.named_parameters(), theirs.parameters(), strict=True):
        assert_close(a.grad.numpy(), b.grad.numpy(), dtype, f"gradient of {name}")


@kinds
def test_cells_take_arrays_and_start_with_zeros(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)
    cell = make(kind, "Cell", 3, 5)
    zeros = cell.initial_state(2)
    assert all(member.shape == (2, 5) and not member.numpy().any() for member in unpack_state(zeros))
    for a, b in zip(unpack_state(cell(x)), unpack_state(cell(tensor(x), zeros)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


# --------------------------------------------------------------------------------------- fused layers and cells


def unrolled(layer: Any, kind: str, x: Any, states: list[Tensor], lengths: Any) -> tuple[Tensor, Any, Any]:
    """What the layer computes, by cells with its weights: outputs, final states, and the cells by parameter suffix."""
    cells: dict[str, Any] = {}
    finals: list[list[Tensor]] = []
    for k in range(layer.num_layers):
        suffixes = [f"_l{k}", f"_l{k}_reverse"][: 2 if layer.bidirectional else 1]
        for suffix in suffixes:
            shape = getattr(layer, f"weight_ih{suffix}").shape
            cells[suffix] = make(kind, "Cell", shape[1], layer.hidden_size, bias=layer.bias, dtype=layer.dtype)
            for name, parameter in cells[suffix].named_parameters():
                parameter.data[...] = getattr(layer, name + suffix).data
        at = len(finals)
        before = [pack_state([s[at + d] for s in states]) for d in range(len(suffixes))]
        if layer.bidirectional:
            both = nn.Bidirectional(*(cells[s] for s in suffixes), batch_first=layer.batch_first)
            x, after = both(x, before, lengths)
        else:
            x, after = nn.Recurrent(cells[suffixes[0]], batch_first=layer.batch_first)(x, before[0], lengths)
            after = (after,)
        finals.extend(unpack_state(state) for state in after)
    return x, [ops.stack(parts) for parts in zip(*finals, strict=True)], cells


@kinds
@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
@pytest.mark.parametrize("lengths", [None, [3, 0, 6, 1], [6, 6, 6, 6], [2, 2, 2, 2]], ids=str)
@dtypes
@pytest.mark.parametrize(("layers", "bias", "batch_first"), [(1, True, False), (2, False, True), (2, True, False)])
def test_fused_layers_equal_unrolled_cells(
    kind: str, bidirectional: bool, lengths: list[int] | None, dtype: str, layers: int, bias: bool, batch_first: bool,
    assert_close: Close,
) -> None:  # fmt: skip
    rng = np.random.default_rng(4)
    layer = make(
        kind, "", 3, 7, num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional, dtype=dtype
    )
    shape = (4, 6, 3) if batch_first else (6, 4, 3)
    x = rng.standard_normal(shape)
    states = [rng.standard_normal((layers * (1 + bidirectional), 4, 7)) for _ in range(2 if kind == "lstm" else 1)]

    leaves = [tensor(a, requires_grad=True, dtype=dtype) for a in (x, *states)]
    y, final = layer(leaves[0], pack_state(leaves[1:]), lengths=lengths)
    weighted_sum([y, *unpack_state(final)]).backward()
    twins = [tensor(a, requires_grad=True, dtype=dtype) for a in (x, *states)]
    y_cells, final_cells, cells = unrolled(layer, kind, twins[0], twins[1:], lengths)
    weighted_sum([y_cells, *final_cells]).backward()

    assert_close(y.numpy(), y_cells.numpy(), dtype, "y")
    for n, (a, b) in enumerate(zip(unpack_state(final), final_cells, strict=True)):
        assert_close(a.numpy(), b.numpy(), dtype, f"final state {n}")
    for n, (a, b) in enumerate(zip(leaves, twins, strict=True)):
        assert_close(a.grad.numpy(), b.grad.numpy(), dtype, f"gradient of input {n}")
    compared = 0
    for suffix, cell in cells.items():
        for name, parameter in cell.named_parameters():
            assert_close(getattr(layer, name + suffix).grad.numpy(), parameter.grad.numpy(), dtype, name + suffix)
            compared += 1
    assert compared == len(list(layer.parameters()))


# -------------------------------------------------------------------------------------------------------- toy cells


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


# ------------------------------------------------------------------------------ values by hand, of fused layers


def summing_layer(**options: Any) -> nn.RNN:
    """A relu RNN whose weights are 1: on positive numbers, a running sum."""
    layer = nn.RNN(1, 1, nonlinearity="relu", bias=False, **options)
    for parameter in layer.parameters():
        parameter.data[...] = 1
    return layer


def test_bidirectional_layer_by_hand() -> None:
    """Fails if the second direction is not reversed, or starts at the end of the padding."""
    layer, x = summing_layer(bidirectional=True), tensor(X, requires_grad=True)
    y, h_n = layer(x, lengths=[3, 2])
    assert y.numpy()[:, 0].tolist() == [[1, 6], [3, 5], [6, 3]]
    assert y.numpy()[:, 1].tolist() == [[10, 30], [30, 20], [0, 0]]
    assert h_n.numpy()[..., 0].tolist() == [[6, 30], [6, 30]]
    (y * np.array([1, 100], np.float32)).sum().backward()
    assert x.grad.numpy()[..., 0].tolist() == [[103, 102], [202, 201], [301, 0]]
    # dy_t/dw = h_{t-1} + dy_{t-1}/dw: forward 1, then 3 + 1, and 10 in the second row; backward 3, 5 + 3, and 20
    assert layer.weight_hh_l0.grad.tolist() == [[1 + 4 + 10]]
    assert layer.weight_hh_l0_reverse.grad.tolist() == [[100 * (3 + 8 + 20)]]


def test_two_bidirectional_layers_by_hand() -> None:
    y, h_n = summing_layer(num_layers=2, bidirectional=True)(X, lengths=[3, 2])
    assert y.numpy()[:, 0].tolist() == [[7, 24], [15, 17], [24, 9]]
    assert y.numpy()[:, 1].tolist() == [[40, 90], [90, 50], [0, 0]]
    assert h_n.numpy()[..., 0].tolist() == [[6, 30], [6, 30], [24, 90], [24, 90]]


@kinds_and_projection
def test_reverse_direction_equals_the_forward_layer_on_reversed_sequences(kind: str, assert_close: Close) -> None:
    lengths = [3, 5, 0, 1]
    both, one = (make(kind, "", 3, 4, bidirectional=two, dtype="float64") for two in (True, False))
    one.load_state_dict({n.removesuffix("_reverse"): a for n, a in both.state_dict().items() if n.endswith("_reverse")})
    x = np.random.default_rng(6).standard_normal((5, 4, 3))
    reversed_x = np.zeros_like(x)
    for n, length in enumerate(lengths):
        reversed_x[:length, n] = x[:length, n][::-1]
    y, _ = both(x, lengths=lengths)
    expected, _ = one(reversed_x, lengths=lengths)
    width = expected.shape[2]
    assert not np.allclose(y.numpy()[..., :width], y.numpy()[..., width:])
    for n, length in enumerate(lengths):
        assert_close(y.numpy()[:length, n, width:], expected.numpy()[:length, n][::-1], "float64")


# ----------------------------------------------------------------------------------------------- finite differences


@kinds_and_projection
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True)], ids=str)
def test_fused_gradients_match_finite_differences(kind: str, layers: int, bidirectional: bool) -> None:
    """Every gradient of a ragged batch with a sequence of length 0."""
    rng = np.random.default_rng(7)
    sizes = {"lstm": (3, 3), "lstm-proj": (2, 3)}.get(kind, (3,))
    layer = make(kind, "", 2, 3, num_layers=layers, bidirectional=bidirectional, dtype="float64")
    count = layers * (1 + bidirectional)
    x = tensor(rng.standard_normal((4, 4, 2)), requires_grad=True, dtype="float64")
    states = [tensor(rng.standard_normal((count, 4, n)), requires_grad=True, dtype="float64") for n in sizes]
    projections = [rng.standard_normal((2, 4 * 4 * (1 + bidirectional) * sizes[0]))]
    projections += [rng.standard_normal((2, count * 4 * n)) for n in sizes]

    def run(*_: Tensor) -> list[Tensor]:
        y, final = layer(x, pack_state(states), lengths=[2, 4, 0, 3])
        flat = [o.reshape(-1) for o in (y, *unpack_state(final))]
        return [tensor(p, dtype="float64") @ o for p, o in zip(projections, flat, strict=True)]

    assert gradcheck(run, [x, *states, *layer.parameters()], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ["rnn-tanh", "lstm", "gru"])
@pytest.mark.parametrize("vocabulary", [3, 40], ids=["fewer tokens than rows", "more tokens than rows"])
def test_fused_gradients_through_an_embedding_match_finite_differences(kind: str, vocabulary: int) -> None:
    rng = np.random.default_rng(8)
    layer = make(kind, "", 2, 3, bidirectional=True, dtype="float64")
    table = tensor(rng.standard_normal((vocabulary, 2)), requires_grad=True, dtype="float64")
    tokens = rng.integers(0, vocabulary, (4, 3))
    weight = rng.standard_normal((4, 3, 6))

    def run(*_: Tensor) -> Tensor:
        return (layer(tokens, lengths=[4, 1, 3], embedding=table)[0] * weight).sum()

    assert gradcheck(run, [table, *layer.parameters()], atol=1e-7, rtol=1e-5)


@kinds
def test_frozen_weight_gets_no_gradient_and_the_others_keep_theirs(kind: str, assert_close: Close) -> None:
    layer = make(kind, "", 3, 4, num_layers=2, dtype="float64")
    x = np.random.default_rng(9).standard_normal((4, 2, 3))
    layer(x)[0].sum().backward()
    full = {name: p.grad.numpy().copy() for name, p in layer.named_parameters()}
    for frozen in ("weight_hh_l0", "weight_ih_l1", "bias_hh_l0"):
        layer.zero_grad()
        getattr(layer, frozen).requires_grad = False
        layer(x)[0].sum().backward()
        getattr(layer, frozen).requires_grad = True
        assert getattr(layer, frozen).grad is None
        for name, parameter in layer.named_parameters():
            if name != frozen:
                assert_close(parameter.grad.numpy(), full[name], "float64", name)


# --------------------------------------------------------------------------------------------------------- dropout


def test_dropout_between_layers() -> None:
    """Off in evaluation; in training it masks the lower layer's outputs, forward and backward with one mask."""
    wet, dry = (nn.GRU(2, 3, num_layers=2, dropout=p, dtype="float64") for p in (0.5, 0.0))
    dry.load_state_dict(wet.state_dict())
    x = tensor(np.random.default_rng(10).standard_normal((5, 2, 2)), requires_grad=True, dtype="float64")
    np.testing.assert_array_equal(wet.eval()(x)[0].numpy(), dry(x)[0].numpy())
    wet.train()
    y, h_n = wet(x)
    np.testing.assert_array_equal(h_n.numpy()[0], dry(x)[1].numpy()[0])  # the lower layer has no dropout inside
    assert not np.allclose(h_n.numpy()[1], dry(x)[1].numpy()[1])

    def run(*_: Tensor) -> Tensor:
        random.manual_seed(5)
        return wet(x, lengths=[5, 3])[0].sum()

    assert gradcheck(run, [x, *wet.parameters()], atol=1e-7, rtol=1e-5)
    lower, upper = (nn.GRU(i, 3, dtype="float64") for i in (2, 3))
    for k, layer in enumerate((lower, upper)):
        layer.load_state_dict({n.replace(f"l{k}", "l0"): a for n, a in wet.state_dict().items() if n.endswith(f"l{k}")})
    random.manual_seed(6)
    y, _ = wet(x)
    random.manual_seed(6)
    dropped = F.dropout(lower(x)[0].reshape(10, 3), 0.5).reshape(5, 2, 3)
    np.testing.assert_allclose(y.numpy(), upper(dropped)[0].numpy(), rtol=1e-12)


@kinds
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [4]])
def test_unbatched_sequence_equals_a_batch_of_one(kind: str, bidirectional: bool, lengths: list[int] | None) -> None:
    x = np.random.default_rng(11).standard_normal((6, 3)).astype(np.float32)
    layer = make(kind, "", 3, 4, bidirectional=bidirectional)
    y, final = layer(x, lengths=lengths)
    y_batch, final_batch = layer(x[:, None], lengths=lengths)
    np.testing.assert_array_equal(y.numpy(), y_batch.numpy()[:, 0])
    for a, b in zip(unpack_state(final), unpack_state(final_batch), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy()[:, 0])
