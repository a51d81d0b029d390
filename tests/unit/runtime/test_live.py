"""A stream keeps its promises whatever the input, the engine, the outputs and the reader do."""

from __future__ import annotations

import itertools
import json
import logging
import threading
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from edgeaudio.audio.source import Sink
from edgeaudio.errors import AudioDeviceError, ConfigError, EdgeAudioError, SampleRateError
from edgeaudio.runtime import Classifier, StreamClassifier
from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.live import Stream
from edgeaudio.runtime.observer import EventRecord, Health
from edgeaudio.runtime.watchdog import StreamOptions
from tests import tiny_bundle as tiny
from tests.fake_microphone import ScriptedSource, Step, until_taken, until_there_is_room

RATE = 16_000
SCENE = tiny.scene()
QUICK = StreamOptions(stall_s=0.3, backoff_s=0.01, backoff_max_s=5.0, health_s=0.05)


class Recorder:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.audio: list[tuple[int, Any]] = []
        self.windows: list[tuple[ScoredWindow, Any]] = []
        self.records: list[EventRecord] = []
        self.healths: list[Health] = []
        self.calls: list[str] = []
        self.closed = 0

    def on_audio(self, samples: Any, position_samples: int) -> None:
        self.audio.append((position_samples, samples))
        self.calls.append("audio")

    def on_window(self, window: ScoredWindow, new_frames: Any) -> None:
        self.windows.append((window, new_frames))
        self.calls.append("window")

    def on_event(self, record: EventRecord) -> None:
        self.records.append(record)
        self.calls.append(record.event)

    def on_health(self, health: Health) -> None:
        self.healths.append(health)

    def close(self) -> None:
        self.closed += 1


def blocks(waveform: Any = SCENE, size: int = 160) -> list[Step]:
    return [waveform[at : at + size] for at in range(0, len(waveform), size)]


def patiently(script: list[Step]) -> list[Step]:
    """The script with the microphone waiting for its reader between the steps: no overruns by chance."""
    return [step for pair in zip(script, itertools.repeat(until_there_is_room)) for step in pair]


def heard(records: list[EventRecord]) -> list[tuple[Any, ...]]:
    return [(r.event, r.label, r.t_start_s, r.t_end_s) for r in records]


def offline(classifier: Classifier, waveform: Any = SCENE) -> list[tuple[Any, ...]]:
    stream = StreamClassifier(classifier)
    events = stream.feed(waveform) + stream.flush()
    return [(event.kind, event.label, event.t_start_s, event.t_end_s) for event in events]


def test_a_stream_hears_what_the_stream_classifier_hears(classifier: Classifier) -> None:
    stream = Stream(classifier, ScriptedSource(patiently(blocks())))
    records = list(stream)
    assert heard(records) == offline(classifier) != []
    assert {record.bundle for record in records} == {classifier.bundle.sha256[:12]}
    assert all(datetime.fromisoformat(record.wall_time).tzinfo is not None for record in records)
    assert all(record.latency_ms >= 0 for record in records)
    assert stream.health.samples_in == len(SCENE)
    assert (stream.health.events, stream.health.gaps, stream.health.dropped_samples) == (3, 0, 0)
    assert (stream.health.hops, stream.health.engine_restarts) == (len(classifier(SCENE, RATE).window_probs), 0)


def test_a_source_that_can_wait_loses_nothing(classifier: Classifier) -> None:
    long = np.tile(SCENE, 20)
    stream = Stream(classifier, ScriptedSource(blocks(long, 4_001), live=False))
    assert heard(list(stream)) == offline(classifier, long)
    assert stream.health.dropped_samples == 0


@pytest.mark.parametrize(("channel", "dtype"), [(None, np.float32), (2, np.float32), (2, np.int16)])
def test_channels_and_integer_samples_are_taken(classifier: Classifier, channel: int | None, dtype: Any) -> None:
    frames = np.stack([-SCENE if channel else SCENE, SCENE], axis=1)
    if dtype is np.int16:
        frames = np.rint(frames * 32768).astype(np.int16)
    source = ScriptedSource([frames], channels=2, dtype=dtype, live=False)
    got = heard(list(Stream(classifier, source, channel=channel)))
    assert [record[:2] for record in got] == [record[:2] for record in offline(classifier)]


