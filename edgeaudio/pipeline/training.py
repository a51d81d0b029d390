"""Label, pretrain, distil: the stages that make a student for one fold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeaudio.bundle.manifest import Cost
from edgeaudio.catalog import resolve
from edgeaudio.data.windows import AugmentSpec
from edgeaudio.distill.losses import LossWeights
from edgeaudio.distill.module import DistillData, TrainSpec, WindowSet
from edgeaudio.distill.train import load_body, load_student, save_student, train_student
from edgeaudio.pipeline.labelling import LabelPlan, fill_store, read_store, split_held_out
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.seeds import seeded
from edgeaudio.pipeline.teaching import FoldTeacher, fold_plan
from edgeaudio.pipeline.workdir import StageResult
from edgeaudio.students.cost import student_cost
from edgeaudio.teachers.base import Teacher

STUDENT_FILE = "student.safetensors"
DISTILLED, LABELS_ONLY = "distilled", "labels-only"


@dataclass(frozen=True)
class TrainedStudent:
    """One arm's student of one fold, with the folder of its logs."""

    arm: str
    fold: int
    network: nn.Module
    cost: Cost
    weights_sha256: str
    folder: Path
    wall_s: float


def build_student(context: Context, n_classes: int) -> nn.Module:
    """A fresh student of the recipe, from the recipe's seed."""
    recipe = context.recipe
    family = resolve("students", recipe.student.family)
    student: nn.Module = seeded(
        recipe.seed,
        lambda: family.build(recipe.student, n_classes, n_mels=recipe.frontend.n_mels, frames=recipe.window.frames),
    )
    return student


def label_fold(context: Context, prepared: Prepared, teacher: Teacher, fold: int) -> StageResult:
    """The label store of a fold's training windows."""
    plan = fold_plan(context, prepared, fold)
    return _label_stage(context, plan, teacher, f"label-fold{fold}", f"fold {fold}: teacher labels windows")


def label_unlabelled(context: Context, prepared: Prepared, teacher: Teacher) -> StageResult:
    """The label store of the unlabelled sounds; one for all folds when the teacher is the same for all."""
    recipe = context.recipe
    assert prepared.unlabelled is not None
    plan = LabelPlan(
        prepared.cache(teacher.frontend.sample_rate),
        sorted(prepared.unlabelled.clips, key=lambda clip: clip.id),
        None,
        # Near-silence teaches nothing where no label says so.
        augment=AugmentSpec(**{**recipe.windows.augment.model_dump(), "silence": 0.0}),
        window=recipe.window,
        frontend=recipe.frontend,
        count=recipe.windows.unlabelled_count,
        seed=recipe.seed + 1,
    )
    return _label_stage(context, plan, teacher, "label-unlabelled", "teacher labels unlabelled windows")


def _label_stage(context: Context, plan: LabelPlan, teacher: Teacher, name: str, title: str) -> StageResult:
    inputs = {
        "teacher": teacher.digest,
        "frontend": plan.frontend.digest(),
        "plan": plan.digest,
        "count": plan.count,
    }

    def label(folder: Path) -> dict[str, int]:
        fill_store(folder / "labels.store", plan, teacher, context.progress, title)
        return {"windows": plan.count}

    return context.work.run_stage(name, inputs, label)


def train_fold(
    context: Context,
    prepared: Prepared,
    teacher: FoldTeacher,
    stores: tuple[StageResult, StageResult | None],
    fold: int,
    arm: str,
) -> TrainedStudent:
    """Train one arm: `distilled` as the recipe says, `labels-only` for as many windows without the teacher."""
    recipe = context.recipe
    student = build_student(context, len(prepared.dataset.task.labels))
    cost = student_cost(student, recipe.frontend, recipe.window)  # type: ignore[arg-type]
    labelled_store, unlabelled_store = stores
    spec = recipe.train
    inputs: dict[str, Any] = {
        "labels": labelled_store.outputs["labels.store"],
        "student": recipe.student.model_dump(mode="json"),
        "seed": recipe.seed,
        "held_out": recipe.windows.held_out,
        "kind": prepared.dataset.task.kind,
        "arm": arm,
    }
    if arm == LABELS_ONLY:
        extra = recipe.pretrain.windows_seen if recipe.pretrain else 0
        loss = LossWeights(labels=1, logits=0, embedding=0, foundation_logits=0)
        update = {"loss": loss, "unlabelled_share": 0.0, "windows_seen": spec.windows_seen + extra}
        spec = spec.model_copy(update=update)
    else:
        inputs["head"] = recipe.teacher.head_c
        if recipe.pretrain is not None:
            assert unlabelled_store is not None
            pretrained = _pretrain(context, student, unlabelled_store, recipe.pretrain)
            # Without the head: pretraining leaves it alone, and tasks with other classes share one pretraining.
            load_body(student, pretrained.output(STUDENT_FILE))
            inputs["pretrained"] = pretrained.outputs[STUDENT_FILE]
        if spec.unlabelled_share:
            assert unlabelled_store is not None
            inputs["unlabelled"] = unlabelled_store.outputs["labels.store"]
    inputs["train"] = spec.model_dump(mode="json")
    inputs |= _threads(context)

    def train(folder: Path) -> dict[str, Any]:
        task_logits = teacher.task_logits if arm == DISTILLED else None
        windows = read_store(labelled_store.output("labels.store"), task_logits)
        unlabelled = None
        if spec.unlabelled_share and unlabelled_store is not None:
            unlabelled = read_store(unlabelled_store.output("labels.store"), task_logits)
        _train_into(context, student, windows, unlabelled, spec, prepared.dataset.task.kind, folder)
        return {"fold": fold, "arm": arm, "windows_seen": spec.windows_seen}

    result = context.work.run_stage(f"distill-fold{fold}-{arm}", inputs, train)
    load_student(student, result.output(STUDENT_FILE))
    return TrainedStudent(arm, fold, student, cost, result.outputs[STUDENT_FILE], result.folder, result.wall_s)


def _pretrain(context: Context, student: nn.Module, store: StageResult, spec: TrainSpec) -> StageResult:
    """Train a student on the teacher's view of unlabelled windows; shared by folds with the same teacher."""
    recipe = context.recipe
    inputs = {
        "labels": store.outputs["labels.store"],
        "student": recipe.student.model_dump(mode="json"),
        "train": spec.model_dump(mode="json"),
        "held_out": recipe.windows.held_out,
        "seed": recipe.seed,
    } | _threads(context)

    def train(folder: Path) -> dict[str, Any]:
        windows = read_store(store.output("labels.store"), None)
        _train_into(context, student, windows, None, spec, "single_label", folder)
        return {"windows_seen": spec.windows_seen}

    return context.work.run_stage("pretrain", inputs, train)


def _threads(context: Context) -> dict[str, int]:
    """Several threads add in another order than one, so their number decides the bits of a training."""
    return {"threads": context.recipe.threads} if context.recipe.threads > 1 else {}


def _train_into(
    context: Context,
    student: nn.Module,
    windows: WindowSet,
    unlabelled: WindowSet | None,
    spec: TrainSpec,
    kind: Any,
    folder: Path,
) -> None:
    training, held_out = split_held_out(windows, context.recipe.windows.held_out)
    trained = train_student(
        student,
        DistillData(training, held_out, unlabelled),
        spec,
        kind=kind,
        frontend=context.recipe.frontend,
        seed=context.recipe.seed,
        folder=folder,
        progress_bar=context.progress_bar,
    )
    save_student(trained, folder / STUDENT_FILE)
