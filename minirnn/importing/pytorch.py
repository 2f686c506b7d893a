"""State dicts of PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.checkpoint import read_arrays
from minirnn.errors import CheckpointError, OptionError
from minirnn.importing.parts import CELLS, Arrays, Part

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
_RECURRENT = re.compile(r"(?:(.*)\.)?(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d+)(_reverse)?")


def read(path: Path) -> Arrays:
    """Return the arrays of a file by their names.

    Raises:
        CheckpointError: it is damaged, or holds more than arrays. OptionError: PyTorch is not installed.
    """
    if path.suffix == ".safetensors":
        return read_arrays(path)
    try:
        import torch
    except ImportError:
        hint = "pip install torch, or save the state dict as .safetensors"
        raise OptionError(f"{path}: reading {path.suffix} needs PyTorch: {hint}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, from pickle, zip files and PyTorch itself
        what = str(error).strip().split("\n")[0]
        raise CheckpointError(f"PyTorch does not read it as weights alone: {what}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError("expected a state dict, as torch.save(model.state_dict(), ...) writes it")
    return {str(name): _as_array(tensor) for name, tensor in content.items()}


def _as_array(tensor: Any) -> np.ndarray:
    """The values, in float32 where NumPy does not know the type."""
    return (tensor.float() if tensor.element_size() < 4 else tensor).detach().numpy()


def _gates(arrays: Arrays) -> int:
    """The number of gates of a layer; 0 if its arrays are not those of one."""
    inner = arrays.get("weight_hr", arrays.get("weight_hh"))
    if inner is None or any(name not in arrays or arrays[name].ndim != 2 for name in ("weight_ih", "weight_hh")):
        return 0
    gates, rest = divmod(len(arrays["weight_hh"]), max(inner.shape[-1], 1))
    return 0 if rest or len(arrays["weight_ih"]) != len(arrays["weight_hh"]) else gates


def parts(state: Arrays, ordered: bool) -> list[Part]:
    """Return the layers of a state dict; arrays that belong to none are an error.

    Args:
        ordered: the arrays stand in the order in which the layers were made.
    """
    recurrent: dict[tuple[str, int], list[Arrays]] = {}
    others: dict[str, Arrays] = {}
    found: list[Part] = []
    for name, array in state.items():
        if one := _RECURRENT.fullmatch(name):
            module, parameter, layer, reverse = one.groups()
            directions = recurrent.setdefault((module or "", int(layer)), [{}, {}])
            directions[bool(reverse)][parameter] = array
        else:
            module, _, parameter = name.rpartition(".")
            others.setdefault(module, {})[parameter] = array
    for (module, layer), directions in recurrent.items():
        given = [arrays for arrays in directions if arrays]
        gates = {_gates(arrays) for arrays in given}
        if not directions[0] or len(gates) > 1 or not gates <= CELLS.keys():
            raise CheckpointError(
                f"{module}: expected weight_ih_l{layer} and weight_hh_l{layer} of an LSTM, GRU or RNN"
            )
        cells = CELLS[gates.pop()]
        found.append(Part(f"{module}.l{layer}", "recurrent", given, ("gru",) if "gru" in cells else cells, ordered))
    for module, arrays in others.items():
        weight, bias = arrays.get("weight"), arrays.get("bias")
        fits = weight is not None and weight.ndim == 2 and (bias is None or bias.shape == weight.shape[:1])
        if not fits or not arrays.keys() <= {"weight", "bias"}:
            names = ", ".join(f"{module}.{name} {list(array.shape)}" for name, array in arrays.items())
            raise CheckpointError(f"expected recurrent layers, linear layers and embeddings, got {names.lstrip('.')}")
        is_linear = "bias" in arrays or not re.search("emb|enc|lookup|wte", module, re.IGNORECASE)
        found.append(Part(module, "linear" if is_linear else "embedding", [arrays], ordered=ordered))
    return found
