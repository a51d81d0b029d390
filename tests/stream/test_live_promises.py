"""Promises of a live stream, the whole way: source, ring, worker, front-end, engine, decision.

S1 any chunking is the clip, S4 stalls (tests/unit/runtime/test_live.py), S6 wrap points (tests/stream/test_chunking.py,
tests/unit/audio/test_ring.py), S8 reset is total; A1 bad samples, A2 odd signals, A3 health
(tests/unit/runtime/test_health.py), A4 other rates, A5 drift (tests/unit/runtime/test_clock.py, benchmarks/soak.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio import catalog
from edgeaudio.audio.resample import resample
from edgeaudio.frontend.reference import PARITY_GATE_LN, reference_log_mel
from edgeaudio.runtime import Classifier, StreamClassifier
from edgeaudio.runtime.live import Stream
from edgeaudio.runtime.observer import EventRecord
from tests import tiny_bundle as tiny
from tests.fake_microphone import ScriptedSource

RATE = 16_000
SCENE = tiny.scene()
ENGINES = [("onnx", "fp32"), ("onnx", "int8"), ("litert", "fp32"), ("litert", "int8")]


class Windows:
    """An output that keeps the windows."""

    def __init__(self) -> None:
        self.probs: list[Any] = []
        self.frames: list[Any] = []

    def on_window(self, window: Any, new_frames: Any) -> None:
        self.probs.append(window.probs)
        self.frames.append(new_frames)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def heard(classifier: Classifier, blocks: list[Any], **options: Any) -> tuple[list[EventRecord], Windows, Stream]:
    seen = Windows()
    stream = Stream(classifier, ScriptedSource(blocks, live=False, **options), observers=[seen])
    return list(stream), seen, stream


def decided(records: list[EventRecord]) -> list[tuple[Any, ...]]:
    return [(r.event, r.label, r.score, r.t_start_s, r.t_end_s) for r in records]


def cut(waveform: Any, sizes: list[int]) -> list[Any]:
    at = np.cumsum(sizes)
    return [block for block in np.split(waveform, at[at < len(waveform)]) if len(block)]


@pytest.fixture(scope="module")
def fake() -> Classifier:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
        return Classifier(tiny.tiny_bundle(), engine="fake")


@settings(max_examples=40)
@given(sizes=st.lists(st.one_of(st.sampled_from([1, 159, 160, 161, 30_000]), st.integers(1, 5_000)), max_size=20))
def test_s1_any_blocks_through_the_ring_are_the_clip_bit_for_bit(fake: Classifier, sizes: list[int]) -> None:
    records, seen, _ = heard(fake, cut(SCENE, sizes))
    whole, _, _ = heard(fake, [SCENE])
    assert decided(records) == decided(whole) != []
    assert np.stack(seen.probs).tobytes() == fake(SCENE, RATE).window_probs.tobytes()


@settings(max_examples=20)
@given(start=st.integers(0, 20_000), sizes=st.lists(st.integers(1, 4_000), max_size=8))
def test_s8_what_was_heard_before_a_file_changes_nothing_in_it(fake: Classifier, start: int, sizes: list[int]) -> None:
    def other(sink: Any) -> None:
        sink.begin_file("second")

    before = cut(tiny.scene(1)[start : start + sum(sizes)], sizes)
    records, _, _ = heard(fake, [*before, other, *cut(SCENE, sizes)])
    alone, _, _ = heard(fake, [SCENE])
    after = [r for r in records if r.file == "second"]
    moved = [
        (
            r.event,
            r.label,
            r.score,
            *(None if t is None else round(t - (r.file_start_s or 0), 9) for t in (r.t_start_s, r.t_end_s)),
        )
        for r in after
    ]
    assert moved == decided(alone)


#: Of a window that starts at 6,400: its first, within a frame, at a hop, its last sample; and both ends of the stream.
POSITIONS = [0, 6_400, 6_555, 7_040, 8_079, len(SCENE) - 1]


@pytest.mark.parametrize("key", ENGINES, ids="-".join)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a1_a_bad_sample_is_silence_for_one_receptive_field(key: tuple[str, str], bad: float) -> None:
    classifier = Classifier(tiny.tiny_bundle(), engine=key[0], precision=key[1])
    clean = classifier(SCENE, RATE).window_probs
    for position in POSITIONS:
        spoilt = SCENE.copy()
        spoilt[position] = bad
        _, seen, stream = heard(classifier, [spoilt])
        probs = np.stack(seen.probs)
        starts = np.arange(len(probs)) * tiny.HOP_SAMPLES
        touched = (starts <= position) & (position < starts + tiny.WINDOW_SAMPLES)
        assert np.isfinite(probs).all()
        assert np.array_equal(probs[~touched], clean[~touched])
        assert stream.health.nan_samples == 1


def odd(name: str, n_samples: int) -> Any:
    n = np.arange(n_samples)
    signals = {
        "silence": 0.0 * n,
        "dc": 1.0 + 0 * n,
        "minus dc": -1.0 + 0 * n,
        "square": np.where(n // 40 % 2, 1.0, -1.0),
        "lsb": np.random.default_rng(0).integers(-1, 2, n_samples) / 32_768,
        "impulse": np.where(n == n_samples // 2, 1.0, 0.0),
        "20 hz": np.sin(2 * np.pi * 20 * n / RATE),
        "nyquist": np.where(n % 2, 1.0, -1.0),
    }
    return signals[name].astype(np.float32)


@pytest.mark.parametrize("name", ["silence", "dc", "minus dc", "square", "lsb", "impulse", "20 hz", "nyquist"])
def test_a2_odd_signals_are_finite_within_the_parity_gate_and_silence_is_no_event(fake: Classifier, name: str) -> None:
    signal = odd(name, 10 * RATE)
    records, seen, _ = heard(fake, [signal])
    frames = np.concatenate(seen.frames)
    wanted = reference_log_mel(signal[: tiny.FRONTEND.n_samples(len(frames))], tiny.FRONTEND)
    gap_ln = np.abs(frames - wanted).max() / tiny.FRONTEND.scale
    assert np.isfinite(np.stack(seen.probs)).all()
    assert gap_ln <= PARITY_GATE_LN
    assert records == [] or name not in ("silence", "lsb")


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000])
def test_a4_other_rates_are_resampled_never_taken_as_they_are(fake: Classifier, rate_hz: int) -> None:
    records, _, _ = heard(fake, cut(resample(SCENE, RATE, rate_hz), [999] * 200), sample_rate=rate_hz)
    spans = [(r.label, r.t_start_s, r.t_end_s) for r in records if r.event == "end"]
    wanted = [(r.label, r.t_start_s, r.t_end_s) for r in heard(fake, [SCENE])[0] if r.event == "end"]
    assert [label for label, _, _ in spans] == [label for label, _, _ in wanted]
    for (_, start_s, end_s), (_, wanted_start_s, wanted_end_s) in zip(spans, wanted, strict=True):
        assert start_s == pytest.approx(wanted_start_s, abs=0.09)
        assert end_s == pytest.approx(wanted_end_s, abs=0.13)


@pytest.mark.parametrize("rate_hz", [RATE, 48_000, 44_100])
def test_a_window_comes_with_the_sample_that_completes_it(fake: Classifier, rate_hz: int) -> None:
    stream = StreamClassifier(fake, sample_rate=rate_hz)
    waveform, at = resample(SCENE, RATE, rate_hz), 0
    while at < len(waveform) - rate_hz // 2:
        missing, hops = stream.missing_samples, stream.stats.hops
        assert 1 <= missing <= tiny.WINDOW_SAMPLES * 3
        stream.feed(waveform[at : at + missing - 1])
        assert stream.stats.hops == hops
        stream.feed(waveform[at + missing - 1 : at + missing])
        # A resampler holds some samples back; at the bundle's own rate nothing is.
        assert stream.stats.hops == hops + 1 or rate_hz != RATE
        at += missing
    assert stream.stats.hops > 30
    stream.gap(100)
    assert stream.missing_samples == -(-tiny.WINDOW_SAMPLES * rate_hz // RATE)
