"""``look``: a page of HTML that runs a trained model."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from minirnn import tasks
from minirnn.checkpoint import write_atomically
from minirnn.data.sources import normalize_newlines
from minirnn.tasks.char import TextGenerator
from minirnn_cli import options as o
from minirnn_cli.lines import is_file
from minirnn_cli.runs import find_checkpoint, run_name
from minirnn_cli.show import compile_notes
from minirnn_cli.text import read_text, say_unknown


def look(
    checkpoint: o.Checkpoint,
    input: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT|FILE]", help="A text to show at first, or its file; - is standard input."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default the run's name with .html.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Weights of one byte: half the size, less exact.")] = False,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Write one HTML file that holds a trained model and runs it in a browser.

    Type or paste text, and see what each unit does at every symbol or word,
    what the model expects, or what it attends to. The units of a character
    model are ranked by the text given, or by one that it writes.
    """
    from minirnn.export import page

    o.use_threads(threads)
    path = find_checkpoint(checkpoint)
    task = tasks.load(path)
    symbols = task.symbols if isinstance(task, TextGenerator) else None
    if input is not None:
        input = read_text(input, symbols) if input == "-" or is_file(input) else normalize_newlines(input)
        if symbols and (missing := symbols.missing(input)) and not quiet:
            say_unknown(symbols, missing)
    name = run_name(path)
    with compile_notes(quiet):
        contents = page.contents(task, input, int8)
    data, output = page.render(contents, name), output or Path(f"{name}.html")
    write_atomically(output, data)
    if json:
        facts = {"file": str(output), "bytes": len(data), "kind": contents["kind"], **contents["about"]}
        print(dumps(facts | {"ranking": contents.get("ranking", [])}))
    else:
        print(f"{output}: {len(data) / 1e6:.2f} MB; open it in a browser")
