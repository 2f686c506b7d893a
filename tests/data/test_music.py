"""Music: pieces as written, MIDI files that mido reads back, and sounds of the right frequency."""

import io
import json
import math
import sys
import wave
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn.data import music
from minirnn.data.music import Step, midi_bytes, piano_roll, read_pieces, roll_to_steps, wav_bytes
from minirnn.errors import DataError, OptionError, ShapeError

Memory = Callable[[int], AbstractContextManager]
STEPS = st.lists(st.frozensets(st.integers(0, 127), max_size=4).map(lambda step: tuple(sorted(step))), max_size=12)


def read(folder: Path, text: str) -> dict[str, list[list[Step]]]:
    (folder / "m.json").write_text(text, encoding="utf-8")
    return read_pieces(str(folder / "m.json"))


def test_pieces_in_parts_or_alone_are_read(tmp_path: Path) -> None:
    text = '{"test": [[[]]], "train": [[[64, 60], 62, [], [67, 67]], [[0, 127]]]}'
    assert read(tmp_path, text) == {"train": [[(60, 64), (62,), (), (67,)], [(0, 127)]], "test": [[()]]}
    assert read(tmp_path, "[[60, [62]], [[]]]") == {"train": [[(60,), (62,)], [()]]}


@given(st.lists(STEPS.filter(len), min_size=1))
def test_pieces_round_trip(tmp_path: Path, pieces: list[list[Step]]) -> None:
    assert read(tmp_path, json.dumps(pieces)) == {"train": pieces}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"train": [[[60]], [[60]], [[60], [62, 200]]]}',
            "train[2][1]: pitch 200 is not an integer from 0 to 127",
        ),
        ("[[[60]], [60, 61, -1]]", "[1][2]: pitch -1 is not an integer from 0 to 127"),
        ("[[[60.0]]]", "[0][0]: pitch 60.0 is not an integer from 0 to 127"),
        ("[[[true]]]", "[0][0]: pitch True is not an integer from 0 to 127"),
        ("[[[NaN]]]", "[0][0]: pitch nan is not an integer from 0 to 127"),
        ('[["C4"]]', "[0][0]: pitch 'C4' is not an integer from 0 to 127"),
        ("[[null]]", "[0][0]: pitch None is not an integer from 0 to 127"),
        ("[[[[60]]]]", "[0][0]: pitch [60] is not an integer from 0 to 127"),
        ('{"valid": [[60], []]}', "valid[1]: expected a list of steps, got []"),
        ("[[60], 61]", "[1]: expected a list of steps, got 61"),
        ('{"valid": []}', "valid: expected a list of pieces, got []"),
        ('{"valid": {"a": 1}}', "valid: expected a list of pieces, got {'a': 1}"),
        ('{"train": [[60]], "dev": []}', "expected the parts 'train', 'valid' and 'test', got 'train', 'dev'"),
        ("{}", "expected the parts 'train', 'valid' and 'test', got nothing"),
        ("60", "expected a list of pieces, got 60"),
        ("[" * 100_000, "lists nested too deeply; expected pieces of steps of pitches"),
    ],
)
def test_malformed_pieces_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/m.json: {message}"


def test_files_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.json:3: not JSON: Expecting value"):
        read(tmp_path, "[\n[60],\n[[61], ?]]")
    with pytest.raises(DataError, match=r"m\.json: Exceeds the limit"):
        read(tmp_path, f"[[{'9' * 5000}]]")
    with pytest.raises(DataError, match=r"pitch 9+\.\.\.9+ is not"):
        read(tmp_path, f"[[{'9' * 4000}]]")


def test_large_files_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: Callable[[bytes], None], memory: Memory
) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate((1 << 25) + 1)
    with memory(1 << 20), pytest.raises(DataError, match="large has 33554433 bytes; expected at most 33554432"):
        read_pieces(str(tmp_path / "large"))
    monkeypatch.setattr(music, "_MAX_FILE", 6)
    stdin(b"[[60]]")
    assert read_pieces("-") == {"train": [[(60,)]]}
    stdin(b"[[60]] ")
    with pytest.raises(DataError, match="standard input has 7 bytes; expected at most 6"):
        read_pieces("-")


@given(STEPS)
def test_piano_rolls_round_trip(steps: list[Step]) -> None:
    roll = piano_roll(steps, low=0, count=128)
    assert roll.dtype == np.float32
    assert roll.shape == (len(steps), 128)
    for row, step in zip(roll, steps, strict=True):
        assert np.flatnonzero(row).tolist() == list(step)
    assert set(np.unique(roll)) <= {0, 1}
    assert roll_to_steps(roll, low=0) == steps
    assert roll_to_steps(np.asfortranarray(roll)[:, 3:], low=3) == [tuple(p for p in step if p >= 3) for step in steps]


