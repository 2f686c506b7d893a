"""Every built-in cell on one text with default settings: validation loss, steps and speed, as a Markdown table.

    python benchmarks/cells.py TEXT [CELL ...] [--minutes 3]

Each cell is trained by ``minirnn train-char TEXT --cell NAME`` in a process and a folder of its own; kernels are
compiled before, so that all of the time is training. The end of the text is the validation set; the loss is that of the
best checkpoint.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from minirnn import cells

MINIRNN = [sys.executable, "-m", "minirnn_cli.main"]


def row(text: Path, cell: str, minutes: float, folder: Path) -> str:
    """The row of one cell in the table."""
    command = [*MINIRNN, "train-char", str(text), "--cell", cell, "--quiet"]
    for out, budget in (("compile", ["--steps", "1"]), (cell, ["--minutes", str(minutes)])):
        subprocess.run([*command, "--out", out, *budget], cwd=folder, check=True)
    info = subprocess.run([*MINIRNN, "info", cell, "--json"], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    parameters = json.loads(info.stdout).get("parameters", 0)
    lines = [json.loads(line) for line in (folder / cell / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    loss = min(line["val_loss"] for line in lines if line.get("val_loss") is not None)
    last = lines[-1]
    (folder / "compile").rename(folder / f"compile-{cell}")
    return f"| {cell} | {loss:.3f} | {last['step']:,} | {last['tokens'] / last['seconds']:,.0f} | {parameters:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("cells", nargs="*", metavar="CELL", help="default: all built-in cells")
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()
    print("| cell | validation loss, nats per character | steps | characters per second | parameters |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for cell in options.cells or cells.names():
            print(row(options.text.resolve(), cell, options.minutes, Path(name)), flush=True)


if __name__ == "__main__":
    main()
