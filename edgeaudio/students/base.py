"""What every student is: stages in time order, an embedding, a head, and its computed cost."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Student(Protocol):
    """A network over one window. Valid in time: no zero padding along frames anywhere.

    Modules `stages: nn.ModuleList` and `head: nn.Linear` exist so that exits can be added later.
    """

    stages: nn.ModuleList
    head: nn.Linear
    #: Channels of the pooled embedding.
    embedding_dim: int
    #: Frames that one output step of the last stage covers, and frames between two such steps.
    receptive_field_frames: int
    time_stride_frames: int

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> pooled embedding `(batch, embedding_dim)`."""
        ...

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> logits `(batch, classes)`."""
        ...
