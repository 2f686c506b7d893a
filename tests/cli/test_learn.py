"""``minirnn learn``: lines are answered and learned as they arrive, and what is learned is kept."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import interrupt, invoke, refusal
from tiny import TASKS

from minirnn import tasks
from minirnn.runs import BEST
from minirnn.tasks.online import ONLINE

Trained = Callable[[str], Path]
LINES = TASKS["classifier"].data.splitlines()[:5]


@pytest.fixture
def run(trained: Trained, folder: Path) -> Callable[[str], Path]:
    """A run of a task that may be written to."""
    return lambda name: Path(shutil.copytree(trained(name), folder / name))


def test_a_stream_is_learned_and_continued(run: Callable[[str], Path]) -> None:
    folder = run("classifier")
    first = invoke("learn", str(folder), "--json", input="\n".join(LINES) + "\n")
    facts = [json.loads(line) for line in first.stdout.splitlines()]
    assert [fact["true_label"] for fact in facts] == [line.split("\t")[1] for line in LINES]
    assert all(fact["loss"] > 0 and fact["mean_loss"] > 0 for fact in facts)
    assert f"learned from 5 lines; mean loss {facts[-1]['mean_loss']:.4f}" in first.stderr
    second = invoke("learn", str(folder), input=LINES[0])
    assert f"continuing from {folder / ONLINE}, after 5 lines" in second.stderr
    assert "learned from 6 lines" in second.stderr
    loss, mean, label = second.stdout.strip().split("\t")
    assert float(loss) > 0
    assert float(mean) == pytest.approx((0.99 * sum(f["loss"] * 0.99 ** (4 - n) for n, f in enumerate(facts)) + float(
        loss)) / sum(0.99**n for n in range(6)), abs=1e-4)  # fmt: skip
    assert label in ("pos", "neg")
    assert invoke("predict", str(folder / ONLINE), "a good film").stdout.strip() in ("pos", "neg")


def test_every_task_and_another_folder(run: Callable[[str], Path], folder: Path) -> None:
    text, table = TASKS["char"].data, TASKS["forecaster"].data
    char = invoke("learn", str(run("char")), "--out", "kept", input=text)
    assert len(char.stdout.splitlines()) == len(text.splitlines())
    assert (folder / "kept" / ONLINE).is_file()
    assert not (folder / "char" / ONLINE).exists()
    Path("rows.csv").write_text(table, encoding="utf-8")
    rows = invoke("learn", str(run("forecaster")), "rows.csv", "--lr", "0").stdout.splitlines()
    assert rows[0].startswith("-\t-\t")
    first = tasks.load(folder / "forecaster" / BEST).preprocessor.first_row
    assert len(rows) == len(table.splitlines()[1:]) - first + 1
    assert all(float(cell) > -1e9 for cell in rows[-1].split("\t"))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_lines_are_answered_at_once_and_signals_save(
    number: signal.Signals, code: int, run: Callable[[str], Path]
) -> None:
    folder = run("classifier")
    command = [sys.executable, "-m", "minirnn", "learn", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in LINES[:2]:
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 100)[0], "no answer"
            assert len(process.stdout.readline().split(b"\t")) == 3
        ended = interrupt(process, number)
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert ended == code, err.decode()
    assert b"learned from 2 lines" in err
    assert "after 2 lines" in invoke("learn", str(folder), input="").stderr


def test_mistakes_are_one_line(run: Callable[[str], Path]) -> None:
    assert "expected a character model, a classifier or a forecaster, got a tagger" in refusal(
        "learn", str(run("tagger")), input=""
    )
    assert "there is no checkpoint" in refusal("learn", "nowhere.safetensors", input="")
    folder = run("forecaster")
    data = TASKS["forecaster"].data
    assert "expected 3 columns" in invoke("learn", str(folder), input=data + "1,2\n", code=2).stderr
    learned = len(data.splitlines()[1:]) - tasks.load(folder / BEST).preprocessor.first_row
    assert f"after {learned} lines" in invoke("learn", str(folder), input=data).stderr  # those before the mistake
