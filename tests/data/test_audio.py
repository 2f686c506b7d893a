"""Recordings: every width of WAV, damaged files, resampling, and features against a direct formula."""

from __future__ import annotations

import math
import struct
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.data.audio import LogMel, find_recordings, read_audio, read_clips, resample
from minirnn.errors import DataError, OptionError

RATE = 8000


def write(path: Path, samples: np.ndarray, width: int = 2, rate: int = RATE) -> Path:
    """Write samples [S, channels] from -1 to 1 with the standard library."""
    scaled = np.rint(samples * ((1 << (8 * width - 1)) - 1)).astype(np.int64)
    if width == 1:
        scaled += 128
    data = scaled.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.shape[1], width, rate, 0, "NONE", ""))
        file.writeframes(data)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def wav(data: bytes, kind: int = 1, channels: int = 1, bits: int = 16, rate: int = RATE, more: bytes = b"") -> bytes:
    width = channels * bits // 8
    layout = struct.pack("<HHIIHH", kind, channels, rate, (rate * width) % (1 << 32), width, bits) + more
    body = b"WAVE" + chunk(b"LIST", b"odd") + chunk(b"fmt ", layout) + chunk(b"data", data)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_of_every_width_is_read(width: int, channels: int, tmp_path: Path) -> None:
    given = np.random.default_rng(width).uniform(-1, 1, (101, channels))
    given[:2] = [[-1.0], [1.0]]
    samples, rate = read_audio(write(tmp_path / "a.wav", given, width, 11025))
    assert (samples.dtype, rate) == (np.float32, 11025)
    np.testing.assert_allclose(samples, given.mean(1), atol=1.6 / (1 << (8 * width - 1)) + 1e-7)


@pytest.mark.parametrize("bits", [32, 64])
def test_floating_point_and_extensible_files_are_read(bits: int, tmp_path: Path) -> None:
    given = np.array([0.5, -0.25, 1.0, 0.125])
    data, path = given.astype(f"<f{bits // 8}").tobytes(), tmp_path / "a.wav"
    extension = struct.pack("<HHIH", 22, bits, 4, 3) + bytes(14)
    for made in (wav(data, 3, bits=bits), wav(data, 0xFFFE, bits=bits, more=extension)):
        path.write_bytes(made)
        np.testing.assert_array_equal(read_audio(path)[0], given)
    path.write_bytes(wav(data, 3, channels=2, bits=bits))
    np.testing.assert_array_equal(read_audio(path)[0], [0.125, 0.5625])


WHOLE = wav(bytes(100))
DAMAGED: list[tuple[bytes, str]] = [
    (b"", "the file is empty; expected a WAV file"),
    (b"hello", r"not a WAV file \(nor FLAC or OGG\)"),
    (WHOLE[:11], "not a WAV file"),
    (WHOLE[:-7], "cut short: its header says 'data' of 100 bytes, but 93 follow"),
    (WHOLE[:50], "cut short: there is no data in it"),
    (WHOLE[:30] + b"\xff\xff\xff\xff" + WHOLE[34:], "cut short|before its data"),
    (wav(b""), "there is no sample in the WAV file"),
    (wav(b"a"), "there is no sample in the WAV file"),
    (wav(bytes(160), channels=8), "expected one or two channels, got 8"),
    (wav(bytes(100), channels=0), "expected one or two channels, got 0"),
    (wav(bytes(100), rate=0), "expected 1 to 384,000 samples per second, got 0"),
    (wav(bytes(100), kind=2, bits=4), "or floating point, got format 2 of 4 bits"),
    (wav(np.array([1, np.nan], "<f4").tobytes(), 3, bits=32), "a sample is not a finite number"),
]


