"""Raw PCM on a pipe gives the same samples however the pipe cuts it, and never a NaN."""

from __future__ import annotations

import io
import logging
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.audio.pcm import PCMSource, SampleFormat
from edgeaudio.audio.source import Mixer, SourceStats, scrub
from edgeaudio.errors import AudioDeviceError, ConfigError


class Dribble(io.RawIOBase):
    """A pipe that returns the given numbers of bytes, then whatever is asked for."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = io.BytesIO(data), sizes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._sizes.pop(0)) if self._sizes else size)


def source(data: bytes, **options: Any) -> PCMSource:
    return PCMSource(io.BytesIO(data), sample_rate=16_000, **options)


def test_int16_maps_its_rails_as_libsndfile_does() -> None:
    data = np.array([-32768, -1, 0, 1, 32767], "<i2").tobytes()
    (frames,) = source(data, chunk_samples=5).chunks()
    mono = Mixer(1).mix(frames)
    assert mono.dtype == np.float32
    assert mono.tolist() == [-1.0, -1 / 32768, 0.0, 1 / 32768, 32767 / 32768]


@given(
    samples=st.lists(st.integers(-32768, 32767), max_size=200),
    sizes=st.lists(st.integers(1, 50), max_size=100),
    chunk_samples=st.integers(1, 80),
    channels=st.integers(1, 3),
    tail=st.integers(0, 1),
)
def test_short_reads_change_nothing(
    samples: list[int], sizes: list[int], chunk_samples: int, channels: int, tail: int
) -> None:
    whole = np.array(samples[: len(samples) // channels * channels], "<i2")
    dribble = cast(io.BufferedReader, Dribble(whole.tobytes() + b"\x01" * tail, list(sizes)))
    pcm = PCMSource(dribble, sample_rate=16_000, channels=channels, chunk_samples=chunk_samples)
    chunks = list(pcm.chunks())
    assert np.array_equal(np.concatenate([*chunks, np.empty((0, channels), np.int16)]), whole.reshape(-1, channels))
    assert all(1 <= len(chunk) <= chunk_samples for chunk in chunks)
    assert pcm.trailing_bytes == tail


def test_what_is_there_is_handed_on_at_once() -> None:
    dribble = Dribble(bytes(100), [10, 3, 20])
    pcm = PCMSource(cast(io.BufferedReader, dribble), sample_rate=16_000, chunk_samples=1_000)
    assert [len(chunk) for chunk in pcm.chunks()][:3] == [5, 1, 10]


def test_odd_trailing_byte_is_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    pcm = source(bytes(7), channels=2, chunk_samples=4)
    with caplog.at_level(logging.WARNING):
        assert [len(chunk) for chunk in pcm.chunks()] == [1]
    assert pcm.trailing_bytes == 3
    assert "3 bytes into a frame of 4 bytes" in caplog.text


def test_channels_are_scrubbed_and_counted_before_they_are_mixed() -> None:
    frames = np.array([[0.5, np.nan], [-np.inf, 1e30], [-1.0, 0.0]], np.float32)
    mixer = Mixer(2)
    assert mixer.mix(frames).tolist() == [0.25, 8.0, -0.5]
    assert (mixer.stats.nan_samples, mixer.stats.clipped_samples) == (2, 2)
    assert mixer.stats.clipped_fraction == pytest.approx(2 / 6)


def test_one_channel_is_taken_as_it_is() -> None:
    frames = np.array([[1, 16_384], [2, -32_768]], np.int16)
    mixer = Mixer(2, channel=2)
    assert mixer.mix(frames).tolist() == [0.5, -1.0]
    assert mixer.stats.raw_samples == 0
    with pytest.raises(ConfigError, match="channel 3 was asked for, the input has 2"):
        Mixer(2, channel=3)


@given(st.lists(st.floats(width=32), max_size=50))
def test_scrubbed_audio_is_finite_and_untouched_where_it_was_good(values: list[float]) -> None:
    before = np.array(values, np.float32)
    after = scrub(before, SourceStats())
    assert np.isfinite(after).all()
    good = np.isfinite(before) & (np.abs(before) <= 16)
    np.testing.assert_array_equal(after[good], before[good])


def test_empty_input_gives_no_chunk() -> None:
    assert list(source(b"").chunks()) == []
    assert SourceStats().clipped_fraction == 0.0


def test_non_blocking_stream_is_refused() -> None:
    class NonBlocking(io.RawIOBase):
        def read(self, size: int = -1) -> bytes | None:
            return None

    with pytest.raises(AudioDeviceError, match="non-blocking"):
        list(PCMSource(cast(io.BufferedReader, NonBlocking()), sample_rate=16_000).chunks())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_format": "s16be"}, "Did you mean 's16le'"),
        ({"channels": 0}, "channels is 0"),
        ({"channels": 9}, "channels is 9"),
        ({"chunk_samples": 0}, "chunk_samples is 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, int | str], message: str) -> None:
    wanted: dict[str, int | str] = {"sample_format": "s16le", "channels": 1, "chunk_samples": 10, **options}
    with pytest.raises(ConfigError, match=message):
        source(
            b"",
            sample_format=cast(SampleFormat, wanted["sample_format"]),
            channels=int(wanted["channels"]),
            chunk_samples=int(wanted["chunk_samples"]),
        )
