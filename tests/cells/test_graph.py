"""A cell as data: reading gives back the same cell, and damaged data is refused or makes a cell that works."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from cell_paths import (
    LENGTHS,
    assert_equal_paths,
    assert_same_bits,
    both_paths,
    fused,
    make_input,
    make_layer,
    weighted_sum,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.cells import Cell, layer_norm, product, sigmoid, tanh, where, zoneout
from minirnn.errors import CellError, OptionError
from minirnn.kernels.cpu.kernel import kernels_of
from minirnn.kernels.jit import DISABLED
from minirnn.nn.state import unpack_state

NAMES = mr.cells.names()


def mixed(a, b_x, b_h, /, h, c, *, u=0.5, v=-1):  # type: ignore[no-untyped-def]
    """Something of everything that data can hold."""
    inner = product(layer_norm(a, u) * sigmoid(b_x))
    new = where(inner > b_h, zoneout(tanh(inner), h, 0.25), c * v)
    return new + product(inner), c + (a - b_h) / 3


MIXED = mr.cell(mixed)


def again(cell: Cell) -> Cell:
    """The cell as written to a file and read back."""
    return Cell.from_data(json.loads(json.dumps(cell.to_data())))


def sources(cell: Cell, training: bool = True) -> list[dict[str, str]]:
    """The text of all its generated functions."""
    return [kernel.sources for kernel in kernels_of(cell.equations.resolve(training), False)[1:]]


@pytest.mark.parametrize("cell", [*map(mr.cells.get, NAMES), MIXED], ids=[*NAMES, "mixed"])
def test_a_cell_comes_back_from_json_the_same(cell: Cell) -> None:
    copy = again(cell)
    assert (copy.name, copy.gates, copy.states, copy.vectors) == (cell.name, cell.gates, cell.states, cell.vectors)
    assert repr(copy) == repr(cell)
    assert copy.to_data() == cell.to_data()
    assert mr.cells.explain(copy) == mr.cells.explain(cell)
    for training in (True, False):
        assert sources(copy, training) == sources(cell, training), "the same kernels, so the same bits"
    assert mr.cells.get(cell.to_data()).gates == cell.gates


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_from_data_computes_the_same_on_tensors(name: str) -> None:
    """Its step is evaluated from the graph, for the function is not in the data."""
    cell = mr.cells.get(name)
    layer, copy = make_layer(cell, 3, 5), make_layer(again(cell), 3, 5)
    rng = np.random.default_rng(0)
    values = [mr.tensor(rng.standard_normal((2, 5)), dtype="float64") for _ in (*cell.gates, *cell.states)]
    if name == "slstm":
        values[-2] = values[-2] * values[-2] + 1.0
    weights = [getattr(layer, f"weight_product{k}_l0") for k in range(cell.equations.products)]
    vectors = {vector: getattr(layer, f"{vector}_l0") for vector in cell.vectors}
    new, by_graph = (unpack_state(c(*values, weights=weights, **vectors)) for c in (cell, copy.cell))
    for one, two in zip(new, by_graph, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=1e-13, atol=1e-15)


def test_a_layer_of_a_cell_from_data_gives_the_same_bits(plain_kernels: None) -> None:
    assert_same_bits(*(both_paths(make_layer(cell, 3, 5), lengths=LENGTHS)[0] for cell in (again(MIXED), MIXED)))
    layer = make_layer(again(MIXED), 3, 5)
    layer.eval()
    assert_equal_paths(*both_paths(layer), 1e-12)


@pytest.mark.parametrize("cell", [*map(mr.cells.get, NAMES), MIXED], ids=[*NAMES, "mixed"])
def test_generated_source_holds_no_name_of_a_cell(cell: Cell) -> None:
    """With all names replaced the generated source stays the same to the letter."""

    def foreign(name: str) -> str:
        return f"foreign_{name}"

    data = cell.to_data()
    renamed = data | {
        "name": "foreign",
        "gates": [foreign(gate) for gate in data["gates"]], "states": [foreign(state) for state in data["states"]],
        "vectors": {foreign(vector): value for vector, value in data["vectors"].items()},
        "nodes": [[op, foreign(rest[0])] if op in ("gate", "state", "vector") else [op, *rest]
                  for op, *rest in data["nodes"]],
    }  # fmt: skip
    both = sources(Cell.from_data(renamed)), sources(cell)
    assert both[0] == both[1]
    assert not any("foreign" in text for kernel in both[0] for text in kernel.values())


def test_data_that_is_not_a_cell_is_refused() -> None:
    data = MIXED.to_data()
    changes: list[dict[str, Any]] = [
        {"nodes": [["__import__", 0]]}, {"nodes": [["gate", "a; import os"]]}, {"gates": ["a; import os"]},
        {"name": "x\ny"}, {"states": []}, {"new": [0]}, {"new": [0, 10**9]}, {"vectors": {"u": float("nan")}},
        {"vectors": {"u": 1, "v": 10**400}}, {"nodes": [["constant", 0.5]] * 5000}, {"nodes": 3}, {"new": {}},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(CellError, match=r"description of a cell|expected|mixed|finite"):
            Cell.from_data(json.loads(json.dumps(data | change)) if "vectors" not in change else data | change)
    foreign: Any
    for foreign in (None, 3, [], "lstm", {}):
        with pytest.raises(CellError, match="description of a cell is damaged"):
            Cell.from_data(foreign)


@pytest.mark.parametrize(("node", "said"), [
    (["tanh"], "0 values with tanh"), (["add", 0], "1 values with add"), (["add", 0, 1, 2], "3 values with add"),
    (["zoneout", 0, 1], "2 values with zoneout"), (["product", 0], "1 values with product"),
    (["add", 0, 99], "node 99 before it is there"), (["add", 0, -1], "node -1 before"), (["add", 0, True], "node True"),
    (["add", 0, 0.5], "node 0.5"), (["lt", 0, 1], "one new value per state"), (["gate", "zz"], "no gate 'zz'"),
    (["scalar", "zoneout"], "damaged|values"), (["random", 0], "damaged|random"), (["mask", ""], "damaged|mask"),
    (["gradient", "h"], "damaged|gradient"), (["where", 0, 1, 1], "comparison"), (["spread", 0], "damaged|spread"),
])  # fmt: skip
def test_invalid_node_is_refused(node: list[Any], said: str) -> None:
    data = {
        "name": "damaged", "gates": ["a"], "states": ["h"], "vectors": {},
        "nodes": [["gate", "a"], ["state", "h"], node], "new": [2],
    }  # fmt: skip
    with pytest.raises(CellError, match=said):
        Cell.from_data(data)


def test_unused_products_in_data_are_left_out(plain_kernels: None) -> None:
    """The numbers of products in a file are indices into arrays: those that are left are counted from 0."""
    nodes = [["gate", "a"], ["state", "h"], ["product", 0, 7], ["product", 1, 3], ["add", 3, 0]]
    data = {"name": "x", "gates": ["a"], "states": ["h"], "vectors": {}, "nodes": nodes, "new": [4]}
    layer = make_layer(Cell.from_data(data), 2, 3)
    assert [name for name, _ in layer.named_parameters() if "product" in name] == ["weight_product0_l0"]
    assert_equal_paths(*both_paths(layer), 1e-12)


def test_a_deep_graph_makes_kernels_and_text(plain_kernels: None) -> None:
    nodes: list[list[Any]] = [["gate", "a"], ["state", "h"], ["constant", 0.5]]
    nodes += [["mul", n - 1, 1] if n % 2 else ["add", n - 1, 0] for n in range(3, 400)]
    data = {"name": "deep", "gates": ["a"], "states": ["h"], "vectors": {}, "nodes": nodes, "new": [len(nodes) - 1]}
    cell = Cell.from_data(data)
    assert mr.cells.explain(cell)
    assert repr(cell).startswith("<cell deep: ")
    layer = make_layer(cell, 2, 3)
    y, _ = layer(make_input(layer, 2, 2))
    y.sum().backward()


# ---------------------------------------------------------------------------------------------- damaged at random

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.floats(), st.text(max_size=4), st.just([]), st.just({}),
    st.sampled_from(["gate", "state", "vector", "constant", "scalar", "size", "add", "mul", "div", "sum", "product",
                     "where", "lt", "zoneout", "dropout", "exp", "log", "a", "b_x", "h", "c", "u", "random", "mask"]),
)  # fmt: skip


def paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every element of nested lists and dictionaries."""
    keys: Any = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    return [found for key in keys for found in ((*path, key), *paths(data[key], (*path, key)))]


