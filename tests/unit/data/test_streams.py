"""Made streams: repeatable, labelled where a clip sounds, and never beyond full scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeaudio.data.streams import CLIPS_PER_STREAM, make_stream
from edgeaudio.data.windows import Float32

RATE = 8000


class Clips:
    """One-second tones; the last half of the first clip is digital silence."""

    sample_rate = RATE

    def __init__(self, count: int) -> None:
        t = np.arange(RATE) / RATE
        self.waveforms: Sequence[Float32] = [
            (0.5 * np.sin(2 * np.pi * 200 * (index + 1) * t)).astype(np.float32) for index in range(count)
        ]
        if count:
            self.waveforms[0][RATE // 2 :] = 0

    @property
    def silence_target(self) -> Float32:
        return np.full(len(self), 1 / len(self), np.float32)

    def __len__(self) -> int:
        return len(self.waveforms)

    def waveform(self, index: int) -> Float32:
        return self.waveforms[index]

    def target(self, index: int) -> Float32:
        return np.eye(len(self), dtype=np.float32)[index]


def test_a_stream_is_a_function_of_seed_and_index() -> None:
    first, again = (make_stream(Clips(6), 3, 2) for _ in range(2))
    assert np.array_equal(first.waveform, again.waveform)
    assert np.array_equal(first.clip, again.clip)
    for other in (make_stream(Clips(6), 3, 1), make_stream(Clips(6), 4, 2)):
        assert not np.array_equal(first.waveform[:RATE], other.waveform[:RATE])


def test_samples_know_their_clip_and_silence_has_none() -> None:
    clips = Clips(4)
    stream = make_stream(clips, 0, 0)
    assert stream.waveform.shape == stream.clip.shape
    assert stream.waveform.dtype == np.float32
    counts = {int(clip): int((stream.clip == clip).sum()) for clip in np.unique(stream.clip)}
    assert {clip: count for clip, count in counts.items() if clip > 0} == dict.fromkeys((1, 2, 3), RATE)
    # Padding is no sound.
    assert counts[0] == RATE // 2
    assert counts[-1] >= RATE * CLIPS_PER_STREAM * 0.5


def test_loud_clips_stay_within_full_scale() -> None:
    clips = Clips(3)
    clips.waveforms = [2 * waveform for waveform in clips.waveforms]
    for index in range(8):
        assert np.abs(make_stream(clips, 1, index).waveform).max() <= 1.01


def test_fewer_clips_than_a_stream_takes_are_heard_again() -> None:
    stream = make_stream(Clips(1), 0, 0)
    assert set(np.unique(stream.clip)) == {-1, 0}