def test_records_are_one_json_line_each_with_every_field(classifier: Classifier) -> None:
    record = next(iter(Stream(classifier, ScriptedSource(blocks(), live=False))))
    line = json.loads(record.to_json())
    assert list(line) == [
        "event", "t_start_s", "t_end_s", "wall_time", "label", "score", "exit", "latency_ms", "bundle",
        "dropped_samples", "file", "file_start_s", "wall_start",
    ]  # fmt: skip
    assert (line["event"], line["label"], line["t_end_s"], line["exit"]) == ("start", "low", None, None)
    assert "\n" not in record.to_json()


# Observers.


def test_outputs_are_told_all_of_it_in_order(classifier: Classifier) -> None:
    seen = Recorder()
    records = list(Stream(classifier, ScriptedSource(blocks(), live=False), observers=[seen]))
    assert np.array_equal(np.concatenate([samples for _, samples in seen.audio]), SCENE)
    assert [at for at, _ in seen.audio] == [0, *np.cumsum([len(samples) for _, samples in seen.audio])[:-1]]
    log_mel = classifier(SCENE, RATE).window_probs
    assert np.array_equal(np.stack([window.probs for window, _ in seen.windows]), log_mel)
    assert [len(frames) for _, frames in seen.windows] == [9, *[4] * (len(seen.windows) - 1)]
    assert seen.records == records
    # Each event comes right behind the window that decided it.
    assert all(seen.calls[i - 1] in ("window", "start", "end") for i, call in enumerate(seen.calls) if call == "start")
    assert seen.closed == 1
    assert seen.healths[-1].samples_in == len(SCENE)


