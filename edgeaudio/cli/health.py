"""How the health of a stream reaches people and service managers."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeaudio.runtime.classifier import ScoredWindow
    from edgeaudio.runtime.engines.base import Float32
    from edgeaudio.runtime.observer import EventRecord, Health


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
