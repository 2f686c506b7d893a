"""Lines of input: of a file, of standard input as they arrive, or of the text that was given."""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import cast

from minirnn.data.sources import normalize_newlines
from minirnn.errors import DataError
from minirnn.tasks import Line

_BATCH_SIZE = 256  # lines that are predicted together
_BLOCK = 1 << 20  # bytes of a pipe that are read together
_SUFFIXES = (".csv", ".gz", ".json", ".mid", ".npz", ".safetensors", ".ts", ".tsv", ".txt", ".wav")


def is_live(input: str) -> bool:
    """Whether lines may still be written while others are answered: standard input, or a pipe with a name."""
    return input == "-" or (os.path.exists(input) and not os.path.isfile(input))


def read_batches(input: str) -> Iterator[list[Line]]:
    """The lines of a file, of standard input, or of the text that ``input`` is, in batches."""
    if input == "-":
        if sys.stdin is None:
            raise DataError("standard input is closed; expected a file, a text, or lines on standard input")
        yield from _arriving(cast(io.BufferedReader, sys.stdin.buffer), "standard input")
    elif is_file(input):
        with open(input, "rb") as file:
            yield from _arriving(file, input) if is_live(input) else _in_batches(_decoded(file, input))
    else:
        yield [Line(line, "the text given") for line in _split(input)]


def is_file(input: str) -> bool:
    """Whether ``input`` is a file (or a pipe with a name), not a text; a DataError where it is a folder or no file."""
    if os.path.isdir(input):
        raise DataError(f"{input} is a folder; expected a file, or a text")
    if os.path.exists(input):  # not Path: it raises where a text is too long for a name
        return True
    named = input.lower().endswith(_SUFFIXES) or input.startswith(("/", "./", "../", "~"))
    if named and not any(map(str.isspace, input)):
        raise DataError(f"there is no file {input}")
    return False


def _in_batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    return iter(lambda: list(itertools.islice(lines, _BATCH_SIZE)), [])


def _arriving(file: io.BufferedReader, name: str) -> Iterator[list[Line]]:
    """The lines of a pipe in batches of those that have arrived; waits only while there is no whole line."""
    parts: list[bytes] = []  # of a line whose end has not arrived
    number = 0
    while block := file.read1(_BLOCK):  # one read: what is there
        whole, newline, rest = block.rpartition(b"\n")
        if newline:
            for batch in _in_batches(_decoded(b"".join([*parts, whole]).split(b"\n"), name, number)):
                number += len(batch)
                yield batch
            parts = []
        parts.append(rest)
    if last := b"".join(parts):
        yield list(_decoded([last], name, number))


def _decoded(raw_lines: Iterable[bytes], name: str, number: int = 0) -> Iterator[Line]:
    """Lines as text, with line ends and byte order marks as in training data; ``number`` were read before."""
    for raw in raw_lines:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number + 1}: byte {error.start} of the line is not UTF-8 text") from None
        for line in _split(text):
            number += 1
            yield Line(line, f"{name}:{number}")


def _split(text: str) -> list[str]:
    """Split at line ends of any kind, and at nothing else."""
    return normalize_newlines(text).removesuffix("\n").split("\n")
