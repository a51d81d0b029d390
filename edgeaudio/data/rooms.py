"""Rooms as impulse responses: what a microphone hears besides the direct sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RT60_S = (0.05, 0.7)
# Of the tail's energy against the direct sound's.
_TAIL_DB = (-24.0, -3.0)
_DECAY_OF_60_DB = 6.908


def room_response(rng: np.random.Generator, rate_hz: int) -> NDArray[np.float32]:
    """Direct sound of 1, then noise `(samples,)` that falls by 60 dB in 0.05 to 0.7 s."""
    rt60_s = float(np.exp(rng.uniform(*np.log(_RT60_S))))
    t = np.arange(int(rt60_s * rate_hz), dtype=np.float32) / rate_hz
    tail: NDArray[np.float32] = rng.standard_normal(len(t), np.float32) * np.exp(
        -t * np.float32(_DECAY_OF_60_DB / rt60_s)
    )
    tail *= np.float32(10 ** (rng.uniform(*_TAIL_DB) / 20)) / np.sqrt(np.square(tail).sum())
    tail[0] += 1
    return tail


def reverberate(waveform: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(samples,)` as heard in the room, as long and as loud (RMS) as before."""
    n_fft = 1 << (len(waveform) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(waveform, n_fft) * np.fft.rfft(response, n_fft)
    heard = np.fft.irfft(spectrum, n_fft)[: len(waveform)]
    before, after = (float(np.sqrt(np.square(signal, dtype=np.float64).mean())) for signal in (waveform, heard))
    return (heard * (before / after if after else 1.0)).astype(np.float32)
