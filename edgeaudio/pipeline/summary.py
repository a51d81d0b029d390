"""What a run found, over all its folds: counts of clips, paired comparison, sizes, cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.pipeline.report_stats import mcnemar_exact_p
from edgeaudio.spec import Spec, canonical_json
from edgeaudio.spec.fs import atomic_write

if TYPE_CHECKING:  # summaries are read where torch is not installed
    from edgeaudio.pipeline.training import TrainedStudent

SUMMARY_FILE = "summary.json"


class ArtefactResult(Spec):
    """One artefact of one arm on one test fold."""

    name: str
    n_correct: int
    size_bytes: int | None = None
    max_abs_logit_diff: float | None = None
    argmax_agreement: float | None = None


class ChainStep(Spec):
    """A network on the way to the shipped one, or held against it: what it costs and what it gets right.

    size_bytes: of its int8 file; None for a float network.
    """

    name: str
    params: int
    macs_per_window: int
    size_bytes: int | None = None
    n_correct: int
    predictions: tuple[int, ...]


class ExitResult(Spec):
    """A chain of stages on the test clips, stopping where its calibrated thresholds allow.

    share: of windows per exit, the final one last.
    """

    name: str
    thresholds: tuple[float | None, ...]
    share: tuple[float, ...]
    mean_macs: float
    worst_case_macs: int
    size_bytes: int
    n_correct: int
    predictions: tuple[int, ...]


class ArmResult(Spec):
    """One student of one fold. `predictions` maps artefact (and `torch-fp32`) to the class of each clip."""

    arm: str
    artefacts: tuple[ArtefactResult, ...]
    predictions: dict[str, tuple[int, ...]]
    train_wall_s: float
    bundle: str
    params: int | None = None
    macs_per_window: int | None = None
    chain: tuple[ChainStep, ...] = ()
    exits: tuple[ExitResult, ...] = ()

    def correct(self, artefact: str) -> int:
        """Clips that the artefact gets right."""
        return next(item.n_correct for item in self.artefacts if item.name == artefact)


class FoldResult(Spec):
    """One test fold. `teacher_predictions` are its classes of whole clips; older summaries lack them."""

    fold: int
    n_clips: int
    clips: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    teacher_correct: int
    teacher_predictions: tuple[int, ...] = ()
    arms: tuple[ArmResult, ...]

    def arm(self, name: str) -> ArmResult | None:
        """That arm's result, if it was trained."""
        return next((arm for arm in self.arms if arm.arm == name), None)


class Paired(Spec):
    """Two arms on the same clips: McNemar's exact test."""

    artefact: str
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    p_value: float


class SkippedClip(Spec):
    """A file that was left out, and why."""

    path: str
    reason: str


class RunSummary(Spec):
    """`summary.json` of a work directory.

    `stage_wall_s`: seconds per stage name, all folds together; of a stage that was killed and resumed,
    those of its last attempt. `stages`: the folders that this run used, among those of other runs.
    """

    name: str
    seed: int
    recipe_digest: str
    teacher: str
    labels: tuple[str, ...]
    params: int
    macs_per_window: int
    receptive_field_frames: int
    folds: tuple[FoldResult, ...]
    paired: Paired | None
    stage_wall_s: dict[str, float]
    stages: tuple[str, ...] = ()
    skipped: tuple[SkippedClip, ...]
    until: str | None = None

    @property
    def n_clips(self) -> int:
        """Test clips over all folds."""
        return sum(fold.n_clips for fold in self.folds)

    @property
    def skipped_clips(self) -> int:
        """Files that were left out."""
        return len(self.skipped)

    @property
    def teacher_correct(self) -> int:
        """Test clips that the fold's teacher gets right, whole clips."""
        return sum(fold.teacher_correct for fold in self.folds)

    def artefact_names(self, arm: str) -> list[str]:
        """Artefacts of an arm in the order of the bundle, torch first."""
        found = self.folds[0].arm(arm) if self.folds else None
        return [item.name for item in found.artefacts] if found else []

    def per_fold(self, arm: str, artefact: str) -> list[int]:
        """Correct clips per fold."""
        results = [fold.arm(arm) for fold in self.folds]
        return [result.correct(artefact) for result in results if result is not None]

    def sizes(self, arm: str, artefact: str) -> list[int]:
        """File sizes over the folds, bytes; empty for torch."""
        results = [fold.arm(arm) for fold in self.folds]
        items = [item for result in results if result for item in result.artefacts if item.name == artefact]
        return [item.size_bytes for item in items if item.size_bytes is not None]

    def write(self, folder: Path) -> Path:
        """Write `summary.json` atomically."""
        path = folder / SUMMARY_FILE
        atomic_write(path, canonical_json(self.model_dump(mode="json")) + b"\n")
        return path


def paired_test(folds: Sequence[FoldResult], first: str, second: str, artefact: str) -> Paired | None:
    """Compare two arms clip by clip, or None when one of them was not trained."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for fold in folds:
        one, other = fold.arm(first), fold.arm(second)
        if one is None or other is None:
            return None
        rows = zip(one.predictions[artefact], other.predictions[artefact], fold.labels, strict=True)
        for a, b, labels in rows:
            counts[(a in labels, b in labels)] += 1
    return Paired(
        artefact=artefact,
        both_right=counts[(True, True)],
        only_first=counts[(True, False)],
        only_second=counts[(False, True)],
        both_wrong=counts[(False, False)],
        p_value=mcnemar_exact_p(counts[(True, False)], counts[(False, True)]),
    )


def arm_result(trained: TrainedStudent, verified: dict[str, Any], bundle: Path) -> ArmResult:
    """From a verify stage's result."""
    labels = verified["labels"]
    predictions = {name: tuple(tops) for name, tops in verified["predictions"].items()}
    torch_correct = sum(top in row for top, row in zip(predictions["torch-fp32"], labels, strict=True))
    items = [ArtefactResult(name="torch-fp32", n_correct=torch_correct)]
    for artefact in verified["artefacts"]:
        name = f"{artefact['format']}-{artefact['precision']}"
        items.append(
            ArtefactResult(
                name=name,
                n_correct=artefact["metrics"][0]["n_correct"],
                size_bytes=artefact["size_bytes"],
                max_abs_logit_diff=artefact["parity"]["max_abs_logit_diff"],
                argmax_agreement=artefact["parity"]["argmax_agreement"],
            )
        )
    return ArmResult(
        arm=trained.arm,
        artefacts=tuple(items),
        predictions=predictions,
        train_wall_s=trained.wall_s,
        bundle=str(bundle),
        params=trained.cost.params,
        macs_per_window=trained.cost.macs_per_window,
        chain=tuple(ChainStep.model_validate(step) for step in verified["chain"]),
        exits=tuple(ExitResult.model_validate(result) for result in verified["exits"]),
    )
