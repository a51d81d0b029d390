"""Augmentation of log-mel windows while training, on top of what the windows already went through."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn import functional as F

from edgeaudio.spec import FrontendSpec, Spec


class FeatureAugmentSpec(Spec):
    """Cheap log-mel augmentation, drawn per window and step."""

    gain_db: float = Field(4.0, ge=0)
    filter_db: float = Field(3.0, ge=0, description="smooth random filter over frequency (filter-augment)")
    roll: bool = Field(True, description="rotate in time")
    frequency_mask: int = Field(8, ge=0, description="widest mask, bands (SpecAugment)")
    time_mask: int = Field(16, ge=0, description="widest mask, frames (SpecAugment)")


def augment_log_mel(
    log_mel: torch.Tensor, spec: FeatureAugmentSpec, frontend: FrontendSpec, generator: torch.Generator
) -> torch.Tensor:
    """A new `(batch, frames, n_mels)`; all randomness comes from `generator`."""
    batch, frames, n_mels = log_mel.shape

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    # dB of power -> the front-end's units: ln(10)/10 per dB, times its scale.
    per_db = 0.2302585 * frontend.scale
    knots = (uniform(batch, 1, 5) * 2 - 1) * spec.filter_db
    curve = F.interpolate(knots, size=n_mels, mode="linear", align_corners=True)
    shift = (curve + (uniform(batch, 1, 1) * 2 - 1) * spec.gain_db) * per_db
    # Silence stays silence: below the log floor a gain changes nothing.
    floor = (torch.tensor(frontend.log_floor).log() + frontend.offset) * frontend.scale
    x = torch.maximum(log_mel + shift, floor)
    if spec.roll:
        start = (uniform(batch, 1) * frames).long()
        order = (torch.arange(frames)[None, :] + start) % frames
        x = x.gather(1, order[:, :, None].expand(-1, -1, n_mels))
    fill = x.mean(dim=(1, 2), keepdim=True)
    for size, widest, axis in ((n_mels, spec.frequency_mask, 2), (frames, spec.time_mask, 1)):
        width = (uniform(batch, 1) * (widest + 1)).long()
        begin = (uniform(batch, 1) * (size - width + 1)).long()
        position = torch.arange(size)[None, :]
        mask = (position >= begin) & (position < begin + width)
        x = torch.where(mask[:, None, :] if axis == 2 else mask[:, :, None], fill, x)
    return x
