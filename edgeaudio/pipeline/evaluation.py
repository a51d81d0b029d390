"""A bundle on a dataset, run by the runtime as a device would: behind `edgeaudio eval`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.files import decode_file
from edgeaudio.data.clips import Clip, Dataset
from edgeaudio.errors import AudioFileError, ConfigError, DataError, closest_match_hint
from edgeaudio.runtime.classifier import Classifier


@dataclass(frozen=True)
class EvalResult:
    """Figures of one artefact on one engine over `n_clips` clips.

    accuracy, n_correct: single-label; the most probable label is the right one.
    mean_average_precision: multi-label; over the labels that occur.
    by_label: share of a label's clips that were right, or its average precision.
    skipped: clip id -> why it could not be decoded.
    """

    bundle: str
    bundle_sha256: str
    artefact: str
    engine: dict[str, str]
    dataset: str
    fold: int | None
    n_clips: int
    n_correct: int | None
    accuracy: float | None
    mean_average_precision: float | None
    by_label: dict[str, float]
    skipped: dict[str, str]


def evaluate_bundle(
    classifier: Classifier,
    dataset: Dataset,
    *,
    fold: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Classify every clip of `dataset`, or of one fold of it.

    Raises:
        ConfigError: a label of the dataset is not one of the bundle, or the task is of the other kind.
        DataError: no clip in that fold, or none that can be decoded.
    """
    position = _label_positions(classifier, dataset)
    clips = _clips_of(dataset, fold)
    n_labels = len(classifier.labels)
    probs = np.zeros((len(clips), n_labels))
    targets = np.zeros((len(clips), n_labels), bool)
    usable = np.ones(len(clips), bool)
    skipped: dict[str, str] = {}
    for row, clip in enumerate(clips):
        try:
            audio = decode_file(clip.path)
        except AudioFileError as error:
            usable[row] = False
            skipped[clip.id] = str(error)
            continue
        probs[row] = classifier(audio.waveform, audio.sample_rate).probs
        targets[row, [position[label] for label in clip.labels]] = True
        if progress is not None:
            progress(row + 1, len(clips))
    if not usable.any():
        raise DataError(f"dataset {dataset.name!r}: none of {len(clips)} clips can be decoded; see 'data inspect'")
    manifest = classifier.bundle.manifest
    figures = _multi_label if manifest.task.kind == "multi_label" else _single_label
    return EvalResult(
        bundle=manifest.name,
        bundle_sha256=classifier.bundle.sha256,
        artefact=classifier.artefact.name,
        engine=classifier.engine_info,
        dataset=dataset.name,
        fold=fold,
        n_clips=int(usable.sum()),
        skipped=skipped,
        **figures(probs[usable], targets[usable], classifier.labels.names),
    )


def average_precision(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> float:
    """Mean precision at each positive, clips ordered by falling score; equal scores count as one step.

    Source: the non-interpolated definition of scikit-learn's `average_precision_score`.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_step = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(targets[order])[last_of_step]
    seen = np.arange(1, len(scores) + 1)[last_of_step]
    recall_steps = np.diff(hits, prepend=0) / targets.sum()
    return float((recall_steps * hits / seen).sum())


def _label_positions(classifier: Classifier, dataset: Dataset) -> list[int]:
    wanted = classifier.bundle.manifest.task.kind
    if dataset.task.kind != wanted:
        raise ConfigError(f"dataset {dataset.name!r} is {dataset.task.kind}, the bundle answers {wanted}")
    names = classifier.labels.names
    for name in dataset.task.labels.names:
        if name not in names:
            raise ConfigError(
                f"dataset {dataset.name!r}: the bundle has no label {name!r}. {closest_match_hint(name, names)}"
            )
    return [names.index(name) for name in dataset.task.labels.names]


def _clips_of(dataset: Dataset, fold: int | None) -> Sequence[Clip]:
    clips = [clip for clip in dataset.clips if fold is None or clip.fold == fold]
    if not clips:
        raise DataError(f"dataset {dataset.name!r} has no clip in fold {fold}; it has the folds {dataset.folds()}")
    return clips


def _single_label(probs: NDArray[np.float64], targets: NDArray[np.bool_], names: tuple[str, ...]) -> dict[str, Any]:
    correct = targets[np.arange(len(probs)), probs.argmax(axis=1)]
    return {
        "n_correct": int(correct.sum()),
        "accuracy": float(correct.mean()),
        "mean_average_precision": None,
        "by_label": {names[i]: float(correct[targets[:, i]].mean()) for i in np.flatnonzero(targets.any(axis=0))},
    }


def _multi_label(probs: NDArray[np.float64], targets: NDArray[np.bool_], names: tuple[str, ...]) -> dict[str, Any]:
    by_label = {names[i]: average_precision(probs[:, i], targets[:, i]) for i in np.flatnonzero(targets.any(axis=0))}
    mean = float(np.mean(list(by_label.values()))) if by_label else None
    return {"n_correct": None, "accuracy": None, "mean_average_precision": mean, "by_label": by_label}
