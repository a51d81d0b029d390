"""The ring between the thread that captures and the thread that classifies: fixed size, no lock, exact about losses.

One writer, one reader. Positions are frames since the start; they never wrap. The writer never waits: what the
reader has not taken in time is overwritten, oldest first, and the reader is told exactly how much that was.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgeaudio.errors import ConfigError

# Writes whose arrival is remembered; at 10 ms each, ten seconds.
_STAMPS = 1024
# A waiting writer or reader looks this often whether it should stop.
_LOOK_S = 0.1


class Mark(NamedTuple):
    """Something at `position`, before the frame there: `lost` frames that never came, or a new file, `boundary`.

    overrun: the device itself reported the loss.
    """

    position: int
    lost: int = 0
    overrun: bool = False
    boundary: str | None = None


class Reading(NamedTuple):
    """`frames (n, channels)` in memory of their own; n may be 0. `position` is the first one's in the ring.

    lost: frames lost just before them. overruns: how many losses the device reported itself.
    overwritten: how many of the lost ones the ring overwrote. boundary: the file that begins here.
    """

    frames: NDArray[Any]
    position: int
    lost: int = 0
    overruns: int = 0
    overwritten: int = 0
    boundary: str | None = None


class Ring:
    """`capacity` frames of `channels` samples each, in the source's own sample type."""

    def __init__(
        self,
        capacity: int,
        channels: int = 1,
        dtype: DTypeLike = np.float32,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if capacity < 1:
            raise ConfigError(f"a ring of {capacity} frames; wanted at least 1")
        self.capacity, self.clock = capacity, clock
        self.high_water = 0.0
        self._data = np.zeros((capacity, channels), dtype)
        # The writer moves `_reserved`, copies, then moves `_written`; the reader alone moves `_read`.
        self._reserved = self._written = self._read = 0
        # The writer wakes the reader no sooner than here.
        self._wanted = 0
        self._marks: deque[Mark] = deque()
        self._ended = self._idle = False
        self._stamp_end = np.zeros(_STAMPS, np.int64)
        self._stamp_s = np.full(_STAMPS, clock())
        self._stamp = 0
        # Tokens: held by default, released by one side to wake the other. Releasing never waits.
        self._filled, self._emptied = threading.Lock(), threading.Lock()
        self._filled.acquire()
        self._emptied.acquire()

    # The writer's side.

    def write(self, frames: NDArray[Any]) -> None:
        """Take `(n, channels)` frames, overwriting the oldest where there is no room. Never waits, never fails."""
        n, start = len(frames), self._written
        end = start + n
        self._reserved = end
        if n > self.capacity:
            frames = frames[n - self.capacity :]
            n, start = self.capacity, end - self.capacity
        at = start % self.capacity
        first = min(n, self.capacity - at)
        self._data[at : at + first] = frames[:first]
        if first < n:
            self._data[: n - first] = frames[first:]
        self._note_arrival(end)
        self._written = end
        if end >= self._wanted:
            self._wake(self._filled)

    def offer(self, frames: NDArray[Any], stopped: Callable[[], bool]) -> None:
        """As `write`, but wait for room, for sources that can wait; gives up when `stopped()`."""
        while len(frames):
            room = self.capacity - (self._written - self._read)
            if room:
                self.write(frames[:room])
                frames = frames[room:]
            elif stopped():
                return
            else:
                self._emptied.acquire(timeout=_LOOK_S)

    def mark(self, lost: int = 0, *, overrun: bool = False, boundary: str | None = None) -> None:
        """Say what is before the next frame; see `Mark`."""
        self._marks.append(Mark(self._written, lost, overrun, boundary))
        self._wake(self._filled)

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._wake(self._filled)

    def _note_arrival(self, end: int) -> None:
        slot = self._stamp % _STAMPS
        # Tiny writes share a slot, so that the slots always reach over the whole ring.
        if end - self._stamp_end[slot - 1] > self.capacity // (_STAMPS // 2):
            self._stamp += 1
            slot = self._stamp % _STAMPS
        self._stamp_s[slot] = self.clock()
        self._stamp_end[slot] = end

    # The reader's side.

    def read(self, max_frames: int, timeout_s: float, min_frames: int = 1) -> Reading | None:
        """The next frames, at most `max_frames`; None when none came in `timeout_s`, or at the end.

        Waits for `min_frames`, so that the reader is not woken for less than it can use; a mark, the end, or the time
        being over ends the wait, and fewer are returned.
        """
        until = self.clock() + timeout_s
        # Whoever asks for more is done with what came before.
        self._idle = True
        self._wanted = self._read + min_frames
        while self._written < self._wanted and not self._marks:
            left_s = until - self.clock()
            if self._ended or left_s <= 0 or not self._filled.acquire(timeout=left_s):
                break
        # Looked at once more: a write between the last look and the end must not be taken for silence.
        return self._take(max_frames) if self._written > self._read or self._marks else None

    @property
    def finished(self) -> bool:
        """Ended, and all of it read."""
        return self._ended and self._written <= self._read and not self._marks

    @property
    def ended(self) -> bool:
        """Nothing comes any more."""
        return self._ended

    @property
    def written(self) -> int:
        """Frames that came in so far."""
        return self._written

    @property
    def handled(self) -> bool:
        """Whether the reader has taken everything and come back for more. For the writer."""
        return self._written <= self._read and not self._marks and self._idle

    @property
    def waiting(self) -> int:
        """Frames that the reader has not taken yet."""
        return self._written - self._read

    @property
    def last_arrival_s(self) -> float:
        """On the ring's clock, when the latest frames came, or the ring was made."""
        return float(self._stamp_s[self._stamp % _STAMPS])

    def arrival_s(self, position: int) -> float:
        """On the ring's clock, when the frame at `position` came; of one long gone, the oldest that is known."""
        newest = self._stamp
        oldest = max(0, newest - _STAMPS + 2)
        while newest > oldest and self._stamp_end[(newest - 1) % _STAMPS] > position:
            newest -= 1
        return float(self._stamp_s[newest % _STAMPS])

    def _take(self, max_frames: int) -> Reading:
        self._idle = False
        written, position = self._written, self._read
        self.high_water = max(self.high_water, min(1.0, (written - position) / self.capacity))
        overwritten = max(0, self._reserved - self.capacity - position)
        position += overwritten
        lost, overruns, boundary = overwritten, 0, None
        while self._marks and self._marks[0].position <= position and (boundary is None or overwritten):
            mark = self._marks.popleft()
            lost, overruns = lost + mark.lost, overruns + mark.overrun
            boundary = mark.boundary if mark.boundary is not None else boundary
        end = min(written, position + max_frames, *(mark.position for mark in self._next_mark()))
        frames, lapped = self._copy(position, max(end, position))
        self._read = max(end, position)
        self._wake(self._emptied)
        return Reading(frames, position + lapped, lost + lapped, overruns, overwritten + lapped, boundary)

    def _next_mark(self) -> list[Mark]:
        return [self._marks[0]] if self._marks else []

    def _copy(self, start: int, end: int) -> tuple[NDArray[Any], int]:
        """The frames, and how many of them were overwritten while they were copied (they are left out)."""
        at, n = start % self.capacity, end - start
        first = min(n, self.capacity - at)
        frames = np.concatenate([self._data[at : at + first], self._data[: n - first]])
        lapped = min(n, max(0, self._reserved - self.capacity - start))
        return frames[lapped:], lapped

    @staticmethod
    def _wake(token: threading.Lock) -> None:
        # Only one side ever releases a token, so between look and release it cannot become free.
        if token.locked():
            token.release()
