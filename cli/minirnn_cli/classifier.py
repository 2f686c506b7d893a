"""``train-classifier``: a label for a whole text."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Unpack

import typer

from minirnn.models.body import Rates
from minirnn_cli import options as o
from minirnn_cli.training import Plan, training_command

LevelName = StrEnum("LevelName", ["auto", "word", "char"])
PoolingName = StrEnum("PoolingName", ["last", "mean", "max", "attention"])


@training_command(default_minutes=3, hidden=128, layers=1, bidirectional=True, dropout=None, batch_size=64, lr=1e-3)
def train_classifier(
    data: Annotated[
        list[str],
        typer.Argument(help="Files with a text, a tab and its label a line (- is standard input), or a folder with a "
                            "file for every label and a text a line."),
    ],
    level: Annotated[
        LevelName, typer.Option(help="Read words or characters; auto: characters where the average text is shorter "
                                     "than 2 words.", rich_help_panel="Model")
    ] = LevelName.auto,
    lower: Annotated[
        bool | None, typer.Option("--lower/--keep-case", help="Lower-case the texts; words are, characters are not, "
                                                              "where neither is given.", rich_help_panel="Model")
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Rarer words (or characters) are <unk>.", rich_help_panel="Model")
    ] = 1,
    max_words: Annotated[
        int | None, typer.Option(min=1, help="How many words are known, the most frequent ones; all unless given.",
                                 rich_help_panel="Model")
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=1, help="Words of a text that are read; the rest is left out.", rich_help_panel="Model")
    ] = 500,
    pooling: Annotated[
        PoolingName, typer.Option(help="What stands for the text: the last state, or the mean, the maximum or a "
                                       "learned mean over all steps.", rich_help_panel="Model")
    ] = PoolingName.max,
    embedding_size: Annotated[
        int | None, typer.Option(min=1, max=o.MOST_UNITS, help="Numbers for a word; 100, or 32 for a character, unless "
                                                               "given.", rich_help_panel="Model")
    ] = None,
    embeddings: o.Embeddings = None,
    freeze: o.Freeze = False,
    *, cell: str, hidden: int, layers: int, bidirectional: bool, dropout: float | None, batch_size: int,
    val_fraction: float, seed: int, **rates: Unpack[Rates],
) -> Plan:  # fmt: skip
    """Train a classifier of texts (sentiment, language, topic); 3 minutes unless told otherwise.

    Dropout is 0.6 for words and 0.3 for characters unless given.
    Writes best.safetensors, last.safetensors and metrics.jsonl to checkpoints/<data>/.
    """
    from minirnn.tasks.classifier import ClassifierTask, read_texts

    texts, labels, where = read_texts(data)
    task = ClassifierTask(
        texts, labels, where, level=level, lower=lower, min_count=min_count, max_words=max_words,
        max_length=max_length, pooling=pooling, embedding_size=embedding_size, embeddings=embeddings, freeze=freeze,
        hidden_size=hidden, num_layers=layers, cell=cell, bidirectional=bidirectional, dropout=dropout,
        batch_size=batch_size, val_fraction=val_fraction, seed=seed, **rates,
    )  # fmt: skip
    return Plan(task, f"data: {task.summary}", "texts", "minirnn predict {} 'a text'")
