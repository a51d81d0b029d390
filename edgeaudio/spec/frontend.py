"""`FrontendSpec`: a log-mel front-end as data. `edgeaudio.frontend.tables` turns it into numbers."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from edgeaudio.spec import limits
from edgeaudio.spec.base import Spec


class FrontendSpec(Spec):
    """A log-mel front-end; the defaults are those of all students (docs/decisions/0001).

    Causal form (`centre=False`): frame t covers samples `[t*hop_length, t*hop_length + win_length)`.
    The output is `(ln(mel_power + log_floor) + offset) * scale`, `(frames, n_mels)`, time first.
    """

    sample_rate: int = Field(16_000, ge=limits.SAMPLE_RATE_MIN_HZ, le=limits.SAMPLE_RATE_MAX_HZ)
    win_length: int = Field(400, ge=2, le=limits.N_FFT, description="samples; symmetric Hann")
    hop_length: int = Field(160, ge=1, le=limits.N_FFT, description="samples")
    n_fft: int = Field(512, ge=2, le=limits.N_FFT)
    n_mels: int = Field(64, ge=1, le=limits.N_MELS)
    f_min: float = Field(60.0, ge=0, description="Hz")
    f_max: float = Field(7_800.0, gt=0, description="Hz")
    preemphasis: float = Field(0.0, ge=0, lt=1, description="y[n] = x[n+1] - p*x[n], one sample shorter; 0 is none")
    centre: bool = Field(False, description="reflect-padded, window centred in n_fft (teachers only: looks ahead)")
    # float32 implementations drift from float64 on a full-scale tone by 1e-1 at 1e-10, by up to
    # 5e-3 at 1e-6 and by less than 3e-4 at 1e-5, which is also the teacher's floor.
    log_floor: float = Field(1e-5, gt=0, le=1)
    offset: float = 6.0
    scale: float = Field(0.25, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if self.f_max > self.sample_rate / 2:
            raise ValueError(f"f_max {self.f_max} Hz is above half of sample_rate {self.sample_rate} Hz")
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min} Hz is not below f_max {self.f_max} Hz")
        return self

    @property
    def n_bins(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.n_fft // 2 + 1

    @property
    def hop_s(self) -> float:
        """Seconds between frames."""
        return self.hop_length / self.sample_rate

    def n_frames(self, n_samples: int) -> int:
        """Whole causal frames in `n_samples`."""
        return max(0, (n_samples - self.win_length) // self.hop_length + 1)

    def n_samples(self, n_frames: int) -> int:
        """Fewest samples that give `n_frames` causal frames."""
        return 0 if n_frames <= 0 else (n_frames - 1) * self.hop_length + self.win_length
