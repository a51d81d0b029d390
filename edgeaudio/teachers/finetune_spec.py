"""`FinetuneSpec`: how a teacher is fine-tuned to a task."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from edgeaudio.spec import Spec


class FinetuneWindow(Spec):
    """A window length, how often it is drawn, and how many are in its batch."""

    duration_s: float = Field(ge=0.1, le=60)
    probability: float = Field(gt=0, le=1)
    batch: int = Field(ge=1, le=4096)


class FinetuneSpec(Spec):
    """AdamW, one cycle, moving average of the weights; short windows mostly, since students hear those."""

    steps: int = Field(450, ge=1, le=1_000_000)
    lr_body: float = Field(1e-4, gt=0, le=1)
    lr_last_layer: float = Field(2e-3, gt=0, le=1)
    weight_decay: float = Field(1e-3, ge=0, le=1)
    ema_decay: float = Field(0.99, ge=0, lt=1)
    windows: tuple[FinetuneWindow, ...] = (
        FinetuneWindow(duration_s=5.0, probability=0.15, batch=8),
        FinetuneWindow(duration_s=2.0, probability=0.30, batch=16),
        FinetuneWindow(duration_s=1.0, probability=0.55, batch=32),
    )
    gain_db: float = Field(12.0, ge=0, le=60, description="uniform in plus or minus this")
    mixup_beta: float = Field(0.3, ge=0, le=100, description="Beta(b, b) of two-clip mixes; 0 is none")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        total = sum(window.probability for window in self.windows)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"windows: probabilities sum to {total}, wanted 1")
        return self
