"""Named, combinable loss terms of distillation. Every term is a mean over the batch."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from edgeaudio.spec import Spec

TaskKind = Literal["single_label", "multi_label"]


class LossWeights(Spec):
    """Weight of each term; a term of weight 0 is not computed.

    `labels`: cross-entropy with the (mixed) labels. `logits`: the teacher's task logits, softened by
    `temperature` (Hinton et al., arXiv 1503.02531). `embedding`: MSE to the teacher's standardised
    embedding through a linear layer that is dropped afterwards. `foundation_logits`: MSE to the
    teacher's own standardised logits (AudioSet), for pretraining without labels.
    """

    labels: float = Field(0.1, ge=0)
    logits: float = Field(0.9, ge=0)
    embedding: float = Field(1.0, ge=0)
    foundation_logits: float = Field(0.0, ge=0)
    temperature: float = Field(3.0, gt=0)

    @property
    def uses_teacher(self) -> bool:
        """Whether any term needs teacher outputs."""
        return bool(self.logits or self.embedding or self.foundation_logits)


def label_loss(logits: torch.Tensor, target: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    """Cross-entropy with soft labels, or binary cross-entropy per class. Both `(batch, classes)`."""
    if kind == "single_label":
        return F.cross_entropy(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def logit_distillation_loss(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float, kind: TaskKind
) -> torch.Tensor:
    """Soft-target loss, `temperature**2` times KL (or BCE) so that its gradients keep their size."""
    if kind == "single_label":
        student = F.log_softmax(logits / temperature, dim=-1)
        teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    soft = torch.sigmoid(teacher_logits / temperature)
    return F.binary_cross_entropy_with_logits(logits / temperature, soft) * temperature**2
