"""``export``: a trained model as a program of its own."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

import minirnn as mr
from minirnn.errors import OptionError
from minirnn.export import TARGETS, target_of
from minirnn_cli import options as o
from minirnn_cli.runs import find_checkpoint, run_name
from minirnn_cli.show import compile_notes, say

_USE = {"numpy": "python {}", "c": '#include "{}"', "onnx": 'onnxruntime.InferenceSession("{}")'}


def export(
    checkpoint: o.AnyCheckpoint = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(TARGETS), help="What to make; by default the suffix of the file tells, else NumPy code."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; by default the name of the run and the suffix.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="C only: store each weight in one byte.")] = False,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write a trained model as a program that needs minirnn no more: NumPy code, a C header, or an ONNX graph."""
    path = find_checkpoint(checkpoint)
    target = target_of(out or "", to) if to or out else "numpy"
    if int8 and target != "c":
        raise OptionError(f"--int8 is for --to c, not for {target}")
    file = out or Path(run_name(path) + TARGETS[target])
    given: dict[str, Any] = {"int8": True} if int8 else {}
    with compile_notes(quiet):
        mr.export(mr.load(path), file, target, **given)
    size, use = file.stat().st_size, _USE[target].format(file)
    if json:
        print(dumps({"checkpoint": str(path), "to": target, "file": str(file), "bytes": size, "use": use}))
    elif not quiet:
        say(f"wrote {file}, {size:,} bytes; use it with: {use}")
