"""``mr.cells.explain`` prints what is computed: the printed equations are run to see it."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.cells import product, sigmoid, tanh, where

SIZE = 5
FUNCTIONS: dict[str, Any] = vars(np) | {"size": SIZE, "softplus": lambda x: np.logaddexp(0, x)}
FUNCTIONS |= {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "relu": lambda x: np.maximum(x, 0)}


@mr.cell
def operators(t1, b, c_x, c_h, /, h, s, *, saved_b=0.5):
    """Every way in which printed operations can need parentheses, and names like those of printed values."""
    new = t1 - (b - c_x) - (h - (b + s)) / (2 + s * s / (3 + b * b)) * -t1
    other = -(new + b) - product(tanh(new) * c_h) * (product(s) - 1e-3) + new / (1.5 * (1 + saved_b * saved_b))
    return where(other < new, sigmoid(other) * -2, (-other) ** 2), new * (other - new)


def sections(cell: Any) -> list[list[str]]:
    """The lines of each section, its title first."""
    return [part.splitlines() for part in mr.cells.explain(cell).removeprefix("# ").split("\n\n# ")]


def run(lines: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """The values after the lines, with h_new for h'."""
    for line in lines:
        if " = " in line:
            exec(line.replace("'", "_new").replace("^T", ".T"), values)
    return values


@pytest.mark.parametrize("name", [*mr.cells.names(), "operators"])
def test_printed_equations_compute_the_cell_and_its_gradients(name: str) -> None:
    cell = operators if name == "operators" else mr.cells.get(name)
    rng = np.random.default_rng(0)
    names = [*cell.gates, *cell.states, *cell.vectors]
    leaves = {n: mr.tensor(rng.normal(size=SIZE) + 1, requires_grad=True, dtype="float64") for n in names}
    weights = [mr.tensor(rng.normal(size=(SIZE, SIZE)), dtype="float64") for _ in range(cell.equations.products)]
    seeds = {f"d{state}_new": rng.normal(size=SIZE) for state in cell.states}
    values = [leaves[n] for n in (*cell.gates, *cell.states)]
    new = cell(*values, weights=weights, **{n: leaves[n] for n in cell.vectors})
    new = new if isinstance(new, tuple) else (new,)
    sum((state * seed).sum() for state, seed in zip(new, seeds.values(), strict=True)).backward()

    equations, saved, backward, *_ = (lines[1:] for lines in sections(cell))
    given = FUNCTIONS | {n: leaf.numpy() for n, leaf in leaves.items()}
    given |= {f"W{number}": weight.numpy() for number, weight in enumerate(weights)}
    computed = run(equations, dict(given))
    states = {f"{n}_new": state.numpy() for n, state in zip(cell.states, new, strict=True)}
    for n, value in states.items():
        np.testing.assert_allclose(computed[n], value, rtol=1e-10)
    computed = run(backward, run(saved, given | states | seeds))
    for n, leaf in leaves.items():
        gradient = np.zeros(SIZE) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(computed[f"d{n}"] + np.zeros(SIZE), gradient, rtol=1e-8, atol=1e-10, err_msg=f"d{n}")


def test_explanation_of_the_lstm() -> None:
    """The backward equations are those of Gers, Schmidhuber & Cummins 2000 by hand, d(sigmoid) = s (1 - s)."""
    equations, saved, backward, *source = sections("lstm")
    assert equations == ["lstm: equations", "c' = sigmoid(f) * c + sigmoid(i) * tanh(g)", "h' = sigmoid(o) * tanh(c')"]
    values = ["saved_f = sigmoid(f)", "saved_g = tanh(g)", "saved_i = sigmoid(i)", "saved_o = sigmoid(o)"]
    assert sorted(saved[1:]) == values
    assert backward[0].startswith("backward")
    assert backward[1:] == [
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
    assert [lines[0] for lines in source if "source" in lines[0]] == [
        "generated source, forward",
        "generated source, backward",
    ]
    text = mr.cells.explain("lstm")
    assert "def forward(thread_id, num_threads, " in text
    assert "def backward(thread_id, num_threads, " in text


def test_backward_section_uses_only_saved_values() -> None:
    """Gates whose own values are not saved are gone in the backward pass."""
    equations, saved, backward, *_ = (lines[1:] for lines in sections("gru"))
    assert equations == ["t1 = tanh(n_x + sigmoid(r) * n_h)", "h' = t1 + sigmoid(z) * (h - t1)"]
    assert saved == ["n_h", "saved_r = sigmoid(r)", "saved_n_x = tanh(n_x + saved_r * n_h)", "saved_z = sigmoid(z)"]
    assert backward == [
        "dh = dh' * saved_z",
        "dz = dh' * (h - saved_n_x) * saved_z * (1 - saved_z)",
        "dn_x = (dh' - dh) * (1 - saved_n_x * saved_n_x)",
        "dn_h = dn_x * saved_r",
        "dr = dn_x * n_h * saved_r * (1 - saved_r)",
        "dh += weight_hh^T @ (dr, dz, dn_h)",
    ]


def test_generated_source_is_valid_python() -> None:
    text = mr.cells.explain("peephole_lstm")
    for direction in ("forward", "backward"):
        source = text.split(f"# generated source, {direction}\n")[1].split("\n\n# ")[0]
        defined = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert defined[-1] == direction


def test_cell_without_recurrent_weights_has_no_product_in_backward() -> None:
    assert "weight_hh" not in mr.cells.explain("indrnn").split("# generated")[0]


def test_repr_shows_the_equations() -> None:
    expected = "<cell lstm: c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c')>"
    assert repr(mr.cells.get("lstm")) == expected
    assert repr(mr.cells.get("rnn")) == "<cell rnn: h' = tanh(a)>"
    assert repr(mr.nn.Recurrent("rnn", 3, 5, num_layers=2)) == "Recurrent(<cell rnn: h' = tanh(a)>, 3, 5, num_layers=2)"
