"""``draw``: a net as a diagram, in the text of Mermaid or DOT."""

from __future__ import annotations

from typing import Annotated

import typer

from minirnn import draw as drawing
from minirnn import tasks
from minirnn_cli import options as o
from minirnn_cli.runs import find_checkpoint


def draw(
    checkpoint: o.Checkpoint,
    unfold: Annotated[
        int | None, typer.Option(min=1, max=100, help="Draw so many time steps side by side.", show_default=False)
    ] = None,
    dot: Annotated[bool, typer.Option("--dot", help="Write DOT, for Graphviz, rather than Mermaid.")] = False,
) -> None:
    """Print a diagram of a trained net in Mermaid, which GitHub shows: layers, and the shape of what flows."""
    print(drawing(tasks.load(find_checkpoint(checkpoint)), unfold, "dot" if dot else "mermaid"))
