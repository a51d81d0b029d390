"""Stream equals clip, bit for bit, however the audio is cut; reset is total; positions and gaps are exact."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio import catalog
from edgeaudio.audio.resample import resample
from edgeaudio.errors import EdgeAudioError, ShapeError
from edgeaudio.frontend.choice import FrontendChoice
from edgeaudio.frontend.stream import FrontendStream
from edgeaudio.runtime import Classifier, Event, StreamClassifier
from edgeaudio.runtime.classifier import ProbsStream
from edgeaudio.runtime.windows import WindowStream
from edgeaudio.spec import DecisionSpec, WindowSpec
from tests import tiny_bundle as tiny
from tests import tiny_stateful
from tests.frontends import needs_native

RATE = tiny.FRONTEND.sample_rate
SCENE = tiny.scene()

Key = tuple[str, ...]
WINDOWED: list[Key] = [("fake", "fp32"), ("onnx", "fp32"), ("onnx", "int8"), ("litert", "fp32"), ("litert", "int8")]
STATEFUL: list[Key] = [("onnx", "int8", "stateful"), ("litert", "fp32", "stateful")]
NATIVE: list[Key] = [("fake", "fp32"), ("onnx", "int8"), ("onnx", "int8", "stateful")]
CASES = [pytest.param((*key, "numpy"), id="-".join((*key, "numpy"))) for key in (*WINDOWED, *STATEFUL)] + [
    pytest.param((*key, "native"), id="-".join((*key, "native")), marks=needs_native) for key in NATIVE
]
chunk_sizes = st.lists(
    st.one_of(st.sampled_from([0, 1, 159, 160, 161, 400, 640, 80_000]), st.integers(0, 9_001)), max_size=12
)


@pytest.fixture(scope="module")
def classifier_of() -> Iterator[Callable[..., Classifier]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
        bundle = tiny_stateful.stateful_bundle()

        @functools.cache
        def make(*key: str) -> Classifier:
            engine, precision, *form, frontend = key
            return Classifier(
                bundle,
                engine=engine,
                precision=precision,
                stateful=form == ["stateful"],
                frontend=cast("FrontendChoice", frontend),
            )

        yield make


@pytest.fixture(scope="module")
def fake(classifier_of: Callable[..., Classifier]) -> Classifier:
    return classifier_of("fake", "fp32", "auto")


def _chunks(waveform: tiny.Float32, sizes: list[int]) -> list[tiny.Float32]:
    """`waveform` cut to `sizes`, over and over; a 3001 between the rounds so that it ends."""
    chunks, at, lengths = [], 0, itertools.cycle([*sizes, 3_001])
    while at < len(waveform):
        n = next(lengths)
        chunks.append(waveform[at : at + n])
        at += n
    return chunks


def _events(stream: StreamClassifier, chunks: list[tiny.Float32]) -> list[Event]:
    return [event for chunk in chunks for event in stream.feed(chunk)] + stream.flush()


@pytest.mark.parametrize("key", CASES)
@settings(max_examples=25)
@given(sizes=chunk_sizes, n_samples=st.sampled_from([0, 1, 399, 1_679, 1_680, 1_681, 20_011, 32_000]))
def test_any_chunking_gives_the_probabilities_and_events_of_the_clip(
    classifier_of: Callable[..., Classifier], key: Key, sizes: list[int], n_samples: int
) -> None:
    classifier, waveform = classifier_of(*key), SCENE[:n_samples]
    probs = ProbsStream(classifier)
    scored = [window for chunk in _chunks(waveform, sizes) for window in probs.feed(chunk)] + probs.flush()
    if n_samples:
        clip = classifier(waveform, RATE)
        assert np.stack([window.probs for window in scored]).tobytes() == clip.window_probs.tobytes()
        assert [window.position_samples / RATE for window in scored] == clip.window_starts_s.tolist()
    whole, cut = StreamClassifier(classifier), StreamClassifier(classifier)
    assert _events(cut, _chunks(waveform, sizes)) == _events(whole, [waveform])
    assert cut.stats == whole.stats
    assert cut.stats.samples_in == n_samples
    assert cut.stats.hops == len(scored)


def test_one_sample_at_a_time_gives_the_events_of_the_clip(fake: Classifier) -> None:
    waveform = SCENE[:12_000]
    one_by_one = [waveform[i : i + 1] for i in range(len(waveform))]
    events = _events(StreamClassifier(fake), one_by_one)
    assert events == _events(StreamClassifier(fake), [waveform])
    assert [event.kind for event in events] == ["start", "end"]


def test_the_scene_is_heard_as_it_was_made(fake: Classifier) -> None:
    ends = [event for event in _events(StreamClassifier(fake), [SCENE]) if event.kind == "end"]
    assert [event.label for event in ends] == ["low", "high", "mid"]
    for event, (start, length) in zip(ends, ((3_000, 7_000), (13_500, 6_001), (23_000, 9_000)), strict=True):
        assert start - tiny.WINDOW_SAMPLES <= event.start_sample <= start + 2 * tiny.HOP_SAMPLES
        assert event.end_sample is not None
        assert abs(event.end_sample - (start + length)) <= tiny.WINDOW_SAMPLES + 2 * tiny.HOP_SAMPLES


@settings(max_examples=30)
@given(
    before=chunk_sizes,
    flushed=st.booleans(),
    seed=st.integers(0, 3),
    rate_hz=st.sampled_from([RATE, 48_000]),
    n_samples=st.sampled_from([1_000, 32_000]),
)
def test_reset_is_total(
    fake: Classifier, before: list[int], flushed: bool, seed: int, rate_hz: int, n_samples: int
) -> None:
    used, fresh = StreamClassifier(fake, sample_rate=rate_hz), StreamClassifier(fake, sample_rate=rate_hz)
    for chunk in _chunks(tiny.scene(seed)[: 1_000 * len(before)], before):
        used.feed(chunk)
    used.feed(np.array([np.nan, 1.0], np.float32))
    used.gap(77)
    used.feed(tiny.scene(seed)[10_000 : 10_000 + 777 * len(before)])
    if flushed:
        used.flush()
    used.reset()
    assert _events(used, [SCENE[-n_samples:]]) == _events(fresh, [SCENE[-n_samples:]])
    assert used.stats == fresh.stats


@pytest.mark.parametrize("start_sample", [1, 2**31 - 1, 2**32 - 1, 2**53 - 1])
def test_a_stream_that_starts_at_a_wrap_point_gives_the_same_events_shifted(
    fake: Classifier, start_sample: int
) -> None:
    expected = _events(StreamClassifier(fake), [SCENE])
    shifted = _events(StreamClassifier(fake, start_sample=start_sample), [SCENE])
    assert expected
    assert [
        replace(
            event,
            start_sample=event.start_sample - start_sample,
            end_sample=None if event.end_sample is None else event.end_sample - start_sample,
        )
        for event in shifted
    ] == expected
    assert shifted[-1].t_end_s == (start_sample + (expected[-1].end_sample or 0)) / RATE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_samples_are_silence_counted_and_forgotten(fake: Classifier, bad: float) -> None:
    noisy, silent = SCENE.copy(), SCENE.copy()
    noisy[[5_000, 5_001, 20_000]], silent[[5_000, 5_001, 20_000]] = bad, 0
    stream = StreamClassifier(fake)
    assert _events(stream, _chunks(noisy, [77])) == _events(StreamClassifier(fake), [silent])
    assert stream.stats.nan_samples == 3


def test_clipping_is_counted(fake: Classifier) -> None:
    stream = StreamClassifier(fake)
    stream.feed(np.array([1.0, -1.0, 0.5, 0.0], np.float32))
    assert stream.stats.clipped_fraction == 0.5


@pytest.mark.parametrize("name", ["silence", "dc", "square", "lsb", "impulse", "20hz", "nyquist"])
def test_odd_signals_stay_finite_and_silence_is_no_event(fake: Classifier, name: str) -> None:
    n = np.arange(RATE)
    signal = {
        "silence": np.zeros(RATE),
        "dc": np.ones(RATE),
        "square": np.where(n // 40 % 2, 1.0, -1.0),
        "lsb": np.random.default_rng(0).integers(-1, 2, RATE) / 32768,
        "impulse": np.where(n == 8_000, 1.0, 0.0),
        "20hz": np.sin(2 * np.pi * 20 * n / RATE),
        "nyquist": np.where(n % 2, 1.0, -1.0),
    }[name]
    assert np.isfinite(fake(signal, RATE).window_probs).all()
    # 0.6 is above what equal evidence for three classes gives, bias included.
    stream = StreamClassifier(fake, DecisionSpec(threshold_on=0.6))
    events = _events(stream, [signal.astype(np.float32)])
    if name in ("silence", "lsb"):
        assert events == []


@settings(max_examples=20)
@given(sizes=chunk_sizes, rate_hz=st.sampled_from([8_000, 44_100, 48_000]))
def test_a_resampled_stream_equals_the_resampled_clip(fake: Classifier, sizes: list[int], rate_hz: int) -> None:
    waveform = resample(SCENE, RATE, rate_hz)
    cut = _events(StreamClassifier(fake, sample_rate=rate_hz), _chunks(waveform, sizes))
    assert cut == _events(StreamClassifier(fake), [resample(waveform, rate_hz, RATE)])


def test_nothing_is_scored_across_a_gap_and_positions_go_on(fake: Classifier) -> None:
    first, second = SCENE[:8_000], SCENE[20_000:]
    stream = StreamClassifier(fake)
    events = stream.feed(first) + stream.gap(12_000) + stream.feed(second) + stream.flush()
    decision_only = StreamClassifier(fake)
    before = decision_only.feed(first) + decision_only.gap(0)
    assert [(event.kind, event.label) for event in before] == [("start", "low"), ("end", "low")]
    assert events == before + _events(StreamClassifier(fake, start_sample=20_000), [second])
    stats = stream.stats
    assert (stats.gaps, stats.dropped_samples, stats.samples_in) == (1, 12_000, len(first) + len(second))


def test_what_the_resampler_holds_at_a_gap_is_dropped(fake: Classifier) -> None:
    waveform = resample(SCENE, RATE, 48_000)
    stream = StreamClassifier(fake, sample_rate=48_000)
    stream.feed(waveform[:30_001])
    stream.gap(17_999)
    events = stream.feed(waveform[48_000:]) + stream.flush()
    alone = StreamClassifier(fake, sample_rate=48_000, start_sample=RATE)
    assert events == _events(alone, [waveform[48_000:]])


def test_a_gap_at_another_rate_moves_positions_by_its_time(fake: Classifier) -> None:
    stream = StreamClassifier(fake, sample_rate=48_000)
    stream.feed(np.zeros(48_000, np.float32))
    stream.gap(96_000)
    low = resample(tiny.noise_band("low", RATE), RATE, 48_000)
    events = stream.feed(low) + stream.flush()
    assert [event.start_sample for event in events if event.kind == "end"] == [3 * RATE]


def test_a_flushed_stream_must_be_reset(fake: Classifier) -> None:
    stream = StreamClassifier(fake)
    stream.feed(SCENE)
    stream.flush()
    assert stream.flush() == []
    with pytest.raises(EdgeAudioError, match=r"Call reset\(\)"):
        stream.feed(SCENE)
    stream.reset()
    stream.feed(SCENE)
    with pytest.raises(EdgeAudioError, match="wanted at least 0"):
        stream.gap(-1)


@pytest.mark.parametrize("chunk", [np.zeros((1, 2), np.float32), np.zeros(2, np.int16)])
def test_a_refused_chunk_leaves_the_stream_as_it_was(fake: Classifier, chunk: Any) -> None:
    stream = StreamClassifier(fake)
    events = stream.feed(SCENE[:10_001])
    with pytest.raises(ShapeError):
        stream.feed(chunk)
    events += stream.feed(SCENE[10_001:]) + stream.flush()
    assert events == _events(StreamClassifier(fake), [SCENE])


@settings(max_examples=40)
@given(frames=st.integers(1, 30), hop_frames=st.integers(1, 40), n_frames=st.integers(0, 200), sizes=chunk_sizes)
def test_windows_of_every_shape_are_cut_right(frames: int, hop_frames: int, n_frames: int, sizes: list[int]) -> None:
    spec = WindowSpec(frames=frames, hop_frames=hop_frames)
    waveform = np.random.default_rng(n_frames).standard_normal(tiny.FRONTEND.n_samples(n_frames)).astype(np.float32)
    stream = WindowStream(tiny.FRONTEND, spec, start_sample=7)
    windows = [window for chunk in _chunks(waveform, sizes) for window in stream.feed(chunk)]
    log_mel = FrontendStream(tiny.FRONTEND).feed(waveform) if n_frames else np.empty((0, 64), np.float32)
    assert len(windows) == spec.n_windows(n_frames)
    for index, window in enumerate(windows):
        assert window.position_samples == 7 + index * spec.hop_samples(tiny.FRONTEND)
        assert np.array_equal(window.log_mel, log_mel[index * hop_frames :][:frames])
