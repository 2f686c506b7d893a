"""The weights of a network as they are stored in a page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from minirnn.export.network import Network, arrays

_LARGEST = {"float16": 65504.0}


def stored_arrays(network: Network) -> dict[str, np.ndarray]:
    """Return every array of a network by its name, float32.

    Where it makes the page smaller, the first layer gets a ``table`` [V, G H] of its gates' input parts W_ih e + b_ih
    for every token, in place of embedding, weight_ih and bias_ih.
    """
    found = arrays(network)
    for name, layers in network.layers.items():
        if layers.embedding is None:
            continue
        row = layers.layers[0]
        tokens, size = layers.embedding.shape
        wide = sum(len(layer.weight_ih) for layer in row)
        one_hot = size == tokens and np.array_equal(layers.embedding, np.eye(tokens))
        if not one_hot and tokens * wide > (tokens + wide) * size:
            continue
        del found[f"layers.{name}.embedding"]
        for direction, layer in enumerate(row):
            prefix = f"layers.{name}.layers.0.{direction}"
            table = layers.embedding @ layer.weight_ih.T + (0 if layer.bias_ih is None else layer.bias_ih)
            found[f"{prefix}.table"] = table
            del found[f"{prefix}.weight_ih"]
            found.pop(f"{prefix}.bias_ih", None)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def pack(stored: dict[str, np.ndarray], int8: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return arrays as the page has them, and their values after rounding.

    Matrices are float16, or int8 with one scale for every row, max |row| / 127; vectors are float32.

    Returns:
        ``weights``, all in base64, and ``arrays``, a list of their ``name``, ``shape``, ``dtype``, ``offset`` in bytes
        and of int8 the offset ``scale`` of the scales, float32; and the rounded arrays by name.
    """
    descriptions, parts, rounded = [], list[bytes](), dict[str, np.ndarray]()
    position = 0

    def add(array: np.ndarray) -> int:
        nonlocal position
        data = array.tobytes() + bytes(-array.nbytes % 4)
        parts.append(data)
        position += len(data)
        return position - len(data)

    for name, array in stored.items():
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        largest = float(np.abs(array).max(initial=0))
        if array.ndim == 1 or largest > _LARGEST["float16"]:
            entry |= {"dtype": "float32", "offset": add(array)}
            rounded[name] = array
        elif int8:
            scale = (np.abs(array).max(1, keepdims=True, initial=0) / 127).astype(np.float32)
            whole = np.rint(array / np.where(scale > 0, scale, 1)).astype(np.int8)
            entry |= {"dtype": "int8", "scale": add(scale), "offset": add(whole)}
            rounded[name] = whole * scale
        else:
            half = array.astype(np.float16)
            entry |= {"dtype": "float16", "offset": add(half)}
            rounded[name] = half.astype(np.float32)
        descriptions.append(entry)
    return {"weights": base64.b64encode(b"".join(parts)).decode("ascii"), "arrays": descriptions}, rounded
