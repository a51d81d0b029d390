"""Which int8 student a recipe means: after training, with layers left float to keep accuracy, or trained as int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from edgeaudio.compress.qat import fine_tune, train_qat
from edgeaudio.compress.sensitivity import quantise_with_control, sensitivity
from edgeaudio.distill.module import WindowSet
from edgeaudio.pipeline.arms import arm_plan
from edgeaudio.pipeline.labelling import read_store, split_held_out
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.teaching import FoldTeacher
from edgeaudio.pipeline.training import FoldStores, TrainedStudent, distill_data
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph

PTQ, QAT_CONTROL = "int8 without more training", "trained on in float, then int8"


@dataclass(frozen=True)
class Quantisation:
    """An int8 student, what was found on the way, and the int8 students that it is held against.

    staged: the same with all exits, where the student has them.
    """

    student: QuantisedStudent
    facts: dict[str, Any]
    rivals: Mapping[str, QuantisedStudent] = field(default_factory=dict)
    staged: QuantisedStudent | None = None


@dataclass(frozen=True)
class _Calibration:
    """Training windows: those that ranges come from, and held-out ones with targets to measure on."""

    windows: torch.Tensor
    classes: torch.Tensor | None
    held_out: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, windows: WindowSet, n: int, held_out: int, *, single_label: bool) -> _Calibration:
        assert windows.target is not None
        classes = torch.from_numpy(windows.target[:n].argmax(axis=1)) if single_label else None
        kept = split_held_out(windows, held_out)[1]
        assert kept.target is not None
        loud = ~kept.silent
        return cls(
            torch.from_numpy(windows.log_mel[:n].astype(np.float32)),
            classes,
            torch.from_numpy(kept.log_mel[loud].astype(np.float32)),
            torch.from_numpy(kept.target[loud].astype(np.float32)),
        )


def quantise(
    context: Context,
    prepared: Prepared,
    teacher: FoldTeacher,
    stores: FoldStores,
    trained: TrainedStudent,
    folder: Path,
) -> Quantisation:
    """Quantise one student as the recipe says; training with int8 in mind keeps its checkpoints in `folder`."""
    recipe, task = context.recipe, prepared.dataset.task
    spec = recipe.quantize
    windows = read_store(stores.labelled.path, None)
    data = _Calibration.of(
        windows, spec.calibration_windows, recipe.windows.held_out, single_label=task.kind == "single_label"
    )
    symmetric = "tensorrt" in recipe.formats
    options: dict[str, Any] = {"targets": data.classes, "per_channel": spec.per_channel, "symmetric": symmetric}
    if spec.method == "qat":
        return _with_training(context, prepared, teacher, stores, trained, folder, data)
    network = trained.network
    if spec.max_drop is None:
        student = quantise_ptq(network, data.windows, keep_float=spec.keep_float, **options)
        facts = _facts(student)
    else:
        controlled = quantise_with_control(
            network,
            data.windows,
            data.held_out,
            data.targets,
            spec.max_drop,
            kind=task.kind,
            calibration_targets=data.classes,
            keep_float=spec.keep_float,
            symmetric=symmetric,
        )
        student = controlled.student
        facts = _facts(student) | {
            "float_metric": controlled.float_metric,
            "metric": controlled.metric,
            "kept_float": list(controlled.kept_float),
        }
    if spec.sensitivity:
        found = sensitivity(network, data.windows, data.held_out, data.targets, kind=task.kind)
        facts["sensitivity"] = [vars(item) for item in found]
    staged = None
    if isinstance(network, EarlyExitStudent):
        staged = quantise_ptq(StagedGraph(network), data.windows, **options)
    return Quantisation(student, facts, staged=staged)


def _with_training(
    context: Context,
    prepared: Prepared,
    teacher: FoldTeacher,
    stores: FoldStores,
    trained: TrainedStudent,
    folder: Path,
    calibration: _Calibration,
) -> Quantisation:
    recipe = context.recipe
    spec, plan = recipe.quantize, arm_plan(recipe, trained.arm)
    shared: dict[str, Any] = {
        "kind": prepared.dataset.task.kind,
        "frontend": recipe.frontend,
        "seed": recipe.seed,
        "progress_bar": context.progress_bar,
    }
    ptq: dict[str, Any] = {
        "targets": calibration.classes,
        "keep_float": spec.keep_float,
        "per_channel": spec.per_channel,
        "symmetric": "tensorrt" in recipe.formats,
    }
    data = distill_data(context, prepared, teacher, stores, plan)
    student = train_qat(
        trained.network,
        data,
        spec.qat,
        plan.train,
        calibration=calibration.windows,
        folder=folder / "qat",
        **shared,
        **ptq,
    )
    rivals = {PTQ: quantise_ptq(trained.network, calibration.windows, **ptq)}
    if spec.control:
        tuned = fine_tune(trained.network, data, spec.qat, plan.train, folder=folder / "control", **shared)
        rivals[QAT_CONTROL] = quantise_ptq(tuned, calibration.windows, **ptq)
    return Quantisation(student, _facts(student), rivals)


def _facts(student: QuantisedStudent) -> dict[str, Any]:
    return {
        "calibration_windows": student.n_calibration_windows,
        "quantize_nodes": student.qdq.quantise,
        "dequantize_nodes": student.qdq.dequantise,
        "keep_float": list(student.keep_float),
    }
