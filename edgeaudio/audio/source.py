"""What every audio source shares: the protocol, its counters, and the scrub that keeps one NaN from living for ever."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.ring import Ring
from edgeaudio.errors import ConfigError

# +24 dB over full scale: honest float recordings stay below; a power spectrum of it stays finite.
MAX_ABS_SAMPLE = 16.0

# The largest 16-bit value; a sample at or above it met the rail.
_CLIP_LEVEL = 32767 / 32768

# How often one that waits for its listener looks.
_LOOK_S = 0.02

Float32 = NDArray[np.float32]


class AudioFormat(NamedTuple):
    """What a source delivers: frames `(n, channels)` of float32, or int16 with 32768 as full scale."""

    sample_rate: int
    channels: int = 1
    dtype: type[np.float32] | type[np.int16] = np.float32


class AudioSource(Protocol):
    """Where sound comes from: opened by whoever listens, then run in a thread of its own.

    name: for messages. live: sound goes on whether it is taken or not, so that what the ring cannot hold is lost;
    the others wait. reopens: after an `AudioDeviceError`, `open` may be tried again (a microphone plugged back in).
    scrubbed: what the source has made finite itself, before it resampled; most leave that to the listener.
    """

    name: str
    live: bool
    reopens: bool
    scrubbed: SourceStats

    def open(self) -> AudioFormat:
        """Make ready.

        Raises:
            AudioDeviceError: there is no such device, or it does not open. ConfigError, UnsupportedError: as told.
        """

    def capture(self, sink: Sink) -> None:
        """Write everything to `sink`, until the source ends or `sink.stopped()`.

        Raises:
            AudioDeviceError: the device is gone.
        """

    def close(self) -> None:
        """Let go of the device or file; may be called twice, and from another thread."""


class Sink:
    """What a source writes to: the ring, and the wish to stop. Only the capture thread uses it."""

    def __init__(self, ring: Ring, *, live: bool, stop: threading.Event) -> None:
        self.ring, self.stopped, self.wait = ring, stop.is_set, stop.wait
        self._live = live

    def write(self, frames: NDArray[Any]) -> None:
        """Frames `(n, channels)`, any n. Waits for room unless the source is live."""
        if self._live:
            self.ring.write(frames)
        else:
            self.ring.offer(frames, self.stopped)

    def lost(self, n_frames: int, *, overrun: bool = False) -> None:
        """`n_frames` are missing here; `overrun`: the device said so."""
        self.ring.mark(n_frames, overrun=overrun)

    def begin_file(self, name: str) -> None:
        """What comes next is another recording."""
        self.ring.mark(boundary=name)

    def end_file(self) -> bool:
        """The recording is over: wait until all of it is classified. False when stopped before."""
        self.ring.mark(boundary="")
        while not self.ring.handled:
            if self.wait(_LOOK_S):
                return False
        return True


@dataclass
class SourceStats:
    """Counters of one source. `samples_in` counts mono samples handed out, the others raw samples of all channels."""

    samples_in: int = 0
    raw_samples: int = 0
    nan_samples: int = 0
    clipped_samples: int = 0

    @property
    def clipped_fraction(self) -> float:
        """Share of raw samples at full scale or beyond."""
        return self.clipped_samples / self.raw_samples if self.raw_samples else 0.0


class Mixer:
    """Frames of a source to mono float32: one channel, or the mean of all, scrubbed before it is taken.

    `stats` counts what it scrubbed; nothing where there is one channel to take, which passes as it is.
    """

    def __init__(self, channels: int, channel: int | None = None) -> None:
        """`channel` counts from 1.

        Raises:
            ConfigError: the source has no such channel.
        """
        if channel is not None and not 1 <= channel <= channels:
            raise ConfigError(f"channel {channel} was asked for, the input has {channels}")
        self.stats = SourceStats()
        self._column = 0 if channels == 1 else None if channel is None else channel - 1

    def mix(self, frames: NDArray[Any]) -> Float32:
        """`(n, channels)` -> `(n,)` float32."""
        if frames.dtype == np.int16:
            frames = pcm16_to_float(frames)
        if self._column is not None:
            return np.ascontiguousarray(frames[:, self._column], dtype=np.float32)
        mean: Float32 = scrub(frames, self.stats).mean(axis=1, dtype=np.float32)
        return mean


def pcm16_to_float(samples: NDArray[np.int16]) -> Float32:
    """int16 to float32 in [-1, 1)."""
    # 32768, not 32767: -32768 must map to exactly -1.0, as in libsndfile and the firmware.
    return samples.astype(np.float32) / np.float32(32768)


def scrub(samples: Float32, stats: SourceStats) -> Float32:
    """Replace NaN and infinity by 0, hold the rest within +-16, and count both and clipping.

    Returns:
        `samples` itself when nothing had to change.
    """
    stats.raw_samples += samples.size
    # The common case in two passes: NaN is not below any level either.
    if np.abs(samples).max(initial=0.0) < _CLIP_LEVEL:
        return samples
    bad = ~np.isfinite(samples)
    n_bad = int(bad.sum())
    if n_bad:
        stats.nan_samples += n_bad
        samples = np.where(bad, np.float32(0), samples)
    magnitude = np.abs(samples)
    stats.clipped_samples += int((magnitude >= _CLIP_LEVEL).sum())
    if magnitude.max(initial=0.0) > MAX_ABS_SAMPLE:
        samples = samples.clip(-MAX_ABS_SAMPLE, MAX_ABS_SAMPLE)
    return samples


def check_chunk_samples(chunk_samples: int) -> int:
    """`chunk_samples`, at least 1, or a ConfigError."""
    if chunk_samples < 1:
        raise ConfigError(f"chunk_samples is {chunk_samples}, wanted at least 1")
    return chunk_samples
