"""`WindowSpec`: what a student sees at once, and how far it moves."""

from __future__ import annotations

from pydantic import Field

from edgeaudio.spec import limits
from edgeaudio.spec.base import Spec
from edgeaudio.spec.frontend import FrontendSpec


class WindowSpec(Spec):
    """A window of `frames` log-mel frames, moved by `hop_frames`."""

    frames: int = Field(99, ge=1, le=limits.WINDOW_FRAMES)
    hop_frames: int = Field(20, ge=1, le=limits.WINDOW_FRAMES)

    def n_windows(self, n_frames: int) -> int:
        """Whole windows in `n_frames`."""
        return max(0, (n_frames - self.frames) // self.hop_frames + 1)

    def n_samples(self, frontend: FrontendSpec) -> int:
        """Samples that one window covers."""
        return frontend.n_samples(self.frames)

    def hop_samples(self, frontend: FrontendSpec) -> int:
        """Samples between the starts of two windows."""
        return self.hop_frames * frontend.hop_length

    def duration_s(self, frontend: FrontendSpec) -> float:
        """Seconds that one window covers."""
        return self.n_samples(frontend) / frontend.sample_rate

    def hop_s(self, frontend: FrontendSpec) -> float:
        """Seconds between the starts of two windows."""
        return self.hop_samples(frontend) / frontend.sample_rate
