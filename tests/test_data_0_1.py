"""Checkpoints and runs of version 0.1 can be used and resumed; see data_0_1/make.sh for how they were made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import invoke

FOLDER = Path(__file__).parent / "data_0_1"
OTHER_MASKS = ("classifier", "tagger", "translator", "music")
"""Tasks whose random numbers belong to a sequence; in 0.1 they belonged to a place in the batch, so losses differ."""
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


def close(value: Any) -> Any:
    """Like ``value``, with numbers that may differ by rounding."""
    if isinstance(value, dict):
        return {name: close(item) for name, item in value.items()}
    if isinstance(value, list):
        return [close(item) for item in value]
    return pytest.approx(value, rel=1e-4) if isinstance(value, float) else value


@pytest.mark.parametrize("name", EXPECTED)
def test_results_are_those_of_version_0_1(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ``predict`` or ``sample``, of ``eval``, and the metrics of a resumed run."""
    shutil.copytree(FOLDER / name, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    made = EXPECTED[name]
    found = json.loads(invoke(*made["use"].split()).stdout)
    assert {key: found[key] for key in made["result"]} == close(made["result"])
    assert json.loads(invoke("eval", "run", made["data"], "--json").stdout) == close(made["eval"])
    Path("own.py").unlink(missing_ok=True)  # the checkpoint holds the equations
    invoke(f"train-{name}", made["data"], "--out", "run", "--resume", "--steps", "6", "--quiet")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    if name in OTHER_MASKS:
        for line, expected in zip(lines[3:], made["resumed"], strict=True):
            assert line["val_loss"] == pytest.approx(expected["val_loss"], rel=0.03)
            same = ("tokens", "epoch", "lr")
            assert {key: line[key] for key in same} == close({key: expected[key] for key in same})
        return
    assert [line | {"seconds": None} for line in lines[3:]] == [
        line | {"seconds": None} for line in close(made["resumed"])
    ]
