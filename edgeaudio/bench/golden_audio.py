"""The golden audio of a bundle as a stream that never ends."""

from __future__ import annotations

import math

import numpy as np

from edgeaudio.audio.resample import resample
from edgeaudio.bundle import Bundle
from edgeaudio.runtime.engines.base import Float32


class LoopedAudio:
    """The golden waveforms of a bundle end to end, over and over, at the input rate, cut into hops."""

    def __init__(self, bundle: Bundle, input_rate_hz: int, hop_samples: int) -> None:
        """`hop_samples`: at the bundle's rate."""
        model_rate_hz = bundle.manifest.frontend.sample_rate
        waveform = np.ascontiguousarray(bundle.golden.waveform).reshape(-1)
        self._waveform = resample(waveform, model_rate_hz, input_rate_hz)
        self._rate_hz = input_rate_hz
        self._hop_numerator = hop_samples * input_rate_hz
        self._hop_denominator = model_rate_hz
        self._hops = self._position = 0
        self.duration_s = len(self._waveform) / input_rate_hz

    @property
    def position_s(self) -> float:
        """When a live input would have the last sample of the last hop."""
        return self._position / self._rate_hz

    def next_hop(self) -> Float32:
        """The next hop, `(samples,)`; hops of an uneven rate differ by one sample and never drift."""
        self._hops += 1
        end = self._hops * self._hop_numerator // self._hop_denominator
        index = np.arange(self._position, end) % len(self._waveform)
        self._position = end
        chunk: Float32 = self._waveform[index]
        return chunk


def hops_to_first_window(bundle: Bundle, hop_samples: int) -> int:
    """Hops that fill the first window, with one to spare for a resampler's delay."""
    manifest = bundle.manifest
    return math.ceil(manifest.window.n_samples(manifest.frontend) / hop_samples) + 1
