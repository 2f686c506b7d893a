"""Zoneout, dropout inside the recurrence and dropped weights, checked against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cell_paths import (
    Results,
    Run,
    assert_equal_paths,
    assert_gradients_match_differences,
    assert_same_bits,
    fused,
    gradient,
    make_batch,
    make_input,
    make_layer,
    make_states,
    readable_cell,
    values_and_gradients,
    weighted_sum,
)

import minirnn as mr
from minirnn.autograd import ops
from minirnn.cells import dropout, tanh, zoneout
from minirnn.kernels import threads
from minirnn.nn.state import pack_state, unpack_state

RATE = 0.25
SCALE = 1 / (1 - RATE)


@mr.cell
def identity(a, /, h):  # type: ignore[no-untyped-def]
    """With W' = 1 the state is what the recurrent weights multiply."""
    return a


@mr.cell
def running_sum(a_x, /, h):  # type: ignore[no-untyped-def]
    return h + dropout(a_x)


@mr.cell
def own_zoneout(a_x, /, h, c):  # type: ignore[no-untyped-def]
    return zoneout(a_x, h, RATE), zoneout(tanh(a_x), c, 2 * RATE)


def identity_layer(cell: Any, size: int, **options: Any) -> mr.nn.Recurrent:
    """A layer whose gates are its input: W = 1, biases 0."""
    layer = mr.nn.Recurrent(cell, size, size, bias=False, dtype="float64", **options)
    for parameter in layer.parameters():
        parameter.data[...] = np.eye(size)
    return layer


def by_loop(layer: mr.nn.Recurrent, x: Any, states: list[Any], step: Callable[[int, list[Any]], list[Any]]) -> Run:
    """The layer by a loop over its steps; ``step(t, states)`` returns the new states."""

    def run() -> tuple[Any, list[Any]]:
        outputs, before = [], [state[0] for state in states]
        for t in range(x.shape[0]):
            before = step(t, before)
            outputs.append(before[0])
        return ops.stack(outputs), [state.unsqueeze(0) for state in before]

    return run


# ------------------------------------------------------------------------------------------------------- zoneout


def test_zoneout_keeps_each_unit_of_each_state_with_its_probability(plain_kernels: None) -> None:
    layer = make_layer("lstm", 3, 100, zoneout=0.3)
    x, states, _ = make_batch(layer, 1, 60)
    _, final = fused(layer, x, states)()
    layer.zoneout = 0.0
    _, new = fused(layer, x, states)()
    masks = []
    for before, after, without in zip(states, final, new, strict=True):
        old, changed = after.numpy() == before.numpy(), after.numpy() == without.numpy()
        assert (old ^ changed).all(), "each unit has either its old or its new value"
        assert old.mean() == pytest.approx(0.3, abs=0.025)
        masks.append(old)
    assert (masks[0] & masks[1]).mean() == pytest.approx(0.09, abs=0.02), "states are drawn independently"


