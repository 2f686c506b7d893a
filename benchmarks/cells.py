"""Every built-in cell on one text with the same settings: validation loss, steps and speed, as a Markdown table.

    python benchmarks/cells.py TEXT [CELL ...] [--minutes 3]

Each cell is trained by ``minirnn train-char TEXT --cell NAME`` and the options below, as in ``benchmarks/learning.py``.
"""

from __future__ import annotations

import argparse

from learning import train

from minirnn import cells

OPTIONS = ("--batch-size", "32", "--dropout", "0.2", "--weight-drop", "0")  # which suit most cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="default: all built-in cells")
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()
    print("| cell | validation loss, nats per character | steps | characters per second | parameters |")
    print("|---|---|---|---|---|")
    for cell in options.cells or cells.names():
        run = train(options.text, options.minutes, "--cell", cell, *OPTIONS)
        figures = f"{run.loss:.3f} | {run.steps:,} | {run.tokens_per_second:,.0f} | {run.parameters:,}"
        print(f"| {cell} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
