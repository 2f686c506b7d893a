"""Fine-tuning: the weights of a trained model in one for other data, and parts of a model that are not trained."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from minirnn.data.vocabulary import Labels
from minirnn.errors import CheckpointError, OptionError
from minirnn.nn.module import Module
from minirnn.validation import check_choice


class Entries(Protocol):
    """A vocabulary: of tokens, characters, bytes or labels."""

    def entries(self) -> Iterable[Hashable]:
        """Return what the numbers 0, 1, ... stand for."""
        ...


class Indexed(NamedTuple):
    """A vocabulary, and the parts of a model that are indexed by its numbers.

    Attributes:
        vocabulary: what the numbers stand for.
        parts: prefixes of the names of parameters that have a row for each number; those of recurrent layers, which
            read one-hot tokens, a column.
    """

    vocabulary: Entries
    parts: Sequence[str]


def numbers_in(old: Entries, new: Entries) -> np.ndarray:
    """Return the number in ``old`` of each entry of ``new`` [V], int64; -1 where it has none."""
    numbers = {entry: number for number, entry in enumerate(old.entries())}
    return np.array([numbers.get(entry, -1) for entry in new.entries()], np.int64)


def count_new(old: Entries, new: Entries) -> tuple[int, int]:
    """Return how many entries of ``new`` are not in ``old``, and how many are; special tokens are not counted."""
    known, given = ({entry for entry in some.entries() if not isinstance(entry, int)} for some in (old, new))
    return len(given - known), len(given & known)


def merge_labels(old: Labels, new: Labels) -> Labels:
    """Return the labels of a fine-tuned model: of both; only ``new`` ones where none is known.

    Data to fine-tune on is often too small to show every label, so known ones stay, and those that do not occur become
    improbable in training. But where no label is known, the data asks another question, and no old label answers it.
    """
    return new if old.isdisjoint(new) else old.union(new)


def check_columns(option: str, known: Sequence[str], given: Sequence[str]) -> None:
    """Raise an :class:`OptionError` where ``option`` gives not as many columns as the trained model reads."""
    if len(given) != len(known):
        expected = f"{len(known)} columns, as the trained model reads ({', '.join(known)})"
        raise OptionError(f"{option}: expected {expected}, got {len(given)} ({', '.join(given)})")


def transfer(model: Module, source: Module, indexed: Iterable[tuple[Indexed, Entries]]) -> None:
    """Copy the weights of ``source`` to ``model``; rows of entries that ``source`` does not know keep their values.

    Args:
        model, source: of one architecture, with vocabularies of their own.
        indexed: the vocabularies of ``model`` and what they index, each with that of ``source``.

    Raises:
        CheckpointError: another parameter has another shape, or only one of the two has it; ``model`` is unchanged.
    """
    own, state = model.state_dict(), source.state_dict()
    for (vocabulary, parts), old in indexed:
        numbers = numbers_in(old, vocabulary)
        known = np.flatnonzero(numbers >= 0)
        for name in own.keys() & state.keys():
            if name.startswith(tuple(parts)):
                axis = 1 if ".rnn." in name else 0
                rows, given = (np.moveaxis(arrays[name], axis, 0) for arrays in (own, state))
                if rows.shape[1:] != given.shape[1:]:
                    sizes = f"expected rows of {given.shape[1]} numbers, as the trained model has, got {rows.shape[1]}"
                    raise CheckpointError(f"{name}: {sizes}")
                rows[known] = given[numbers[known]]
                state[name] = own[name]
    model.load_state_dict(state)


def freeze(model: Module, parts: Iterable[str]) -> None:
    """Let parts of a model not be trained: their parameters get no gradient.

    Args:
        parts: each a prefix of the dotted names of parameters, such as ``encoder`` or ``encoder.rnn``; or where no name
            begins like that, a component of names: ``rnn`` is ``body.rnn`` of a classifier, and both ``encoder.rnn``
            and ``decoder.rnn`` of a translator.

    Raises:
        OptionError: the model has no such part, or nothing is left to train.
    """
    named = {f"{name}.": parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
    for part in parts:
        chosen = [name for name in named if name.startswith(f"{part}.")]
        chosen = chosen or [name for name in named if f".{part}." in name]
        if not chosen:
            components = dict.fromkeys(word for name in named for word in name.split(".")[:-2])
            check_choice("freeze", part, (word for word in components if not word.isdigit()))
        for name in chosen:
            named[name].requires_grad = False
    if not any(parameter.requires_grad for parameter in named.values()):
        raise OptionError(f"freeze: nothing is left to train beside {', '.join(parts)}")
