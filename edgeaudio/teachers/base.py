"""What every teacher is: audio in, AudioSet-or-task logits and an embedding out."""

from __future__ import annotations

from typing import Protocol

import torch

from edgeaudio.spec import FrontendSpec, LabelSet


class Teacher(Protocol):
    """A frozen foundation model. `digest` identifies weights and code revision for the label store."""

    licence: str
    frontend: FrontendSpec
    embedding_dim: int

    @property
    def name(self) -> str:
        """As in the catalogue."""
        ...

    @property
    def labels(self) -> LabelSet:
        """What the logits of `embed` mean."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides its outputs."""
        ...

    def embed(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, samples)` float32 at `frontend.sample_rate` -> embedding `(batch, embedding_dim)`, logits."""
        ...
