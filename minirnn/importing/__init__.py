"""Weights that other programs have trained: PyTorch's, Keras's and those of ONNX files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np

from minirnn.errors import CheckpointError, OptionError
from minirnn.importing import pytorch
from minirnn.importing.parts import KINDS, Part, match, of_kind
from minirnn.nn.module import Module

__all__ = ["load_weights", "read_parts"]

_READERS = {".keras": "keras", ".h5": "keras", ".onnx": "onnx"}
"""The module that reads files with this suffix; imported when there is one to read."""


def load_weights(module: Module, path: str | Path, prefix: str = "", names: Mapping[str, str] | None = None) -> None:
    """Load the weights of a PyTorch, Keras or ONNX file into a module.

    A state dict is taken name by name where its names are the module's, which they are for the layers of
    :mod:`minirnn.nn`, also with one common prefix (``lstm.`` for a bare LSTM, ``model.`` of Lightning). In all other
    cases the recurrent layers, linear layers and embeddings of the file are matched with those of the module, in their
    order; an LSTM of Keras, which has one bias, gets zeros as the other. Arrays are cast to the dtype of the module.

    Args:
        module: an ``nn.LSTM``, ``nn.Linear``, a model of ``minirnn.models``, or any other module.
        path: ``.safetensors``, ``.pt``, ``.pth`` or ``.ckpt`` (a state dict; the latter need PyTorch, which reads them
            with ``weights_only=True``), ``.keras`` or ``.h5`` (extra ``keras``), ``.onnx`` (extra ``onnx``).
        prefix: of a state dict: take only arrays whose names begin with it, without it.
        names: of a state dict: what arrays are called in the module, by their names in the file.

    Raises:
        CheckpointError: the file cannot be read, or does not fit: says which layer or array, what was expected and what
            is there. Nothing has been changed then.
        OptionError: the kind of file is unknown, or a package that reads it is not installed.

    >>> import minirnn as mr
    >>> mr.load_weights(mr.nn.LSTM(3, 5), "lstm.safetensors")  # doctest: +SKIP
    """
    path, own = _checked(path, prefix, names), module.state_dict()
    with _file_named(path):
        if reader := _reader(path):
            module.load_state_dict(match(module, reader(path), own))
            return
        state = _state_dict(path, prefix)
        if unknown := [name for name in names or () if name not in state]:
            raise CheckpointError(f"there is no array {unknown[0]}; it has {', '.join(state)}")
        state = {(names or {}).get(name, name): array for name, array in state.items()}
        columns = zip(*(name.split(".")[:-1] for name in state), strict=False)
        common = "".join(f"{column[0]}." for column in takewhile(lambda column: len(set(column)) == 1, columns))
        for given in (state, {name.removeprefix(common): array for name, array in state.items()}):
            if 2 * len(given.keys() & own.keys()) > len(own):
                module.load_state_dict(given)
                return
        module.load_state_dict(match(module, pytorch.parts(state, _is_ordered(path)), own))


def read_parts(path: str | Path, prefix: str = "") -> list[Part]:
    """Return the layers of a file, see :func:`load_weights`: recurrent layers, then linear ones, then embeddings."""
    path = _checked(path, prefix, None)
    with _file_named(path):
        reader = _reader(path)
        parts = reader(path) if reader else pytorch.parts(_state_dict(path, prefix), _is_ordered(path))
        return [part for kind in KINDS for part in of_kind(parts, kind)]


@contextmanager
def _file_named(path: Path) -> Iterator[None]:
    """Within, errors are told with the name of the file."""
    try:
        yield
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _checked(path: str | Path, prefix: str, names: Mapping[str, str] | None) -> Path:
    """Return the path of a file that is there, of a kind that can be read with these arguments."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: expected a file, got a folder")
    if path.suffix not in (*_READERS, *pytorch.SUFFIXES):
        raise OptionError(f"{path}: expected a file ending in one of {', '.join((*pytorch.SUFFIXES, *_READERS))}")
    if path.suffix in _READERS and (prefix or names):
        raise OptionError(
            f"{path}: prefix and names are for state dicts, files ending in {', '.join(pytorch.SUFFIXES)}"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    return path


def _reader(path: Path) -> Callable[[Path], list[Part]] | None:
    """Return what reads a file that is no state dict."""
    name = _READERS.get(path.suffix)
    return importlib.import_module(f"minirnn.importing.{name}").read if name else None


def _is_ordered(path: Path) -> bool:
    return path.suffix != ".safetensors"  # whose arrays are sorted by name


def _state_dict(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a state dict whose names begin with the prefix, without it."""
    state = pytorch.read(path)
    chosen = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
    if not chosen:
        begins = f" whose name begins with {prefix!r}; it has {', '.join(state)}" if prefix else ""
        raise CheckpointError(f"there is no array{begins}")
    return chosen
