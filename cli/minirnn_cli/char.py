"""``train-char`` and ``sample``: character-level text generation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minirnn.errors import OptionError
from minirnn_cli import options as o
from minirnn_cli.options import CellName, DeviceName, OptimizerName

_DEFAULT_MINUTES = 3.0
_TEMPERATURE = 0.8


def train_char(
    context: typer.Context,
    corpus: Annotated[
        list[str], typer.Argument(help="Text files; - is standard input, @python the Python library's sources.")
    ],
    cell: o.Cell = CellName.lstm,
    hidden: o.Hidden = 256,
    layers: o.Layers = 2,
    dropout: o.Dropout = 0.2,
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
    from minirnn.training import BEST, LAST, Options, Trainer
    from minirnn_cli.show import say, show_training

    o.use_threads(threads)
    chosen: dict[str, Any] = {
        "cell": cell.value, "hidden": hidden, "layers": layers, "dropout": dropout, "seq_length": seq_length,
        "batch_size": batch_size, "steps": steps, "epochs": epochs, "minutes": minutes, "lr": lr,
        "optimizer": optimizer.value, "weight_decay": weight_decay, "clip": clip, "val_fraction": val_fraction,
        "seed": seed, "as_bytes": as_bytes,
    }  # fmt: skip
    stem = "stdin" if corpus[0] == "-" else Path(corpus[0].removeprefix("@")).stem or "run"
    if resume:
        folder = o.resumed_folder(out, stem)
        chosen |= {name: value for name, value in _settings(folder / LAST).items() if not o.given(context, name)}
        if any(o.given(context, name) for name in _BUDGETS):
            chosen |= {name: None for name in _BUDGETS if not o.given(context, name)}
    elif all(chosen[name] is None for name in _BUDGETS):
        chosen["minutes"] = _DEFAULT_MINUTES
    options = Options(**{name: chosen[name] for name in (*_BUDGETS, "lr", "optimizer", "weight_decay", "clip")})
    tokens, symbols = read_corpus(corpus, chosen["as_bytes"])
    task = CharTask(
        tokens, symbols, chosen["hidden"], chosen["layers"], chosen["cell"], chosen["dropout"], chosen["batch_size"],
        chosen["seq_length"], chosen["val_fraction"], chosen["seed"],
    )  # fmt: skip
    trainer = Trainer(task, options, folder if resume else o.claim_folder(out, stem), resume)
    at, folder = trainer.position, trainer.out or Path()
    if resume and trainer.progress >= 1:
        raise OptionError(f"the run in {folder} has had its whole budget; give a larger one to go on")
    if not quiet:
        model = task.model
        say(f"corpus: {tokens.size:,} {symbols.kind}, {len(symbols)} different; {task.batches:,} batches an epoch")
        say(
            f"model: {model.cell}, {model.num_layers} layer{'s' * (model.num_layers > 1)} of {model.hidden_size}, "
            f"{model.num_parameters():,} parameters"
        )
        budget = next(f"{chosen[name]:g} {name}" for name in _BUDGETS if chosen[name] is not None)
        say(f"going on at step {at.step}, to {budget}, in {folder}" if resume else f"training {budget} into {folder}")
    text_model = TextModel(task.model, symbols)
    show_training(
        trainer, lambda: "".join(text_model.sample(length=500, temperature=_TEMPERATURE, seed=0)), quiet, json,
        symbols.kind,
    )  # fmt: skip
    if not quiet:
        say(f"best validation loss {at.best_loss:.4f} nats a symbol; now try: minirnn sample {folder / BEST}")


_BUDGETS = ("steps", "epochs", "minutes")


def _settings(path: Path) -> dict[str, Any]:
    """The options a run was started with, from its checkpoint."""
    from minirnn.checkpoint import load_config
    from minirnn.errors import CheckpointError

    config = load_config(path)
    try:
        model, data, how = config["model"], config["data"], config["options"]
        return {
            "cell": model["cell"], "hidden": model["hidden_size"], "layers": model["num_layers"],
            "dropout": model["dropout"], "as_bytes": config["symbols"]["kind"] == "bytes",
            **{name: data[name] for name in ("batch_size", "seq_length", "val_fraction", "seed")},
            **{name: how[name] for name in (*_BUDGETS, "lr", "optimizer", "weight_decay", "clip")},
        }  # fmt: skip
    except (KeyError, TypeError):
        raise CheckpointError(f"{path} is no run of train-char") from None


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
