"""The thread that classifies: takes from the ring, feeds a `StreamClassifier`, tells outputs what happens."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import SimpleQueue

from edgeaudio.audio.capture import Capture
from edgeaudio.audio.ring import Reading, Ring
from edgeaudio.audio.source import Mixer
from edgeaudio.errors import AudioDeviceError
from edgeaudio.runtime.classifier import Classifier, ScoredWindow
from edgeaudio.runtime.clock import DeviceClock
from edgeaudio.runtime.decision import Event
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.health import HealthBook
from edgeaudio.runtime.observer import EventRecord, Observers, RecordKind
from edgeaudio.runtime.stream import StreamClassifier

# Records that nobody fetches: then the worker waits, and what the ring cannot hold is lost and counted.
_MAX_RECORDS = 1000
_READ_S = 0.25


class Replaced(Exception):
    """Another worker has taken over; this one must touch nothing any more."""


@dataclass
class Shared:
    """What outlives a worker. Who speaks for the stream holds `turn`, and is `current`."""

    classifier: Classifier
    ring: Ring
    capture: Capture
    mixer: Mixer
    observers: Observers
    book: HealthBook
    #: None where the input waits for its listener: then its time is not that of the world.
    device_clock: DeviceClock | None
    sample_rate: int
    bundle_rate: int
    fail_on_overrun: bool
    health_s: float
    clock: Callable[[], float]
    records: SimpleQueue[EventRecord | None] = field(default_factory=SimpleQueue)
    turn: threading.Lock = field(default_factory=threading.Lock)
    current: Worker | None = None
    #: Why the stream ended, where it did not simply end.
    error: Exception | None = None
    #: Frames of the stream that never were in the ring: its positions and the ring's differ by so much.
    never_in_ring: int = 0
    file: str | None = None
    file_start_s: float | None = None

    @property
    def live(self) -> bool:
        """Whether the input goes on while nobody listens."""
        return self.device_clock is not None

    def finish(self, error: Exception | None = None) -> None:
        """The stream is over."""
        self.error = self.error or error
        self.records.put(None)


class Worker:
    """One thread, one engine. `failure` is what the engine raised; `streamer` holds the counters."""

    def __init__(self, shared: Shared, streamer: StreamClassifier) -> None:
        self.streamer = streamer
        self.failure: Exception | None = None
        self._shared = shared
        self._takes_over = False
        self._busy_since_s: float | None = None
        self._telling_since_s: float | None = None
        self._turn = _Turn(self)
        self._fed_samples = 0
        self._next_health_s = shared.clock() + shared.health_s
        self._max_frames = max(1, shared.sample_rate // 10)
        self._thread = threading.Thread(target=self._run, name="classify", daemon=True)

    def start(self) -> None:
        """Begin to take from the ring."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for its end; a hanging engine is left behind."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def trouble(self, now_s: float, stall_s: float, awake_s: float) -> str | None:
        """What is wrong with its engine, as the end of a sentence. Since `awake_s` the process ran without a break."""
        busy_since_s = self._busy_since_s
        if self.failure is not None:
            return f"failed: {type(self.failure).__name__}: {self.failure}"
        if busy_since_s is not None and now_s - max(busy_since_s, awake_s) > stall_s:
            return f"has hung for {now_s - busy_since_s:.1f} s"
        return None

    def telling_s(self, now_s: float) -> float:
        """How long an output has kept it waiting."""
        since_s = self._telling_since_s
        return 0.0 if since_s is None else now_s - since_s

    def successor(self) -> Worker:
        """A worker that makes another engine and goes on behind what this one was fed last."""
        worker = Worker(self._shared, self.streamer)
        worker._takes_over, worker._fed_samples = True, self._fed_samples
        return worker

    def _take_over(self) -> None:
        """In this worker's thread, for an engine may take long to make."""
        lost_samples, old = self._fed_samples, self.streamer
        try:
            ends, streamer = old.continued(self._shared.classifier.again(), lost_samples)
        except Exception as error:
            raise _EngineError(error) from error
        with self._turn:
            self.streamer, self._fed_samples = streamer, 0
            self._shared.book.engine_restarts += 1
        start_samples = streamer.position_samples - lost_samples * self._shared.bundle_rate // self._shared.sample_rate
        self._tell_gap(ends, start_samples, self._shared.clock())

    def _run(self) -> None:
        shared = self._shared
        try:
            if self._takes_over:
                self._take_over()
            self.streamer.tap = self
            while not (shared.ring.finished or shared.error):
                self._check()
                # Woken for no less than a window needs: each wake costs as much as many samples.
                useful = min(self._max_frames, self.streamer.missing_samples)
                reading = shared.ring.read(self._max_frames, _READ_S, useful)
                if reading is not None:
                    self._handle(reading)
                if shared.clock() >= self._next_health_s:
                    self._take_health()
            self._feed(self.streamer.flush, 0)
            shared.finish(shared.capture.error)
        except Replaced:
            pass
        except _EngineError as error:
            self.failure = error.cause
        except Exception as error:  # noqa: BLE001 (raised again by whoever iterates)
            shared.finish(error)

    def _handle(self, reading: Reading) -> None:
        shared, started_s = self._shared, time.perf_counter()
        shared.book.overruns += reading.overruns
        if reading.lost:
            start_samples = self.streamer.position_samples
            shared.never_in_ring += reading.lost - reading.overwritten
            self.streamer.gap(reading.lost)
            self._tell_gap([], start_samples, shared.ring.arrival_s(reading.position))
            if shared.fail_on_overrun and (reading.overwritten or reading.overruns):
                raise AudioDeviceError(
                    f"{reading.lost} samples were lost: classifying was slower than the input for longer than the ring "
                    "lasts. Use int8, --exits, a larger --ring-ms, or --on-overrun drop-oldest."
                )
        if reading.boundary is not None:
            self._feed(self.streamer.next_file, 0)
            shared.file = reading.boundary or None
            shared.file_start_s = self.streamer.position_samples / shared.bundle_rate if shared.file else None
        if shared.device_clock is not None and len(reading.frames):
            end = reading.position + len(reading.frames)
            shared.device_clock.saw(end + shared.never_in_ring, shared.ring.arrival_s(end - 1))
        samples = shared.mixer.mix(reading.frames)
        shared.book.meter.heard(samples)
        if len(samples):
            self._feed(lambda: self.streamer.feed(samples), len(samples))
        shared.book.meter.worked(time.perf_counter() - started_s)

    def _feed(self, work: Callable[[], object], n_samples: int) -> None:
        """Do what runs the engine; an error in there is the engine's."""
        self._fed_samples, self._busy_since_s = n_samples, self._shared.clock()
        try:
            work()
        except (Replaced, BrokenPipeError):
            raise
        except Exception as error:
            raise _EngineError(error) from error
        with self._turn:
            pass
        self._busy_since_s = None

    # What the stream classifier tells while it works (see `Tap`).

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Tap.on_audio`."""
        with self._turn:
            self._shared.observers.on_audio(samples, position_samples)

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Tap.on_window`. It is also the sign of life that the watchdog looks for."""
        with self._turn:
            self._shared.observers.on_window(window, new_frames)

    def on_events(self, events: list[Event], needed_samples: int) -> None:
        """See `Tap.on_events`."""
        for event in events:
            self._emit(event.kind, event.t_start_s, event.t_end_s, self._arrival_s(needed_samples), event)

    def _tell_gap(self, ends: list[Event], start_samples: int, known_s: float) -> None:
        rate, end_samples = self._shared.bundle_rate, self.streamer.position_samples
        self.on_events(ends, start_samples)
        self._emit("gap", start_samples / rate, end_samples / rate, known_s)

    def _emit(
        self, kind: RecordKind, t_start_s: float, t_end_s: float | None, known_s: float, event: Event | None = None
    ) -> None:
        """Tell everybody; since `known_s` it could have been known."""
        shared = self._shared
        while shared.records.qsize() >= _MAX_RECORDS:
            self._busy_since_s = None
            time.sleep(0.01)
            self._check()
        with self._turn:
            now, now_s = datetime.now().astimezone(), shared.clock()
            record = EventRecord(
                event=kind,
                t_start_s=t_start_s,
                t_end_s=t_end_s,
                wall_time=now.isoformat(timespec="milliseconds"),
                label=event.label if event else None,
                score=event.score if event else None,
                exit=event.exit if event else None,
                latency_ms=1e3 * max(0.0, now_s - known_s),
                bundle=shared.classifier.bundle.sha256[:12],
                dropped_samples=self.streamer.stats.dropped_samples,
                file=shared.file,
                file_start_s=shared.file_start_s,
                wall_start=self._wall_start(t_start_s, now, now_s),
            )
            shared.book.events += kind == "start"
            shared.records.put(record)
            shared.observers.on_event(record)

    def _wall_start(self, t_start_s: float, now: datetime, now_s: float) -> str | None:
        clock = self._shared.device_clock
        heard_s = None if clock is None else clock.host_s(round(t_start_s * self._shared.sample_rate))
        if heard_s is None:
            return None
        return (now - timedelta(seconds=now_s - heard_s)).isoformat(timespec="milliseconds")

    def _arrival_s(self, needed_samples: int) -> float:
        """When the last of the first `needed_samples` of the stream, at the bundle's rate, came in."""
        shared = self._shared
        in_input = math.ceil(needed_samples * shared.sample_rate / shared.bundle_rate)
        return shared.ring.arrival_s(max(0, in_input - shared.never_in_ring - 1))

    def _take_health(self) -> None:
        with self._turn:
            self._shared.observers.on_health(self._shared.book.take(self.streamer.stats))
        self._next_health_s = self._shared.clock() + self._shared.health_s

    def _check(self) -> None:
        if self._shared.current is not self:
            raise Replaced


class _Turn:
    """Held by a worker while it speaks for the stream. That time counts as the outputs', not as the engine's."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __enter__(self) -> None:
        worker = self._worker
        worker._shared.turn.acquire()
        if worker._shared.current is not worker:
            worker._shared.turn.release()
            raise Replaced
        self._was_busy, worker._busy_since_s = worker._busy_since_s is not None, None
        worker._telling_since_s = worker._shared.clock()

    def __exit__(self, *_: object) -> None:
        worker = self._worker
        worker._telling_since_s = None
        if self._was_busy:
            # A sign of life: it has come so far.
            worker._busy_since_s = worker._shared.clock()
        worker._shared.turn.release()


class _EngineError(Exception):
    """Wraps what came out of the engine."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause
