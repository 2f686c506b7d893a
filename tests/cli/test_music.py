"""Composing with ``predict``."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import invoke, json_of, refusal
from tiny import TASKS

from minirnn.data.music import midi_bytes, wav_bytes


@pytest.fixture
def run(trained: Callable[[str], Path]) -> str:
    return str(trained("music"))


def composed(run: str, *arguments: str, **options: Any) -> list[list[list[int]]]:
    return [json.loads(line) for line in invoke("predict", run, *arguments, **options).stdout.splitlines()]


def test_compose_from_an_argument_a_file_and_standard_input(run: str) -> None:
    options = ("--length", "7", "--seed", "1")
    (piece,) = composed(run, "C4,E4,G4", *options)
    assert piece[0] == [60, 64, 67]
    assert len(piece) == 8
    assert all(0 <= len(step) <= 2 for step in piece[1:])  # the chords of the training set
    assert composed(run, "60 64 67", *options) == [piece]
    assert composed(run, input="[[60, 64, 67]]\n") != [piece]  # 64 steps, and no seed
    assert composed(run, *options, input="60,64,67\n") == [piece]
    Path("starts.txt").write_text("60,64,67\n\n[[62], [64]]\n")
    first, second, third = composed(run, "starts.txt", *options)
    assert first == piece
    assert len(second) == 7
    assert (third[:2], len(third)) == ([[62], [64]], 9)
    Path("pretty.json").write_text("[\n [62],\n [64]\n]\n")
    assert composed(run, "pretty.json", "--length", "7", "--seed", "3") == [third]
    assert json_of("predict", run, "60,64,67", *options) == {"piece": piece}


def test_an_empty_input_draws_the_start(run: str) -> None:
    for arguments, input in ((("",), None), ((), ""), ((), "\n")):
        (piece,) = composed(run, *arguments, "--length", "5", "--seed", "3", input=input)
        assert len(piece) == 5
        assert piece[0] in [pieces[0] for pieces in json.loads(TASKS["music"].data)]
    assert len(composed(run, "")[0]) == 64
    assert len({json.dumps(composed(run, "")) for _ in range(3)}) > 1


def test_midi_and_wav_files(run: str) -> None:
    (piece,) = composed(run, "60", "--length", "4", "--seed", "0", "--midi", "a.mid", "--wav", "sounds/a.wav")
    steps = [tuple(step) for step in piece]
    assert Path("a.mid").read_bytes() == midi_bytes(steps, tempo=96)
    assert Path("sounds/a.wav").read_bytes() == wav_bytes(steps, seconds_per_step=60 / 96)
    with wave.open("sounds/a.wav") as sound:
        assert sound.getnframes() == round(5 * 60 / 96 * sound.getframerate())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two.txt", "--midi", "a.mid"), "a MIDI file holds one piece, but 2 beginnings are given"),
        (("two.txt", "--wav", "a.wav"), "a WAV file holds one piece, but 2 beginnings are given"),
        (("bad.txt",), "bad.txt:2: expected notes such as 60 or C4, or steps as in [[60, 64], [62]]; got 'sixty'"),
        (("parts.json",), "parts.json:1: got a JSON object, as files to train on are; expected the beginning"),
        (("[[60, 64], 12]",), "the text given: step 1: pitch 12 is outside 21 to 108, the keys of a piano"),
        (("60", "--midi", "."), "cannot write .: "),
        (("60", "--beam", "3"), "--beam is not for the model in {}/best.safetensors, a composer"),
        (("60", "--temperature", "inf"), "temperature: expected a finite number, got inf"),
    ],
)
def test_a_mistake_in_composing_is_one_line(arguments: tuple[str, ...], message: str, run: str) -> None:
    Path("two.txt").write_text("60\n62\n")
    Path("bad.txt").write_text("60\nsixty\n")
    Path("parts.json").write_text('{"train": [[[60], [62]]]}')
    assert refusal("predict", run, *arguments).startswith(message.format(run))
    assert not list(Path().glob("*.mid")) + list(Path().glob("*.wav"))
