"""`Capture`: runs a source in its own thread, and opens it again, more and more patiently, when its device is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from edgeaudio.audio.ring import Ring
from edgeaudio.audio.source import AudioFormat, AudioSource, Sink
from edgeaudio.errors import AudioDeviceError

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Capture:
    """One thread from `start` to `stop`. `error` is why it ended early; `reopened` counts devices found again."""

    def __init__(
        self, source: AudioSource, audio: AudioFormat, ring: Ring, *, backoff_s: float = 0.5, backoff_max_s: float = 30
    ) -> None:
        """`source` has been opened and delivers `audio`."""
        self.name = source.name
        self.error: Exception | None = None
        self.reopened = 0
        self.lost_device = False
        self._source, self._audio, self._ring = source, audio, ring
        self._backoff_s, self._backoff_max_s = backoff_s, backoff_max_s
        self._driver_since_s: float | None = None
        self._stop = threading.Event()
        self._sink = Sink(ring, live=source.live, stop=self._stop)
        self._thread = threading.Thread(target=self._run, name=f"capture {source.name}", daemon=True)

    def start(self) -> None:
        """Begin to fill the ring."""
        self._thread.start()

    def stop(self, timeout_s: float = 0.5) -> bool:
        """Ask it to end; whether it did. A source that hangs in its driver, or waits for input, is left behind."""
        asked_before = self._stop.is_set()
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(0 if asked_before else timeout_s)
        if not self._thread.is_alive():
            self._source.close()
        return not self._thread.is_alive()

    def in_driver_s(self, now_s: float) -> float:
        """How long the device has been opening or closing."""
        since_s = self._driver_since_s
        return 0.0 if since_s is None else now_s - since_s

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._source.capture(self._sink)
                    return
                except AudioDeviceError as error:
                    if not self._source.reopens:
                        raise
                    self._reopen(error)
                if self._stop.is_set():
                    return
        except Exception as error:  # noqa: BLE001 (handed to whoever listens, who raises it)
            self.error = error
        finally:
            self._ring.end()

    def _reopen(self, error: AudioDeviceError) -> None:
        """Try until the device is back; the time without it is lost audio."""
        logger.warning("%s: %s; trying to open it again", self.name, error)
        self.lost_device = True
        # Whatever sounds now must not sound until it is back.
        self._ring.mark(boundary="")
        lost_since_s, wait_s = self._ring.last_arrival_s, self._backoff_s
        self._in_driver(self._source.close)
        while not self._stop.wait(wait_s):
            try:
                audio = self._in_driver(self._source.open)
            except AudioDeviceError as again:
                wait_s = min(2 * wait_s, self._backoff_max_s)
                logger.info("%s: %s; next attempt in %.1f s", self.name, again, wait_s)
                continue
            if audio != self._audio:
                raise AudioDeviceError(f"{self.name} came back as {audio}, it was {self._audio}. Start again.")
            away_s = self._ring.clock() - lost_since_s
            self._sink.lost(round(away_s * audio.sample_rate))
            self.lost_device, self.reopened = False, self.reopened + 1
            logger.warning("%s is back after %.1f s", self.name, away_s)
            return

    def _in_driver(self, call: Callable[[], T]) -> T:
        """Calls that hang when a driver does; the watchdog looks how long they take."""
        self._driver_since_s = self._ring.clock()
        try:
            return call()
        finally:
            self._driver_since_s = None
