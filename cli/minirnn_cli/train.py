"""The ``train-`` commands, one for each task, with the options of its configuration."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from minirnn import distributed, kernels
from minirnn.config import Config, OptionInfo
from minirnn.data.sources import file_stamps
from minirnn.errors import CheckpointError, OptionError
from minirnn.kernels.precision import check_precision
from minirnn.runs import BEST, LAST, PREVIOUS
from minirnn.tasks import Task
from minirnn.tasks.base import TaskConfig
from minirnn.tasks.fine_tuning import count_new
from minirnn.tensorboard import TensorBoard, check_installed
from minirnn.training import BUDGETS, Step, Trainer, TrainingConfig, evaluate_now, in_figures, metric_in_words
from minirnn.validation import check_int
from minirnn_cli import options as o
from minirnn_cli import runs
from minirnn_cli.cells import find_cell
from minirnn_cli.show import say, show_training

Out = Annotated[
    Path | None, typer.Option(help="Folder of the run; by default checkpoints/<data>.", rich_help_panel="Run")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out, or the newest on this data.", rich_help_panel="Run")
]
Board = Annotated[
    bool,
    typer.Option("--tensorboard", help="Also write event files for TensorBoard.", rich_help_panel="Run"),
]
Pause = Annotated[
    int | None,
    typer.Option(
        min=1, help="Stop where so many of the evaluations are due, to be continued by --resume.", rich_help_panel="Run"
    ),
]
_CONFIG_HELP = "Take options from a TOML file or from another run; those on the command line win."
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE.toml|RUN", help=_CONFIG_HELP, rich_help_panel="Run")]
_INIT_HELP = "Fine-tune: begin with the weights of a trained model, which also decides the size of the model."
InitFrom = Annotated[Path | None, typer.Option(metavar="RUN|CHECKPOINT", help=_INIT_HELP, rich_help_panel="Run")]

C = TypeVar("C", bound=Config)


def training_command(task: type[Task[Any, Any]]) -> Callable[..., None]:
    """Return the command that trains a task."""

    def command(
        context: typer.Context,
        out: Out = None,
        resume: Resume = False,
        config: ConfigFile = None,
        init_from: InitFrom = None,
        tensorboard: Board = False,
        pause_after: Pause = None,
        threads: o.Threads = None,
        device: o.Device = "cpu",
        quiet: o.Quiet = False,
        json: o.Json = False,
        **options: Any,
    ) -> None:
        o.use_threads(threads)
        kernels.on(device)  # refuses a missing GPU before data is read
        if tensorboard:
            check_installed()
        sources = [options.pop("data")] if task.single_source else options.pop("data")
        if distributed.size() > 1 and "-" in sources:
            raise OptionError("data: standard input reaches one process only; with several, give files")
        name, command_name = default_name(sources[0]), str(context.command.name)
        given = given_options(task, context, config, options)
        defaults, folder, source = task.Config().to_dict() | task.training.to_dict(), out, None
        start = None if init_from is None else str(init_from)
        if resume:
            folder = _of_rank_0(lambda: runs.resumed_folder(out, name))
            saved = runs.run_notes(folder, command_name)
            former = runs.named_fields(saved["settings"], str(folder), task.Config, TrainingConfig)
            defaults = _override(defaults, former)
            _refuse_changes(_pick(task.Config, defaults), _pick(task.Config, defaults | given), folder)
            typed, start = start, saved.get("init_from")
            if typed is not None:
                _refuse_change("--init-from", start, typed, folder)
            if start is not None:  # the run itself has the whole vocabulary
                source = _last_state(task, folder)
        elif init_from is not None:
            source = task.load(runs.find_checkpoint(init_from))
            given |= _architecture(source, given, init_from)
        chosen = _override(defaults, given)
        settings, training = make_configs(task, chosen)
        check_precision(training.precision, device)
        if pause_after is not None:
            check_int("--pause-after", pause_after, 1, training.evaluations)

        data_files = [chosen[field] for field, info in task.Config.options().items() if info.is_data]
        files = [*sources, *(file for file in data_files if file is not None)]
        before = file_stamps(files)
        made = task.build(task.read(sources, settings), settings, source)
        made.model.to(device)
        folder = folder if resume and folder else _of_rank_0(lambda: runs.new_folder(out, name))
        notes = {"command": command_name, "settings": settings.to_dict() | training.to_dict()}
        notes |= {"init_from": start} if start else {}
        trainer = Trainer(made, training, folder, resume, notes)
        if pause_after is not None:
            _pause_after(trainer, pause_after)
        elif resume:
            _refuse_finished(trainer, folder)
        if not quiet:
            _describe(made, settings, trainer, folder, resume)
            if source is not None and not resume:
                _describe_source(made, source, start)
        with _event_files(trainer, made, folder) if tensorboard and distributed.rank() == 0 else nullcontext():
            show_training(trainer, made, quiet, json, lambda: _changed(before, file_stamps(files)))
        if not quiet:
            best, metric = trainer.position.best.get(made.best_metric, math.nan), metric_in_words(made.best_metric)
            say(f"best {metric} {best:.4f}; now try: {task.example.format(folder / BEST)}")
            if not trainer.finished:
                say(f"paused at step {trainer.position.step}; continue with --resume")

    kind: Any = str if task.single_source else list[str]
    annotation = Annotated[kind, typer.Argument(help=task.sources_help)]
    data = inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    minutes = f"{task.training.minutes:g} minute{'s' if task.training.minutes != 1 else ''}"
    command.__doc__ = f"""{task.help}

    Trains for {minutes} where no budget is given. Writes best.safetensors, last.safetensors and metrics.jsonl to
    checkpoints/<data>/.
    """
    return o.add_parameters(command, [data, *o.parameters(task.Config()), *o.parameters(task.training)])


def default_name(source: str) -> str:
    """Return what a run on a source is called by default."""
    return "stdin" if source == "-" else Path(source.removeprefix("@")).stem or "run"


def given_options(
    task: type[Task[Any, Any]], context: typer.Context, config: Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of ``options`` that are given, on the command line or by ``--config``.

    Raises:
        OptionError, CheckpointError: ``config`` cannot be read or has unknown options, or there is no such cell.
    """
    given = {} if config is None else runs.file_settings(config, context.command.name, task.Config, TrainingConfig)
    given = _override(given, o.typed(context, options))
    if isinstance(given.get("cell"), str):
        given["cell"] = find_cell(given["cell"])
    return given


