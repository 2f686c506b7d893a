"""Music as steps of pitches: reading, piano rolls, Standard MIDI Files and sound.

A piece is a list of steps, a step the MIDI pitches that sound then: 60 is middle C, 69 the A of 440 Hz, ``()`` silence.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import reprlib
import struct
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.data.sources import decode_text, read_sources
from minirnn.errors import DataError, OptionError, ShapeError

Step = tuple[int, ...]

_PARTS = ("train", "valid", "test")
_MOST_BYTES = 1 << 25  # of a file; parsed, its lists take up to thirty times as much memory
_MOST_SAMPLES = 1 << 25  # of a recording: 25 minutes at 22050 a second
_TICKS = 480  # a quarter note in a MIDI file
_VELOCITY = 80
_PARTIALS = 6
_ATTACK, _RELEASE = 0.01, 0.04  # seconds


def read_pieces(source: str) -> dict[str, list[list[Step]]]:
    """Pieces from a JSON file: ``{"train": pieces, "valid": pieces, "test": pieces}`` or pieces alone, as "train".

    Pieces are a list of pieces, a piece is a list of steps, a step a list of pitches, or one pitch. Pitches come out
    sorted, each once.

    Args:
        source: a file of at most 32 MiB; ``-`` is standard input.

    Raises:
        DataError: the source cannot be read, is too large, not UTF-8 or not JSON, or is built otherwise; says where.
    """
    with contextlib.suppress(OSError):  # read_sources says it better
        _check_size(source, 0 if source == "-" else Path(source).stat().st_size)
    name, data = read_sources([source])[0]
    _check_size(name, len(data))
    try:
        whole = json.loads(decode_text(data, name))
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{name}: lists nested too deeply; expected pieces of steps of pitches") from None
    except DataError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{name}: {error}") from None
    if not isinstance(whole, dict):
        return {"train": _pieces(whole, name, "")}
    if not whole or not set(whole) <= set(_PARTS):
        got = ", ".join(reprlib.repr(part) for part in list(whole)[:9]) or "nothing"
        raise DataError(f"{name}: expected the parts 'train', 'valid' and 'test', got {got}")
    return {part: _pieces(whole[part], name, part) for part in _PARTS if part in whole}


def _check_size(name: str, size: int) -> None:
    if size > _MOST_BYTES:
        raise DataError(f"{name} has {size} bytes; expected at most {_MOST_BYTES}")


def _pieces(value: Any, name: str, path: str) -> list[list[Step]]:
    place = f"{name}: {path}" if path else name
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: expected a list of pieces, got {reprlib.repr(value)}")
    pieces = []
    for number, piece in enumerate(value):
        if not isinstance(piece, list) or not piece:
            raise DataError(f"{name}: {path}[{number}]: expected a list of steps, got {reprlib.repr(piece)}")
        pieces.append([_step(step, f"{name}: {path}[{number}][{at}]") for at, step in enumerate(piece)])
    return pieces


def _step(value: Any, place: str) -> Step:
    pitches = value if isinstance(value, (list, tuple)) else [value]
    for pitch in pitches:
        if not isinstance(pitch, (int, np.integer)) or isinstance(pitch, bool) or not 0 <= pitch <= 127:
            raise DataError(f"{place}: pitch {reprlib.repr(pitch)} is not an integer from 0 to 127")
    return tuple(sorted({int(pitch) for pitch in pitches}))


def piano_roll(piece: Sequence[Step], low: int = 21, count: int = 88) -> np.ndarray:
    """1 where a pitch sounds, 0 elsewhere: float32 [T, count]; column k is pitch ``low + k``, by default a piano's.

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


