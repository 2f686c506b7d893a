"""Every built-in cell: fused kernels equal the readable cell, and differences, in values and in every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_paths import (
    LENGTHS,
    assert_equal_paths,
    assert_gradients_match_differences,
    assert_same_bits,
    both_paths,
    fused,
    gradient,
    make_batch,
    make_input,
    make_layer,
    make_states,
    unrolled,
    values_and_gradients,
    weighted_sum,
)

import minirnn as mr
from minirnn.autograd import ops
from minirnn.kernels.jit import DISABLED
from minirnn.nn.state import pack_state, unpack_state

NAMES = mr.cells.names()
COMPILED = ("lstm", "slstm")
"""Cells whose kernels are compiled in float64 as well. Those of the others run as plain Python, for compiling takes
seconds; it is the same generated source, which float32 compiles for every cell."""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each cell, for tests in float64."""
    if request.param not in COMPILED:
        request.getfixturevalue("plain_kernels")
    return request.param


def check_two_layers_in_both_directions(name: str, dtype: str, tolerance: float) -> None:
    """Ragged lengths, one of them 0, and initial states."""
    layer = make_layer(name, 3, 5, num_layers=2, bidirectional=True, dtype=dtype)
    assert_equal_paths(*both_paths(layer, lengths=LENGTHS), tolerance)


def test_fused_layers_equal_the_readable_cell_in_float64(name: str) -> None:
    check_two_layers_in_both_directions(name, "float64", 1e-12)


