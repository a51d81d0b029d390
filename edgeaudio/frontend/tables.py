"""FrontendSpec -> window and sparse mel weights. Computed once in float64; everybody loads these."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class FrontendTables:
    """`window (win_length,)` and `mel (n_mels, n_bins)`, float64; callers round to float32 once."""

    window: Float64
    mel: Float64

    def mel_bands(self) -> list[tuple[int, NDArray[np.float32]]]:
        """The sparse form: for each band its first bin and its non-zero weights (float32)."""
        bands = []
        for row in self.mel:
            used = np.flatnonzero(row)
            bands.append((int(used[0]), row[used[0] : used[-1] + 1].astype(np.float32)))
        return bands


def hz_to_mel(f_hz: ArrayLike) -> Float64:
    """HTK mel scale, `1127 ln(1 + f/700)` (HTK book 5.4)."""
    return np.asarray(1127.0 * np.log1p(np.asarray(f_hz, dtype=np.float64) / 700.0))


def mel_matrix(spec: FrontendSpec) -> Float64:
    """Triangular bands whose slopes are linear in mel, peak 1, as Kaldi's (`(n_mels, n_bins)`).

    Raises:
        ConfigError: a band holds no FFT bin, so its output would be constant.
    """
    edges = np.linspace(hz_to_mel(spec.f_min), hz_to_mel(spec.f_max), spec.n_mels + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = hz_to_mel(np.arange(spec.n_bins) * (spec.sample_rate / spec.n_fft))[None, :]
    weights = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(min=0.0)
    weights[:, -1] = 0.0  # Kaldi leaves the Nyquist bin out.
    empty = np.flatnonzero(weights.sum(axis=1) == 0)
    if len(empty):
        raise ConfigError(
            f"frontend.n_mels: band {empty[0]} of {spec.n_mels} holds no FFT bin at n_fft {spec.n_fft}. "
            "Use fewer bands, a larger n_fft, or a higher f_min."
        )
    return weights


@functools.lru_cache(maxsize=16)
def frontend_tables(spec: FrontendSpec) -> FrontendTables:
    """The tables of `spec` (cached; treat the arrays as read-only)."""
    n = np.arange(spec.win_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / (spec.win_length - 1))
    tables = FrontendTables(window=window, mel=mel_matrix(spec))
    tables.window.setflags(write=False)
    tables.mel.setflags(write=False)
    return tables
