"""Music as steps of pitches: read it, turn it into piano rolls, and write MIDI and WAV files.

A piece is a list of steps, a step the MIDI pitches that sound then: 60 is middle C, 69 the A of 440 Hz, ``()`` silence.
"""

from __future__ import annotations

import io
import json
import os
import reprlib
import wave
from collections.abc import Sequence

import numpy as np

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError, OptionError, ShapeError
from minirnn.validation import check_float, check_int

Step = tuple[int, ...]

_PARTS = ("train", "valid", "test")
_MAX_FILE = 1 << 25  # bytes of a JSON file; parsed, its lists take up to thirty times as much memory
_MAX_SAMPLES = 1 << 25  # of a recording: 25 minutes at 22050 per second
_TICKS, _VELOCITY, _MAX_TICKS = 480, 80, (1 << 28) - 1  # of MIDI: per quarter note; of a note; between two events
_PARTIALS, _ATTACK, _RELEASE = 6, 0.01, 0.04  # of a tone: sines; seconds


def read_pieces(source: str) -> dict[str, list[list[Step]]]:
    """Read pieces from a JSON file: ``{"train": pieces, "valid": pieces, "test": pieces}`` or pieces only.

    ``source`` is a file of at most 32 MiB; ``-`` is standard input. Pieces are a list of pieces, a piece is a list of
    steps, and a step a list of pitches or one pitch.

    Returns:
        The pieces of each split, those alone as "train"; the pitches of a step are sorted, each once.

    Raises:
        DataError: the source cannot be read, is too large, not UTF-8, not JSON, or of another structure; the message
            names the line or the path in the lists.
    """
    if os.path.isfile(source):
        _check_size(source, os.path.getsize(source))
    name, data = read_sources([source])[0]
    _check_size(name, len(data))
    text = decode_text(data, name)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{name}: lists nested too deeply; expected pieces of steps of pitches") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{name}: {error}") from None
    if not isinstance(whole, dict):
        return {"train": _pieces(whole, name, "")}
    if not whole or not set(whole) <= set(_PARTS):
        got = ", ".join(reprlib.repr(part) for part in list(whole)[:9]) or "nothing"
        raise DataError(f"{name}: expected the parts 'train', 'valid' and 'test', got {got}")
    return {part: _pieces(whole[part], name, part) for part in _PARTS if part in whole}


def _check_size(name: str, size: int) -> None:
    if size > _MAX_FILE:
        raise DataError(f"{name} has {size} bytes; expected at most {_MAX_FILE}")


def _pieces(value: object, name: str, path: str) -> list[list[Step]]:
    place = f"{name}: {path}" if path else name
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: expected a list of pieces, got {reprlib.repr(value)}")
    pieces = []
    for number, piece in enumerate(value):
        if not isinstance(piece, list) or not piece:
            raise DataError(f"{name}: {path}[{number}]: expected a list of steps, got {reprlib.repr(piece)}")
        pieces.append([_step(step, f"{name}: {path}[{number}][{at}]") for at, step in enumerate(piece)])
    return pieces


def _step(value: object, place: str) -> Step:
    """The pitches of a step, or one pitch, sorted and checked."""
    pitches = set()
    for pitch in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(pitch, (int, np.integer)) or isinstance(pitch, bool) or not 0 <= pitch <= 127:
            raise DataError(f"{place}: pitch {reprlib.repr(pitch)} is not an integer from 0 to 127")
        pitches.add(int(pitch))
    return tuple(sorted(pitches))


def piano_roll(piece: Sequence[Step], low: int = 21, count: int = 88) -> np.ndarray:
    """The piano roll [T, count] of a piece, float32: 1 where a pitch sounds, 0 elsewhere.

    Args:
        piece: T steps.
        low, count: column k is pitch ``low + k``; the defaults are a piano's keys.

    Raises:
        DataError: a pitch is below ``low`` or above ``low + count - 1``.
    """
    roll = np.zeros((len(piece), count), np.float32)
    for at, step in enumerate(piece):
        for pitch in _step(step, f"step {at}"):
            if not 0 <= pitch - low < count:
                raise DataError(f"step {at}: pitch {pitch} is outside {low} to {low + count - 1}")
            roll[at, pitch - low] = 1
    return roll


def roll_to_steps(roll: np.ndarray, low: int = 21) -> list[Step]:
    """The inverse of :func:`piano_roll`: the pitches of each row of ``roll`` [T, count] that are above 0.5."""
    if roll.ndim != 2:
        raise ShapeError(f"roll_to_steps: expected a piano roll [T, count], got {list(roll.shape)}")
    return [tuple((np.flatnonzero(row > 0.5) + low).tolist()) for row in roll]


