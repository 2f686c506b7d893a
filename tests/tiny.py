"""A tiny run of every task: its data, how the command line and how the library train on it.

Everything that makes a run more than its weights is on: dropout of all kinds, tokens left out at random, scheduled
sampling, transpositions, vectors of words from a file.
"""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minirnn import tasks
from minirnn.config import OptionInfo

VECTORS = "good 0.1 -0.2 0.3\nfilm 1 2 3\ndog 0 0 0.5\nbarks 0.2 0.1 -1\n"


@dataclass(frozen=True)
class Tiny:
    """One task.

    Attributes:
        task: its name. name: of the file. data: its contents. more: other data, which a run must not be resumed with.
        options: of the task, by the names of its configuration.
    """

    task: str
    name: str
    data: str
    more: str
    options: dict[str, Any]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options on the command line, after the file."""
        flags = {name: info.flags[0] for name, info in tasks.TASKS[self.task].Config.options().items()}
        values = {
            name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in self.options.items()
        }
        return tuple(text for name, value in values.items() for text in (flags[name], value))

    def write(self, folder: Path) -> Path:
        """Write the data, ``vectors.txt`` and recordings to a folder."""
        (folder / "vectors.txt").write_text(VECTORS, encoding="utf-8")
        write_clips(folder)
        path = folder / self.name
        path.write_text(self.data, encoding="utf-8")
        return path

    def config(self, path: Path, **changed: Any) -> tasks.base.TaskConfig:
        """Return the configuration for data at ``path``, with some options changed."""
        options = self.options | changed
        for name, info in tasks.TASKS[self.task].Config.options().items():
            if info.is_data and options.get(name) is not None:
                options[name] = str(path.parent / options[name])
        return tasks.TASKS[self.task].Config.from_dict(options)

    def make(self, path: Path, **changed: Any) -> tasks.Task[Any, Any]:
        """Make the task of the file, with the same options but for those that are changed."""
        config = self.config(path, **changed)
        task = tasks.TASKS[self.task]
        return task.build(task.read([str(path)], config), config)


def write_clips(folder: Path) -> None:
    """Write six recordings, tones of different lengths, to the folder ``clips`` in another one."""
    (folder / "clips").mkdir(exist_ok=True)
    for number in range(6):
        tone = np.sin(2 * np.pi * (300 + 200 * number) * np.arange(800 + 50 * number) / 8000)
        with wave.open(str(folder / "clips" / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((tone * 9000).astype("<i2").tobytes())


def _pieces(count: int) -> str:
    return json.dumps([[[60 + k, 64 + k], [62 + k], [], [64 + k]] * (2 + k % 3) for k in range(count)])


def _table(rows: int) -> str:
    return "day,b,a\n" + "".join(f"d{n},{n * 53 % 7 - 3},{n * 37 % 11 + n / 8}\n" for n in range(rows))


def _sequences(count: int) -> str:
    """Sequences of two classes, of different lengths; some values are missing."""
    rows = (
        f"s{n},{n * 5 % 7 - t * (n % 2)},{'' if (n + t) % 9 == 0 else t * n * 3 % 5 / 2},{'ab'[n % 2]}\n"
        for n in range(count)
        for t in range(2 + n % 4)
    )
    return "id,x,y,kind\n" + "".join(rows)


_TEXT = "to be or not to be, that is the question.\n"
_REVIEWS = "a good film\tpos\nso very bad\tneg\nbad , bad !\tneg\nnot a bad film\tpos\nfine\tpos\n"
_TAGGED = "The\tDET\tx\ndog\tNOUN\ty\nbarks\tVERB\tx\n.\tPUNCT\ty\n\nIt\tPRON\tx\nbarks\tVERB\ty\n\n"
_PAIRS = "Go.\tVa !\nHe runs.\tIl court.\nHe goes.\tIl va.\nTom runs.\tTom court.\nI see.\tJe vois.\n"
_CLIPS = "".join(f"clips/{n}.wav\t{label}\n" for n, label in enumerate(["yes", "no"] * 3))
_SIZE = {"hidden_size": 6, "batch_size": 8}

TASKS: dict[str, Tiny] = {
    tiny.task: tiny
    for tiny in (
        Tiny(
            "char",
            "corpus.txt",
            _TEXT * 12,
            _TEXT * 13,
            {**_SIZE, "num_layers": 2, "seq_length": 8, "zoneout": 0.1, "weight_drop": 0.2},
        ),
        Tiny(
            "words",
            "speech.txt",
            _TEXT * 12,
            _TEXT * 13,
            {**_SIZE, "seq_length": 8, "min_count": 1, "recurrent_dropout": 0.1, "weight_drop": 0.2},
        ),
        Tiny(
            "classifier",
            "reviews.tsv",
            _REVIEWS * 9,
            _REVIEWS * 9 + "odd\tneg\n",
            {**_SIZE, "embeddings": "vectors.txt", "pooling": "attention", "dropout": 0.3},
        ),
        Tiny("tagger", "tagged.tsv", _TAGGED * 12, _TAGGED * 11, {**_SIZE, "embeddings": "vectors.txt"}),
        Tiny(
            "translator",
            "pairs.tsv",
            _PAIRS * 9,
            _PAIRS * 9 + "Go on.\tVa.\n",
            {**_SIZE, "min_count": 1, "schedule": "linear", "embedding_size": 5},
        ),
        Tiny(
            "forecaster",
            "series.csv",
            _table(60),
            _table(61),
            {**_SIZE, "num_layers": 2, "seq_length": 6, "dropout": 0.2, "inputs": ("b",)},
        ),
        Tiny("series", "sensors.csv", _sequences(30), _sequences(31), {**_SIZE, "id": "id", "pooling": "attention"}),
        Tiny("music", "tunes.json", _pieces(30), _pieces(29), {**_SIZE, "seq_length": 7, "dropout": 0.2}),
        Tiny(
            "speech",
            "clips.tsv",
            _CLIPS * 8,
            _CLIPS * 8 + "clips/0.wav\tno\n",
            {**_SIZE, "target": "label", "stack": 2, "bands": 5, "num_layers": 1},
        ),
    )
}

OTHER_DATA: dict[str, str] = {
    "char": "To be? Quite so, or not; a question!\n" * 15,
    "words": "To be? Quite so, or not; a question!\n" * 15,
    "classifier": "a good film\tpos\nso odd\tmeh\nodd , odd !\tmeh\na very odd film\tgrim\nnot fine\tpos\n" * 9,
    "tagger": "Old\tADJ\tx\ndogs\tNOUN\ty\nbark\tVERB\tx\n.\tPUNCT\ty\n\nIt\tPRON\tx\nbarks\tVERB\ty\n\n" * 12,
    "translator": "Go.\tPartez !\nShe runs.\tElle court.\nTom goes.\tTom va.\nWe see.\tNous voyons.\n" * 9,
    "forecaster": "day,x,c\n" + "".join(f"d{n},{n * 31 % 13},{n * 29 % 7 + n / 5}\n" for n in range(70)),
    "series": "id,x,y,kind\n" + "".join(f"{n},{n % 3},{n * t},{'bcd'[n % 3]}\n" for n in range(30) for t in range(3)),
    "speech": _CLIPS.replace("yes", "maybe") * 5,
    "music": "[[[50], [54, 57]], [[52], [], [50, 62]], [[40], [47, 52], [40]]]",
}
"""Data to fine-tune on, by the task: some words, characters and labels are new, and some known ones are missing."""


def other_value(option: str, info: OptionInfo, value: Any) -> Any:
    """Return another value for an option, one that changes a tiny run where the option has an effect."""
    special = {
        "cell": "mgu",
        "level": "char",
        "base": "last",
        "lower": value is False,
        "inputs": ("c",),
        "future": ("c",),
        "freeze": ("head",),
        "id": "x",
        "label": "y",
        "quantiles": "0.2,0.8",
        "rate": 16000,
        "target": next(
            (one for one in ("number", "transcript", "label") if one in info.choices and one != value), None
        ),
    }
    special |= {"val": "tagged.tsv", "embeddings": "vectors.txt", "column": 3 if info.types[0] is int else "b"}
    if option in special:
        return special[option]
    if info.choices:
        return next(choice for choice in info.choices if choice != value)
    if info.types[0] is bool:
        return not value
    return (value or 2) + 1 if info.types[0] is int else 0.25
