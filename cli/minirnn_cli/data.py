"""``data``: corpora that are built in or can be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minirnn_cli import options as o
from minirnn_cli.show import say


def list_corpora(context: typer.Context) -> None:
    """List corpora to train on: built in, or to be downloaded by: minirnn data get NAME."""
    from minirnn.data import catalog

    if context.invoked_subcommand is None:
        for corpus in catalog.entries():
            size = "built in" if corpus.size is None else f"{corpus.size / 1000:,.0f} kB"
            print(f"{corpus.name:<24}{size:>10}  train-{corpus.task:<11} {corpus.description} ({corpus.license})")


def get(
    name: Annotated[str, typer.Argument(help="A name in the list of: minirnn data")],
    out: Annotated[Path, typer.Option(help="Folder for the file.")] = Path("data"),
    quiet: o.Quiet = False,
) -> None:
    """Download a corpus, and check its size and checksum. Prints the path of the file."""
    from minirnn.data import catalog

    corpus = catalog.find(name)
    if not quiet and corpus.url is not None:
        say(f"downloading {corpus.url} ({corpus.license})")
    path = catalog.download(name, out)
    print(path)
    if not quiet:
        say(f"now try: minirnn train-{corpus.task} {path}")
