"""Smoothing and thresholds fitted to one artefact's probabilities: int8 moves them, and so does every other step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.compress.metric import window_targets
from edgeaudio.errors import DataError, ShapeError

# A running event is kept on weaker evidence than one is started with: a miss weighs as much as four false accepts.
_KEEP_BETA = 2.0
#: Windows of the moving mean that are tried; longer ones answer later than a user would wait.
SMOOTHINGS = (1, 2, 3, 5, 8)


@dataclass(frozen=True)
class FittedDecision:
    """Fields of a `DecisionSpec` for one artefact, and the F1 over (window, class) pairs that they reach."""

    smoothing_windows: int
    threshold_on: float
    threshold_off: float
    f1: float


def fit_decision(
    streams: Sequence[ArrayLike], targets: Sequence[ArrayLike], smoothings: Sequence[int] = SMOOTHINGS
) -> FittedDecision:
    """Smoothing and thresholds for one artefact, from streams of training sounds. Deterministic.

    For each moving mean the thresholds are fitted to its scores (see `fit_thresholds`); the one with the largest F1
    wins, of equals the shortest, which answers soonest. A long mean pays where one sound follows another.

    Args:
        streams: per stream the probabilities of its windows in order, `(windows, classes)`.
        targets: per stream which classes each window has, of the same shape.
    Raises:
        DataError, ShapeError: as `fit_thresholds`; or there is no stream.
    """
    if not streams:
        raise DataError("smoothing is fitted on streams, and there is none; give training clips")
    wanted = np.concatenate([np.asarray(rows, dtype=np.float64) for rows in targets])
    best: FittedDecision | None = None
    for windows in sorted(smoothings):
        scores = np.concatenate([_moving_mean(np.asarray(rows, dtype=np.float64), windows) for rows in streams])
        on, off, f1 = _fit(scores, wanted)
        if best is None or f1 > best.f1:
            best = FittedDecision(windows, on, off, f1)
    assert best is not None
    return best


def _moving_mean(rows: NDArray[np.float64], windows: int) -> NDArray[np.float64]:
    """As `runtime.decision.step` does: over the last `windows` rows, or as many as there are."""
    sums = np.cumsum(np.concatenate([np.zeros((1, rows.shape[1])), rows]), axis=0)
    ends = np.arange(1, len(rows) + 1)
    starts = np.maximum(0, ends - windows)
    # Sums taken apart leave a rounding error, which must not look like a probability below 0 or above 1.
    means: NDArray[np.float64] = ((sums[ends] - sums[starts]) / (ends - starts)[:, None]).clip(0, 1)
    return means


def fit_thresholds(probs: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
    """Thresholds of a `DecisionSpec` for one artefact, from labelled windows. Deterministic.

    `threshold_on` maximises F1 over all (window, class) pairs, as one threshold serves every class;
    `threshold_off` maximises F2 among the thresholds below it. Ties go to the middle one.

    Args:
        probs: `(n, classes)` in [0, 1], after softmax or sigmoid, of the artefact itself.
        targets: `(n, classes)` labels, soft ones included.
    Returns:
        `(threshold_on, threshold_off)`, `0 <= threshold_off < threshold_on <= 1`.
    Raises:
        ShapeError: shapes differ, or values are no probabilities.
        DataError: fewer than two classes occur, every class is in every window, or all probabilities are equal.
    """
    on, off, _ = _fit(np.asarray(probs, dtype=np.float64), np.asarray(targets, dtype=np.float64))
    return on, off


def _fit(scores: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[float, float, float]:
    """(threshold_on, threshold_off, F1 at threshold_on)."""
    if scores.shape != shares.shape or not ((scores >= 0) & (scores <= 1)).all():
        raise ShapeError(f"probs have shape {scores.shape}, wanted {shares.shape} as targets have, within [0, 1]")
    present = window_targets(shares)
    if present.all():
        raise DataError("every class is in every window, so no threshold can tell them; give windows without some")
    candidates, hits, accepted = _counts(scores.ravel(), present.ravel())
    positives = int(present.sum())
    f1 = _f_beta(hits, accepted, positives, 1.0)
    on = _middle_of_best(f1)
    # Candidates fall, so those after `on` lie below it; half of it where it is the lowest.
    lower = _f_beta(hits, accepted, positives, _KEEP_BETA)[on + 1 :]
    threshold_on = float(candidates[on])
    threshold_off = float(candidates[on + 1 + _middle_of_best(lower)]) if len(lower) else threshold_on / 2
    return threshold_on, threshold_off, float(f1[on])


def _counts(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Thresholds halfway between neighbouring scores, falling, with the hits and accepts that each gives."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    steps = np.flatnonzero(np.diff(falling) != 0)
    candidates = (falling[steps] + falling[steps + 1]) / 2
    # Neighbours one rounding apart have no number between them.
    usable = (candidates < falling[steps]) & (candidates > falling[steps + 1])
    if not usable.any():
        raise DataError("all probabilities are the same, so no threshold can tell windows apart")
    return (
        candidates[usable],
        np.cumsum(present[order])[steps][usable].astype(np.float64),
        (steps + 1)[usable].astype(np.float64),
    )


def _f_beta(
    hits: NDArray[np.float64], accepted: NDArray[np.float64], positives: int, beta: float
) -> NDArray[np.float64]:
    weight = beta * beta
    return (1 + weight) * hits / (accepted + weight * positives)


def _middle_of_best(values: NDArray[np.float64]) -> int:
    best = np.flatnonzero(values == values.max())
    return int(best[(len(best) - 1) // 2])