def test_zoneout_gradients_equal_a_loop_with_its_masks(plain_kernels: None) -> None:
    layer = make_layer("rnn", 3, 5, zoneout=0.4)
    x, states, leaves = make_batch(layer, 6, 4)
    ours = values_and_gradients(layer, fused(layer, x, states), leaves)
    before = np.concatenate([states[0].numpy(), ours["y"][:-1]])
    masks = ours["y"] == before
    assert 0 < masks.mean() < 1
    assert len({mask.tobytes() for mask in masks}) == 6, "every step has its own mask"
    cell = readable_cell(layer, 0, 0)
    loop = by_loop(layer, x, states, lambda t, old: [ops.where(masks[t], old[0], cell(x[t], old[0]))])
    assert_equal_paths(ours, values_and_gradients(layer, loop, leaves), 1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
def test_zoneout_gives_the_expected_state_in_evaluation(cell: str, plain_kernels: None) -> None:
    layer = make_layer(cell, 3, 5, zoneout=0.3)
    layer.eval()
    x, states, leaves = make_batch(layer)
    readable = readable_cell(layer, 0, 0)

    def step(t: int, before: list[Any]) -> list[Any]:
        new = unpack_state(readable(x[t], pack_state(before)))
        return [0.3 * old + 0.7 * one for old, one in zip(before, new, strict=True)]

    runs = fused(layer, x, states), by_loop(layer, x, states, step)
    assert_equal_paths(*(values_and_gradients(layer, run, leaves) for run in runs), 1e-12)


def test_zoneout_in_equations_chooses_in_training_and_averages_in_evaluation(plain_kernels: None) -> None:
    layer = identity_layer(own_zoneout, 30)
    x = mr.tensor(np.random.default_rng(0).standard_normal((1, 50, 30)), True, "float64")
    states = make_states(layer, 50)
    y, (h, c) = layer(x, tuple(states))
    for rate, after, before, new in ((RATE, h, states[0], x.numpy()), (2 * RATE, c, states[1], np.tanh(x.numpy()))):
        old, changed = after.numpy() == before.numpy(), np.abs(after.numpy() - new) < 1e-15
        assert (old ^ changed).all()
        assert old.mean() == pytest.approx(rate, abs=0.05)
    y.sum().backward()
    kept = y.numpy() == states[0].numpy()
    np.testing.assert_array_equal(gradient(x), ~kept)
    np.testing.assert_array_equal(gradient(states[0]), kept)
    layer.eval()
    _, (h, c) = layer(x, tuple(states))
    np.testing.assert_allclose(h.numpy(), RATE * states[0].numpy() + (1 - RATE) * x.numpy(), rtol=1e-12)
    np.testing.assert_allclose(c.numpy(), 0.5 * states[1].numpy() + 0.5 * np.tanh(x.numpy()), rtol=1e-12)


# --------------------------------------------------------------------------------------- dropout in the recurrence


def test_recurrent_dropout_has_one_mask_for_all_steps(plain_kernels: None) -> None:
    layer = identity_layer(identity, 40, recurrent_dropout=RATE, bidirectional=True)
    x, h = mr.zeros(3, 30, 40, dtype="float64"), mr.ones(2, 30, 40, dtype="float64")
    y, _ = layer(x, h)
    forward, backward = y.numpy()[..., :40], y.numpy()[::-1, :, 40:]
    for outputs in (forward, backward):
        mask = outputs[0]
        assert set(np.unique(mask)) == {0.0, SCALE}
        assert (mask == 0).mean() == pytest.approx(RATE, abs=0.05)
        for t in range(3):
            np.testing.assert_allclose(outputs[t], mask ** (t + 1), rtol=1e-14)
        assert len({row.tobytes() for row in mask}) == 30, "every sequence has its own mask"
    assert (forward[0] != backward[0]).any(), "every direction has its own mask"
    assert (layer(x, h)[0].numpy() != y.numpy()).any(), "every call has its own mask"
    layer.eval()
    np.testing.assert_array_equal(layer(x, h)[0].numpy(), 1)


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_before"])
def test_recurrent_dropout_on_the_state_equals_a_loop_with_its_mask(name: str, plain_kernels: None) -> None:
    """Only the recurrent weights see the dropped state; a product inside the step and the cell itself do not."""
    layer = make_layer(name, 3, 5, recurrent_dropout=0.5)
    x, states, leaves = make_batch(layer)
    probe = identity_layer(identity, 5, recurrent_dropout=0.5)
    mr.manual_seed(11)  # the layer's first draw is that of its mask
    mask = probe(mr.zeros(1, 4, 5, dtype="float64"), mr.ones(1, 4, 5, dtype="float64"))[0].numpy()[0]
    assert set(np.unique(mask)) == {0.0, 2.0}
    module = readable_cell(layer, 0, 0)
    cell = module.cell

    def step(t: int, before: list[Any]) -> list[Any]:
        values = dict(zip(cell.input_gates, module._parts(x[t], module.weight_ih, module.bias_ih), strict=True))
        parts = module._parts(before[0] * mask, module.weight_hh, module.bias_hh)  # type: ignore[arg-type]
        for gate, part in zip(cell.recurrent_gates, parts, strict=True):
            values[gate] = values[gate] + part if gate in values else part
        weights = [getattr(module, f"weight_product{k}") for k in range(cell.equations.products)]
        return list(unpack_state(cell(*(values[gate] for gate in cell.gates), *before, weights=weights)))

    runs = fused(layer, x, states, seed=11), by_loop(layer, x, states, step)
    assert_equal_paths(*(values_and_gradients(layer, run, leaves) for run in runs), 1e-12)


def test_recurrent_dropout_on_the_update_draws_at_every_step(plain_kernels: None) -> None:
    layer = identity_layer(running_sum, 40, recurrent_dropout=RATE, recurrent_dropout_on="update")
    x = mr.tensor(np.ones((4, 30, 40)), True, "float64")
    y, _ = layer(x)
    steps = np.diff(y.numpy(), axis=0, prepend=0)
    dropped = np.abs(steps) < 1e-14
    np.testing.assert_allclose(steps[~dropped], SCALE, rtol=1e-14)
    assert dropped.mean() == pytest.approx(RATE, abs=0.03)
    assert (dropped[0] & dropped[1]).mean() == pytest.approx(RATE**2, abs=0.03), "steps are drawn independently"
    y.sum().backward()
    expected = np.where(dropped, 0, SCALE) * np.array([4, 3, 2, 1])[:, None, None]
    np.testing.assert_allclose(gradient(x), expected, rtol=1e-12)
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].numpy()[3], 4)