@pytest.mark.parametrize("cell", NAMES)
def test_fused_layers_equal_the_readable_cell_in_float32(cell: str) -> None:
    check_two_layers_in_both_directions(cell, "float32", 2e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_batch_first_layers_without_states_equal_the_readable_cell(name: str, bias: bool) -> None:
    layer = make_layer(name, 2, 5, bias=bias, batch_first=True, seed=4)
    assert any(parameter.startswith("bias_") for parameter, _ in layer.named_parameters()) == bias
    assert_equal_paths(*both_paths(layer, batch=3, given=False), 1e-12)


def test_gradients_match_finite_differences(name: str) -> None:
    deep: dict[str, Any] = {"num_layers": 2, "bidirectional": True} if name in COMPILED and not DISABLED else {}
    assert_gradients_match_differences(make_layer(name, 2, 3, seed=5, **deep))


@pytest.mark.parametrize("rows", [2, 30])  # fewer than there are steps (the kernel gathers projected rows), and more
def test_tokens_of_a_table_equal_its_rows_as_input(name: str, rows: int) -> None:
    layer = make_layer(name, 3, 5, seed=6)
    states, rng = make_states(layer, 4), np.random.default_rng(6)
    table = mr.tensor(rng.standard_normal((rows, 3)), True, "float64")
    tokens = rng.integers(0, rows, (4, 4))

    def by_table() -> Any:
        y, final = layer(tokens, pack_state(states), lengths=LENGTHS, embedding=table)
        return y, unpack_state(final)

    def by_rows() -> Any:
        return fused(layer, mr.nn.functional.embedding(tokens, table), states, LENGTHS)()

    leaves = {"table": table} | {f"state {n}": state for n, state in enumerate(states)}
    ours, expected = (values_and_gradients(layer, run, leaves) for run in (by_table, by_rows))
    assert_equal_paths(ours, expected, 1e-12)


def test_values_without_gradients_and_in_evaluation_are_the_same(name: str) -> None:
    layer = make_layer(name, 3, 5, seed=7)
    x, states, _ = make_batch(layer)
    y, final = fused(layer, x, states, LENGTHS)()
    with mr.no_grad():
        y_alone, final_alone = fused(layer, x, states, LENGTHS)()
    assert not y_alone.requires_grad
    layer.eval()
    y_eval, _ = fused(layer, x, states, LENGTHS)()
    for one, two in zip([y, y, *final], [y_alone, y_eval, *final_alone], strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "layer_norm_lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_of_different_sizes_equal_the_readable_cells(cell: str, bidirectional: bool) -> None:
    layer = make_layer(cell, 3, [5, 3], 2, bidirectional=bidirectional, seed=8)
    x, rng = make_input(layer, 4, 4), np.random.default_rng(8)
    sizes = [size for size in (5, 3) for _ in range(1 + bidirectional)]
    states: list[Any] = [
        [mr.tensor(rng.standard_normal((4, n)), True, "float64") for n in sizes] for _ in layer.cell.states
    ]
    leaves = {"x": x} | {f"state {n} {k}": s for n, parts in enumerate(states) for k, s in enumerate(parts)}

    def by_layer() -> Any:
        y, final = layer(x, pack_state(states), lengths=LENGTHS)
        finals = final if len(states) > 1 else (final,)
        assert [part.shape for part in finals[0]] == [(4, n) for n in sizes]
        return y, [part for parts in finals for part in parts]

    def readable() -> Any:
        y, finals = unrolled(layer, x, states, LENGTHS)
        return y, [part for parts in finals for part in parts]

    ours, expected = (values_and_gradients(layer, run, leaves) for run in (by_layer, readable))
    assert_equal_paths(ours, expected, 1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_residual_layers_add_their_input_to_their_output(cell: str, bidirectional: bool) -> None:
    layer = make_layer(cell, 3, 5, 3, residual=True, bidirectional=bidirectional, seed=9)
    assert_equal_paths(*both_paths(layer, lengths=LENGTHS), 1e-12)
    plain = make_layer(cell, 3, 5, 3, bidirectional=bidirectional, seed=9)
    x = make_input(layer, 4, 4)
    assert not np.allclose(layer(x)[0].numpy(), plain(x)[0].numpy())


@pytest.mark.parametrize("cell", ["lstm", "layer_norm_lstm"])
@pytest.mark.parametrize("options", [{"zoneout": 0.3}, {"recurrent_dropout": 0.4}], ids=str)
def test_recomputed_segments_have_the_same_gradients_to_the_last_bit(
    cell: str, options: dict[str, float], plain_kernels: None
) -> None:
    results = []
    for segment in (lambda function, *inputs: function(*inputs), mr.recompute):
        layer = make_layer(cell, 3, 5, seed=10, **options)
        x, states, leaves = make_batch(layer)

        def apply(x: Any, *states: Any, layer: Any = layer) -> Any:
            y, final = fused(layer, x, states)()
            return y, *final

        def run(segment: Any = segment, apply: Any = apply, x: Any = x, states: Any = states) -> Any:
            mr.manual_seed(10)
            outputs, before = [], states
            for part in (x[:2], x[2:]):
                output, *before = segment(apply, part, *before)
                outputs.append(output)
            return ops.concatenate(outputs, 0), before

        results.append(values_and_gradients(layer, run, leaves))
    assert_same_bits(*results)


def test_batch_without_a_step_passes_states_and_their_gradients_through() -> None:
    layer = make_layer("peephole_lstm", 3, 5)
    x, states, _ = make_batch(layer, 4, 2)
    y, final = fused(layer, x, states, [0, 0])()
    weighted_sum([y, *final]).backward()
    assert not y.numpy().any()
    for before, after in zip(states, final, strict=True):
        np.testing.assert_array_equal(after.numpy(), before.numpy())
        assert gradient(before).all()
    assert not any(gradient(parameter).any() for parameter in layer.parameters())


# ------------------------------------------------------------------------------------------------------- names


def test_names_are_those_of_the_modules() -> None:
    assert {"gru", "indrnn", "layer_norm_lstm", "lstm", "min_gru", "peephole_lstm", "rnn", "slstm"} <= set(NAMES)
    assert sorted(NAMES) == NAMES
    for name in NAMES:
        cell = mr.cells.get(name)
        assert cell.name == name
        assert cell.__doc__
        assert mr.cells.get(cell) is cell


def test_a_layer_has_the_parameters_that_the_signature_asks_for() -> None:
    cell = mr.cells.get("gru_reset_before")
    assert (cell.gates, cell.states, cell.vectors) == (("r", "z", "n_x"), ("h",), {})
    assert (cell.input_gates, cell.recurrent_gates) == (("r", "z", "n_x"), ("r", "z"))
    shapes = {name: parameter.shape for name, parameter in mr.nn.Recurrent(cell, 3, 5).named_parameters()}
    biases = {"bias_ih_l0": (15,), "bias_hh_l0": (10,)}
    assert shapes == {"weight_ih_l0": (15, 3), "weight_hh_l0": (10, 5), "weight_product0_l0": (5, 5)} | biases
    indrnn = dict(mr.nn.Recurrent("indrnn", 3, 5).named_parameters())
    assert {name: p.shape for name, p in indrnn.items()} == {"weight_ih_l0": (5, 3), "bias_ih_l0": (5,), "u_l0": (5,)}
    assert indrnn["u_l0"].numpy().tolist() == [0.5] * 5
