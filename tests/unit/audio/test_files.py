"""Every audio format gives the right samples or one typed error that names the file and the reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.audio.files import FileSource, decode_file
from edgeaudio.audio.source import AudioFormat, Mixer
from edgeaudio.errors import AudioFileError, ConfigError

RATE_HZ = 16_000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)

# (suffix, format, subtype, endian, largest error): the error is the format's own step or loss.
FORMATS = [
    ("wav", "WAV", "PCM_16", "LITTLE", 2**-15),
    ("wav", "WAV", "PCM_U8", None, 2**-7),
    ("wav", "WAV", "PCM_24", None, 2**-23),
    ("wav", "WAV", "PCM_32", None, 2**-23),
    ("wav", "WAV", "FLOAT", None, 0.0),
    ("wav", "WAV", "DOUBLE", None, 0.0),
    ("wav", "WAV", "PCM_16", "BIG", 2**-15),
    ("wav", "WAVEX", "PCM_16", None, 2**-15),
    ("aiff", "AIFF", "PCM_16", "BIG", 2**-15),
    ("aiff", "AIFF", "FLOAT", None, 0.0),
    ("au", "AU", "PCM_16", "BIG", 2**-15),
    ("caf", "CAF", "PCM_16", None, 2**-15),
    ("w64", "W64", "PCM_16", None, 2**-15),
    ("flac", "FLAC", "PCM_16", None, 2**-15),
    ("flac", "FLAC", "PCM_24", None, 2**-23),
    ("ogg", "OGG", "VORBIS", None, 0.05),
]


def write(path: Path, waveform: np.ndarray, rate_hz: int = RATE_HZ, **options: str | None) -> Path:
    sf.write(path, waveform, rate_hz, **options)
    return path


def reason_of(path: Path, **options: float) -> str:
    with pytest.raises(AudioFileError, match=path.name) as caught:
        decode_file(path, **options)
    return caught.value.reason


@pytest.mark.parametrize(("suffix", "container", "subtype", "endian", "tolerance"), FORMATS)
def test_every_format_gives_the_samples_that_were_written(
    tmp_path: Path, suffix: str, container: str, subtype: str, endian: str | None, tolerance: float
) -> None:
    path = write(tmp_path / f"tone.{suffix}", TONE, format=container, subtype=subtype, endian=endian)
    audio = decode_file(path)
    assert audio.waveform.dtype == np.float32
    assert audio.waveform.ndim == 1
    assert (audio.sample_rate, audio.channels) == (RATE_HZ, 1)
    assert audio.source_format.endswith(subtype)
    assert np.abs(audio.waveform[: len(TONE)] - TONE).max() <= tolerance


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_channels_are_mixed_by_their_mean(tmp_path: Path, channels: int) -> None:
    waveform = np.random.default_rng(0).uniform(-0.9, 0.9, (700_001 // channels, channels)).astype(np.float32)
    audio = decode_file(write(tmp_path / "many.wav", waveform, subtype="FLOAT"))
    assert audio.channels == channels
    np.testing.assert_allclose(audio.waveform, waveform.mean(axis=1), atol=1e-7)


def test_one_sample_is_audio(tmp_path: Path) -> None:
    assert decode_file(write(tmp_path / "one.wav", np.float32([0.5]))).waveform.tolist() == [0.5]


def test_hour_long_file_is_refused_above_the_cap_and_read_below(tmp_path: Path) -> None:
    path = write(tmp_path / "long.flac", np.zeros(4_000 * 3_600, np.float32), 4_000)
    assert reason_of(path, max_s=3_599) == "too_long"
    assert decode_file(path, max_s=3_600).duration_s == 3_600


@pytest.mark.parametrize(
    ("reason", "waveform", "rate_hz", "options"),
    [
        ("empty", np.zeros(0, np.float32), RATE_HZ, {}),
        ("channels", np.zeros((100, 9), np.float32), RATE_HZ, {}),
        ("sample_rate", TONE, 3_999, {}),
        ("sample_rate", TONE, 384_001, {}),
        ("not_finite", np.float32([0, np.nan, 0]), RATE_HZ, {"subtype": "FLOAT"}),
        ("not_finite", np.float32([0, np.inf, 0]), RATE_HZ, {"subtype": "FLOAT"}),
        ("level", TONE * 32768, RATE_HZ, {"subtype": "FLOAT"}),
        ("not_finite", np.full((10, 2), 3e38, np.float32), RATE_HZ, {"subtype": "FLOAT"}),
    ],
)
def test_absurd_audio_is_refused_with_its_reason(
    tmp_path: Path, reason: str, waveform: np.ndarray, rate_hz: int, options: dict[str, str]
) -> None:
    assert reason_of(write(tmp_path / "absurd.wav", waveform, rate_hz, **options)) == reason


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "flac", "mp3"])
def test_file_cut_in_the_middle_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"cut.{suffix}", np.random.default_rng(0).uniform(-0.5, 0.5, RATE_HZ).astype(np.float32))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason_of(path) in ("truncated", "undecodable")


def test_header_of_a_petabyte_allocates_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "liar.flac", TONE)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # STREAMINFO: the 36-bit total of samples starts in the low half of byte 21.
    data[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert reason_of(path) == "too_long"
    assert reason_of(path, max_s=1e9) in ("truncated", "undecodable")


def test_not_audio_is_undecodable(tmp_path: Path) -> None:
    for name, data in (("text.wav", b"hello"), ("none.ogg", b""), ("headerless.raw", bytes(1000))):
        (tmp_path / name).write_bytes(data)
        assert reason_of(tmp_path / name) == "undecodable"


def test_missing_file_folder_and_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "folder.wav", "absent.wav"):
        assert reason_of(tmp_path / name) == "missing"


@pytest.mark.parametrize("chunk_samples", [1, 999, 16_000, 50_000])
def test_file_in_chunks_is_the_file(tmp_path: Path, chunk_samples: int) -> None:
    waveform = np.random.default_rng(1).uniform(-0.9, 0.9, (4_001, 2)).astype(np.float32)
    path = write(tmp_path / "stereo.wav", waveform, subtype="PCM_16")
    source = FileSource(path, chunk_samples=chunk_samples)
    assert source.open() == AudioFormat(RATE_HZ, 2)
    collected = list(source.chunks())
    assert {len(chunk) for chunk in collected[:-1]} <= {chunk_samples}
    np.testing.assert_array_equal(Mixer(2).mix(np.concatenate(collected)), decode_file(path).waveform)


def test_file_in_chunks_gives_what_a_clip_is_refused_for(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.wav", np.float32([0.1, np.nan, np.inf, -1.0, 99.0]), subtype="FLOAT")
    assert reason_of(path) == "not_finite"
    source = FileSource(path, chunk_samples=2)
    source.open()
    assert np.array_equal(np.concatenate(list(source.chunks()))[:, 0], sf.read(path)[0].astype(np.float32), True)


def test_chunk_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chunk_samples"):
        FileSource(write(tmp_path / "tone.wav", TONE), chunk_samples=0)
