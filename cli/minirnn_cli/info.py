"""``info``: what a checkpoint holds, and which devices can run it."""

from __future__ import annotations

from json import dumps
from typing import Any

from minirnn import cells, kernels
from minirnn.cells import Cell
from minirnn.checkpoint import load, part
from minirnn.errors import CellError, DeviceError, OptionError
from minirnn_cli import options as o
from minirnn_cli.runs import find_checkpoint

_NOT_SHOWN = {"position", "optimizer", "random", "fresh_epoch", "notes"}


def info(checkpoint: o.AnyCheckpoint = None, json: o.Json = False) -> None:
    """Show what a checkpoint holds: task, model, vocabulary, training, results; and the state of the devices."""
    path = find_checkpoint(checkpoint)
    arrays, config = load(path)
    weights, cell = part(arrays, "model."), _cell_of(config)
    position = config.get("position", {})
    first: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "task": config.get("task"),
        "model": config.get("model"),
        "equations": None if cell is None else _equations(cell),
        "parameters": sum(a.size for a in weights.values()),
        "symbols": config.get("symbols"),
        "data": config.get("data"),
    }
    last: dict[str, Any] = {
        "steps": position.get("step"),
        "tokens": position.get("tokens"),
        "seconds": position.get("seconds"),
        "metrics": position.get("metrics"),
        **{f"best_{name}": value for name, value in _best(position).items()},
        "options": config.get("options"),
        "resumable": "optimizer" in config,
        "devices": {device: _state(device, config, cell) for device in kernels.DEVICES},
        "arrays": {name: list(a.shape) for name, a in weights.items()},
    }
    others = sorted(config.keys() - first.keys() - last.keys() - _NOT_SHOWN)
    facts = first | {name: config[name] for name in others} | last
    if json:
        print(dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        lines = value if name == "equations" else None
        if isinstance(value, dict):
            named = {key: cell.name if cell and key == "cell" else item for key, item in value.items()}
            lines = [f"{key}: {_shown(item)}" for key, item in named.items() if item is not None]
        if lines is not None:
            print(f"{name}:", *lines, sep="\n  ")
        elif value is not None:
            print(f"{name}: {_shown(value)}")


def _best(position: dict[str, Any]) -> dict[str, Any]:
    """The metric of the best state; 0.2 saved the validation loss alone."""
    return position.get("best") or {"val_loss": position.get("best_loss")}


def _cell_of(config: dict[str, Any]) -> Cell | None:
    """The cell of a checkpoint's model; None where there is none, or none that this version knows."""
    model = config.get("model")
    try:
        return cells.get(model["cell"]) if isinstance(model, dict) else None
    except (KeyError, CellError, OptionError):
        return None


def _equations(cell: Cell) -> list[str]:
    from minirnn.cells._explain import equations_text

    try:
        return equations_text(cell.equations)
    except RecursionError:
        return ["nested too deeply to be shown"]


def _state(device: str, config: dict[str, Any], cell: Cell | None) -> str:
    """Whether a device is usable; of a GPU also what makes its products, and how it would run the recurrence of such a
    model in batches of 32.
    """
    if problem := kernels.unavailable_reason(device):
        return problem
    if device == "cpu":
        return "usable"
    from minirnn.kernels.cuda.info import device_summary, recurrence_summary

    usable = f"usable ({device_summary()})"
    if cell is None:
        return usable
    try:
        return f"{usable}; {recurrence_summary(cell.equations, config['model'].get('hidden_size', 1), 32)}"
    except DeviceError as error:
        return f"not for this model: {error}"


_LONGEST = 120  # characters of a value that are shown to a person


def _shown(value: Any) -> str:
    text = _plain(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 4] + " ..."


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
