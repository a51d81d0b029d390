"""From a finished work directory to `ReportData`: reads what the stages sealed, computes nothing anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

import edgeaudio
from edgeaudio.bench.schema import BenchResult, read_result
from edgeaudio.bundle import Bundle
from edgeaudio.data.windows import Float32
from edgeaudio.doctor import diagnose
from edgeaudio.errors import WorkDirError
from edgeaudio.frontend.stream import FrontendStream
from edgeaudio.pipeline.arms import DISTILLED
from edgeaudio.pipeline.report import write_report
from edgeaudio.pipeline.report_chain import FLOAT, chain_result, shipped_cost, sized_results
from edgeaudio.pipeline.report_data import (
    Confusion,
    FrontendExample,
    LabelStoreInfo,
    LearningCurve,
    ModelResult,
    PairedComparison,
    ReportData,
    Role,
    Score,
)
from edgeaudio.pipeline.summary import SUMMARY_FILE, RunSummary
from edgeaudio.pipeline.sweep_spec import SweepResult, read_sweep
from edgeaudio.pipeline.workdir import WorkDir
from edgeaudio.teachers.label_store import LabelStore

BENCH_FILE = "bench.json"
NOT_ON_HARDWARE = ("Jetson (TensorRT)", "Raspberry Pi (ONNX Runtime, LiteRT)", "microcontrollers (C)")


def write_run_report(work: Path, out: Path) -> Path:
    """Write the page about the run in `work`; returns `out`.

    Raises:
        WorkDirError: neither a finished run nor a sweep there.
    """
    write_report(build_report_data(work), out)
    return out


def read_summary(work: Path) -> RunSummary:
    """The summary that a run left.

    Raises:
        WorkDirError: absent or damaged; says what to run.
    """
    path = work / SUMMARY_FILE
    try:
        return RunSummary.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise WorkDirError(f"{path} does not exist. Run 'edgeaudio run RECIPE --work {work}' first.") from None
    except ValidationError as error:
        raise WorkDirError(f"{path} is not a run's summary. Run the recipe again; finished stages are kept.") from error


def build_report_data(work: Path) -> ReportData:
    """Everything that the stages in `work` know."""
    sweep = read_sweep(work)
    if sweep is not None and not (work / SUMMARY_FILE).exists():
        return _sweep_alone(work, sweep)
    summary = read_summary(work)
    shipped = _shipped_artefact(summary)
    params, _ = shipped_cost(summary, DISTILLED)
    bundle = _first_bundle(work, summary)
    recipe_text = json.dumps(json.loads((work / "recipe.json").read_text()), indent=2)
    return ReportData(
        title=f"{summary.name}: from {summary.teacher} to {params:,} parameters",
        subtitle=f"{len(summary.folds)} test fold(s), {summary.n_clips} clips, seed {summary.seed}",
        models=tuple(_models(summary, shipped)),
        curves=tuple(_curves(work, summary)),
        confusion=_confusion(summary, shipped) if summary.folds else None,
        comparisons=tuple(_comparisons(summary, shipped)),
        chain=chain_result(summary),
        sized=sized_results(summary),
        bench=_bench(work),
        frontend_example=_example(bundle) if bundle else None,
        label_store=_label_store(work, summary),
        sweep=sweep,
        recipe_text=recipe_text,
        manifest=bundle.manifest if bundle else None,
        environment=_environment(work),
        not_on_hardware=NOT_ON_HARDWARE,
    )


def _sweep_alone(work: Path, sweep: SweepResult) -> ReportData:
    """A sweep whose choice was not run yet."""
    return ReportData(
        title=f"{sweep.name}: a sweep of {len(sweep.trials)} trials",
        subtitle=f"judged on validation fold {sweep.validation_fold}, no run on a test fold yet",
        sweep=sweep,
        environment=_environment(work),
        not_on_hardware=NOT_ON_HARDWARE,
    )


def _shipped_artefact(summary: RunSummary) -> str:
    """The artefact that stands for the student: what would go to a device."""
    names = summary.artefact_names(DISTILLED)
    return next((name for name in names if name.endswith("int8")), names[-1] if names else "")


def _first_bundle(work: Path, summary: RunSummary) -> Bundle | None:
    arm = summary.folds[0].arm(DISTILLED) if summary.folds else None
    return Bundle.read(work / arm.bundle) if arm else None


def _models(summary: RunSummary, shipped: str) -> list[ModelResult]:
    if not summary.folds:
        return []
    teacher = tuple(Score(fold.teacher_correct, fold.n_clips, str(fold.fold)) for fold in summary.folds)
    models = [ModelResult(f"teacher {summary.teacher}", "teacher", teacher, note="whole clips")]
    for name in summary.artefact_names(DISTILLED):
        exported = name != FLOAT
        models.append(
            _model(summary, DISTILLED, name, "artefact" if exported else "student", name if exported else None)
        )
    for arm in _controls(summary):
        names = [name for name in summary.artefact_names(arm) if name in (FLOAT, shipped)]
        models += [_model(summary, arm, name, "control", None) for name in names]
    return models


def _controls(summary: RunSummary) -> list[str]:
    """The arms that the distilled one is held against."""
    return [arm.arm for arm in summary.folds[0].arms if arm.arm != DISTILLED] if summary.folds else []


def _model(summary: RunSummary, arm: str, name: str, role: Role, artefact: str | None) -> ModelResult:
    params, macs = shipped_cost(summary, arm)
    per_fold = zip(summary.folds, summary.per_fold(arm, name), strict=True)
    return ModelResult(
        f"student, {_words(arm)}: {name}",
        role,
        tuple(Score(correct, fold.n_clips, str(fold.fold)) for fold, correct in per_fold),
        params=params,
        macs_per_window=macs,
        size_bytes=max(summary.sizes(arm, name), default=None),
        artefact=artefact,
    )


def _words(arm: str) -> str:
    return arm.replace("-", " ")


def _stage_folders(work: Path, summary: RunSummary) -> list[Path]:
    """The folders that the summary's run used; the work directory may hold those of other recipes too."""
    return [folder for folder in WorkDir(work).stage_folders() if not summary.stages or folder.name in summary.stages]


