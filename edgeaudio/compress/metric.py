"""The task's metric on labelled windows, by which compression is steered. Never on test clips."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeaudio.errors import DataError, ShapeError

TaskKind = Literal["single_label", "multi_label"]


def window_targets(targets: ArrayLike) -> NDArray[np.bool_]:
    """`(n, classes)` labels, soft ones from mixing included -> which classes are present.

    A window has the classes whose share is at least half of its largest; one without any share has none.

    Raises:
        ShapeError: not two-dimensional.
        DataError: fewer than two classes occur, so no figure over them means anything.
    """
    shares = np.asarray(targets, dtype=np.float64)
    if shares.ndim != 2 or not np.isfinite(shares).all():
        raise ShapeError(f"targets have shape {shares.shape}, wanted finite (n, classes)")
    present: NDArray[np.bool_] = (shares > 0) & (shares >= shares.max(axis=1, keepdims=True) / 2)
    if present.any(axis=0).sum() < 2:
        raise DataError("the labelled windows show fewer than two classes; draw them from every class")
    return present


def task_metric(logits: ArrayLike, targets: ArrayLike, kind: TaskKind) -> float:
    """Accuracy (single-label, of windows with a label) or mean average precision (multi-label), 0 to 1.

    Args:
        logits: `(n, classes)`; probabilities do as well.
        targets: `(n, classes)`, see `window_targets`.
    Raises:
        ShapeError, DataError: shapes differ, or as `window_targets`.
    """
    scores = np.asarray(logits, dtype=np.float64)
    shares = np.asarray(targets, dtype=np.float64)
    if scores.shape != shares.shape:
        raise ShapeError(f"logits have shape {scores.shape}, targets {shares.shape}; wanted the same")
    present = window_targets(shares)
    if kind == "single_label":
        labelled = present.any(axis=1)
        return float((scores.argmax(axis=1) == shares.argmax(axis=1))[labelled].mean())
    return float(np.mean([average_precision(scores[:, i], present[:, i]) for i in np.flatnonzero(present.any(axis=0))]))


def average_precision(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> float:
    """Mean precision at each positive, windows or clips ordered by falling score; equal scores count as one step.

    Source: the non-interpolated definition of scikit-learn's `average_precision_score`.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_step = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(targets[order])[last_of_step]
    seen = np.arange(1, len(scores) + 1)[last_of_step]
    recall_steps = np.diff(hits, prepend=0) / targets.sum()
    return float((recall_steps * hits / seen).sum())
