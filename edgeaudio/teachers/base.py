"""What every teacher is: audio in, AudioSet-or-task logits and an embedding out."""

from __future__ import annotations

from typing import Protocol

import torch

from edgeaudio.spec import FrontendSpec, LabelSet


class Teacher(Protocol):
    """A frozen foundation model. `digest` identifies weights and code revision for the label store."""

    name: str
    licence: str
    frontend: FrontendSpec
    labels: LabelSet
    embedding_dim: int

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides its outputs."""
        ...

    def embed(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, samples)` float32 at `frontend.sample_rate` -> embedding `(batch, embedding_dim)`, logits."""
        ...
