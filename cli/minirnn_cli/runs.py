"""Folders of runs: finding, making and reading them, and settings from a run or a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from minirnn.checkpoint import load_config
from minirnn.config import Config
from minirnn.errors import CheckpointError, DataError, OptionError
from minirnn.runs import BEST, LAST, PREVIOUS, RunFolder, best_checkpoint
from minirnn.validation import check_choice

CHECKPOINTS = Path("checkpoints")


def new_folder(out: Path | None, name: str) -> Path:
    """Make the folder of a new run: ``out``, or one called ``name``; never one that is in use.

    Raises:
        DataError: ``out`` holds files already, or cannot be made.
    """
    number, hint = 1, "" if out else "; choose another --out"
    while True:
        folder = out or CHECKPOINTS / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=out is not None)
        except FileExistsError as error:
            if out is not None:
                raise DataError(f"cannot write to {out}: {error.strerror}") from None
            number += 1
        except OSError as error:
            raise DataError(f"cannot write to {folder}: {error.strerror or error}{hint}") from None
        else:
            if any(folder.iterdir()):
                raise DataError(f"{out} is not empty; continue its run by --resume, or choose another --out")
            return folder


def resumed_folder(out: Path | None, name: str) -> Path:
    """Return the folder of the run to continue: ``out``, or the newest of the default folders for ``name``."""
    if out is not None:
        return out
    folders = [CHECKPOINTS / name, *CHECKPOINTS.glob(f"{escape(name)}-*")]
    numbered = [f for f in folders if f.name == name or f.name.removeprefix(f"{name}-").isdigit()]
    saved = [file for folder in numbered for last in (LAST, PREVIOUS) if (file := folder / last).exists()]
    return max(saved, key=lambda file: file.stat().st_mtime).parent if saved else CHECKPOINTS / name


def find_checkpoint(path: Path | None, *tasks: str) -> Path:
    """Return the checkpoint that ``path`` means: a file, the best of a run's folder, or of the newest run where None.

    Args:
        tasks: consider only runs of these where ``path`` is None, of any if there is none.

    Raises:
        CheckpointError: there is none; says what to run first.
    """
    if path is None:
        files = [file for name in (BEST, LAST) for file in CHECKPOINTS.glob(f"*/{name}")]
        newest = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
        chosen = next((file for file in newest if not tasks or _task_of(file) in tasks), None)
        if chosen is None:
            others = " of this kind" if newest else ""
            raise CheckpointError(
                f"no checkpoint{others} under {CHECKPOINTS}/; train one first, for example: minirnn train-char @python"
            )
        path = chosen.parent
    return best_checkpoint(path)


def run_name(checkpoint: Path) -> str:
    """Return the name for what is made of a checkpoint: that of the run it is a state of, else the file's own."""
    is_state = checkpoint.name in (BEST, LAST, PREVIOUS)
    return (checkpoint.parent.resolve().name if is_state else "") or checkpoint.stem


def _task_of(file: Path) -> str | None:
    try:
        return load_config(file).get("task")
    except CheckpointError:
        return None


def run_notes(path: Path, command: str | None) -> dict[str, Any]:
    """Return what is noted of how a run was started; ``settings`` are its options.

    Args:
        path: its folder, or a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is not a run of this command.
    """
    notes = (load_config(path) if path.is_file() else RunFolder(path).load_config()).get("notes")
    if not isinstance(notes, dict) or notes.get("command") != command or not isinstance(notes.get("settings"), dict):
        raise CheckpointError(f"{path} is not a run of {command}")
    return notes


def file_settings(path: Path, command: str | None, *configs: type[Config]) -> dict[str, Any]:
    """Return the options in a TOML file, or those that a run was started with.

    Args:
        path: a TOML file, whose keys are the names of options; or a run's folder or checkpoint.
        configs: which options there are.

    Raises:
        OptionError: the file cannot be read, or has an unknown option.
        CheckpointError: as :func:`run_notes`.
    """
    import tomllib

    if path.suffix != ".toml":
        return named_fields(run_notes(path, command)["settings"], str(path), *configs)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return named_fields(values, str(path), *configs)


def named_fields(values: Mapping[str, Any], source: str, *configs: type[Config]) -> dict[str, Any]:
    """Return options by the names of their fields, where they may be called by their flags.

    Raises:
        OptionError: an option is unknown.
    """
    found = {}
    for key, value in values.items():
        field = next((field for config in configs if (field := config.field_named(key))), None)
        if field is None:
            check_choice(source, key, [name for config in configs for name in config.options()])
        found[field or key] = value
    return found
