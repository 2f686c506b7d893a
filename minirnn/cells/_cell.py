"""A cell made of a function: its parts from the signature, its graph by one call with symbols."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, Self

from minirnn.autograd import ops
from minirnn.cells import _vocabulary as vocabulary
from minirnn.errors import CellError
from minirnn.kernels.equations import Equations, check_names, input_gates, recurrent_gates
from minirnn.kernels.graph import COMPARISONS, Graph, Node, ancestors, prune


class Cell:
    """A recurrent cell: the equations of one unit in one step, from which all its kernels are generated.

    Made by the decorator :func:`minirnn.cell`, found by :func:`minirnn.cells.get`, or read from a checkpoint. Called on
    tensors it computes one step.

    Attributes:
        name: of the function.
        gates: pre-activations: ``i`` is W x + b + W' h + b'; of a gate n, ``n_x`` is W x + b and ``n_h`` W' h + b'.
        states: the first one is the output and what the recurrent weights W' multiply.
        vectors: learnt vectors with one number per unit, and their initial values.
        input_gates, recurrent_gates: gates with an input part, and with a recurrent part: the order of weight_ih and
            weight_hh.
        equations: the graph; traced at its first use.
    """

    def __init__(
        self, name: str, gates: Sequence[str], states: Sequence[str], vectors: dict[str, float],
        function: Callable[..., Any] | None, equations: Equations | None = None,
    ) -> None:  # fmt: skip
        self.name, self.gates, self.states, self.vectors = name, tuple(gates), tuple(states), dict(vectors)
        self.input_gates, self.recurrent_gates = input_gates(self.gates), recurrent_gates(self.gates)
        self._function = function
        self.__doc__ = inspect.getdoc(function) if function is not None else None
        if equations is not None:
            self.equations = equations

    @cached_property
    def equations(self) -> Equations:
        return _trace(self)

    def __call__(self, *values: Any, weights: Sequence[Any] = (), **vectors: Any) -> Any:
        """One step on tensors [N, H]: the gates, then the states, in the order of the definition.

        Args:
            weights: [H, H] for each ``product`` inside the step.
            vectors: [H] each; initial values where they are not given.

        Returns:
            The new state, or a tuple of them.
        """
        if len(values) != len(self.gates) + len(self.states):
            raise CellError(f"{self.name}: expected {', '.join(self.gates + self.states)}, got {len(values)} values")
        with vocabulary.product_weights(weights):
            if self._function is not None:
                result = self._function(*values, **self.vectors | vectors)
                new = list(result) if isinstance(result, (tuple, list)) else [result]
            else:
                new = self._evaluate(dict(zip(self.gates + self.states, values, strict=True)) | self.vectors | vectors)
        state = ops.as_tensor(values[-1])
        new = [vocabulary.spread(ops.as_tensor(one, state), state.shape) for one in new]
        return tuple(new) if len(new) > 1 else new[0]

    def _evaluate(self, values: dict[str, Any]) -> list[Any]:
        """The graph on tensors, for a cell without a function."""
        made: dict[Node, Any] = {}
        for node in ancestors(self.equations.new):
            operands = [made[operand] for operand in node.operands]
            if node.op in ("gate", "state", "vector"):
                made[node] = values[node.key]
            elif node.op == "constant":
                made[node] = node.key
            elif node.op == "scalar":  # the number of units, the only one before equations are resolved
                made[node] = float(values[self.states[0]].shape[-1])
            else:
                made[node] = _ON_TENSORS[node.op](*operands)
        return [made[node] for node in self.equations.new]

    def to_data(self) -> dict[str, Any]:
        """The graph as JSON-able data, from which :meth:`from_data` makes the cell without its function."""
        return self.equations.to_data()

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """A cell from :meth:`to_data`; the data may come from an untrusted file.

        Raises:
            CellError: the data does not describe a cell.
        """
        equations = Equations.from_data(data)
        return cls(equations.name, equations.gates, equations.states, equations.vectors, None, equations)

    def __repr__(self) -> str:
        from minirnn.cells._explain import equations_text

        try:
            return f"<cell {self.name}: {'; '.join(equations_text(self.equations))}>"
        except CellError as error:  # of equations that cannot be traced
            return f"<cell {self.name}: {error}>"


_ON_TENSORS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "neg": lambda a: -a, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    **{name: getattr(vocabulary, name) for name in (
        "where", "minimum", "maximum", "abs", "relu", "sqrt", "exp", "log", "log1p", "tanh", "sigmoid", "erf",
        "softplus", "sum", "product", "zoneout", "dropout",
    )},
}  # fmt: skip


def cell(function: Callable[..., Any]) -> Cell:
    """Make a recurrent cell of a function from gates and states to new states, all of one unit.

    Gates stand before the ``/``, then states, learnt vectors after the ``*`` with their initial values. The function is
    called once with symbols; use arithmetic, comparisons in ``where``, and the functions of :mod:`minirnn.cells`.

    Raises:
        CellError: the signature is not that of a cell. What is wrong with the equations is told at their first use.

    >>> import minirnn as mr
    >>> from minirnn.cells import sigmoid, tanh
    >>> @mr.cell
    ... def leaky(a, g, /, h):
    ...     return h + sigmoid(g) * (tanh(a) - h)
    >>> y, h_n = mr.nn.Recurrent(leaky, 3, 5)(mr.zeros(7, 2, 3))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    """
    parameters = inspect.signature(function).parameters
    named: dict[Any, list[str]] = {kind: [] for kind in inspect._ParameterKind}
    for name, parameter in parameters.items():
        named[parameter.kind].append(name)
    kind, where = inspect.Parameter, _place(function.__code__, function.__code__.co_firstlineno)
    name = function.__name__
    if named[kind.VAR_POSITIONAL] or named[kind.VAR_KEYWORD]:
        raise CellError(f"{name}, {where}: a cell takes no *args or **kwargs")
    vectors = {vector: parameters[vector].default for vector in named[kind.KEYWORD_ONLY]}
    for vector, value in vectors.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise CellError(f"{name}, {where}: expected a number as the initial value of {vector}, as in {vector}=0")
    gates, states = named[kind.POSITIONAL_ONLY], named[kind.POSITIONAL_OR_KEYWORD]
    try:
        check_names(name, tuple(gates), tuple(states), tuple(vectors))
    except CellError as error:
        raise CellError(f"{where}: {error}") from None
    return Cell(name, gates, states, {vector: float(value) for vector, value in vectors.items()}, function)


def _trace(made: Cell) -> Equations:
    """Call the function once with symbols."""
    function, graph = made._function, Graph()
    assert function is not None
    gates, states = ([graph.leaf(op, n) for n in names] for op, names in (("gate", made.gates), ("state", made.states)))
    vectors = {name: graph.leaf("vector", name) for name in made.vectors}
    code, line = function.__code__, function.__code__.co_firstlineno
    try:
        result = function(*gates, *states, **vectors)
        listed = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(listed) != len(states):
            raise CellError(f"expected a new value for each of {', '.join(made.states)}, got {len(listed)}")
        new = [graph.node(value) for value in listed]
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
        found, trace = line, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == code.co_filename:
                found = trace.tb_lineno
            trace = trace.tb_next
        raise CellError(f"cell {made.name}, {_place(code, found)}: {_explained(error)}") from None
    return Equations(made.name, made.gates, made.states, made.vectors, *prune(new))


def _place(code: CodeType, line: int) -> str:
    text = linecache.getline(code.co_filename, line).strip()
    while text.startswith("@"):  # a function's first line is that of its decorator
        line += 1
        text = linecache.getline(code.co_filename, line).strip()
    return f"line {line} of {Path(code.co_filename).name}" + (f" ({text})" if text else "")


def _explained(error: Exception) -> str:
    if isinstance(error, CellError):
        return str(error)
    if "ufunc" in str(error):
        return "NumPy called on a traced value; use the functions of minirnn.cells"
    if str(error).endswith("got Node"):
        return "a function of tensors called on a traced value; use the functions of minirnn.cells"
    if isinstance(error, NameError):
        return f"{error}; the functions of a cell's equations are imported from minirnn.cells"
    return f"{type(error).__name__}: {error}".replace("'Node'", "a traced value")
