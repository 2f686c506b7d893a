"""An error in a cell is reported with the cell, the line, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import minirnn as mr
from minirnn import nn
from minirnn.cells import Cell, product
from minirnn.errors import CellError, OptionError, ShapeError

HEAD = "import math\nimport numpy as np\nimport minirnn as mr\nfrom minirnn.cells import *\n"
EQUATIONS = [  # parameters, body, the message; errors of the result are reported at the line of the `def`
    ("a, /, h", "return a if a > 0 else h", r"an `if`.*where\(condition, a, b\)"),
    ("a, /, h", "return where(a > 0 and a < 1, a, h)", r"`and`.*where\(condition, a, b\)"),
    ("a, /, h", "return selu(a) + h", "'selu' is not defined.*imported from minirnn.cells"),
    ("a, /, h", "return a + np.zeros(3) + h", "expected a scalar.*got ndarray.*one unit"),
    ("a, /, h", "return np.zeros(3) * a + h", "expected a scalar.*got ndarray.*one unit"),
    ("a, /, h", "return a + mr.zeros(3) + h", "expected a scalar.*got Tensor.*one unit"),
    ("a, /, h", "return np.tanh(a) + h", "NumPy.*use the functions of minirnn.cells"),
    ("a, /, h", "return math.tanh(a) + h", "used as a number.*use the functions of minirnn.cells"),
    ("a, /, h", "return mr.tanh(a) + h", "use the functions of minirnn.cells"),
    ("a, /, h", "return a.tanh() + h", r"no \.tanh; use the functions of minirnn.cells, such as tanh\(x\)"),
    ("a, /, h", "first, second = a; return first + second + h", "one scalar.*cannot be unpacked"),
    ("a, /, h", "return a[0] + h", "one scalar.*cannot be.*indexed"),
    ("a, /, h", "return (a > 0) * h", r"comparison.*where\(condition, a, b\)"),
    ("a, /, h", "return where(a, h, 0)", "expected a comparison such as x > 0"),
    ("a, /, h", "return where(a == 0, h, a)", "expected a.*comparison|comparison"),
    ("a, /, h", "return a**2.5 + h", r"x \*\* 2.5: expected an exponent.*write exp\(y \* log\(x\)\)"),
    ("a, /, h", "return a / 0 + h", "division by zero"),
    ("a, /, h", "return a * math.inf + h", "finite number, got inf"),
    ("a, /, h", "return a * log(-1.0) + h", "math domain error|not a number"),
    ("a, /, h", "return sum(sum(a)) + h", r"sum\(x\).*one value, not one per unit"),
    ("a, /, h", "for _ in range(5000): a = tanh(a)\n    return a + h", "more than 4096 operations"),
]
RESULTS = [
    ("a, /, h, c", "return a", "a new value for each of h, c, got 1"),
    ("a, /, h", "return a, h", "a new value for each of h, got 2"),
    ("a, /, h", "tanh(a)", "expected a scalar.*got NoneType"),
    ("a, b, /, h", "return tanh(a) + h", "the gate b is never used; leave it out"),
    ("a, /, h, *, u=1", "return tanh(a) + h", "the vector u is never used; leave it out"),
    ("a, /, h", "product(h); return a", "the result of a product is never used; leave it out"),
    ("a, /, h", "return a > h", r"comparison.*where\(condition, a, b\)"),
]
SIGNATURES = [
    ("a, /, h, *more", r"takes no \*args or \*\*kwargs"),
    ("a, /, h, **more", r"takes no \*args or \*\*kwargs"),
    ("a, /, h, *, u", "a number as the initial value of u, as in u=0"),
    ("a, /, h, *, u='1'", "a number as the initial value of u, as in u=0"),
    ("h", "at least one gate.*and one state"),
    ("a, /", "at least one gate.*and one state"),
    ("a_h, /, h", "at least one gate that reads the input"),
    ("a, /, h, *, weight_hh=1", "cannot be called weight_hh"),
]


def define(folder: Path, parameters: str, body: str) -> Any:
    """A function of a file, whose `def` is line 5."""
    file, values = folder / "mine.py", {}  # type: ignore[var-annotated]
    file.write_text(f"{HEAD}def wrong({parameters}):\n    {body}\n")
    exec(compile(file.read_text(), str(file), "exec"), values)
    return values["wrong"]


@pytest.mark.parametrize(
    ("line", "parameters", "body", "message"), [*((6, *case) for case in EQUATIONS), *((5, *case) for case in RESULTS)]
)
def test_error_in_equations_is_raised_at_first_use(
    tmp_path: Path, line: int, parameters: str, body: str, message: str
) -> None:
    cell = mr.cell(define(tmp_path, parameters, body))  # the equations are not read before they are used
    with pytest.raises(CellError) as caught:
        nn.Recurrent(cell, 3, 5)
    text = f"def wrong({parameters}):" if line == 5 else body.split("\n")[0]
    assert str(caught.value).startswith(f"cell wrong, line {line} of mine.py ({text}): ")
    assert re.search(message, str(caught.value))
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(("parameters", "message"), SIGNATURES)
def test_error_in_signature_is_raised_by_the_decorator(tmp_path: Path, parameters: str, message: str) -> None:
    with pytest.raises(CellError, match=message) as caught:
        mr.cell(define(tmp_path, parameters, "return 0"))
    assert "wrong" in str(caught.value)
    assert "line 5 of mine.py" in str(caught.value)


def test_vector_named_like_an_attribute_is_refused_by_the_module(tmp_path: Path) -> None:
    cell = mr.cell(define(tmp_path, "a, /, h, *, training=1", "return a * training"))
    with pytest.raises(OptionError, match="RecurrentCell: rename the vector training of wrong"):
        nn.RecurrentCell(cell, 3, 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mr.cells.get("lstm")(mr.zeros(2, 3)), CellError, "lstm: expected i, f, g, o, h, c, got 1 values"),
        (
            lambda: mr.cells.get("gru_reset_before")(*[mr.zeros(2, 3)] * 4),
            CellError,
            r"product\(x\).*weights=\[\.\.\.\]",
        ),
        (lambda: product(mr.zeros(2, 3)), CellError, r"product\(x\) of a tensor: expected its weights \[H, H\]"),
        (lambda: mr.cells.get("gru_reset_before")(*[mr.zeros(2, 3)] * 4, weights=[mr.zeros(4, 4)]), ShapeError, "4"),
        (
            lambda: mr.cells.get("nosuch"),
            OptionError,
            "one of coupled_lstm, gru, .*, or a function decorated by mr.cell",
        ),
        (lambda: nn.Recurrent("nosuch", 3, 5), OptionError, "got 'nosuch'"),
    ],
)
def test_wrong_call_of_a_cell_is_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


RATES = ("dropout", "zoneout", "recurrent_dropout", "weight_drop")
OPTIONS: list[tuple[Any, dict[str, Any], str]] = [
    *(("lstm", {name: rate}, f"{name}: expected a number of at least 0 and at most 1, got {rate}") for name in RATES for rate in (-0.1, 1.5)),
    *(("lstm", {name: float("nan")}, f"{name}: expected a number .*, got nan") for name in ("zoneout", "weight_drop")),
    ("lstm", {"recurrent_dropout_on": "output"}, "recurrent_dropout_on: expected one of state, update, got 'output'"),
    ("indrnn", {"recurrent_dropout": 0.2}, "indrnn has no recurrent weights; use recurrent_dropout_on='update'"),
    ("min_gru", {"weight_drop": 0.2}, "min_gru has no recurrent weights"),
    (
        Cell("bare", ("a",), ("h",), {}, lambda a, h: a),
        {"recurrent_dropout": 0.2, "recurrent_dropout_on": "update"},
        r"bare marks no update by dropout\(x\); use recurrent_dropout_on='state'",
    ),
    (
        "lstm",
        {"hidden_size": [5, 4], "num_layers": 2, "residual": True},
        r"residual needs layers of one size, got \[5, 4\]",
    ),
    ("lstm", {"hidden_size": [5, 4], "num_layers": 3}, r"expected 3 hidden sizes, one per layer, got \[5, 4\]"),
    ("lstm", {"hidden_size": [5, 0], "num_layers": 2}, "hidden_size"),
]


@pytest.mark.parametrize(("cell", "options", "message"), OPTIONS)
def test_options_out_of_range_or_without_meaning_are_refused(cell: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"Recurrent: {message}"):
        nn.Recurrent(cell, **{"input_size": 3, "hidden_size": 5} | options)


@pytest.mark.parametrize("count", [1, 5])
def test_wrong_number_of_states_is_refused(count: int) -> None:
    with pytest.raises(ShapeError, match=r"expected \(h_0, c_0, n_0, m_0\) as hx"):
        nn.Recurrent("slstm", 3, 5)(mr.zeros(4, 2, 3), (mr.zeros(1, 2, 5),) * count)
    with pytest.raises(ShapeError, match=r"expected \(h, c, n, m\) as state"):
        nn.RecurrentCell("slstm", 3, 5)(mr.zeros(2, 3), (mr.zeros(2, 5),) * count)


def test_states_of_layers_of_different_sizes_are_lists() -> None:
    layer = nn.Recurrent("lstm", 3, [5, 4], 2)
    with pytest.raises(ShapeError, match="a list of 2 states"):
        layer(mr.zeros(4, 2, 3), (mr.zeros(2, 2, 5), mr.zeros(2, 2, 5)))
    with pytest.raises(ShapeError, match=r"initial state \[2, 4\], got \[2, 5\]"):
        layer(mr.zeros(4, 2, 3), ([mr.zeros(2, 5)] * 2, [mr.zeros(2, 5), mr.zeros(2, 4)]))
