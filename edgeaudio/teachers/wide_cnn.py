"""`wide-cnn`: a teacher for those who have no foundation model: a large DSCNN trained on the task itself.

The demo uses it, because the built-in sounds need no download. It is trained per fold by the pipeline.
"""

from __future__ import annotations

import torch

from edgeaudio.spec import FrontendSpec, LabelSet, digest_json
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.frontend import LogMel
from edgeaudio.teachers.weights import state_digest


class WideCNNTeacher:
    """`edgeaudio.teachers.base.Teacher` over a trained `DSCNN`; its logits are task logits."""

    name = "wide-cnn"
    licence = "that of the training data"

    def __init__(self, network: DSCNN, frontend: FrontendSpec, labels: LabelSet) -> None:
        self.frontend, self.labels = frontend, labels
        self.embedding_dim = network.embedding_dim
        self.network = network.eval().requires_grad_(False)
        self._log_mel = LogMel(frontend)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the weights, the front-end and the labels."""
        parts = [self.frontend.digest(), self.labels.digest(), state_digest(self.network.state_dict())]
        return digest_json(parts)

    @torch.no_grad()
    def embed(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, samples)` of one window or longer -> embedding `(batch, embedding_dim)`, task logits."""
        features = self.network.forward_features(self._log_mel(waveform))
        return features, self.network.head(features)
