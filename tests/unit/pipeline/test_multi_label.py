"""Tasks in which a clip has several labels, or none."""

from __future__ import annotations

import numpy as np
import pytest

from edgeaudio.distill.module import WindowSet
from edgeaudio.pipeline.report_build import _confusion
from edgeaudio.pipeline.summary import ArmResult, FoldResult, RunSummary
from edgeaudio.pipeline.teaching import _clean_windows
from edgeaudio.spec import LabelSet, TaskSpec

TASK = TaskSpec(kind="multi_label", labels=LabelSet(names=("dog", "rain")))


def test_a_rounding_error_above_one_in_mixed_targets_is_cut_off() -> None:
    above_one = np.float32(1 + 2**-23)
    windows = WindowSet(
        log_mel=np.zeros((2, 3, 4), np.float16),
        silent=np.zeros(2, bool),
        target=np.array([[above_one, 0], [0.5, 0.5]], np.float32),
        embedding=np.zeros((2, 5), np.float16),
    )
    _, targets = _clean_windows(windows, TASK)
    assert targets.tolist() == [[1, 0], [0.5, 0.5]]


def test_a_clip_without_labels_has_no_row_in_the_confusion_matrix() -> None:
    arm = ArmResult(
        arm="distilled", artefacts=(), predictions={"onnx-int8": (0, 1, 1)}, train_wall_s=1.0, bundle="x.eab"
    )
    fold = FoldResult(
        fold=1, n_clips=3, clips=("a", "b", "c"), labels=((0, 1), (0,), ()), teacher_correct=2, arms=(arm,)
    )
    summary = RunSummary(
        name="x",
        seed=0,
        recipe_digest="",
        teacher="mn04",
        labels=TASK.labels.names,
        params=1,
        macs_per_window=1,
        receptive_field_frames=1,
        folds=(fold,),
        paired=None,
        stage_wall_s={},
        skipped=(),
    )
    assert _confusion(summary, "onnx-int8").counts == pytest.approx(np.array([[1, 1], [0, 0]]))
