"""``train-music``: the next chord."""

from __future__ import annotations

from typing import Annotated, Unpack

import typer

from minirnn.models.body import Rates
from minirnn_cli.training import Plan, training_command


@training_command(default_minutes=5, hidden=256, layers=2, dropout=0.5, seq_length=256, batch_size=16, lr=1e-2)
def train_music(
    data: Annotated[
        str, typer.Argument(help='JSON: pieces, or {"train": pieces, "valid": pieces}; a piece is a list of time '
                                 "steps, a step a list of MIDI pitches. - is standard input.")
    ],
    transpose: Annotated[
        int, typer.Option(min=0, max=87, help="Semitones at most by which a piece is transposed, again in every epoch.",
                          rich_help_panel="Training")
    ] = 6,
    *, cell: str, hidden: int, layers: int, dropout: float, seq_length: int, batch_size: int, val_fraction: float,
    seed: int, **rates: Unpack[Rates],
) -> Plan:  # fmt: skip
    """Train a composer of polyphonic music on pieces; 5 minutes unless told otherwise.

    Validates with the part "valid", or with some of the pieces where there is none; the part "test" is left alone.
    Writes best.safetensors, last.safetensors and metrics.jsonl to checkpoints/<data>/.
    """
    from minirnn.tasks.common import Line
    from minirnn.tasks.music import MusicTask, read_rolls

    task = MusicTask(
        read_rolls(data), hidden, layers, cell, dropout, batch_size, seq_length, transpose, val_fraction, seed, **rates
    )
    composer, steps = task.composer(), sum(map(len, task.train))
    return Plan(
        task, f"data: {len(task.train):,} pieces of {steps:,} steps; {len(task.validation):,} more to validate with",
        "steps", "minirnn predict {} C4,E4,G4 --midi piece.mid --wav piece.wav",
        lambda: composer.predict([Line("", "")], length=8, seed=0)[0].text,
    )  # fmt: skip
