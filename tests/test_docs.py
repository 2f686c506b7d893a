"""The README and the pages in ``docs/``: their code runs, output is what is printed, links lead to files."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

import minirnn as mr
from minirnn.errors import CellError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@page
def test_code_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace per page; ``pycon`` blocks are doctests."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    values: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        kind, code = block.groups()
        lines_before = text[: block.start(2)].count("\n")
        if kind == "python":
            exec(compile("\n" * lines_before + code, str(page), "exec"), values)
            continue
        test = doctest.DocTestParser().get_doctest(code, values, page.name, str(page), lines_before)
        output: list[str] = []
        failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append, clear_globs=False)
        assert not failed, "".join(output)
        values = test.globs


@page
def test_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


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
    listed = re.search(
        r"^Built in are (.*?), each", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert listed is not None
    assert sorted(re.findall(r"`(\w+)`", listed[1])) == mr.cells.names()
