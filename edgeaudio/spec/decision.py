"""`DecisionSpec`: how a stream of probabilities becomes events."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from edgeaudio.spec.base import Spec


class DecisionSpec(Spec):
    """Smoothing, hysteresis and minimum duration of events.

    A class's event starts when its smoothed score reaches `threshold_on` and ends when it falls
    below `threshold_off`; events shorter than `min_duration_s` are dropped.
    """

    smoothing_windows: int = Field(3, ge=1, le=1000, description="moving mean over this many windows")
    threshold_on: float = Field(0.6, ge=0, le=1)
    threshold_off: float = Field(0.4, ge=0, le=1)
    min_duration_s: float = Field(0.4, ge=0, le=3600)

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.threshold_off > self.threshold_on:
            raise ValueError(f"threshold_off {self.threshold_off} is above threshold_on {self.threshold_on}")
        return self
