"""Run a recipe: every stage for every test fold, in a resumable work directory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeaudio.errors import ConfigError, closest_match_hint
from edgeaudio.pipeline.arms import DISTILLED, LABELS_ONLY, arms
from edgeaudio.pipeline.compressing import exits_stage, prune_stage
from edgeaudio.pipeline.labelling import read_store
from edgeaudio.pipeline.packing import export_stage, quantise_stage
from edgeaudio.pipeline.prepare import Context, Prepared, Progress, prepare
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.stepping import check_steps
from edgeaudio.pipeline.summary import ArmResult, FoldResult, RunSummary, SkippedClip, arm_result, paired_test
from edgeaudio.pipeline.teaching import (
    FoldTeacher,
    adapt,
    check_teacher,
    fold_base,
    teacher_rate,
)
from edgeaudio.pipeline.training import (
    FoldStores,
    TrainedStudent,
    build_student,
    label_fold,
    label_unlabelled,
    train_fold,
)
from edgeaudio.pipeline.verify import verify_stage
from edgeaudio.pipeline.workdir import WorkDir
from edgeaudio.spec import canonical_json
from edgeaudio.spec.fs import atomic_write
from edgeaudio.students.cost import student_cost

logger = logging.getLogger(__name__)

STAGES = ("data", "label", "distill", "prune", "exits", "quantize", "export", "verify")
RECIPE_FILE = "recipe.json"
BUNDLE_FOLDER = "bundles"


@dataclass(frozen=True)
class _Plan:
    """How far a run goes, and whether it leaves its recipe and summary in the work directory."""

    until: str
    recorded: bool

    def reaches(self, stage: str) -> bool:
        return STAGES.index(stage) <= STAGES.index(self.until)


def run_recipe(
    recipe: Recipe,
    work: Path,
    *,
    from_stage: str | None = None,
    until_stage: str | None = None,
    recorded: bool = True,
    progress: Progress,
    progress_bar: bool = False,
) -> RunSummary:
    """Execute `recipe` in `work`; finished stages with the same inputs are not run again.

    Args:
        from_stage: redo this stage and all after it. until_stage: stop after it; both of `STAGES`.
        recorded: a whole run leaves `summary.json` and `recipe.json`, what a report is made from.
        progress: called with (title, done, total) by every long loop but training.
        progress_bar: show Lightning's bar while training.
    Raises:
        ConfigError: a stage or student that does not exist, or a window that does not fit the student.
        ParityError: an exported artefact fails its gates.
    """
    for stage in (from_stage, until_stage):
        if stage is not None and stage not in STAGES:
            raise ConfigError(f"no stage {stage!r}. {closest_match_hint(stage, STAGES)}")
        if stage in ("prune", "exits") and getattr(recipe, stage) is None:
            raise ConfigError(
                f"the recipe has no section {stage!r}, so there is no such stage. Add one, or leave it out."
            )
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory is for finding reads of uninitialised values; it costs time and changes nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    plan = _Plan(until_stage or STAGES[-1], recorded)
    with WorkDir(work) as work_dir:
        if from_stage is not None:
            work_dir.invalidate(from_stage, _stage_names(recipe))
        context = Context(recipe, work_dir, progress, progress_bar)
        return _run(context, plan)


def _stage_names(recipe: Recipe) -> list[str]:
    """All stage names in order, as folders know them."""
    folds = recipe.data.test_folds
    names = ["data"]
    names += [f"teacher-network-fold{fold}" for fold in folds]
    names += ["label", "embed", "label-unlabelled"]
    names += [f"label-{what}{fold}" for fold in folds for what in ("fold", "rest-fold")]
    names += ["distill", "pretrain", *(f"distill-fold{fold}-{arm}" for fold in folds for arm in arms(recipe))]
    for stage in ("prune", "exits", "quantize", "export", "verify"):
        names += [stage, *(f"{stage}-fold{fold}-{arm}" for fold in folds for arm in arms(recipe))]
    return names


def _run(context: Context, plan: _Plan) -> RunSummary:
    recipe = context.recipe
    if plan.reaches("label"):
        check_teacher(context)
    prepared = prepare(context, teacher_rate(context))
    n_classes = len(prepared.dataset.task.labels)
    # Fail on an impossible student before hours of labelling.
    cost = student_cost(build_student(context, n_classes), recipe.frontend, recipe.window)  # type: ignore[arg-type]
    check_steps(recipe, cost.time_stride_frames)
    folds = []
    if plan.reaches("label"):
        for fold in recipe.data.test_folds:
            result = _run_fold(context, prepared, plan, fold)
            if result is not None:
                folds.append(result)
    paired = paired_test(folds, DISTILLED, LABELS_ONLY, _compared_artefact(recipe.formats)) if folds else None
    summary = RunSummary(
        name=recipe.name,
        seed=recipe.seed,
        recipe_digest=recipe.digest(),
        teacher=recipe.teacher.name,
        labels=prepared.dataset.task.labels.names,
        params=cost.params,
        macs_per_window=cost.macs_per_window,
        receptive_field_frames=cost.receptive_field_frames,
        folds=tuple(folds),
        paired=paired,
        stage_wall_s=_stage_seconds(context.work),
        stages=tuple(folder.name for folder in context.work.used),
        skipped=tuple(SkippedClip(path=item.path, reason=item.reason) for item in prepared.skipped),
        until=plan.until,
    )
    if plan.recorded and plan.reaches("verify"):
        # Together and only for whole runs: neither a recipe that failed nor one that stopped early
        # stands beside the figures of another.
        atomic_write(context.work.path / RECIPE_FILE, canonical_json(recipe.model_dump(mode="json")) + b"\n")
        summary.write(context.work.path)
    return summary


def _run_fold(context: Context, prepared: Prepared, plan: _Plan, fold: int) -> FoldResult | None:
    recipe = context.recipe
    base = fold_base(context, prepared, fold)
    labelled = label_fold(context, prepared, base, fold)
    unlabelled = label_unlabelled(context, prepared, base, fold) if recipe.uses_unlabelled else ()
    stores = FoldStores(labelled, unlabelled)
    teacher = adapt(context, prepared, base, read_store(labelled.path, None), fold)
    clips = prepared.test_clips(fold)
    logger.info("fold %d: teacher gets %d of %d clips", fold, teacher.clip_correct, len(clips))
    if not plan.reaches("distill"):
        return None
    results = []
    for arm in arms(recipe):
        trained = train_fold(context, prepared, teacher, stores, fold, arm)
        if recipe.prune is not None and plan.reaches("prune"):
            trained = prune_stage(context, prepared, teacher, stores, trained)
        if recipe.exits is not None and plan.reaches("exits"):
            trained = exits_stage(context, prepared, teacher, stores, trained)
        if plan.reaches("quantize"):
            result = _pack(context, prepared, plan, teacher, trained, stores)
            if result is not None:
                results.append(result)
    if not results:
        return None
    return FoldResult(
        fold=fold,
        n_clips=len(clips),
        clips=tuple(clip.id for clip in clips),
        labels=tuple(clip.labels for clip in clips),
        teacher_correct=teacher.clip_correct,
        teacher_predictions=teacher.clip_predictions,
        arms=tuple(results),
    )


def _pack(
    context: Context,
    prepared: Prepared,
    plan: _Plan,
    teacher: FoldTeacher,
    trained: TrainedStudent,
    stores: FoldStores,
) -> ArmResult | None:
    quantised = quantise_stage(context, prepared, teacher, stores, trained)
    if not plan.reaches("export"):
        return None
    exported = export_stage(context, prepared, trained, teacher.base, stores, quantised)
    if not plan.reaches("verify"):
        return None
    verified = verify_stage(context, prepared, trained, quantised, exported)
    name = f"{context.recipe.name}-fold{trained.fold}" + ("" if trained.arm == DISTILLED else f"-{trained.arm}")
    bundle = Path(BUNDLE_FOLDER) / f"{name}.eab"
    atomic_write(context.work.path / bundle, verified.output("bundle.eab").read_bytes())
    return arm_result(trained, verified.result, bundle)


def _compared_artefact(formats: Sequence[str]) -> str:
    """The artefact on which the arms are compared: what would be shipped."""
    return f"{formats[0]}-int8"


def _stage_seconds(work: WorkDir) -> dict[str, float]:
    """Seconds of each stage of this run, all folds together, also where it was done before."""
    seconds: dict[str, float] = {}
    for result in work.used.values():
        seconds[result.name] = round(seconds.get(result.name, 0.0) + result.wall_s, 3)
    return seconds
