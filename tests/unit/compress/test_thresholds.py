"""Thresholds and the task's metric: known answers, and what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest

from edgeaudio.compress.metric import task_metric, window_targets
from edgeaudio.compress.thresholds import fit_decision, fit_thresholds
from edgeaudio.errors import DataError, ShapeError
from edgeaudio.runtime.decision import DecisionRules, DecisionState, step
from edgeaudio.spec import DecisionSpec


def labelled(n: int = 400, noise: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities near 0.7 where the class is present and near 0.3 where it is not."""
    rng = np.random.default_rng(0)
    targets = np.eye(3)[rng.integers(3, size=n)]
    return np.clip(0.3 + 0.4 * targets + noise * rng.standard_normal((n, 3)), 0, 1), targets


def f1(probs: np.ndarray, targets: np.ndarray, threshold: float) -> float:
    accepted, present = probs >= threshold, targets > 0
    return float(2 * (accepted & present).sum() / (accepted.sum() + present.sum()))


def test_no_other_threshold_gives_a_better_f1() -> None:
    probs, targets = labelled()
    on, off = fit_thresholds(probs, targets)
    assert f1(probs, targets, on) == max(f1(probs, targets, threshold) for threshold in np.unique(probs))
    assert off < on
    DecisionSpec(threshold_on=on, threshold_off=off)


def test_separable_classes_are_parted_in_the_middle_of_the_gap() -> None:
    on, off = fit_thresholds([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]], np.eye(2)[[0, 0, 1, 1]])
    assert on == pytest.approx(0.5)
    assert off == pytest.approx(0.15)


def test_thresholds_follow_the_artefact() -> None:
    probs, targets = labelled()
    assert fit_thresholds(probs / 2, targets) == pytest.approx(np.array(fit_thresholds(probs, targets)) / 2)


def test_the_order_of_windows_does_not_matter() -> None:
    probs, targets = labelled()
    assert fit_thresholds(probs[::-1], targets[::-1]) == fit_thresholds(probs, targets)


def test_off_stays_below_on_where_two_scores_are_all_there_is() -> None:
    on, off = fit_thresholds([[1.0, 0.0], [0.0, 1.0]], np.eye(2))
    assert (on, off) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("probs", "targets", "error", "saying"),
    [
        ([[0.9, 0.1], [0.8, 0.2]], [[1, 0], [1, 0]], DataError, "fewer than two classes"),
        ([[0.9, 0.1], [0.8, 0.2]], [[1, 1], [1, 1]], DataError, "every class is in every window"),
        ([[0.5, 0.5], [0.5, 0.5]], [[1, 0], [0, 1]], DataError, "all probabilities are the same"),
        ([[1.9, 0.1], [0.8, 0.2]], [[1, 0], [0, 1]], ShapeError, r"within \[0, 1\]"),
        ([[0.9, 0.1]], [[1, 0], [0, 1]], ShapeError, "wanted"),
    ],
)
def test_what_no_threshold_can_be_fitted_to_is_refused(
    probs: list[list[float]], targets: list[list[int]], error: type[Exception], saying: str
) -> None:
    with pytest.raises(error, match=saying):
        fit_thresholds(probs, targets)


def streams(noise: float, length: int, count: int = 20) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sounds of `length` windows one after another, heard through noise of each window's own."""
    rng = np.random.default_rng(5)
    targets = [np.repeat(np.eye(3)[rng.integers(3, size=8)], length, axis=0) for _ in range(count)]
    return [np.clip(0.3 + 0.4 * rows + noise * rng.standard_normal(rows.shape), 0, 1) for rows in targets], targets


def test_long_sounds_in_noise_are_smoothed_and_short_clear_ones_are_not() -> None:
    assert fit_decision(*streams(noise=0.3, length=40)).smoothing_windows == 8
    clear = fit_decision(*streams(noise=0.02, length=3))
    assert clear.smoothing_windows == 1
    assert clear.f1 == 1.0


def test_without_smoothing_the_thresholds_are_those_of_the_windows() -> None:
    probs, targets = streams(noise=0.15, length=10)
    fitted = fit_decision(probs, targets, [1])
    wanted = fit_thresholds(np.concatenate(probs), np.concatenate(targets))
    assert (fitted.threshold_on, fitted.threshold_off) == pytest.approx(wanted, abs=1e-9)


def test_scores_are_those_of_the_runtime() -> None:
    """A threshold a hair below and above the fitted scores parts what the runtime starts and what not."""
    probs, targets = streams(noise=0.2, length=12, count=2)
    fitted = fit_decision(probs, targets, [3])
    rules = DecisionRules(DecisionSpec(smoothing_windows=3, min_duration_s=0.0), ("a", "b", "c"), 16_000, 3200)
    scores = []
    for rows in probs:
        state = DecisionState.initial(3)
        for number, row in enumerate(rows):
            scores.append(np.concatenate([state.history, row[None]])[-3:].mean(axis=0))
            _, state = step(row, 3200 * number, state, rules)
    on, off = fit_thresholds(np.array(scores).clip(0, 1), np.concatenate(targets))
    assert (fitted.threshold_on, fitted.threshold_off) == pytest.approx((on, off), abs=1e-9)


def test_no_stream_is_no_fit() -> None:
    with pytest.raises(DataError, match="give training clips"):
        fit_decision([], [])


def test_windows_without_a_class_do_not_count_in_accuracy() -> None:
    targets = [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert task_metric([[2, 1], [2, 1], [2, 1], [1, 2]], targets, "single_label") == 0.5


def test_mixed_labels_count_by_their_larger_share() -> None:
    assert window_targets([[0.7, 0.3], [0.5, 0.5], [0.0, 0.0]]).tolist() == [
        [True, False],
        [True, True],
        [False, False],
    ]


def test_several_labels_are_measured_by_mean_average_precision() -> None:
    targets = [[1, 1], [0, 1], [1, 0]]
    assert task_metric([[3, 3], [1, 2], [2, 1]], targets, "multi_label") == 1.0
    assert task_metric([[1, 3], [3, 2], [2, 1]], targets, "multi_label") == pytest.approx((7 / 12 + 1) / 2)