def steps_of(roll: np.ndarray, low: int = 21) -> list[Step]:
    """Back from :func:`piano_roll`: the pitches of each row of ``roll`` [T, count] that are above one half."""
    if roll.ndim != 2:
        raise ShapeError(f"steps_of: expected a piano roll [T, count], got {list(roll.shape)}")
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
    """A Standard MIDI File of format 0 (one track; MIDI Manufacturers Association, "Standard MIDI Files 1.0").

    Silence at the end counts: the track ends after the last step.

    Args:
        steps: the pitches of each step.
        tempo: quarter notes a minute.
        step: quarter notes a step; 0.25 is a sixteenth.
        tied: a pitch in consecutive steps is one long note; otherwise it is struck again at every step.

    Raises:
        DataError: a pitch is not an integer from 0 to 127, or a silence lasts over 500 000 quarter notes.
        OptionError: the file cannot say that tempo or that step.
    """
    if not 4 <= tempo <= 60_000_000:
        raise OptionError(f"midi_bytes: tempo must be from 4 to 60 million quarter notes a minute, got {tempo}")
    if not 1 / _TICKS <= step <= 1 << 16:
        raise OptionError(f"midi_bytes: step must be from 1/{_TICKS} to 65536 quarter notes, got {step}")
    ticks = round(_TICKS * step)
    # At the same time notes end before others begin, so that a pitch can be struck again.
    notes = _notes(steps, tied)
    events = [(end * ticks, 0x80, pitch) for _, end, pitch in notes]
    events += [(start * ticks, 0x90, pitch) for start, _, pitch in notes]
    track = bytearray(b"\x00\xff\x51\x03" + round(60e6 / tempo).to_bytes(3, "big"))
    now = 0
    for time, status, pitch in sorted(events):
        track += _variable_length(time - now) + bytes((status, pitch, _VELOCITY))
        now = time
    track += _variable_length(len(steps) * ticks - now) + b"\xff\x2f\x00"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, _TICKS, b"MTrk", len(track)) + track


def _variable_length(value: int) -> bytes:
    """Seven bits a byte, the highest first; all but the last byte have their eighth bit set; at most four bytes."""
    if value >> 28:
        raise DataError(f"midi_bytes: a silence of {value} ticks; a MIDI file can say {(1 << 28) - 1} at most")
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def wav_bytes(
    steps: Sequence[Step], seconds_per_step: float = 0.4, rate: int = 22050, tied: bool = True
) -> bytes:  # fmt: skip
    """A WAV file, 16 bits, one channel: each note a sum of sines with a soft begin and end, the whole never clipping.

    A note of frequency ``f = 440 * 2**((pitch - 69) / 12)`` is ``sum_k sin(2 pi k f t) / k**2`` over six partials,
    without those at half the rate or above, which would sound as other tones. The loudest sample is at 0.8 of full.

    Args:
        steps: the pitches of each step.
        seconds_per_step: how long each lasts.
        rate: samples a second.
        tied: a pitch in consecutive steps is one long note; otherwise it is struck again at every step.

    Raises:
        DataError: a pitch is not an integer from 0 to 127, or the recording would have over 33 million samples.
        OptionError: a length or rate that makes no sense.
    """
    if not 0 < seconds_per_step < math.inf:
        raise OptionError(f"wav_bytes: seconds_per_step must be above 0, got {seconds_per_step}")
    if not 1000 <= rate <= 192_000:
        raise OptionError(f"wav_bytes: rate must be from 1000 to 192000 samples a second, got {rate}")
    each = seconds_per_step * rate
    if len(steps) * each > _MOST_SAMPLES:
        minutes, most = len(steps) * seconds_per_step / 60, _MOST_SAMPLES / rate / 60
        raise DataError(f"wav_bytes: the steps last {minutes:.0f} minutes; expected at most {most:.0f}")
    sound = np.zeros(round(len(steps) * each), np.float32)
    for start, end, pitch in _notes(steps, tied):
        span = slice(round(start * each), round(end * each))
        sound[span] += _tone(440 * 2 ** ((pitch - 69) / 12), span.stop - span.start, rate)
    peak = np.abs(sound).max(initial=0)
    if peak > 0:
        sound *= 0.8 * 32767 / peak
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(sound).astype("<i2").tobytes())
    return file.getvalue()


def _tone(frequency: float, count: int, rate: int) -> np.ndarray:
    """[count] samples of one note, from zero to zero."""
    at = np.arange(count)
    partials = [k for k in range(1, _PARTIALS + 1) if k * frequency < rate / 2]
    tone = np.zeros(count)
    for k in partials:
        tone += np.sin(2 * np.pi * k * frequency / rate * at) / k**2
    attack, release = (max(1.0, min(seconds * rate, count / 4)) for seconds in (_ATTACK, _RELEASE))
    edges = np.minimum(1, at / attack) * np.minimum(1, (count - 1 - at) / release)
    return tone * edges * (0.3 + 0.7 * np.exp(-3 * at / rate))
