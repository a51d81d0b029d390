"""Calibration keeps its bound, spends less the more it may lose, and refuses data that cannot decide anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio.compress.exit_calibration import ExitAnswers, calibrate_exits, sweep_exits
from edgeaudio.errors import ConfigError, DataError, ShapeError
from edgeaudio.runtime.confidence import confidence, softmax

MACS = (100, 200, 700)


def noisy(seed: int, *, n_exits: int = 3, n: int = 60, classes: int = 4) -> tuple[Any, Any]:
    """(logits, targets): later exits see the target more clearly."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % classes
    logits = rng.normal(size=(n_exits, n, classes))
    for number in range(n_exits):
        logits[number, np.arange(n), targets] += 1.0 + number
    return logits.astype(np.float32), targets


def replayed(logits: Any, thresholds: Any) -> list[int]:
    """The cascade as the runtime runs it, window by window."""
    taken = []
    for window in range(logits.shape[1]):
        for number, threshold in enumerate((*thresholds, 0.0)):
            if threshold is not None and confidence(softmax(logits[number, window]), "single_label") >= threshold:
                break
        taken.append(number)
    return taken


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), max_drop=st.floats(0, 0.3), n_exits=st.integers(2, 3), by_clip=st.booleans())
def test_the_bound_is_kept_and_the_figures_are_those_of_the_runtime(
    seed: int, max_drop: float, n_exits: int, by_clip: bool
) -> None:
    logits, targets = noisy(seed, n_exits=n_exits)
    clips = np.arange(60) // 3
    if by_clip:
        targets = targets[clips]
    answers = ExitAnswers(logits, targets, MACS[:n_exits], clips=clips if by_clip else None)
    found = calibrate_exits(answers, max_drop)
    taken = np.array(replayed(logits, found.thresholds))
    probs = softmax(logits[taken, np.arange(60)])
    final = softmax(logits[-1])
    if by_clip:
        probs, final = probs.reshape(20, 3, 4).mean(axis=1), final.reshape(20, 3, 4).mean(axis=1)
        targets = targets[::3]
    accuracy, full = np.mean(probs.argmax(1) == targets), np.mean(final.argmax(1) == targets)
    assert full - accuracy <= max_drop + 1e-9
    assert (found.accuracy, found.full_accuracy) == pytest.approx((accuracy, full))
    assert found.share == pytest.approx(np.bincount(taken, minlength=n_exits) / 60)
    assert found.mean_macs == pytest.approx(np.cumsum(MACS)[taken].mean())
    assert found.worst_case_macs == sum(MACS[:n_exits])


@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), drops=st.lists(st.floats(0, 0.5), min_size=2, max_size=4).map(sorted))
def test_a_looser_bound_never_costs_more(seed: int, drops: list[float]) -> None:
    answers = ExitAnswers(*noisy(seed), MACS)
    costs = [calibrate_exits(answers, drop).mean_macs for drop in drops]
    assert costs == sorted(costs, reverse=True)


def test_no_cheaper_pair_of_levels_keeps_the_bound() -> None:
    answers = ExitAnswers(*noisy(3), MACS)
    found = calibrate_exits(answers, 0.05)
    for first in answers.levels(0, 20):
        for second in answers.levels(1, 20):
            outcome = answers.outcome([float(first), float(second)])
            if outcome.accuracy >= found.full_accuracy - 0.05 and outcome.mean_macs < found.mean_macs:
                # The levels here are coarser, not the same: they may beat the search by no more than its own step.
                assert found.mean_macs - outcome.mean_macs < 0.02 * found.mean_macs


def test_three_exits_are_searched_together_and_the_same_every_time() -> None:
    logits, targets = noisy(5, n_exits=4)
    answers = ExitAnswers(logits, targets, (100, 200, 300, 400))
    first, second = calibrate_exits(answers, 0.02), calibrate_exits(answers, 0.02)
    assert first == second
    assert first.full_accuracy - first.accuracy <= 0.02 + 1e-9
    assert first.mean_macs < 1000


def test_exits_that_are_always_wrong_and_sure_are_never_taken() -> None:
    logits, targets = noisy(1)
    logits[:2] = 0
    logits[:2, np.arange(60), (targets + 1) % 4] = 1000  # The probability is 1 exactly.
    found = calibrate_exits(ExitAnswers(logits, targets, MACS), 0.0)
    assert found.thresholds == (None, None)
    assert found.share == (0, 0, 1)


def test_a_perfect_first_exit_answers_everything() -> None:
    logits, targets = noisy(2)
    logits[0] = 0
    logits[0, np.arange(60), targets] = 9
    found = calibrate_exits(ExitAnswers(logits, targets, MACS), 0.0)
    assert found.share == (1, 0, 0)
    assert found.mean_macs == 100