def test_piano_roll_by_hand() -> None:
    roll = piano_roll([(21, 108), ()])
    assert roll.shape == (2, 88)
    assert np.argwhere(roll).tolist() == [[0, 0], [0, 87]]
    assert roll_to_steps(np.array([[0.5, 0.6]])) == [(22,)]


def events(data: bytes) -> tuple[list[tuple[int, str, int]], int, int]:
    """The (tick, "note_on" or "note_off", pitch) of a MIDI file, its tempo in microseconds and the tick it ends at."""
    file = mido.MidiFile(file=io.BytesIO(data))
    assert (file.type, file.ticks_per_beat, len(file.tracks)) == (0, 480, 1)
    found, tick, tempo = [], 0, 0
    for message in file.tracks[0]:
        tick += message.time
        if message.type == "set_tempo":
            tempo = message.tempo
        elif message.type in ("note_on", "note_off"):
            assert message.velocity > 0
            found.append((tick, message.type, message.note))
    assert message.type == "end_of_track"
    return found, tempo, tick


def test_midi_file_worked_out_by_hand() -> None:
    """Two steps of an eighth at 120: C4 held through both, E4 in the second; then a silent one."""
    data = midi_bytes([(60,), (60, 64), ()], tempo=120, step=0.5)
    assert data.startswith(bytes.fromhex("4d546864 00000006 0000 0001 01e0 4d54726b"))
    assert events(data)[1:] == (500_000, 720)
    assert events(data)[0] == [(0, "note_on", 60), (240, "note_on", 64), (480, "note_off", 60), (480, "note_off", 64)]


def test_missing_mido_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(OptionError, match=r"^writing MIDI needs mido: pip install 'minirnn\[midi\]'$"):
        midi_bytes([(60,)])


