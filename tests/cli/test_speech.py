"""``train-speech`` and what its models are used for: paths of recordings in, one clear line for every bad file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import invoke, json_of, refusal
from tiny import TASKS, write_clips

Trained = Callable[[str], Path]
SIZES = ("--hidden", "4", "--layers", "1", "--bands", "5", "--batch-size", "4", "--steps", "2")


@pytest.fixture(autouse=True)
def clips(folder: Path) -> None:
    write_clips(folder)


def test_paths_are_arguments_or_lines(trained: Trained) -> None:
    run, paths = str(trained("speech")), ["clips/3.wav", "clips/0.wav"]
    found = [json.loads(line) for line in invoke("predict", run, *paths, "--json").stdout.splitlines()]
    assert [one["path"] for one in found] == paths
    assert invoke("predict", run, *paths).stdout.split() == [one["label"] for one in found]
    for path, one in zip(paths, found, strict=True):
        assert json_of("predict", run, path) == one
    piped = invoke("predict", run, "--json", input="".join(f"{path}\n" for path in paths)).stdout
    assert [json.loads(line) for line in piped.splitlines()] == found


def test_labels_of_names_and_transcripts_of_a_list_are_trained_on() -> None:
    for number in range(6):
        Path("named").mkdir(exist_ok=True)
        shutil.copy(f"clips/{number}.wav", f"named/{'ab'[number % 2]}_{number}.wav")
    done = invoke("train-speech", "named", *SIZES)
    assert "data: 6 recordings of 2 labels" in done.stderr
    assert json_of("eval", "checkpoints/named", "named").keys() == {"loss", "accuracy", "macro_f1"}
    TASKS["speech"].write(Path())
    done = invoke("train-speech", "clips.tsv", *SIZES, "--stack", "1", "--out", "written")
    assert "data: 48 recordings of 5 characters" in done.stderr
    assert json_of("eval", "written", "clips.tsv").keys() == {"loss", "cer", "wer"}
    found = json_of("predict", "written", "clips/1.wav", "--beam", "2")
    assert found.keys() == {"path", "transcript", "log_probability"}
    assert found["log_probability"] <= 0


BAD = {
    "cut": (lambda whole: whole[:-9], "cut short"),
    "none": (lambda whole: b"", "the file is empty; expected a WAV file"),
    "silent": (lambda whole: whole[:40] + bytes(4), "there is no sample in the WAV file"),
    "text": (lambda whole: b"these are not samples\n", "not a WAV file (nor FLAC or OGG)"),
    "eight": (lambda whole: whole[:22] + b"\x08\0" + whole[24:], "expected one or two channels, got 8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recording_is_one_line(name: str, trained: Trained) -> None:
    change, message = BAD[name]
    Path("clips/0.wav").write_bytes(change(Path("clips/0.wav").read_bytes()))
    Path("list.tsv").write_text("clips/1.wav\tno\nclips/0.wav\tyes\n", encoding="utf-8")
    said = refusal("train-speech", "list.tsv", *SIZES)
    assert said.startswith("list.tsv:2: clips/0.wav: ")
    assert message in said
    run = str(trained("speech"))
    assert refusal("predict", run, "clips/1.wav", "clips/0.wav") == said.removeprefix("list.tsv:2: ")
    assert refusal("eval", run, "list.tsv") == said
    assert not Path("checkpoints").exists()


def test_other_mistakes_are_one_line(trained: Trained) -> None:
    run = str(trained("speech"))
    assert refusal("train-speech", "clips") == (
        "clips/0.wav: expected a label and _ at the beginning of the name, as in 7_jackson_32.wav"
    )
    Path("empty").mkdir()
    assert "empty: no recording in the folder" in refusal("train-speech", "empty")
    assert refusal("predict", run, "no.wav") == "cannot read no.wav: No such file or directory"
    assert "expected the path of a recording, got an empty text" in refusal("predict", run, input="\n")
    assert refusal("predict", run, "clips/0.wav", "--beam", "2").startswith("beam: the model gives labels")
    message = "expected one file or text, got 2; a text of several words needs quotes"
    assert refusal("predict", str(trained("classifier")), "a", "film") == message
