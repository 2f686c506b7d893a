"""``--cell``: a cell in a file of the user's own; the checkpoint carries it; every mistake is one clear line."""

import json
from pathlib import Path

import pytest
from minirnn_cli.main import app
from tiny import TASKS
from typer.testing import CliRunner, Result

import minirnn as mr

runner = CliRunner()
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


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # files change within a second here
    Path("my.py").write_text(PEEPHOLE)
    Path("corpus.txt").write_text("to be or not to be, that is the question.\n" * 20)
    return "corpus.txt"


def train(corpus: str, *arguments: str) -> Result:
    return runner.invoke(app, ["train-char", corpus, "--out", "run", *arguments])


def refusal(done: Result) -> str:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("minirnn: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("minirnn: ").rstrip("\n")


def test_the_checkpoint_carries_the_cell(corpus: str) -> None:
    rates = ("--zoneout", "0.1", "--recurrent-dropout", "0.2", "--weight-drop", "0.3")
    done = train(corpus, *TRAIN, *rates, "--steps", "3", "--cell", "my.py:peephole")
    assert done.exit_code == 0, done.output
    assert "model: cell peephole, hidden 6, layers 1;" in done.stderr
    Path("my.py").unlink()

    assert runner.invoke(app, ["sample", "run", "--length", "9", "--seed", "1", "--quiet"]).exit_code == 0
    assert runner.invoke(app, ["eval", "run", corpus, "--quiet"]).exit_code == 0
    done = train(corpus, "--resume", "--steps", "5")
    assert done.exit_code == 0, done.output
    assert "resuming at step 3, to 5 steps" in done.stderr
    equations = ["c' = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)", "h' = sigmoid(o) * tanh(c')"]
    shown = json.loads(runner.invoke(app, ["info", "run", "--json"]).stdout)
    assert shown["equations"] == equations
    assert (shown["model"]["zoneout"], shown["model"]["recurrent_dropout"], shown["model"]["weight_drop"]) == (
        0.1, 0.2, 0.3,
    )  # fmt: skip
    text = runner.invoke(app, ["info", "run"]).stdout
    assert "equations:\n  " + "\n  ".join(equations) in text
    assert "  cell: peephole\n" in text

    assert refusal(train(corpus, "--resume", "--steps", "9", "--cell", "lstm")) == (
        "cannot resume run: --cell was peephole, now it is lstm; leave it out, or start a new run"
    )
    Path("again.py").write_text(PEEPHOLE)
    assert train(corpus, "--resume", "--steps", "6", "--cell", "again.py:peephole").exit_code == 0
    Path("again.py").write_text(PEEPHOLE.replace("SCALE = 1.0", "SCALE = 2.0"))
    assert refusal(train(corpus, "--resume", "--steps", "9", "--cell", "again.py:peephole")) == (
        "cannot resume run: --cell was peephole, now it is peephole with other equations; leave it out, or start a new "
        "run"
    )
    message = "cannot resume run: --zoneout was 0.1, now it is 0.5; leave it out, or start a new run"
    assert refusal(train(corpus, "--resume", "--steps", "9", "--zoneout", "0.5")) == message


@pytest.mark.parametrize("name", [name for name in TASKS if name != "char"])
def test_every_task_trains_an_own_cell(name: str, corpus: str, tmp_path: Path) -> None:
    tiny = TASKS[name]
    tiny.write(tmp_path)
    options = ("--cell", "my.py:leaky", "--zoneout", "0.1", "--steps", "2", "--out", "run", "--quiet")
    done = runner.invoke(app, [f"train-{name}", tiny.name, *tiny.arguments, *options])
    assert (done.exit_code, done.output) == (0, "")
    Path("my.py").unlink()
    assert runner.invoke(app, ["eval", "run", tiny.name, "--quiet"]).exit_code == 0
    assert json.loads(runner.invoke(app, ["info", "run", "--json"]).stdout)["model"]["cell"]["name"] == "leaky"


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
def test_a_cell_that_is_not_there_is_said(cell: str, corpus: str) -> None:
    assert refusal(train(corpus, "--steps", "1", "--cell", cell)) == MISTAKES[cell]
    assert not Path("run").exists()


@pytest.mark.parametrize("source", FAULTS)
def test_a_file_that_does_not_hold_a_cell_is_said(source: str, corpus: str) -> None:
    Path("bad.py").write_text(source)
    assert FAULTS[source] in refusal(train(corpus, "--steps", "1", "--cell", "bad.py:x"))


def test_help_names_the_cells() -> None:
    text = runner.invoke(app, ["train-char", "--help"], env={"COLUMNS": "400"}).stdout
    assert NAMES in text
