"""``sweep``: real trials in processes of their own, compared with ordinary runs; what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import contents, interrupt, invoke, refusal
from tiny import TASKS

from minirnn import checkpoint
from minirnn.runs import LAST

pytestmark = [pytest.mark.needs_jit, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

TEXT = "to be or not to be, that is the question.\n" * 20
TRAIN = ("train-char", "corpus.txt", "--hidden=4", "--layers", "1", "--batch-size", "4", "--seq-length", "8",
         "--steps", "120", "--evaluations", "4")  # fmt: skip
RATES = ("0.002", "0.02", "0.006", "1e+30")  # the second one is the best, the last one diverges
SWEEP = ("sweep", *TRAIN, "--lr", ",".join(RATES))
FOLDER = Path("checkpoints/corpus-sweep")


@pytest.fixture(autouse=True)
def corpus(folder: Path) -> None:
    Path("corpus.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Path, list[dict[str, Any]], str]]:
    """The working directory of a sweep, the lines it printed, and what it said."""

    @cache
    def run() -> tuple[Path, list[dict[str, Any]], str]:
        folder, before = tmp_path_factory.mktemp("sweep"), Path.cwd()
        os.chdir(folder)
        (folder / "corpus.txt").write_text(TEXT, encoding="utf-8")
        done = invoke(*SWEEP, "--jobs", "2", "--json")
        os.chdir(before)
        return folder, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return run


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials in their order, without the time that they took."""
    kept = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    return sorted(kept, key=lambda line: line["trial"])


def saved_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "trials.jsonl").read_text().splitlines()]


