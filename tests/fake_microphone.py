"""Sources without a device: what a script says, as fast as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.source import AudioFormat, Sink, SourceStats

Step = NDArray[Any] | Callable[[Sink], object]


class ScriptedSource:
    """Writes arrays `(n,)` or `(n, channels)` and calls what is callable, in order (see `AudioSource`).

    A step that raises AudioDeviceError unplugs it; the script goes on behind that step once it is open again.
    """

    name = "scripted microphone"

    def __init__(
        self, script: Iterable[Step], *, sample_rate: int = 16_000, live: bool = True, reopens: bool = True,
        channels: int = 1, dtype: Any = np.float32,
    ) -> None:  # fmt: skip
        self.live, self.reopens = live, reopens
        self.audio = AudioFormat(sample_rate, channels, dtype)
        self.opened = self.closed = 0
        self.scrubbed = SourceStats()
        #: Raised by the next calls of `open`.
        self.open_errors: list[Exception] = []
        self._script = iter(script)

    def open(self) -> AudioFormat:
        self.opened += 1
        if self.open_errors:
            raise self.open_errors.pop(0)
        return self.audio

    def capture(self, sink: Sink) -> None:
        for step in self._script:
            if sink.stopped():
                return
            if callable(step):
                step(sink)
            else:
                sink.write(step.reshape(-1, self.audio.channels))

    def close(self) -> None:
        self.closed += 1


def until_there_is_room(sink: Sink) -> None:
    """A step: go on when the ring is at most half full, so that nothing is overwritten by chance."""
    while sink.ring.waiting > sink.ring.capacity // 2 and not sink.stopped():
        sink.wait(0.002)


def until_taken(sink: Sink) -> None:
    """A step: go on when everything written so far has been read."""
    while sink.ring.waiting and not sink.stopped():
        sink.wait(0.002)
