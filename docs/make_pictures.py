"""Make the pictures of the README and the documentation, in ``docs/_static``.

    python docs/make_pictures.py              # the drawings, and the pictures of the pages under docs/learn
    python docs/make_pictures.py session      # a real session of three minutes: terminal.svg and loss_curve.svg
    python docs/make_pictures.py net          # what minirnn draw prints, drawn by Graphviz (its program dot): net.svg

The pages under ``docs/learn`` contain the code that draws their pictures. This script runs that code as it stands, so a
picture always belongs to the code beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import minirnn as mr

DOCS = Path(__file__).parent
STATIC = DOCS / "_static"
INPUT, STATE, OUTPUT, PLAIN = "#b7e1cd", "#aecbfa", "#fdd9b5", "#eceff1"  # fill colours

# ------------------------------------------------------------------------------------------------------ drawings


class Svg:
    """An SVG file made of rounded boxes, arrows and text, on a white background."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'font-family="system-ui, Helvetica, Arial, DejaVu Sans, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#455a64"/></marker></defs>',
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="white"/>',
        ]

    def box(self, x: float, y: float, width: float, height: float, fill: str, text: str = "", size: int = 14) -> None:
        """A box with its upper left corner at (x, y)."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="#455a64"/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2 + 0.35 * size, text, size)

    def text(self, x: float, y: float, text: str, size: int = 14, anchor: str = "middle", bold: bool = False) -> None:
        """Text whose baseline is at y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight} fill="#263238">'
            f"{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """A line through the points, with a head at its end."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<path d="M{path}" fill="none" stroke="#455a64" stroke-width="1.4"{dash} marker-end="url(#head)"/>'
        )

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self.parts, "</svg>"]) + "\n", encoding="utf-8")


def draw_five_types(path: Path) -> None:
    """One panel per type: inputs at the bottom, states in the middle, outputs on top."""
    types = [  # title, example, number of steps, steps with an input, steps with an output, outputs are fed back
        ("one-to-one", "features to a class", 1, [0], [0], False),
        ("one-to-many", "a label to a drawing", 3, [0], [0, 1, 2], True),
        ("many-to-one", "a review to its sentiment", 3, [0, 1, 2], [2], False),
        ("many-to-many", "a tag for every word", 3, [0, 1, 2], [0, 1, 2], False),
        ("encoder-decoder", "English to French", 6, [0, 1, 2], [3, 4, 5], True),
    ]
    size, gap, margin = 26, 22, 24
    widths = [max(156, n * size + (n - 1) * gap) for _, _, n, *_ in types]
    svg = Svg(sum(widths) + margin * (len(types) + 1), 248, "The five types of recurrent networks")
    left = float(margin)
    for (title, example, steps, inputs, outputs, fed_back), width in zip(types, widths, strict=True):
        svg.text(left + width / 2, 30, title, 16, bold=True)
        svg.text(left + width / 2, 236, example, 13)
        start = left + (width - steps * size - (steps - 1) * gap) / 2
        for t in range(steps):
            x = start + t * (size + gap)
            middle = x + size / 2
            svg.box(x, 112, size, size, STATE)
            if t + 1 < steps:
                svg.arrow((x + size, 125), (x + size + gap, 125))
            if t in inputs:
                svg.box(x, 180, size, size, INPUT)
                svg.arrow((middle, 180), (middle, 138))
            if t in outputs:
                svg.box(x, 46, size, size, OUTPUT)
                svg.arrow((middle, 112), (middle, 72))
                if fed_back and t != outputs[-1]:
                    below = middle + size + gap
                    svg.arrow((x + size, 59), (x + size + gap / 2, 59), (x + size + gap / 2, 150), (below - 4, 150),
                              (below - 4, 138), dashed=True)  # fmt: skip
        left += width + margin
    svg.save(path)


