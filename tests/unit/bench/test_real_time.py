"""The runs that keep real time: paced hops on a clock of their own, marked sounds in the live stream itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeaudio.bench import hop, marked_sounds, paced
from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.candidate import Candidate
from edgeaudio.bench.golden_audio import LoopedAudio
from edgeaudio.bench.harness import Progress, bench_bundle
from edgeaudio.bench.marked_sounds import MarkedAudio, MarkedSounds, MarkedSource, expected_events, hear
from edgeaudio.bench.schema import BenchOptions, Paced, SoundToEvent
from edgeaudio.bundle import Bundle, bundle_bytes
from edgeaudio.runtime.classifier import Classifier, ScoredWindow
from edgeaudio.runtime.live import Stream
from edgeaudio.spec import DecisionSpec
from tests import tiny_bundle as tiny
from tests.tiny_bundle import HOP_SAMPLES, tiny_bundle
from tests.tiny_chained import NAMES, chained_bundle

QUICK = BenchOptions(min_hops=20, min_seconds=0, warmup_hops=2, rounds=2)
HOP_NS = 40_000_000


class Clock:
    """Time that only sleeping and pretended work move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1_000_000_000
        self.slept_ns = 0
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr("time.perf_counter", lambda: self.now_ns / 1e9)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.work(round(1e9 * seconds))
        self.slept_ns += round(1e9 * seconds)

    def work(self, ns: int) -> None:
        self.now_ns += ns


def run_paced(clock: Clock, inference_ns: list[int], seconds: float) -> Paced:
    """Hops of 40 ms whose inference takes so long, the last figure from then on."""
    taken = iter(inference_ns)

    def score(window: Any) -> ScoredWindow:
        clock.work(next(taken, inference_ns[-1]))
        return ScoredWindow(0, np.zeros(3, np.float32))

    stages = hop.Stages(
        clean=lambda chunk: chunk,
        resample=None,
        windows=lambda samples: [None],
        score=score,
        decide=lambda window: None,
        left_out={"resample": hop.SAME_RATE},
    )
    subject: Any = SimpleNamespace(name="x", hop_samples=HOP_SAMPLES)
    candidate = Candidate(
        subject, None, timer=hop.HopTimer(stages), audio=LoopedAudio(tiny_bundle(), 16_000, HOP_SAMPLES)
    )
    paced.run_paced([candidate], seconds, 16_000, lambda *told: None)
    assert candidate.paced is not None
    return candidate.paced


def stage_us(result: Paced, name: str) -> tuple[int, ...]:
    return next(stage.samples_us for stage in result.stages if stage.name == name)


def test_a_hop_is_taken_up_when_its_last_sample_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = run_paced(clock, [0] * 5 + [3_000_000], 1.0)
    assert (result.n_hops, result.deadline_ms, result.deadline_misses) == (25, 40, 0)
    assert set(stage_us(result, "wait")) <= {0, 1}  # Rounding of the clock's float.
    assert set(stage_us(result, "inference")) == {3_000}
    assert clock.slept_ns == pytest.approx(25 * HOP_NS - 24 * 3_000_000, rel=1e-3)
    assert [stage.name for stage in result.stages] == ["wait", "resample", "frontend", "inference", "decision", "total"]
    assert result.load is not None


def test_a_slow_hop_makes_the_next_ones_wait_and_late_answers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Five hops to warm up; then one of 90 ms, which two more wait for.
    result = run_paced(Clock(monkeypatch), [0] * 5 + [1_000_000, 90_000_000, 1_000_000], 0.4)
    wait = np.array(stage_us(result, "wait"))
    assert result.n_hops == 10
    assert np.abs(wait - [0, 0, 50_000, 11_000, *[0] * 6]).max() <= 1
    assert result.deadline_misses == 2
    assert np.abs(np.array(stage_us(result, "total"))[:4] - [1_000, 90_000, 51_000, 12_000]).max() <= 1


def test_what_is_slower_than_real_time_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    result = run_paced(clock, [400_000_000], 1.0)
    assert result.n_hops == result.deadline_misses == 5
    assert clock.slept_ns <= 2 * HOP_NS
    assert run_paced(clock, [60_000_000_000], 1.0).n_hops == 1


def test_every_form_runs_paced_at_its_own_hop() -> None:
    options = QUICK.model_copy(update={"paced_s": 0.2})
    result = bench_bundle(chained_bundle(), options=options)
    for item in result.artefacts:
        assert item.paced is not None
        assert item.paced.deadline_ms == item.hop_ms
        # Fewer only on a machine so busy that it gave up.
        assert 1 <= item.paced.n_hops <= round(200 / (item.hop_ms or 0))
        assert item.paced.timed_s >= 0.15
    assert bench_bundle(chained_bundle(), NAMES[:1], options=QUICK).artefacts[0].paced is None


def one_lot(bundle: Bundle, n_sounds: int, sample_rate: int, clips: AccuracyClips | None = None) -> MarkedAudio:
    (audio,) = MarkedSounds(bundle, sample_rate, clips).lots(n_sounds)
    return audio


