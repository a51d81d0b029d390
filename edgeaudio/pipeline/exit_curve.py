"""What early exits cost and save on a dataset, by the runtime: behind `edgeaudio exits`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.audio.source import SourceStats
from edgeaudio.bundle import Bundle, Manifest
from edgeaudio.catalog import resolve
from edgeaudio.compress.exit_calibration import ExitAnswers, sweep_exits
from edgeaudio.data.clips import Clip, Dataset
from edgeaudio.errors import AudioFileError, DataError
from edgeaudio.pipeline.evaluation import clips_of, label_positions
from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.classifier import clean_chunk
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.windows import WindowStream
from edgeaudio.spec import ExitCalibration

# Denser where confidences of trained students lie.
SWEPT = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999)


@dataclass(frozen=True)
class CurvePoint:
    """One operating point. share: of windows per exit, the final one last; n_correct: clips, single-label only.

    macs_share: mean MACs per window over those of all stages. operating: whether these are the bundle's thresholds.
    """

    thresholds: tuple[float | None, ...]
    operating: bool
    mean_macs: float
    macs_share: float
    share: tuple[float, ...]
    accuracy: float
    n_correct: int | None


@dataclass(frozen=True)
class ExitCurve:
    """`points` by rising mean MACs; the last that never stops early is the reference.

    accuracy: of clips; multi-label: the mean overlap of answered and true labels. macs_to_exit: per window, the last is
    the worst case; macs_per_window: of the whole artefact. exits_after: sections, None for the end of a student of its
    own. skipped: clip id -> why it could not be decoded.
    """

    bundle: str
    bundle_sha256: str
    chain: str
    engine: dict[str, str]
    dataset: str
    fold: int | None
    n_clips: int
    n_windows: int
    exits_after: tuple[int | None, ...]
    macs_to_exit: tuple[int, ...]
    macs_per_window: int
    calibration: ExitCalibration | None
    points: tuple[CurvePoint, ...]
    skipped: dict[str, str]


def exit_curve(
    bundle: Bundle,
    dataset: Dataset,
    *,
    engine: str,
    precision: str,
    threads: int = 1,
    fold: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExitCurve:
    """Run all stages over every window of the clips, then replay the cascade at each operating point.

    A replay takes the same exits as the runtime: whether a window stops depends on its logits alone.

    Raises:
        ConfigError: no early exits in that format and precision, or labels that are not the bundle's.
        DataError: no clip in that fold, none that can be decoded, or all of one class.
    """
    manifest = bundle.manifest
    cascade = Cascade.of_bundle(bundle, engine=engine, precision=precision, threads=threads)
    chain = manifest.exit_chain(resolve("engines", engine).format, precision)
    assert manifest.exits is not None
    found = exit_logits(manifest, [cascade], dataset, clips_of(dataset, fold), progress)
    (answers,) = exit_answers(manifest, found)
    assert answers.n_clips is not None
    return ExitCurve(
        bundle=manifest.name,
        bundle_sha256=bundle.sha256,
        chain=chain.name,
        engine=cascade.info,
        dataset=dataset.name,
        fold=fold,
        n_clips=answers.n_clips,
        n_windows=answers.n_windows,
        exits_after=manifest.exits.after,
        macs_to_exit=manifest.exits.macs_to_exit,
        macs_per_window=manifest.cost.macs_per_window,
        calibration=chain.calibration,
        points=_points(answers, chain.thresholds, single_label=manifest.task.kind == "single_label"),
        skipped=found.skipped,
    )


class ExitLogits(NamedTuple):
    """What all stages say of all windows of some clips.

    logits: of each cascade `(n_exits, n, classes)`; targets `(n,)`, or `(n, classes)` for multi-label; clips `(n,)`:
    the number of each window's clip. skipped: clip id -> why it could not be decoded.
    """

    logits: list[Float32]
    targets: NDArray[np.int64]
    clips: NDArray[np.int64]
    skipped: dict[str, str]


def exit_logits(
    manifest: Manifest,
    cascades: Sequence[Cascade],
    dataset: Dataset,
    clips: Sequence[Clip],
    progress: Callable[[int, int], None] | None = None,
) -> ExitLogits:
    """Run all stages of cascades of one bundle over every window of the clips.

    Raises:
        ConfigError: labels that are not the bundle's. DataError: no clip can be decoded.
    """
    position, n_labels = label_positions(manifest.task, dataset), len(manifest.task.labels)
    logits: list[list[Float32]] = [[] for _ in cascades]
    targets: list[int | list[int]] = []
    numbers: list[int] = []
    skipped: dict[str, str] = {}
    for number, clip in enumerate(clips):
        try:
            windows = clip_windows(clip, manifest)
        except AudioFileError as error:
            skipped[clip.id] = str(error)
            continue
        for cascade, answered in zip(cascades, logits, strict=True):
            answered.append(cascade.logits(windows))
        numbers += [number] * len(windows)
        given = [position[label] for label in clip.labels]
        target = given[0] if manifest.task.kind == "single_label" else np.bincount(given, minlength=n_labels).tolist()
        targets += [target] * len(windows)
        if progress is not None:
            progress(number + 1, len(clips))
    if not targets:
        raise DataError(f"dataset {dataset.name!r}: none of {len(clips)} clips can be decoded; see 'data inspect'")
    stacked = [np.concatenate(answered, axis=1) for answered in logits]
    return ExitLogits(stacked, np.array(targets), np.array(numbers), skipped)


def exit_answers(manifest: Manifest, found: ExitLogits) -> list[ExitAnswers]:
    """Of each cascade of a bundle, ready for replay."""
    assert manifest.exits is not None
    macs, kind = manifest.exits.macs_per_stage, manifest.task.kind
    return [ExitAnswers(logits, found.targets, macs, kind=kind, clips=found.clips) for logits in found.logits]


def _points(answers: ExitAnswers, operating: tuple[float | None, ...], *, single_label: bool) -> tuple[CurvePoint, ...]:
    found = {outcome.thresholds: outcome for outcome in sweep_exits(answers, SWEPT)}
    found.setdefault(operating, answers.outcome(operating))
    assert answers.n_clips is not None
    points = [
        CurvePoint(
            thresholds=outcome.thresholds,
            operating=outcome.thresholds == operating,
            mean_macs=outcome.mean_macs,
            macs_share=outcome.mean_macs / float(answers.macs_to_exit[-1]),
            share=outcome.share,
            accuracy=outcome.accuracy,
            n_correct=round(outcome.accuracy * answers.n_clips) if single_label else None,
        )
        for outcome in found.values()
    ]
    return tuple(sorted(points, key=lambda point: point.mean_macs))


def clip_windows(clip: Clip, manifest: Manifest) -> Float32:
    """`(n, frames, n_mels)` of a clip, as `Classifier` has them."""
    frontend, window = manifest.frontend, manifest.window
    audio = decode_file(clip.path)
    clean = clean_chunk(audio.waveform, SourceStats())
    if audio.sample_rate != frontend.sample_rate:
        clean = resample(clean, audio.sample_rate, frontend.sample_rate)
    padded = np.pad(clean, (0, max(0, window.n_samples(frontend) - len(clean))))
    return np.stack([item.log_mel for item in WindowStream(frontend, window).feed(padded)])
