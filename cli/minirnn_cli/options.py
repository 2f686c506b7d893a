"""Options that several commands share, declared once."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from minirnn.cells import names
from minirnn.errors import CheckpointError, DataError

OptimizerName = StrEnum("OptimizerName", ["adam", "adamw", "sgd", "rmsprop", "adagrad"])
DeviceName = StrEnum("DeviceName", ["cpu", "cuda"])

MOST_UNITS = 1_000_000  # far more than any memory holds
_MOST_LAYERS = 1000
_MOST_THREADS = 1024


def _rate(help: str, max: float = 0.99) -> Any:
    return typer.Option(min=0, max=max, help=help, rich_help_panel="Model")


Cell = Annotated[
    str, typer.Option(metavar="NAME|FILE.py:NAME", rich_help_panel="Model",
                      help=f"Recurrent cell: {', '.join(names())}; or a cell of your own in a Python file.")
]  # fmt: skip
Hidden = Annotated[int, typer.Option(min=1, max=MOST_UNITS, help="Units in a layer.", rich_help_panel="Model")]
Layers = Annotated[int, typer.Option(min=1, max=_MOST_LAYERS, help="Recurrent layers.", rich_help_panel="Model")]
Bidirectional = Annotated[
    bool, typer.Option("--bidirectional/--one-way", help="Read from both ends, or from the start only.",
                       rich_help_panel="Model")
]  # fmt: skip
Embeddings = Annotated[
    str | None, typer.Option(help="Vectors of words, as GloVe or word2vec text.", rich_help_panel="Model")
]
Freeze = Annotated[bool, typer.Option("--freeze", help="Leave these vectors as they are.", rich_help_panel="Model")]
Dropout = Annotated[float, _rate("Share of each layer's outputs dropped in training.", 0.95)]
Zoneout = Annotated[float, _rate("Probability with which a unit keeps its old state in training.")]
RecurrentDropout = Annotated[float, _rate("Share of the state dropped on its way to the next step in training.")]
WeightDrop = Annotated[float, _rate("Share of the recurrent weights dropped in training.")]
SeqLength = Annotated[int, typer.Option(min=1, help="Steps through which gradients flow.", rich_help_panel="Training")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences read side by side.", rich_help_panel="Training")]
Steps = Annotated[int | None, typer.Option(min=1, help="Train this many steps.", rich_help_panel="Budget")]
Epochs = Annotated[
    float | None, typer.Option(min=0, help="Train this many passes over the data.", rich_help_panel="Budget")
]
Minutes = Annotated[
    float | None, typer.Option(min=0, help="Train this many minutes; the default where no budget is given.",
                               rich_help_panel="Budget")
]  # fmt: skip
LearningRate = Annotated[
    float, typer.Option("--lr", help="Peak learning rate (warm-up, then a cosine to 1 %).", rich_help_panel="Training")
]
Optimizer = Annotated[OptimizerName, typer.Option(help="How weights are updated.", rich_help_panel="Training")]
WeightDecay = Annotated[float, typer.Option(min=0, help="Weight decay.", rich_help_panel="Training")]
Clip = Annotated[float, typer.Option(min=0, help="Largest gradient norm; 0 for none.", rich_help_panel="Training")]
ValFraction = Annotated[
    float, typer.Option(min=0.001, max=0.9, help="Share of the data kept for validation.",
                        rich_help_panel="Training")
]  # fmt: skip
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same run.", rich_help_panel="Training")]
SaveEvery = Annotated[
    int | None, typer.Option(min=1, help="Save every so many steps; also at evaluations and once a minute.",
                             rich_help_panel="Run")
]  # fmt: skip
Out = Annotated[
    Path | None, typer.Option(help="Folder of the run; checkpoints/<name> unless given.", rich_help_panel="Run")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out, or the newest of this name.", rich_help_panel="Run")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST_THREADS, help="Threads; all cores, or MINIRNN_NUM_THREADS.", rich_help_panel="Run"),
]
Device = Annotated[DeviceName, typer.Option(help="Where to compute; cuda is a GPU.", rich_help_panel="Run")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.", rich_help_panel="Run")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON lines on standard output.", rich_help_panel="Run")]

CHECKPOINTS = Path("checkpoints")


def use_threads(count: int | None) -> None:
    """Limit the threads where the person asked for it."""
    if count is not None:
        from minirnn.kernels import set_num_threads

        set_num_threads(count)


def leave_stdout() -> None:
    """Let nothing more be written to a closed pipe, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def given(context: typer.Context, name: str) -> bool:
    """Whether the person typed option ``name``, rather than leaving it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def resumed_folder(out: Path | None, stem: str) -> Path:
    """The run to go on with: ``out``, or the newest of the default folders of this name."""
    from minirnn.runs import LAST, PREVIOUS

    if out is not None:
        return out
    folders = [CHECKPOINTS / stem, *CHECKPOINTS.glob(f"{escape(stem)}-*")]
    saved = [
        file for folder in folders for name in (LAST, PREVIOUS) if (file := folder / name).exists()
        and (folder.name == stem or folder.name.removeprefix(f"{stem}-").isdigit())
    ]  # fmt: skip
    return max(saved, key=lambda file: file.stat().st_mtime).parent if saved else CHECKPOINTS / stem


def claim_folder(out: Path | None, stem: str) -> Path:
    """A folder for a new run, made now; a run that is there is never written over.

    Raises:
        DataError: ``out`` holds files already, or cannot be made.
    """
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot write to {out}: {error.strerror or error}") from None
        if any(out.iterdir()):
            raise DataError(f"{out} is not empty; go on with its run by --resume, or choose another --out")
        return out
    number = 1
    while True:
        folder = CHECKPOINTS / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise DataError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
        else:
            return folder


def find_checkpoint(path: Path | None, task: str | None = None) -> Path:
    """The checkpoint meant by ``path``: a file, a run's folder, or the newest run where None.

    Args:
        task: only runs of this task count, where ``path`` does not say which.

    Raises:
        CheckpointError: there is none; says what to run first.
    """
    from minirnn.runs import BEST, LAST

    if path is None:
        found = sorted(
            (file for name in (BEST, LAST) for file in CHECKPOINTS.glob(f"*/{name}")),
            key=lambda file: file.stat().st_mtime, reverse=True,
        )  # fmt: skip
        chosen = next((file for file in found if task is None or _task_of(file) == task), None)
        if chosen is None:
            others = " of this kind" if found else ""
            raise CheckpointError(
                f"no checkpoint{others} under {CHECKPOINTS}/; train one first, for example: minirnn train-char @python"
            )
        path = chosen.parent
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).exists():
                return path / name
        raise CheckpointError(f"no checkpoint in {path}; expected {BEST} or {LAST}")
    return path


def _task_of(file: Path) -> str | None:
    from minirnn.checkpoint import load_config

    try:
        return load_config(file).get("task")
    except CheckpointError:
        return None