def test_several_labels_are_judged_by_their_overlap() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 3)) < 0.4).astype(np.float32)
    right = np.where(targets > 0, 5, -5).astype(np.float32)
    wrong = right.copy()
    wrong[:25, 0] *= -1
    answers = ExitAnswers(np.stack([wrong, right]), targets, (1, 9), kind="multi_label")
    assert answers.outcome((None,)).accuracy == 1
    assert answers.outcome((0.0,)).accuracy < 0.9
    assert calibrate_exits(answers, 0.0).share == (0, 1)
    assert calibrate_exits(answers, 0.9).mean_macs == 1


def test_the_curve_runs_from_always_to_never() -> None:
    curve = sweep_exits(ExitAnswers(*noisy(7), MACS), (0.0, 0.5, 0.9))
    assert curve[0].share == (1, 0, 0)
    assert curve[-1].thresholds == (None, None)
    costs = [point.mean_macs for point in curve]
    assert costs == sorted(costs)


@pytest.mark.parametrize("max_drop", [-0.01, 1.0, 40.0, float("nan")])
def test_a_bound_outside_its_range_is_refused(max_drop: float) -> None:
    with pytest.raises(ConfigError, match=r"exits\.max_drop is .* wanted a share from 0 to below 1"):
        calibrate_exits(ExitAnswers(*noisy(0), MACS), max_drop)


def test_windows_of_one_class_are_refused() -> None:
    logits, _ = noisy(0)
    with pytest.raises(DataError, match="all 60 windows of the exit calibration are of one class"):
        calibrate_exits(ExitAnswers(logits, np.zeros(60, int), MACS), 0.01)


def broken(**changes: Any) -> dict[str, Any]:
    logits, targets = noisy(0)
    return {"logits": logits, "targets": targets, "macs_per_stage": MACS} | changes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (broken(logits=np.full((3, 60, 4), np.nan, np.float32)), DataError, "not finite"),
        (broken(logits=np.zeros((3, 0, 4), np.float32), targets=np.zeros(0, int)), DataError, "there is no window"),
        (broken(logits=np.zeros((1, 60, 4), np.float32)), ShapeError, "2 to 4 exits"),
        (broken(targets=np.zeros(59, int)), ShapeError, "60 windows of a single_label"),
        (broken(targets=np.arange(60)), DataError, "the logits have 4 classes"),
        (broken(macs_per_stage=(1, 2)), ShapeError, "macs_per_stage"),
        (broken(clips=np.zeros(60, int)), DataError, "windows of one clip have different targets"),
        (broken(clips=np.zeros(3, int)), ShapeError, "clips are"),
    ],
)
def test_data_that_cannot_calibrate_is_refused(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ExitAnswers(**arguments)


def test_a_margin_of_standard_errors_keeps_a_chance_gain_from_being_believed() -> None:
    answers = clips_that_an_exit_loses(3, n_clips=200)
    loose = calibrate_exits(answers, 0.015)
    assert (loose.share[0], round((loose.full_accuracy - loose.accuracy) * 200)) == (1, 3)
    # 3 of 200 lost: 1.5 % with a standard error of 0.86 %.
    careful = calibrate_exits(answers, 0.015, standard_errors=1)
    assert round((careful.full_accuracy - careful.accuracy) * 200) == 1
    assert careful.mean_macs > loose.mean_macs
    assert careful.standard_errors == 1
    assert calibrate_exits(answers, 0.024, standard_errors=1).share == loose.share
    assert calibrate_exits(answers, 0.0, standard_errors=5).accuracy == careful.full_accuracy


def test_without_a_margin_the_record_is_what_it_was() -> None:
    calibration = calibrate_exits(clips_that_an_exit_loses(3, n_clips=200), 0.015)
    assert "standard_errors" not in calibration.model_dump(mode="json")
    assert calibration.model_copy(update={"standard_errors": 1.0}).model_dump()["standard_errors"] == 1


@pytest.mark.parametrize("standard_errors", [-1.0, float("inf"), float("nan")])
def test_a_margin_that_makes_no_sense_is_refused(standard_errors: float) -> None:
    with pytest.raises(ConfigError, match="standard_errors is"):
        calibrate_exits(clips_that_an_exit_loses(3, n_clips=200), 0.015, standard_errors=standard_errors)


def clips_that_an_exit_loses(n_lost: int, *, n_clips: int) -> ExitAnswers:
    """One window per clip; the exit is wrong about some, each surer than the last, and right and sure elsewhere."""
    targets = np.arange(n_clips) % 2
    final = np.where(np.eye(2)[targets] > 0, 5.0, 0.0)
    early = final.copy()
    for number in range(n_lost):
        early[number] = np.where(np.eye(2)[targets[number]] > 0, 0.0, 1.0 + number)
    return ExitAnswers(np.stack([early, final]).astype(np.float32), targets, (10, 90), clips=np.arange(n_clips))
