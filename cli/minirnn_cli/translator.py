"""``train-translator``: sentences into sentences of another length."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Unpack

import typer

from minirnn.models.body import Rates
from minirnn_cli import options as o
from minirnn_cli.training import Plan, training_command

LevelName = StrEnum("LevelName", ["word", "char"])
AttentionName = StrEnum("AttentionName", ["additive", "dot", "none"])
ScheduleName = StrEnum(
    "ScheduleName", {"constant": "constant", "linear": "linear", "inverse_sigmoid": "inverse-sigmoid"}
)
DrawName = StrEnum("DrawName", ["step", "sequence"])

_DATA, _MODEL, _FORCING = "Data", "Model", "Teacher forcing"


@training_command(
    default_minutes=10, hidden=256, layers=1, bidirectional=True, dropout=0.2, batch_size=64, lr=3e-3,
)  # fmt: skip
def train_translator(
    data: Annotated[
        list[str], typer.Argument(help="Files with a sentence, a tab and its translation a line; - is standard input.")
    ],
    level: Annotated[LevelName, typer.Option(help="What a token is.", rich_help_panel=_DATA)] = LevelName.word,
    lower: Annotated[
        bool, typer.Option("--lower/--keep-case", help="Lower-case both sides.", rich_help_panel=_DATA)
    ] = False,
    min_count: Annotated[
        int, typer.Option(min=1, help="Rarer tokens are unknown; with attention, copied.", rich_help_panel=_DATA)
    ] = 2,
    max_words: Annotated[
        int | None, typer.Option(min=1, help="Tokens of each language, at most; the most frequent ones.",
                                 rich_help_panel=_DATA)
    ] = None,
    attention: Annotated[
        AttentionName, typer.Option(help="How the decoder looks at the source.", rich_help_panel=_MODEL)
    ] = AttentionName.additive,
    embedding_size: Annotated[
        int, typer.Option(min=0, max=o.MOST_UNITS, help="Numbers for a token; 0 for one-hot.", rich_help_panel=_MODEL)
    ] = 256,
    teacher_forcing: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that a step reads the expected token, not the model's.",
                            rich_help_panel=_FORCING)
    ] = 1.0,
    teacher_forcing_end: Annotated[
        float | None, typer.Option(min=0, max=1, help="The same at the end of the schedule; 0 unless given.",
                                   rich_help_panel=_FORCING)
    ] = None,
    schedule: Annotated[
        ScheduleName, typer.Option(help="The way from the first to the second.", rich_help_panel=_FORCING)
    ] = ScheduleName.constant,
    draw: Annotated[
        DrawName, typer.Option(help="Drawn again at every step, or once a sequence.", rich_help_panel=_FORCING)
    ] = DrawName.step,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of a target spread over all tokens; 0.1 for words, 0 for "
                                                      "characters.", rich_help_panel="Training")
    ] = None,
    *, cell: str, hidden: int, layers: int, bidirectional: bool, dropout: float, batch_size: int, val_fraction: float,
    seed: int, **rates: Unpack[Rates],
) -> Plan:  # fmt: skip
    """Train an encoder-decoder on pairs of sentences; 10 minutes unless told otherwise.

    val_loss is without label smoothing, with teacher forcing. Writes best.safetensors, last.safetensors and
    metrics.jsonl to checkpoints/<data>/.
    """
    from minirnn.data.lines import read_pairs
    from minirnn.tasks.translator import TranslatorTask

    task = TranslatorTask(
        *read_pairs(data), level, lower, min_count, max_words, hidden, layers, cell, bidirectional, embedding_size,
        dropout, attention, teacher_forcing, teacher_forcing_end, schedule, draw, label_smoothing, batch_size,
        val_fraction, seed, **rates,
    )  # fmt: skip
    source, target = len(task.translator.source), len(task.translator.target)
    about = f"data: {len(task.train):,} pairs to train on, {source:,} and {target:,} different tokens"
    return Plan(task, about, "tokens", "minirnn predict {} 'a sentence'", task.sample)
