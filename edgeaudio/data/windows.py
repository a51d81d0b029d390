"""Training windows made from clips: crops, speed, splices, mixes, equalising, near-silence.

A window is a pure function of (clips, spec, seed, index), so that labelling can stop and go on anywhere.
It is made at the teacher's sample rate with a margin; the student hears the same audio, resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgeaudio.data.rooms import reverberate, room_response
from edgeaudio.errors import DataError
from edgeaudio.spec import FrontendSpec, Spec, WindowSpec

Float32 = NDArray[np.float32]

# Audio on each side of a window that only the resampler sees, so that window edges are clean.
MARGIN_S = 0.02
# A crop is taken where the clip is within this many dB of its own loudest part.
ACTIVE_RANGE_DB = 50.0
SPLICE_FADE_S = 0.02
_ROOM_STREAM = 1
# Most clips in one window (`AugmentSpec.mix3`).
MAX_SOURCES = 3


class AugmentSpec(Spec):
    """How training windows are varied. Probabilities are per window."""

    speeds: tuple[float, ...] = (0.7, 0.85, 0.92, 1.0, 1.0, 1.08, 1.18, 1.4)
    reverse: float = Field(0.1, ge=0, le=1)
    splice: float = Field(0.25, ge=0, le=1, description="two crops of the same clip, cross-faded")
    mix2: float = Field(0.4, ge=0, le=1, description="two clips, weights ~ beta(mix_beta, mix_beta)")
    mix3: float = Field(0.1, ge=0, le=1, description="three clips")
    mix_beta: float = Field(0.5, gt=0)
    equalise: float = Field(0.5, ge=0, le=1, description="random smooth equaliser")
    equalise_db: float = Field(9.0, ge=0, le=40)
    room: float = Field(0.0, ge=0, le=1, description="in a random simulated room")
    gain_db: float = Field(12.0, ge=0, le=60)
    silence: float = Field(0.03, ge=0, le=1, description="near-silent windows with a uniform target")

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if not self.speeds or not all(0.25 <= speed <= 4 for speed in self.speeds):
            raise ValueError(f"speeds must be one or more factors from 0.25 to 4, given {self.speeds}")
        if self.mix2 + self.mix3 > 1:
            raise ValueError(f"mix2 + mix3 is {self.mix2 + self.mix3}, a share above 1")
        return self


class ClipSource(Protocol):
    """Decoded clips at one sample rate, with their targets."""

    sample_rate: int

    def __len__(self) -> int: ...

    def waveform(self, index: int) -> Float32:
        """`(samples,)`."""
        ...

    def target(self, index: int) -> Float32:
        """`(classes,)`: one-hot or multi-hot; empty for unlabelled clips."""
        ...

    @property
    def silence_target(self) -> Float32:
        """`(classes,)`: uniform for single-label tasks, zeros for multi-label ones."""
        ...


@dataclass(frozen=True)
class TrainingWindow:
    """`waveform` at the source's rate with margins on both sides; `target (classes,)`.

    `silent` windows hold no class: what a teacher says about them is not taught. `sources` are the clips in it,
    by their position in the source, each with its share.
    """

    waveform: Float32
    target: Float32
    silent: bool = False
    sources: tuple[tuple[int, float], ...] = ()


class WindowMaker:
    """Makes window `index` of a set, the same in every process."""

    def __init__(
        self, source: ClipSource, augment: AugmentSpec, window: WindowSpec, frontend: FrontendSpec, seed: int
    ) -> None:
        if len(source) == 0:
            raise DataError("no usable clip to make training windows from")
        self.source, self.augment, self.seed = source, augment, seed
        self.rate = source.sample_rate
        self.margin = round(MARGIN_S * self.rate)
        self.core_samples = round(window.n_samples(frontend) * self.rate / frontend.sample_rate)
        self.total_samples = self.core_samples + 2 * self.margin
        self.student_rate = frontend.sample_rate
        self.student_samples = window.n_samples(frontend)
        self._active: dict[int, NDArray[np.int64]] = {}

    def make(self, index: int) -> TrainingWindow:
        """The window of that index (any non-negative number)."""
        rng = np.random.default_rng([self.seed, index])
        augment = self.augment
        # Going round the clips in order keeps every epoch of windows balanced.
        first = index % len(self.source)
        if rng.random() < augment.silence:
            return self._silence(rng)
        draw = rng.random()
        n_clips = 3 if draw < augment.mix3 else 2 if draw < augment.mix3 + augment.mix2 else 1
        indices = [first, *(int(i) for i in rng.integers(len(self.source), size=n_clips - 1))]
        parts = [self._varied_crop(i, rng) for i in indices]
        waveform, weights = _mix(parts, augment.mix_beta, rng)
        target = np.zeros_like(self.source.target(first))
        for i, weight in zip(indices, weights, strict=True):
            target += np.float32(weight) * self.source.target(i)
        if rng.random() < augment.equalise:
            waveform = _equalise(waveform, augment.equalise_db, rng)
        if augment.room:
            # Draws of its own: without rooms, windows are what they were before there were any.
            room_rng = np.random.default_rng([self.seed, index, _ROOM_STREAM])
            if room_rng.random() < augment.room:
                waveform = reverberate(waveform, room_response(room_rng, self.rate))
        gain = 10 ** (rng.uniform(-augment.gain_db, augment.gain_db) / 20)
        waveform = np.clip(waveform * np.float32(gain), -1, 1)
        sources = tuple(zip(indices, (float(weight) for weight in weights), strict=True))
        return TrainingWindow(waveform.astype(np.float32), target, sources=sources)

    def teacher_waveforms(self, windows: Sequence[TrainingWindow]) -> Float32:
        """`(n, samples)` at the source's rate, without margins."""
        return np.stack([window.waveform[self.margin : self.margin + self.core_samples] for window in windows])

    def student_waveforms(self, windows: Sequence[TrainingWindow]) -> Float32:
        """`(n, samples)` at the student's rate, without margins."""
        if self.rate == self.student_rate:
            return self.teacher_waveforms(windows)
        stacked = np.stack([window.waveform for window in windows], axis=1)
        resampled = soxr.resample(stacked, self.rate, self.student_rate, quality="HQ").T
        start = round(self.margin * self.student_rate / self.rate)
        return np.ascontiguousarray(resampled[:, start : start + self.student_samples], dtype=np.float32)

    def _varied_crop(self, clip: int, rng: np.random.Generator) -> Float32:
        """A crop of `total_samples`, at a random speed, perhaps reversed or spliced of two."""
        crop = self._crop(clip, float(rng.choice(self.augment.speeds)), rng)
        if rng.random() < self.augment.splice:
            other = self._crop(clip, float(rng.choice(self.augment.speeds)), rng)
            cut = int(rng.integers(self.total_samples // 4, 3 * self.total_samples // 4))
            fade = round(SPLICE_FADE_S * self.rate)
            ramp = np.clip((np.arange(self.total_samples) - cut) / fade, 0, 1).astype(np.float32)
            crop = crop * (1 - ramp) + other * ramp
        if rng.random() < self.augment.reverse:
            crop = crop[::-1]
        return crop

    def _crop(self, clip: int, speed: float, rng: np.random.Generator) -> Float32:
        waveform = self.source.waveform(clip)
        wanted = int(np.ceil(self.total_samples * speed)) + 8
        if len(waveform) < wanted:
            # Short clips keep a random place inside silence instead of being looped.
            before = int(rng.integers(0, wanted - len(waveform) + 1))
            crop = np.zeros(wanted, dtype=np.float32)
            crop[before : before + len(waveform)] = waveform
        else:
            # Aim at an active moment; it lands anywhere inside the crop.
            centre = int(rng.choice(self._active_samples(clip)))
            start = centre - int(rng.integers(0, wanted))
            start = min(max(start, 0), len(waveform) - wanted)
            crop = np.asarray(waveform[start : start + wanted])
        if speed != 1.0:
            crop = soxr.resample(crop, self.rate * speed, self.rate, quality="MQ")
        if len(crop) < self.total_samples:
            crop = np.pad(crop, (0, self.total_samples - len(crop)))
        return crop[: self.total_samples]

    def _active_samples(self, clip: int) -> NDArray[np.int64]:
        """Sample positions of 20-ms blocks within `ACTIVE_RANGE_DB` of the loudest."""
        known = self._active.get(clip)
        if known is None:
            waveform = self.source.waveform(clip)
            block = max(1, self.rate // 50)
            n_blocks = max(1, len(waveform) // block)
            power = np.square(waveform[: n_blocks * block].reshape(n_blocks, -1)).mean(axis=1)
            active = np.flatnonzero(power >= power.max() * 10 ** (-ACTIVE_RANGE_DB / 10))
            known = self._active[clip] = active.astype(np.int64) * block
        return known

    def _silence(self, rng: np.random.Generator) -> TrainingWindow:
        """Digital silence or faint noise."""
        level = 0.0 if rng.random() < 0.5 else 10 ** (rng.uniform(-100, -70) / 20)
        waveform = (level * rng.standard_normal(self.total_samples)).astype(np.float32)
        return TrainingWindow(waveform, self.source.silence_target, silent=True)


def _mix(parts: list[Float32], beta: float, rng: np.random.Generator) -> tuple[Float32, NDArray[np.float64]]:
    """Weighted sum and its weights, half of the time with parts brought to equal loudness first."""
    if len(parts) == 1:
        return parts[0], np.ones(1)
    weights = rng.dirichlet(np.full(len(parts), beta))
    if rng.random() < 0.5:
        levels = np.array([np.sqrt(np.mean(np.square(part)) + 1e-10) for part in parts])
        parts = [part * np.float32(np.median(levels) / level) for part, level in zip(parts, levels, strict=True)]
    mixed = sum(np.float32(weight) * part for weight, part in zip(weights, parts, strict=True))
    return np.asarray(mixed, dtype=np.float32), weights


def _equalise(waveform: Float32, range_db: float, rng: np.random.Generator) -> Float32:
    """A smooth random equaliser: seven knots over log frequency, linear in dB between them."""
    spectrum = np.fft.rfft(waveform)
    position = np.linspace(1e-3, 1, len(spectrum))
    knots = np.linspace(np.log(1e-3), 0, 7)
    gain_db = np.interp(np.log(position), knots, rng.uniform(-range_db, range_db, size=7))
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), n=len(waveform)).astype(np.float32)
