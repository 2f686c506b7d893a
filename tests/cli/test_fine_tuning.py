"""``--init-from`` and ``--freeze`` of every training command: what is said, refused and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import invoke, json_of, refusal, steps_of
from tiny import OTHER_DATA, TASKS, other_value, write_clips

from minirnn import checkpoint, tasks
from minirnn.runs import BEST, LAST

Trained = Callable[[str], Path]
NEW = {
    "char": "; 5 new and 16 known characters",
    "words": "; 7 new and 11 known words",
    "classifier": "; 1 new and 10 known tokens; 2 new and 2 known labels",
    "tagger": "; 3 new and 5 known words; 6 new and 0 known characters; 1 new and 5 known tags",
    "translator": "; 2 new and 8 known source tokens; 4 new and 9 known target tokens",
    "forecaster": "",
    "series": "; 2 new and 2 known labels",
    "speech": "; 1 new and 2 known labels",
    "music": "",
}
"""What is said of the vocabularies; characters of the tiny tagger are rarer than its ``min_count``."""


@pytest.fixture(autouse=True)
def data(folder: Path) -> None:
    write_clips(Path())
    for name, text in OTHER_DATA.items():
        Path(TASKS[name].name).write_text(text, encoding="utf-8")


def command(name: str, *arguments: str) -> tuple[str, ...]:
    inputs = {"forecaster": ("--inputs", "x"), "series": ("--id", "id")}.get(name, ())
    return (f"train-{name}", TASKS[name].name, "--batch-size", "8", *inputs, *arguments)


@pytest.mark.parametrize("name", TASKS)
def test_it_says_what_is_new_and_resumes_without_the_run_it_began_with(name: str, trained: Trained) -> None:
    shutil.copytree(trained(name), "source")
    done = invoke(*command(name, "--init-from", "source", "--freeze", "head", "--steps", "2", "--out", "run"))
    assert f"weights from source{NEW[name]}\n" in done.stderr
    assert " of them frozen: head; " in done.stderr
    head = {"tagger": "tagging.head.weight", "words": "embedding.weight"}.get(name, "head.weight")
    assert head in json_of("info", "run")["frozen"]
    resumed = command(name, "--resume", "--steps", "4", "--out", "run")
    message = "cannot resume run: --init-from was source, now it is run; leave it out, or start a new run"
    assert refusal(*resumed, "--init-from", "run") == message
    message = "cannot resume run: --freeze was head, now it is rnn; leave it out, or start a new run"
    assert refusal(*resumed, "--freeze", "rnn") == message
    shutil.rmtree("source")
    last = bytearray(Path("run", LAST).read_bytes())
    last[-1] ^= 1  # the state before it takes its place
    Path("run", LAST).write_bytes(last)
    invoke(*resumed, "--init-from", "source", "--quiet")
    assert steps_of("run") == [1, 2, 3, 4]
    notes = checkpoint.load_config(f"run/{LAST}")["notes"]
    assert notes["init_from"] == "source"
    assert notes["settings"]["hidden_size"] == 6


@pytest.mark.parametrize("name", TASKS)
def test_options_that_the_trained_model_decides_are_refused_by_their_flags(name: str, trained: Trained) -> None:
    run = str(trained(name))
    fixed = tasks.TASKS[name].load(trained(name) / BEST).architecture()
    assert {"cell", "hidden_size", "num_layers"} <= fixed.keys()
    for option, value in fixed.items():
        info = tasks.TASKS[name].Config.options()[option]
        new = other_value(option, info, value)
        on, _, off = info.flags[0].partition("/")
        typed = (on if new else off,) if isinstance(new, bool) else (on, str(new))
        known = "not given" if value is None else value
        message = f"cannot fine-tune {run}: {on} is {known} there, not {new}; leave it out, or train a new model"
        assert refusal(*command(name, "--init-from", run, *typed)) == message
    assert not Path("checkpoints").exists()


def test_options_of_the_trained_run_may_be_given_too(trained: Trained) -> None:
    """What it left to be chosen, such as --level, stays as it was chosen."""
    run = str(trained("classifier"))
    Path("vectors.txt").write_text("odd 1 2 3\n")
    options = ("--init-from", run, "--config", run, "--embeddings", "vectors.txt", "--hidden", "6", "--dropout", "0.1")
    invoke(*command("classifier", *options, "--out", "run"))
    settings = checkpoint.load_config(f"run/{LAST}")["notes"]["settings"]
    before = checkpoint.load_config(Path(run) / LAST)["notes"]["settings"]
    assert (before["level"], before["lower"], before["embedding_size"]) == ("auto", None, None)
    changed = {"level": "word", "lower": True, "embedding_size": 3, "dropout": 0.1, "embeddings": "vectors.txt"}
    assert settings == before | changed


def test_a_cell_of_ones_own_is_fine_tuned_without_its_file() -> None:
    source = (
        "from minirnn import cell\nfrom minirnn.cells import tanh\n@cell\ndef plain(a, /, h):\n    return tanh(a{})\n"
    )
    Path("own.py").write_text(source.format(""))
    TASKS["music"].write(Path())
    invoke("train-music", "tunes.json", "--cell", "own.py:plain", "--hidden", "6", "--steps", "1", "--out", "a")
    tuned = ("train-music", "tunes.json", "--init-from", "a", "--steps", "1")
    invoke(*tuned, "--cell", "own.py:plain", "--out", "b")
    Path("own.py").write_text(source.format(" * 0.5"))
    message = "cannot fine-tune a: --cell is plain there, not plain with other equations; leave it out"
    assert refusal(*tuned, "--cell", "own.py:plain", "--out", "c").startswith(message)
    Path("own.py").unlink()
    invoke(*tuned, "--out", "c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init-from", "nowhere"), "there is no checkpoint nowhere"),
        (("--init-from", "empty"), "no checkpoint in empty; expected best.safetensors or last.safetensors"),
        (("--init-from", "corpus.txt"), "corpus.txt is not a checkpoint, or damaged: "),
        (("--init-from", "music"), "music/best.safetensors holds a 'music' model; expected a character model"),
        (("--init-from", "cut.safetensors"), "cut.safetensors is not a checkpoint, or damaged: "),
        (("--freeze", "encoder"), "freeze: expected one of embedding, rnn, head, got 'encoder'"),
        (
            ("--freeze", "head,rnn", "--freeze", "embedding"),
            "freeze: nothing is left to train beside head, rnn, embeddin",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], message: str, trained: Trained) -> None:
    Path("empty").mkdir()
    Path("music").symlink_to(trained("music"))
    Path("cut.safetensors").write_bytes((trained("char") / BEST).read_bytes()[:-9])
    assert refusal(*command("char", "--hidden", "6", *arguments)).startswith(message)
    assert not Path("checkpoints").exists()


def test_a_forecaster_needs_as_many_columns(trained: Trained) -> None:
    message = "inputs: expected 2 columns, as the trained model reads (a, b), got 1 (c)"
    assert refusal("train-forecaster", "series.csv", "--init-from", str(trained("forecaster"))) == message
