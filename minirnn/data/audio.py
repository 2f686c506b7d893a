"""Read recordings, resample them, and turn them into log-mel features."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.data.lines import read_pairs
from minirnn.errors import DataError, OptionError
from minirnn.validation import check_float, check_int

SUFFIXES = (".flac", ".ogg", ".wav")
MAX_RATE = 384_000  # samples per second
MAX_BANDS = 256
MAX_WINDOW = 0.5  # seconds

_MAX_BYTES = 1 << 30
_MAX_SAMPLES = 1 << 30
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_HALF_WIDTH, _BETA = 10, 5.0  # of the resampling filter: zero crossings on each side, shape of the Kaiser window
_MAX_DENOMINATOR = 10_000  # of a ratio of rates
_FLOOR = 1e-5  # of the energy of a band: 50 dB below the mean of the recording
_DELTA_WIDTH = 2


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a recording of at most 1 GiB: WAV (8, 16, 24 or 32 bit, or 32 or 64 bit floating point), FLAC or OGG.

    Returns:
        ``(samples, rate)``: [S] float32 from -1 to 1, of two channels their mean, and how many there are in a second.

    Raises:
        DataError: the file cannot be read, is of another format, cut short, or empty; or has more than two channels.
        OptionError: it is FLAC or OGG, and soundfile is not installed.
    """
    try:
        size = os.path.getsize(path)
        if size > _MAX_BYTES:
            raise DataError(f"{path} has {size:,} bytes; expected at most {_MAX_BYTES:,}")
        with open(path, "rb") as file:
            head = file.read(4)
            data = head + file.read() if head == b"RIFF" else head
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if head in (b"fLaC", b"OggS"):
        return _read_by_soundfile(path)
    try:
        return _parse_wav(data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _parse_wav(data: bytes) -> tuple[np.ndarray, int]:
    """The mean of the channels [S], and the rate (Microsoft & IBM, "Multimedia Programming Interface", 1991)."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise DataError("not a WAV file (nor FLAC or OGG)" if data else "the file is empty; expected a WAV file")
    layout, place = None, 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        place += 8
        if place + size > len(data):
            got = f"{name.decode('latin-1')!r} of {size:,} bytes, but {len(data) - place:,} follow"
            raise DataError(f"the WAV file is cut short: its header says {got}")
        if name == b"fmt " and size >= 16:
            layout = _layout(data[place : place + size])
        elif name == b"data":
            if layout is None:
                raise DataError("a WAV file without a format before its data")
            return _samples(data[place : place + size], *layout[1:]), layout[0]
        place += size + size % 2
    raise DataError("the WAV file is cut short: there is no data in it")


def _layout(fields: bytes) -> tuple[int, int, int, bool]:
    """Rate, channels, bytes of a sample, and whether it is a floating-point number."""
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", fields)
    if kind == _EXTENSIBLE and len(fields) >= 26:
        kind = struct.unpack_from("<H", fields, 24)[0]
    if (kind, bits) not in {*((_PCM, bits) for bits in (8, 16, 24, 32)), (_FLOAT, 32), (_FLOAT, 64)}:
        raise DataError(
            f"expected samples of 8, 16, 24 or 32 bits, or floating point, got format {kind} of {bits} bits"
        )
    if channels not in (1, 2):
        raise DataError(f"expected one or two channels, got {channels}")
    if not 1 <= rate <= MAX_RATE:
        raise DataError(f"expected 1 to {MAX_RATE:,} samples per second, got {rate:,}")
    return rate, channels, bits // 8, kind == _FLOAT


def _samples(data: bytes, channels: int, width: int, floating: bool) -> np.ndarray:
    count = len(data) // (width * channels)
    if not count:
        raise DataError("there is no sample in the WAV file")
    data = data[: count * width * channels]
    values: np.ndarray
    if floating:
        values = np.frombuffer(data, f"<f{width}").astype(np.float32)
    elif width == 1:  # unsigned, unlike all others
        values = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    else:
        integers = np.zeros((count * channels, 4), np.uint8)  # the high bytes of 32 bits
        integers[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        values = integers.view("<i4")[:, 0].astype(np.float32) / (1 << 31)
    return _mono(values.reshape(-1, channels))


def _mono(values: np.ndarray) -> np.ndarray:
    """The mean of the channels of ``values`` [S, channels]."""
    if not np.isfinite(values).all():
        raise DataError("a sample is not a finite number")
    return np.ascontiguousarray(values.mean(1, dtype=np.float32))


def _read_by_soundfile(path: str | Path) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError:
        raise OptionError(f"{path}: reading FLAC and OGG needs soundfile: pip install 'minirnn[audio]'") from None
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.channels not in (1, 2) or not 0 < file.frames * file.channels * 4 <= _MAX_BYTES:
                got = f"{file.channels} channels of {file.frames:,} samples"
                raise DataError(f"{path}: expected one or two channels of at most 1 GiB, got {got}")
            return _mono(file.read(dtype="float32", always_2d=True)), file.samplerate
    except soundfile.SoundFileError as error:
        raise DataError(f"cannot read {path}: {error}") from None


def read_clips(sources: Sequence[str], label_from: str = "auto") -> tuple[list[str], list[str], list[str]]:
    """Find recordings and what is said in each.

    Args:
        sources: folders of recordings, or files with the path of a recording, a tab and its label or transcript per
            line (``-`` is standard input). A path is relative to the folder of the file that names it.
        label_from: the label of a recording in a folder: "name", the part of its name before the first ``_``; "folder",
            the folder it lies in; "auto", its folder where that is not the one given, else its name.

    Returns:
        ``(paths, texts, where)``: of every recording its path, what was said, and where that was read.

    Raises:
        DataError: a source cannot be read, or has no recordings; a name has no label.
    """
    paths, texts, where = list[str](), list[str](), list[str]()
    for source in sources:
        if not Path(source).is_dir():
            firsts, seconds, lines = read_pairs([source])
            base = Path() if source == "-" else Path(source).parent
            paths += [str(base / first) for first in firsts]
            texts += seconds
            where += [lines[n] for n in range(len(firsts))]
            continue
        found = find_recordings(source)
        paths += map(str, found)
        texts += [_label(path, Path(source), label_from) for path in found]
        where += map(str, found)
    return paths, texts, where


def find_recordings(folder: str | Path) -> list[Path]:
    """Return all files of a folder and its sub-folders whose suffix is one of :data:`SUFFIXES`, sorted, not hidden.

    Raises:
        DataError: there is none.
    """
    every = (path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    found = sorted(path for path in every if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not found:
        raise DataError(f"{folder}: no recording in the folder; expected files {', '.join(SUFFIXES)}")
    return found


def _label(path: Path, folder: Path, rule: str) -> str:
    if rule == "folder" or (rule == "auto" and path.parent != folder):
        return path.parent.name
    label, underscore, _ = path.stem.partition("_")
    if not underscore or not label:
        raise DataError(f"{path}: expected a label and _ at the beginning of the name, as in 7_jackson_32.wav")
    return label


# --------------------------------------------------------------------------------------------------- resampling


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Return ``samples`` [S] at another rate, [ceil(S new_rate / rate)] float32, by a polyphase filter.

    The filter is a sinc with ten zero crossings on each side, below half of the lower rate, in a Kaiser window of
    beta 5 (Crochiere & Rabiner 1983, chapter 2). The ratio of the rates is rounded to a denominator of at most 10000.

    Raises:
        DataError: there would be more than 2^30 samples.
    """
    ratio = Fraction(check_int("new_rate", new_rate, 1, MAX_RATE), check_int("rate", rate, 1, MAX_RATE))
    ratio = ratio.limit_denominator(_MAX_DENOMINATOR) or Fraction(1, _MAX_DENOMINATOR)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return samples.astype(np.float32)
    count = -(-len(samples) * up // down)
    if count > _MAX_SAMPLES:
        raise DataError(f"expected at most {_MAX_SAMPLES:,} samples, got {count:,} at {new_rate:,} per second")
    taps, reach = _polyphase(up, down)
    padded = np.pad(samples.astype(np.float32), (reach, reach + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])
    found = np.empty(count, np.float32)
    for first in range(min(up, count)):  # outputs up apart have the same taps
        start, phase = divmod(first * down, up)
        part = windows[start::down][: -(-(count - first) // up)]
        found[first::up] = part @ taps[phase]
    return found


@lru_cache(maxsize=64)
def _polyphase(up: int, down: int) -> tuple[np.ndarray, int]:
    """Taps [up, 2 reach + 1] of every phase, and the input samples that are read on each side."""
    largest = max(up, down)
    reach = -(-_HALF_WIDTH * largest // up) + 1
    at = np.arange(-reach, reach + 1) - np.arange(up)[:, None] / up  # distance in input samples
    x = at * up / largest  # in zero crossings
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (x / _HALF_WIDTH) ** 2, 0, None))) * (np.abs(x) <= _HALF_WIDTH)
    taps = np.sinc(x) * window
    return (taps / taps.sum(1, keepdims=True)).astype(np.float32), reach  # a constant stays what it is


# ----------------------------------------------------------------------------------------------------- features


@dataclass(frozen=True)
class LogMel:
    """Log-mel features of a recording: how loud every band of frequencies is, frame by frame.

    The samples are scaled to a root mean square of 1. A frame is ``window`` seconds under a Hann window w, zero-padded
    to N samples, a power of two; frames begin ``hop`` seconds apart. With X its discrete Fourier transform and m_b
    triangles on the mel scale, mel(f) = 1127 ln(1 + f / 700), from 20 Hz to half the rate, with sum 1 each::

        feature[t, b] = ln(sum_k m_b[k] |X_t[k]|^2 / sum_n w[n]^2 + 1e-5)

    (Davis & Mermelstein 1980). With ``deltas`` follow their slopes over five frames, in as many columns again.

    Attributes:
        rate: samples per second. window, hop: seconds. bands: B triangles. deltas: whether slopes follow.
    """

    rate: int
    window: float = 0.025
    hop: float = 0.01
    bands: int = 40
    deltas: bool = False
    center: bool = True

    def __post_init__(self) -> None:
        check_int("rate", self.rate, 1, MAX_RATE)
        check_int("bands", self.bands, 1, MAX_BANDS)
        for name, seconds in (("window", self.window), ("hop", self.hop)):
            check_float(name, seconds, 1 / self.rate, MAX_WINDOW)

    @property
    def size(self) -> int:
        """Numbers of a frame."""
        return self.bands * (2 if self.deltas else 1)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the features [T, size] of ``samples`` [S] at :attr:`rate`, float32.

        T is 1 + (S - W) // H for windows of W samples, H apart; a recording shorter than one is zero-padded to it.
        """
        window, bank, size = _filters(self.rate, self.window, self.bands)
        step = round(self.hop * self.rate)
        x = samples / (np.sqrt(np.mean(np.square(samples, dtype=np.float64))) or 1)
        x = np.pad(x.astype(np.float32), (0, max(0, len(window) - len(x))))
        frames = np.lib.stride_tricks.sliding_window_view(x, len(window))[::step] * window
        spectrum = np.fft.rfft(frames, size)
        energy = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ bank
        found = np.log(energy + np.float32(_FLOOR))
        if self.center:
            found -= found.mean(0)
        return np.concatenate([found, _slopes(found)], 1) if self.deltas else found

    def warp(self, frames: np.ndarray, factor: float) -> np.ndarray:
        """Return ``frames`` [T, size] as if all frequencies were divided by ``factor``, float32.

        The bands are interpolated at ``factor`` times their frequencies: the voice of a longer or shorter vocal tract
        (Jaitly & Hinton 2013).
        """
        low, high = _limits(self.rate)
        distance = (high - low) / (self.bands + 1)
        mel = low + distance * np.arange(1, self.bands + 1)
        at = (1127 * np.log1p(factor * np.expm1(mel / 1127)) - low) / distance - 1
        below = np.clip(at.astype(np.int64), 0, max(0, self.bands - 2))
        part = np.clip(at - below, 0, 1)
        parts = frames.reshape(len(frames), -1, self.bands)
        above = np.minimum(below + 1, self.bands - 1)
        found = parts[:, :, below] * (1 - part) + parts[:, :, above] * part
        return found.reshape(frames.shape).astype(np.float32)


def _limits(rate: int) -> tuple[float, float]:
    """The lowest and the highest frequency of a rate, on the mel scale."""
    return 1127 * math.log1p(min(20, rate / 8) / 700), 1127 * math.log1p(rate / 1400)


@lru_cache(maxsize=16)
def _filters(rate: int, seconds: float, bands: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Window [W], triangles [N / 2 + 1, bands] that include the scale of the window, and N."""
    count = max(2, round(seconds * rate))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(count) + 0.5) / count)
    size = 1 << (count - 1).bit_length()
    edges = 700 * np.expm1(np.linspace(*_limits(rate), bands + 2) / 1127)
    frequencies = np.arange(size // 2 + 1)[:, None] * rate / size
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    bank = np.clip(np.minimum(rising, falling), 0, None)
    narrow = bank.sum(0) == 0  # between two frequencies: the nearest one
    bank[np.abs(frequencies - edges[1:-1]).argmin(0)[narrow], np.flatnonzero(narrow)] = 1
    bank /= bank.sum(0) * np.sum(window**2)
    return window.astype(np.float32), bank.astype(np.float32), size


def _slopes(x: np.ndarray) -> np.ndarray:
    """sum_n n (x[t+n] - x[t-n]) / (2 sum_n n^2) for n = 1, 2; the first and the last frame go on beyond the ends."""
    padded = np.pad(x, ((_DELTA_WIDTH, _DELTA_WIDTH), (0, 0)), mode="edge")
    steps = np.arange(-_DELTA_WIDTH, _DELTA_WIDTH + 1)
    total: Any = sum(n * padded[_DELTA_WIDTH + n : _DELTA_WIDTH + n + len(x)] for n in steps)
    return (total / np.sum(steps**2)).astype(np.float32)
