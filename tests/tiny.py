"""A tiny run of every task: its data, how the command line and how the library train on it.

Everything that makes a run more than its weights is on: dropout of all kinds, tokens left out at random, scheduled
sampling, transpositions, vectors of words from a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirnn.data.lines import read_pairs
from minirnn.tasks.char import CharTask, read_corpus
from minirnn.tasks.classifier import ClassifierTask, read_texts
from minirnn.tasks.forecaster import ForecasterTask, Series
from minirnn.tasks.music import MusicTask, read_rolls
from minirnn.tasks.tagger import Sentences, TaggerTask
from minirnn.tasks.translator import TranslatorTask

VECTORS = "good 0.1 -0.2 0.3\nfilm 1 2 3\ndog 0 0 0.5\nbarks 0.2 0.1 -1\n"


@dataclass(frozen=True)
class Tiny:
    """One task.

    Attributes:
        name: of the file. data: what it holds. more: other data of the same kind, which a run is not to go on with.
        arguments: of the command, after the file.
        make: the library's task of the file; beside it lies ``vectors.txt``.
        changed: an option that changes the model or its data, and how a refusal names it.
    """

    name: str
    data: str
    more: str
    arguments: tuple[str, ...]
    make: Callable[[Path], Any]
    changed: tuple[str, ...]

    def write(self, folder: Path) -> Path:
        """The data, in a folder."""
        (folder / "vectors.txt").write_text(VECTORS, encoding="utf-8")
        path = folder / self.name
        path.write_text(self.data, encoding="utf-8")
        return path


def _pieces(count: int) -> str:
    return json.dumps([[[60 + k, 64 + k], [62 + k], [], [64 + k]] * (2 + k % 3) for k in range(count)])


def _table(rows: int) -> str:
    return "day,b,a\n" + "".join(f"d{n},{n * 53 % 7 - 3},{n * 37 % 11 + n / 8}\n" for n in range(rows))


_TEXT = "to be or not to be, that is the question.\n"
_REVIEWS = "a good film\tpos\nso very bad\tneg\nbad , bad !\tneg\nnot a bad film\tpos\nfine\tpos\n"
_TAGGED = "The\tDET\tx\ndog\tNOUN\ty\nbarks\tVERB\tx\n.\tPUNCT\ty\n\nIt\tPRON\tx\nbarks\tVERB\ty\n\n"
_PAIRS = "Go.\tVa !\nHe runs.\tIl court.\nHe goes.\tIl va.\nTom runs.\tTom court.\nI see.\tJe vois.\n"
_SIZE = ("--hidden", "6", "--batch-size", "8")

TASKS: dict[str, Tiny] = {
    "char": Tiny(
        "corpus.txt", _TEXT * 12, _TEXT * 13,
        (*_SIZE, "--layers", "2", "--seq-length", "8", "--zoneout", "0.1", "--weight-drop", "0.2"),
        lambda path: CharTask(*read_corpus([str(path)]), 6, 2, "lstm", 0.2, 8, 8, zoneout=0.1, weight_drop=0.2),
        ("--cell", "gru", "lstm"),
    ),
    "classifier": Tiny(
        "reviews.tsv", _REVIEWS * 9, _REVIEWS * 9 + "odd\tneg\n",
        (*_SIZE, "--embeddings", "vectors.txt", "--pooling", "attention", "--dropout", "0.3"),
        lambda path: ClassifierTask(
            *read_texts([str(path)]), embeddings=path.with_name("vectors.txt"), pooling="attention", hidden_size=6,
            dropout=0.3, batch_size=8,
        ),
        ("--pooling", "mean", "attention"),
    ),
    "tagger": Tiny(
        "tagged.tsv", _TAGGED * 12, _TAGGED * 11, (*_SIZE, "--embeddings", "vectors.txt"),
        lambda path: TaggerTask(
            Sentences.read([str(path)]), embeddings=str(path.with_name("vectors.txt")), hidden_size=6, batch_size=4,
        ),
        ("--column", "3", "2"),
    ),
    "translator": Tiny(
        "pairs.tsv", _PAIRS * 9, _PAIRS * 9 + "Go on.\tVa.\n",
        (*_SIZE, "--min-count", "1", "--schedule", "linear", "--embedding-size", "5"),
        lambda path: TranslatorTask(
            *read_pairs([str(path)]), min_count=1, hidden_size=6, embedding_size=5, schedule="linear", batch_size=8,
        ),
        ("--draw", "sequence", "step"),
    ),
    "forecaster": Tiny(
        "series.csv", _table(60), _table(61),
        (*_SIZE, "--layers", "2", "--seq-length", "6", "--dropout", "0.2", "--inputs", "b"),
        lambda path: ForecasterTask(
            Series.read(str(path), inputs=["b"]), 6, hidden_size=6, num_layers=2, dropout=0.2, batch_size=8,
        ),
        ("--column", "b", "None"),
    ),
    "music": Tiny(
        "tunes.json", _pieces(30), _pieces(29), (*_SIZE, "--seq-length", "7", "--dropout", "0.2"),
        lambda path: MusicTask(read_rolls(str(path)), 6, 1, "lstm", 0.2, 8, 7),
        ("--transpose", "1", "6"),
    ),
}  # fmt: skip
