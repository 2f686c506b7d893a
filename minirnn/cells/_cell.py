"""A cell made of a function: its parts from the signature, its graph by calling it once with symbols."""

from __future__ import annotations

import inspect
import linecache
import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, Self

from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.cells import _vocabulary as vocabulary
from minirnn.cells._vocabulary import Value
from minirnn.errors import CellError
from minirnn.kernels.equations import Equations, check_names, input_gates, recurrent_gates
from minirnn.kernels.graph import COMPARISONS, Graph, Node, ancestors, prune

Function = Callable[..., Value]
"""The equations of one unit in one step: from gates, states and vectors to the new states."""
Names = tuple[str, ...]


class Cell:
    """A recurrent cell: the equations of one unit in one step, from which all its kernels are generated.

    Made by the decorator :func:`minirnn.cell`, found by :func:`minirnn.cells.get`, or read from a checkpoint. Called on
    tensors it computes one step.

    Attributes:
        name: of the function.
        gates: pre-activations: ``i`` is W x + b + W' h + b'; of a gate n, ``n_x`` is W x + b and ``n_h`` W' h + b'.
        states: the first one is the output and what the recurrent weights W' multiply.
        vectors: learnt vectors with one number per unit, and their initial values.
        input_gates, recurrent_gates: gates with an input, a recurrent part: the order of weight_ih, weight_hh.
        equations: the graph; traced at its first use.
    """

    def __init__(
        self, name: str, gates: Names, states: Names, vectors: dict[str, float], function: Function | None
    ) -> None:
        self.name, self.gates, self.states, self.vectors = name, gates, states, dict(vectors)
        self.input_gates, self.recurrent_gates = input_gates(self.gates), recurrent_gates(self.gates)
        self._function = function
        self.__doc__ = inspect.getdoc(function) if function is not None else None

    @cached_property
    def equations(self) -> Equations:
        assert self._function is not None  # without a function, from_data has set the equations
        return _trace(self, self._function)

    def __call__(self, *values: Tensor, weights: Sequence[Tensor] = (), **vectors: Tensor) -> Any:
        """Compute one step.

        Args:
            values: the gates, then the states, in the order of the definition, each [N, H].
            weights, vectors: [H, H] for each ``product`` inside the step; [H] each, initial values where not given.

        Returns:
            The new state [N, H], or a tuple of them.

        Raises:
            CellError: the number of values, or of weights, does not fit.
        """
        names = self.gates + self.states
        if len(values) != len(names):
            raise CellError(f"{self.name}: expected {', '.join(names)}, got {len(values)} values")
        with vocabulary.product_weights(weights):
            if self._function is not None:
                new = _as_list(self._function(*values, **self.vectors | vectors))
            else:
                new = self._evaluate(dict(zip(names, values, strict=True)) | self.vectors | vectors)
        state = ops.as_tensor(values[-1])
        new = [vocabulary.expand(ops.as_tensor(one, state), state.shape) for one in new]
        return tuple(new) if len(new) > 1 else new[0]

    def _evaluate(self, values: dict[str, Any]) -> list[Value]:
        """Compute the graph on tensors, for a cell without a function."""
        results: dict[Node, Value] = {}
        for node in ancestors(self.equations.new):
            if node.op in ("gate", "state", "vector"):
                results[node] = values[node.key]
            elif node.op == "constant":
                results[node] = node.key
            elif node.op == "scalar":  # the number of units, the only one before equations are resolved
                results[node] = float(values[self.states[0]].shape[-1])
            else:
                function = _OPERATORS.get(node.op) or getattr(vocabulary, node.op)
                results[node] = function(*(results[operand] for operand in node.operands))
        return [results[node] for node in self.equations.new]

    def to_data(self) -> dict[str, Any]:
        """The graph as JSON-able data, from which :meth:`from_data` makes the cell without its function."""
        return self.equations.to_data()

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """A cell from :meth:`to_data`, or a :class:`CellError`; the data may come from an untrusted file."""
        equations = Equations.from_data(data)
        cell = cls(equations.name, equations.gates, equations.states, equations.vectors, None)
        cell.equations = equations
        return cell

    def __repr__(self) -> str:
        from minirnn.cells._explain import equations_text

        try:
            return f"<cell {self.name}: {'; '.join(equations_text(self.equations))}>"
        except CellError as error:  # of equations that cannot be traced
            return f"<cell {self.name}: {error}>"


_ARITHMETIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
_OPERATORS: dict[str, Function] = _ARITHMETIC | {"neg": operator.neg, "lt": operator.lt, "le": operator.le}


def _as_list(result: Value) -> list[Value]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def cell(function: Function) -> Cell:
    """Make a recurrent cell of a function from gates and states to new states, all of one unit.

    The function is called once with symbols; it may use arithmetic, comparisons in ``where``, and the functions of
    :mod:`minirnn.cells`.

    Args:
        function: gates stand before the ``/``, then states; learnt vectors after the ``*``, with their initial values.

    Raises:
        CellError: the signature is not that of a cell. Errors in the equations are raised at their first use.

    >>> import minirnn as mr
    >>> from minirnn.cells import sigmoid, tanh
    >>> @mr.cell
    ... def leaky(a, g, /, h):
    ...     return h + sigmoid(g) * (tanh(a) - h)
    >>> y, h_n = mr.nn.Recurrent(leaky, 3, 5)(mr.zeros(7, 2, 3))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    """
    name, code, kind = function.__name__, function.__code__, inspect.Parameter
    location = _location(code, code.co_firstlineno)
    parameters = inspect.signature(function).parameters
    by_kind: dict[Any, list[str]] = {kind: [] for kind in inspect._ParameterKind}
    for parameter in parameters.values():
        by_kind[parameter.kind].append(parameter.name)
    if by_kind[kind.VAR_POSITIONAL] or by_kind[kind.VAR_KEYWORD]:
        raise CellError(f"{name}, {location}: a cell takes no *args or **kwargs")
    vectors = {vector: parameters[vector].default for vector in by_kind[kind.KEYWORD_ONLY]}
    for vector, value in vectors.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise CellError(f"{name}, {location}: expected a number as the initial value of {vector}, as in {vector}=0")
    gates, states = tuple(by_kind[kind.POSITIONAL_ONLY]), tuple(by_kind[kind.POSITIONAL_OR_KEYWORD])
    try:
        check_names(name, gates, states, tuple(vectors))
    except CellError as error:
        raise CellError(f"{location}: {error}") from None
    return Cell(name, gates, states, {vector: float(value) for vector, value in vectors.items()}, function)


def _trace(cell: Cell, function: Function) -> Equations:
    """Call the function once with symbols; an error tells the line of the cell that it happened in."""
    graph, code = Graph(), function.__code__
    gates, states = ([graph.leaf(op, n) for n in names] for op, names in (("gate", cell.gates), ("state", cell.states)))
    vectors = {name: graph.leaf("vector", name) for name in cell.vectors}
    try:
        result = _as_list(function(*gates, *states, **vectors))
        if len(result) != len(states):
            raise CellError(f"expected a new value for each of {', '.join(cell.states)}, got {len(result)}")
        new = [graph.node(value) for value in result]
        if any(node.op in COMPARISONS for node in new):
            raise CellError("a comparison is no state: it belongs into where(condition, a, b)")
        reached = set(ancestors(new))
        for what, leaves in (("gate", gates), ("vector", vectors.values())):
            unused = [leaf.key for leaf in leaves if leaf not in reached]
            if unused:
                raise CellError(f"the {what} {unused[0]} is never used; leave it out of the parameters")
        if sum(node.op == "product" for node in reached) < graph.products:
            raise CellError("the result of a product is never used; leave it out")
    except Exception as error:
        line, trace = code.co_firstlineno, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == code.co_filename:
                line = trace.tb_lineno
            trace = trace.tb_next
        raise CellError(f"cell {cell.name}, {_location(code, line)}: {_explain_error(error)}") from None
    return Equations(cell.name, cell.gates, cell.states, cell.vectors, *prune(new))


def _location(code: CodeType, line: int) -> str:
    text = linecache.getline(code.co_filename, line).strip()
    while text.startswith("@"):  # a function's first line is that of its decorator
        line += 1
        text = linecache.getline(code.co_filename, line).strip()
    return f"line {line} of {Path(code.co_filename).name}" + (f" ({text})" if text else "")


def _explain_error(error: Exception) -> str:
    if isinstance(error, CellError):
        return str(error)
    if "ufunc" in str(error):
        return "NumPy called on a traced value; use the functions of minirnn.cells"
    if str(error).endswith("got Node"):
        return "a function of tensors called on a traced value; use the functions of minirnn.cells"
    if isinstance(error, NameError):
        return f"{error}; the functions of a cell's equations are imported from minirnn.cells"
    return f"{type(error).__name__}: {error}".replace("'Node'", "a traced value")