def make_configs(task: type[Task[Any, Any]], options: Mapping[str, Any]) -> tuple[TaskConfig, TrainingConfig]:
    """Return the configurations that have ``options``, and where those have none the defaults of the task.

    Raises:
        OptionError: a value does not fit.
    """
    chosen = _override(task.Config().to_dict() | task.training.to_dict(), options)
    return _pick(task.Config, chosen), _pick(TrainingConfig, chosen)


def _pause_after(trainer: Trainer, evaluations: int) -> None:
    """Let the run end, unfinished, where so many of its evaluations are due, with the last of them."""

    def is_over() -> bool:
        return int(trainer.progress * trainer.config.evaluations) >= evaluations

    def pause(trainer: Trainer, step: Step) -> None:
        if is_over() and not (trainer.stopping or step.rolled_back):
            evaluate_now(trainer, step)
            trainer.stop()

    trainer.hooks.insert(0, pause)
    if is_over():
        trainer.stop()


def _of_rank_0(folder: Callable[[], Path]) -> Path:
    """The folder that rank 0 finds or makes."""
    return Path(distributed.broadcast_json(str(folder()) if distributed.rank() == 0 else None))


@contextmanager
def _event_files(trainer: Trainer, task: Task[Any, Any], folder: Path) -> Iterator[None]:
    board = TensorBoard(folder, task.sample_output, trainer.position.step)
    trainer.hooks.append(board)
    try:
        yield
    finally:
        board.close()


