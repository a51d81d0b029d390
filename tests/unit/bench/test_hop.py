"""The hop that is timed is the hop that is shipped."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeaudio.bench import hop
from edgeaudio.bench.golden_audio import LoopedAudio
from edgeaudio.runtime import decision
from edgeaudio.runtime.classifier import Classifier, ScoredWindow
from edgeaudio.runtime.decision import DecisionRules, DecisionState, Event
from edgeaudio.runtime.stream import StreamClassifier
from edgeaudio.runtime.windows import Window
from tests.tiny_bundle import HOP_SAMPLES, tiny_bundle
from tests.tiny_chained import chained_bundle

FORMS: dict[str, dict[str, Any]] = {
    "windowed": {},
    "stateful": {"stateful": True},
    "exits": {"exits": True},
    "stateful-exits": {"exits": True, "stateful": True},
}


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("form", FORMS)
def test_timed_stages_decide_what_the_stream_classifier_decides(
    form: str, rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier(chained_bundle(), **FORMS[form])
    decided: list[tuple[int, bytes, DecisionRules]] = []
    real = decision.step

    def spy(
        probs: NDArray[np.float32], position_samples: int, state: DecisionState, rules: DecisionRules
    ) -> tuple[list[Event], DecisionState]:
        decided.append((position_samples, probs.tobytes(), rules))
        return real(probs, position_samples, state, rules)

    monkeypatch.setattr(decision, "step", spy)
    audio = LoopedAudio(classifier.bundle, rate_hz, classifier.hop_samples)
    chunks = [audio.next_hop() for _ in range(40)]
    timer = hop.HopTimer(hop.live_stages(classifier, rate_hz))
    for chunk in chunks:
        timer.feed(chunk)
    timed = decided.copy()
    decided.clear()
    stream = StreamClassifier(classifier, sample_rate=rate_hz)
    for chunk in chunks:
        stream.feed(chunk)
    assert len(decided) > 30
    assert timed == decided
    assert len(timer) == len(decided)
    assert np.array_equal(np.bincount(timer.exits, minlength=classifier.n_exits), stream.stats.exit_counts)
    assert (timer.macs or None, timer.catch_up_macs) == (stream.stats.macs, stream.stats.catch_up_macs)
    for samples in timer.samples_ns.values():
        assert min(samples) >= 0


def test_a_chunk_without_a_window_is_charged_to_the_next_window_and_none_is_lost() -> None:
    clock = itertools.count(0, 10)
    window = Window(0, np.zeros((1, 1), np.float32))
    answers = iter([[], [window], [window, window]])
    stages = hop.Stages(
        clean=lambda chunk: chunk,
        resample=lambda samples: samples,
        windows=lambda samples: next(answers),
        score=lambda window: ScoredWindow(0, window.log_mel[0]),
        decide=lambda window: None,
    )
    timer = hop.HopTimer(stages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeaudio.bench.hop.time.perf_counter_ns", lambda: next(clock))
        for _ in range(3):
            timer.feed(np.zeros(1, np.float32))
    assert list(timer.samples_ns["resample"]) == [20, 10, 0]
    assert list(timer.samples_ns["frontend"]) == [40, 20, 0]
    assert list(timer.samples_ns["inference"]) == [10, 10, 10]
    assert timer.columns_us()["total"] == pytest.approx([0.08, 0.05, 0.02])
    timer.forget()
    assert len(timer) == 0


@given(rate_hz=st.integers(4_000, 48_000), hops=st.integers(1, 40))
def test_hops_of_an_uneven_rate_never_drift(rate_hz: int, hops: int) -> None:
    bundle = tiny_bundle("onnx-fp32")
    audio = LoopedAudio(bundle, rate_hz, HOP_SAMPLES)
    lengths = [len(audio.next_hop()) for _ in range(hops)]
    assert sum(lengths) == hops * 640 * rate_hz // 16_000
    assert max(lengths) - min(lengths) <= 1


def test_the_audio_is_the_golden_audio_end_to_end_and_over_again() -> None:
    bundle = tiny_bundle("onnx-fp32")
    audio = LoopedAudio(bundle, 16_000, HOP_SAMPLES)
    whole = bundle.golden.waveform.reshape(-1)
    heard = np.concatenate([audio.next_hop() for _ in range(20)])
    assert np.array_equal(heard, np.resize(whole, len(heard)))
    assert audio.duration_s == len(whole) / 16_000


def test_null_stages_give_one_hop_per_chunk() -> None:
    timer = hop.HopTimer(hop.null_stages(9, 64, 3))
    for _ in range(7):
        timer.feed(np.zeros(640, np.float32))
    assert len(timer) == 7
