"""``mr.cells.explain``: what is printed is what is computed; the printed equations are run to see it."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.cells import product, sigmoid, tanh, where

SIZE = 5
FUNCTIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(0, x),
    "sum": np.sum, "tanh": np.tanh,
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "where": np.where, "maximum": np.maximum, "minimum": np.minimum,
    "size": SIZE,
}  # fmt: skip


@mr.cell
def operators(t1, b, c_x, c_h, /, h, s, *, saved_b=0.5):
    """Every way in which printed operations can need parentheses, and names like those of printed values."""
    new = t1 - (b - c_x) - (h - (b + s)) / (2 + s * s / (3 + b * b)) * -t1
    other = -(new + b) - product(tanh(new) * c_h) * (product(s) - 1e-3) + new / (1.5 * (1 + saved_b * saved_b))
    return where(other < new, sigmoid(other) * -2, (-other) ** 2), new * (other - new)


def sections(cell: Any) -> list[list[str]]:
    """The lines of each section, without its title."""
    return [part.splitlines()[1:] for part in mr.cells.explain(cell).split("\n\n# ")]


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
    new = cell(
        *(leaves[n] for n in (*cell.gates, *cell.states)), weights=weights, **{n: leaves[n] for n in cell.vectors}
    )
    new = new if isinstance(new, tuple) else (new,)
    sum((state * seed).sum() for state, seed in zip(new, seeds.values(), strict=True)).backward()

    equations, kept, backward, *_ = sections(cell)
    given = FUNCTIONS | {n: leaf.numpy() for n, leaf in leaves.items()}
    given |= {f"W{number}": weight.numpy() for number, weight in enumerate(weights)}
    made = run(equations, dict(given))
    states = {f"{n}_new": state.numpy() for n, state in zip(cell.states, new, strict=True)}
    for n, value in states.items():
        np.testing.assert_allclose(made[n], value, rtol=1e-10)
    made = run(backward, run(kept, given | states | seeds))
    for n, leaf in leaves.items():
        gradient = np.zeros(SIZE) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(made[f"d{n}"] + np.zeros(SIZE), gradient, rtol=1e-8, atol=1e-10, err_msg=f"d{n}")


def test_backward_section_uses_only_what_is_kept() -> None:
    """Gates whose own values are not kept are gone when the backward pass comes."""
    equations, kept, backward, *_ = sections("gru")
    assert equations == ["t1 = tanh(n_x + sigmoid(r) * n_h)", "h' = t1 + sigmoid(z) * (h - t1)"]
    assert kept == ["n_h", "saved_r = sigmoid(r)", "saved_n_x = tanh(n_x + saved_r * n_h)", "saved_z = sigmoid(z)"]
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
    assert (
        repr(mr.cells.get("lstm"))
        == "<cell lstm: c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c')>"
    )
