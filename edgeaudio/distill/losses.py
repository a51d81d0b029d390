"""Named, combinable loss terms of distillation. Every term is a mean over the batch.

`TERMS` is the table: a new term is one entry there and its weight in `LossWeights`. The module
(`distill.module`) brings what each term needs; what is missing is refused before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from edgeaudio.spec import Spec

TaskKind = Literal["single_label", "multi_label"]
#: What a term may need beside the student's logits and embedding.
Need = Literal["target", "teacher_logits", "embedding", "foundation_logits", "exits"]
_FROM_TEACHER: frozenset[Need] = frozenset({"teacher_logits", "embedding", "foundation_logits"})

# Angles are between triplets: their cost grows with the cube of the points.
_ANGLE_POINTS = 64


class LossWeights(Spec):
    """Weight of each term; a term of weight 0 is not computed.

    `labels`: cross-entropy with the (mixed) labels. `logits`: the teacher's task logits, softened by
    `temperature` (Hinton et al., arXiv 1503.02531). `embedding`: distance to the teacher's standardised
    embedding through a linear layer that is dropped afterwards. `foundation_logits`: MSE to the
    teacher's own standardised logits (AudioSet), for pretraining without labels.
    `relational_distance`, `relational_angle`: how the windows of a batch lie to each other in the
    teacher's standardised embedding, without a layer between (Park et al., arXiv 1904.05068; 25 and 50
    there). `exit_labels`, `exit_teacher`, `exit_final`: the mean over early exits, each taught by the
    labels, by the teacher's task logits, by the student's own last logits (these stand still).
    """

    labels: float = Field(0.1, ge=0)
    logits: float = Field(0.9, ge=0)
    embedding: float = Field(1.0, ge=0)
    foundation_logits: float = Field(0.0, ge=0)
    temperature: float = Field(3.0, gt=0)
    embedding_kind: Literal["mse", "cosine"] = Field("mse", description="distance of the term embedding")
    relational_distance: float = Field(0.0, ge=0)
    relational_angle: float = Field(0.0, ge=0)
    exit_labels: float = Field(0.0, ge=0)
    exit_teacher: float = Field(0.0, ge=0)
    exit_final: float = Field(0.0, ge=0)

    @property
    def used_terms(self) -> dict[str, Term]:
        """The terms of `TERMS` with a weight above 0, in the table's order."""
        return {name: term for name, term in TERMS.items() if getattr(self, name)}

    @property
    def uses_teacher(self) -> bool:
        """Whether any term needs teacher outputs."""
        return any(_FROM_TEACHER & term.needs for term in self.used_terms.values())

    @property
    def uses_exits(self) -> bool:
        """Whether any term needs the logits of early exits."""
        return any("exits" in term.needs for term in self.used_terms.values())


@dataclass(frozen=True)
class Outcome:
    """What the student gave for `n` windows, and what labels and teacher say of them.

    `logits (n, classes)`, `embedding (n, dim)`, `exits`: logits `(n, classes)` of each early exit.
    `projected`: the student's embedding through the layer of a teacher term. `wanted`, by need:
    `target (labelled, classes)` of the first rows, `teacher_logits (n, classes)`, standardised
    `embedding (n, teacher dim)` and `foundation_logits (n, teacher labels)`.
    """

    kind: TaskKind
    logits: torch.Tensor
    embedding: torch.Tensor
    wanted: Mapping[str, torch.Tensor]
    projected: Mapping[str, torch.Tensor] = field(default_factory=dict)
    exits: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Term:
    """One entry of `TERMS`: the loss of an outcome, and what it needs. `projects`: through a dropped layer."""

    loss: Callable[[Outcome, LossWeights], torch.Tensor]
    needs: frozenset[Need]
    projects: bool = False

    @property
    def labelled_only(self) -> bool:
        """Whether windows without a label say nothing to this term."""
        return "target" in self.needs


def weighted_losses(outcome: Outcome, weights: LossWeights, terms: Mapping[str, Term]) -> dict[str, torch.Tensor]:
    """Each of `terms` times its weight, in their order."""
    return {name: getattr(weights, name) * term.loss(outcome, weights) for name, term in terms.items()}


# Losses of tensors ---------------------------------------------------------------------------


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


