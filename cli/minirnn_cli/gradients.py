"""``gradients``: how far back the gradient of the last step's loss reaches, in trained and in untrained layers."""

from __future__ import annotations

import math
import shutil
import textwrap
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from minirnn import random, tasks
from minirnn.gradient_flow import GradientFlow, model_flows
from minirnn.models.body import Body
from minirnn.plot import Chart, Curve, check_path
from minirnn.training import TrainingConfig
from minirnn_cli import options as o
from minirnn_cli.cells import find_cell
from minirnn_cli.plot import Out, show_picture
from minirnn_cli.runs import find_checkpoint
from minirnn_cli.show import compile_notes

_CELLS, _CLIP = ("rnn", "lstm", "gru"), TrainingConfig(steps=1).clip
_ROWS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # of the table
_EXPLANATION = """
Every step back multiplies the gradient by the transpose of the step's Jacobian. Where that makes it shorter, it
vanishes exponentially, and what happened longer ago than the memory length hardly changes the weights; where it makes
it longer, it explodes (Bengio, Simard & Frasconi 1994). Clipping bounds the norm of the whole gradient, so that one
step of training does no harm; it brings nothing back that has vanished (Pascanu, Mikolov & Bengio 2013). A gate that
keeps its state multiplies the gradient by a number near 1 (Hochreiter & Schmidhuber 1997), but training has to open it.
"""


def gradients(
    run: Annotated[
        Path | None, typer.Argument(help="A checkpoint, or the folder of a run.", show_default=False)
    ] = None,
    cell: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE.py:NAME", help=f"Cells, untrained; by default {', '.join(_CELLS)}."),
    ] = None,
    length: Annotated[int, typer.Option(min=1, max=10_000, help="Time steps T.")] = 200,
    hidden: Annotated[int, typer.Option("--hidden", "--hidden-size", min=1, max=4096, help="Units, for --cell.")] = 64,
    scale: Annotated[float, typer.Option(min=0, help="Multiply the recurrent weight matrices.")] = 1.0,
    clip: Annotated[float, typer.Option(min=0, help="Maximum norm that gradients are clipped to.")] = _CLIP,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    out: Out = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Measure how far back gradients reach: the norm of d loss_T / d h_t against T - t.

    Of a run, as trained and as a new model of the same kind; else of cells. The state h_t is all that a step passes
    on, of an LSTM (h, c).
    """
    if out is not None:
        check_path(out)
    flows: dict[str, GradientFlow] = {}
    with compile_notes(quiet or json):
        if run is not None:
            model = tasks.load(find_checkpoint(run)).model
            random.manual_seed(seed)
            untrained = type(model)(**model.config)
            for state, one in {"trained": model, "untrained": untrained}.items():
                for name, flow in model_flows(one, length, scale=scale, seed=seed).items():
                    flows[f"{name} {state}".strip()] = flow
        for given in cell or (_CELLS if run is None else ()):
            random.manual_seed(seed)
            body = Body(hidden, hidden, cell=find_cell(given), dtype="float64")
            flows[given.rpartition(":")[2]] = model_flows(body, length, scale=scale, seed=seed)[""]
    if json:
        for name, flow in flows.items():
            print(dumps({"name": name} | _facts(flow, clip)))
        return
    parts = [name.removesuffix("untrained").removesuffix("trained") for name in flows]
    curves = [
        Curve(name, np.arange(length + 1), flow.relative, name.endswith("untrained"), parts.index(part))
        for (name, flow), part in zip(flows.items(), parts, strict=True)
    ]
    chart = Chart(curves, "T - t", "norm of d loss_T / d h_t, relative to that at T", log=True)
    show_picture(chart, out, text=True)
    print("\n".join(["", *_table(flows, length, clip)]))
    if not quiet:
        print("\n" + textwrap.fill(" ".join(_EXPLANATION.split()), min(120, shutil.get_terminal_size().columns)))


def _facts(flow: GradientFlow, clip: float) -> dict[str, Any]:
    facts = {"weight_norm": flow.weight_norm, "clip_factor": _clip_factor(flow, clip), "factor": flow.factor}
    known = {name: value if math.isfinite(value) else None for name, value in facts.items()}
    norms = [norm if math.isfinite(norm) else None for norm in flow.norms.tolist()]
    return {"memory_length": flow.memory_length, **known, "norms": norms}


def _clip_factor(flow: GradientFlow, clip: float) -> float:
    return min(1.0, clip / flow.weight_norm) if flow.weight_norm else 1.0


def _table(flows: dict[str, GradientFlow], length: int, clip: float) -> list[str]:
    rows = [["T - t", *flows]]
    for k in sorted({*(k for k in _ROWS if k < length), length}):
        rows.append([str(k), *(f"{flow.relative[k]:.3g}" for flow in flows.values())])
    rows.append(["factor of a step", *(f"{flow.factor:.4g}" for flow in flows.values())])
    lengths = [flow.memory_length for flow in flows.values()]
    rows.append(["memory length", *(f"> {length - 1}" if m is None else str(m) for m in lengths)])
    rows.append(["norm for weights", *(f"{flow.weight_norm:.3g}" for flow in flows.values())])
    rows.append([f"clipped to {clip:g}, times", *(f"{_clip_factor(flow, clip):.3g}" for flow in flows.values())])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return ["  ".join(f"{one:>{width}}" for one, width in zip(row, widths, strict=True)) for row in rows]