@pytest.mark.parametrize(("data", "message"), DAMAGED)
def test_a_damaged_file_is_refused_by_its_name(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.wav: .*({message})"):
        read_audio(tmp_path / "a.wav")


def test_no_cut_or_changed_byte_of_a_header_raises_another_error(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.wav", wav(bytes(range(40)))
    for place in range(len(whole) - 40):
        for value in (0, 1, 127, 255):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                samples, _ = read_audio(path)
            except (DataError, OptionError):
                continue
            assert 0 < samples.size <= 40


def test_other_formats_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"fLaC" + bytes(50))
    with pytest.raises(
        OptionError, match=r"a\.flac: reading FLAC and OGG needs soundfile: pip install 'minirnn\[audio\]'"
    ):
        read_audio(tmp_path / "a.flac")
    with pytest.raises(DataError, match=r"cannot read .*: No such file"):
        read_audio(tmp_path / "b.wav")


def test_flac_and_ogg_are_read(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (extra: audio)")
    given = np.random.default_rng(0).uniform(-0.5, 0.5, (900, 2))
    soundfile.write(str(tmp_path / "a.flac"), given, RATE)
    samples, rate = read_audio(tmp_path / "a.flac")
    assert rate == RATE
    np.testing.assert_allclose(samples, given.mean(1), atol=1e-4)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:30])
    with pytest.raises(DataError, match="cannot read"):
        read_audio(tmp_path / "a.flac")


# ------------------------------------------------------------------------------------------------------- labels


