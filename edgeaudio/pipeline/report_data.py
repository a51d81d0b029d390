"""What a report is made of. Everything but the title may be missing; the page then says so."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeaudio.bench.schema import BenchResult
from edgeaudio.bundle.manifest import Manifest
from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.pipeline.sweep_spec import SweepResult

Role = Literal["teacher", "student", "control", "artefact"]


@dataclass(frozen=True)
class Score:
    """Clips right, on one fold's held-out clips or (`fold=None`) over all of them."""

    n_correct: int
    n_clips: int
    fold: str | None = None

    def __post_init__(self) -> None:
        if self.n_clips < 1 or not 0 <= self.n_correct <= self.n_clips:
            raise ConfigError(f"score {self.n_correct} of {self.n_clips} clips: wanted 0 <= right <= clips, clips > 0")

    @property
    def accuracy(self) -> float:
        """Share of clips that are right."""
        return self.n_correct / self.n_clips


@dataclass(frozen=True)
class ModelResult:
    """One row of the headline table: a teacher, a trained student, the labels-only control, or an artefact.

    `artefact` (`onnx-int8`) links the row to the latencies of `ReportData.bench`.
    """

    name: str
    role: Role
    scores: tuple[Score, ...] = ()
    params: int | None = None
    macs_per_window: int | None = None
    size_bytes: int | None = None
    artefact: str | None = None
    note: str = ""

    @property
    def pooled(self) -> Score | None:
        """The overall score: the one without a fold, else the sum over folds; None when not evaluated."""
        for score in self.scores:
            if score.fold is None:
                return score
        if not self.scores:
            return None
        return Score(sum(s.n_correct for s in self.scores), sum(s.n_clips for s in self.scores))

    @property
    def by_fold(self) -> dict[str, Score]:
        """Scores of single folds."""
        return {score.fold: score for score in self.scores if score.fold is not None}


@dataclass(frozen=True)
class LearningCurve:
    """One training run: for each metric its steps and values."""

    arm: str
    fold: str | None
    series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

    @classmethod
    def from_csv(cls, path: Path, *, arm: str, fold: str | None = None) -> LearningCurve:
        """Read a `metrics.csv` of Lightning's CSV logger: a `step` column, one column per metric, blanks between.

        Raises:
            ConfigError: not readable, without a `step` column, or a cell that is no number (file and line).
        """
        points: dict[str, list[tuple[float, float]]] = {}
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                if "step" not in (reader.fieldnames or ()):
                    raise ConfigError(f"{path}: no column 'step'; wanted a metrics.csv of the training log")
                for row in reader:
                    _collect(points, row, where=f"{path}:{reader.line_num}")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{path}: not a readable training log ({error})") from error
        series = {}
        for name, pairs in points.items():
            array = np.asarray(sorted(pairs), dtype=np.float64)
            series[name] = (array[:, 0], array[:, 1])
        return cls(arm=arm, fold=fold, series=series)


def _collect(points: dict[str, list[tuple[float, float]]], row: Mapping[str, str | None], *, where: str) -> None:
    try:
        step = float(row["step"] or "nan")
        for name, cell in row.items():
            if cell and name not in ("step", "epoch"):
                value = float(cell)
                if math.isfinite(value) and math.isfinite(step):
                    points.setdefault(name, []).append((step, value))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}; wanted numbers or blanks") from error


@dataclass(frozen=True)
class Confusion:
    """`counts[true, predicted]`, integers, rows and columns in the order of `labels`."""

    model: str
    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        wanted = (len(self.labels), len(self.labels))
        if self.counts.shape != wanted:
            raise ShapeError(f"confusion counts have shape {self.counts.shape}, wanted {wanted} for the labels")


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same clips: how many both, only one, or neither got right."""

    name_a: str
    name_b: str
    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Clips compared."""
        return self.both + self.only_a + self.only_b + self.neither

    @classmethod
    def from_correct(
        cls, name_a: str, name_b: str, correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]
    ) -> PairedComparison:
        """Count from two `(clips,)` vectors in the same clip order.

        Raises:
            ShapeError: the vectors differ in shape.
        """
        if correct_a.shape != correct_b.shape or correct_a.ndim != 1:
            raise ShapeError(
                f"paired comparison of shapes {correct_a.shape} and {correct_b.shape}, wanted equal (clips,)"
            )
        return cls(
            name_a=name_a,
            name_b=name_b,
            both=int((correct_a & correct_b).sum()),
            only_a=int((correct_a & ~correct_b).sum()),
            only_b=int((~correct_a & correct_b).sum()),
            neither=int((~correct_a & ~correct_b).sum()),
        )


@dataclass(frozen=True)
class ChainRow:
    """A network on the way from the teacher to what is shipped.

    right: `(clips,)` whether each clip is right; None where only their number is known.
    before: the index of the row that this one is held against.
    mean_macs: per window; of exits the mean over the test windows, `worst_macs` those of the last exit.
    size_before: the size to hold `size_bytes` against, where the row before has none: of the float file.
    """

    name: str
    score: Score
    right: NDArray[np.bool_] | None
    before: int | None = None
    note: str = ""
    params: int | None = None
    mean_macs: float | None = None
    worst_macs: int | None = None
    size_bytes: int | None = None
    size_before: int | None = None


@dataclass(frozen=True)
class ChainResult:
    """The steps of one arm, teacher first; `members (clips, classes)` tells the labels of each clip."""

    arm: str
    labels: tuple[str, ...]
    members: NDArray[np.bool_]
    rows: tuple[ChainRow, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            wanted = (len(self.members),)
            if row.right is not None and row.right.shape != wanted:
                raise ShapeError(f"chain step {row.name!r} has answers of shape {row.right.shape}, wanted {wanted}")
        if self.members.shape[1:] != (len(self.labels),):
            raise ShapeError(f"members have shape {self.members.shape}, wanted (clips, {len(self.labels)})")


SizedKind = Literal["fp32", "int8", "rival", "exits"]


@dataclass(frozen=True)
class SizedResult:
    """A file, or the stages of a chain with exits: what an arm scores with it, and its bytes."""

    arm: str
    name: str
    kind: SizedKind
    score: Score
    size_bytes: int


@dataclass(frozen=True)
class FrontendExample:
    """One clip as heard and as the student sees it: `waveform (samples,)`, `log_mel (frames, n_mels)`."""

    label: str
    waveform: NDArray[np.float32]
    sample_rate: int
    log_mel: NDArray[np.float32]
    hop_s: float


@dataclass(frozen=True)
class LabelStoreInfo:
    """What the teacher labelled, and what could not be used: `(file, reason)`."""

    teacher: str
    n_windows: int
    teacher_digest: str = ""
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ReportData:
    """The whole report. A section without data is shown as not run."""

    title: str
    subtitle: str = ""
    models: tuple[ModelResult, ...] = ()
    curves: tuple[LearningCurve, ...] = ()
    confusion: Confusion | None = None
    comparisons: tuple[PairedComparison, ...] = ()
    chain: ChainResult | None = None
    sized: tuple[SizedResult, ...] = ()
    bench: BenchResult | None = None
    frontend_example: FrontendExample | None = None
    label_store: LabelStoreInfo | None = None
    sweep: SweepResult | None = None
    recipe_text: str | None = None
    manifest: Manifest | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    not_on_hardware: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