def _notes(steps: Sequence[Step], tied: bool) -> list[tuple[int, int, int]]:
    """The (first step, step after the last, pitch) of every note, in the order of their ends."""
    notes, sounding = [], dict[int, int]()
    for at, step in enumerate([*steps, ()]):
        now = _step(step, f"step {at}")
        for pitch in sorted(sounding):
            if not tied or pitch not in now:
                notes.append((sounding.pop(pitch), at, pitch))
        for pitch in now:
            sounding.setdefault(pitch, at)
    return notes


def midi_bytes(steps: Sequence[Step], tempo: float = 120.0, step: float = 1.0, tied: bool = True) -> bytes:
    """A Standard MIDI File of format 0 (one track), written by mido. Silence at the end counts.

    Args:
        steps, tempo, step: the pitches of each step; quarter notes per minute, and per step (0.25: sixteenths).
        tied: a pitch in consecutive steps is one long note; otherwise it is struck again at every step.

    Raises:
        DataError: a pitch is not an integer from 0 to 127, or a silence is longer than a file can say (about 560,000
            quarter notes).
        OptionError: the file cannot say that tempo or that step, or mido is not installed.
    """
    try:
        import mido
    except ImportError:
        raise OptionError("writing MIDI needs mido: pip install 'minirnn[midi]'") from None
    check_float("midi_bytes: tempo", tempo, 4, 60e6)
    check_float("midi_bytes: step", step, 1 / _TICKS, 1 << 16)
    ticks = round(_TICKS * step)
    notes = _notes(steps, tied)
    # Sorted, so that notes end before others begin at the same time, and a pitch can be struck again.
    events = [(end * ticks, "note_off", pitch) for _, end, pitch in notes]
    events += [(start * ticks, "note_on", pitch) for start, _, pitch in notes]
    file = mido.MidiFile(type=0, ticks_per_beat=_TICKS)
    track = file.add_track()
    track.append(mido.MetaMessage("set_tempo", tempo=round(60e6 / tempo)))
    now = 0
    for time, kind, pitch in sorted(events):
        track.append(mido.Message(kind, note=pitch, velocity=_VELOCITY, time=time - now))
        now = time
    track.append(mido.MetaMessage("end_of_track", time=len(steps) * ticks - now))
    longest = max(message.time for message in track)
    if longest > _MAX_TICKS:
        raise DataError(f"midi_bytes: a silence of {longest} ticks; a MIDI file can say {_MAX_TICKS} at most")
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def wav_bytes(steps: Sequence[Step], seconds_per_step: float = 0.4, rate: int = 22050, tied: bool = True) -> bytes:
    """A WAV file of 16 bits and one channel; notes are sums of sines that fade in and out.

    A note of frequency ``f = 440 * 2**((pitch - 69) / 12)`` is ``sum_k sin(2 pi k f t) / k**2`` over six partials,
    without those at half the rate or above, which would alias. The loudest sample is 0.8 of full scale.

    Args:
        steps, seconds_per_step: the pitches of each step; its duration, at most 100,000.
        rate: samples per second, from 1000 to 192000.
        tied: a pitch in consecutive steps is one long note; otherwise it is struck again at every step.

    Raises:
        DataError: a pitch is not an integer from 0 to 127, or the recording would have over 33 million samples.
        OptionError: ``seconds_per_step`` or ``rate`` is out of range.
    """
    check_float("wav_bytes: seconds_per_step", seconds_per_step, 0, 1e5, exclude_minimum=True)
    check_int("wav_bytes: rate", rate, 1000, 192_000)
    samples = seconds_per_step * rate
    if len(steps) * samples > _MAX_SAMPLES:
        minutes, most = len(steps) * seconds_per_step / 60, _MAX_SAMPLES / rate / 60
        raise DataError(f"wav_bytes: the steps last {minutes:.0f} minutes; expected at most {most:.0f}")
    sound = np.zeros(round(len(steps) * samples), np.float32)
    for start, end, pitch in _notes(steps, tied):
        span = slice(round(start * samples), round(end * samples))
        sound[span] += _tone(440 * 2 ** ((pitch - 69) / 12), span.stop - span.start, rate)
    peak = np.abs(sound).max(initial=0)
    if peak > 0:
        sound *= 0.8 * 32767 / peak
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        out.writeframes(np.rint(sound).astype("<i2").tobytes())
    return file.getvalue()


def _tone(frequency: float, count: int, rate: int) -> np.ndarray:
    """Samples [count] of one note, from zero to zero."""
    at, tone = np.arange(count), np.zeros(count)
    for k in range(1, _PARTIALS + 1):
        if k * frequency < rate / 2:
            tone += np.sin(2 * np.pi * k * frequency / rate * at) / k**2
    attack, release = (max(1.0, min(seconds * rate, count / 4)) for seconds in (_ATTACK, _RELEASE))
    edges = np.minimum(1, at / attack) * np.minimum(1, (count - 1 - at) / release)
    return tone * edges * (0.3 + 0.7 * np.exp(-3 * at / rate))