def test_every_built_in_cell_marks_an_update_that_can_be_dropped(plain_kernels: None) -> None:
    """What a gate adds to the state, not the state: of the LSTM's cell state, what the forget gate keeps is left."""
    assert all(mr.cells.get(name).equations.has_dropout for name in mr.cells.names())
    layer = make_layer("lstm", 3, 5, recurrent_dropout=1.0, recurrent_dropout_on="update")
    x, (h, c), _ = make_batch(layer, 1, 2)
    _, (_, c_n) = layer(x, (h, c))
    p = {name: parameter.numpy() for name, parameter in layer.named_parameters()}
    gates = x.numpy()[0] @ p["weight_ih_l0"].T + h.numpy()[0] @ p["weight_hh_l0"].T
    forget = (gates + p["bias_ih_l0"] + p["bias_hh_l0"])[:, 5:10]
    np.testing.assert_allclose(c_n.numpy()[0], c.numpy()[0] / (1 + np.exp(-forget)), rtol=1e-12)


UPDATE = {"recurrent_dropout_on": "update"}


@pytest.mark.parametrize(
    "options", [{"recurrent_dropout": 1.0}, {"recurrent_dropout": 1.0} | UPDATE, {"weight_drop": 1.0}], ids=str
)
def test_dropping_everything_leaves_no_nan(options: dict[str, Any], plain_kernels: None) -> None:
    layer = make_layer("lstm", 3, 5, **options)
    y, final = fused(layer, make_input(layer, 3, 2))()
    weighted_sum([y, *final]).backward()
    assert not gradient(dict(layer.named_parameters())["weight_hh_l0"]).any()
    assert y.numpy().any() == ("recurrent_dropout_on" not in options)
    assert all(np.isfinite(gradient(parameter)).all() for parameter in layer.parameters())


# -------------------------------------------------------------------------------------------- dropped weights


def test_weight_drop_has_one_mask_for_a_call(plain_kernels: None) -> None:
    layer = make_layer("rnn", 3, 6, weight_drop=0.5)
    weight = dict(layer.named_parameters())["weight_hh_l0"]
    x, states, leaves = make_batch(layer)
    run = fused(layer, x, states, seed=12)
    ours = values_and_gradients(layer, run, leaves)
    kept = ours["gradient of weight_hh_l0"] != 0
    assert 0.2 < kept.mean() < 0.8
    layer.eval()
    weight.data[...] *= kept * 2.0
    expected = values_and_gradients(layer, run, leaves)
    expected["gradient of weight_hh_l0"] *= kept * 2.0
    assert_equal_paths(ours, expected, 1e-12)