@given(STEPS, st.booleans(), st.sampled_from([0.25, 1.0, 4 / 3, 100.0]))
def test_midi_files_hold_the_notes_of_the_steps(steps: list[Step], tied: bool, step: float) -> None:
    found, _, end = events(midi_bytes(steps, step=step, tied=tied))
    ticks = round(480 * step)
    assert end == len(steps) * ticks
    sounding: dict[int, int] = {}
    heard: list[set[int]] = [set() for _ in steps]
    for tick, kind, pitch in found:
        assert tick % ticks == 0
        if kind == "note_on":
            assert pitch not in sounding
            sounding[pitch] = tick // ticks
        else:
            start = sounding.pop(pitch)
            assert tick // ticks > start
            for at in range(start, tick // ticks):
                heard[at].add(pitch)
    assert not sounding
    assert heard == [set(step) for step in steps]
    struck = sum(len(set(step) - set(before) if tied else step) for before, step in pairwise([(), *steps]))
    assert sum(kind == "note_on" for _, kind, _ in found) == struck


def test_midi_tempo_and_limits() -> None:
    assert events(midi_bytes([], tempo=97))[1] == 618557  # 60000000 / 97 = 618556.7
    assert events(midi_bytes([(np.int64(60),)]))[0] == [(0, "note_on", 60), (480, "note_off", 60)]
    assert midi_bytes([[64, 60], 62]) == midi_bytes([(60, 64), (62,)])  # type: ignore[list-item]
    assert events(midi_bytes([()] * 8, step=65536.0))[2] == 8 * 480 * 65536


def heard(data: bytes) -> tuple[np.ndarray, int]:
    """Samples and rate of a WAV file."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int), file.getframerate()


@pytest.mark.parametrize(("pitch", "frequency"), [(69, 440.0), (57, 220.0), (60, 261.6256), (108, 4186.009)])
def test_notes_have_their_frequency(pitch: int, frequency: float) -> None:
    samples, rate = heard(wav_bytes([(pitch,)], seconds_per_step=2))
    assert len(samples) == 2 * rate
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    assert abs(np.argmax(power) * rate / len(samples) - frequency) <= 0.5
    partials = [round(2 * k * frequency) for k in range(1, 7) if k * frequency < rate / 2]
    near = sum(power[at - 20 : at + 21].sum() for at in partials)  # within 10 Hz
    assert near > 0.999 * power.sum()
    # The fade is slower than 10 Hz, so k**2 times the k-th partial's peak is that of the first.
    peaks = [
        k**4 * power[at - 2 : at + 3].max() / power[partials[0] - 2 : partials[0] + 3].max()
        for k, at in enumerate(partials, 1)
    ]
    assert all(0.4 < peak < 2.5 for peak in peaks)


@pytest.mark.parametrize("tied", [True, False])
def test_sound_neither_clicks_nor_clips(tied: bool) -> None:
    chord = tuple(range(48, 88, 4))
    samples, rate = heard(wav_bytes([chord, chord, (), chord], seconds_per_step=0.3, tied=tied))
    step = round(0.3 * rate)
    assert len(samples) == 4 * step
    assert abs(np.abs(samples).max() - 0.8 * 32767) <= 1
    assert abs(samples[[0, -1]]).max() <= 1
    assert not samples[2 * step : 3 * step].any()
    assert abs(samples[[2 * step - 1, 3 * step]]).max() <= 1
    # Here a tied chord goes on, and another ends to be struck again.
    assert np.abs(samples[step - 10 : step + 10]).max() > 1000 if tied else abs(samples[[step - 1, step]]).max() <= 1


def test_notes_fade_in_and_out() -> None:
    """No jump: a pure tone's steepest slope is amplitude * 2 pi f / rate, partials 1/k**2 add 1/k each."""
    samples, rate = heard(wav_bytes([(69,)] * 3, seconds_per_step=0.2))
    steepest = 32767 * 2 * math.pi * 440 / rate * sum(1 / k for k in range(1, 7))
    assert np.abs(np.diff(samples, prepend=0, append=0)).max() < steepest
    assert np.abs(samples[: rate // 1000]).max() < 0.15 * np.abs(samples).max()
    assert np.abs(samples[-rate // 1000 :]).max() < 0.05 * np.abs(samples).max()


def test_notes_above_half_the_rate_are_left_out() -> None:
    assert not heard(wav_bytes([(127,)], rate=22050))[0].any()
    assert heard(wav_bytes([(127,)], rate=44100))[0].any()


@pytest.mark.parametrize("seconds", [1e-9, 1 / 22050, 3 / 22050, 0.0123])
def test_very_short_steps_keep_their_length(seconds: float) -> None:
    samples, rate = heard(wav_bytes([(60,), (62,), (64,)], seconds_per_step=seconds))
    assert len(samples) == round(3 * seconds * rate)


def test_wav_bytes_of_silence() -> None:
    assert heard(wav_bytes([]))[0].size == 0
    samples, rate = heard(wav_bytes([(), ()], 0.5, 8000))
    assert (len(samples), rate, samples.any()) == (8000, 8000, False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: piano_roll([(60,), (60, 20)]), DataError, "step 1: pitch 20 is outside 21 to 108"),
        (lambda: piano_roll([(60,), (60, 109)]), DataError, "step 1: pitch 109 is outside 21 to 108"),
        (lambda: piano_roll([(128,)]), DataError, "step 0: pitch 128 is not an integer"),
        (lambda: roll_to_steps(np.zeros(3)), ShapeError, r"\[T, count\], got \[3\]"),
        *(
            (lambda tempo=tempo: midi_bytes([], tempo=tempo), OptionError, "midi_bytes: tempo: expected a number of at")
            for tempo in (3.9, 0, -1, math.nan, math.inf)
        ),
        *(
            (
                lambda step=step: midi_bytes([], step=step),
                OptionError,
                "midi_bytes: step: expected a number of at least",
            )
            for step in (0, -1, 1 / 481, math.nan, math.inf)
        ),
        (lambda: midi_bytes([(1,), (128,)]), DataError, "step 1: pitch 128"),
        (lambda: midi_bytes([()] * 9, step=65536.0), DataError, "a silence of 283115520 ticks"),
        (lambda: wav_bytes([()] * 3900, 0.4), DataError, "the steps last 26 minutes; expected at most 25"),
        *(
            (
                lambda seconds=seconds: wav_bytes([(60,)], seconds),
                OptionError,
                "seconds_per_step: expected a number abo",
            )
            for seconds in (0, -1, math.nan, math.inf)
        ),
        (lambda: wav_bytes([(60,)], rate=999), OptionError, "rate: expected an int from 1000 to 192000"),
        (lambda: wav_bytes([(60,)], rate=192_001), OptionError, "rate: expected an int from 1000 to 192000"),
        (lambda: wav_bytes([(60.5,)]), DataError, r"step 0: pitch 60\.5"),
    ],
)
def test_arguments_are_checked(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
