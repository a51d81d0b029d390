"""Resampling keeps what fits, removes what does not, and a stream equals the whole."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeaudio.audio.resample import StreamResampler, resample
from edgeaudio.errors import SampleRateError, ShapeError, UnsupportedError

ALIAS_REJECTION_DB = 60.0  # docs: reliability goal A4
PASS_BAND_DB = 0.1

Wave = NDArray[np.float32]


def tone(f_hz: float, rate_hz: int) -> Wave:
    return (0.5 * np.sin(2 * np.pi * f_hz * np.arange(rate_hz) / rate_hz)).astype(np.float32)


def gain_db(f_hz: float, convert: Callable[[Wave], Wave]) -> float:
    """Level after / before, without the filter's run-in."""
    before, after = tone(f_hz, 48_000), convert(tone(f_hz, 48_000))[1_000:-1_000]
    return float(20 * np.log10(np.sqrt(np.mean(after**2)) / np.sqrt(np.mean(before**2)) + 1e-12))


def worst_alias_db(convert: Callable[[Wave], Wave]) -> float:
    return max(gain_db(f_hz, convert) for f_hz in (8_100, 8_500, 9_000, 10_000, 12_345, 16_001, 20_000, 23_000))


def test_tones_above_half_the_target_rate_are_removed() -> None:
    assert worst_alias_db(lambda x: resample(x, 48_000, 16_000)) < -ALIAS_REJECTION_DB


def test_the_alias_check_catches_plain_decimation() -> None:
    assert worst_alias_db(lambda x: x[::3]) > -ALIAS_REJECTION_DB


@pytest.mark.parametrize("f_hz", [50, 440, 3_000, 7_000])
def test_tones_that_fit_keep_their_level(f_hz: float) -> None:
    assert abs(gain_db(f_hz, lambda x: resample(x, 48_000, 16_000))) < PASS_BAND_DB


@settings(max_examples=30, deadline=None)
@given(
    rates=st.sampled_from([(48_000, 16_000), (44_100, 16_000), (44_100, 32_000), (16_000, 44_100), (8_000, 16_000)]),
    cuts=st.lists(st.integers(0, 6_000), min_size=1, max_size=30),
)
def test_stream_equals_whole_for_any_chunking(rates: tuple[int, int], cuts: list[int]) -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, sum(cuts)).astype(np.float32)
    stream = StreamResampler(*rates)
    parts = [stream.feed(chunk) for chunk in np.split(waveform, np.cumsum(cuts)[:-1])]
    joined = np.concatenate([*parts, stream.flush()])
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, resample(waveform, *rates))


def test_sample_by_sample_equals_whole() -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 3_000).astype(np.float32)
    stream = StreamResampler(48_000, 16_000)
    parts = [stream.feed(waveform[i : i + 1]) for i in range(len(waveform))]
    np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()]), resample(waveform, 48_000, 16_000))


def test_after_a_flush_the_stream_is_as_new() -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 5_000).astype(np.float32)
    stream = StreamResampler(44_100, 16_000)
    first = np.concatenate([stream.feed(waveform), stream.flush()])
    second = np.concatenate([stream.feed(waveform), stream.flush()])
    np.testing.assert_array_equal(first, second)


def test_empty_stream_flushes_to_nothing() -> None:
    assert len(StreamResampler(48_000, 16_000).flush()) == 0


def test_equal_rates_are_the_identity() -> None:
    waveform = tone(440, 16_000)
    assert resample(waveform, 16_000, 16_000) is waveform
    stream = StreamResampler(16_000, 16_000)
    assert stream.feed(waveform) is waveform
    assert len(stream.flush()) == 0


def test_length_is_kept_in_seconds() -> None:
    assert len(resample(np.zeros(44_100, np.float32), 44_100, 16_000)) == 16_000


@pytest.mark.parametrize("rate_hz", [0, 3_999, 384_001])
def test_absurd_rates_are_refused(rate_hz: int) -> None:
    with pytest.raises(SampleRateError, match=str(rate_hz)):
        resample(np.zeros(10, np.float32), rate_hz, 16_000)
    with pytest.raises(SampleRateError, match=str(rate_hz)):
        StreamResampler(16_000, rate_hz)


@pytest.mark.parametrize("waveform", [np.zeros((2, 5), np.float32), np.zeros(5)])
def test_wrong_shape_or_type_is_refused(waveform: Wave) -> None:
    with pytest.raises(ShapeError, match="float32"):
        resample(waveform, 48_000, 16_000)
    with pytest.raises(ShapeError, match="float32"):
        StreamResampler(48_000, 16_000).feed(waveform)


def test_without_soxr_only_equal_rates_are_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    wave = tone(440, 16_000)
    assert resample(wave, 16_000, 16_000) is wave
    assert StreamResampler(16_000, 16_000).feed(wave) is wave
    with pytest.raises(UnsupportedError, match="converting 48000 Hz to 16000 Hz needs soxr"):
        resample(wave, 48_000, 16_000)
    with pytest.raises(UnsupportedError, match="or bring audio at 16000 Hz"):
        StreamResampler(48_000, 16_000)