@st.composite
def damaged(draw: Any) -> Any:
    """A cell's data with one to three elements replaced, removed, repeated or exchanged."""
    data = json.loads(json.dumps(draw(st.sampled_from([MIXED, mr.cells.get("peephole_lstm")])).to_data()))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(paths(data)))
        inside = data
        for key in path:
            inside = inside[key]
        action = draw(st.sampled_from(["replace", "remove", "repeat", "exchange"]))
        if action == "replace":
            inside[last] = draw(JUNK)
        elif action == "remove":
            del inside[last]
        elif isinstance(inside, list):
            other = draw(st.integers(0, len(inside) - 1))
            if action == "repeat":
                inside.insert(other, inside[last])
            else:
                inside[last], inside[other] = inside[other], inside[last]
    return data


@settings(max_examples=60 if DISABLED else 400)
@given(damaged())
def test_damaged_data_is_refused_or_makes_a_cell_that_works(plain_kernels: None, data: Any) -> None:
    try:
        cell = Cell.from_data(data)
    except CellError:
        return
    try:
        layer = mr.nn.Recurrent(cell, 2, 3, dtype="float64")
    except OptionError:
        assert set(cell.vectors) & set(dir(mr.nn.Recurrent)), data
        return
    assert repr(cell)
    assert mr.cells.explain(cell)
    for kernel in sources(cell):
        for text in kernel.values():
            assert not set(re.findall(r"[A-Za-z_]\w*", text)) & {"import", "exec", "eval", "open", "os", "sys"}
    with np.errstate(all="ignore"):
        x = make_input(layer, 2, 2)
        y, final = fused(layer, x)()
        weighted_sum([y, *final]).backward()
        assert y.shape == (2, 2, 3)
        mr.nn.Recurrent(cell, 2, 3, dtype="float64").eval()(x)
        mr.nn.RecurrentCell(cell, 2, 3, dtype="float64")(x[0])
    assert again(cell).to_data() == cell.to_data()
