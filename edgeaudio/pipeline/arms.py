"""The arms of a run: the student as the recipe says, on labels alone, and without each part that a teacher brings.

All arms see as many windows in batches of one size, so that what differs between two is the part alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeaudio.distill.losses import LossWeights
from edgeaudio.distill.module import TrainSpec
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.students.spec import MNSpec, StudentSpec

DISTILLED, LABELS_ONLY = "distilled", "labels-only"
_WITHOUT = "without-"


@dataclass(frozen=True)
class ArmPlan:
    """How one arm is trained.

    student: its network; `starts_from_teacher` whether its first weights are the teacher's blocks.
    pretrain: on unlabelled windows, or None.
    """

    student: StudentSpec
    pretrain: TrainSpec | None
    train: TrainSpec

    @property
    def starts_from_teacher(self) -> bool:
        """Whether the student's first weights are the teacher's."""
        return isinstance(self.student, MNSpec) and self.student.initial == "teacher"

    @property
    def taught(self) -> bool:
        """Whether any term of the training needs the teacher's answers."""
        return self.train.loss.uses_teacher

    @property
    def uses_teacher(self) -> bool:
        """Whether the student owes the teacher anything: answers, a pretraining, or first weights."""
        return self.taught or self.pretrain is not None or self.starts_from_teacher

    @property
    def uses_unlabelled(self) -> bool:
        """Whether sounds without labels are heard."""
        return self.pretrain is not None or self.train.unlabelled_share > 0


def arms(recipe: Recipe) -> tuple[str, ...]:
    """The arms of a recipe in the order of training."""
    controls = (LABELS_ONLY,) if recipe.control else ()
    return (DISTILLED, *controls, *(f"{_WITHOUT}{part}" for part in recipe.ablate))


def arm_plan(recipe: Recipe, arm: str) -> ArmPlan:
    """What the recipe means for one of its arms."""
    full = ArmPlan(recipe.student, recipe.pretrain, recipe.train)
    if arm == DISTILLED:
        return full
    if arm == LABELS_ONLY:
        loss = LossWeights(labels=1, logits=0, embedding=0)
        return _without_pool(_from_scratch(_with_loss(full, loss)))
    return _WITHOUT_PART[arm.removeprefix(_WITHOUT)](full)


def _from_scratch(plan: ArmPlan) -> ArmPlan:
    """Random first weights, which then all have to learn."""
    if not isinstance(plan.student, MNSpec):
        return plan
    return replace(plan, student=plan.student.model_copy(update={"initial": "random", "frozen": 0}))


def _without_logits(plan: ArmPlan) -> ArmPlan:
    # The labels take over their weight, so that the other terms keep their share.
    loss = plan.train.loss
    loss = loss.model_copy(update={"logits": 0.0, "labels": loss.labels + loss.logits})
    return _pretrained_without(_with_loss(plan, loss), ("foundation_logits",))


def _without_embedding(plan: ArmPlan) -> ArmPlan:
    terms = ("embedding", "relational_distance", "relational_angle")
    loss = plan.train.loss.model_copy(update=dict.fromkeys(terms, 0.0))
    return _pretrained_without(_with_loss(plan, loss), terms)


def _without_pool(plan: ArmPlan) -> ArmPlan:
    train = plan.train.model_copy(update={"unlabelled_share": 0.0, "semi": None})
    return _without_pretraining(replace(plan, train=train))


def _pretrained_without(plan: ArmPlan, terms: tuple[str, ...]) -> ArmPlan:
    if plan.pretrain is None:
        return plan
    loss = plan.pretrain.loss.model_copy(update=dict.fromkeys(terms, 0.0))
    if not loss.uses_teacher:
        return _without_pretraining(plan)
    return replace(plan, pretrain=plan.pretrain.model_copy(update={"loss": loss}))


def _without_pretraining(plan: ArmPlan) -> ArmPlan:
    """The windows of pretraining are seen in training instead."""
    seen = plan.train.windows_seen + (plan.pretrain.windows_seen if plan.pretrain else 0)
    return replace(plan, pretrain=None, train=plan.train.model_copy(update={"windows_seen": seen}))


def _with_loss(plan: ArmPlan, loss: LossWeights) -> ArmPlan:
    return replace(plan, train=plan.train.model_copy(update={"loss": loss}))


_WITHOUT_PART: dict[str, Callable[[ArmPlan], ArmPlan]] = {
    "blocks": _from_scratch,
    "embedding": _without_embedding,
    "logits": _without_logits,
    "pool": _without_pool,
}
