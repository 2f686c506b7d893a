"""Custom cells of any structure: fused kernels equal the readable cell, in values and in every gradient."""

# ruff: noqa: F405 - the functions of equations are imported as users do
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_paths import (
    LENGTHS,
    assert_equal_paths,
    assert_gradients_match_differences,
    both_paths,
    fused,
    gradient,
    make_batch,
    make_layer,
    weighted_sum,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.cells import *  # noqa: F403
from minirnn.cells import Cell
from minirnn.kernels.graph import OPERATIONS, Graph, ancestors
from minirnn.kernels.jit import DISABLED
from minirnn.kernels.plan import make_plan

EQUATIONS: dict[str, Any] = {
    # two products with weight_hh whose rows are not adjacent
    "two_recurrent_parts": lambda a_x, a_h, g, b_h, b_x, /, h: tanh(a_x * a_h) + sigmoid(g) * tanh(b_x - b_h),
    "two_products": lambda a, b, /, h: tanh(product(sigmoid(a) * h) + product(sigmoid(b) * h)),
    # Pascanu et al. 2014: products of products
    "deep_transition": lambda a, /, h: tanh(product(tanh(product(tanh(a)))) + product(h)),
    "product_of_a_leaf": lambda a, b_x, /, h, c, *, u=0.5: (
        tanh(product(h) + product(c) + product(b_x) + product(u)),
        tanh(a),
    ),
    "states_swapped": lambda a, /, h, c: (c, tanh(a) * h),
    "state_unchanged": lambda a, /, h, c: (tanh(a) * c + h, c),
    "state_of_the_output_unchanged": lambda a, /, h, c: (h, tanh(a) + 0.5 * c),
    # 1 also appears in the gradient of tanh, which must not read it from the state
    "constant_states": lambda a, /, h, c, d: (tanh(a) * c + tanh(h) * d, 1, -0.25),
    "a_vector_as_state": lambda a, /, h, c, *, u=0.5: (tanh(a) * c + h, u),
    "a_gate_as_state": lambda a, /, h: a,
    # one value per sequence goes to every unit, of states and of what a product multiplies
    "sums_as_states": lambda a, /, h, c, d: (
        tanh(a) * c + product(tanh(sum(h))) * d,
        tanh(sum(a)),
        0.1 * mean(h),
    ),
    "without_recurrent_gates": lambda a_x, b_x, /, h: h * sigmoid(a_x) + tanh(b_x),
    "one_gate": lambda g, /, h: h + 0.5 * g,
}


def custom(name: str, function: Any) -> Cell:
    function.__name__ = name
    return mr.cell(function)


CELLS = {name: custom(name, function) for name, function in EQUATIONS.items()}


def add_cell(function: Any) -> None:
    CELLS[function.__name__] = mr.cell(function)


@add_cell
def interleaved(r, n_x, n_h, z, /, h):  # type: ignore[no-untyped-def]
    """A GRU whose recurrent gates are not adjacent: three products with weight_hh, not one."""
    n = tanh(n_x + sigmoid(r) * n_h)
    return n + sigmoid(z) * (h - n)


@add_cell
def highway(a, /, h):  # type: ignore[no-untyped-def]
    """A recurrent highway network of one more layer (Zilly et al. 2017): two products of one operand."""
    s = h + tanh(a)
    g, u = sigmoid(product(s)), tanh(product(s))
    return g * u + (1 - g) * s


@add_cell
def normalized_product(a, g, /, h, *, gain=1, bias=0):  # type: ignore[no-untyped-def]
    """Sums before a product that are used after it, and sums of its result."""
    normalized = layer_norm(a, gain, bias)
    m = mean(g * h)
    inner = product(normalized * sigmoid(g))
    return tanh(layer_norm(inner + normalized) * m + sum(inner) * 0.1 + m)


@add_cell
def one_node_for_two_states(a, /, h, c):  # type: ignore[no-untyped-def]
    new = tanh(a) * h + c
    return new, new


@add_cell
def per_sequence(a, /, h):  # type: ignore[no-untyped-def]
    total = mean(a)
    chosen = where(total > 0, sqrt(total * total + 1), exp(-total))
    return h * chosen + total * tanh(a)


@add_cell
def vocabulary(a, b, c_x, c_h, /, h, k, *, u=0.3, v=-1):  # type: ignore[no-untyped-def]
    """Every function there is, and every operator."""
    x = abs(a) + minimum(a, b) - maximum(b, h) + where(a < b, h, -h) + where(a <= h, b, 0.5) + where(a > k, 1, c_x)
    y = where(b >= 0.1, x, 2 * x) + exp(tanh(x)) + log(softplus(x) + 1) + log1p(relu(x)) + sqrt(a * a + 0.25)
    z = erf(y / 2**0.5) * y + sum(y) / 7 + mean(x) + sigmoid(x) ** 2 + (y**2 + 1) ** -1 + (x**2 + 1) ** 0.5
    w = (1 - z) / (3 + z**2) + (1 / (2 + k**2)) ** 3 - 0.5 + -c_h * u + v * k
    return tanh(product(w)), dropout(zoneout(tanh(w + 1.5), k, 0.2))


def check(cell: Cell, dtype: str, tolerance: float) -> None:
    layer = make_layer(cell, 2, 3, bidirectional=True, dtype=dtype)
    layer.eval()  # the readable path gives the expected value of zoneout
    assert_equal_paths(*both_paths(layer, lengths=LENGTHS), tolerance)


@pytest.mark.parametrize("name", CELLS)
def test_fused_layers_equal_the_readable_cell(name: str, plain_kernels: None) -> None:
    check(CELLS[name], "float64", 1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_match_finite_differences(name: str, plain_kernels: None) -> None:
    layer = make_layer(CELLS[name], 2, 3, seed=5)
    layer.eval()
    assert_gradients_match_differences(layer)


@pytest.mark.slow
@pytest.mark.needs_jit
@pytest.mark.parametrize("name", ["interleaved", "normalized_product", "constant_states", "vocabulary"])
def test_compiled_kernels_equal_the_readable_cell(name: str) -> None:
    check(CELLS[name], "float32", 1e-4 if name == "vocabulary" else 2e-5)


def test_every_operation_is_in_some_cell() -> None:
    ours = {node.op for cell in CELLS.values() for node in ancestors(cell.equations.new)}
    assert ours >= set(OPERATIONS) - {"spread"}, "an operation that no cell here is tested with"


def test_rows_of_weight_hh_that_are_not_adjacent_are_separate_products() -> None:
    runs = [(run.first, run.count, run.array, run.index) for run in CELLS["interleaved"].equations.runs]
    assert runs == [(0, 1, "gates", 0), (1, 1, "products", 0), (2, 1, "gates", 2)]
    assert [(run.first, run.count) for run in mr.cells.get("lstm").equations.runs] == [(0, 4)]
    assert CELLS["without_recurrent_gates"].equations.runs == ()


def test_two_products_of_one_operand_store_their_inputs_separately() -> None:
    plan = make_plan(CELLS["highway"].equations.resolve(training=True))
    assert plan.inputs == 2
    assert {operand.index for operand, _ in plan.forward.products.values()} == {0, 1}


def test_a_product_that_evaluation_leaves_out_has_no_gradient(plain_kernels: None) -> None:
    @mr.cell
    def chosen(a, /, h):  # type: ignore[no-untyped-def]
        return tanh(a) + where(product(h) > 0, dropout(h), h) + product(tanh(a))

    layer = make_layer(chosen, 2, 3)
    layer.eval()
    ours, expected = both_paths(layer)
    assert not ours["gradient of weight_product0_l0"].any()
    assert_equal_paths(ours, expected, 1e-12)


def test_equal_nodes_are_one() -> None:
    graph = Graph()
    a, b = graph.leaf("gate", "a"), graph.leaf("gate", "b")
    assert a * b + a is a * b + a
    assert a + 0 is a
    assert 1 * a is a
    negative = -a
    assert -negative is a
    assert a - (-b) is a + b
    assert (-a) * (-b) is a * b
    assert (a * 0).key == 0
    assert graph.make("where", a < b, a, a) is a
    assert graph.product(a) is not graph.product(a)
    assert (graph.constant(2) * 3 + 1).key == 7
    assert (a**3) is a * a * a
    assert (a**1) is a
    assert a**0.5 is graph.make("sqrt", a)


# ------------------------------------------------------------------------------------------- random expressions

UNARY: dict[str, Any] = {
    "tanh": tanh, "sigmoid": sigmoid, "relu": relu, "softplus": softplus, "erf": erf, "abs": abs, "sum": sum,
    "mean": mean, "product": product, "neg": lambda x: -x, "half": lambda x: x / 2, "more": lambda x: 0.7 + x,
    "square": lambda x: x**2, "exp": lambda x: exp(tanh(x)), "log": lambda x: log(x * x + 0.5),
    "log1p": lambda x: log1p(x * x), "sqrt": lambda x: sqrt(x * x + 0.1), "inverse": lambda x: (x * x + 1) ** -1,
    "layer_norm": layer_norm, "less": lambda x: 1 - x, "dropout": dropout,
}  # fmt: skip
BINARY: dict[str, Any] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "minimum": minimum,
    "maximum": maximum, "div": lambda a, b: a / (1 + b * b), "norm": lambda a, b: layer_norm(a, b, 0.1),
    "zoneout": lambda a, b: zoneout(a, b, 0.3), "gelu": lambda a, b: erf(a / 2**0.5) * a + b,
    "positive": lambda a, b: where(a > 0.05, b, tanh(a)),
    "choose": lambda a, b: where(a <= b, sigmoid(a), b),
}  # fmt: skip
EXAMPLES = 30 if DISABLED else 200  # none of them is compiled
GATES = [("a",), ("a_x",), ("a", "b"), ("a_x", "a_h"), ("a_h", "b", "a_x"), ("a", "b_h", "c", "b_x")]


@st.composite
def programs(draw: Any) -> tuple[Cell, str]:
    """A random cell of a few operations, each of earlier results."""
    gates = draw(st.sampled_from(GATES))
    states = ("h", "c", "d")[: draw(st.integers(1, 3))]
    vectors = {"u": 0.5, "v": -1.0} if draw(st.booleans()) else {}
    count = len(gates) + len(states) + len(vectors)
    steps: list[tuple[str, int, int]] = []
    single: set[int] = set()  # results with one value per sequence
    for _ in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from([*UNARY, *BINARY]))
        last = count + len(steps) - 1
        first, second = draw(st.integers(0, last)), draw(st.integers(0, last))
        if op in ("minimum", "maximum") and first == second:
            op = "add"  # the gradient of a tie is a matter of convention
        if op == "sum" and first in single:
            op = "mean"
        if op in ("sum", "mean") or (op != "product" and {first, second if op in BINARY else first} <= single):
            single.add(last + 1)
        steps.append((op, first, second))
    results = [draw(st.integers(0, count + len(steps) - 1)) for _ in states]
    bounded = [draw(st.booleans()) for _ in states]
    used = set(results)
    for number, (op, first, second) in reversed(list(enumerate(steps, count))):
        if number in used:
            used |= {first, second} if op in BINARY else {first}
    unused = [leaf for leaf in range(count) if leaf not in used]

    def function(*values: Any, **learnt: Any) -> Any:
        made: list[Any] = [*values, *(learnt[name] for name in vectors)]
        for number, (op, first, second) in enumerate(steps, count):
            if number not in used:
                made.append(None)
                continue
            made.append(UNARY[op](made[first]) if op in UNARY else BINARY[op](made[first], made[second]))
        new = [tanh(made[k]) if bound else made[k] for k, bound in zip(results, bounded, strict=True)]
        for leaf in unused:
            new[0] = new[0] + 0.3 * made[leaf]
        return tuple(new)

    text = f"{gates} {states} {steps} {results} {bounded}"
    return Cell("random_cell", gates, states, vectors, function), text


