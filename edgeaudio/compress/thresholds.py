"""Decision thresholds fitted to one artefact's probabilities: int8 moves them, and so does every other step."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.compress.metric import window_targets
from edgeaudio.errors import DataError, ShapeError

# A running event is kept on weaker evidence than one is started with: a miss weighs as much as four false accepts.
_KEEP_BETA = 2.0


def fit_thresholds(probs: ArrayLike, targets: ArrayLike) -> tuple[float, float]:
    """Thresholds of a `DecisionSpec` for one artefact, from held-out training windows. Deterministic.

    `threshold_on` maximises F1 over all (window, class) pairs, as one threshold serves every class;
    `threshold_off` maximises F2 among the thresholds below it. Ties go to the middle one. The windows are
    single ones: smoothing over several of a stream cannot be fitted from them.

    Args:
        probs: `(n, classes)` in [0, 1], after softmax or sigmoid, of the artefact itself.
        targets: `(n, classes)` labels, soft ones included.
    Returns:
        `(threshold_on, threshold_off)`, `0 <= threshold_off < threshold_on <= 1`.
    Raises:
        ShapeError: shapes differ, or values are no probabilities.
        DataError: fewer than two classes occur, every class is in every window, or all probabilities are equal.
    """
    scores, shares = np.asarray(probs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if scores.shape != shares.shape or not ((scores >= 0) & (scores <= 1)).all():
        raise ShapeError(f"probs have shape {scores.shape}, wanted {shares.shape} as targets have, within [0, 1]")
    present = window_targets(shares)
    if present.all():
        raise DataError("every class is in every window, so no threshold can tell them; give windows without some")
    candidates, hits, accepted = _counts(scores.ravel(), present.ravel())
    positives = int(present.sum())
    on = _middle_of_best(_f_beta(hits, accepted, positives, 1.0))
    # Candidates fall, so those after `on` lie below it; half of it where it is the lowest.
    lower = _f_beta(hits, accepted, positives, _KEEP_BETA)[on + 1 :]
    threshold_on = float(candidates[on])
    threshold_off = float(candidates[on + 1 + _middle_of_best(lower)]) if len(lower) else threshold_on / 2
    return threshold_on, threshold_off


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
