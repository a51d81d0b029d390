"""A bundle on a dataset, run by the runtime as a device would: behind `edgeaudio eval`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.files import decode_file
from edgeaudio.compress.metric import average_precision as average_precision
from edgeaudio.data.clips import Clip, Dataset
from edgeaudio.errors import AudioFileError, ConfigError, DataError, closest_match_hint
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.spec import TaskSpec


@dataclass(frozen=True)
class EvalResult:
    """Figures of one artefact on one engine over `n_clips` clips.

    accuracy, n_correct: single-label; the most probable label is the right one.
    mean_average_precision: multi-label; over the labels that occur.
    by_label: share of a label's clips that were right, or its average precision.
    exit_share: of all windows, by the exit that answered, the final one last; empty without exits.
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
    exit_share: tuple[float, ...]
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
    position = label_positions(classifier.bundle.manifest.task, dataset)
    clips = clips_of(dataset, fold)
    n_labels = len(classifier.labels)
    probs = np.zeros((len(clips), n_labels))
    targets = np.zeros((len(clips), n_labels), bool)
    usable = np.ones(len(clips), bool)
    exit_counts = np.zeros(classifier.n_exits, np.int64)
    skipped: dict[str, str] = {}
    for row, clip in enumerate(clips):
        try:
            audio = decode_file(clip.path)
        except AudioFileError as error:
            usable[row] = False
            skipped[clip.id] = str(error)
            continue
        result = classifier(audio.waveform, audio.sample_rate)
        probs[row] = result.probs
        if result.window_exits is not None:
            exit_counts += np.bincount(result.window_exits, minlength=classifier.n_exits)
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
        exit_share=tuple((exit_counts / max(1, exit_counts.sum())).tolist()),
        skipped=skipped,
        **figures(probs[usable], targets[usable], classifier.labels.names),
    )


def label_positions(task: TaskSpec, dataset: Dataset) -> list[int]:
    """Where each label of the dataset lies among those of a bundle's task.

    Raises:
        ConfigError: a label that the bundle has not, or a task of the other kind.
    """
    if dataset.task.kind != task.kind:
        raise ConfigError(f"dataset {dataset.name!r} is {dataset.task.kind}, the bundle answers {task.kind}")
    names = task.labels.names
    for name in dataset.task.labels.names:
        if name not in names:
            raise ConfigError(
                f"dataset {dataset.name!r}: the bundle has no label {name!r}. {closest_match_hint(name, names)}"
            )
    return [names.index(name) for name in dataset.task.labels.names]


def clips_of(dataset: Dataset, fold: int | None) -> Sequence[Clip]:
    """The clips of one fold, or all; DataError where there are none."""
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