@settings(max_examples=EXAMPLES)
@given(programs())
def test_random_cells_equal_the_readable_path(plain_kernels: None, program: tuple[Cell, str]) -> None:
    cell, text = program
    layer = make_layer(cell, 2, 3, bias=True)
    layer.eval()
    with np.errstate(all="ignore"):
        ours, expected = both_paths(layer, steps=3, batch=3, lengths=[2, 0, 3])
    assume(all(np.abs(array).max(initial=0) < 1e6 for array in expected.values()))
    try:
        assert_equal_paths(ours, expected, 1e-9, smallest=1.0)
    except AssertionError as error:
        raise AssertionError(f"{text}\n{error}") from None


@settings(max_examples=EXAMPLES)
@given(programs(), st.sampled_from([{"zoneout": 0.3}, {"recurrent_dropout": 0.4}, {"weight_drop": 0.3}]))
def test_gradients_of_random_cells_in_training_match_finite_differences(
    plain_kernels: None, program: tuple[Cell, str], options: dict[str, float]
) -> None:
    """Along one random direction of all parameters and inputs, every draw repeated."""
    cell, text = program
    regularized: dict[str, Any] = options if cell.recurrent_gates else {"zoneout": 0.3}
    layer = make_layer(cell, 2, 3, **regularized)
    x, states, leaves = make_batch(layer, 3, 3)
    run, rng = fused(layer, x, states, [2, 0, 3], seed=5), np.random.default_rng(4)
    moved = [(leaf, rng.standard_normal(leaf.shape)) for leaf in (*leaves.values(), *layer.parameters())]

    def loss(shift: float) -> Any:
        for leaf, direction in moved:
            leaf.data[...] += shift * direction
        with np.errstate(all="ignore"):
            y, final = run()
        for leaf, direction in moved:
            leaf.data[...] -= shift * direction
        return weighted_sum([y, *final])

    middle = loss(0)
    assume(np.abs(middle.numpy()) < 1e4)
    middle.backward()
    slope = np.sum([(direction * gradient(leaf)).sum() for leaf, direction in moved])
    assume(np.abs(slope) < 1e4)
    eps = 1e-6
    expected = (loss(eps).item() - loss(-eps).item()) / (2 * eps)
    assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5), text
