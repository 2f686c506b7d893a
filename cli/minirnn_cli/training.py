"""What all ``train-`` commands share: their options, declared once, and the way from options to a finished run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minirnn.errors import CheckpointError, OptionError
from minirnn.models.body import Rates
from minirnn_cli import options as o
from minirnn_cli.cells import find_cell

if TYPE_CHECKING:
    from minirnn.training import Task

_RATES = tuple(Rates.__annotations__)
_BUDGETS = ("steps", "epochs", "minutes")
_TRAINING = (*_BUDGETS, "lr", "optimizer", "weight_decay", "clip", "save_every")
_RUN = ("out", "resume", "threads", "device", "quiet", "json")
_FILES = ("embeddings", "val")  # options that are data too: what is in the file counts, not what it is called

_SHARED: dict[str, Any] = {
    "cell": o.Cell, "hidden": o.Hidden, "layers": o.Layers, "bidirectional": o.Bidirectional, "dropout": o.Dropout,
    "zoneout": o.Zoneout, "recurrent_dropout": o.RecurrentDropout, "weight_drop": o.WeightDrop,
    "seq_length": o.SeqLength, "batch_size": o.BatchSize, "steps": o.Steps, "epochs": o.Epochs, "minutes": o.Minutes,
    "lr": o.LearningRate, "optimizer": o.Optimizer, "weight_decay": o.WeightDecay, "clip": o.Clip,
    "val_fraction": o.ValFraction, "seed": o.Seed, "save_every": o.SaveEvery, "out": o.Out, "resume": o.Resume,
    "threads": o.Threads, "device": o.Device, "quiet": o.Quiet, "json": o.Json,
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "cell": "lstm", "layers": 1, "dropout": 0.0, **dict.fromkeys(_RATES, 0.0), "steps": None, "epochs": None,
    "minutes": None, "optimizer": o.OptimizerName.adamw, "weight_decay": 0.0, "clip": 1.0, "val_fraction": 0.1,
    "seed": 1337, "save_every": None, "out": None, "resume": False, "threads": None, "device": o.DeviceName.cpu,
    "quiet": False, "json": False,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a command wants trained.

    Attributes:
        task: as :class:`minirnn.training.Trainer` takes it.
        data: a line about the data.
        unit: what is counted in the course of training ("characters").
        sample: makes something to show now and then, or None.
        hint: the command to try afterwards; ``{}`` is the checkpoint.
    """

    task: Task
    data: str
    unit: str
    hint: str
    sample: Callable[[], str] | None = None


