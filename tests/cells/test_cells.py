"""Every built-in cell: fused kernels equal the readable cell, and differences, in values and in every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_paths import (
    LENGTHS,
    assert_equal_paths,
    both_paths,
    gradient,
    make_input,
    make_layer,
    make_states,
    members,
    packed,
    unrolled,
    values_and_gradients,
    weighted_sum,
)

import minirnn as mr
from minirnn.autograd import ops
from minirnn.kernels.jit import DISABLED

NAMES = mr.cells.names()
COMPILED = ("lstm", "slstm")
"""Cells whose kernels are compiled in float64 as well. Those of the others run as plain Python, for compiling takes
seconds; it is the same generated source, which float32 compiles for every cell."""
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each cell, in float64."""
    if request.param not in COMPILED:
        request.getfixturevalue("plain_kernels")
    return request.param


def check_two_layers_in_both_directions(name: str, dtype: str) -> None:
    """Ragged lengths, one of them 0, and initial states."""
    layer = make_layer(name, 3, 5, num_layers=2, bidirectional=True, dtype=dtype)
    assert_equal_paths(*both_paths(layer, lengths=LENGTHS), TOLERANCE[dtype])


def test_fused_layers_equal_the_readable_cell_in_float64(name: str) -> None:
    check_two_layers_in_both_directions(name, "float64")


@pytest.mark.parametrize("cell", NAMES)
def test_fused_layers_equal_the_readable_cell_in_float32(cell: str) -> None:
    check_two_layers_in_both_directions(cell, "float32")


@pytest.mark.parametrize("bias", [True, False])
def test_batch_first_layers_without_states_equal_the_readable_cell(name: str, bias: bool) -> None:
    layer = make_layer(name, 2, 5, bias=bias, batch_first=True, dtype="float64", seed=4)
    assert any(parameter.startswith("bias_") for parameter, _ in layer.named_parameters()) == bias
    assert_equal_paths(*both_paths(layer, batch=3, given=False), TOLERANCE["float64"])


def test_gradients_match_finite_differences(name: str) -> None:
    deep: dict[str, Any] = {"num_layers": 2, "bidirectional": True} if name in COMPILED and not DISABLED else {}
    layer = make_layer(name, 2, 3, dtype="float64", seed=5, **deep)
    x, states = make_input(layer, 2, 3), make_states(layer, 3)

    def loss(*_: Any) -> Any:
        y, final = layer(x, packed(states), lengths=[1, 0, 2])
        return weighted_sum([y, *members(final)])

    assert mr.gradcheck(loss, [x, *states, *layer.parameters()], atol=1e-7, rtol=1e-6)


def test_tokens_of_a_table_equal_its_rows_as_input(name: str) -> None:
    layer = make_layer(name, 3, 5, dtype="float64", seed=6)
    rng = np.random.default_rng(6)
    states = make_states(layer, 4)
    for rows in (2, 30):  # fewer than there are steps (the kernel gathers projected rows), and more of them
        table = mr.tensor(rng.standard_normal((rows, 3)), True, "float64")
        tokens = rng.integers(0, rows, (4, 4))

        def by_table(tokens: Any = tokens, table: Any = table) -> Any:
            y, final = layer(tokens, packed(states), lengths=LENGTHS, embedding=table)
            return y, members(final)

        def by_rows(tokens: Any = tokens, table: Any = table) -> Any:
            y, final = layer(mr.nn.functional.embedding(tokens, table), packed(states), lengths=LENGTHS)
            return y, members(final)

        leaves = {"table": table} | {f"state {n}": state for n, state in enumerate(states)}
        ours, expected = (values_and_gradients(layer, run, leaves) for run in (by_table, by_rows))
        assert_equal_paths(ours, expected, TOLERANCE["float64"])


