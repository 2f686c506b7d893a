"""``train-char`` and ``sample``: character-level text generation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Unpack

import typer

from minirnn.models.body import Rates
from minirnn_cli import options as o
from minirnn_cli.training import Plan, training_command

_TEMPERATURE = 0.8


@training_command(default_minutes=3, hidden=256, layers=2, dropout=0.2, seq_length=64, batch_size=32, lr=4e-3)
def train_char(
    corpus: Annotated[
        list[str], typer.Argument(help="Text files; - is standard input, @python the Python library's sources.")
    ],
    as_bytes: Annotated[
        bool, typer.Option("--bytes", help="Read bytes instead of characters: any file at all.")
    ] = False,
    recompute: Annotated[
        int | None,
        typer.Option(min=1, help="Keep states only every so many steps, compute the rest twice: long sequences fit.",
                     rich_help_panel="Training"),
    ] = None,
    *, cell: str, hidden: int, layers: int, dropout: float, seq_length: int, batch_size: int, val_fraction: float,
    seed: int, **rates: Unpack[Rates],
) -> Plan:  # fmt: skip
    """Train a character model on text; 3 minutes unless told otherwise. The end of the text validates.

    Writes best.safetensors, last.safetensors and metrics.jsonl to checkpoints/<corpus>/.
    """
    from minirnn.tasks.char import CharTask, TextModel, read_corpus

    tokens, symbols = read_corpus(corpus, as_bytes)
    task = CharTask(
        tokens, symbols, hidden, layers, cell, dropout, batch_size, seq_length, val_fraction, seed, recompute, **rates
    )
    text_model = TextModel(task.model, symbols)
    return Plan(
        task, f"corpus: {tokens.size:,} {symbols.kind}, {len(symbols)} different", symbols.kind, "minirnn sample {}",
        lambda: "".join(text_model.sample(length=500, temperature=_TEMPERATURE, seed=0)),
    )  # fmt: skip


def sample(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint or a run's folder; the newest run unless given.")
    ] = None,
    length: Annotated[int, typer.Option(min=0, help="Symbols to sample.")] = 1000,
    prime: Annotated[str, typer.Option(help="Text to continue; it is printed first.")] = "",
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1 safer, above 1 wilder, 0 most probable.")
    ] = _TEMPERATURE,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k most probable symbols.")] = None,
    top_p: Annotated[
        float | None, typer.Option(max=1, help="Only the smallest set with this share of the mass.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text.")] = None,
    num: Annotated[int, typer.Option(min=1, help="How many texts.")] = 1,
    stop: Annotated[str | None, typer.Option(help="End a text after this string.")] = None,
    threads: o.Threads = None,
    device: o.Device = o.DeviceName.cpu,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write text with a trained model, to standard output as it is made."""
    from json import dumps

    from minirnn import random
    from minirnn.tasks.char import TextModel
    from minirnn_cli.show import compile_notes, say

    o.use_threads(threads)
    model = TextModel.load(o.find_checkpoint(checkpoint, "char"))
    model.model.to(device.value)
    missing = model.symbols.missing(prime)
    if missing and not quiet:
        say(f"the model has never seen {missing!r}; left out of the prime")
    if seed is None:
        random.seed_from_system()
    write = sys.stdout.write
    with compile_notes(quiet):
        for number in range(num):
            pieces = model.sample(  # checks its arguments now, before anything is written
                prime, length, temperature, top_k, top_p, None if seed is None else seed + number, stop
            )
            if json:
                print(dumps({"prime": prime, "text": "".join(pieces)}, ensure_ascii=False))
                continue
            write(prime)
            for piece in pieces:
                write(piece)
                sys.stdout.flush()
            write("\n")
