"""``minirnn gradients``: the table, the chart and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import invoke, refusal


def test_cells(folder: Path) -> None:
    options = ("--length", "30", "--hidden", "8")
    done = invoke("gradients", *options, "--json")
    facts = {fact["name"]: fact for fact in map(json.loads, done.stdout.splitlines())}
    assert list(facts) == ["rnn", "lstm", "gru"]
    assert all(len(fact["norms"]) == 31 and fact["norms"][0] == pytest.approx(1) for fact in facts.values())
    text = invoke("gradients", *options, "--clip", "0.5").stdout
    assert "Pascanu, Mikolov & Bengio" in " ".join(text.split())
    rows = {line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:] for line in text.splitlines() if line.strip()}
    assert rows["30"] == [f"{fact['norms'][30] / fact['norms'][0]:.3g}" for fact in facts.values()]
    assert rows["memory length"] == [str(fact["memory_length"]) for fact in facts.values()]
    factors = [min(1, 0.5 / fact["weight_norm"]) for fact in facts.values()]
    assert rows["clipped to 0.5, times"] == [f"{factor:.3g}" for factor in factors]
    Path("own.py").write_text("import minirnn as mr\n@mr.cell\ndef leaky(a_x, /, h):\n    return 0.5 * h + a_x\n")
    leaky = json.loads(invoke("gradients", "--cell", "own.py:leaky", *options, "--scale", "9", "--json").stdout)
    assert leaky["name"] == "leaky"
    assert leaky["norms"] == [pytest.approx(0.5**k) for k in range(31)]


def test_runs(trained: Callable[[str], Path]) -> None:
    for name, bodies in {"char": [""], "translator": ["encoder ", "decoder "], "forecaster": ["body "]}.items():
        done = invoke("gradients", str(trained(name)), "--length", "12", "--json")
        names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
        assert names == [f"{body}{state}" for state in ("trained", "untrained") for body in bodies]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plot)")
    invoke("gradients", str(trained("char")), "--length", "12", "-o", "flow.svg")
    assert "</svg>" in Path("flow.svg").read_text(encoding="utf-8")


def test_mistakes_are_one_line() -> None:
    assert "there is no cell 'nope'" in refusal("gradients", "--cell", "nope")
    assert "no checkpoint" in refusal("gradients", ".") or "holds" in refusal("gradients", ".")
    invoke("gradients", "--cell", "rnn_relu")  # compiles, and says so
    assert "overflow" in refusal("gradients", "--cell", "rnn_relu", "--scale", "1000")
