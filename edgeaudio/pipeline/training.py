"""Label, pretrain, distil: the stages that make a student for one fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeaudio.bundle.manifest import Cost
from edgeaudio.catalog import resolve
from edgeaudio.data.clips import Clip
from edgeaudio.data.windows import AugmentSpec
from edgeaudio.distill.losses import TaskKind
from edgeaudio.distill.module import DistillData, TrainSpec, WindowSet
from edgeaudio.distill.train import load_body, load_student, save_student, train_student
from edgeaudio.errors import ConfigError
from edgeaudio.pipeline.arms import ArmPlan, arm_plan
from edgeaudio.pipeline.labelling import LabelPlan, fill_store, joined, read_store, split_held_out, store_schema
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.seeds import seeded
from edgeaudio.pipeline.teaching import FoldTeacher, fold_plan, whole_clip_logits
from edgeaudio.pipeline.workdir import StageResult
from edgeaudio.spec import FrontendSpec
from edgeaudio.students.cost import student_cost
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import StudentSpec
from edgeaudio.teachers.base import Teacher
from edgeaudio.teachers.inherit import inherit_blocks
from edgeaudio.teachers.mn04 import MN04

STUDENT_FILE = "student.safetensors"
STORE_FILE = "labels.store"


@dataclass(frozen=True)
class ChainLink:
    """A network on the way to the one that is shipped; what each step cost is measured between two of them."""

    name: str
    network: nn.Module
    cost: Cost


@dataclass(frozen=True)
class TrainedStudent:
    """One arm's student of one fold, with the folder of its logs and the networks that it came from."""

    arm: str
    fold: int
    network: nn.Module
    cost: Cost
    weights_sha256: str
    folder: Path
    wall_s: float
    chain: tuple[ChainLink, ...] = ()


def build_student(context: Context, n_classes: int, spec: StudentSpec | None = None) -> nn.Module:
    """A fresh student of the recipe (or of `spec`), from the recipe's seed."""
    recipe = context.recipe
    chosen = spec or recipe.student
    family = resolve("students", chosen.family)
    student: nn.Module = seeded(
        recipe.seed,
        lambda: family.build(chosen, n_classes, n_mels=recipe.frontend.n_mels, frames=recipe.window.frames),
    )
    return student


@dataclass(frozen=True)
class LabelledStore:
    """A filled label store and the clips that its windows were made from, in the store's order."""

    stage: StageResult
    clips: tuple[Clip, ...]

    @property
    def sha256(self) -> str:
        """Digest of the store's bytes."""
        return self.stage.outputs[STORE_FILE]

    @property
    def path(self) -> Path:
        """The store."""
        return self.stage.output(STORE_FILE)


@dataclass(frozen=True)
class FoldStores:
    """What a fold's students learn from."""

    labelled: LabelledStore
    unlabelled: tuple[LabelledStore, ...] = ()


def label_fold(context: Context, prepared: Prepared, teacher: Teacher, fold: int) -> LabelledStore:
    """The label store of a fold's training windows."""
    plan = fold_plan(context, prepared, fold)
    stage = _label_stage(context, plan, teacher, f"label-fold{fold}", f"fold {fold}: teacher labels windows")
    return LabelledStore(stage, prepared.train_clips(fold))


def label_unlabelled(context: Context, prepared: Prepared, teacher: Teacher, fold: int) -> tuple[LabelledStore, ...]:
    """The label stores of sounds without labels: the folder's, and training clips whose labels are not used."""
    recipe = context.recipe
    found = []
    if prepared.unlabelled is not None and recipe.windows.unlabelled_count:
        clips = tuple(sorted(prepared.unlabelled.clips, key=lambda clip: clip.id))
        # The same seed for all folds: one store serves them all when their teacher is the same.
        plan = _unlabelled_plan(context, prepared, teacher, clips, recipe.windows.unlabelled_count)
        stage = _label_stage(context, plan, teacher, "label-unlabelled", "teacher labels unlabelled windows")
        found.append(LabelledStore(stage, clips))
    rest = prepared.rest_clips(fold)
    if rest:
        plan = _unlabelled_plan(context, prepared, teacher, rest, recipe.windows.count)
        title = f"fold {fold}: teacher labels windows of unlabelled training clips"
        found.append(LabelledStore(_label_stage(context, plan, teacher, f"label-rest-fold{fold}", title), rest))
    return tuple(found)


def _unlabelled_plan(
    context: Context, prepared: Prepared, teacher: Teacher, clips: Sequence[Clip], count: int
) -> LabelPlan:
    recipe = context.recipe
    return LabelPlan(
        prepared.cache(teacher.frontend.sample_rate),
        clips,
        None,
        # Near-silence teaches nothing where no label says so.
        augment=AugmentSpec(**{**recipe.windows.augment.model_dump(), "silence": 0.0}),
        window=recipe.window,
        frontend=recipe.frontend,
        count=count,
        seed=recipe.windows_seed + 1,
    )


def _label_stage(context: Context, plan: LabelPlan, teacher: Teacher, name: str, title: str) -> StageResult:
    inputs = {
        "teacher": teacher.digest,
        "frontend": plan.frontend.digest(),
        "plan": plan.digest,
        "count": plan.count,
        "fields": [field.name for field in store_schema(plan, teacher).fields],
    }

    def label(folder: Path) -> dict[str, int]:
        fill_store(folder / STORE_FILE, plan, teacher, context.progress, title)
        return {"windows": plan.count}

    return context.work.run_stage(name, inputs, label)


