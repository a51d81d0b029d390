"""From logits to probabilities, and how sure an exit is of them: what calibration and the runtime must share."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeaudio.runtime.engines.base import Float32

TaskKind = Literal["single_label", "multi_label"]


def softmax(logits: Float32) -> Float32:
    """`(..., classes)` -> probabilities that sum to 1."""
    # `reduce` itself: of a few classes, the methods around it cost more than all else here.
    powers: Float32 = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    total: Float32 = np.add.reduce(powers, axis=-1, keepdims=True)
    return powers / total


def sigmoid(logits: Float32) -> Float32:
    """`(..., classes)` -> independent probabilities, without overflow."""
    powers: Float32 = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, powers).astype(np.float32) / (powers + 1)


def to_probs(logits: Float32, kind: TaskKind) -> Float32:
    """The probabilities of a task: softmax for one label, sigmoid for several."""
    return softmax(logits) if kind == "single_label" else sigmoid(logits)


def confidence(probs: Float32, kind: TaskKind) -> NDArray[np.float32]:
    """`(..., classes)` -> `(...)` in [0, 1].

    Single-label: the largest probability. Multi-label: `2 * |p - 0.5|` of the *least* certain class, because the
    answer is all classes together; the most certain one says only that something is absent.
    """
    sure: NDArray[np.float32] = probs.max(axis=-1) if kind == "single_label" else np.abs(2 * probs - 1).min(axis=-1)
    return sure
