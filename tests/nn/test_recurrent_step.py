"""Single steps of recurrent layers against the whole sequence: every cell, depth and dtype, fresh weights, states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cell_paths import make_layer, make_states

import minirnn as mr
from minirnn import cells, nn
from minirnn.autograd import Tensor
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.nn.state import State, pack_state, unpack_state
from minirnn.nn.unrolled import Unrolled

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
DRIFT = {"float32": 1e-5, "float64": 1e-12}
"""After several steps, each of which goes on from the rounding errors of the one before, as the whole sequence does."""


@cells.cell
def stages(a_x, b, b_h, /, h, c, *, v=0.5):  # type: ignore[no-untyped-def]
    """A cell with a learnt vector, products inside the step, and sums."""
    first = cells.product(cells.tanh(b) + cells.mean(h * c + a_x))
    last = cells.product(cells.sigmoid(first) * cells.product(h - b_h) + v * c)
    c = cells.sigmoid(cells.layer_norm(last)) - 0.5 * c
    return cells.tanh(c + a_x * cells.mean(first)), c


def run_steps(layer: Any, x: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    """The outputs [T, N, H] of all steps, one by one, and the last state."""
    outputs = []
    for row in x:
        y, state = layer.step(row, state)
        outputs.append(y.numpy())
    return np.stack(outputs), state


def assert_steps_match(layer: Any, x: np.ndarray, state: State = None) -> None:
    """A step must give what a call gives from the same state, within 1e-6 or 1e-12 of the largest value, and all steps
    of x [T, N, I] what the whole sequence gives, but for the rounding errors that add up."""
    time = 1 if layer.batch_first else 0
    with layer.evaluating():
        expected, final = layer(x.swapaxes(0, time), state)
        before = state
        for row in x:
            one, (whole, after) = layer.step(row, before), layer(np.expand_dims(row, time), before)
            bound = TOLERANCE[str(layer.dtype)] * max(1, np.abs(whole.numpy()).max())
            np.testing.assert_allclose(one[0], whole.squeeze(time), rtol=0, atol=bound)
            before = after
    tolerance = DRIFT[str(layer.dtype)]
    y, after = run_steps(layer, x, state)
    expected = expected.numpy().swapaxes(0, time)
    assert y.dtype == expected.dtype == layer.dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
    for ours, theirs in zip(unpack_state(after), unpack_state(final), strict=True):
        for a, b in zip(unpack_state(ours), unpack_state(theirs), strict=True):  # lists, where layers differ in size
            assert isinstance(a, Tensor)
            assert not a.requires_grad
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b.numpy()).max()))


FAST = ("lstm", "gru")
ALL = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in cells.names()]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", ALL)
def test_every_cell(cell: str, layers: int, dtype: np.dtype) -> None:
    """From given states and from zeros, batches of one and of three; odd sizes, so that no loop comes out even."""
    layer = make_layer(cell, 5, 19, layers, dtype=str(dtype))
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((6, batch, 5)).astype(dtype)
        assert_steps_match(layer, x, pack_state(make_states(layer, batch)))
        assert_steps_match(layer, x)


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 2, "residual": True}, pytest.param({"zoneout": 0.3, "bias": False}, marks=pytest.mark.slow)],
)
def test_own_cell_with_a_vector_and_products(options: dict[str, Any]) -> None:
    layer = make_layer(stages, 4, 7, **options)
    assert_steps_match(layer, np.random.default_rng(5).standard_normal((5, 2, 4)), pack_state(make_states(layer, 2)))


OPTIONS: dict[str, Callable[[], Any]] = {
    "no bias": lambda: nn.LSTM(5, 7, bias=False),
    "no bias, separate part": lambda: nn.GRU(5, 7, 2, bias=False),
    "relu": lambda: nn.RNN(5, 7, nonlinearity="relu"),
    "batch first": lambda: nn.GRU(5, 7, batch_first=True),
    "zoneout": lambda: nn.Recurrent("gru", 5, 7, zoneout=0.4),
    "dropout": lambda: nn.LSTM(5, 7, 2, dropout=0.5),
    "masks": lambda: nn.Recurrent("lstm", 5, 7, recurrent_dropout=0.4, weight_drop=0.3),
    "dropped updates": lambda: nn.Recurrent("lstm", 5, 7, recurrent_dropout=0.4, recurrent_dropout_on="update"),
    "residual": lambda: nn.Recurrent("gru", 5, 7, 3, residual=True),
    "sizes": lambda: nn.Recurrent("lstm", 5, [7, 4, 9], 3),
    "sizes, one state": lambda: nn.Recurrent("gru", 5, [7, 4], 2),
    "projection": lambda: nn.LSTM(5, 7, 2, proj_size=3),
}


@pytest.mark.parametrize("make", OPTIONS.values(), ids=OPTIONS.keys())
def test_options(make: Callable[[], Any]) -> None:
    """In training mode too a step is one in evaluation."""
    layer = make().to("float64")
    x = np.random.default_rng(5).standard_normal((4, 3, 5))
    assert_steps_match(layer, x)
    assert_steps_match(layer, x, run_steps(layer, x, None)[1])


def test_large_batch_on_any_number_of_threads() -> None:
    layer, x = nn.GRU(96, 128), np.random.default_rng(5).standard_normal((130, 96)).astype(np.float32)
    before, results = mr.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            mr.set_num_threads(threads)
            results.append(layer.step(x)[0].numpy())
    finally:
        mr.set_num_threads(before)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[0][77:78], layer.step(x[77:78])[0].numpy())


def test_states_are_values() -> None:
    """A step changes neither its state nor earlier ones, nor what a caller does with its output."""
    layer, x = nn.LSTM(5, 7, 2, dtype="float64"), np.random.default_rng(5).standard_normal((4, 3, 5))
    y, state = layer.step(x[0], layer.initial_state(3))
    saved = [member.numpy().copy() for member in state]
    first, after = layer.step(x[1], state)
    layer.step(x[2], after)
    again, _ = layer.step(x[1], state)
    np.testing.assert_array_equal(first, again)
    y.data[...] = 99
    for member, copy in zip(state, saved, strict=True):
        np.testing.assert_array_equal(member, copy)
    swapped = pack_state([mr.tensor(m.numpy()[:, [2, 0, 1]], dtype="float64") for m in state])  # as a beam search does
    np.testing.assert_array_equal(layer.step(x[1, [2, 0, 1]], swapped)[0].numpy(), first.numpy()[[2, 0, 1]])
    transposed = [Tensor(np.asfortranarray(m.numpy())) for m in state]
    np.testing.assert_array_equal(layer.step(np.asfortranarray(x[1]), transposed)[0], first)


def test_weights_are_those_of_the_moment() -> None:
    """However they changed: by an optimizer, in place, by other arrays, by other parameters."""
    layer, x = nn.GRU(5, 7, 2, dtype="float64"), np.random.default_rng(5).standard_normal((3, 2, 5))
    state = layer.initial_state(2)
    optimizer, seen = mr.optim.SGD(layer.parameters(), lr=0.5), [layer.step(x[0], state)[0].numpy()]

    def check() -> None:
        seen.append(layer.step(x[0], state)[0].numpy())
        assert all(np.abs(seen[-1] - one).max() > 1e-6 for one in seen[:-1])
        np.testing.assert_allclose(seen[-1], layer(x[:1], state)[0].numpy()[0], rtol=0, atol=1e-12)

    layer(x)[0].sum().backward()
    optimizer.step()
    check()
    layer.weight_hh_l0.data[3, 2] += 1
    state = layer.step(x[1], state)[1]
    check()
    layer.load_state_dict(nn.GRU(5, 7, 2, dtype="float64").state_dict(), assign=True)
    check()
    layer.bias_ih_l1 = nn.Parameter(layer.bias_ih_l1.data + 1)
    check()
    layer.weight_ih_l1.data = np.asfortranarray(layer.weight_ih_l1.data * 1.5)
    check()
    layer.to("float32").to("float64")
    np.testing.assert_allclose(layer.step(x[0])[0], layer(x[:1])[0].numpy()[0], rtol=0, atol=1e-12)


def test_no_tape_and_modes() -> None:
    layer = nn.LSTM(5, 7, 2, dropout=0.5)
    x = mr.tensor(np.random.default_rng(5).standard_normal((2, 5)), requires_grad=True)
    y, (h, _) = layer.step(x, layer(mr.randn(3, 2, 5))[1])
    assert (y.requires_grad, h.requires_grad, layer.training) == (False, False, True)


def test_stacks_of_modules() -> None:
    """A module as cell is stepped through by its whole-sequence call."""
    cells_ = [nn.GRUCell(3, 5, dtype="float64"), nn.LSTMCell(5, 4, dtype="float64")]
    for batch_first in (False, True):
        layer, x = (
            nn.Recurrent(cells_, batch_first=batch_first),
            mr.tensor(np.random.default_rng(5).standard_normal((4, 2, 3)), dtype="float64"),
        )
        expected, final = layer(x.transpose(0, 1) if batch_first else x)
        state = layer.initial_state(2)
        for row in x:
            y, state = layer.step(row, state)
        np.testing.assert_array_equal(y, expected[:, -1] if batch_first else expected[-1])
        np.testing.assert_array_equal(state[1][1], final[1][1])
        assert not y.requires_grad
    single = nn.Recurrent(cells_[0])
    np.testing.assert_array_equal(single.step(x[0])[0], single(x[:1])[0][0])
    both = nn.Bidirectional(nn.GRUCell(3, 5), nn.LSTM(3, 5))  # a layer of sequences is no cell to be unrolled
    assert (type(both.fwd), type(both.bwd)) == (Unrolled, nn.LSTM)


LSTM = nn.LSTM(5, 7, 2)
ZEROS = np.zeros((3, 5), np.float32)
PAIR = (np.zeros((2, 3, 7), np.float32),) * 2
TWO, DOUBLE = LSTM.initial_state(2), [mr.tensor(member, dtype="float64") for member in PAIR]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ShapeError, r"LSTM: expected x \[N, 5\] of one step, got \[1, 3, 5\]", lambda: LSTM.step(ZEROS[None])),
        (ShapeError, r"LSTM: expected x \[N, 5\] of one step, got \[3, 4\]", lambda: LSTM.step(ZEROS[:, 1:])),
        (ShapeError, r"LSTM: expected an initial state \[2, 3, 7\], got \[2, 2, 7\]", lambda: LSTM.step(ZEROS, TWO)),
        (ShapeError, r"a pair \(h_0, c_0\) as hx, got 1", lambda: LSTM.step(ZEROS, PAIR[0])),
        (DTypeError, "initial state of float32, got float64", lambda: LSTM.step(ZEROS, DOUBLE)),
        (DTypeError, "x is float64, the parameters float32", lambda: LSTM.step(mr.tensor(ZEROS, dtype="float64"))),
        (OptionError, "GRU: step needs one direction", lambda: nn.GRU(5, 7, bidirectional=True).step(ZEROS)),
        (OptionError, "GRU: step needs one direction", lambda: nn.GRU(5, 7, bidirectional=True).initial_state(3)),
        (OptionError, "one direction", lambda: nn.Recurrent(nn.GRUCell(5, 7), reverse=True).step(ZEROS)),
        (OptionError, "GRU: batch_size: expected", lambda: nn.GRU(5, 7).initial_state(-1)),
    ],
)  # fmt: skip
def test_errors(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_empty_batch_and_lists() -> None:
    y, (h, _) = LSTM.step(np.zeros((0, 5), np.float32), LSTM.initial_state(0))
    assert (y.shape, h.shape) == ((0, 7), (2, 0, 7))
    np.testing.assert_array_equal(LSTM.step(ZEROS.tolist())[0], LSTM.step(ZEROS.astype(np.float64))[0])


def test_on_gpu(gpu: str, dtype: np.dtype) -> None:
    for make in (OPTIONS["residual"], OPTIONS["projection"], lambda: make_layer(stages, 5, 7), OPTIONS["no bias"]):
        layer, x = make().to(dtype), np.random.default_rng(5).standard_normal((2, 3, 5)).astype(dtype)
        expected, after = run_steps(layer, x, None)
        layer.to(gpu)
        state = layer.initial_state(3)
        for row in x:
            y, state = layer.step(mr.tensor(row, dtype=dtype, device=gpu), state)
        assert y.device == gpu
        tolerance = TOLERANCE[str(dtype)] * 3
        np.testing.assert_allclose(y.numpy(), expected[-1], rtol=0, atol=tolerance)
        for ours, theirs in zip(unpack_state(state), unpack_state(after), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=tolerance)
