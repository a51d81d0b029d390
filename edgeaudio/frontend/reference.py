"""The float64 reference front-end: slow, plain, the law that the others are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.errors import ShapeError
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.spec import FrontendSpec

# Largest |difference| to this reference, in ln units, that a float32 implementation may show.
# Measured at the students' floor of 1e-5: at most 3e-4 on full-scale tones and DC.
PARITY_GATE_LN = 2e-3


def reference_log_mel(waveform: ArrayLike, spec: FrontendSpec) -> NDArray[np.float64]:
    """Log-mel of a whole waveform.

    Args:
        waveform: `(samples,)` at `spec.sample_rate`, in [-1, 1].
    Returns:
        `(frames, n_mels)` float64; no frames when the waveform is shorter than a window.
    Raises:
        ShapeError: not one-dimensional.
    """
    x = np.asarray(waveform, dtype=np.float64)
    if x.ndim != 1:
        raise ShapeError(f"waveform has shape {x.shape}, wanted (samples,)")
    tables = frontend_tables(spec)
    if spec.preemphasis:
        x = x[1:] - spec.preemphasis * x[:-1]
    window = tables.window
    if spec.centre:
        x = np.pad(x, spec.n_fft // 2, mode="reflect")
        before = (spec.n_fft - spec.win_length) // 2
        window = np.pad(window, (before, spec.n_fft - spec.win_length - before))
    length = len(window)
    n_frames = max(0, (len(x) - length) // spec.hop_length + 1)
    log_mel = np.empty((n_frames, spec.n_mels))
    for t in range(n_frames):
        frame = x[t * spec.hop_length : t * spec.hop_length + length] * window
        power = np.abs(np.fft.rfft(frame, spec.n_fft)) ** 2
        log_mel[t] = (np.log(tables.mel @ power + spec.log_floor) + spec.offset) * spec.scale
    return log_mel


def parity_gap_ln(log_mel: ArrayLike, reference: ArrayLike, spec: FrontendSpec) -> float:
    """Largest |difference| in ln units (the unit of `PARITY_GATE_LN`)."""
    gap = np.abs(np.asarray(log_mel, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    return float(gap.max(initial=0.0) / spec.scale)
