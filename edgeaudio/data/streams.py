"""Streams made from labelled clips: what smoothing and thresholds are fitted on, as single windows have no order.

Each is a few clips of one run after another, pauses of faint noise between them, with another clip far below. A
stream is a pure function of (clips, seed, index).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeaudio.data.windows import ACTIVE_RANGE_DB, ClipSource, Float32

CLIPS_PER_STREAM = 4
_PAUSE_S = (0.5, 2.5)
# Of the second clip against the one that the labels name: as loud as in training mixes would name it too.
_BACKGROUND_DB = (-24.0, -10.0)
_GAIN_DB = 9.0
_NOISE_DB = -60.0
_BLOCK_S = 0.1


@dataclass(frozen=True)
class LabelledStream:
    """`waveform (samples,)`, and per sample the index of the clip that its label comes from, -1 for none."""

    waveform: Float32
    clip: NDArray[np.int32]


def make_stream(source: ClipSource, seed: int, index: int) -> LabelledStream:
    """The stream `index` of `seed` from clips of `source`."""
    rng = np.random.default_rng([seed, index])
    parts: list[Float32] = []
    owners: list[NDArray[np.int32]] = []
    for clip in rng.choice(len(source), size=CLIPS_PER_STREAM, replace=len(source) < CLIPS_PER_STREAM):
        pause = int(rng.uniform(*_PAUSE_S) * source.sample_rate)
        sound = _over_background(source, int(clip), rng)
        parts += [np.zeros(pause, np.float32), sound]
        heard = np.where(_active(source.waveform(int(clip)), source.sample_rate), np.int32(clip), np.int32(-1))
        owners += [np.full(pause, -1, np.int32), heard]
    waveform = np.concatenate(parts)
    noise = 10 ** (_NOISE_DB / 20) * rng.standard_normal(len(waveform))
    return LabelledStream((waveform + noise).astype(np.float32), np.concatenate(owners))


def _over_background(source: ClipSource, clip: int, rng: np.random.Generator) -> Float32:
    sound = source.waveform(clip)
    below = source.waveform(int(rng.integers(len(source))))
    level = 10 ** (rng.uniform(*_BACKGROUND_DB) / 20) * _rms(sound) / max(_rms(below), 1e-9)
    mixed = sound + level * np.resize(below, len(sound))
    gain = 10 ** (rng.uniform(-_GAIN_DB, _GAIN_DB) / 20)
    # Recordings clip at full scale, and so does a microphone.
    return np.clip(gain * mixed, -1, 1).astype(np.float32)


def _rms(waveform: Float32) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0


def _active(waveform: Float32, sample_rate: int) -> NDArray[np.bool_]:
    """Per sample, whether its block is within reach of the clip's loudest: clips are padded with silence."""
    block = max(1, int(_BLOCK_S * sample_rate))
    padded = np.pad(waveform, (0, -len(waveform) % block)).reshape(-1, block)
    power = np.square(padded, dtype=np.float64).mean(axis=1)
    loud = power > power.max(initial=0.0) * 10 ** (-ACTIVE_RANGE_DB / 10)
    return np.repeat(loud, block)[: len(waveform)]
