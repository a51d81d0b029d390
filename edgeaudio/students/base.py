"""What every student is: consecutive sections, an embedding, a head, and its computed cost."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import nn

from edgeaudio.spec import Spec


class Student(Protocol):
    """A network over one window; an `nn.Module`.

    Streamable families are valid in time: no zero padding along frames anywhere.
    """

    head: nn.Linear
    dropout: nn.Dropout
    #: Whether windows that overlap share work, so that a stream can be computed frame by frame.
    streamable: bool
    #: Channels of the pooled embedding.
    embedding_dim: int
    #: Frames that one output step sees, and frames between two such steps; the whole window where not streamable.
    receptive_field_frames: int
    time_stride_frames: int
    #: Channels of what each section gives; the last is `embedding_dim`.
    section_channels: tuple[int, ...]

    @classmethod
    def build(cls, spec: Spec, n_classes: int, *, n_mels: int, frames: int) -> Self:
        """A fresh student of a family's spec (`students.spec`) for windows of `(frames, n_mels)`."""
        ...

    def sections(self) -> list[nn.Module]:
        """The body as consecutive modules, where exits may be attached and graphs split.

        The first takes `(batch, frames, n_mels)`, each next one what the one before gave, the last gives the
        pooled embedding `(batch, embedding_dim)`. They share their weights with the student.
        """
        ...

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """What a section but the last gave -> its mean over everything but channels, `(batch, channels)`."""
        ...

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> pooled embedding `(batch, embedding_dim)`."""
        ...

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> logits `(batch, classes)`."""
        ...


class ImageInput(nn.Module):
    """`(batch, frames, n_mels)` -> `(batch, 1, frames, n_mels)`, what two-dimensional convolutions take."""

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """See the class docstring."""
        return log_mel.unsqueeze(1)


class MeanPool(nn.Module):
    """`(batch, channels, time, freq)` -> `(batch, channels)`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """See the class docstring."""
        return hidden.mean(dim=(2, 3))