def _override(options: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Options with others in their place; a budget takes the place of all budgets."""
    new_budget = any(by.get(name) is not None for name in BUDGETS)
    return {name: None if new_budget and name in BUDGETS else value for name, value in options.items()} | dict(by)


def _pick(config: type[C], options: Mapping[str, Any]) -> C:
    return config.from_dict({name: options[name] for name in config.options()})


def _refuse_changes(before: Config, now: Config, folder: Path) -> None:
    """Name the first option that would make another model, or other data, of a run that is resumed.

    Raises:
        CheckpointError: there is one.
    """
    for name, info in now.options().items():
        if not info.is_data:
            _refuse_change(_flag(info), getattr(before, name), getattr(now, name), folder)


def _refuse_change(flag: str, was: Any, value: Any, folder: Path) -> None:
    if value != was:
        change = f"{flag} was {_shown(was)}, now it is {_shown(value, was)}"
        raise CheckpointError(f"cannot resume {folder}: {change}; leave it out, or start a new run")


def _last_state(task: type[Task[Any, Any]], folder: Path) -> Task[Any, Any]:
    """The last saved state of a run, or where it is damaged the one before it."""
    try:
        return task.load(folder / LAST)
    except CheckpointError:
        if not (folder / PREVIOUS).is_file():
            raise
        return task.load(folder / PREVIOUS)


def _architecture(source: Task[Any, Any], given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options that a model which is fine-tuned decides.

    Raises:
        CheckpointError: others are given.
    """
    fixed = source.architecture()
    for name, has in fixed.items():
        value = given.get(name, has)
        if value not in (has, None, "auto"):
            flag = _flag(source.Config.options()[name])
            change = f"{flag} is {_shown(has)} there, not {_shown(value, has)}"
            raise CheckpointError(f"cannot fine-tune {path}: {change}; leave it out, or train a new model")
    return fixed


def _refuse_finished(trainer: Trainer, folder: Path) -> None:
    if trainer.progress >= 1:
        raise OptionError(f"the run in {folder} has used up its budget; give a larger one to continue")
    if trainer.finished:
        raise OptionError(f"the run in {folder} stopped early; give a larger --patience to continue")


def _describe(task: Task[Any, Any], settings: TaskConfig, trainer: Trainer, folder: Path, resume: bool) -> None:
    """Say what is trained, on which data, and for how long."""
    say(f"data: {task.summary}")
    names = ("cell", "hidden_size", "num_layers", "bidirectional", "dropout", "weight_drop")
    shown = {name: getattr(settings, name) for name in names if name in settings.options()}
    passes = trainer.position.passes
    if passes is not None:
        shown = {name: task.model.config.get(name) if value is None else value for name, value in shown.items()}
    labels = {name: _flag(settings.options()[name]).strip("-") for name in shown}
    kept = {name: value for name, value in shown.items() if value or name == "bidirectional"}
    model = ", ".join(f"{labels[name]} {_shown(value)}" for name, value in kept.items())
    parameters = f"{task.model.num_parameters():,} parameters"
    if settings.freeze:
        count = sum(parameter.numel() for parameter in task.model.parameters() if not parameter.requires_grad)
        parameters += f", {count:,} of them frozen: {', '.join(settings.freeze)}"
    say(f"model: {model}; {parameters}; {task.num_batches:,} batches per epoch")
    name = next(name for name in BUDGETS if getattr(trainer.config, name) is not None)
    count = getattr(trainer.config, name)
    budget = f"{count:g} {name.removesuffix('s') if count == 1 else name}"
    start = f"resuming at step {trainer.position.step}, to {budget}," if resume else f"training for {budget}"
    if name == "steps" and passes is not None and not resume:
        start += f", {in_figures(passes)} passes over the data,"
    say(f"{start} in {folder}")


def _describe_source(task: Task[Any, Any], source: Task[Any, Any], name: str | None) -> None:
    """Say where the weights of a fine-tuned model come from, and what of its vocabularies is new."""
    known, counts = source.indexed(), []
    for entries, (vocabulary, _) in task.indexed().items():
        new, old = count_new(known[entries].vocabulary, vocabulary)
        counts.append(f"{new:,} new and {old:,} known {entries}")
    say("; ".join([f"weights from {name}", *counts]))


def _flag(info: OptionInfo) -> str:
    return info.flags[0].split("/")[0]


def _shown(value: Any, other: Any = None) -> str:
    """A value for a person, who must be able to tell it from ``other``."""
    if value is None:
        return "not given"
    shown = str(value.get("name") if isinstance(value, dict) else value)
    if isinstance(value, tuple):
        shown = ",".join(value) or "none"
    return f"{shown} with other equations" if other is not None and _shown(other) == shown else shown


def _changed(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> str | None:
    """A warning where data is no longer what the run has read."""
    for source, stamp in before.items():
        if now.get(source) != stamp:
            return (
                f"{source} has changed since the run started; training continues, but can be resumed with the old data "
                "only"
            )
    return None
