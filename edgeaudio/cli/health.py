"""How the health of a stream reaches people and service managers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.runtime.classifier import ScoredWindow
    from edgeaudio.runtime.engines.base import Float32
    from edgeaudio.runtime.observer import EventRecord, Health
    from edgeaudio.runtime.systemd import ServiceReport


class HealthLines:
    """Prints the health on stderr, one JSON object per line, every `every_s` seconds (see `Observer`)."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._next_s = every_s, time.monotonic() + every_s

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """Nothing to do."""

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """Nothing to do."""

    def on_event(self, record: EventRecord) -> None:
        """Nothing to do."""

    def on_health(self, health: Health) -> None:
        """Print it when it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            print(health.to_json(), file=sys.stderr, flush=True)
            self._next_s = max(self._next_s + self._every_s, now_s)

    def close(self) -> None:
        """Nothing to do."""


def service_report(environment: Mapping[str, str]) -> ServiceReport | None:
    """The report to the service manager that `environment` names, or None where this is no such service.

    Raises:
        ConfigError: NOTIFY_SOCKET is no socket, or WATCHDOG_USEC no number.
    """
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return None
    from edgeaudio.runtime.systemd import Notifier, ServiceReport

    watchdog_s = None
    # Both are inherited: the watchdog may be meant for another process.
    if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
        text = environment.get("WATCHDOG_USEC")
        if text is not None and not text.isdecimal():
            raise ConfigError(f"WATCHDOG_USEC is {text!r}, wanted microseconds")
        watchdog_s = int(text) / 1e6 if text else None
    try:
        return ServiceReport(Notifier(address), watchdog_s=watchdog_s)
    except OSError as error:
        raise ConfigError(f"NOTIFY_SOCKET {address!r}: {error}. Unset it where this is no systemd service.") from error