def test_evaluation_does_not_drop_weights(plain_kernels: None) -> None:
    layer = make_layer("gru", 3, 5, weight_drop=0.5)
    x = make_input(layer, 4, 4)
    trained, again = layer(x)[0].numpy(), layer(x)[0].numpy()
    assert (trained != again).any(), "every call has its own mask"
    layer.eval()
    evaluated = layer(x)[0].numpy()
    layer.train()
    layer.weight_drop = 0.0
    np.testing.assert_array_equal(layer(x)[0].numpy(), evaluated)


# ------------------------------------------------------------------------------- seeds, threads and gradients

OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "zoneout": ("lstm", {"zoneout": 0.3}),
    "dropout on the state": ("gru", {"recurrent_dropout": 0.3}),
    "dropout on the update": ("layer_norm_lstm", {"recurrent_dropout": 0.3, "recurrent_dropout_on": "update"}),
    "dropped weights": ("gru_reset_before", {"weight_drop": 0.3}),
    "all of them": ("slstm", {"zoneout": 0.2, "recurrent_dropout": 0.3, "weight_drop": 0.1}),
    "own zoneout": (own_zoneout, {}),
    "layer normalisation": ("layer_norm_gru", {}),
    "products": ("gru_reset_before", {}),
}


def run_of(name: str, seed: int = 13, dtype: str = "float64") -> Results:
    """A ragged batch of eleven sequences in both directions, forward and backward, with a given seed."""
    cell, options = OPTIONS[name]
    layer = make_layer(cell, 3, 7, bidirectional=True, dtype=dtype, **options)
    x, states, leaves = make_batch(layer, 4, 11)
    return values_and_gradients(layer, fused(layer, x, states, [3, 0, 4, 4, 1, 2, 2, 3, 4, 4, 3], seed), leaves)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_seed_gives_the_same_numbers(name: str, plain_kernels: None) -> None:
    first = run_of(name)
    assert_same_bits(first, run_of(name))
    draws = name not in ("layer normalisation", "products")
    assert (first["y"] != run_of(name, 14)["y"]).any() == draws


@pytest.fixture
def counted_threads(monkeypatch: pytest.MonkeyPatch, set_threads: Any) -> Callable[[int], list[int]]:
    """Sets the number of threads; the list it returns holds how many threads each kernel was divided among."""
    monkeypatch.setattr(threads, "GRAIN", 1)  # divide even the smallest job
    run, counts = threads.run, []

    def counted(kernel: Any, work: float, most: int, *args: Any) -> None:
        counts.append(min(threads.get_num_threads(), most))
        run(kernel, work, most, *args)

    monkeypatch.setattr(threads, "run", counted)

    def set_count(count: int) -> list[int]:
        set_threads(count)
        counts.clear()
        return counts

    return set_count


def check_threads(name: str, counted_threads: Callable[[int], list[int]], dtype: str) -> None:
    results = []
    for count in (1, 2, 3):
        counts = counted_threads(count)
        results.append(run_of(name, dtype=dtype))
        assert max(counts) == count, "the job was not divided at all"
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.needs_jit  # NumPy's products do not give every row the same bits
@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_bits_on_one_two_and_three_threads(name: str, plain_kernels: None, counted_threads: Any) -> None:
    check_threads(name, counted_threads, "float64")


@pytest.mark.slow
@pytest.mark.needs_jit
@pytest.mark.parametrize("name", ["layer normalisation", "products", "zoneout"])
def test_the_same_bits_on_one_two_and_three_threads_compiled(name: str, counted_threads: Any) -> None:
    check_threads(name, counted_threads, "float32")


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_match_finite_differences_with_draws_repeated(name: str, plain_kernels: None) -> None:
    cell, options = OPTIONS[name]
    assert_gradients_match_differences(make_layer(cell, 2, 3, seed=5, **options), [2, 0, 1, 2], seed=15)


def test_compiled_and_plain_kernels_draw_the_same(monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    compiled = run_of("zoneout", dtype="float32")
    request.getfixturevalue("plain_kernels")
    assert_equal_paths(run_of("zoneout", dtype="float32"), compiled, 2e-5)
