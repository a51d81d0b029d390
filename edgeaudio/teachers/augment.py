"""Augmented waveform batches for fine-tuning: every draw is a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgeaudio.teachers.finetune_spec import FinetuneSpec

# ESC-10 clips are padded with digital silence: a window of it says nothing of the clip's class.
_SILENCE_BELOW_PEAK = 10 ** (-60 / 20)
_DRAWS_FOR_SOUND = 8


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The generator of one step: the same for a resumed run as for an unbroken one."""
    return np.random.default_rng(np.random.SeedSequence([seed, step]))


@dataclass(frozen=True)
class Batch:
    """`waveform (batch, samples)`, soft `targets (batch, classes)`."""

    waveform: torch.Tensor
    targets: torch.Tensor


def draw_batch(
    waveforms: Sequence[torch.Tensor],
    targets: torch.Tensor,
    spec: FinetuneSpec,
    sample_rate: int,
    rng: np.random.Generator,
) -> Batch:
    """Draw windows of one length, shift, scale and mix them.

    Args:
        waveforms: one `(samples,)` per clip, any lengths.
        targets: `(clips, classes)`, one-hot or multi-hot.
    """
    window = spec.windows[rng.choice(len(spec.windows), p=[w.probability for w in spec.windows])]
    n_samples = round(window.duration_s * sample_rate)
    clips = rng.integers(len(waveforms), size=window.batch)
    gains = 10 ** (rng.uniform(-spec.gain_db, spec.gain_db, size=window.batch) / 20)
    rows = [float(gain) * _cut(waveforms[clip], n_samples, rng) for clip, gain in zip(clips, gains, strict=True)]
    waveform, labels = torch.stack(rows), targets[torch.from_numpy(clips)]
    if spec.mixup_beta > 0:
        draws = rng.beta(spec.mixup_beta, spec.mixup_beta, size=window.batch)
        share = torch.from_numpy(np.maximum(draws, 1 - draws).astype(np.float32))[:, None]
        partner = torch.from_numpy(rng.permutation(window.batch))
        waveform = share * waveform + (1 - share) * waveform[partner]
        labels = share * labels + (1 - share) * labels[partner]
    return Batch(waveform, labels)


def _cut(clip: torch.Tensor, n_samples: int, rng: np.random.Generator) -> torch.Tensor:
    """A circular cut: a crop where the clip is longer, a roll where it is as long, tiled where shorter."""
    audible = float(clip.abs().max()) * _SILENCE_BELOW_PEAK
    for _ in range(_DRAWS_FOR_SOUND):
        start = int(rng.integers(len(clip)))
        if start + n_samples <= len(clip):
            cut = clip[start : start + n_samples]
        else:
            cut = clip[torch.arange(start, start + n_samples) % len(clip)]
        if float(cut.abs().max()) > audible:
            break
    return cut
