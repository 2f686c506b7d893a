"""``train-tagger``: a tag for every word."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from minirnn.models.body import Rates
from minirnn_cli import options as o
from minirnn_cli.training import Plan, training_command

_SHOWN = 12  # words of the sentence that is tagged now and then


@training_command(
    default_minutes=5, hidden=128, layers=1, bidirectional=True, dropout=0.5, batch_size=32, lr=4e-3
)  # fmt: skip
def train_tagger(
    data: Annotated[
        list[str],
        typer.Argument(help="Files with a word and its tags a line, a blank line between sentences; - is standard "
                            "input."),
    ],
    column: Annotated[int, typer.Option(help="Column of the tags; words are column 1, -1 is the last.")] = 2,
    val: Annotated[
        str | None, typer.Option(help="Validate with this file rather than with a part of the data.",
                                 rich_help_panel="Training")
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Rarer words are <unk>; they are still spelled.", rich_help_panel="Model")
    ] = 2,
    embeddings: o.Embeddings = None,
    freeze: o.Freeze = False,
    *, cell: str, hidden: int, layers: int, bidirectional: bool, dropout: float, batch_size: int, val_fraction: float,
    seed: int, **rates: Unpack[Rates],
) -> Plan:  # fmt: skip
    """Train a tagger of words (parts of speech, names) on tagged sentences; 5 minutes unless told otherwise.

    Writes best.safetensors, last.safetensors and metrics.jsonl to checkpoints/<data>/.
    """
    from minirnn.tasks.common import Line
    from minirnn.tasks.tagger import Sentences, Tagger, TaggerTask

    sentences = Sentences.read(data, column)
    validation = None if val is None else Sentences.read([val], column)
    task = TaggerTask(
        sentences, validation, hidden_size=hidden, num_layers=layers, cell=cell, bidirectional=bidirectional,
        dropout=dropout, batch_size=batch_size, min_count=min_count, embeddings=embeddings, freeze=freeze,
        column=column, val_fraction=val_fraction, seed=seed, **rates,
    )  # fmt: skip
    tagger = Tagger(task.model, task.words, task.characters, task.labels, column)
    shown = [Line(" ".join(task.validation[0][:_SHOWN]), "")]
    words = sum(map(len, sentences.words))
    vectors = f"; vectors for {task.found:,} of {len(task.words):,} words" if embeddings else ""
    return Plan(
        task, f"data: {len(sentences.words):,} sentences, {words:,} words, {len(task.labels)} tags{vectors}", "words",
        'minirnn predict {} "A sentence with spaces between its words ."', lambda: tagger.predict(shown)[0].text,
    )  # fmt: skip
