"""`Output`: an observer that ignores everything."""

from __future__ import annotations

from edgeaudio.outputs.worker import OutputCounts
from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.observer import EventRecord, Health


class Output:
    """An `Observer` whose methods do nothing: an output overrides what it wants to hear."""

    name = "output"

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Observer`."""

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Observer`."""

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""

    def on_health(self, health: Health) -> None:
        """See `Observer`."""

    def close(self) -> None:
        """See `Observer`."""

    @property
    def counts(self) -> OutputCounts:
        """What became of the items so far."""
        return OutputCounts()