def _curves(work: Path, summary: RunSummary) -> list[LearningCurve]:
    """One curve per training stage; a resumed training has several logs, joined in order."""
    curves = []
    for folder in _stage_folders(work, summary):
        name = folder.name.rsplit("-", 1)[0]
        if not name.startswith(("distill-", "pretrain", "teacher-network")):
            continue
        parts = [LearningCurve.from_csv(path, arm="", fold=None) for path in _logs(folder)]
        arm, fold = _arm_and_fold(name)
        series: dict[str, tuple[Float32, Float32]] = {}
        for metric in sorted({metric for part in parts for metric in part.series}):
            pieces = [part.series[metric] for part in parts if metric in part.series]
            # Where a killed attempt and its successor both logged a step, the successor counts.
            points = {step: value for steps, values in pieces for step, value in zip(steps, values, strict=True)}
            steps = sorted(points)
            series[metric] = (np.array(steps), np.array([points[step] for step in steps]))
        if series:
            curves.append(LearningCurve(arm=arm, fold=fold, series=series))  # type: ignore[arg-type]
    return curves


def _logs(folder: Path) -> list[Path]:
    paths = (folder / "logs").glob("version_*/metrics.csv")
    return sorted(paths, key=lambda path: int(path.parent.name.removeprefix("version_")))


def _arm_and_fold(stage: str) -> tuple[str, str | None]:
    """`distill-fold2-labels-only` -> ("labels-only", "2")."""
    for part in stage.split("-"):
        if part.startswith("fold"):
            before, _, after = stage.partition(part)
            arm = after.strip("-") or before.strip("-").replace("-", " ")
            return arm, part.removeprefix("fold")
    return stage, None


def _confusion(summary: RunSummary, artefact: str) -> Confusion:
    counts = np.zeros((len(summary.labels), len(summary.labels)), dtype=np.int64)
    for fold in summary.folds:
        arm = fold.arm(DISTILLED)
        assert arm is not None
        for labels, top in zip(fold.labels, arm.predictions[artefact], strict=True):
            # A multi-label clip counts as its predicted label where that is one of its labels; one without
            # any label has no row.
            if labels:
                counts[top if top in labels else labels[0], top] += 1
    return Confusion(f"student, distilled: {artefact}", summary.labels, counts)


def _comparisons(summary: RunSummary, artefact: str) -> list[PairedComparison]:
    def right(arm_name: str) -> list[bool]:
        found = []
        for fold in summary.folds:
            arm = fold.arm(arm_name)
            assert arm is not None
            found += [top in labels for top, labels in zip(arm.predictions[artefact], fold.labels, strict=True)]
        return found

    controls = _controls(summary)
    answers = {arm: np.array(right(arm)) for arm in (DISTILLED, *controls)} if controls else {}
    return [
        PairedComparison.from_correct(
            f"{DISTILLED} ({artefact})", f"{_words(arm)} ({artefact})", answers[DISTILLED], answers[arm]
        )
        for arm in controls
    ]


def _bench(work: Path) -> BenchResult | None:
    path = work / BENCH_FILE
    return read_result(path) if path.exists() else None


def _environment(work: Path) -> dict[str, str]:
    machine = diagnose(work).machine
    return {
        "edgeaudio": edgeaudio.__version__,
        "python": machine.python,
        "system": machine.system,
        "architecture": machine.architecture,
        "cpu": f"{machine.cpu}, {machine.cores} cores",
    }


def _example(bundle: Bundle) -> FrontendExample:
    frontend = bundle.manifest.frontend
    waveform = bundle.golden.waveform[1]
    return FrontendExample(
        label="golden vector 2: decaying harmonics",
        waveform=waveform,
        sample_rate=frontend.sample_rate,
        log_mel=FrontendStream(frontend).feed(np.array(waveform)),
        hop_s=frontend.hop_s,
    )


def _label_store(work: Path, summary: RunSummary) -> LabelStoreInfo | None:
    stores = _stores(work, summary)
    if not stores:
        return None
    sizes = [len(LabelStore.open_read(path)) for path in stores]
    digest = LabelStore.open_read(stores[0]).key.teacher
    skipped = tuple((item.path, item.reason) for item in summary.skipped)
    return LabelStoreInfo(summary.teacher, sum(sizes), digest, skipped)


def _stores(work: Path, summary: RunSummary) -> Sequence[Path]:
    paths = (folder / "labels.store" for folder in _stage_folders(work, summary) if folder.name.startswith("label-"))
    return [path for path in paths if path.is_file()]
