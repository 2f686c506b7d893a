"""The two implementations of a recurrent layer, side by side: fused kernels, and the readable cell step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minirnn as mr
from minirnn import nn
from minirnn.autograd import Tensor, ops
from minirnn.kernels import tile
from minirnn.kernels.build import build_function
from minirnn.kernels.cpu.kernel import FUNCTIONS
from minirnn.nn.state import pack_state, unpack_state
from minirnn.nn.unrolled import Unrolled

LENGTHS = [3, 0, 4, 1]
"""Of a batch of four; one sequence has no step at all."""

Run = Callable[[], tuple[Tensor, Sequence[Tensor]]]
"""Computes outputs and final states."""
Results = dict[str, np.ndarray]


def gradient(leaf: Tensor) -> np.ndarray:
    """Its gradient, zeros where it has none."""
    return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy().copy()


def make_layer(cell: Any, *sizes: Any, seed: int = 0, dtype: str = "float64", **options: Any) -> nn.Recurrent:
    """A layer whose parameters have left their initial values, so that each unit has its own."""
    mr.manual_seed(seed)
    layer, rng = nn.Recurrent(cell, *sizes, dtype=dtype, **options), np.random.default_rng(seed)
    for parameter in layer.parameters():
        parameter.data[...] += 0.3 * rng.standard_normal(parameter.shape)
    return layer


def make_states(layer: nn.Recurrent, batch: int, seed: int = 1) -> list[Tensor]:
    """Random initial states [L D, N, H]; that by which the sLSTM divides is positive."""
    rng, count = np.random.default_rng(seed), layer.num_layers * (2 if layer.bidirectional else 1)
    states = [rng.standard_normal((count, batch, layer.hidden_sizes[0])) for _ in layer.cell.states]
    if layer.cell.name == "slstm":
        states[2] = np.abs(states[2]) + 1
    return [mr.tensor(state, True, layer.dtype) for state in states]


def make_input(layer: nn.Recurrent, steps: int, batch: int, seed: int = 2) -> Tensor:
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    return mr.tensor(np.random.default_rng(seed).standard_normal((*shape, layer.input_size)), True, layer.dtype)


def make_batch(layer: nn.Recurrent, steps: int = 4, batch: int = 4) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """An input, initial states, and both by name."""
    x, states = make_input(layer, steps, batch), make_states(layer, batch)
    return x, states, {"x": x} | {f"state {n}": state for n, state in enumerate(states)}


def weighted_sum(outputs: Sequence[Tensor], seed: int = 3) -> Tensor:
    """A number that depends on every element of every output in its own way."""
    rng = np.random.default_rng(seed)
    total: Any = 0.0
    for output in outputs:
        total = total + (output * rng.standard_normal(output.shape).astype(output.dtype)).sum()
    return total


def fused(layer: nn.Recurrent, x: Any, states: Sequence[Any] = (), lengths: Any = None, seed: int | None = None) -> Run:
    """The layer itself, with its draws repeated where there is a seed."""

    def run() -> tuple[Tensor, Sequence[Tensor]]:
        if seed is not None:
            mr.manual_seed(seed)
        y, final = layer(x, pack_state(states), lengths=lengths)
        return y, unpack_state(final)

    return run


def readable_cell(layer: nn.Recurrent, number: int, direction: int) -> nn.RecurrentCell:
    """The cell of one layer and direction, with the layer's own parameters."""
    end, shape = f"_l{number}{'_reverse' if direction else ''}", layer._parameter("weight_ih", number, direction).shape
    cell = nn.RecurrentCell(layer.cell, shape[1], layer.hidden_sizes[number], layer.bias, layer.dtype)
    for name, _ in list(cell.named_parameters()):
        setattr(cell, name, getattr(layer, name + end))
    return cell


def unrolled(layer: nn.Recurrent, x: Tensor, states: Sequence[Any] = (), lengths: Any = None) -> tuple[Tensor, list]:
    """What the layer computes, by its cells in primitive operations: the outputs, and each state of every layer."""
    finals: list[tuple[Tensor, ...]] = []
    for number in range(layer.num_layers):
        outputs = []
        for direction in range(2 if layer.bidirectional else 1):
            steps = Unrolled(readable_cell(layer, number, direction), bool(direction), layer.batch_first)
            y, after = steps(x, pack_state([state[len(finals)] for state in states]), lengths)
            outputs.append(y)
            finals.append(unpack_state(after))
        below, x = x, outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, 2)
        if layer.residual and number > 0:
            x = x + below
    return x, list(zip(*finals, strict=True))


