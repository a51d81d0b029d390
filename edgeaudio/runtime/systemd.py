"""What a service tells systemd: ready, alive, in a word how it is, and about to stop (sd_notify(3), by hand).

Nothing here reads the environment; the command line does.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from edgeaudio.runtime.observer import Health

logger = logging.getLogger(__name__)

_STATUS_S = 10.0


class Notifier:
    """Datagrams to the socket of the service manager. A message that cannot be sent at once is left out."""

    def __init__(self, address: str) -> None:
        """`address` as in NOTIFY_SOCKET: a path, or @ and a name.

        Raises:
            OSError: there is no such socket.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self._socket.close()
            raise

    def send(self, *assignments: str) -> None:
        """One message of assignments such as READY=1.

        Raises:
            OSError: the service manager is gone.
        """
        try:
            self._socket.send("\n".join(assignments).encode())
        except BlockingIOError:
            logger.debug("the service manager is busy; not told %s", assignments)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


class ServiceReport:
    """Tells the service manager, when the watchdog of a `Stream` ticks, what it wants to hear.

    Alive is told three times per `watchdog_s`, and only while the stream is healthy: else it is restarted.
    """

    def __init__(
        self, notifier: Notifier, *, watchdog_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notifier, self._clock = notifier, clock
        self._alive_every_s = None if watchdog_s is None else watchdog_s / 3
        self._ready = False
        self._alive_at_s = self._status_at_s = clock()

    def tick(self, healthy: bool, health: Health) -> None:
        """See `Stream`, `on_tick`."""
        now_s, messages = self._clock(), []
        if not self._ready:
            self._ready = True
            messages.append("READY=1")
        if self._alive_every_s is not None and healthy and now_s >= self._alive_at_s:
            messages.append("WATCHDOG=1")
            self._alive_at_s = now_s + self._alive_every_s
        if now_s >= self._status_at_s:
            messages.append(f"STATUS={_status(health)}")
            self._status_at_s = now_s + _STATUS_S
        if messages:
            self._notifier.send(*messages)

    def stopping(self) -> None:
        """The stream ends; this is the last word."""
        try:
            self._notifier.send("STOPPING=1")
        except OSError as error:
            logger.warning("the service manager cannot be told: %s", error)
        self._notifier.close()


def _status(health: Health) -> str:
    words = (
        f"up {health.uptime_s:.0f} s, {health.hops} windows, {health.events} events, {health.gaps} gaps, "
        f"{health.cpu_percent:.1f} % CPU"
    )
    return "; ".join((words, *health.warnings))
