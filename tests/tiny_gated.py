"""A student of a few hundred weights with all that int8 treats apart: a residual, a gate between 0 and 1, a mean."""

from __future__ import annotations

import functools

import torch
from torch import nn

from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq

FRAMES, N_MELS, CLASSES, CHANNELS = 12, 16, 3, 8


class Gated(nn.Module):
    """`(batch, FRAMES, N_MELS)` -> `(batch, CLASSES)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, stride=2)
        self.block = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.gate = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        first = self.stem(log_mel.unsqueeze(1)).relu()
        second = (self.block(first) + first).relu()
        gated = second * self.gate(second).sigmoid()
        logits: torch.Tensor = self.head(gated.mean((2, 3)))
        return logits


@functools.cache
def gated() -> nn.Module:
    torch.manual_seed(0)
    return Gated().eval()


def windows(n: int, *, seed: int = 1) -> torch.Tensor:
    """`(n, FRAMES, N_MELS)` of several levels, mostly below 0."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(n, 1, 1, generator=generator) - 1
    return level + torch.randn(n, FRAMES, N_MELS, generator=generator)


@functools.cache
def quantised() -> QuantisedStudent:
    return quantise_ptq(gated(), windows(48), symmetric=True)