def test_an_output_that_fails_is_logged_once_and_the_stream_goes_on(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        def on_window(self, window: ScoredWindow, new_frames: Any) -> None:
            raise RuntimeError("no room")

    seen = Recorder()
    with caplog.at_level(logging.ERROR):
        stream = Stream(classifier, ScriptedSource(blocks(), live=False), observers=[Broken(), seen])
        assert heard(list(stream)) == offline(classifier)
    assert len(seen.windows) == 48
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "output Broken failed 48 times; see the log" in stream.health.warnings


# Losses.


def stalled(classifier: Classifier, stall_ms: int, **options: Any) -> Stream:
    """500 ms of ring; the engine stands still while `stall_ms` of a numbered signal come in."""
    free, entered = threading.Event(), threading.Event()
    real, calls = classifier.score, itertools.count()

    def score(log_mel: Any) -> Any:
        if next(calls) == 5:
            entered.set()
            assert free.wait(10)
        return real(log_mel)

    classifier.score = score  # type: ignore[method-assign]
    # The last sample before the stall is the last one of the sixth window: the ring is then empty.
    before, after = np.split(SCENE, [tiny.WINDOW_SAMPLES + 5 * tiny.HOP_SAMPLES])
    steps: list[Step] = [
        *patiently(blocks(before)),
        lambda sink: entered.wait(10),
        *blocks(after[: stall_ms * 16]),
        lambda sink: free.set(),
        until_taken,
        *patiently(blocks(after[stall_ms * 16 :])),
    ]
    return Stream(classifier, ScriptedSource(steps), options=StreamOptions(ring_s=0.5, stall_s=30, **options))


@pytest.mark.parametrize("stall_ms", [1, 10, 100, 400])
def test_a_stall_shorter_than_the_ring_loses_nothing(classifier: Classifier, stall_ms: int) -> None:
    stream = stalled(classifier, stall_ms)
    assert not [record for record in stream if record.event == "gap"]
    assert stream.health.dropped_samples == 0
    assert stream.health.ring_high_water >= stall_ms / 500 - 1e-9


def test_a_longer_stall_loses_exactly_the_overflow_in_one_gap(classifier: Classifier) -> None:
    stream = stalled(classifier, 600)
    records = list(stream)
    (gap,) = [record for record in records if record.event == "gap"]
    assert gap.dropped_samples == stream.health.dropped_samples == 1_600
    assert gap.t_end_s is not None
    assert gap.t_end_s - gap.t_start_s == pytest.approx(0.1, abs=1e-9)
    assert (gap.label, gap.score, gap.exit) == (None, None, None)
    assert stream.health.ring_high_water == 1.0
    assert stream.health.samples_in + 1_600 == len(SCENE)


def test_fail_on_overrun_ends_the_stream_with_the_gap_said(classifier: Classifier) -> None:
    stream = stalled(classifier, 600, on_overrun="fail")
    records: list[EventRecord] = []
    with pytest.raises(AudioDeviceError, match="1600 samples were lost") as caught:
        records.extend(stream)
    assert caught.value.exit_code == 7
    assert records[-1].event == "gap"


def test_a_loss_that_the_device_reports_is_a_gap_of_its_own(classifier: Classifier) -> None:
    first, second = SCENE[:8_000], SCENE[20_000:]
    source = ScriptedSource([first, lambda sink: sink.lost(12_000, overrun=True), second], live=False)
    stream = Stream(classifier, source)
    records = list(stream)
    whole = StreamClassifier(classifier)
    events = whole.feed(first) + whole.gap(12_000) + whole.feed(second) + whole.flush()
    kinds = [record.event for record in records]
    gap = records[kinds.index("gap")]
    assert heard([r for r in records if r.event != "gap"]) == [
        (e.kind, e.label, e.t_start_s, e.t_end_s) for e in events
    ]
    # A sound that was on ends before the gap is told; both at the last sample that was heard.
    assert kinds[kinds.index("gap") - 1] == "end"
    assert (gap.t_start_s, gap.t_end_s, gap.dropped_samples) == (0.5, 1.25, 12_000)
    assert (stream.health.overruns, stream.health.gaps) == (1, 1)


# Devices that go away.


def unplug(sink: Sink) -> None:
    raise AudioDeviceError("the device is gone")


def test_a_device_that_comes_back_is_opened_again_and_the_time_without_it_is_a_gap(classifier: Classifier) -> None:
    source = ScriptedSource(patiently([SCENE[:16_000], unplug, SCENE[16_000:]]))
    stream = Stream(classifier, source, options=QUICK)
    source.open_errors = [AudioDeviceError("not yet"), AudioDeviceError("not yet")]
    records = list(stream)
    (gap,) = [record for record in records if record.event == "gap"]
    assert source.opened == 4
    assert gap.dropped_samples > 0
    assert (stream.health.reopened, stream.health.gaps) == (1, 1)
    assert stream.health.samples_in == len(SCENE)


def test_a_device_that_comes_back_as_another_one_is_refused(classifier: Classifier) -> None:
    source = ScriptedSource([SCENE[:16_000], unplug])
    stream = Stream(classifier, source, options=QUICK)
    source.audio = source.audio._replace(sample_rate=48_000)
    with pytest.raises(AudioDeviceError, match="came back as"):
        list(stream)


def test_a_source_that_cannot_be_opened_again_ends_with_its_error(classifier: Classifier) -> None:
    stream = Stream(classifier, ScriptedSource([SCENE, until_taken, unplug], reopens=False))
    records: list[EventRecord] = []
    with pytest.raises(AudioDeviceError, match="the device is gone"):
        records.extend(stream)
    assert heard(records) == offline(classifier)


def test_a_source_that_does_not_open_is_refused_at_once(classifier: Classifier) -> None:
    source = ScriptedSource([])
    source.open_errors = [AudioDeviceError("no such device")]
    with pytest.raises(AudioDeviceError, match="no such device"):
        Stream(classifier, source)


# Engines that fail or hang.


def test_an_engine_that_fails_is_replaced_and_the_stream_goes_on(classifier: Classifier) -> None:
    real, calls = classifier.score, itertools.count()

    def score(log_mel: Any) -> Any:
        if next(calls) == 30:
            raise RuntimeError("illegal instruction")
        return real(log_mel)

    classifier.score = score  # type: ignore[method-assign]
    seen = Recorder()
    stream = Stream(classifier, ScriptedSource(blocks(), live=False), observers=[seen], options=QUICK)
    records = list(stream)
    (gap,) = [record for record in records if record.event == "gap"]
    assert stream.health.engine_restarts == 1
    assert stream.health.samples_in + gap.dropped_samples == len(SCENE)
    assert 0 < gap.dropped_samples <= 1_600
    assert [record.event for record in records].count("start") == [record.event for record in records].count("end")
    # Positions go on: the last sound is where it was.
    assert records[-1].label == "mid"
    assert records[-1].t_end_s == offline(classifier)[-1][3]
    assert records == seen.records


def test_an_engine_that_hangs_is_replaced_and_what_it_says_later_is_ignored(classifier: Classifier) -> None:
    real, calls, free = classifier.score, itertools.count(), threading.Event()

    def score(log_mel: Any) -> Any:
        if next(calls) == 30:
            free.wait(10)
        return real(log_mel)

    classifier.score = score  # type: ignore[method-assign]
    stream = Stream(classifier, ScriptedSource(blocks(), live=False), options=QUICK)
    records = [record for record in stream if record.event != "gap" or free.set() is None]
    assert stream.health.engine_restarts == 1
    assert stream.health.gaps == 1
    assert records[-1].label == "mid"
    assert stream.health.samples_in + stream.health.dropped_samples == len(SCENE)


@pytest.mark.parametrize(("live", "restarts"), [(True, 3), (False, 2)])
def test_an_engine_that_never_lasts_ends_the_stream(
    classifier: Classifier, live: bool, restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, log_mel: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Classifier, "score", fail)
    options = StreamOptions(backoff_s=0.001, backoff_max_s=5.0, max_restarts=3)
    stream = Stream(classifier, ScriptedSource(blocks(), live=live), options=options)
    with pytest.raises(EdgeAudioError, match=f"the engine failed {restarts + 1} times; .*RuntimeError: out of memory"):
        list(stream)
    assert stream.health.engine_restarts == restarts


# Ends.


def test_stop_classifies_what_was_captured_and_ends(classifier: Classifier) -> None:
    streams: list[Stream] = []
    steps = [SCENE, until_taken, lambda sink: streams[0].stop(), lambda sink: sink.wait(30), SCENE]
    streams.append(Stream(classifier, ScriptedSource(steps)))
    assert heard(list(streams[0])) == offline(classifier)
    assert streams[0].health.samples_in == len(SCENE)


def test_a_loop_that_is_left_closes_everything(classifier: Classifier) -> None:
    source, seen = ScriptedSource(itertools.cycle(patiently([SCENE]))), Recorder()
    with Stream(classifier, source, observers=[seen]) as stream:
        for record in stream:
            assert record.event == "start"
            break
    assert source.closed >= 1
    assert seen.closed == 1
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("capture", "classify", "watchdog"))
    ]


