"""`Stream`: a source, a classifier and outputs, kept running for months.

Three threads: the capture thread fills the ring; the worker takes from it, classifies and tells the outputs; the
watchdog replaces a worker whose engine failed or hangs. Whoever iterates gets the records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty

from edgeaudio.audio.capture import Capture
from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import AudioSource, Mixer
from edgeaudio.errors import EdgeAudioError
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.clock import DeviceClock
from edgeaudio.runtime.health import HealthBook, HealthMeter
from edgeaudio.runtime.observer import EventRecord, Health, Observer, Observers
from edgeaudio.runtime.stream import StreamClassifier
from edgeaudio.runtime.watchdog import StreamOptions, Watchdog
from edgeaudio.runtime.worker import Shared, Worker
from edgeaudio.spec import DecisionSpec


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
        on_tick: Callable[[bool, Health], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the source.

        Args:
            decision: instead of the artefact's or the bundle's own. observers: outputs (see `Observer`).
            channel: the one to listen to, from 1; None is the mean of all.
            on_tick: called by the watchdog ten times a second, with whether all threads live, and the latest health.
        Raises:
            AudioDeviceError: the source does not open. ConfigError: it has no such channel.
            SampleRateError: its rate is outside the limits.
        """
        self.options, self.source = options or StreamOptions(), source
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
        device_clock = DeviceClock(audio.sample_rate) if source.live else None
        meter = HealthMeter(audio.sample_rate, clock=clock)
        self._shared = Shared(
            classifier=classifier,
            ring=ring,
            capture=self._capture,
            mixer=mixer,
            observers=self._observers,
            book=HealthBook(meter, mixer, ring, self._capture, source, self._observers, device_clock),
            device_clock=device_clock,
            sample_rate=audio.sample_rate,
            bundle_rate=classifier.sample_rate,
            fail_on_overrun=self.options.on_overrun == "fail",
            health_s=self.options.health_s,
            clock=clock,
        )
        worker = Worker(self._shared, streamer)
        self._shared.current = worker
        self._shared.book.take(streamer.stats)
        self._watchdog = Watchdog(self._shared, worker, self.options, on_tick)
        self._closed = self._started = False

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
        assert self._shared.book.latest is not None
        return self._shared.book.latest

    def stop(self) -> None:
        """End soon: what was captured is still classified. Safe in a signal handler."""
        self._watchdog.stop_asked = True

    def close(self) -> None:
        """End now; iterating to the end does it too. Outputs get the last health and are closed."""
        if self._closed:
            return
        self._closed = True
        self._watchdog.end(2.0)
        self._capture.stop()
        self._shared.ring.end()
        # What was captured is little and is soon classified; a worker that hangs is left behind.
        self._watchdog.worker.join(2.0)
        self._watchdog.silence_worker()
        health = self._shared.book.take(self._watchdog.worker.streamer.stats, last=True)
        try:
            self._observers.on_health(health)
        finally:
            self._observers.close()

    def _start(self) -> None:
        self._started = True
        self._capture.start()
        self._watchdog.worker.start()
        self._watchdog.start()

    def _next(self) -> EventRecord | None:
        while True:
            try:
                return self._shared.records.get(timeout=1.0)
            except Empty:
                if self._closed:
                    return None
