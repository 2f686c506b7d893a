"""A whole model out of a file of another program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from minirnn.autograd.tensor import DType
from minirnn.data.text import Characters
from minirnn.errors import CheckpointError, DataError
from minirnn.importing import read_parts
from minirnn.importing.parts import KINDS, Part, match
from minirnn.models import CharLM, ManyToMany
from minirnn.tasks.char import TextGenerator

ModelT = TypeVar("ModelT", CharLM, ManyToMany)


def read_vocabulary(path: str | Path) -> list[str]:
    """Return the characters of a model in the order of their tokens.

    Args:
        path: a ``.json`` file with a list of characters, or a mapping from characters to numbers or back; or the text
            that the model was trained on, whose different characters are sorted, as by ``sorted(set(text))``.

    Raises:
        DataError: the file cannot be read, or is something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return sorted(set(text))
        found = json.loads(text)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected UTF-8 text, or JSON in a .json file: {error}") from None
    if isinstance(found, dict):
        numbers = [*found.values()] if all(isinstance(value, int) for value in found.values()) else [*found]
        symbols = [*found] if numbers == [*found.values()] else [*found.values()]
        if sorted(map(str, numbers)) != sorted(map(str, range(len(found)))):
            raise DataError(f"{path}: expected the numbers from 0 to {len(found) - 1}, each for one character")
        found = [symbol for _, symbol in sorted(zip(map(int, numbers), symbols, strict=True))]
    if not isinstance(found, list) or not all(isinstance(one, str) and len(one) == 1 for one in found):
        raise DataError(f"{path}: expected a list of single characters, or a mapping between them and numbers")
    if len(set(found)) != len(found):
        raise DataError(f"{path}: expected different characters, got one more than once")
    return found


def import_model(
    path: str | Path, vocabulary: Sequence[str] | None = None, prefix: str = ""
) -> TextGenerator | ManyToMany:
    """Return the model in a file that has recurrent layers, a linear layer above them and, below, maybe an embedding.

    Args:
        path, prefix: as for :func:`minirnn.load_weights`.
        vocabulary: the characters of a character model, in the order of its tokens, which are embedded or one-hot.

    Returns:
        The character model, or without a vocabulary a :class:`~minirnn.models.ManyToMany`.

    Raises:
        CheckpointError: the file holds another model, or one of another vocabulary.
        OptionError: as for :func:`minirnn.load_weights`.
    """
    parts = read_parts(path, prefix)
    body, heads, tables = ([part for part in parts if part.kind == kind] for kind in KINDS)
    if not body or len(heads) != 1 or len(tables) > 1:
        found = ", ".join(f"{part.name} ({part.kind})" for part in parts)
        expected = "recurrent layers, one linear layer and at most one embedding"
        raise CheckpointError(f"{path}: expected {expected}, got {found}; load others by minirnn.load_weights")
    kinds = {(part.cells, len(part.arrays), part.arrays[0]["weight_hh"].shape[1]) for part in body}
    if len(kinds) > 1:
        raise CheckpointError(f"{path}: expected recurrent layers of one cell, one size and one or two directions")
    [(names, directions, units)] = kinds
    head = heads[0].arrays[0]
    table = tables[0].arrays[0]["weight"] if tables else None
    size, outputs = len(table) if table is not None else body[0].arrays[0]["weight_ih"].shape[1], len(head["weight"])
    dtype: DType = "float64" if head["weight"].dtype == np.float64 else "float32"
    if vocabulary is None:
        width = None if table is None else table.shape[1]
        sizes = size, units, outputs, len(body), names[0], directions == 2
        return _loaded(path, ManyToMany(*sizes, embedding_size=width, dtype=dtype), parts)
    if not size == outputs == len(vocabulary):
        shape = f"{size} characters in and {outputs} out" if size != outputs else f"{size} characters"
        raise CheckpointError(f"{path}: expected a vocabulary for {shape}, got {len(vocabulary)} characters")
    if directions > 1:
        raise CheckpointError(f"{path}: expected layers of one direction for a character model, got two")
    order = np.argsort([ord(character) for character in vocabulary])  # that of minirnn's vocabularies
    rows = (np.eye(size) if table is None else table)[order]
    sorted_head = {name: array[order] for name, array in head.items()}
    parts = [*body, Part("head", "linear", [sorted_head]), Part("table", "embedding", [{"weight": rows}])]
    model = _loaded(path, CharLM(size, units, len(body), names[0], rows.shape[1], dtype=dtype), parts)
    task = TextGenerator(model, Characters("".join(vocabulary[number] for number in order)))
    task._data = {}
    return task


def _loaded(path: str | Path, model: ModelT, parts: Sequence[Part]) -> ModelT:
    """The model with the weights of a file."""
    try:
        model.load_state_dict(match(model, parts, model.state_dict()))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return model