def train_fold(
    context: Context, prepared: Prepared, teacher: FoldTeacher, stores: FoldStores, fold: int, arm: str
) -> TrainedStudent:
    """Train one arm of `arms.arm_plan` on a fold."""
    recipe, task = context.recipe, prepared.dataset.task
    plan = arm_plan(recipe, arm)
    student = build_student(context, len(task.labels), plan.student)
    cost = student_cost(student, recipe.frontend, recipe.window)  # type: ignore[arg-type]
    inputs: dict[str, Any] = {
        "labels": stores.labelled.sha256,
        "student": plan.student.changed(),
        "family": plan.student.family,
        "seed": recipe.seed,
        "held_out": recipe.windows.held_out,
        "kind": task.kind,
        "arm": arm,
        "train": plan.train.changed(),
    } | _threads(context)
    if plan.starts_from_teacher:
        inputs["start"] = _start_from(student, teacher.base, recipe.frontend)
    if plan.pretrain is not None:
        pretrained = _pretrain(context, student, stores, plan)
        # Without the head: pretraining leaves it alone, and tasks with other classes share one pretraining.
        load_body(student, pretrained.output(STUDENT_FILE))
        inputs["pretrained"] = pretrained.outputs[STUDENT_FILE]
    if plan.taught:
        inputs |= {"head": recipe.teacher.head_c, "view": teacher.view}
    if plan.train.unlabelled_share:
        inputs["unlabelled"] = [store.sha256 for store in stores.unlabelled]

    def train(folder: Path) -> dict[str, Any]:
        data = distill_data(context, prepared, teacher, stores, plan)
        train_into(context, student, data, plan.train, task.kind, folder)
        return {"fold": fold, "arm": arm, "windows_seen": plan.train.windows_seen}

    result = context.work.run_stage(f"distill-fold{fold}-{arm}", inputs, train)
    load_student(student, result.output(STUDENT_FILE))
    return TrainedStudent(arm, fold, student, cost, result.outputs[STUDENT_FILE], result.folder, result.wall_s)


def distill_data(
    context: Context, prepared: Prepared, teacher: FoldTeacher, stores: FoldStores, plan: ArmPlan
) -> DistillData:
    """Training, held-out and unlabelled windows of a fold as the arm sees them."""

    def read(store: LabelledStore, what: str) -> WindowSet:
        if not plan.taught:
            return read_store(store.path, None)
        clip_logits = whole_clip_logits(context, prepared, teacher, store.clips, f"teacher on {what}, whole clips")
        return read_store(store.path, lambda fields: teacher.task_logits(fields, clip_logits))

    training, held_out = split_held_out(read(stores.labelled, "training clips"), context.recipe.windows.held_out)
    unlabelled = None
    if plan.train.unlabelled_share:
        unlabelled = joined([read(store, "unlabelled clips") for store in stores.unlabelled])
    return DistillData(training, held_out, unlabelled)


def _start_from(student: nn.Module, teacher: Teacher, frontend: FrontendSpec) -> str:
    """Give the student the teacher's first blocks; the digest of where they came from.

    Raises:
        ConfigError: the teacher has none that fit.
    """
    network = getattr(teacher, "network", None)
    if not isinstance(network, MN04) or not isinstance(student, MN):
        raise ConfigError(
            f"student.initial: teacher needs mn04's blocks, and the teacher is {teacher.name}. Use initial: random."
        )
    inherit_blocks(student, network, frontend)
    return teacher.digest


def _pretrain(context: Context, student: nn.Module, stores: FoldStores, plan: ArmPlan) -> StageResult:
    """Train a student on the teacher's view of unlabelled windows; shared by folds with the same teacher."""
    recipe, spec = context.recipe, plan.pretrain
    assert spec is not None
    store = stores.unlabelled[0]
    inputs = {
        "labels": store.sha256,
        "student": plan.student.changed(),
        "family": plan.student.family,
        "start": plan.starts_from_teacher,
        "train": spec.changed(),
        "held_out": recipe.windows.held_out,
        "seed": recipe.seed,
    } | _threads(context)

    def train(folder: Path) -> dict[str, Any]:
        training, held_out = split_held_out(read_store(store.path, None), recipe.windows.held_out)
        train_into(context, student, DistillData(training, held_out), spec, "single_label", folder)
        return {"windows_seen": spec.windows_seen}

    return context.work.run_stage("pretrain", inputs, train)


def _threads(context: Context) -> dict[str, int]:
    """Several threads add in another order than one, so their number decides the bits of a training."""
    return {"threads": context.recipe.threads} if context.recipe.threads > 1 else {}


def train_into(
    context: Context, student: nn.Module, data: DistillData, spec: TrainSpec, kind: TaskKind, folder: Path
) -> nn.Module:
    """Train `student` in a stage's folder and write its weights there; returns the trained one."""
    trained = train_student(
        student,
        data,
        spec,
        kind=kind,
        frontend=context.recipe.frontend,
        seed=context.recipe.seed,
        folder=folder,
        progress_bar=context.progress_bar,
    )
    save_student(trained, folder / STUDENT_FILE)
    return trained