def test_without_gradients_the_same_numbers_come_out(name: str) -> None:
    layer = make_layer(name, 3, 5, dtype="float64", seed=7)
    x, states = make_input(layer, 4, 4), make_states(layer, 4)
    y, final = layer(x, packed(states), lengths=LENGTHS)
    with mr.no_grad():
        y_alone, final_alone = layer(x, packed(states), lengths=LENGTHS)
    assert not y_alone.requires_grad
    layer.eval()
    y_eval, _ = layer(x, packed(states), lengths=LENGTHS)
    for one, two in zip([y, y, *members(final)], [y_alone, y_eval, *members(final_alone)], strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "layer_norm_lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_of_different_sizes_equal_the_readable_cells(cell: str, bidirectional: bool) -> None:
    layer = make_layer(cell, 3, [5, 3], 2, bidirectional=bidirectional, dtype="float64", seed=8)
    x, rng = make_input(layer, 4, 4), np.random.default_rng(8)
    sizes = [size for size in (5, 3) for _ in range(1 + bidirectional)]
    states = [[mr.tensor(rng.standard_normal((4, n)), True, "float64") for n in sizes] for _ in layer.cell.states]
    leaves = {"x": x} | {f"state {n} {k}": s for n, parts in enumerate(states) for k, s in enumerate(parts)}

    def fused() -> Any:
        y, final = layer(x, packed(states), lengths=LENGTHS)
        finals = final if len(states) > 1 else (final,)
        assert [part.shape for part in finals[0]] == [(4, n) for n in sizes]
        return y, [part for parts in finals for part in parts]

    def readable() -> Any:
        y, finals = unrolled(layer, x, states, LENGTHS)
        return y, [part for parts in finals for part in parts]

    ours, expected = (values_and_gradients(layer, run, leaves) for run in (fused, readable))
    assert_equal_paths(ours, expected, TOLERANCE["float64"])


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_residual_layers_add_their_input_to_their_output(cell: str, bidirectional: bool) -> None:
    layer = make_layer(cell, 3, 5, 3, residual=True, bidirectional=bidirectional, dtype="float64", seed=9)
    assert_equal_paths(*both_paths(layer, lengths=LENGTHS), TOLERANCE["float64"])
    plain = make_layer(cell, 3, 5, 3, bidirectional=bidirectional, dtype="float64", seed=9)
    x = make_input(layer, 4, 4)
    assert not np.allclose(layer(x)[0].numpy(), plain(x)[0].numpy())


@pytest.mark.parametrize("cell", ["lstm", "layer_norm_lstm"])
@pytest.mark.parametrize("options", [{"zoneout": 0.3}, {"recurrent_dropout": 0.4}], ids=str)
def test_recomputed_segments_have_the_same_gradients_to_the_last_bit(
    cell: str, options: dict[str, float], plain_kernels: None
) -> None:
    results = []
    for segment in (lambda function, *inputs: function(*inputs), mr.recompute):
        layer = make_layer(cell, 3, 5, dtype="float64", seed=10, **options)
        x, states = make_input(layer, 4, 4), make_states(layer, 4)

        def apply(x: Any, *states: Any, layer: Any = layer) -> Any:
            y, final = layer(x, packed(states))
            return y, *members(final)

        def run(segment: Any = segment, apply: Any = apply, x: Any = x, states: Any = states) -> Any:
            mr.manual_seed(10)
            outputs, before = [], states
            for part in (x[:2], x[2:]):
                output, *before = segment(apply, part, *before)
                outputs.append(output)
            return ops.concatenate(outputs, 0), before

        results.append(values_and_gradients(layer, run, {"x": x, "h": states[0]}))
    for what, array in results[0].items():
        np.testing.assert_array_equal(results[1][what], array, err_msg=what)


# --------------------------------------------------------------------------------------------- names and text


def test_names_are_those_of_the_modules() -> None:
    assert {"gru", "indrnn", "layer_norm_lstm", "lstm", "min_gru", "peephole_lstm", "rnn", "slstm"} <= set(NAMES)
    assert sorted(NAMES) == NAMES
    for name in NAMES:
        cell = mr.cells.get(name)
        assert cell.name == name
        assert cell.__doc__
        assert mr.cells.get(cell) is cell


def test_a_cell_has_the_parameters_its_signature_asks_for() -> None:
    cell = mr.cells.get("gru_reset_before")
    assert (cell.gates, cell.states, cell.vectors) == (("r", "z", "n_x"), ("h",), {})
    assert (cell.input_gates, cell.recurrent_gates) == (("r", "z", "n_x"), ("r", "z"))
    assert {name: p.shape for name, p in mr.nn.Recurrent(cell, 3, 5).named_parameters()} == {
        "weight_ih_l0": (15, 3), "weight_hh_l0": (10, 5), "bias_ih_l0": (15,), "bias_hh_l0": (10,),
        "weight_product0_l0": (5, 5),
    }  # fmt: skip
    indrnn = dict(mr.nn.Recurrent("indrnn", 3, 5).named_parameters())
    assert {name: p.shape for name, p in indrnn.items()} == {
        "weight_ih_l0": (5, 3), "bias_ih_l0": (5,), "u_l0": (5,)
    }  # fmt: skip
    assert indrnn["u_l0"].numpy().tolist() == [0.5] * 5


def test_lstm_is_explained_by_its_equations() -> None:
    """The backward equations are those of Gers, Schmidhuber & Cummins 2000 by hand, d(sigmoid) = s (1 - s)."""
    text = mr.cells.explain("lstm")
    sections = {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in text.split("\n\n# ")}
    titles = list(sections)
    assert sections["# lstm: equations"] == ("c' = sigmoid(f) * c + sigmoid(i) * tanh(g)\nh' = sigmoid(o) * tanh(c')")
    assert sorted(sections[titles[1]].splitlines()) == [
        "saved_f = sigmoid(f)", "saved_g = tanh(g)", "saved_i = sigmoid(i)", "saved_o = sigmoid(o)"
    ]  # fmt: skip
    assert titles[2].startswith("backward")
    assert sections[titles[2]].splitlines() == [
        "t1 = tanh(c')",
        "t2 = dc' + dh' * saved_o * (1 - t1 * t1)",
        "do = dh' * t1 * saved_o * (1 - saved_o)",
        "dg = t2 * saved_i * (1 - saved_g * saved_g)",
        "di = t2 * saved_g * saved_i * (1 - saved_i)",
        "dc = t2 * saved_f",
        "df = t2 * c * saved_f * (1 - saved_f)",
        "dh = 0",
        "dh += weight_hh^T @ (di, df, dg, do)",
    ]
    assert titles[3:] == ["generated source, forward", "generated source, backward"]
    assert "def forward(thread_id, num_threads, " in sections[titles[3]]
    assert "def backward(thread_id, num_threads, " in sections[titles[4]]


@pytest.mark.parametrize("cell", NAMES)
def test_every_cell_is_explained(cell: str) -> None:
    text, made = mr.cells.explain(cell), mr.cells.get(cell)
    assert all(f"{state}' = " in text for state in made.states)
    assert all(f"d{gate} = " in text for gate in made.gates)
    assert all(f"d{vector} = " in text for vector in made.vectors)


def test_repr_shows_the_equations() -> None:
    assert repr(mr.cells.get("lstm")) == (
        "<cell lstm: c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c')>"
    )
    assert repr(mr.cells.get("rnn")) == "<cell rnn: h' = tanh(a)>"
    assert repr(mr.nn.Recurrent("rnn", 3, 5, num_layers=2)) == "Recurrent(<cell rnn: h' = tanh(a)>, 3, 5, num_layers=2)"


def test_gradients_of_leaves_that_are_not_used_are_zero() -> None:
    """Of a batch without a single step, the final states are the initial ones."""
    layer = make_layer("peephole_lstm", 3, 5, dtype="float64")
    states = make_states(layer, 2)
    y, final = layer(make_input(layer, 4, 2), packed(states), lengths=[0, 0])
    weighted_sum([y, *members(final)]).backward()
    assert not y.numpy().any()
    for before, after in zip(states, members(final), strict=True):
        np.testing.assert_array_equal(after.numpy(), before.numpy())
        assert gradient(before).all()
    assert not any(gradient(parameter).any() for parameter in layer.parameters())
