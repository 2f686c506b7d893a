"""A mistake in a cell is told with the cell, the line, and what to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import nn
from minirnn.cells import Cell, log, product, sum, tanh, where
from minirnn.errors import CellError, OptionError, ShapeError

# ruff: noqa: F821 - a function that does not exist is one of the mistakes


def if_on_a_value(a, /, h):  # type: ignore[no-untyped-def]
    return a if a > 0 else h


def and_of_comparisons(a, /, h):  # type: ignore[no-untyped-def]
    return where(a > 0 and a < 1, a, h)


def unknown_function(a, /, h):  # type: ignore[no-untyped-def]
    return selu(a) + h  # type: ignore[name-defined]


def too_few_results(a, /, h, c):  # type: ignore[no-untyped-def]
    return a


def too_many_results(a, /, h):  # type: ignore[no-untyped-def]
    return a, h


def no_result(a, /, h):  # type: ignore[no-untyped-def]
    tanh(a)


def an_array(a, /, h):  # type: ignore[no-untyped-def]
    return a + np.zeros(3) + h


def an_array_on_the_left(a, /, h):  # type: ignore[no-untyped-def]
    return np.zeros(3) * a + h


def a_tensor(a, /, h):  # type: ignore[no-untyped-def]
    return a + mr.zeros(3) + h


def unused_gate(a, b, /, h):  # type: ignore[no-untyped-def]
    return tanh(a) + h


def unused_vector(a, /, h, *, u=1):  # type: ignore[no-untyped-def]
    return tanh(a) + h


def unused_product(a, /, h):  # type: ignore[no-untyped-def]
    product(h)
    return a


def numpy_function(a, /, h):  # type: ignore[no-untyped-def]
    return np.tanh(a) + h


def math_function(a, /, h):  # type: ignore[no-untyped-def]
    return math.tanh(a) + h


def function_of_tensors(a, /, h):  # type: ignore[no-untyped-def]
    return mr.tanh(a) + h


def method(a, /, h):  # type: ignore[no-untyped-def]
    return a.tanh() + h


def unpacked(a, /, h):  # type: ignore[no-untyped-def]
    first, second = a
    return first + second + h


def indexed(a, /, h):  # type: ignore[no-untyped-def]
    return a[0] + h


def comparison_as_a_number(a, /, h):  # type: ignore[no-untyped-def]
    return (a > 0) * h


def comparison_as_a_state(a, /, h):  # type: ignore[no-untyped-def]
    return a > h


def number_as_a_condition(a, /, h):  # type: ignore[no-untyped-def]
    return where(a, h, 0)


def equality(a, /, h):  # type: ignore[no-untyped-def]
    return where(a == 0, h, a)


def fractional_power(a, /, h):  # type: ignore[no-untyped-def]
    return a**2.5 + h


def division_by_zero(a, /, h):  # type: ignore[no-untyped-def]
    return a / 0 + h


def infinite_constant(a, /, h):  # type: ignore[no-untyped-def]
    return a * math.inf + h


def logarithm_of_a_negative_number(a, /, h):  # type: ignore[no-untyped-def]
    return a * log(-1.0) + h


def sum_of_a_sum(a, /, h):  # type: ignore[no-untyped-def]
    return sum(sum(a)) + h


def far_too_long(a, /, h):  # type: ignore[no-untyped-def]
    for _ in range(5000):
        a = tanh(a)
    return a + h


EQUATIONS: list[tuple[Callable[..., Any], str, str]] = [  # the function, its line, what is said of it
    (if_on_a_value, "return a if a > 0 else h", r"an `if`.*where\(condition, a, b\)"),
    (and_of_comparisons, "return where(a > 0 and a < 1, a, h)", r"`and`.*where\(condition, a, b\)"),
    (unknown_function, "return selu(a) + h", "'selu' is not defined.*imported from minirnn.cells"),
    (too_few_results, "def too_few_results", "a new value for each of h, c, got 1"),
    (too_many_results, "def too_many_results", "a new value for each of h, got 2"),
    (no_result, "def no_result", "expected a scalar.*got NoneType"),
    (an_array, "return a + np.zeros(3) + h", "expected a scalar.*got ndarray.*one unit"),
    (an_array_on_the_left, "return np.zeros(3) * a + h", "expected a scalar.*got ndarray.*one unit"),
    (a_tensor, "return a + mr.zeros(3) + h", "expected a scalar.*got Tensor.*one unit"),
    (unused_gate, "def unused_gate", "the gate b is never used; leave it out"),
    (unused_vector, "def unused_vector", "the vector u is never used; leave it out"),
    (unused_product, "def unused_product", "the result of a product is never used; leave it out"),
    (numpy_function, "return np.tanh(a) + h", "NumPy.*use the functions of minirnn.cells"),
    (math_function, "return math.tanh(a) + h", "used as a number.*use the functions of minirnn.cells"),
    (function_of_tensors, "return mr.tanh(a) + h", "use the functions of minirnn.cells"),
    (method, "return a.tanh() + h", r"no \.tanh; use the functions of minirnn.cells, such as tanh\(x\)"),
    (unpacked, "first, second = a", "one scalar.*cannot be unpacked"),
    (indexed, "return a[0] + h", "one scalar.*cannot be.*indexed"),
    (comparison_as_a_number, "return (a > 0) * h", r"comparison.*where\(condition, a, b\)"),
    (comparison_as_a_state, "def comparison_as_a_state", r"comparison.*where\(condition, a, b\)"),
    (number_as_a_condition, "return where(a, h, 0)", "expected a comparison such as x > 0"),
    (equality, "return where(a == 0, h, a)", "expected a.*comparison|comparison"),
    (fractional_power, "return a**2.5 + h", r"x \*\* 2.5: expected an exponent.*write exp\(y \* log\(x\)\)"),
    (division_by_zero, "return a / 0 + h", "division by zero"),
    (infinite_constant, "return a * math.inf + h", "finite number, got inf"),
    (logarithm_of_a_negative_number, "return a * log(-1.0) + h", "math domain error|not a number"),
    (sum_of_a_sum, "return sum(sum(a)) + h", r"sum\(x\).*one value, not one per unit"),
    (far_too_long, "a = tanh(a)", "more than 4096 operations"),
]


@pytest.mark.parametrize(("function", "line", "said"), EQUATIONS, ids=[case[0].__name__ for case in EQUATIONS])
def test_a_mistake_in_the_equations_is_told_at_their_first_use(
    function: Callable[..., Any], line: str, said: str
) -> None:
    cell = mr.cell(function)  # what is wrong with the equations is not known before they are used
    with pytest.raises(CellError) as caught:
        nn.Recurrent(cell, 3, 5)
    message = str(caught.value)
    number = re.search(rf"cell {function.__name__}, line (\d+) of test_errors\.py", message)
    assert number, message
    with open(__file__, encoding="utf-8") as file:
        assert file.readlines()[int(number[1]) - 1].strip().startswith(line), message
    assert line in message
    assert re.search(said, message), message
    assert isinstance(caught.value, TypeError)


def variable_gates(a, /, h, *more):  # type: ignore[no-untyped-def]
    return a


def variable_vectors(a, /, h, **more):  # type: ignore[no-untyped-def]
    return a


def vector_without_a_value(a, /, h, *, u):  # type: ignore[no-untyped-def]
    return a * u


def vector_of_text(a, /, h, *, u="1"):  # type: ignore[no-untyped-def]
    return a * u


def no_gate(h):  # type: ignore[no-untyped-def]
    return h


def no_state(a, /):  # type: ignore[no-untyped-def]
    return a


def no_gate_of_the_input(a_h, /, h):  # type: ignore[no-untyped-def]
    return a_h


def name_of_a_parameter(a, /, h, *, weight_hh=1):  # type: ignore[no-untyped-def]
    return a * weight_hh


SIGNATURES: list[tuple[Callable[..., Any], str]] = [
    (variable_gates, r"takes no \*args or \*\*kwargs"),
    (variable_vectors, r"takes no \*args or \*\*kwargs"),
    (vector_without_a_value, "a number as the initial value of u, as in u=0"),
    (vector_of_text, "a number as the initial value of u, as in u=0"),
    (no_gate, "at least one gate.*and one state"),
    (no_state, "at least one gate.*and one state"),
    (no_gate_of_the_input, "at least one gate that reads the input"),
    (name_of_a_parameter, "cannot be called weight_hh"),
]


@pytest.mark.parametrize(("function", "said"), SIGNATURES, ids=[case[0].__name__ for case in SIGNATURES])
def test_a_mistake_in_the_signature_is_told_by_the_decorator(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(CellError) as caught:
        mr.cell(function)
    message = str(caught.value)
    assert function.__name__ in message
    assert re.search(rf"line {function.__code__.co_firstlineno} of test_errors\.py", message), message
    assert re.search(said, message), message


def test_a_vector_with_the_name_of_an_attribute_is_refused_by_the_module() -> None:
    @mr.cell
    def own(a, /, h, *, training=1):  # type: ignore[no-untyped-def]
        return a * training

    with pytest.raises(OptionError, match="RecurrentCell: rename the vector training of own"):
        nn.RecurrentCell(own, 3, 5)


@pytest.mark.parametrize(("call", "error", "said"), [
    (lambda: mr.cells.get("lstm")(mr.zeros(2, 3)), CellError, "lstm: expected i, f, g, o, h, c, got 1 values"),
    (lambda: mr.cells.get("gru_reset_before")(*[mr.zeros(2, 3)] * 4), CellError, r"product\(x\).*weights=\[\.\.\.\]"),
    (lambda: product(mr.zeros(2, 3)), CellError, r"product\(x\) of a tensor: expected its weights \[H, H\]"),
    (lambda: mr.cells.get("gru_reset_before")(*[mr.zeros(2, 3)] * 4, weights=[mr.zeros(4, 4)]), ShapeError, "4"),
    (lambda: mr.cells.get("nosuch"), OptionError, "one of coupled_lstm, gru, .*, or a function decorated by mr.cell"),
    (lambda: nn.Recurrent("nosuch", 3, 5), OptionError, "got 'nosuch'"),
])  # fmt: skip
def test_a_wrong_call_of_a_cell_is_refused(call: Callable[[], Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize(("cell", "options", "said"), [
    *(("lstm", {name: rate}, f"{name}: expected a number of at least 0 and at most 1, got {rate}")
      for name in ("dropout", "zoneout", "recurrent_dropout", "weight_drop") for rate in (-0.1, 1.5)),
    *(("lstm", {name: float("nan")}, f"{name}: expected a number .*, got nan") for name in ("zoneout", "weight_drop")),
    ("lstm", {"recurrent_dropout_on": "output"}, "recurrent_dropout_on: expected one of state, update, got 'output'"),
    ("indrnn", {"recurrent_dropout": 0.2}, "indrnn has no recurrent weights; use recurrent_dropout_on='update'"),
    ("min_gru", {"weight_drop": 0.2}, "min_gru has no recurrent weights"),
    (Cell("bare", ("a",), ("h",), {}, lambda a, h: a), {"recurrent_dropout": 0.2, "recurrent_dropout_on": "update"},
     r"bare marks no update by dropout\(x\); use recurrent_dropout_on='state'"),
])  # fmt: skip
def test_rates_out_of_range_or_without_meaning_are_refused(cell: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=f"Recurrent: {said}"):
        nn.Recurrent(cell, 3, 5, **options)


@pytest.mark.parametrize(("size", "layers", "options", "said"), [
    ([5, 4], 2, {"residual": True}, r"residual needs layers of one size, got \[5, 4\]"),
    ([5, 4], 3, {}, r"expected 3 hidden sizes, one per layer, got \[5, 4\]"),
    ([5, 0], 2, {}, "hidden_size"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(size: list[int], layers: int, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=f"Recurrent: {said}"):
        nn.Recurrent("lstm", 3, size, layers, **options)


@pytest.mark.parametrize(("states", "said"), [
    (1, r"expected \(h_0, c_0, n_0, m_0\) as hx"), (5, r"expected \(h_0, c_0, n_0, m_0\) as hx")
])  # fmt: skip
def test_a_wrong_number_of_states_is_refused(states: int, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        nn.Recurrent("slstm", 3, 5)(mr.zeros(4, 2, 3), (mr.zeros(1, 2, 5),) * states)
    with pytest.raises(ShapeError, match=r"expected \(h, c, n, m\) as state"):
        nn.RecurrentCell("slstm", 3, 5)(mr.zeros(2, 3), (mr.zeros(2, 5),) * states)


def test_states_of_layers_of_different_sizes_come_as_lists() -> None:
    layer = nn.Recurrent("lstm", 3, [5, 4], 2)
    with pytest.raises(ShapeError, match="a list of 2 states"):
        layer(mr.zeros(4, 2, 3), (mr.zeros(2, 2, 5), mr.zeros(2, 2, 5)))
    with pytest.raises(ShapeError, match=r"initial state \[2, 4\], got \[2, 5\]"):
        layer(mr.zeros(4, 2, 3), ([mr.zeros(2, 5)] * 2, [mr.zeros(2, 5), mr.zeros(2, 4)]))
