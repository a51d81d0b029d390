"""`Output`: an observer that ignores everything. `Guarded`: one whose mistakes never reach the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeaudio.outputs.worker import FailureLog, OutputCounts
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


class Guarded:
    """Passes everything on to an output; what that raises is logged and counted, and the stream goes on.

    Only `BrokenPipeError` goes through: nobody reads standard output any more, so nobody wants the rest.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        #: Calls that raised.
        self.failures = 0
        self._report = FailureLog(output.name)

    def on_audio(self, samples: Float32, position_samples: int) -> None:
        """See `Observer`."""
        self._guard(self.output.on_audio, samples, position_samples)

    def on_window(self, window: ScoredWindow, new_frames: Float32) -> None:
        """See `Observer`."""
        self._guard(self.output.on_window, window, new_frames)

    def on_event(self, record: EventRecord) -> None:
        """See `Observer`."""
        self._guard(self.output.on_event, record)

    def on_health(self, health: Health) -> None:
        """See `Observer`."""
        self._guard(self.output.on_health, health)

    def close(self) -> None:
        """See `Observer`."""
        self._guard(self.output.close)

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 (no mistake in an output may stop the listening)
            self.failures += 1
            self._report(f"{type(error).__name__}: {error}")
