"""`AudioHistory`: a ring that holds the last seconds of a stream, addressed by position."""

from __future__ import annotations

import numpy as np

from edgeaudio.runtime.engines.base import Float32


class AudioHistory:
    """The newest chunk, and at least `lookback_samples` before it. Positions are Python ints, as in the stream.

    What is decided about a chunk may reach back from its first sample, so a long chunk must not push out what came
    before it: the ring grows with the longest chunk.
    """

    def __init__(self, lookback_samples: int) -> None:
        self._lookback = lookback_samples
        self._ring: Float32 = np.zeros(max(1, lookback_samples), np.float32)
        #: Positions of the first sample held and of the next to come.
        self.start = self.end = 0

    def write(self, samples: Float32, position_samples: int) -> None:
        """Copy `(samples,)` that begin at `position_samples`; where that is not `end`, all before is forgotten."""
        if position_samples != self.end:
            self.start = self.end = position_samples
        if self._lookback + len(samples) > len(self._ring):
            self._grow(self._lookback + len(samples))
        self._put(samples, self.end)
        self.end += len(samples)
        self.start = max(self.start, self.end - len(self._ring))

    def read(self, start: int, stop: int) -> tuple[int, Float32]:
        """The samples from `start` up to `stop` that are held, copied, and the position of the first."""
        start = min(max(start, self.start), self.end)
        n = max(0, min(stop, self.end) - start)
        at = start % len(self._ring)
        first = min(n, len(self._ring) - at)
        return start, np.concatenate([self._ring[at : at + first], self._ring[: n - first]])

    def _put(self, samples: Float32, position: int) -> None:
        at = position % len(self._ring)
        first = min(len(samples), len(self._ring) - at)
        self._ring[at : at + first] = samples[:first]
        self._ring[: len(samples) - first] = samples[first:]

    def _grow(self, capacity: int) -> None:
        _, held = self.read(self.start, self.end)
        self._ring = np.zeros(capacity, np.float32)
        self._put(held, self.start)
