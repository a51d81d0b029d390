"""Raw PCM on a pipe gives the same samples however the pipe cuts it, and never a NaN."""

from __future__ import annotations

import io
import logging
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.audio.pcm import PCMReader, SampleFormat
from edgeaudio.audio.source import SourceStats, scrub
from edgeaudio.errors import AudioDeviceError, ConfigError


class Dribble(io.RawIOBase):
    """A pipe that returns the given numbers of bytes, then whatever is asked for."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = io.BytesIO(data), sizes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._sizes.pop(0)) if self._sizes else size)


def test_int16_maps_its_rails_as_libsndfile_does() -> None:
    data = np.array([-32768, -1, 0, 1, 32767], "<i2").tobytes()
    (chunk,) = PCMReader(io.BytesIO(data), chunk_samples=5)
    assert chunk.dtype == np.float32
    assert chunk.tolist() == [-1.0, -1 / 32768, 0.0, 1 / 32768, 32767 / 32768]


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
    reader = PCMReader(
        cast(io.BufferedReader, Dribble(whole.tobytes() + b"\x01" * tail, list(sizes))),
        channels=channels,
        chunk_samples=chunk_samples,
    )
    chunks = list(reader)
    wanted = (whole.astype(np.float32) / np.float32(32768)).reshape(-1, channels).mean(axis=1)
    np.testing.assert_allclose(np.concatenate([*chunks, np.empty(0, np.float32)]), wanted, atol=1e-7)
    assert all(len(chunk) == chunk_samples for chunk in chunks[:-1])
    assert all(len(chunk) for chunk in chunks)
    assert reader.stats.samples_in == len(wanted)
    assert reader.stats.trailing_bytes == tail


def test_odd_trailing_byte_is_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    reader = PCMReader(io.BytesIO(bytes(7)), channels=2, chunk_samples=4)
    with caplog.at_level(logging.WARNING):
        assert [len(chunk) for chunk in reader] == [1]
    assert reader.stats.trailing_bytes == 3
    assert "3 bytes into a sample" in caplog.text


def test_float_pcm_is_scrubbed_and_counted() -> None:
    data = np.array([0.5, np.nan, -np.inf, 1e30, -1.0, 0.0], "<f4").tobytes()
    reader = PCMReader(io.BytesIO(data), sample_format="f32le", chunk_samples=100)
    (chunk,) = reader
    assert chunk.tolist() == [0.5, 0, 0, 16, -1, 0]
    assert (reader.stats.nan_samples, reader.stats.clipped_samples) == (2, 2)
    assert reader.stats.clipped_fraction == pytest.approx(2 / 6)


@given(st.lists(st.floats(width=32), max_size=50))
def test_scrubbed_audio_is_finite_and_untouched_where_it_was_good(values: list[float]) -> None:
    before = np.array(values, np.float32)
    after = scrub(before, SourceStats())
    assert np.isfinite(after).all()
    good = np.isfinite(before) & (np.abs(before) <= 16)
    np.testing.assert_array_equal(after[good], before[good])


def test_empty_input_gives_no_chunk() -> None:
    assert list(PCMReader(io.BytesIO(b""), chunk_samples=10)) == []
    assert SourceStats().clipped_fraction == 0.0


def test_non_blocking_stream_is_refused() -> None:
    class NonBlocking(io.RawIOBase):
        def read(self, size: int = -1) -> bytes | None:
            return None

    with pytest.raises(AudioDeviceError, match="non-blocking"):
        list(PCMReader(cast(io.BufferedReader, NonBlocking()), chunk_samples=10))


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
        PCMReader(
            io.BytesIO(b""),
            sample_format=cast(SampleFormat, wanted["sample_format"]),
            channels=int(wanted["channels"]),
            chunk_samples=int(wanted["chunk_samples"]),
        )
