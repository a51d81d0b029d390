"""The thread that looks whether the others live: it replaces a worker whose engine failed or hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgeaudio.errors import AudioDeviceError, ConfigError, EdgeAudioError
from edgeaudio.runtime.observer import Health
from edgeaudio.runtime.worker import Shared, Worker

logger = logging.getLogger(__name__)

OverrunPolicy = Literal["drop-oldest", "fail"]
MIN_RING_S = 0.5
# How often the watchdog looks.
_TICK_S = 0.1
_FILE_RESTARTS = 2


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is kept alive.

    on_overrun: what to do when a live input brings more than the ring holds. ring_s: what it holds.
    health_s: time between two healths. stall_s: a window that takes longer means that the engine hangs.
    backoff_s: wait before the first restart of an engine or device, doubled each time up to `backoff_max_s`.
    max_restarts: of an engine that never again lasts `backoff_max_s`; then the stream gives up. Where the input can
    wait, it does so after two: nobody is served by a file that takes minutes to fail.
    driver_s: an audio driver that takes longer to open or close hangs; only a new process helps, so the stream ends.
    """

    on_overrun: OverrunPolicy = "drop-oldest"
    ring_s: float = 4.0
    health_s: float = 1.0
    stall_s: float = 2.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    max_restarts: int = 8
    driver_s: float = 60.0

    def __post_init__(self) -> None:
        if self.on_overrun not in ("drop-oldest", "fail"):
            raise ConfigError(f"on_overrun is {self.on_overrun!r}, wanted drop-oldest or fail")
        if not self.ring_s >= MIN_RING_S:
            raise ConfigError(
                f"ring_s is {self.ring_s}, wanted at least {MIN_RING_S}: a slow window must not lose audio"
            )


class Watchdog:
    """One thread from `start` to `end`. `worker` is the one that lives."""

    def __init__(
        self,
        shared: Shared,
        worker: Worker,
        options: StreamOptions,
        on_tick: Callable[[bool, Health], None] | None,
    ) -> None:
        self.worker = worker
        #: Set by a signal handler: no lock here, for it may have interrupted the one who holds it.
        self.stop_asked = False
        self._shared, self._options, self._on_tick = shared, options, on_tick
        self._ending = threading.Event()
        self._restart_at_s: float | None = None
        self._blocked = False
        self._failures, self._failed_s, self._awake_s = 0, shared.clock(), shared.clock()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Look no more."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def silence_worker(self) -> bool:
        """From here on no worker touches anything; False where an output keeps the stream from saying so."""
        if not self._shared.turn.acquire(timeout=self._options.stall_s):
            return False
        self._shared.current = None
        self._shared.turn.release()
        return True

    def _run(self) -> None:
        shared, last_s = self._shared, self._shared.clock()
        while not self._ending.wait(_TICK_S):
            now_s = shared.clock()
            if now_s - last_s > self._options.stall_s / 2:
                # All of the process stood still, not the engine alone.
                self._awake_s = now_s
            last_s = now_s
            if self.stop_asked and not shared.ring.ended:
                shared.capture.stop()
                shared.ring.end()
            healthy = self._look_at_capture(now_s) and self._look_at_worker(now_s)
            self._tell(healthy)

    def _tell(self, healthy: bool) -> None:
        if self._on_tick is None or self._shared.book.latest is None:
            return
        try:
            self._on_tick(healthy, self._shared.book.latest)
        except OSError as error:
            logger.warning("the service manager cannot be told: %s", error)
            self._on_tick = None

    def _look_at_capture(self, now_s: float) -> bool:
        hangs_s = self._shared.capture.in_driver_s(now_s)
        if hangs_s > self._options.driver_s:
            self._shared.finish(
                AudioDeviceError(
                    f"the driver of {self._shared.capture.name} has hung for {hangs_s:.0f} s. Start again."
                )
            )
            return False
        return True

    def _look_at_worker(self, now_s: float) -> bool:
        """Replace the worker where that is needed; whether it is well, or at least being taken care of."""
        if self._restart_at_s is not None:
            if now_s >= self._restart_at_s:
                self._restart_at_s = None
                self._replace()
            return True
        telling_s = self.worker.telling_s(now_s)
        if telling_s > self._options.stall_s:
            # A file may well wait for who reads its events; a microphone does not.
            if not self._blocked:
                logger.warning("an output has kept the stream waiting for %.0f s", telling_s)
            self._blocked = True
            return not self._shared.live
        self._blocked = False
        why = self.worker.trouble(now_s, self._options.stall_s, self._awake_s)
        if why is None:
            return True
        if not self.silence_worker():
            return False
        if now_s - self._failed_s > self._options.backoff_max_s:
            self._failures = 0
        self._failures, self._failed_s = self._failures + 1, now_s
        max_restarts = self._options.max_restarts
        if self._failures > (max_restarts if self._shared.live else min(max_restarts, _FILE_RESTARTS)):
            self._shared.finish(EdgeAudioError(f"the engine failed {self._failures} times; the last time it {why}"))
            return False
        wait_s = min(self._options.backoff_s * 2 ** (self._failures - 1), self._options.backoff_max_s)
        logger.error("the engine %s; a new one in %.1f s", why, wait_s)
        self._restart_at_s = now_s + wait_s
        return True

    def _replace(self) -> None:
        self.worker = self.worker.successor()
        with self._shared.turn:
            self._shared.current = self.worker
        self.worker.start()
