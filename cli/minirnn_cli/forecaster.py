"""``train-forecaster``: the next values of a series."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Unpack

import typer

from minirnn.models.body import Rates
from minirnn_cli.training import Plan, training_command

BaseName = StrEnum("BaseName", ["last", "season", "trend"])


@training_command(
    default_minutes=1, hidden=32, layers=1, bidirectional=False, seq_length=24, batch_size=32, lr=4e-3, val_fraction=0.2
)
def train_forecaster(
    data: Annotated[
        str, typer.Argument(help="A CSV file with a header, rows in the order of time; - is standard input.")
    ],
    column: Annotated[
        str | None, typer.Option(help="The column to forecast; the last one with numbers unless given.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option(help="Further columns to look at, with commas between them or one at a time.")
    ] = None,
    horizon: Annotated[int, typer.Option(min=1, help="Steps to forecast at once.")] = 1,
    season: Annotated[
        int | None, typer.Option(min=1, help="Rows in a season, 1 for none; estimated unless given.")
    ] = None,
    base: Annotated[
        BaseName | None,
        typer.Option(help="What the network corrects: the last value, that of a season ago, or that with the change "
                          "since then; the best on the training set unless given.", rich_help_panel="Model"),
    ] = None,
    log: Annotated[
        bool | None, typer.Option("--log/--no-log", help="Take logarithms; where the spread grows with the level "
                                                         "unless given.", rich_help_panel="Model")
    ] = None,
    penalty: Annotated[
        float, typer.Option(min=0, help="Pull of the weights towards 0; the longer the series, the less it counts.",
                            rich_help_panel="Training")
    ] = 5.0,
    *, cell: str, hidden: int, layers: int, bidirectional: bool, dropout: float, seq_length: int, batch_size: int,
    val_fraction: float, seed: int, **rates: Unpack[Rates],
) -> Plan:  # fmt: skip
    """Train a forecaster on a table; 1 minute unless told otherwise. The last rows validate.

    To test it, train on the beginning of a file and give the whole of it to eval, which scores what comes after.
    Writes best.safetensors, last.safetensors and metrics.jsonl to checkpoints/<data>/.
    """
    from minirnn.data.tables import read_table
    from minirnn.tasks.forecaster import ForecasterTask, Series

    table = read_table(data)
    given = (part for item in inputs or () for part in ([item] if item in table.header else item.split(",")))
    series = Series.of(table, column, [name.strip() for name in given])
    task = ForecasterTask(
        series, seq_length, horizon, season, base, log, hidden_size=hidden, num_layers=layers, cell=cell,
        bidirectional=bidirectional, dropout=dropout, batch_size=batch_size, penalty=penalty,
        val_fraction=val_fraction, seed=seed, **rates,
    )  # fmt: skip
    view = task.view
    return Plan(
        task, f"data: {len(series):,} rows, {task.train_rows:,} to train on; column {view.names[0]!r}"
        f"{' as logarithm' if view.log else ''}, season {view.season:,}, base {view.base}", "values",
        "minirnn predict {} DATA.csv",
    )  # fmt: skip
