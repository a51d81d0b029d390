"""Nothing in the ring is lost, doubled or out of order without the ring saying exactly so."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeaudio.audio.ring import Reading, Ring
from edgeaudio.errors import ConfigError


class Numbered:
    """Writes frames that are their own positions, and holds what was read against a list that loses nothing."""

    def __init__(self, capacity: int, channels: int = 1) -> None:
        self.ring = Ring(capacity, channels, np.int32)
        self.channels = channels
        #: What the reader must still be told: frames, and the marks between them.
        self.written = self.read = self.lost = 0
        self.boundaries: deque[str] = deque()

    def write(self, n: int) -> None:
        numbers = np.arange(self.written, self.written + n, dtype=np.int32)
        self.ring.write(np.repeat(numbers[:, None], self.channels, axis=1))
        self.written += n

    def take(self, max_frames: int) -> Reading | None:
        reading = self.ring.read(max_frames, 0.0)
        if reading is None:
            assert self.read == self.written
            return None
        self.read += reading.overwritten
        assert reading.position == self.read
        wanted = np.arange(self.read, self.read + len(reading.frames))
        assert len(reading.frames) <= max_frames
        assert all(np.array_equal(reading.frames[:, c], wanted) for c in range(self.channels))
        self.read += len(reading.frames)
        return reading


actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 25)),
        st.tuples(st.just("read"), st.integers(1, 25)),
        st.tuples(st.just("lost"), st.integers(0, 9)),
        st.tuples(st.just("file"), st.integers(0, 9)),
    ),
    max_size=60,
)


@given(actions=actions, capacity=st.integers(1, 20), channels=st.integers(1, 3))
def test_what_was_written_is_read_or_said_to_be_lost(
    actions: list[tuple[str, int]], capacity: int, channels: int
) -> None:
    numbered = Numbered(capacity, channels)
    marked = lost = overwritten = n_read = 0
    files: list[str] = []
    names: list[str] = []

    def note(reading: Reading | None) -> None:
        nonlocal lost, overwritten, n_read
        if reading is not None:
            lost, overwritten = lost + reading.lost, overwritten + reading.overwritten
            n_read += len(reading.frames)
            names.extend([reading.boundary] if reading.boundary is not None else [])

    for action, n in actions:
        if action == "write":
            before = numbered.ring.waiting
            numbered.write(n)
            assert numbered.ring.waiting == before + n
        elif action == "read":
            note(numbered.take(n))
        elif action == "lost":
            numbered.ring.mark(n)
            marked += n
        else:
            files.append(str(len(files)))
            numbered.ring.mark(boundary=files[-1])
    numbered.ring.end()
    while not numbered.ring.finished:
        note(numbered.take(7))
    assert numbered.ring.read(1, 0.0) is None
    assert n_read + overwritten == numbered.written
    assert lost == overwritten + marked
    # Of files that were overwritten as a whole only the last name matters.
    assert [name for name in files if name in names] == names
    assert names[-1:] == files[-1:]


@given(stall=st.integers(0, 40), capacity=st.integers(1, 20), step=st.integers(1, 7))
def test_a_stall_loses_exactly_what_the_ring_cannot_hold(stall: int, capacity: int, step: int) -> None:
    numbered = Numbered(capacity)
    for _ in range(stall):
        numbered.write(step)
    reading = numbered.take(10**6)
    if stall == 0:
        assert reading is None
    else:
        assert reading is not None
        assert reading.lost == reading.overwritten == max(0, stall * step - capacity)
        assert len(reading.frames) == min(stall * step, capacity)
        assert numbered.ring.high_water == min(1.0, stall * step / capacity)


@pytest.mark.parametrize("start", [2**31 - 3, 2**32 - 3, 2**53 - 3])
def test_positions_survive_the_wrap_points(start: int) -> None:
    ring = Ring(8)
    ring._reserved = ring._written = ring._read = start
    for _ in range(4):
        ring.write(np.ones((3, 1), np.float32))
        reading = ring.read(10, 0.0)
        assert reading is not None
        assert (reading.position, reading.lost, len(reading.frames)) == (start, 0, 3)
        start += 3


def test_marks_stand_before_the_frame_they_were_set_at() -> None:
    numbered = Numbered(100)
    numbered.write(5)
    numbered.ring.mark(3, overrun=True)
    numbered.write(2)
    first, second = numbered.take(50), numbered.take(50)
    assert first is not None
    assert second is not None
    assert (len(first.frames), first.lost, first.overruns) == (5, 0, 0)
    assert (len(second.frames), second.lost, second.overruns, second.overwritten) == (2, 3, 1, 0)


def test_frames_overwritten_while_they_are_copied_are_left_out() -> None:
    ring = Ring(8, dtype=np.int32)
    ring.write(np.arange(8, dtype=np.int32)[:, None])
    real, raced = np.concatenate, []

    def race(parts: list[NDArray[Any]]) -> NDArray[Any]:
        if not raced:
            raced.append(1)
            ring.write(np.arange(8, 11, dtype=np.int32)[:, None])
        return real(parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeaudio.audio.ring.np.concatenate", race)
        reading = ring.read(8, 0.0)
    assert reading is not None
    assert (reading.frames[:, 0].tolist(), reading.lost, reading.position) == ([3, 4, 5, 6, 7], 3, 3)


def test_a_waiting_reader_is_woken_and_a_waiting_writer_loses_nothing() -> None:
    ring, read = Ring(64, dtype=np.int32), []

    def consume() -> None:
        while not ring.finished:
            reading = ring.read(50, 5.0)
            if reading is not None:
                assert reading.lost == 0
                read.append(reading.frames[:, 0])

    reader = threading.Thread(target=consume)
    reader.start()
    numbers = np.arange(100_000, dtype=np.int32)[:, None]
    for at in range(0, len(numbers), 97):
        ring.offer(numbers[at : at + 97], lambda: False)
    ring.end()
    reader.join(30)
    assert np.array_equal(np.concatenate(read), numbers[:, 0])


def test_a_waiting_writer_gives_up_when_it_is_stopped() -> None:
    ring = Ring(4)
    ring.offer(np.zeros((10, 1), np.float32), lambda: True)
    assert ring.waiting == 4


def test_nothing_stays_allocated_by_a_write() -> None:
    # The capture callback is one write: it must give the garbage collector nothing to do.
    ring, frames = Ring(1_000, 2, np.int16), np.ones((160, 2), np.int16)
    for _ in range(3_000):
        ring.write(frames)
    before = sys.getallocatedblocks()
    for _ in range(3_000):
        ring.write(frames)
    assert abs(sys.getallocatedblocks() - before) < 20


def test_arrivals_are_remembered_for_all_that_the_ring_holds() -> None:
    clock = [0.0]
    ring = Ring(2_000, clock=lambda: clock[0])
    for number in range(10_000):
        clock[0] = float(number)
        ring.write(np.zeros((1, 1), np.float32))
    for position in range(8_000, 10_000, 37):
        # Tiny writes share a stamp: at most the 512th part of the ring late.
        assert position <= ring.arrival_s(position) <= position + 2_000 // 512 + 1
    assert ring.last_arrival_s == ring.arrival_s(9_999) == ring.arrival_s(10**9) == 9_999
    clock[0] = 1e6
    ring.write(np.zeros((160, 1), np.float32))
    assert ring.arrival_s(10_000) == ring.arrival_s(10_159) == 1e6


def test_a_ring_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="wanted at least 1"):
        Ring(0)


def test_a_reader_is_not_woken_for_less_than_it_wants_but_gets_what_there_is_in_time() -> None:
    ring = Ring(100)
    reading: list[Reading | None] = []
    reader = threading.Thread(target=lambda: reading.append(ring.read(50, 30.0, 40)))
    reader.start()
    for _ in range(39):
        ring.write(np.zeros((1, 1), np.float32))
    reader.join(0.2)
    assert reader.is_alive()
    ring.write(np.zeros((1, 1), np.float32))
    reader.join(30)
    assert reading[0] is not None
    assert len(reading[0].frames) == 40
    # The time is over, something is marked, or it is the end: then fewer do.
    ring.write(np.zeros((3, 1), np.float32))
    late = ring.read(50, 0.01, 40)
    assert late is not None
    assert len(late.frames) == 3
    ring.write(np.zeros((4, 1), np.float32))
    ring.mark(7)
    before, behind = ring.read(50, 30.0, 40), ring.read(50, 30.0, 40)
    assert before is not None
    assert behind is not None
    assert (len(before.frames), behind.lost) == (4, 7)
    ring.write(np.zeros((5, 1), np.float32))
    ring.end()
    last = ring.read(50, 30.0, 40)
    assert last is not None
    assert len(last.frames) == 5
    assert ring.read(50, 30.0, 40) is None