def test_a_stream_runs_once(classifier: Classifier) -> None:
    stream = Stream(classifier, ScriptedSource([SCENE], live=False))
    list(stream)
    with pytest.raises(EdgeAudioError, match="runs once"):
        list(stream)


def test_the_service_manager_hears_of_life(classifier: Classifier) -> None:
    ticks: list[bool] = []
    source = ScriptedSource([lambda sink: [sink.wait(0.01) for _ in range(1_000) if len(ticks) < 3]])
    list(Stream(classifier, source, on_tick=lambda healthy, health: ticks.append(healthy)))
    assert ticks[:3] == [True] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"on_overrun": "wait"}, "drop-oldest or fail"), ({"ring_s": 0.1}, "ring_s is 0.1, wanted at least 0.5")],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StreamOptions(**options)


def test_wrong_sources_are_refused_and_closed(classifier: Classifier) -> None:
    source = ScriptedSource([], sample_rate=1)
    with pytest.raises(SampleRateError, match="1 Hz"):
        Stream(classifier, source)
    assert source.closed == 1
    with pytest.raises(ConfigError, match="channel 2 was asked for, the input has 1"):
        Stream(classifier, ScriptedSource([]), channel=2)


def test_a_driver_that_hangs_ends_the_stream(classifier: Classifier) -> None:
    source, free = ScriptedSource([SCENE, until_taken, unplug]), threading.Event()
    stream = Stream(classifier, source, options=StreamOptions(backoff_s=0.01, driver_s=0.3))
    source.open = lambda: free.wait(10)  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(AudioDeviceError, match=r"the driver of scripted microphone has hung for 0 s\. Start again"):
        list(stream)
    free.set()


@pytest.mark.parametrize("live", [False, True])
def test_an_output_that_blocks_is_no_engine_that_hangs(
    classifier: Classifier, live: bool, caplog: pytest.LogCaptureFixture
) -> None:
    free, ticks = threading.Event(), []

    class Blocking(Recorder):
        def on_event(self, record: EventRecord) -> None:
            free.wait(10)

    def until_it_was_noticed(sink: Sink) -> None:
        while not caplog.records:
            sink.wait(0.01)
        free.set()

    source = ScriptedSource([SCENE, until_it_was_noticed], live=live)
    stream = Stream(
        classifier,
        source,
        observers=[Blocking()],
        options=QUICK,
        on_tick=lambda well, health: ticks.append(well),
    )
    with caplog.at_level(logging.WARNING):
        assert heard(list(stream)) == offline(classifier)
    assert stream.health.engine_restarts == 0
    assert [record.message for record in caplog.records] == ["an output has kept the stream waiting for 0 s"]
    # A service manager may start a live stream again; a file waits for its reader.
    assert not live or not all(ticks)


def test_a_loop_that_is_left_tells_outputs_that_sounds_ended(classifier: Classifier) -> None:
    seen = Recorder()
    with Stream(classifier, ScriptedSource([SCENE[:8_000]]), observers=[seen]) as stream:
        next(iter(stream))
    assert [record.event for record in seen.records] == ["start", "end"]