def values_and_gradients(layer: nn.Recurrent, run: Run, leaves: dict[str, Tensor]) -> Results:
    """Everything ``run`` returns, outputs and states, and the gradient of every leaf and every parameter."""
    leaves = leaves | dict(layer.named_parameters())
    for leaf in leaves.values():
        leaf.grad = None
    y, finals = run()
    weighted_sum([y, *finals]).backward()
    result = {"y": y.numpy().copy()} | {f"final {n}": final.numpy().copy() for n, final in enumerate(finals)}
    return result | {f"gradient of {name}": gradient(leaf) for name, leaf in leaves.items()}


def both_paths(
    layer: nn.Recurrent, steps: int = 4, batch: int = 4, lengths: Any = None, given: bool = True
) -> tuple[Results, Results]:
    """Values and gradients by fused kernels, and by the readable cells; ``given``: with initial states."""
    x, states, leaves = make_batch(layer, steps, batch)
    if not given:
        states, leaves = [], {"x": x}

    def readable() -> tuple[Tensor, list[Tensor]]:
        y, finals = unrolled(layer, x, states, lengths)
        return y, [ops.stack(list(parts)) for parts in finals]

    runs = fused(layer, x, states, lengths), readable
    return values_and_gradients(layer, runs[0], leaves), values_and_gradients(layer, runs[1], leaves)


def assert_equal_paths(ours: Results, expected: Results, tolerance: float, smallest: float = 1e-2) -> None:
    """Every value and every gradient, relative to the largest one of its array."""
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        assert ours[name].shape == array.shape, f"{name}: shape {ours[name].shape}, expected {array.shape}"
        assert np.isfinite(array).all(), f"{name} is not finite: the comparison would mean nothing"
        error = np.abs(ours[name] - array).max(initial=0) / max(np.abs(array).max(initial=0), smallest)
        assert error <= tolerance, f"{name}: relative error {error:.3g}\nours {ours[name]}\nexpected {array}"


def assert_same_bits(one: Results, two: Results) -> None:
    for name, array in one.items():
        assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(two[name], array, err_msg=name)


def assert_gradients_match_differences(
    layer: nn.Recurrent, lengths: Sequence[int] = (1, 0, 2), seed: int | None = None
) -> None:
    """Every gradient of a ragged batch of two steps, draws repeated where there is a seed."""
    x, states, _ = make_batch(layer, 2, len(lengths))
    run = fused(layer, x, states, lengths, seed)

    def loss(*_: Any) -> Tensor:
        y, finals = run()
        return weighted_sum([y, *finals])

    assert mr.gradcheck(loss, [x, *states, *layer.parameters()], atol=1e-7, rtol=1e-6)


# --------------------------------------------------------------------------------------- kernels as plain Python

PLAIN = {name: getattr(function, "py_func", function) for name, function in FUNCTIONS.items()}


def _multiply_add(a: Any, a_at: int, a_row: int, a_column: int, rows: int, *rest: Any) -> None:
    """Row by row, so that a row's numbers do not depend on who computes it, as with the compiled one."""
    panels, panels_at, panel_size, depth, c, c_at, c_row, columns = rest
    left, right = (a_row, a_column, 1, panels, panels_at, panel_size, depth, c), (c_row, columns)
    for r in range(rows):
        tile._multiply_add_plain(a, a_at + r * a_row, *left, c_at + r * c_row, *right)


PLAIN["multiply_add"] = _multiply_add
_built: dict[int, tuple[Any, Any]] = {}


def interpreted(kernel: Any) -> Any:
    """A kernel that runs as plain Python: its generated source is tested without the seconds that compiling takes."""
    if id(kernel) not in _built:
        names, function = dict(PLAIN), None
        for name, text in kernel.sources.items():
            names[name] = function = build_function(name, text, names, f"plain_{name}")
        _built[id(kernel)] = kernel, function  # with the kernel, or its id could become another's
    return np.errstate(all="ignore")(_built[id(kernel)][1])
