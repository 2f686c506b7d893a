"""Layers of a file, and which layers of a module they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from minirnn.errors import CheckpointError
from minirnn.nn import Embedding, Linear, Recurrent
from minirnn.nn.module import Module

Kind = Literal["recurrent", "linear", "embedding"]
KINDS: tuple[Kind, ...] = ("recurrent", "linear", "embedding")
Arrays = dict[str, np.ndarray]

CELLS: dict[int, tuple[str, ...]] = {4: ("lstm",), 3: ("gru", "gru_reset_before"), 1: ("rnn", "rnn_relu")}
"""The cells that arrays with this number of gates can be of."""


@dataclass(frozen=True)
class Part:
    """One layer.

    Attributes:
        name: in the file. kind: of layer.
        arrays: in each direction: the parameters of :class:`minirnn.nn.Recurrent` by their names without the number of
            the layer (``weight_ih``, ..., gates in minirnn's order; of a GRU three gates in ``weight_hh``). Of other
            layers one mapping with ``weight`` and ``bias``.
        cells: names of the cells that it can be, as far as the file says.
        ordered: whether parts stand in the order in which they are computed.
    """

    name: str
    kind: Kind
    arrays: list[Arrays]
    cells: tuple[str, ...] = ()
    ordered: bool = True


def of_kind(parts: Sequence[Part], kind: Kind) -> list[Part]:
    """Return the parts of a kind in the order in which they are computed.

    Raises:
        CheckpointError: the file does not say in which, and their names differ by more than a number.
    """
    found = [part for part in parts if part.kind == kind]
    if len(found) < 2 or all(part.ordered for part in found):
        return found
    if len({re.sub(r"_?\d+", "", part.name) for part in found}) > 1:
        names = ", ".join(part.name for part in found)
        hint = "use names= (a state dict), or save the whole model as .keras or .pt"
        raise CheckpointError(f"the file does not say in which order its layers {names} come; {hint}")
    return sorted(found, key=lambda part: [int(number) for number in re.findall(r"\d+", part.name)])


def match(module: Module, parts: Sequence[Part], own: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays of a module by their names, from the layers of a file in their order.

    Args:
        own: the module's state dict. Biases that the file does not have are zeros.

    Raises:
        CheckpointError: the numbers of layers, cells or directions do not fit.
    """
    arrays: Arrays = {}
    for kind in KINDS:
        theirs, mine = of_kind(parts, kind), list(_targets(module, kind))
        if len(theirs) != len(mine):
            names = ", ".join(part.name for part in theirs)
            expected = f"{len(mine)} for {type(module).__name__}"
            raise CheckpointError(f"{kind} layers: expected {expected}, got {len(theirs)}{names and f': {names}'}")
        for part, (path, layer, rnn) in zip(theirs, mine, strict=True):
            suffix = "" if rnn is None else f"_l{layer}"
            if rnn is not None:
                _check(part, f"{path}layer {layer}", rnn)
            for direction, given in enumerate(part.arrays):
                ready = _reset_before(given) if rnn is not None and rnn.cell.name == "gru_reset_before" else given
                end = suffix + "_reverse" * direction
                arrays |= {f"{path}{name}{end}": array for name, array in ready.items()}
    missing = [name for name in own if name not in arrays and name.rpartition(".")[2].startswith("bias")]
    return arrays | {name: np.zeros_like(own[name]) for name in missing}


def _targets(module: Module, kind: Kind, path: str = "") -> Iterator[tuple[str, int, Recurrent | None]]:
    """The layers of a kind below a module: the prefix of their parameters and, of recurrent ones, number and module."""
    if isinstance(module, Recurrent):
        yield from ((path, layer, module) for layer in range(module.num_layers) if kind == "recurrent")
    elif isinstance(module, (Linear, Embedding)):
        yield from [(path, 0, None)] if kind == type(module).__name__.lower() else []
    for name, child in module.named_children():
        yield from _targets(child, kind, f"{path}{name}.")


def _check(part: Part, where: str, rnn: Recurrent) -> None:
    """Raise an error unless the cell and the directions of a layer are those of the module."""
    if rnn.cell.name not in part.cells:
        raise CheckpointError(f"{part.name}: expected the cell {rnn.cell.name} of {where}, got {part.cells[0]}")
    expected = 2 if rnn.bidirectional else 1
    if len(part.arrays) != expected:
        raise CheckpointError(f"{part.name}: expected {expected} directions as of {where}, got {len(part.arrays)}")


def _reset_before(arrays: Arrays) -> Arrays:
    """The arrays of a GRU as those of the cell whose reset gate is before the product."""
    weight = arrays["weight_hh"]
    size = weight.shape[1]
    made = arrays | {"weight_hh": weight[: 2 * size], "weight_product0": weight[2 * size :]}
    if "bias_hh" in arrays:  # both biases of n are added up
        bias = arrays["bias_hh"]
        rest = np.concatenate([np.zeros_like(bias[: 2 * size]), bias[2 * size :]])
        made |= {"bias_hh": bias[: 2 * size], "bias_ih": arrays["bias_ih"] + rest}
    return made


def reorder(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return the blocks of an array's rows, one per gate, in another order."""
    if len(array) % len(order):
        raise CheckpointError(f"expected {len(order)} gates, got an array {list(array.shape)}")
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[number] for number in order])