def cosine_loss(embedding: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean of `1 - cos` between rows, 0 to 2. Both `(batch, dim)`."""
    return (1 - F.cosine_similarity(embedding, wanted, dim=-1)).mean()


EMBEDDING_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": F.mse_loss,
    "cosine": cosine_loss,
}


def relational_distance_loss(embedding: torch.Tensor, teacher_embedding: torch.Tensor) -> torch.Tensor:
    """Huber loss between the distances of all pairs, each side's in units of its own mean distance.

    `(batch, dim)` and `(batch, teacher dim)`. Moving, turning or scaling either side changes nothing.
    Source: Park et al., arXiv 1904.05068, equation 6; there the mean leaves out distances of 0.
    """
    distances, wanted = _relative_distances(embedding), _relative_distances(teacher_embedding)
    # A last batch of one window has no pair: no loss, rather than the mean of nothing.
    return F.smooth_l1_loss(distances, wanted, reduction="sum") / max(distances.numel(), 1)


def _relative_distances(points: torch.Tensor) -> torch.Tensor:
    distances = F.pdist(points)
    mean = distances.sum() / max(distances.numel(), 1)
    return distances / mean.clamp_min(torch.finfo(points.dtype).tiny)


def relational_angle_loss(embedding: torch.Tensor, teacher_embedding: torch.Tensor) -> torch.Tensor:
    """Huber loss between the cosines of the angles of all triplets of different points.

    `(batch, dim)` and `(batch, teacher dim)`. Moving, turning or scaling either side changes nothing.
    Points that coincide on either side have no angle and are left out.
    Source: Park et al., arXiv 1904.05068, equation 8; there the mean counts the empty triplets too.
    """
    cosines, known = _angle_cosines(embedding)
    teacher_cosines, teacher_known = _angle_cosines(teacher_embedding)
    both = known & teacher_known
    loss = F.smooth_l1_loss(cosines, teacher_cosines, reduction="none")
    return torch.where(both, loss, 0.0).sum() / both.sum().clamp_min(1)


def _angle_cosines(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosine of the angle at `j` between `i` and `k`, whether it exists), both `(j, i, k)`."""
    # By inner products, which need (batch, batch, batch) numbers and not as many vectors.
    centred = points - points.mean(dim=0)
    inner = centred @ centred.T
    norms = inner.diagonal()
    square = norms[:, None] + norms[None, :] - 2 * inner
    # Below 1e-3 of the mean distance, float32 differences of products are noise.
    apart = square > 1e-6 * square.detach().mean()
    length = torch.where(apart, square, 1.0).sqrt()
    towards = inner[None, :, :] - inner[:, :, None] - inner[:, None, :] + norms[:, None, None]
    other = ~torch.eye(len(points), dtype=torch.bool)
    known = apart[:, :, None] & apart[:, None, :] & other[None]
    return towards / (length[:, :, None] * length[:, None, :]), known


# Terms ---------------------------------------------------------------------------------------


def _labels(outcome: Outcome, _weights: LossWeights) -> torch.Tensor:
    target = outcome.wanted["target"]
    return label_loss(outcome.logits[: len(target)], target, outcome.kind)


def _logits(outcome: Outcome, weights: LossWeights) -> torch.Tensor:
    taught = outcome.wanted["teacher_logits"]
    return logit_distillation_loss(outcome.logits, taught, weights.temperature, outcome.kind)


def _embedding(outcome: Outcome, weights: LossWeights) -> torch.Tensor:
    return EMBEDDING_LOSSES[weights.embedding_kind](outcome.projected["embedding"], outcome.wanted["embedding"])


def _foundation_logits(outcome: Outcome, _weights: LossWeights) -> torch.Tensor:
    return F.mse_loss(outcome.projected["foundation_logits"], outcome.wanted["foundation_logits"])


def _relational_distance(outcome: Outcome, _weights: LossWeights) -> torch.Tensor:
    return relational_distance_loss(outcome.embedding, outcome.wanted["embedding"])


def _relational_angle(outcome: Outcome, _weights: LossWeights) -> torch.Tensor:
    every = -(-len(outcome.embedding) // _ANGLE_POINTS)
    return relational_angle_loss(outcome.embedding[::every], outcome.wanted["embedding"][::every])


def _mean_over_exits(outcome: Outcome, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return torch.stack([loss(logits) for logits in outcome.exits]).mean()


def _exit_labels(outcome: Outcome, _weights: LossWeights) -> torch.Tensor:
    target = outcome.wanted["target"]
    return _mean_over_exits(outcome, lambda logits: label_loss(logits[: len(target)], target, outcome.kind))


def _exit_teacher(outcome: Outcome, weights: LossWeights) -> torch.Tensor:
    taught = outcome.wanted["teacher_logits"]
    return _mean_over_exits(
        outcome, lambda logits: logit_distillation_loss(logits, taught, weights.temperature, outcome.kind)
    )


def _exit_final(outcome: Outcome, weights: LossWeights) -> torch.Tensor:
    final = outcome.logits.detach()
    return _mean_over_exits(
        outcome, lambda logits: logit_distillation_loss(logits, final, weights.temperature, outcome.kind)
    )


# The order is part of the bits of a training: losses are added in it.
TERMS: dict[str, Term] = {
    "labels": Term(_labels, frozenset({"target"})),
    "logits": Term(_logits, frozenset({"teacher_logits"})),
    "embedding": Term(_embedding, frozenset({"embedding"}), projects=True),
    "foundation_logits": Term(_foundation_logits, frozenset({"foundation_logits"}), projects=True),
    "relational_distance": Term(_relational_distance, frozenset({"embedding"})),
    "relational_angle": Term(_relational_angle, frozenset({"embedding"})),
    "exit_labels": Term(_exit_labels, frozenset({"target", "exits"})),
    "exit_teacher": Term(_exit_teacher, frozenset({"teacher_logits", "exits"})),
    "exit_final": Term(_exit_final, frozenset({"exits"})),
}
