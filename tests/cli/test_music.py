"""``train-music``, and what ``predict`` and ``eval`` do with its model, as a person meets them."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from minirnn_cli.main import app
from typer.testing import CliRunner

from minirnn.data.music import midi_bytes, wav_bytes

TRAIN = ["--hidden", "8", "--batch-size", "3", "--steps", "6"]
PIECES = [[[60 + k, 64 + k, 67 + k], [62 + k, 65 + k], [], [64 + k]] * (2 + k % 3) for k in range(8)]
RUN = "checkpoints/tunes"
runner = CliRunner()


@pytest.fixture
def tunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("tunes.json").write_text(json.dumps({"train": PIECES, "valid": PIECES[:2], "test": PIECES[2:5]}))
    return "tunes.json"


@pytest.fixture
def trained(tunes: str) -> str:
    done = runner.invoke(app, ["train-music", tunes, *TRAIN])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "data: 8 pieces of 92 steps; 2 more to validate with" in done.stderr
    assert f"training for 6 steps in {RUN}" in done.stderr
    assert f"now try: minirnn predict {RUN}/best.safetensors C4,E4,G4 --midi piece.mid --wav piece.wav" in done.stderr
    return RUN


def _predicted(arguments: list[str], input: str | None = None) -> list[list[list[int]]]:
    done = runner.invoke(app, ["predict", RUN, *arguments], input=input)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_compose_from_an_argument_a_file_and_standard_input(trained: str) -> None:
    (piece,) = _predicted(["C4,E4,G4", "--length", "7", "--seed", "1"])
    assert piece[0] == [60, 64, 67]
    assert len(piece) == 8
    assert all(0 <= len(step) <= 3 for step in piece)
    assert _predicted(["60 64 67", "--length", "7", "--seed", "1"]) == [piece]
    assert _predicted([], "[[60, 64, 67]]\n") != [piece]  # 64 steps, and no seed
    assert _predicted(["--length", "7", "--seed", "1"], "60,64,67\n") == [piece]
    Path("starts.txt").write_text("60,64,67\n\n[[62], [64]]\n")
    first, second, third = _predicted(["starts.txt", "--length", "7", "--seed", "1"])
    assert first == piece
    assert len(second) == 7
    assert (third[:2], len(third)) == ([[62], [64]], 9)
    Path("pretty.json").write_text("[\n [62],\n [64]\n]\n")
    (pretty,) = _predicted(["pretty.json", "--length", "7", "--seed", "3"])
    assert pretty == third
    done = runner.invoke(app, ["predict", trained, "60,64,67", "--length", "7", "--seed", "1", "--json"])
    assert json.loads(done.stdout) == {"piece": piece}


def test_an_empty_input_draws_the_start(trained: str) -> None:
    for arguments, input in (([""], None), ([], ""), ([], "\n")):
        (piece,) = _predicted([*arguments, "--length", "5", "--seed", "3"], input)
        assert len(piece) == 5
        assert piece[0] in [pieces[0] for pieces in PIECES]
    assert len(_predicted([""])[0]) == 64
    assert len({json.dumps(_predicted([""])) for _ in range(3)}) > 1


def test_midi_and_wav(trained: str) -> None:
    (piece,) = _predicted(["60", "--length", "4", "--seed", "0", "--midi", "a.mid", "--wav", "sounds/a.wav"])
    steps = [tuple(step) for step in piece]
    assert Path("a.mid").read_bytes() == midi_bytes(steps, tempo=96)
    assert Path("sounds/a.wav").read_bytes() == wav_bytes(steps, seconds_per_step=60 / 96)
    with wave.open("sounds/a.wav") as sound:
        assert sound.getnframes() == round(5 * 60 / 96 * sound.getframerate())


def test_eval(trained: str) -> None:
    done = runner.invoke(app, ["eval", trained, "tunes.json", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["loss"] == found["nll"] > 0
    assert found["pieces"] == 3
    assert found["steps"] == sum(len(piece) - 1 for piece in PIECES[2:5])
    Path("valid.json").write_text(json.dumps(PIECES[:2]))
    found = json.loads(runner.invoke(app, ["eval", trained, "valid.json", "--json"]).stdout)
    lines = [json.loads(line) for line in Path(RUN, "metrics.jsonl").read_text().splitlines()]
    assert found["loss"] == pytest.approx(min(line["val_loss"] for line in lines if "val_loss" in line))
    assert "\npieces 2\n" in runner.invoke(app, ["eval", trained, "valid.json"]).stdout


def test_pieces_alone_are_split_and_a_run_goes_on(tunes: str) -> None:
    Path("alone.json").write_text(json.dumps(PIECES))
    done = runner.invoke(app, ["train-music", "alone.json", *TRAIN, "--val-fraction", "0.25", "--transpose", "0"])
    assert done.exit_code == 0, done.output
    assert "data: 6 pieces of " in done.stderr
    assert "; 2 more to validate with" in done.stderr
    done = runner.invoke(app, ["train-music", "alone.json", "--resume", "--steps", "9"])
    assert done.exit_code == 0, done.output
    assert "resuming at step 6, to 9 steps, in checkpoints/alone" in done.stderr
    done = runner.invoke(app, ["train-music", "alone.json", "--resume", "--steps", "12", "--transpose", "1"])
    assert done.exit_code == 2
    assert "transpose was 0, now it is 1" in done.stderr
    Path("alone.json").write_text(json.dumps(PIECES[::-1]))
    done = runner.invoke(app, ["train-music", "alone.json", "--resume", "--steps", "12"])
    assert done.exit_code == 2
    assert "the data is not the one" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to read in bad.json"),
        ("{", "bad.json:1: not JSON"),
        ("[]", "bad.json: expected a list of pieces"),
        ("[[60, 62]]", "expected at least 2 examples"),
        ("[[60, 62], [60, 200]]", "bad.json: [1][1]: pitch 200 is not an integer from 0 to 127"),
        ("[[60, 62], [60, [64, 10]]]", "bad.json: train[1]: step 1: pitch 10 is outside 21 to 108"),
        ("[[60, 62], [60]]", "bad.json: train[1] has one step; expected at least 2"),
        ('[[60, 62], [60, "C4"]]', "bad.json: [1][1]: pitch 'C4' is not an integer"),
        ('{"test": [[60, 62]]}', "expected a part 'train', or pieces alone; got 'test'"),
        ('{"pieces": [[60, 62]]}', "bad.json: expected the parts 'train', 'valid' and 'test'"),
    ],
)
def test_bad_data_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text(text)
    done = runner.invoke(app, ["train-music", "bad.json", *TRAIN])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("checkpoints").exists()


def test_mistakes_in_composing_are_one_line(trained: str) -> None:
    Path("two.txt").write_text("60\n62\n")
    Path("bad.txt").write_text("60\nsixty\n")
    for arguments, message in [
        (["two.txt", "--midi", "a.mid"], "a MIDI file holds one piece, but 2 lines are given"),
        (["two.txt", "--wav", "a.wav"], "a WAV file holds one piece, but 2 lines are given"),
        (["bad.txt"], "bad.txt:2: expected notes such as 60 or C4, or steps as in [[60, 64], [62]]; got 'sixty'"),
        (["tunes.json"], "tunes.json:1: got a JSON object, as files to train on are; expected the beginning"),
        (["[[60, 64], 12]"], "the text given: step 1: pitch 12 is outside 21 to 108, the keys of a piano"),
        (["60", "--midi", "."], "cannot write .: "),
        (["60", "--beam", "3"], f"--beam is not for the model in {RUN}/best.safetensors, a composer"),
        (["60", "--temperature", "inf"], "temperature: expected a finite number, got inf"),
    ]:
        done = runner.invoke(app, ["predict", trained, *arguments])
        assert done.exit_code == 2, arguments
        assert done.stdout == ""
        assert done.stderr.startswith(f"minirnn: {message}"), arguments
        assert done.stderr.count("\n") == 1
    assert not Path("a.mid").exists()
    assert not Path("a.wav").exists()


def test_the_same_seed_gives_the_same_run(tunes: str) -> None:
    arrays = []
    for out, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        done = runner.invoke(app, ["train-music", tunes, *TRAIN, "--seed", seed, "--out", out, "--quiet"])
        assert (done.exit_code, done.output) == (0, "")
        arrays.append([json.loads(line)["train_loss"] for line in Path(out, "metrics.jsonl").read_text().splitlines()])
    np.testing.assert_array_equal(arrays[0], arrays[1])
    assert arrays[0] != arrays[2]
