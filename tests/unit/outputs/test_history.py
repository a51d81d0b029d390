"""The ring of audio against the plainest thing that could hold it: all samples ever written."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.outputs.history import AudioHistory

# Chunk lengths, with jumps of the position between them (audio that was lost).
CHUNKS = st.lists(st.tuples(st.integers(0, 70), st.sampled_from([0, 0, 0, 0, 5, 1000])), max_size=30)


@given(lookback=st.integers(0, 60), chunks=CHUNKS, start=st.sampled_from([0, 7, 2**53 - 10]))
def test_it_holds_the_newest_chunk_and_the_lookback_before_it(
    lookback: int, chunks: list[tuple[int, int]], start: int
) -> None:
    history, position, segment = AudioHistory(lookback), start, start
    for length, jump in chunks:
        position += jump
        segment = position if jump else segment
        # Every sample says where it is.
        history.write((np.arange(position, position + length) % 8191).astype(np.float32), position)
        wanted_start = max(segment, position - lookback)
        position += length
        assert history.end == position
        assert history.start <= wanted_start
        assert history.start >= segment or position == segment
        at, samples = history.read(wanted_start, position)
        assert at == wanted_start
        np.testing.assert_array_equal(samples, (np.arange(wanted_start, position) % 8191).astype(np.float32))


@given(ask=st.tuples(st.integers(-50, 300), st.integers(-50, 300)))
def test_read_gives_what_it_has_of_what_was_asked(ask: tuple[int, int]) -> None:
    history = AudioHistory(40)
    for at in range(100, 200, 20):
        history.write(np.arange(at, at + 20, dtype=np.float32), at)
    begin, end = ask
    at, samples = history.read(begin, end)
    held = [sample for sample in range(history.start, 200) if begin <= sample < end]
    assert samples.tolist() == held
    assert at == held[0] if held else len(samples) == 0


def test_what_is_read_does_not_change_with_what_is_written_later() -> None:
    history = AudioHistory(4)
    history.write(np.arange(4, dtype=np.float32), 0)
    _, samples = history.read(0, 4)
    history.write(np.full(100, 9, np.float32), 4)
    assert samples.tolist() == [0, 1, 2, 3]
