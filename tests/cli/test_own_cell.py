"""``--cell``: a cell in a file of the user's own; the checkpoint holds it; every mistake is one clear line."""

from pathlib import Path

import pytest
from support import invoke, json_of, refusal
from tiny import TASKS
from typer.testing import Result

import minirnn as mr

TRAIN = ("--hidden", "6", "--layers", "1", "--batch-size", "4", "--seq-length", "8")
PEEPHOLE = """\
import minirnn as mr
from minirnn.cells import sigmoid, tanh

SCALE = 1.0


@mr.cell
def peephole(i, f, g, o, /, h, c, *, p_i=0, p_f=0):
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return SCALE * sigmoid(o) * tanh(c), c


@mr.cell
def leaky(a, g, /, h):
    return h + sigmoid(g) * (tanh(a) - h)
"""


@pytest.fixture(autouse=True)
def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # files change within a second here
    Path("my.py").write_text(PEEPHOLE)
    TASKS["char"].write(folder)


def train(*arguments: str) -> Result:
    return invoke("train-char", "corpus.txt", "--out", "run", *arguments)


def refused(*arguments: str) -> str:
    return refusal("train-char", "corpus.txt", "--out", "run", *arguments)


def test_the_checkpoint_holds_the_cell() -> None:
    rates = ("--zoneout", "0.1", "--recurrent-dropout", "0.2", "--weight-drop", "0.3")
    done = train(*TRAIN, *rates, "--steps", "3", "--cell", "my.py:peephole")
    assert "model: cell peephole, hidden 6, layers 1, dropout 0.001, weight-drop 0.3;" in done.stderr
    Path("my.py").unlink()
    invoke("sample", "run", "--length", "9", "--seed", "1", "--quiet")
    invoke("eval", "run", "corpus.txt", "--quiet")
    assert "resuming at step 3, to 5 steps" in train("--resume", "--steps", "5").stderr
    equations = ["c' = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)", "h' = sigmoid(o) * tanh(c')"]
    shown = json_of("info", "run")
    assert shown["equations"] == equations
    assert [shown["model"][rate] for rate in ("zoneout", "recurrent_dropout", "weight_drop")] == [0.1, 0.2, 0.3]
    text = invoke("info", "run").stdout
    assert "equations:\n  " + "\n  ".join(equations) in text
    assert "  cell: peephole\n" in text

    hint = "leave it out, or start a new run"
    message = f"cannot resume run: --cell was peephole, now it is lstm; {hint}"
    assert refused("--resume", "--steps", "9", "--cell", "lstm") == message
    Path("again.py").write_text(PEEPHOLE)
    train("--resume", "--steps", "6", "--cell", "again.py:peephole")
    Path("again.py").write_text(PEEPHOLE.replace("SCALE = 1.0", "SCALE = 2.0"))
    message = f"cannot resume run: --cell was peephole, now it is peephole with other equations; {hint}"
    assert refused("--resume", "--steps", "9", "--cell", "again.py:peephole") == message


@pytest.mark.parametrize("name", [name for name in TASKS if name != "char"])
def test_every_task_trains_an_own_cell(name: str) -> None:
    TASKS[name].write(Path())
    options = ("--cell", "my.py:leaky", "--zoneout", "0.1", "--steps", "2", "--out", "run", "--quiet")
    assert invoke(f"train-{name}", TASKS[name].name, *TASKS[name].arguments, *options).output == ""
    Path("my.py").unlink()
    invoke("eval", "run", TASKS[name].name, "--quiet")
    assert json_of("info", "run")["model"]["cell"]["name"] == "leaky"


NAMES = ", ".join(mr.cells.names())
MISTAKES = {
    "no.py:x": "--cell: there is no file no.py",
    "my.py:peephol": "--cell: my.py has no cell 'peephol'; its cells are peephole, leaky",
    "my.py:SCALE": "--cell: SCALE in my.py is not a cell; its cells are peephole, leaky",
    "my.py": "--cell: expected my.py:NAME; its cells are peephole, leaky",
    "lsmt": f"--cell: there is no cell 'lsmt'; did you mean lstm? expected {NAMES}, or FILE.py:NAME",
    "": f"--cell: there is no cell ''; expected {NAMES}, or FILE.py:NAME",
}
FAULTS = {
    "def x(:": "--cell: bad.py, line 1: SyntaxError: ",
    "import numby": "--cell: bad.py, line 1: ModuleNotFoundError: No module named 'numby'",
    "y = 1\nraise SystemExit('a\\nb')": "--cell: bad.py, line 2: SystemExit: a b",
    "x = 3": "--cell: x in bad.py is not a cell; it has none: decorate a function by @minirnn.cell",
    "import minirnn\n@minirnn.cell\ndef x(h):\n    return h": "x: expected at least one gate (before the /)",
    "import minirnn, math\n@minirnn.cell\ndef x(a, /, h):\n    return math.tanh(a)": "cell x, line 4 of bad.py",
    "import minirnn\n@minirnn.cell\ndef x(a, b, /, h):\n    return a": "the gate b is never used",
}


@pytest.mark.parametrize("cell", MISTAKES)
def test_a_missing_cell_is_reported(cell: str) -> None:
    assert refused("--steps", "1", "--cell", cell) == MISTAKES[cell]
    assert not Path("run").exists()


@pytest.mark.parametrize("source", FAULTS)
def test_a_file_without_a_usable_cell_is_reported(source: str) -> None:
    Path("bad.py").write_text(source)
    assert FAULTS[source] in refused("--steps", "1", "--cell", "bad.py:x")


def test_help_lists_the_cells() -> None:
    assert NAMES in invoke("train-char", "--help", env={"COLUMNS": "400"}).stdout
