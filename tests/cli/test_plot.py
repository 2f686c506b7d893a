"""``minirnn plot``: pictures to files and in characters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import invoke, refusal
from tiny import TASKS

Trained = Callable[[str], Path]


def test_curves_of_runs(trained: Trained) -> None:
    runs = [str(trained(name)) for name in ("char", "classifier")]
    text = invoke("plot", *runs, "--x", "time", env={"COLUMNS": "70"}).stdout
    assert all(len(line) <= 70 for line in text.splitlines())
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plot)")
    done = invoke("plot", *runs, "-o", "curves.svg")
    assert done.output == ""
    assert "</svg>" in Path("curves.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["classifier", "tagger", "forecaster", "music"])
def test_pictures_of_data(trained: Trained, name: str) -> None:
    folder = trained(name)
    data = "C4,E4" if name == "music" else str(folder.parent / TASKS[name].name)
    text = invoke("plot", str(folder), "--data", data).stdout
    assert {"classifier": "neg", "tagger": "NOUN", "forecaster": "last value", "music": "step; the first 1"}[
        name
    ] in text
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plot)")
    invoke("plot", str(folder), "--data", data, "-o", "picture.png")
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_composes_the_same_piece(trained: Trained) -> None:
    command = ("plot", str(trained("music")), "--data", "", "--length", "9", "--seed", "4")
    assert invoke(*command).stdout == invoke(*command).stdout


def test_mistakes_are_one_line(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    char = str(trained("char"))
    assert "is not the folder of a run" in refusal("plot", "nowhere")
    assert "metric: expected one of loss, epoch" in refusal("plot", char, "--metric", "f1")
    assert "no picture of data for a character model" in refusal("plot", char, "--data", "x")
    assert "expected one run, got 2" in refusal("plot", char, char, "--data", "x")
    assert "--length is for" in refusal("plot", char, "--length", "3")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'minirnn[plot]'" in refusal("plot", char, "-o", "x.png")
    assert "┤" in invoke("plot", char).stdout
