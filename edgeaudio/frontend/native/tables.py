"""FrontendSpec -> the arrays of `ea_logmel_tables_t` (ea_logmel.h), computed in float64 and rounded once."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import UnsupportedError
from edgeaudio.frontend.stream import Float32
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.spec import FrontendSpec

# As in ea_logmel.h; a test holds them together.
BLOCK = 4
MIN_FFT, MAX_FFT = 16, 16_384
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class NativeTables:
    """See `ea_logmel_tables_t` for what each array holds; all are contiguous."""

    window: Float32
    twiddles: Float32
    split: Float32
    band_first: NDArray[np.uint16]
    band_blocks: NDArray[np.uint16]
    weights: Float32


def why_unsupported(spec: FrontendSpec) -> str | None:
    """What of `spec` the C code cannot do; None where it can do all of it."""
    if not MIN_FFT <= spec.n_fft <= MAX_FFT or spec.n_fft & (spec.n_fft - 1):
        return f"frontend.n_fft is {spec.n_fft}, it takes powers of two from {MIN_FFT} to {MAX_FFT}"
    if np.float32(spec.log_floor) < _SMALLEST_NORMAL:
        return f"frontend.log_floor is {spec.log_floor}, it takes {_SMALLEST_NORMAL:.3g} or more"
    return None


@functools.lru_cache(maxsize=16)
def native_tables(spec: FrontendSpec) -> NativeTables:
    """The tables of `spec` (cached; treat the arrays as read-only).

    Raises:
        ConfigError: a band holds no FFT bin.
        UnsupportedError: the C code cannot do the spec; see `why_unsupported`.
    """
    reason = why_unsupported(spec)
    if reason is not None:
        raise UnsupportedError(f"no native tables: {reason}")
    tables = frontend_tables(spec)
    half = spec.n_fft // 2
    turns = [np.outer([1, 2, 3], np.arange(half // 4)) / half, np.arange(half // 2)[None] / spec.n_fft]
    twiddles, split = (np.stack([np.cos(2 * np.pi * t), -np.sin(2 * np.pi * t)], axis=1).ravel() for t in turns)
    bands = tables.mel_bands()
    blocks = [-(-len(weights) // BLOCK) for _, weights in bands]
    padded = [np.pad(weights, (0, n * BLOCK - len(weights))) for n, (_, weights) in zip(blocks, bands, strict=True)]
    return NativeTables(
        window=tables.window.astype(np.float32),
        twiddles=twiddles.astype(np.float32),
        split=split.astype(np.float32),
        band_first=np.array([first for first, _ in bands], np.uint16),
        band_blocks=np.array(blocks, np.uint16),
        weights=np.concatenate(padded),
    )
