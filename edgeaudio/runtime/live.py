"""`Stream`: a source, a classifier and outputs, kept running for months.

Three threads: the capture thread fills the ring; the worker takes from it, classifies and tells the outputs; the
watchdog replaces a worker whose engine failed or hangs. Whoever iterates gets the records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty
from typing import Literal

from edgeaudio.audio.capture import Capture
from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import AudioSource, Mixer
from edgeaudio.errors import ConfigError, EdgeAudioError
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.health import HealthBook, HealthMeter
from edgeaudio.runtime.observer import EventRecord, Health, Observer, Observers
from edgeaudio.runtime.stream import StreamClassifier
from edgeaudio.runtime.worker import Shared, Worker
from edgeaudio.spec import DecisionSpec

logger = logging.getLogger(__name__)

OverrunPolicy = Literal["drop-oldest", "fail"]
MIN_RING_S = 0.5
# How often the watchdog looks.
_TICK_S = 0.1


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is kept alive.

    on_overrun: what to do when a live input brings more than the ring holds. ring_s: what it holds.
    health_s: time between two healths. stall_s: a window that takes longer means that the engine hangs.
    backoff_s: wait before the first restart of an engine or device, doubled each time up to `backoff_max_s`.
    max_restarts: of an engine that never again lasts `backoff_max_s`; then the stream gives up.
    """

    on_overrun: OverrunPolicy = "drop-oldest"
    ring_s: float = 4.0
    health_s: float = 1.0
    stall_s: float = 2.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    max_restarts: int = 8

    def __post_init__(self) -> None:
        if self.on_overrun not in ("drop-oldest", "fail"):
            raise ConfigError(f"on_overrun is {self.on_overrun!r}, wanted drop-oldest or fail")
        if not self.ring_s >= MIN_RING_S:
            raise ConfigError(
                f"ring_s is {self.ring_s}, wanted at least {MIN_RING_S}: a slow window must not lose audio"
            )


