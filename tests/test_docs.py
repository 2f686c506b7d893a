"""The README and the documentation: their code runs, output is what is printed, links lead to files.

Code blocks of a page run in order, in one namespace and one temporary folder. Commands run as written, except that
training commands get a small model and a budget of a few steps.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import Block, blocks_of

import minirnn as mr
from minirnn.errors import CellError

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
NOT_RUN = {
    "README.md": ["python3 -m venv .venv", "python3 -m venv .venv"],
    "CONTRIBUTING.md": ["git clone", "ruff check .", "python -m pytest", "sphinx-build"],
    "docs/get_started.md": ["sudo apt-get install", "python3 -m venv .venv"],
    "docs/gpu.md": ["pip install"],
    "docs/distributed.md": ["pip install", "mpiexec"],
    "docs/benchmarks.md": ["pip install"],
    "docs/guides/sweep.md": ["mpiexec"],
    "docs/guides/plot.md": ["minirnn train-char novel.txt --tensorboard"],
    "docs/guides/data.md": ['minirnn train-char "$(minirnn data get'],
    "docs/guides/system.md": ["minirnn warmup"],
}
"""The first words of every block that no test runs: it needs the network, a GPU, another tool, or too much time."""

PROVIDED = {"README.md": ["novel.txt", "letters.txt"], "docs/own_cell.md": ["text.txt", "my.py"]}
"""Files that a page takes for granted; ``my.py`` is the first block of the page."""

LANGUAGES = {"python", "pycon", "sh", "text", "json", "toml", "mermaid", ""}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def run_python(code: str, place: str, line: int, values: dict[str, Any]) -> None:
    exec(compile("\n" * line + code, place, "exec"), values)


def run_doctest(code: str, place: str, line: int, values: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(code, values, place, place, line)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, _ = runner.run(test, out=output.append, clear_globs=False)
    assert not failed, "".join(output)
    values.update(test.globs)


# ------------------------------------------------------------------------------------------------------- commands

INSTALLS = re.compile(r"\b(?:pip|apt|apt-get|conda|sudo|curl|wget|git)\b")
BUDGETS = ("--minutes", "--epochs", "--steps")
SMALL = ["--hidden", "8"]


def shortened(args: list[str]) -> list[str]:
    """The arguments of ``minirnn`` with a small budget where it trains, and two trials of a sweep."""
    if args[:1] == ["sweep"]:
        return ["sweep", *shortened(args[1:]), "--trials", "2"]
    if not args or not args[0].startswith("train-") or {"--help", "-h"} & {*args}:
        return args
    kept = [arg for n, arg in enumerate(args) if arg not in BUDGETS and (n == 0 or args[n - 1] not in BUDGETS)]
    steps = "6" if "--resume" in args else "3"
    chosen = {"--hidden", "--hidden-size", "--config", "--resume", "--init-from"} & {*args}
    return [*kept, "--steps", steps, *([] if chosen else SMALL)]


def run_commands(code: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the lines of a shell block: a plain ``minirnn`` command in this process, all else by bash."""
    assert not INSTALLS.search(code), f"mark this block as not-run, a test must not change the machine:\n{code}"
    lines = re.sub(r"\\\n\s*", " ", code).splitlines()
    plain = all(line.startswith("minirnn ") and not re.search(r"[|<>&;$]", line) for line in lines if line.strip())
    if not plain:
        subprocess.run(["bash", "-euc", code], cwd=folder, env=shell_environment(folder), check=True, timeout=120)
        return
    from minirnn_cli.main import app

    for line in lines:
        args = shortened(shlex.split(line, comments=True)[1:])
        with pytest.raises(SystemExit) as done:
            app(args or ["--help"])
        shown = capsys.readouterr()
        assert done.value.code in (0, None), f"{line}\n{shown.err}"


def shell_environment(folder: Path) -> dict[str, str]:
    """With a ``minirnn`` command that shortens its arguments first, and this Python."""
    bin = folder / ".bin"
    bin.mkdir(exist_ok=True)
    code = "import sys; from test_docs import shortened; sys.argv[1:] = shortened(sys.argv[1:])"
    script = f'#!{sys.executable}\n{code}\nfrom minirnn_cli.main import app\napp(prog_name="minirnn")\n'
    (bin / "minirnn").write_text(script, encoding="utf-8")
    (bin / "minirnn").chmod(0o755)
    paths = [str(ROOT / "tests"), str(ROOT), str(ROOT / "cli"), *filter(None, [os.environ.get("PYTHONPATH")])]
    path = f"{bin}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return dict(os.environ) | {"PATH": path, "PYTHONPATH": os.pathsep.join(paths)}


# ---------------------------------------------------------------------------------------------------------- tests


@page
def test_code_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = blocks_of(page)
    if any(
        "matplotlib" in block.code or " -o " in block.code for block in blocks if block.language in ("python", "sh")
    ):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: docs)").use("Agg")
    for module in ("onnx", "onnxruntime", "torch"):
        if any(f"import {module}" in block.code for block in blocks if block.language == "python"):
            pytest.importorskip(module, reason=f"{module} is not installed (extra: peers)")
    monkeypatch.chdir(tmp_path)
    for name in PROVIDED.get(str(page.relative_to(ROOT)), []):
        Path(name).write_text(blocks[0].code if name.endswith(".py") else "It was a dark and stormy night.\n" * 40)
    values: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.code, encoding="utf-8")
        if block.not_run is not None:
            continue
        if block.language == "python":
            run_python(block.code, str(page), block.line, values)
        elif block.language == "pycon":
            run_doctest(block.code, str(page), block.line, values)
        elif block.language == "sh":
            run_commands(block.code, tmp_path, capsys)


def test_blocks_that_are_not_run_are_listed() -> None:
    """With the reason in the page; a block that should run cannot be left out silently."""
    found: dict[str, list[Block]] = {}
    for path in PAGES:
        if left_out := [block for block in blocks_of(path) if block.not_run is not None]:
            found[str(path.relative_to(ROOT))] = left_out
    assert found.keys() == NOT_RUN.keys()
    for name, blocks in found.items():
        assert all(block.not_run for block in blocks), f"{name}: say why"
        assert len(blocks) == len(NOT_RUN[name]), name
        for block, start in zip(blocks, NOT_RUN[name], strict=True):
            assert block.code.startswith(start), name


@page
def test_blocks_have_a_known_language(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, block


@page
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_reference_lists_every_public_name() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    names = set(re.findall(r"^ +([\w.]+)$", pages, re.MULTILINE))
    modules = {"cells", "errors", "kernels", "models", "nn", "optim", "random", "functional", "lr_scheduler"}
    public = {*mr.__all__, *mr.nn.__all__, *mr.models.__all__, *mr.optim.__all__, *mr.nn.functional.__all__}
    missing = public - modules - {name.rpartition(".")[2] for name in names}
    assert not missing, sorted(missing)


def test_changelog_has_the_current_version() -> None:
    assert f"## [{mr.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def layer_of(file: Path) -> mr.nn.Recurrent:
    values: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), values)
    return mr.nn.Recurrent(values["leaky"], 3, 5)


def test_mistakes_in_a_cell_give_the_errors_of_the_page(tmp_path: Path) -> None:
    """The table has a whole cell in its first column, and in its second what the error ends with."""
    text = (ROOT / "docs" / "own_cell.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(def .*?)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 5
    for number, (code, message) in enumerate(rows):
        file = tmp_path / f"cell{number}.py"
        imports = "import math, numpy as np, minirnn as mr\nfrom minirnn.cells import *\n"
        file.write_text(f"{imports}@mr.cell\n{code}\n")
        with pytest.raises(CellError) as raised:
            layer_of(file)
        assert str(raised.value).endswith(f": {message}"), code


def test_readme_lists_the_built_in_cells() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.search(r"^Built in are (.*?)[;.]\s", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert sorted(re.findall(r"`(\w+)`", listed[1])) == mr.cells.names()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
