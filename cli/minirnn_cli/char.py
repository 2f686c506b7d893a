"""``train-char`` and ``sample``: character-level text generation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from minirnn_cli import options as o
from minirnn_cli.options import CellName, DeviceName, OptimizerName

_DEFAULT_MINUTES = 3.0


def train_char(
    corpus: Annotated[
        list[str], typer.Argument(help="Text files; - is standard input, @python the Python library's sources.")
    ],
    cell: o.Cell = CellName.lstm,
    hidden: o.Hidden = 256,
    layers: o.Layers = 2,
    dropout: o.Dropout = 0.0,
    seq_length: o.SeqLength = 64,
    batch_size: o.BatchSize = 32,
    steps: o.Steps = None,
    epochs: o.Epochs = None,
    minutes: o.Minutes = None,
    lr: o.LearningRate = 4e-3,
    optimizer: o.Optimizer = OptimizerName.adamw,
    weight_decay: o.WeightDecay = 0.0,
    clip: o.Clip = 1.0,
    val_fraction: o.ValFraction = 0.1,
    seed: o.Seed = 1337,
    as_bytes: Annotated[
        bool, typer.Option("--bytes", help="Read bytes instead of characters: any file at all.")
    ] = False,
    out: o.Out = None,
    resume: o.Resume = False,
    threads: o.Threads = None,
    device: o.Device = DeviceName.cpu,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Train a character model on text; 3 minutes unless told otherwise.

    Writes best.safetensors, last.safetensors and metrics.jsonl to checkpoints/<corpus>/.
    """
    from minirnn.tasks.char import CharTask, TextModel, read_corpus
    from minirnn.training import BEST, Options, Trainer
    from minirnn_cli.show import say, show_training

    o.use_threads(threads)
    if steps is None and epochs is None and minutes is None:
        minutes = _DEFAULT_MINUTES
    options = Options(
        steps=steps, epochs=epochs, minutes=minutes, lr=lr, optimizer=optimizer.value, weight_decay=weight_decay,
        clip=clip,
    )  # fmt: skip
    stem = {"-": "stdin"}.get(corpus[0], Path(corpus[0].removeprefix("@")).stem) or "run"
    folder = o.run_folder(out, stem, resume)
    tokens, symbols = read_corpus(corpus, as_bytes)
    task = CharTask(
        tokens, symbols, hidden, layers, cell.value, dropout, batch_size, seq_length, val_fraction, seed
    )  # fmt: skip
    trainer = Trainer(task, options, folder, resume)
    if not quiet:
        budget = f"{steps} steps" if steps else f"{epochs:g} epochs" if epochs else f"{minutes:g} minutes"
        say(
            f"{tokens.size:,} {symbols.kind}, {len(symbols)} different; {cell.value} {layers} x {hidden}, "
            f"{task.model.num_parameters():,} parameters; {budget}; to {folder}"
        )
    text_model = TextModel(task.model, symbols)
    show_training(trainer, lambda: "".join(text_model.sample(length=300, seed=seed)), quiet, json, symbols.kind)
    if not quiet:
        at = trainer.position
        say(f"best validation loss {at.best_loss:.4f} nats a symbol; now try: minirnn sample {folder / BEST}")


def sample(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint or a run's folder; the newest run unless given.")
    ] = None,
    length: Annotated[int, typer.Option(min=0, help="Symbols to sample.")] = 1000,
    prime: Annotated[str, typer.Option(help="Text to continue; it is printed first.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="Below 1 safer, above 1 wilder, 0 most probable.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k most probable symbols.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the smallest set with this share of the mass.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text.")] = None,
    num: Annotated[int, typer.Option(min=1, help="How many texts.")] = 1,
    stop: Annotated[str | None, typer.Option(help="End a text after this string.")] = None,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write text with a trained model, to standard output as it is made."""
    from json import dumps

    from minirnn import random
    from minirnn.tasks.char import TextModel
    from minirnn_cli.show import compile_notes, say

    o.use_threads(threads)
    model = TextModel.load(o.find_checkpoint(checkpoint))
    missing = model.symbols.missing(prime)
    if missing and not quiet:
        say(f"the model has never seen {missing!r}; left out of the prime")
    if seed is None:
        random.seed_from_system()
    write = sys.stdout.write
    with compile_notes(quiet):
        for number in range(num):
            pieces = model.sample(
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