def test_a_survivor_is_the_ordinary_run_of_its_command(
    whole: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lines, said = whole()
    monkeypatch.chdir(folder)
    best = lines[0]
    assert (best["trial"], best["status"], best["options"]) == (2, "finished", {"lr": 0.02})
    command = f"minirnn {' '.join(TRAIN)} --lr 0.02".replace("--hidden=4", "--hidden 4")
    assert best["command"] == command
    invoke(*command.split()[1:], "--out", "alone", "--quiet")
    assert contents("alone") == contents(best["folder"])
    assert best["values"][-1] == min(m["val_loss"] for m in contents("alone")[0] if "val_loss" in m)
    assert [(line["trial"], line["status"], line["steps"]) for line in lines] == [
        (2, "finished", 120), (3, "stopped", 60), (1, "stopped", 60), (4, "failed", 0),
    ]  # fmt: skip
    assert [len(line["values"]) for line in lines] == [2, 1, 1, 0]
    assert lines[1]["values"] < lines[2]["values"]
    assert lines[3]["error"].startswith("the loss was not finite, or exploded, for 20 steps in a row")
    assert "4 of 4 trials, to 2 of 4 evaluations, 2 in parallel" in said
    assert "1 of 4 trials, to 4 of 4 evaluations, 1 in parallel" in said
    assert without_time(saved_lines()) == without_time(lines)


def test_a_finished_sweep_shows_its_results_again(whole: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lines, _ = whole()
    monkeypatch.chdir(folder)
    before = {file: file.stat().st_mtime_ns for file in FOLDER.glob("*/*")}
    done = invoke(*SWEEP, "--quiet")
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert rows[0] == ["trial", "val_loss", "lr", "steps", "seconds", "status"]
    assert [row[0] for row in rows[2:6]] == ["2", "3", "1", "4"]
    assert rows[2][:4] == ["2", f"{lines[0]['values'][-1]:.4f}", "0.02", "120"]
    assert done.stdout.endswith(f"\nbest: {FOLDER}/trial-2, as by\n{lines[0]['command']}\n")
    assert {file: file.stat().st_mtime_ns for file in FOLDER.glob("*/*")} == before
    message = refusal(*SWEEP, "--trials", "3")
    assert message.startswith(f"{FOLDER} holds another sweep, by minirnn sweep train-char corpus.txt --hidden=4 ")
    assert message.endswith("--trials 4 --reduction 3 --search-seed 0; choose another --out")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_continues(whole: Callable[[], Any], number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-m", "minirnn", *SWEEP, "--jobs", "1"], stderr=subprocess.PIPE)
    for _ in range(2400):
        if (FOLDER / "trials.jsonl").exists() and saved_lines()[0]["values"]:
            break
        assert process.poll() is None
        time.sleep(0.05)
    assert "is in use by another sweep" in refusal(*SWEEP)
    assert interrupt(process, number) == 128 + number
    assert process.stderr is not None
    with process.stderr as said:
        assert said.read().decode().endswith(f"stopped; what is done is saved in {FOLDER}, and the same command "
                                             "continues\n")  # fmt: skip
    assert [line["status"] for line in saved_lines()] == ["unfinished"] * 4
    first = {file: file.stat().st_mtime_ns for file in (FOLDER / "trial-1").iterdir()}
    invoke(*SWEEP, "--quiet")
    assert {file: file.stat().st_mtime_ns for file in (FOLDER / "trial-1").iterdir()} == first
    folder, lines, _ = whole()
    assert without_time(saved_lines()) == without_time(lines)
    assert contents(FOLDER / "trial-2") == contents(folder / FOLDER / "trial-2")


def test_a_run_pauses_and_continues_as_if_it_had_not() -> None:
    said = invoke(*TRAIN, "--out", "run", "--pause-after", "3").stderr
    assert said.endswith("paused at step 90; continue with --resume\n")
    assert invoke(*TRAIN, "--out", "run", "--resume", "--pause-after", "2", "--quiet").output == ""  # is there already
    assert [line.get("step") for line in contents("run")[0]][-1] == 90
    message = "--pause-after: expected an int from 1 to 4, got 5"
    assert refusal(*TRAIN, "--out", "run", "--resume", "--pause-after", "5") == message
    invoke(*TRAIN, "--out", "run", "--resume", "--quiet")
    invoke(*TRAIN, "--out", "alone", "--quiet")
    assert contents("run") == contents("alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_training_command(name: str) -> None:
    data = TASKS[name].write(Path()).name
    options = ("--lr", "0.001..0.01", "--steps", "4", "--evaluations", "2", "--trials", "2", "--reduction", "2")
    done = invoke("sweep", f"train-{name}", data, *TASKS[name].arguments, *options, "--json")
    best, other = map(json.loads, done.stdout.splitlines())
    assert (best["status"], best["steps"], other["status"], other["steps"]) == ("finished", 4, "stopped", 2)
    position = checkpoint.load_config(Path(best["folder"], LAST))["position"]
    assert position["best"] == {best["metric"]: best["values"][1]}


def test_all_trials_fail() -> None:
    Path("short.txt").write_text("a")
    done = invoke("sweep", "train-char", "short.txt", "--seed", "1,2", "--jobs", "2", code=1)
    assert done.stdout.count("failed: ") == 2
    assert done.stderr.splitlines()[-1].startswith("minirnn: all trials failed, the first one: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train-chars corpus.txt", "did you mean 'train-char'?"),
        ("train-char corpus.txt --hidden 4", "expected an option to search, as --hidden 128,256"),
        ("train-char corpus.txt --hidden 4,x", "--hidden: expected ints as in 128,256 or 64..512, got '4,x'"),
        ("train-char corpus.txt --hidden-size=4,0", "'--hidden-size': 0 is not in the range"),
        ("train-char corpus.txt --lr 0.1,0.2 --dropout 3", "'--dropout': 3.0 is not in the range"),
        ("train-char corpus.txt --lr 0.1,0.2 --lr 0.1", "--lr: expected to be given once, got it twice"),
        ("train-char corpus.txt --lr 0.1,0.2 --steps 10,20", "--steps: expected one value, the same for all trials"),
        ("train-char corpus.txt --lr 0.1,0.2 --steps 3 --epochs 1", "expected one budget of steps, epochs, minutes"),
        ("train-char corpus.txt --cell lstm,gruu", "there is no cell 'gruu'; did you mean gru?"),
        ("train-char corpus.txt --optimizer adam,adamx", "'adamx' is not one of"),
        ("train-char corpus.txt --lr 0.1,0.2 --resume", "--resume: a sweep does this itself; leave it out"),
        ("train-char corpus.txt --lr 0.1,0.2 --config no.toml", "cannot read no.toml: No such file"),
        ("train-char no.txt --lr 0.1,0.2", "cannot read no.txt: expected a file, which every trial reads"),
        ("train-char - --lr 0.1,0.2", "cannot read -: expected a file, which every trial reads"),
        ("train-char corpus.txt --lr 0.1,0.2 --trials 2000 --seed 0..9999", "--trials: expected an int from 1 to 1000"),
        ("train-char corpus.txt --lr 0.1,0.2 --out used", "used is not empty, and not the folder of a sweep"),
    ],
)
def test_refusals_come_before_any_trial(arguments: str, message: str) -> None:
    Path("used").mkdir()
    Path("used/notes.txt").touch()
    assert message in refusal("sweep", *arguments.split())
    assert not Path("checkpoints").exists()
    assert [path.name for path in Path("used").iterdir()] == ["notes.txt"]
