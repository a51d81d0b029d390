"""The numpy front-end of the runtime: one frame at a time, fed with chunks of any length.

Every frame is computed alone, never batched: BLAS and FFT change their order of operations with the
shape, so only this makes a stream equal to a whole clip bit for bit. The law is `reference.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.spec import FrontendSpec

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class StreamTables:
    """The float32 form of `FrontendTables` that one frame needs; `mel` is sparse.

    Band b is the sum of `power[bins[i]] * weights[i]` for i from `band_starts[b]` to the next start.
    """

    window: Float32
    n_fft: int
    bins: NDArray[np.intp]
    weights: Float32
    band_starts: NDArray[np.intp]
    log_floor: np.float32
    offset: np.float32
    scale: np.float32


def require_streamable(spec: FrontendSpec) -> None:
    """Refuse a spec that looks ahead or has pre-emphasis.

    Raises:
        ConfigError: naming the field.
    """
    if spec.centre:
        raise ConfigError("frontend.centre is true: such frames look ahead and cannot be streamed. Use centre=False.")
    if spec.preemphasis:
        raise ConfigError(f"frontend.preemphasis is {spec.preemphasis}: the runtime has none. Use preemphasis=0.")


def check_chunk(chunk: Float32) -> None:
    """The door of every front-end.

    Raises:
        ShapeError: another rank or dtype.
    """
    if chunk.ndim != 1 or chunk.dtype != np.float32:
        raise ShapeError(f"chunk is {chunk.dtype} {chunk.shape}, wanted float32 (samples,)")


@functools.lru_cache(maxsize=16)
def stream_tables(spec: FrontendSpec) -> StreamTables:
    """The tables of `spec` (cached; treat the arrays as read-only).

    Raises:
        ConfigError: the spec looks ahead (`centre`) or has pre-emphasis: teachers only.
    """
    require_streamable(spec)
    tables = frontend_tables(spec)
    bands = tables.mel_bands()
    lengths = [len(weights) for _, weights in bands]
    return StreamTables(
        window=tables.window.astype(np.float32),
        n_fft=spec.n_fft,
        bins=np.concatenate([np.arange(first, first + len(weights)) for first, weights in bands]),
        weights=np.concatenate([weights for _, weights in bands]),
        band_starts=np.cumsum([0, *lengths[:-1]]),
        log_floor=np.float32(spec.log_floor),
        offset=np.float32(spec.offset),
        scale=np.float32(spec.scale),
    )


def frame_log_mel(samples: Float32, tables: StreamTables) -> Float32:
    """Log-mel of one frame: `samples (win_length,)` float32 -> `(n_mels,)` float32."""
    spectrum = np.fft.rfft(samples * tables.window, tables.n_fft)
    power = spectrum.real**2 + spectrum.imag**2
    mel_power = np.add.reduceat(power[tables.bins] * tables.weights, tables.band_starts)
    log_mel: Float32 = (np.log(mel_power + tables.log_floor) + tables.offset) * tables.scale
    return log_mel


class FrontendStream:
    """Turns chunks of a waveform into log-mel frames; frame t starts at sample `t * hop_length`."""

    name: Final = "numpy"

    def __init__(self, spec: FrontendSpec) -> None:
        """Raises ConfigError for a spec that cannot be streamed (`centre`, `preemphasis`)."""
        self.spec = spec
        self._tables = stream_tables(spec)
        # Room for several frames, so that samples are moved to the front once per many hops.
        self._buffer: Float32 = np.zeros(max(4096, 4 * (spec.win_length + spec.hop_length)), np.float32)
        self._no_frames: Float32 = np.empty((0, spec.n_mels), np.float32)
        self._no_frames.setflags(write=False)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is sample 0."""
        self._start = 0  # In the buffer: first sample of the next frame; beyond `_fill` where hop > win.
        self._fill = 0  # In the buffer: samples held.

    def feed(self, chunk: Float32) -> Float32:
        """Take the next samples and return the frames they complete.

        Args:
            chunk: `(samples,)` float32, finite, of any length, 0 and 1 included.
        Returns:
            `(frames, n_mels)` float32; the empty answer is shared and read-only.
        Raises:
            ShapeError: another rank or dtype.
        """
        check_chunk(chunk)
        held = self._fill - self._start
        n_frames = self.spec.n_frames(held + len(chunk))
        if n_frames == 0 and self._fill + len(chunk) <= len(self._buffer):
            self._buffer[self._fill : self._fill + len(chunk)] = chunk
            self._fill += len(chunk)
            return self._no_frames
        frames = np.empty((n_frames, self.spec.n_mels), np.float32)
        done = taken = 0
        while taken < len(chunk):
            taken += self._append(chunk[taken:])
            while self._start + self.spec.win_length <= self._fill:
                samples = self._buffer[self._start : self._start + self.spec.win_length]
                frames[done] = frame_log_mel(samples, self._tables)
                self._start += self.spec.hop_length
                done += 1
        assert done == n_frames
        return frames if n_frames else self._no_frames

    def _append(self, chunk: Float32) -> int:
        """Copy as much of `chunk` as fits behind what is held; the number of samples copied."""
        if self._fill == len(self._buffer):
            kept = max(0, self._fill - self._start)
            self._buffer[:kept] = self._buffer[self._fill - kept : self._fill]
            self._start = max(0, self._start - self._fill)
            self._fill = kept
        n = min(len(chunk), len(self._buffer) - self._fill)
        self._buffer[self._fill : self._fill + n] = chunk[:n]
        self._fill += n
        return n
