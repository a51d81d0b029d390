"""Prune and exits: the stages between a trained student and its int8 form."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeaudio.compress.prune import prune
from edgeaudio.compress.reshape import channel_plan, load_pruned_student
from edgeaudio.distill.losses import label_loss
from edgeaudio.distill.module import Batch, DistillData
from edgeaudio.distill.train import load_student, save_student
from edgeaudio.pipeline.arms import arm_plan
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.seeds import seeded
from edgeaudio.pipeline.teaching import FoldTeacher
from edgeaudio.pipeline.training import (
    STUDENT_FILE,
    ChainLink,
    FoldStores,
    TrainedStudent,
    build_student,
    distill_data,
    train_into,
)
from edgeaudio.students.cost import student_cost
from edgeaudio.students.exits import EarlyExitStudent
from edgeaudio.students.mn import MN

# What importance is asked of: enough that its ranking no longer changes, a second of work.
IMPORTANCE_BATCHES, IMPORTANCE_BATCH = 8, 64


def prune_stage(
    context: Context, prepared: Prepared, teacher: FoldTeacher, stores: FoldStores, trained: TrainedStudent
) -> TrainedStudent:
    """Cut the student to the recipe's budget, training it as before after every cut.

    Raises:
        ConfigError: a budget that the student cannot meet, or already does.
    """
    recipe, task = context.recipe, prepared.dataset.task
    spec, plan = recipe.prune, arm_plan(recipe, trained.arm)
    assert spec is not None
    example = torch.zeros(1, recipe.window.frames, recipe.frontend.n_mels)
    inputs: dict[str, Any] = {
        "weights": trained.weights_sha256,
        "prune": spec.changed(),
        "train": plan.train.changed(),
        "labels": stores.labelled.sha256,
        "unlabelled": [store.sha256 for store in stores.unlabelled],
        "seed": recipe.seed,
    }

    def run(folder: Path) -> dict[str, Any]:
        data = distill_data(context, prepared, teacher, stores, plan)

        def trained_on(network: nn.Module, windows_seen: int, name: str) -> nn.Module:
            train = plan.train.model_copy(update={"windows_seen": windows_seen, "learning_rate": spec.learning_rate})
            return train_into(context, network, data, train, task.kind, folder / name)

        pruned = prune(
            unfrozen(trained.network),
            spec.cuts(),
            example=example,
            batches=_importance_batches(data),
            loss=lambda network, batch: label_loss(network(batch["log_mel"]), batch["target"], task.kind),
            recover=lambda network, step: trained_on(network, spec.recover_windows, f"recover-{step}"),
        )
        network = pruned.network
        if spec.finish_windows:
            network = trained_on(network, spec.finish_windows, "finish")
        save_student(network, folder / STUDENT_FILE)
        return {"history": [step._asdict() for step in pruned.history], "channels": channel_plan(network)}

    result = context.work.run_stage(f"prune-fold{trained.fold}-{trained.arm}", inputs, run)
    fresh = unfrozen(build_student(context, len(task.labels), plan.student))
    network = load_pruned_student(fresh, result.output(STUDENT_FILE), example=example)
    return replace(
        trained,
        network=network,
        cost=student_cost(network, recipe.frontend, recipe.window),  # type: ignore[arg-type]
        weights_sha256=result.outputs[STUDENT_FILE],
        wall_s=trained.wall_s + result.wall_s,
        chain=(*trained.chain, ChainLink("trained", trained.network, trained.cost)),
    )


def exits_stage(
    context: Context, prepared: Prepared, teacher: FoldTeacher, stores: FoldStores, trained: TrainedStudent
) -> TrainedStudent:
    """Put exit heads into the student and train all of it jointly, every exit taught by the recipe's terms."""
    recipe, task = context.recipe, prepared.dataset.task
    spec, plan = recipe.exits, arm_plan(recipe, trained.arm)
    assert spec is not None
    training = replace(plan, train=spec.train)
    inputs: dict[str, Any] = {
        "weights": trained.weights_sha256,
        "exits": spec.changed(),
        "labels": stores.labelled.sha256,
        "unlabelled": [store.sha256 for store in stores.unlabelled] if spec.train.unlabelled_share else [],
        "seed": recipe.seed,
    }
    student = seeded(recipe.seed, lambda: EarlyExitStudent(copy.deepcopy(trained.network), spec.heads()))  # type: ignore[arg-type]

    def run(folder: Path) -> dict[str, Any]:
        data = distill_data(context, prepared, teacher, stores, training)
        train_into(context, student, data, spec.train, task.kind, folder)
        return {"exits": list(spec.after)}

    result = context.work.run_stage(f"exits-fold{trained.fold}-{trained.arm}", inputs, run)
    load_student(student, result.output(STUDENT_FILE))
    return replace(
        trained,
        network=student,
        weights_sha256=result.outputs[STUDENT_FILE],
        wall_s=trained.wall_s + result.wall_s,
        chain=(*trained.chain, ChainLink("without-exits", trained.network, trained.cost)),
    )


def unfrozen(network: nn.Module) -> nn.Module:
    """A copy whose weights all learn: cuts go through blocks that were frozen in training, too."""
    network = copy.deepcopy(network)
    if isinstance(network, MN):
        network.spec = network.spec.model_copy(update={"frozen": 0})
    return network.requires_grad_(True)


def _importance_batches(data: DistillData) -> list[Batch]:
    """Labelled windows, from the first on; their order in the store is random already."""
    n = min(len(data.windows), IMPORTANCE_BATCHES * IMPORTANCE_BATCH)
    return [data.windows.take(np.arange(at, min(at + IMPORTANCE_BATCH, n))) for at in range(0, n, IMPORTANCE_BATCH)]
