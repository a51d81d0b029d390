"""What every audio source shares: its counters, and the scrub that keeps one NaN from living for ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# +24 dB over full scale: honest float recordings stay below; a power spectrum of it stays finite.
MAX_ABS_SAMPLE = 16.0

# The largest 16-bit value; a sample at or above it met the rail.
_CLIP_LEVEL = 32767 / 32768


@dataclass
class SourceStats:
    """Counters of one source. `samples_in` counts mono samples handed out, the others raw samples of all channels."""

    samples_in: int = 0
    raw_samples: int = 0
    nan_samples: int = 0
    clipped_samples: int = 0
    trailing_bytes: int = 0

    @property
    def clipped_fraction(self) -> float:
        """Share of raw samples at full scale or beyond."""
        return self.clipped_samples / self.raw_samples if self.raw_samples else 0.0


def scrub(samples: NDArray[np.float32], stats: SourceStats) -> NDArray[np.float32]:
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