class Stream:
    """Iterate it once for the `EventRecord`s of a source; it ends with the source, or after `stop`.

        for record in Stream(classifier, Microphone()):
            print(record.label, record.score)

    The classifier is the stream's own until it ends. Use it as a context manager where the loop may be left early.
    """

    def __init__(
        self,
        classifier: Classifier,
        source: AudioSource,
        *,
        decision: DecisionSpec | None = None,
        observers: Iterable[Observer] = (),
        channel: int | None = None,
        options: StreamOptions | None = None,
        on_tick: Callable[[bool], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the source.

        Args:
            decision: instead of the artefact's or the bundle's own. observers: outputs (see `Observer`).
            channel: the one to listen to, from 1; None is the mean of all.
            on_tick: called by the watchdog ten times a second, with whether all threads are alive.
        Raises:
            AudioDeviceError: the source does not open. ConfigError: it has no such channel.
            SampleRateError: its rate is outside the limits.
        """
        self.options = options or StreamOptions()
        self.source, self._classifier, self._clock = source, classifier, clock
        audio = source.open()
        try:
            streamer = StreamClassifier(classifier, decision, sample_rate=audio.sample_rate)
            mixer = Mixer(audio.channels, channel)
            ring = Ring(round(self.options.ring_s * audio.sample_rate), audio.channels, audio.dtype, clock=clock)
        except BaseException:
            source.close()
            raise
        self.sample_rate = audio.sample_rate
        self._observers = Observers(observers)
        self._capture = Capture(
            source, audio, ring, backoff_s=self.options.backoff_s, backoff_max_s=self.options.backoff_max_s
        )
        self._shared = Shared(
            bundle=classifier.bundle.sha256[:12],
            ring=ring,
            capture=self._capture,
            mixer=mixer,
            observers=self._observers,
            book=HealthBook(
                HealthMeter(audio.sample_rate, clock=clock), mixer, ring, self._capture, source, self._observers
            ),
            sample_rate=audio.sample_rate,
            bundle_rate=classifier.sample_rate,
            fail_on_overrun=self.options.on_overrun == "fail",
            health_s=self.options.health_s,
            clock=clock,
        )
        self._worker = Worker(self._shared, streamer)
        self._shared.current = self._worker
        self._on_tick = on_tick
        self._stop_asked = self._closed = self._started = False
        self._closing = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._restart_at_s: float | None = None
        self._failures, self._failed_s, self._awake_s = 0, clock(), clock()

    def __iter__(self) -> Iterator[EventRecord]:
        if self._started:
            raise EdgeAudioError("a Stream runs once; make another one")
        self._start()
        try:
            while (record := self._next()) is not None:
                yield record
        finally:
            self.close()
        if self._shared.error is not None:
            raise self._shared.error

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def health(self) -> Health:
        """As of the last time it was taken: about once a second, and at the end."""
        return self._shared.book.latest or self._shared.book.take(self._worker.streamer.stats)

    def stop(self) -> None:
        """End soon: what was captured is still classified. Safe in a signal handler."""
        self._stop_asked = True  # No lock here: the handler may have interrupted the one who holds it.

    def close(self) -> None:
        """End now; iterating to the end does it too. Outputs get the last health and are closed."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._silence_worker()
        self._capture.stop()
        self._shared.ring.end()
        if self._started:
            self._watchdog.join(2.0)
            self._worker.join(2.0)
        health = self._shared.book.take(self._worker.streamer.stats, last=True)
        self._observers.on_health(health)
        self._observers.close()

    def _start(self) -> None:
        self._started = True
        self._capture.start()
        self._worker.start()
        self._watchdog.start()

    def _next(self) -> EventRecord | None:
        while True:
            try:
                return self._shared.records.get(timeout=1.0)
            except Empty:
                if self._closed:
                    return None

    def _watch(self) -> None:
        """The watchdog thread."""
        last_s = self._clock()
        while not self._closing.wait(_TICK_S):
            last_s, slept_s = self._clock(), self._clock() - last_s
            if slept_s > self.options.stall_s / 2:
                # All of the process stood still, not the engine alone.
                self._awake_s = last_s
            if self._stop_asked and not self._shared.ring.ended:
                self._capture.stop()
                self._shared.ring.end()
            healthy = self._look_after_worker()
            if self._on_tick is not None:
                try:
                    self._on_tick(healthy)
                except OSError as error:
                    logger.warning("the service manager cannot be told: %s", error)
                    self._on_tick = None

    def _look_after_worker(self) -> bool:
        """Replace the worker where that is needed; whether it is well, or at least being taken care of."""
        worker, now_s = self._worker, self._clock()
        if self._restart_at_s is not None:
            if now_s >= self._restart_at_s:
                self._restart_at_s = None
                self._replace(worker)
            return True
        why = worker.trouble(now_s, self.options.stall_s, self._awake_s)
        if why is None:
            return True
        if not self._silence_worker():
            return False
        if now_s - self._failed_s > self.options.backoff_max_s:
            self._failures = 0
        self._failures, self._failed_s = self._failures + 1, now_s
        if self._failures > self.options.max_restarts:
            self._shared.finish(EdgeAudioError(f"the engine failed {self._failures} times; the last time it {why}"))
            return True
        wait_s = min(self.options.backoff_s * 2 ** (self._failures - 1), self.options.backoff_max_s)
        logger.error("the engine %s; a new one in %.1f s", why, wait_s)
        self._restart_at_s = now_s + wait_s
        return True

    def _silence_worker(self) -> bool:
        """From here on no worker touches anything; False where an output keeps the stream from saying so."""
        if not self._shared.turn.acquire(timeout=self.options.stall_s):
            logger.error("an output blocks the stream; it cannot go on until that returns")
            return False
        self._shared.current = None
        self._shared.turn.release()
        return True

    def _replace(self, worker: Worker) -> None:
        try:
            classifier = self._classifier.again()
        except Exception as error:  # noqa: BLE001 (counts as another failure)
            worker.failure = error
            with self._shared.turn:
                self._shared.current = worker
            return
        self._shared.book.engine_restarts += 1
        self._worker = worker.successor(classifier)
        with self._shared.turn:
            self._shared.current = self._worker
        self._worker.start()