def draw_architecture(path: Path) -> None:
    """The packages of minirnn: each imports from the rows below it only."""
    rows = [
        ([("cli", "commands, progress, exit codes")], INPUT),
        ([("export", "a trained model as NumPy code, C or ONNX")], INPUT),
        ([("tasks", "configuration, data, model, loss and metrics of each command")], INPUT),
        ([("training", "the loop"), ("runs", "a run's folder"), ("checkpoint", "safetensors")], PLAIN),
        ([("models", "the five types, CharLM")], STATE),
        ([("nn", "modules, losses"), ("optim", "optimizers, schedules")], STATE),
        ([("autograd", "tensor, tape, operations"), ("cells", "equations")], STATE),
        ([("kernels", "contract.py: arrays in, arrays out"), ("cpu", "Numba"), ("cuda", "numba-cuda")], OUTPUT),
        ([("errors", ""), ("validation", ""), ("config", ""), ("random", "")], PLAIN),
    ]
    height, gap, margin, side, width = 46, 14, 24, 190, 640
    svg = Svg(width + side + 3 * margin, len(rows) * (height + gap) + 2 * margin - gap, "The packages of minirnn")
    for row, (boxes, fill) in enumerate(rows):
        y = margin + row * (height + gap)
        full = width + side + margin if row in (0, 1, 2, 8) else width
        weights = [2 if name == "kernels" else 1 for name, _ in boxes]
        unit = (full - 10 * (len(boxes) - 1)) / sum(weights)
        x = float(margin)
        for (name, about), weight in zip(boxes, weights, strict=True):
            svg.box(x, y, unit * weight, height, fill)
            svg.text(x + unit * weight / 2, y + (19 if about else 28), name, 15, bold=True)
            svg.text(x + unit * weight / 2, y + 37, about, 12)
            x += unit * weight + 10
        if row:
            svg.arrow((margin + 40, y - gap), (margin + 40, y))
    y, tall = margin + 3 * (height + gap), 5 * (height + gap) - gap
    x = width + 2 * margin
    svg.box(x, y, side, tall, PLAIN)
    for line, text in enumerate(["data", "metrics", "decode"]):
        svg.text(x + side / 2, y + 90 + 28 * line, text, 15, bold=True)
    svg.text(x + side / 2, y + 190, "use NumPy only", 12)
    svg.save(path)


def draw_life_of_a_batch(path: Path) -> None:
    """What a training step goes through, forward to the right and backward to the left."""
    stages = [
        ("data", "tokens [T, N]"), ("Embedding", "table [V, E]"), ("LSTM", "y [T, N, H]"),
        ("Linear", "logits [T, N, V]"), ("cross_entropy", "loss []"),
    ]  # fmt: skip
    width, gap, margin = 138, 34, 24
    svg = Svg(len(stages) * (width + gap) - gap + 2 * margin, 212, "The life of a batch")
    for number, (name, about) in enumerate(stages):
        x = margin + number * (width + gap)
        svg.box(x, 52, width, 54, (INPUT, STATE, STATE, STATE, OUTPUT)[number])
        svg.text(x + width / 2, 75, name, 15, bold=True)
        svg.text(x + width / 2, 95, about, 12)
        if number:
            svg.arrow((x - gap, 70), (x, 70))
            if number > 1:
                svg.arrow((x, 90), (x - gap, 90), dashed=True)
    svg.text(margin, 32, "forward pass: operations run and are recorded on the tape", 13, "start")
    first, last = margin + width + gap, svg.width - margin
    svg.box(
        first, 142, last - first, 40, PLAIN, "one flat buffer of gradients: clipping, then Adam updates all weights"
    )
    for number in range(1, 4):
        x = margin + number * (width + gap) + width / 2
        svg.arrow((x, 106), (x, 142), dashed=True)
    svg.text(first, 202, "dashed: the backward pass; the tape calls each operation's gradient function", 13, "start")
    svg.save(path)


# --------------------------------------------------------------------------------------- pictures of the Learn pages


def run_learn_pages() -> None:
    """Run the code of every page under ``docs/learn``, which saves its pictures in the working directory."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from doc_blocks import blocks_of

    os.chdir(STATIC)
    for page in sorted((DOCS / "learn").glob("*.md")):
        mr.manual_seed(0)
        values: dict[str, object] = {"__name__": "__main__"}
        for block in blocks_of(page):
            if block.language == "python":
                exec(compile("\n" * block.line + block.code, str(page), "exec"), values)


# ------------------------------------------------------------------------------------------------- a real session

TERMINAL = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A session: minirnn train-char, then minirnn sample</title>
<style>.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; }} {styles}</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#1c2128"/>
<circle cx="22" cy="22" r="6" fill="#ff5f57"/><circle cx="42" cy="22" r="6" fill="#febc2e"/>
<circle cx="62" cy="22" r="6" fill="#28c840"/>
<g transform="translate(12, 40)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
TRAIN = ["train-char", "@python"]
SAMPLE = ["sample", "--prime", "def ", "--seed", "2", "--length", "400"]
COLUMNS = 110


def record_session() -> None:
    """Train on the Python standard library's sources and sample, as in the README."""
    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in (TRAIN, SAMPLE):
            code = f"import sys; from minirnn_cli.main import app; sys.argv[1:] = {command!r}; app()"
            done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
            texts[shlex.join(["minirnn", *command])] = done.stderr + done.stdout
        metrics = Path(folder, "checkpoints", "python", "metrics.jsonl").read_text(encoding="utf-8")
    draw_terminal(STATIC / "terminal.svg", texts)
    draw_loss_curve(STATIC / "loss_curve.svg", [json.loads(line) for line in metrics.splitlines()])


def draw_terminal(path: Path, texts: dict[str, str]) -> None:
    """A terminal with commands and their output, long outputs shortened."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for command, output in texts.items():
        console.print(Text(f"$ {command}", style="bold green"))
        for line in _shortened(output.splitlines()):
            console.print(Text(line[:COLUMNS]), no_wrap=True)
    path.write_text(console.export_svg(code_format=TERMINAL, title="", unique_id="session"), encoding="utf-8")


def draw_loss_curve(path: Path, steps: list[dict[str, Any]]) -> None:
    """Training and validation loss of a run, from the lines of its metrics file."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot([s["tokens"] / 1e6 for s in steps], [s["train_loss"] for s in steps], lw=0.8, label="training")
    evaluated = [s for s in steps if "val_loss" in s]
    axes.plot(
        [s["tokens"] / 1e6 for s in evaluated], [s["val_loss"] for s in evaluated], "o-", ms=4, label="validation"
    )
    axes.set(xlabel="million characters read", ylabel="loss, nats per character", ylim=(1, 3))
    axes.set_title("minirnn train-char @python")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def _shortened(lines: list[str]) -> list[str]:
    """The first and last lines of a training run; the first lines of anything else."""
    steps = [n for n, line in enumerate(lines) if line.startswith("step")]
    return [*lines[: steps[2]], "...", *lines[steps[-1] :]] if len(steps) > 4 else lines[:12]


def draw_net(path: Path) -> None:
    """A character model, unfolded over three steps."""
    font = "Helvetica,Arial,sans-serif"
    style = [f"-Nfontname={font}", f"-Efontname={font}", "-Efontsize=11", "-Gpad=0.2", "-Gbgcolor=white"]
    text = mr.draw(mr.models.CharLM(65, 128), unfold=3, to="dot")
    subprocess.run(["dot", "-Tsvg", *style, "-o", str(path)], input=text.encode(), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["session", "net"], help="make this instead")
    options = parser.parse_args()

    if options.what == "net":
        draw_net(STATIC / "net.svg")
        return

    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "minirnn"  # the same picture gives the same file
    STATIC.mkdir(exist_ok=True)
    if options.what == "session":
        record_session()
        return
    draw_five_types(STATIC / "five_types.svg")
    draw_architecture(STATIC / "architecture.svg")
    draw_life_of_a_batch(STATIC / "life_of_a_batch.svg")
    run_learn_pages()


if __name__ == "__main__":
    main()
