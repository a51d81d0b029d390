"""The torch front-end: the same tables as everybody's, as buffers. Batched, for training and teachers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeaudio.errors import ShapeError
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.spec import FrontendSpec


class LogMel(nn.Module):
    """`waveform (batch, samples)` -> `log_mel (batch, frames, n_mels)`, causal or centred as the spec says."""

    window: torch.Tensor
    mel: torch.Tensor

    def __init__(self, spec: FrontendSpec) -> None:
        super().__init__()
        self.spec = spec
        tables = frontend_tables(spec)
        window = tables.window
        if spec.centre:
            before = (spec.n_fft - spec.win_length) // 2
            window = np.pad(window, (before, spec.n_fft - spec.win_length - before))
        self.register_buffer("window", torch.tensor(window, dtype=torch.float32), persistent=False)
        self.register_buffer("mel", torch.tensor(tables.mel.T.copy(), dtype=torch.float32), persistent=False)

    def power(self, waveform: torch.Tensor) -> torch.Tensor:
        """Mel power before the logarithm, `(batch, frames, n_mels)`."""
        if waveform.ndim != 2:
            raise ShapeError(f"waveform has shape {tuple(waveform.shape)}, wanted (batch, samples)")
        spec = self.spec
        if spec.preemphasis:
            waveform = waveform[:, 1:] - spec.preemphasis * waveform[:, :-1]
        if spec.centre:
            half = spec.n_fft // 2
            waveform = nn.functional.pad(waveform[:, None], (half, half), mode="reflect")[:, 0]
        frames = waveform.unfold(-1, len(self.window), spec.hop_length) * self.window
        spectrum = torch.fft.rfft(frames, n=spec.n_fft)
        power: torch.Tensor = (spectrum.real.square() + spectrum.imag.square()) @ self.mel
        return power

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """See the class docstring; output in the spec's units, `(ln(power + floor) + offset) * scale`."""
        spec = self.spec
        return (torch.log(self.power(waveform) + spec.log_floor) + spec.offset) * spec.scale