def test_labels_of_folders_and_lists(tmp_path: Path) -> None:
    tone = np.zeros((9, 1))
    for name in ("7_a_1.wav", "7_b_2.WAV", "on/a.wav", "off/x_y.wav", ".hidden/no_1.wav", "on/.no.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, tone)
    (tmp_path / "README.md").touch()
    _, texts, where = read_clips([str(tmp_path)])
    assert texts == ["7", "7", "off", "on"]
    assert where[0] == str(tmp_path / "7_a_1.wav")
    assert read_clips([str(tmp_path / "off")], "name")[1] == ["x"]
    assert read_clips([str(tmp_path / "off")], "folder")[1] == ["off"]
    with pytest.raises(DataError, match=r"on/a\.wav: expected a label and _ at the beginning of the name"):
        read_clips([str(tmp_path / "on")])
    (tmp_path / "list.tsv").write_text("on/a.wav\tyes\n7_a_1.wav\ta b\n", encoding="utf-8")
    expected = [str(tmp_path / "on/a.wav"), str(tmp_path / "7_a_1.wav")], ["yes", "a b"]
    assert read_clips([str(tmp_path / "list.tsv")])[:2] == expected
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no recording in the folder; expected files \.flac, \.ogg, \.wav"):
        find_recordings(tmp_path / "empty")


# --------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize(
    ("rate", "new"), [(8000, 16000), (44100, 8000), (8000, 11025), (16000, 44100), (48000, 8000), (7999, 8000)]
)
def test_a_sine_stays_a_sine_and_what_is_above_half_the_rate_is_gone(rate: int, new: int) -> None:
    t, frequency = np.arange(rate // 4), 440
    found = resample(np.sin(2 * np.pi * frequency / rate * t).astype(np.float32), rate, new)
    assert (found.dtype, len(found)) == (np.float32, math.ceil(len(t) * new / rate))
    middle = slice(len(found) // 8, -len(found) // 8)
    expected = np.sin(2 * np.pi * frequency / new * np.arange(len(found)))
    assert np.abs(found - expected)[middle].max() < 3e-3
    np.testing.assert_allclose(resample(np.ones(rate // 4, np.float32), rate, new)[middle], 1, atol=1e-5)
    if new < rate // 2:
        high = resample(np.sin(2 * np.pi * 0.75 * new / rate * t).astype(np.float32), rate, new)
        assert np.abs(high[middle]).max() < 5e-3


@pytest.mark.parametrize(("rate", "new"), [(3, 2), (2, 3), (5, 1), (1, 4)])
def test_resampling_is_that_of_scipy_but_for_its_filter(rate: int, new: int) -> None:
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x = np.random.default_rng(1).normal(size=301)
    expected = signal.resample_poly(x, new, rate)
    assert np.abs(resample(x, rate, new) - expected).max() < 0.08  # scipy's filter has the same shape, other sums
    with pytest.raises(DataError, match="expected at most 1,073,741,824 samples, got 51,200,000,000 at 51,200 per"):
        resample(np.zeros(1_000_000, np.float32), 1, 51_200)
    for length in (1, 2, 7):
        assert len(resample(np.ones(length), rate, new)) == -(-length * new // rate)


# ----------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("deltas", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_features_are_those_of_the_formula(deltas: bool, center: bool) -> None:
    """A discrete Fourier transform as a sum, and triangles by their corners."""
    rate, bands, count, step, size = 1000, 6, 50, 20, 64
    samples = np.random.default_rng(2).normal(size=205)
    found = LogMel(rate, 0.05, 0.02, bands, deltas, center)(samples.astype(np.float32))
    x = samples / math.sqrt(sum(samples**2) / len(samples))
    corners = np.linspace(1127 * math.log(1 + 20 / 700), 1127 * math.log(1 + 500 / 700), bands + 2)
    corners = 700 * (np.exp(corners / 1127) - 1)
    window = [math.sin(math.pi * (n + 0.5) / count) ** 2 for n in range(count)]
    expected = np.zeros(((205 - count) // step + 1, bands))
    for t in range(len(expected)):
        frame = x[t * step : t * step + count] * window
        for b in range(bands):
            low, middle, high = corners[b : b + 3]
            total = weights = 0.0
            for k in range(size // 2 + 1):
                f = k * rate / size
                weight = max(0, min((f - low) / (middle - low), (high - f) / (high - middle)))
                power = abs(sum(frame[n] * np.exp(-2j * np.pi * k * n / size) for n in range(count))) ** 2
                total, weights = total + weight * power, weights + weight
            expected[t, b] = math.log(total / weights / sum(w**2 for w in window) + 1e-5)
    if center:
        expected -= expected.mean(0)
    np.testing.assert_allclose(found[:, :bands], expected, atol=2e-5)
    if deltas:
        last = len(expected) - 1
        at = [[min(max(t + n, 0), last) for n in (-2, -1, 1, 2)] for t in range(last + 1)]
        slopes = [(2 * (expected[d] - expected[a]) + expected[c] - expected[b]) / 10 for a, b, c, d in at]
        np.testing.assert_allclose(found[:, bands:], slopes, atol=2e-5)


def test_warped_features_are_those_of_a_tone_of_another_frequency() -> None:
    features = LogMel(8000, bands=40, center=False)
    tone = lambda f: np.sin(2 * np.pi * f * np.arange(2000) / 8000).astype(np.float32)  # noqa: E731
    for factor in (0.8, 1.0, 1.25):
        frames = features(tone(1500))
        found, expected = features.warp(frames, factor), features(tone(1500 / factor))
        assert found.shape == frames.shape
        assert (np.abs(found.argmax(1) - expected.argmax(1)) <= 1).all()
        assert (found.argmax(1) != frames.argmax(1)).all() == (factor != 1)
    np.testing.assert_allclose(features.warp(frames, 1.0), frames, atol=1e-4)
    for bands in (1, 2):
        both = LogMel(8000, bands=bands, deltas=True)
        assert np.isfinite(both.warp(both(tone(300)), 1.1)).all()


def test_features_ignore_loudness_and_are_finite_for_silence_and_a_single_sample() -> None:
    features = LogMel(8000, bands=80, center=False)  # some bands lie between two frequencies
    samples = np.random.default_rng(3).normal(size=900).astype(np.float32)
    np.testing.assert_allclose(features(samples / 1000), features(samples), atol=1e-4)
    assert features(samples[:1]).shape == (1, 80)
    np.testing.assert_allclose(features(np.zeros(400, np.float32)), math.log(1e-5), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate: expected an int from 1 to 384000, got 0"),
        ({"rate": 8000, "bands": 10_000}, "bands: expected an int from 1 to 256"),
        ({"rate": 8000, "hop": 0.0}, "hop: expected a number of at least 0.000125 and at most 0.5, got 0"),
        ({"rate": 8000, "window": 3.0}, "window: expected a number of at least"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LogMel(**options)
