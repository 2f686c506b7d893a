"""Files of Keras: ``.keras``, ``.weights.h5`` and the older ``.h5``. Nothing in them is executed."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.errors import CheckpointError, OptionError
from minirnn.importing.parts import CELLS, Arrays, Part, reorder

_MAX_CONFIG = 1 << 26
_OLD_NAMES = ("embeddings", "kernel", "recurrent_kernel", "bias")
"""Arrays of a layer in files that name them, in the order in which newer files number them."""
_DAMAGE: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
_DAMAGE += (RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What h5py, zipfile and json raise."""


def read(path: Path) -> list[Part]:
    """Return the layers of a file.

    Raises:
        CheckpointError: it is damaged, or has a layer that minirnn does not. OptionError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise OptionError(f"{path}: reading {path.suffix} needs h5py: pip install 'minirnn[keras]'") from None
    try:
        content, config = _unzipped(path) if path.suffix == ".keras" else (path.read_bytes(), None)
        with h5py.File(io.BytesIO(content)) as file:
            arrays = _arrays(h5py, file, len(content))
            link = file.get("model_weights", getlink=True)
            old = file["model_weights"] if isinstance(link, h5py.HardLink) else file
            layers = [_text(name) for name in old.attrs["layer_names"]] if "layer_names" in old.attrs else None
            if "model_config" in file.attrs:
                config = json.loads(file.attrs["model_config"])
        return _parts(arrays, layers, config)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"it is damaged, or no file of Keras: {error}") from None


def _parts(arrays: dict[str, np.ndarray], old_layers: list[str] | None, config: Any) -> list[Part]:
    """The layers that these arrays belong to."""
    rnns, order = _cells(config), _layer_names(config)
    parts: dict[str, Part] = {}
    for layer, values in _numbered(arrays, order) if old_layers is None else _named(arrays, old_layers):
        part, known = _part(layer, values, rnns), parts.get(layer)
        if known is not None:  # another direction
            if part.kind != "recurrent" or known.cells != part.cells or len(known.arrays) > 1:
                raise CheckpointError(f"{layer}: expected a single layer, got several in one")
            part = replace(known, arrays=known.arrays + part.arrays)
        parts[layer] = replace(part, ordered=old_layers is not None or layer.removesuffix("/layer") in order)
    return list(parts.values())


def _unzipped(path: Path) -> tuple[bytes, Any]:
    """The weights and the configuration inside a ``.keras`` file."""
    with zipfile.ZipFile(path) as archive:
        weights, config = archive.getinfo("model.weights.h5"), archive.getinfo("config.json")
        if weights.file_size > path.stat().st_size or config.file_size > _MAX_CONFIG:  # Keras does not compress
            raise ValueError("its contents are larger than the file")
        return archive.read(weights), json.loads(archive.read(config))


def _arrays(h5py: Any, file: Any, limit: int) -> dict[str, np.ndarray]:
    """The arrays stored in the file itself, by their paths; links are not followed."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
            if item.is_virtual or item.external:
                raise ValueError(f"{name} is not in the file itself")
            found[name] = item

    file.visititems(visit)
    if sum(item.nbytes for item in found.values()) > limit:
        raise ValueError("its arrays are larger than the file")
    return {name: item[()] for name, item in found.items()}