def test_sounds_are_a_window_long_and_lie_apart() -> None:
    bundle = tiny_bundle("onnx-fp32")
    audio = one_lot(bundle, 5, 48_000)
    assert audio.sound_samples == 3 * tiny.WINDOW_SAMPLES
    gaps = np.diff([0, *audio.starts]) / 48_000
    assert gaps.min() > 0.5 + 0.105
    assert len({round(gap, 4) for gap in gaps}) == 5
    quiet = audio.waveform[: audio.starts[0]]
    assert -103 < 20 * np.log10(quiet.std()) < -97
    assert np.array_equal(audio.waveform, one_lot(bundle, 5, 48_000).waveform)


def test_many_sounds_come_in_lots_that_are_no_burden() -> None:
    sounds = MarkedSounds(tiny_bundle("onnx-fp32"), 16_000)
    lots = list(sounds.lots(2 * marked_sounds.LOT + 3))
    assert [len(audio.starts) for audio in lots] == [marked_sounds.LOT, marked_sounds.LOT, 3]
    assert lots[0].starts != lots[1].starts
    # The golden windows go on in turn: 20 is no multiple of 3.
    classifier = Classifier(tiny_bundle("onnx-fp32"))
    assert [event.label for event in expected_events(classifier, lots[2]) if event] == ["mid", "high", "low"]


def test_what_must_be_heard_of_a_sound_is_known_beforehand() -> None:
    classifier = Classifier(tiny_bundle("onnx-fp32"))
    audio = one_lot(classifier.bundle, 3, 16_000)
    events = expected_events(classifier, audio)
    for event, start, label in zip(events, audio.starts, tiny.LABELS, strict=True):
        assert event is not None
        assert event.label == label
        assert start / 16_000 < event.needed_s < (start + audio.sound_samples) / 16_000 + 0.2


def test_the_live_stream_hears_every_sound_and_each_line_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Stream] = []

    class Spy(Stream):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            opened.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(marked_sounds, "Stream", Spy)
    told: list[Progress] = []
    options = QUICK.model_copy(update={"marked_sounds": 2})
    result = bench_bundle(chained_bundle(), NAMES[:2], options=options, on_progress=told.append)
    assert len(opened) == 2
    for item, stream in zip(result.artefacts, opened, strict=True):
        sounds = item.sound_to_event
        assert sounds is not None
        assert (sounds.n_sounds, sounds.n_heard, sounds.sound_ms) == (2, 2, 105)
        # Never before the last sample that the decision needs is there.
        assert min(sounds.samples_us) > 0
        assert min(sounds.onset_us) > min(sounds.samples_us)
        assert sounds.summary is not None
        assert sounds.summary.max_us == max(sounds.samples_us)
        assert stream.health.events == 2
        assert isinstance(stream.source, MarkedSource)
    assert [one.artefact for one in told if one.stage == "marked-sounds"] == [*NAMES[:2], None]


def test_a_stream_that_fails_costs_its_artefact_the_sounds_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    real = marked_sounds.hear

    def out_of_memory(classifier: Classifier, *arguments: Any) -> SoundToEvent:
        if not classifier.stateful:
            raise MemoryError("no 8 MiB")
        return real(classifier, *arguments)

    monkeypatch.setattr(marked_sounds, "hear", out_of_memory)
    options = QUICK.model_copy(update={"marked_sounds": 1})
    result = bench_bundle(chained_bundle(), NAMES[:2], options=options)
    windowed, stateful = result.artefacts
    assert (windowed.sound_to_event, windowed.failures) == (None, {"sound_to_event": "MemoryError: no 8 MiB"})
    assert stateful.sound_to_event is not None
    assert stateful.failures == {}
    assert min(item.n_hops for item in result.artefacts) >= 20
    assert result.incomplete is None


def test_a_sound_that_makes_no_event_is_not_heard() -> None:
    good = tiny_bundle("onnx-fp32")
    deaf = DecisionSpec(threshold_on=1.0, threshold_off=1.0, smoothing_windows=8)
    manifest = good.manifest.model_copy(update={"decision": deaf})
    files = {file.path: good.payload(file) for file in good.manifest.model_files}
    classifier = Classifier(Bundle.read(bundle_bytes(manifest, files, good.golden)))
    sounds = hear(classifier, MarkedSounds(classifier.bundle, 16_000), 1)
    assert (sounds.n_sounds, sounds.n_heard, sounds.summary, sounds.samples_us) == (1, 0, None, ())
    assert sounds.n_able == 0
    assert sounds.detail.endswith("; 0 of them make an event")


def test_clips_are_played_at_their_loudest() -> None:
    quiet = (1000 * tiny.noise_band("low", 8_000)).astype(np.int16)
    loud = (30_000 * tiny.noise_band("high", tiny.WINDOW_SAMPLES)).astype(np.int16)
    clips = AccuracyClips("clips", 16_000, ("high",), (np.concatenate([quiet, loud, quiet]),))
    classifier = Classifier(tiny_bundle("onnx-fp32"))
    audio = one_lot(classifier.bundle, 2, 16_000, clips)
    assert MarkedSounds(classifier.bundle, 16_000, clips).what == "the loudest window of clips of clips"
    assert [event.label for event in expected_events(classifier, audio) if event] == ["high", "high"]