def training_command(default_minutes: float, **defaults: Any) -> Callable[[Callable[..., Plan]], Callable[..., None]]:
    """Make a ``train-`` command of a function from options to a :class:`Plan`.

    The function's own parameters come first, its data (a source, or a list of them) before all others. Those of
    :data:`_SHARED` that it names too, as keyword-only parameters without a default, are filled in; ``defaults`` sets
    what differs from :data:`_DEFAULTS`; the rates of :data:`_RATES` reach it as further keyword arguments. On
    ``--resume`` every option that is not typed is taken from the run.

    Args:
        default_minutes: the budget where none is given.
    """

    def decorate(make: Callable[..., Plan]) -> Callable[..., None]:
        signature = inspect.signature(make, eval_str=True).parameters
        named = [name for name, parameter in signature.items() if parameter.kind != inspect.Parameter.VAR_KEYWORD]
        own = {name: signature[name] for name in named if name not in _SHARED}
        shared = [name for name in _SHARED if name in (*named, *_RATES, *_TRAINING, *_RUN)]
        data = next(iter(own))

        @wraps(make)
        def command(context: typer.Context, **typed: Any) -> None:
            chosen = {name: getattr(value, "value", value) for name, value in typed.items()}
            how = {name: chosen.pop(name) for name in _RUN}
            sources = chosen[data] if isinstance(chosen[data], list) else [chosen[data]]
            _train(context, make, [*named, *_RATES], sources, chosen, how, data, default_minutes)

        values = _DEFAULTS | defaults
        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        parameters += [own[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in own]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=values[name], annotation=_SHARED[name])
            for name in shared
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _train(
    context: typer.Context, make: Callable[..., Plan], expected: list[str], sources: list[str], chosen: dict[str, Any],
    how: dict[str, Any], data: str, default_minutes: float,
) -> None:  # fmt: skip
    from minirnn import kernels
    from minirnn.data.sources import file_stamps
    from minirnn.runs import BEST
    from minirnn.training import Options, Trainer
    from minirnn_cli.show import say, show_training

    o.use_threads(how["threads"])
    device = how["device"]
    kernels.on(device)  # a GPU that is missing is said before a corpus is read
    out, resume, quiet = how["out"], how["resume"], how["quiet"]
    if not resume or o.given(context, "cell"):
        chosen["cell"] = find_cell(chosen["cell"])
    stem = "stdin" if sources[0] == "-" else Path(sources[0].removeprefix("@")).stem or "run"
    if resume:
        folder = o.resumed_folder(out, stem)
        before = _settings(folder, context.command.name)
        _refuse_changes(context, [name for name in expected if name not in (data, *_FILES)], chosen, before, folder)
        chosen |= {name: before[name] for name in chosen if name in before and not o.given(context, name)}
        if any(o.given(context, name) for name in _BUDGETS):
            chosen |= {name: None for name in _BUDGETS if not o.given(context, name)}
    elif all(chosen[name] is None for name in _BUDGETS):
        chosen["minutes"] = default_minutes
    options = Options(**{name: chosen[name] for name in _TRAINING})
    files = [*sources, *(chosen[name] for name in _FILES if chosen.get(name) is not None)]
    unchanged = file_stamps(files)
    plan = make(**{name: chosen[name] for name in expected})
    plan.task.model.to(device)
    notes = {"command": context.command.name, "settings": {name: chosen[name] for name in chosen if name != data}}
    trainer = Trainer(plan.task, options, folder if resume else o.claim_folder(out, stem), resume, notes)
    at, folder = trainer.position, trainer.out or Path()
    for notice in trainer.notices:
        say(notice)
    trainer.notices.clear()
    if resume and trainer.progress >= 1:
        raise OptionError(f"the run in {folder} has had its whole budget; give a larger one to go on")
    if not quiet:
        say(plan.data)
        model = ", ".join(
            f"{name} {_shown(chosen[name])}" for name in ("cell", "hidden", "layers", "bidirectional")
            if name in chosen
        )  # fmt: skip
        say(f"model: {model}; {plan.task.model.num_parameters():,} parameters; {plan.task.batches:,} batches an epoch")
        name, count = next((name, chosen[name]) for name in _BUDGETS if chosen[name] is not None)
        budget = f"{count:g} {name.removesuffix('s') if count == 1 else name}"
        say(f"going on at step {at.step}, to {budget}, in {folder}" if resume else f"training {budget} into {folder}")
    show_training(trainer, plan.sample, quiet, how["json"], plan.unit, lambda: _changed(unchanged, file_stamps(files)))
    if not quiet:
        say(f"best validation loss {at.best_loss:.4f}; now try: {plan.hint.format(folder / BEST)}")


def _changed(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> str | None:
    """What to say of data that is no longer what the run has read."""
    for source, stamp in before.items():
        if now.get(source) != stamp:
            return (
                f"{source} has changed since the run began; the run goes on, but can be resumed with the old data only"
            )
    return None


def _refuse_changes(
    context: typer.Context, names: list[str], chosen: dict[str, Any], before: dict[str, Any], folder: Path
) -> None:
    """Name the first option that would make another model, or other data, of a run that goes on.

    Raises:
        CheckpointError: there is one.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and name in before and o.given(context, name) and chosen[name] != before[name]:
            was, now = _shown(before[name]), _shown(chosen[name])
            now += " with other equations" if was == now else ""
            raise CheckpointError(
                f"cannot resume {folder}: {parameter.opts[0]} was {was}, now it is {now}; leave it out, or begin a "
                "new run"
            )


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    return str(value.get("name") if isinstance(value, dict) else value)


def _settings(folder: Path, command: str | None) -> dict[str, Any]:
    """The options a run was started with, from its last state, or the one before it."""
    from minirnn.runs import RunFolder

    notes = RunFolder(folder, []).load_config().get("notes")
    if not isinstance(notes, dict) or notes.get("command") != command or not isinstance(notes.get("settings"), dict):
        raise CheckpointError(f"{folder} is no run of {command}")
    return notes["settings"]