def _numbered(arrays: dict[str, np.ndarray], order: list[str]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The arrays of every layer and direction, ``layers/lstm_1/cell/vars/0``; layers sorted as in ``order``."""
    groups: dict[str, dict[int, np.ndarray]] = {}
    for name, array in arrays.items():
        owner, _, number = name.rpartition("/vars/")
        if number.isdigit() and not owner.startswith("optimizer") and "seed_generator" not in owner:
            groups.setdefault(owner, {})[int(number)] = array

    def key(owner: str) -> tuple[int, bool]:
        layer = owner.split("/")[1] if "/" in owner else owner
        return order.index(layer) if layer in order else len(order), "/backward_layer" in owner

    for owner in sorted(groups, key=key):
        layer = re.sub(r"(/(forward|backward)_layer)?(/cell)?$", "", owner)
        yield layer.removeprefix("layers/"), [groups[owner][number] for number in sorted(groups[owner])]


def _layer_names(config: Any) -> list[str]:
    """What the layers of a model are called in its weights: by their classes, as ``lstm``, ``lstm_1``."""
    names: list[str] = []
    counts: Counter[str] = Counter()
    layers = config["config"].get("layers", []) if isinstance(config, dict) else []
    for layer in layers:
        name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", str(layer["class_name"]))
        name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
        names.append(f"{name}_{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return names


def _named(arrays: dict[str, np.ndarray], layers: list[str]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """As :func:`_numbered`, of an older file: ``model_weights/lstm/.../lstm_cell/kernel:0``."""
    for layer in layers:
        groups: dict[str, dict[str, np.ndarray]] = {}
        for name, array in arrays.items():
            if name.removeprefix("model_weights/").startswith(f"{layer}/"):
                owner, _, parameter = name.partition(":")[0].rpartition("/")
                groups.setdefault(owner, {})[parameter] = array
        for owner in sorted(groups, key=lambda owner: "/backward_" in owner):
            if unknown := [name for name in groups[owner] if name not in _OLD_NAMES]:
                raise CheckpointError(f"{layer}: expected {', '.join(_OLD_NAMES)}, got {unknown[0]}")
            yield layer, [groups[owner][name] for name in _OLD_NAMES if name in groups[owner]]


def _cells(config: Any) -> tuple[str, ...]:
    """What a SimpleRNN of the model can be.

    Raises:
        CheckpointError: a recurrent layer computes what no cell of minirnn does.
    """
    if config is None:
        return CELLS[1]
    functions = set()
    for name, options in _recurrent_layers(config):
        expected: dict[str, tuple[Any, ...]] = {"activation": ("tanh", "relu") if name == "SimpleRNN" else ("tanh",)}
        expected |= {"recurrent_activation": ("sigmoid",), "go_backwards": (False,)}
        for option, values in expected.items():
            if options.get(option, values[0]) not in values:
                known = " or ".join(map(str, values))
                raise CheckpointError(f"{options.get('name', name)}: expected {option} {known}, got {options[option]}")
        functions |= {options.get("activation")} if name == "SimpleRNN" else set()
    if len(functions) > 1:
        raise CheckpointError("expected SimpleRNN layers of one activation, got tanh and relu")
    return ("rnn_relu",) if functions == {"relu"} else ("rnn",)


def _recurrent_layers(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and options of the recurrent layers in a configuration; of two directions those of the first."""
    if isinstance(config, dict):
        if config.get("class_name") in ("LSTM", "GRU", "SimpleRNN"):
            yield config["class_name"], config.get("config", {})
        config = [value for key, value in config.items() if key != "backward_layer"]
    for value in config if isinstance(config, list) else ():
        yield from _recurrent_layers(value)


def _part(layer: str, arrays: list[np.ndarray], rnns: tuple[str, ...]) -> Part:
    """The arrays of one layer, or of one of its directions, in minirnn's form."""
    shapes = [list(array.shape) for array in arrays]
    if len(arrays) > 1 and arrays[1].ndim == 2:
        return _recurrent(layer, arrays, rnns)
    if len(arrays) == 2 and arrays[0].ndim == 2 and shapes[1] == shapes[0][1:]:
        return Part(layer, "linear", [{"weight": arrays[0].T, "bias": arrays[1]}])
    if len(arrays) == 1 and arrays[0].ndim == 2:
        is_linear = "dense" in layer or "time_distributed" in layer
        return Part(
            layer, "linear" if is_linear else "embedding", [{"weight": arrays[0].T if is_linear else arrays[0]}]
        )
    raise CheckpointError(f"{layer}: expected an LSTM, GRU, SimpleRNN, Dense or Embedding, got arrays {shapes}")


def _recurrent(layer: str, arrays: list[np.ndarray], rnns: tuple[str, ...]) -> Part:
    """A recurrent layer: kernels [I, G H] and [H, G H], biases [G H], or [2, G H] of a GRU with ``reset_after``."""
    kernel, recurrent, *biases = arrays
    gates = recurrent.shape[1] // max(len(recurrent), 1)
    if gates not in CELLS or kernel.ndim != 2:
        raise CheckpointError(f"{layer}: expected an LSTM, GRU or SimpleRNN, got kernels of {gates} gates")
    order = (1, 0, 2) if gates == 3 else range(gates)  # z, r, h of a GRU; i, f, c, o of an LSTM
    made: Arrays = {"weight_ih": reorder(kernel.T, order), "weight_hh": reorder(recurrent.T, order)}
    cells = rnns if gates == 1 else CELLS[gates]
    for bias in biases:
        both = bias if bias.ndim == 2 else bias[None]
        made |= {name: reorder(one, order) for name, one in zip(("bias_ih", "bias_hh"), both, strict=False)}
        if gates == 3:
            cells = ("gru",) if len(both) == 2 else ("gru_reset_before",)
    return Part(layer, "recurrent", [made], cells)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
