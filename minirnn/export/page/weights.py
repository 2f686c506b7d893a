"""The weights of a network as they are stored in a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.export.network import Network, arrays

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%()*+,-./:;=?@[]^_|~"
"""Of base 85: none that is written in another way in JSON or HTML."""
_MAX_HALF = 65504  # the largest float16


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


def encode(array: np.ndarray, int8: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an array as a page has it, and the scale of each row, float32, where it is int8.

    Matrices are float16, or int8 in steps of max |row| / 127; vectors, and what float16 cannot hold, are float32.
    """
    if array.ndim == 1 or np.abs(array).max(initial=0) > _MAX_HALF:
        return array.astype("<f4"), None
    if not int8:
        return array.astype("<f2"), None
    scale = (np.abs(array).max(1, keepdims=True, initial=0) / 127).astype("<f4")
    return np.rint(array / np.where(scale > 0, scale, 1)).astype(np.int8), scale


def rounded(array: np.ndarray, int8: bool) -> np.ndarray:
    """Return an array with the values that it has in a page, in its own dtype."""
    codes, scale = encode(array, int8)
    return (codes.astype(array.dtype) * (1 if scale is None else scale)).astype(array.dtype)


def pack(stored: dict[str, np.ndarray], int8: bool) -> dict[str, Any]:
    """Return arrays as the page has them.

    Returns:
        ``weights``, all in base 85, five of :data:`DIGITS` for four bytes, and ``arrays``, a list of their ``name``,
        ``shape``, ``dtype``, ``offset`` in bytes and, of int8, the offset ``scale`` of the scales.
    """
    descriptions, parts, position = [], list[bytes](), 0
    for name, array in stored.items():
        codes, scale = encode(array, int8)
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "dtype": codes.dtype.name}
        for key, values in (("offset", codes), ("scale", scale)):
            if values is not None:
                entry[key] = position
                parts.append(values.tobytes() + bytes(-values.nbytes % 4))  # float32 must begin at a multiple of 4
                position += len(parts[-1])
        descriptions.append(entry)
    numbers = np.frombuffer(b"".join(parts), ">u4").astype(np.uint32)
    digits = numbers[:, None] // np.array([85**4, 85**3, 85**2, 85, 1], np.uint32) % 85
    text = np.frombuffer(DIGITS.encode("ascii"), np.uint8)[digits].tobytes().decode("ascii")
    return {"weights": text, "arrays": descriptions}
