"""``sweep``: searches options of a training command; every trial is a run in a process of its own."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from minirnn import distributed, kernels
from minirnn.checkpoint import write_atomically
from minirnn.config import OptionInfo
from minirnn.errors import DataError, OptionError
from minirnn.kernels.precision import check_precision
from minirnn.runs import LAST, PREVIOUS
from minirnn.sweep import (
    Choice,
    Ended,
    Runner,
    Space,
    Sweep,
    Trial,
    open_runners,
    parse_space,
    run_processes,
    rungs,
    sample,
    serve,
)
from minirnn.tasks import TASKS, Task
from minirnn.training import TrainingConfig
from minirnn.validation import check_choice, check_int
from minirnn_cli import options as o
from minirnn_cli import runs
from minirnn_cli.show import say
from minirnn_cli.train import default_name, given_options, make_configs

_COMMAND, _LOCK = "command.txt", "lock"
_TRIALS, _MAX_TRIALS = 20, 1000

Command = Annotated[str, typer.Argument(metavar="train-... DATA...", help="A training command with its options.")]
Trials = Annotated[int | None, typer.Option(min=1, help=f"Trials; by default a whole grid, else {_TRIALS}.")]
Reduction = Annotated[int, typer.Option(min=1, help="Continue one of this many trials; 1 trains all to the end.")]
SearchSeed = Annotated[int, typer.Option(min=0, help="Random seed of the choice of trials.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials at a time; by default as many as there are cores for, or one per MPI rank.",
        rich_help_panel="Run",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads per trial; by default the cores are divided.", rich_help_panel="Run")
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the sweep; by default checkpoints/<data>-sweep.", rich_help_panel="Run")
]


def sweep(
    context: typer.Context,
    command: Command,
    trials: Trials = None,
    reduction: Reduction = 3,
    search_seed: SearchSeed = 0,
    jobs: Jobs = None,
    threads: Threads = None,
    out: Out = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Search the best options of a training command, by successive halving over trials in parallel.

    The command has its options as usual. One with several values (--hidden 128,256), or of numbers with a range
    (--lr 1e-3..1e-2), is searched. The same command again continues a sweep that was interrupted.
    """
    task = TASKS[check_choice("sweep", command, [f"train-{name}" for name in TASKS]).removeprefix("train-")]
    arguments, places, space = _split(task, context.args)
    if not space:
        raise OptionError("sweep: expected an option to search, as --hidden 128,256 or --lr 1e-3..1e-2, got none")
    grid = [len(one.values) for one in space.values() if isinstance(one, Choice)]
    count = trials or (math.prod(grid) if len(grid) == len(space) else _TRIALS)
    tried = sample(space, check_int("--trials", count, 1, _MAX_TRIALS), search_seed)
    commands = []
    for options in tried:
        values = {places[name]: str(value) for name, value in options.items()}
        commands.append([values.get(place, argument) for place, argument in enumerate(arguments)])
    checked = [_check(task, context, command, each) for each in commands]
    name, evaluations, device = checked[0]

    folder = out or runs.CHECKPOINTS / f"{name}-sweep"
    own = ("--trials", str(count), "--reduction", str(reduction), "--search-seed", str(search_seed))
    with _claimed(folder, shlex.join(["minirnn", "sweep", command, *context.args, *own])) as descriptors:
        if distributed.rank() > 0:
            serve(Runner(descriptors))
            return
        digits = len(str(len(tried)))
        made = [
            Trial(number, options, str(folder / f"trial-{number:0{digits}}"), shlex.join(["minirnn", command, *each]))
            for number, (options, each) in enumerate(zip(tried, commands, strict=True), 1)
        ]
        search, ranks = Sweep(folder, made, rungs(len(tried), evaluations, reduction)), distributed.size()
        cores = len(set[Any]().union(*distributed.cores()))
        jobs = jobs or (ranks if ranks > 1 else 1 if device == "cuda" else max(1, cores // (threads or 1)))

        def start(pending: Mapping[int, Trial], until: int) -> Ended:
            parallel = max(1, min(jobs, len(runners), len(pending)))
            each = [threads] * parallel if threads else distributed.divide_cores([r.cores for r in runners[:parallel]])
            for runner, number in zip(runners, each, strict=False):
                runner.arguments = ("--threads", str(number))
            if pending and not quiet:
                counts = " or ".join(map(str, sorted(set(each))))
                say(f"{len(pending)} of {len(tried)} trials, to {until} of {evaluations} evaluations, {parallel} in "
                    f"parallel, on {counts} of {cores} threads each")  # fmt: skip
            started = {}
            for number, trial in pending.items():
                run = Path(trial.folder)
                resume = any((run / state).exists() for state in (LAST, PREVIOUS))
                if not resume:
                    shutil.rmtree(run, ignore_errors=True)  # of a run that was killed before it had saved anything
                more = ("--out", str(run), "--pause-after", str(until), "--quiet")
                program = (sys.executable, "-P", "-m", "minirnn", command)
                started[number] = [*program, *commands[number - 1], *more, *(["--resume"] if resume else [])]
            return run_processes(started, runners, parallel)

        flags = [arguments[place - 1] for place in places.values()]
        try:
            with open_runners(jobs, descriptors) as runners:
                for trial in search.run(start):
                    if not quiet:
                        pairs = zip(flags, trial.options.values(), strict=True)
                        result = trial.error or f"{trial.metric} {trial.values[-1]:.4f}"
                        tries = ", ".join(f"{flag} {value}" for flag, value in pairs)
                        say(f"  trial {trial.trial:>{digits}}: {tries}: {result}")
        except (KeyboardInterrupt, SystemExit):
            if not quiet:
                say(f"stopped; what is done is saved in {folder}, and the same command continues")
            raise

    failed = [trial for trial in search.trials if trial.error is not None]
    shown = [*search.ranked([trial for trial in search.trials if trial.error is None]), *failed]
    if json:
        print(*(dumps(asdict(trial)) for trial in shown), sep="\n", flush=True)
    else:
        _print_table(shown, flags)
    if len(failed) == len(shown):
        say(f"minirnn: all trials failed, the first one: {failed[0].error}")
        raise typer.Exit(1)
    if not json:
        print(f"\nbest: {shown[0].folder}, as by\n{shown[0].command}")


def _check(
    task: type[Task[Any, Any]], context: typer.Context, command: str, arguments: Sequence[str]
) -> tuple[str, int, str]:
    """The name, number of evaluations and device of the run that a command would begin.

    Raises:
        MinirnnError: the command would refuse its options, or cannot be part of a sweep.
    """
    assert context.parent is not None
    program: Any = context.parent.command
    try:
        parsed = program.commands[command].make_context(command, list(arguments), parent=context.parent)
    except typer.BadParameter as error:
        raise OptionError(error.format_message()) from None
    values = parsed.params
    if option := next((option for option in ("resume", "pause_after") if values[option]), None):
        raise OptionError(f"--{option.replace('_', '-')}: a sweep does this itself; leave it out")
    sources = [values["data"]] if task.single_source else values["data"]
    for source in sources:
        if not (source.startswith("@") or os.path.isfile(source) or os.path.isdir(source)):
            raise DataError(f"cannot read {source}: expected a file, which every trial reads")
    fields = task.Config.options() | TrainingConfig.options()
    config = values["config"] and Path(values["config"])
    given = given_options(task, parsed, config, {name: values[name] for name in fields})
    _, training = make_configs(task, given)
    kernels.on(values["device"])
    check_precision(training.precision, values["device"])
    return default_name(sources[0]), training.evaluations, values["device"]


@contextmanager
def _claimed(folder: Path, command: str) -> Iterator[list[int]]:
    """Keep the folder of a sweep from all others, and SIGTERM from ending its trials unsaved.

    Yields descriptors: while one of them is open, in a trial too, the folder is in use.

    Raises:
        DataError: it is in use, holds another sweep, or something else.
    """
    path, first = folder / _COMMAND, distributed.rank() == 0
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(entry.name != _LOCK for entry in folder.iterdir()):
            raise DataError(f"{folder} is not empty, and not the folder of a sweep; choose another --out")
    distributed.barrier()
    with open(folder / _LOCK, "a+") as lock:
        if first:
            try:
                _lock(lock)
            except BlockingIOError:
                raise DataError(f"{folder} is in use by another sweep, or by trials of one; wait for them") from None
            if not path.exists():
                write_atomically(path, command.encode())
            elif (other := path.read_text(encoding="utf-8", errors="replace")) != command:
                raise DataError(f"{folder} holds another sweep, by {other}; choose another --out")
            _lock(lock, shared=True)
        distributed.barrier()
        if not first:
            _lock(lock, shared=True)
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            yield [lock.fileno()] if os.name == "posix" else []
        finally:
            signal.signal(signal.SIGTERM, before)


def _lock(file: IO[str], shared: bool = False) -> None:
    """Lock a file for this process and those that it starts, or shared with others; on Windows do nothing.

    Raises:
        BlockingIOError: it is locked by others.
    """
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _print_table(trials: Sequence[Trial], flags: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    metric = next((trial.metric for trial in trials if trial.metric), None) or "metric"
    table = Table("trial", metric, *(flag.strip("-") for flag in flags), "steps", "seconds", "status", box=SIMPLE_HEAD)
    for trial in trials:
        value = f"{trial.values[-1]:.4f}" if trial.values else ""
        options = [str(value) for value in trial.options.values()]
        status = f"failed: {trial.error}" if trial.error is not None else trial.status
        table.add_row(str(trial.trial), value, *options, str(trial.steps), f"{trial.seconds:.1f}", status)
    Console(width=None if sys.stdout.isatty() else 1000, markup=False, highlight=False).print(table)


def _split(task: type[Task[Any, Any]], arguments: Sequence[str]) -> tuple[list[str], dict[str, int], dict[str, Space]]:
    """The arguments of the training command, and by the names of options where searched ones stand, and their spaces.

    Raises:
        OptionError: a space is none, cannot be searched, or is given twice.
    """
    flags: dict[str, tuple[str, OptionInfo]] = {}
    for config in (task.Config, TrainingConfig):
        flags |= {flag: (name, info) for name, info in config.options().items() for flag in info.flags}
    parts: list[str] = []
    for argument in arguments:
        flag, equals, text = argument.partition("=")
        parts += [flag, text] if equals and flag in flags else [argument]
    places: dict[str, int] = {}
    spaces: dict[str, Space] = {}
    for place, flag in enumerate(parts[:-1], 1):
        name, info = flags.get(flag, ("", None))
        if info is None or not (info.types[0] in (int, float) or info.choices or name == "cell"):
            continue  # in other values a comma has a meaning of its own
        space = parse_space(flag, parts[place], info)
        if space is not None and info.group in ("Budget", "Run"):
            raise OptionError(f"{flag}: expected one value, the same for all trials, got {parts[place]!r}")
        if name in places:
            raise OptionError(f"{flag}: expected to be given once, got it twice")
        if space is not None:
            places[name], spaces[name] = place, space
    return parts, places, spaces
