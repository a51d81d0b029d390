"""Pooling folds and judging the bar of a cascade. Bundles and engines are not needed here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cascade import FoldResult, fold_row, pooled, timed, verdict
from edgeaudio.pipeline.exit_curve import ExitLogits


def fold(number: int, clips: list[tuple[bool, bool, bool]], early: float) -> FoldResult:
    return FoldResult(
        fold=number,
        threshold=0.5,
        chosen_on_clips=320,
        chosen_right=1.0,
        chosen_right_alone=1.0,
        clips={f"{number}-{n}": flags for n, flags in enumerate(clips)},
        share=(early, 1 - early),
        n_windows=100,
        mean_macs=10 + 100 * (1 - early),
        macs_of_then=100,
        model_bytes=number * 1000,
    )


def test_the_bar_is_judged_over_all_clips() -> None:
    right, lost, won = (True, True, True), (False, True, False), (False, False, True)
    folds = [fold(1, [right] * 79 + [lost], 0.7), fold(2, [right] * 78 + [lost, won], 0.5)]
    row, told = verdict("onnx-int8", folds)
    assert told == "- onnx-int8: 50.0% of the mean MACs saved for 1 of 160 clips (2 lost, 1 won): reached."
    assert "| all | | 157 | 159 | **158** | 60.0% | 40.0% | **50.0%** | 2,000 | 2 : 1 | 1 |" in row
    assert "missed" in verdict("onnx-int8", [folds[0], fold(2, list(folds[1].clips.values()), 0.48)])[1]
    assert "missed" in verdict("onnx-int8", [folds[0], fold(2, [right] * 77 + [lost] * 3, 0.5)])[1]
    assert fold_row("onnx-int8", folds[0]).startswith("| onnx-int8 | 1 | 0.5000 | 79 | 80 | 79 | 70.0% | 30.0% | 40.0%")


def test_clips_of_different_folds_stay_apart() -> None:
    logits = np.zeros((2, 4, 2), np.float32)
    logits[:, :, 1] = 1
    folds = [ExitLogits([logits], np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]), {}) for _ in range(2)]
    folds.append(ExitLogits([logits[:, :2]], np.array([0, 1]), np.array([0, 3]), {}))
    answers = pooled(0, folds, (1, 9))
    assert (answers.n_clips, answers.n_windows) == (6, 10)
    assert answers.outcome([None]).accuracy == pytest.approx(3 / 6)


def test_each_contestant_hears_every_window_in_each_round() -> None:
    heard: list[list[float]] = [[], []]
    clips = [np.array([1, 2, 3], np.float32), np.array([4, 5], np.float32)]
    runs = [lambda window, to=to: to.append(float(window)) for to in heard]
    found = timed(runs, clips, 2)  # type: ignore[arg-type]
    assert heard == [[1, 2, 3, 4, 5] * 3] * 2
    assert len(found) == 2
