"""Runs audio through a classifier and a decision and tells observers about it, as the live stream does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psutil
from numpy.typing import NDArray

from edgeaudio.frontend.stream import FrontendStream
from edgeaudio.runtime import Classifier, decision
from edgeaudio.runtime.classifier import ProbsStream
from edgeaudio.runtime.decision import DecisionRules, DecisionState, Event
from edgeaudio.runtime.observer import EventRecord, Health, Observer

CHUNK_SAMPLES = 1600
#: The wall clock of a replay that is not paced starts here.
EPOCH = datetime(2026, 11, 20, 14, 3, 22, 417_000, tzinfo=UTC)

HEALTH = Health(
    samples_in=0,
    hops=0,
    events=0,
    gaps=0,
    dropped_samples=0,
    overruns=0,
    nan_samples=0,
    clipped_fraction=0.0,
    dc_offset=0.0,
    level_dbfs=-120.0,
    dead_input=False,
    engine_restarts=0,
    cpu_percent=3.1,
    rss_bytes=61 * 2**20,
    rtf=0.018,
    ring_high_water=0.04,
    uptime_s=0.0,
)


def record(
    event: str = "start",
    label: str | None = "high",
    *,
    t_start_s: float = 1.0,
    t_end_s: float | None = None,
    score: float | None = 0.9,
    wall_time: str = EPOCH.isoformat(timespec="milliseconds"),
    latency_ms: float = 12.5,
) -> EventRecord:
    """An event made up for a test."""
    return EventRecord(
        event=event,  # type: ignore[arg-type]
        t_start_s=t_start_s,
        t_end_s=t_end_s,
        wall_time=wall_time,
        label=label,
        score=score,
        exit=None,
        latency_ms=latency_ms,
        bundle="0123456789ab",
        dropped_samples=0,
    )


def eventually(condition: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fail when it does not in time."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it never came to hold"
        time.sleep(0.01)


class Driver:
    """One stream: `feed` and `gap` as often as wanted, then `end`."""

    def __init__(self, classifier: Classifier, observers: Sequence[Observer], *, speed: float | None = None) -> None:
        """`speed`: 1 is real time; None is as fast as it goes."""
        manifest = classifier.bundle.manifest
        self._frontend, self._window = manifest.frontend, manifest.window
        self._frames = FrontendStream(manifest.frontend)
        self._probs = ProbsStream(classifier)
        self._rules = DecisionRules(
            spec=classifier.decision,
            labels=classifier.labels.names,
            sample_rate=classifier.sample_rate,
            hop_samples=manifest.window.hop_samples(manifest.frontend),
        )
        self._bundle = classifier.bundle.sha256[:12]
        self._observers, self._speed = observers, speed
        self._begun_s, self._begun = time.monotonic(), datetime.now().astimezone() if speed else EPOCH
        self.records: list[EventRecord] = []
        self.health = HEALTH
        self._process, self._busy_s = psutil.Process(), 0.0
        self._position = 0
        self._begin(0)

    def feed(self, waveform: NDArray[np.float32], chunk_samples: int = CHUNK_SAMPLES) -> None:
        """`(samples,)` float32 at the bundle's rate."""
        for at in range(0, len(waveform), chunk_samples):
            self._chunk(waveform[at : at + chunk_samples])

    def gap(self, dropped_samples: int) -> None:
        """Audio was lost here."""
        ends, _ = decision.flush(self._state, self._rules)
        self._tell(ends)
        rate = self._rules.sample_rate
        at_s, end_s = self._position / rate, (self._position + dropped_samples) / rate
        lost = self.health.dropped_samples + dropped_samples
        self.health = replace(self.health, gaps=self.health.gaps + 1, dropped_samples=lost)
        self._position += dropped_samples
        self._send(record("gap", None, t_start_s=at_s, t_end_s=end_s, score=None, wall_time=self._now()))
        self._begin(self._position)

    def end(self) -> None:
        """The end of the audio: ends events, tells the health once more, closes the observers."""
        ends, _ = decision.flush(self._state, self._rules)
        self._tell(ends)
        for observer in self._observers:
            observer.on_health(self.health)
            observer.close()

    def _begin(self, position: int) -> None:
        self._frames.reset()
        self._probs.reset(start_sample=position)
        self._state = DecisionState.initial(len(self._rules.labels))
        self._new_frames = np.empty((0, self._frontend.n_mels), np.float32)
        self._first = True

    def _chunk(self, chunk: NDArray[np.float32]) -> None:
        if self._speed:
            ahead_s = (self._position + len(chunk)) / self._rules.sample_rate / self._speed
            time.sleep(max(0.0, self._begun_s + ahead_s - time.monotonic()))
        self._arrived_s = time.monotonic()
        for observer in self._observers:
            observer.on_audio(chunk, self._position)
        before, self._position = self._position, self._position + len(chunk)
        self._new_frames = np.concatenate([self._new_frames, self._frames.feed(chunk)])
        for window in self._probs.feed(chunk):
            n_new = self._window.frames if self._first else self._window.hop_frames
            self._first = False
            for observer in self._observers:
                observer.on_window(window, self._new_frames[:n_new])
            self._new_frames = self._new_frames[n_new:]
            events, self._state = decision.step(window.probs, window.position_samples, self._state, self._rules)
            self.health = replace(self.health, hops=self.health.hops + 1)
            self._tell(events)
        self._busy_s += time.monotonic() - self._arrived_s
        self._tell_health(before, chunk)

    def _tell_health(self, before: int, chunk: NDArray[np.float32]) -> None:
        rate = self._rules.sample_rate
        if self._position // rate == before // rate:
            return
        power = float(np.mean(chunk.astype(np.float64) ** 2)) + 1e-12
        self.health = replace(
            self.health,
            samples_in=self._position,
            level_dbfs=10 * np.log10(power),
            uptime_s=self._position / rate,
            cpu_percent=self._process.cpu_percent(),
            rss_bytes=self._process.memory_info().rss,
            rtf=self._busy_s / (self._position / rate),
        )
        for observer in self._observers:
            observer.on_health(self.health)

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            made = EventRecord(
                event=event.kind,
                t_start_s=event.t_start_s,
                t_end_s=event.t_end_s,
                wall_time=self._now(),
                label=event.label,
                score=event.score,
                exit=event.exit,
                latency_ms=1000 * (time.monotonic() - self._arrived_s),
                bundle=self._bundle,
                dropped_samples=self.health.dropped_samples,
            )
            self._send(made)

    def _send(self, made: EventRecord) -> None:
        self.records.append(made)
        self.health = replace(self.health, events=self.health.events + (made.event == "start"))
        for observer in self._observers:
            observer.on_event(made)

    def _now(self) -> str:
        now = self._begun + timedelta(seconds=self._position / self._rules.sample_rate / (self._speed or 1))
        return now.isoformat(timespec="milliseconds")
