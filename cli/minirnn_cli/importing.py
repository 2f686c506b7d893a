"""``import``: a checkpoint out of a file of PyTorch, Keras or ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minirnn.errors import DataError
from minirnn.importing.model import import_model, read_vocabulary
from minirnn.serialization import save
from minirnn.tasks.char import TextGenerator
from minirnn_cli.options import Quiet
from minirnn_cli.show import say


def import_file(
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors, .pt, .pth, .ckpt, .keras, .h5 or .onnx.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Characters of a character model: a .json list or mapping, or the text it was trained on.",
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Take only arrays of a state dict whose names begin with this.")] = "",
    quiet: Quiet = False,
) -> None:
    """Make a checkpoint of a model that PyTorch, Keras or an ONNX file holds."""
    model = import_model(file, None if vocabulary is None else read_vocabulary(vocabulary), prefix)
    try:
        save(out, model)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from None
    if not quiet:
        if isinstance(model, TextGenerator):
            count, use = model.model.num_parameters(), f"minirnn sample {out}"
        else:
            count, use = model.num_parameters(), f"minirnn.load({str(out)!r})"
        say(f"{out}: {count:,} parameters; {use}")
